//! The buckets of a database as a bbolt file, and those of any database as one of ours.

use std::ops::ControlFlow;

use retcd_bbolt::{Sink, Writer};
use retcd_state_machine::backend::Backend;
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

/// As [`write()`], with some entries left out or given other values.
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

/// Puts all that a database holds into a new one, if all of it makes sense. Returns the state that it is.
///
/// # Errors
/// An entry that the state machine could not read; damage; I/O.
pub fn load(source: &dyn Backend, loader: &mut Loader) -> Result<Found, Error> {
    load_some(source, loader, &|_| true)
}

/// As [`load()`], with some buckets left empty.
pub(crate) fn load_some(
    source: &dyn Backend,
    loader: &mut Loader,
    is_wanted: &dyn Fn(Bucket) -> bool,
) -> Result<Found, Error> {
    let mut checker = Checker::default();
    for bucket in Bucket::ALL.into_iter().filter(|bucket| is_wanted(*bucket)) {
        let mut outcome = Ok(());
        source.scan(bucket, &[], &mut |key, value| {
            outcome = checker
                .entry(bucket, key, value)
                .map_err(|reason| Error::Entry { bucket: bucket.name(), reason })
                .and_then(|()| Ok(loader.put(bucket, key, value)?));
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
    }
    Ok(checker.found())
}
