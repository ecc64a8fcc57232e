//! The buckets of a database as a bbolt file, and back.

use std::ops::ControlFlow;

use retcd_bbolt::{Database, ReadAt, Sink, Writer};
use retcd_state_machine::schema::Bucket;
use retcd_storage::backend::{Loader, Pinned};

use crate::Error;
use crate::check::{Checker, Found};

/// Memory of touched pages is given back each time so many bytes were read.
const TRIM_BYTES: usize = 8 << 20;

/// Gives all buckets to a writer, in order, the empty ones too.
pub fn write<S: Sink>(state: &Pinned, writer: &mut Writer<S>) -> Result<(), Error> {
    write_changed(state, writer, &|_, _| Kept::AsItIs)
}

/// What becomes of an entry on its way.
pub(crate) enum Kept {
    AsItIs,
    Not,
    With(Vec<u8>),
}

/// As [`write`], with some entries left out or given other values.
pub(crate) fn write_changed<S: Sink>(
    state: &Pinned,
    writer: &mut Writer<S>,
    change: &dyn Fn(Bucket, &[u8]) -> Kept,
) -> Result<(), Error> {
    let mut touched_bytes = 0;
    for bucket in Bucket::ALL {
        writer.bucket(bucket.name().as_bytes())?;
        let mut outcome = Ok(());
        state.scan(bucket, &[], &mut |key, value| {
            touched_bytes += key.len() + value.len();
            outcome = match change(bucket, key) {
                Kept::AsItIs => put(state, writer, key, value, &mut touched_bytes),
                Kept::Not => Ok(()),
                Kept::With(value) => put(state, writer, key, &value, &mut touched_bytes),
            };
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
pub fn load<R: ReadAt>(database: &Database<R>, loader: &mut Loader) -> Result<Found, Error> {
    load_some(database, loader, &|_| true)
}

/// As [`load`], with some buckets left empty.
pub(crate) fn load_some<R: ReadAt>(
    database: &Database<R>,
    loader: &mut Loader,
    is_wanted: &dyn Fn(Bucket) -> bool,
) -> Result<Found, Error> {
    let mut checker = Checker::default();
    let mut buckets = database.buckets();
    while let Some(stored) = buckets.next()? {
        let Some(bucket) = known(stored.name()) else {
            let name = String::from_utf8_lossy(stored.name()).into_owned();
            tracing::warn!(bucket = name, "a database has a bucket that is not known");
            continue;
        };
        if !is_wanted(bucket) {
            continue;
        }
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
