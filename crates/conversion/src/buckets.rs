//! The buckets of a database as a bbolt file, and back.

use std::ops::ControlFlow;

use retcd_bbolt::{Database, ReadAt, Sink, Writer};
use retcd_state_machine::schema::Bucket;
use retcd_storage::backend::{Loader, Pinned};

use super::check::Checker;
use super::{Error, check};

/// Memory of touched pages is given back each time so many bytes were read.
const TRIM_BYTES: usize = 8 << 20;

/// Gives all buckets to a writer, in order, the empty ones too.
pub(super) fn write<S: Sink>(state: &Pinned, writer: &mut Writer<S>) -> Result<(), Error> {
    let mut touched_bytes = 0;
    for bucket in Bucket::ALL {
        writer.bucket(bucket.name().as_bytes())?;
        let mut outcome = Ok(());
        state.scan(bucket, &[], &mut |key, value| {
            touched_bytes += key.len() + value.len();
            outcome = put(state, writer, key, value, &mut touched_bytes);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
    }
    Ok(())
}

fn put<S: Sink>(
    state: &Pinned,
    writer: &mut Writer<S>,
    key: &[u8],
    value: &[u8],
    touched_bytes: &mut usize,
) -> Result<(), Error> {
    writer.put(key, value)?;
    if *touched_bytes >= TRIM_BYTES {
        *touched_bytes = 0;
        state.trim_resident()?;
    }
    Ok(())
}

/// Puts all that a bbolt file holds into a new database, if all of it makes sense. Returns the state that it is.
///
/// A bucket that etcd does not have is passed over, as etcd would.
pub(super) fn load<R: ReadAt>(
    database: &Database<R>,
    loader: &mut Loader,
) -> Result<check::Found, Error> {
    let mut checker = Checker::default();
    let mut buckets = database.buckets();
    while let Some(stored) = buckets.next()? {
        let Some(bucket) = known(stored.name()) else {
            let name = String::from_utf8_lossy(stored.name()).into_owned();
            tracing::warn!(bucket = name, "the received database has a bucket that is not known");
            continue;
        };
        let mut entries = database.entries(&stored);
        while let Some((key, value)) = entries.next()? {
            checker
                .entry(bucket, key, value)
                .map_err(|reason| Error::Entry { bucket: bucket.name(), reason })?;
            loader.put(bucket, key, value)?;
        }
    }
    Ok(checker.found())
}

fn known(name: &[u8]) -> Option<Bucket> {
    Bucket::ALL.into_iter().find(|bucket| bucket.name().as_bytes() == name)
}
