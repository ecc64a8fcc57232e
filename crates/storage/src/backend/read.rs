//! Reads within one transaction: of a call, or of a [`Pinned`](super::Pinned) state.

use std::ops::{Bound, ControlFlow};
use std::path::Path;

use heed::{RoTxn, WithoutTls};
use retcd_state_machine::backend::Visit;
use retcd_state_machine::schema::Bucket;

use super::Error;
use super::env::Env;
use super::key::{self, Stored};

/// A database file as one transaction sees it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) env: &'a Env,
    pub(super) txn: &'a RoTxn<'a, WithoutTls>,
    /// For errors.
    pub(super) path: &'a Path,
}

impl View<'_> {
    pub(super) fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let stored = key::stored(bucket, key)?;
        let value = self.env.bucket(bucket).get(self.txn, &stored);
        match value.map_err(|source| self.error(source))? {
            Some(value) if bucket != Bucket::Key && key::is_long(key) => {
                let (_, value) = key::split_long_value(value).ok_or_else(|| self.long_key())?;
                Ok(Some(value.to_vec()))
            }
            value => Ok(value.map(<[u8]>::to_vec)),
        }
    }

    /// Visits entries in key order, from `from` (included) until `visit` breaks or the bucket ends.
    pub(super) fn scan(&self, bucket: Bucket, from: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        let database = self.env.bucket(bucket);
        let start = if bucket == Bucket::Key { from.to_vec() } else { key::seek_key(from) };
        // LMDB knows no empty key, and refuses to look for one.
        let start = if start.is_empty() { Bound::Unbounded } else { Bound::Included(&start[..]) };
        let entries = database
            .range(self.txn, &(start, Bound::Unbounded))
            .map_err(|source| self.error(source))?;
        let mut walk = Walk { from, group: Vec::new(), group_prefix: Vec::new() };
        for entry in entries {
            let (key, value) = entry.map_err(|source| self.error(source))?;
            let flow = if bucket == Bucket::Key {
                visit(key, value)
            } else {
                walk.step(key, value, visit).ok_or_else(|| self.long_key())?
            };
            if flow.is_break() {
                return Ok(());
            }
        }
        // Whether the visitor breaks here does not matter: nothing follows.
        let _ = walk.end_group(visit).ok_or_else(|| self.long_key())?;
        Ok(())
    }

    fn error(&self, source: heed::Error) -> Error {
        Error::Database { operation: "read", path: self.path.to_path_buf(), source }
    }

    fn long_key(&self) -> Error {
        Error::LongKey { path: self.path.to_path_buf() }
    }
}

/// A scan of a bucket whose keys are stored as `key.rs` says.
struct Walk<'a> {
    from: &'a [u8],
    /// Stored values of long keys with one prefix, to be sorted.
    group: Vec<Vec<u8>>,
    group_prefix: Vec<u8>,
}

impl Walk<'_> {
    /// `None` when a long key cannot be read.
    fn step(&mut self, stored: &[u8], value: &[u8], visit: Visit<'_>) -> Option<ControlFlow<()>> {
        match key::read_stored(stored) {
            Stored::Long(prefix) if !self.group.is_empty() && self.group_prefix == prefix => {
                self.group.push(value.to_vec());
                Some(ControlFlow::Continue(()))
            }
            Stored::Long(prefix) => {
                let flow = self.end_group(visit)?;
                self.group_prefix = prefix.to_vec();
                self.group.push(value.to_vec());
                Some(flow)
            }
            Stored::Plain(key) => {
                let flow = self.end_group(visit)?;
                if flow.is_break() || key < self.from {
                    return Some(flow);
                }
                Some(visit(key, value))
            }
        }
    }

    /// Visits the collected group in the order of its keys.
    fn end_group(&mut self, visit: Visit<'_>) -> Option<ControlFlow<()>> {
        let group = std::mem::take(&mut self.group);
        let mut entries: Vec<_> =
            group.iter().map(|stored| key::split_long_value(stored)).collect::<Option<_>>()?;
        entries.sort_unstable();
        for (key, value) in entries {
            if key >= self.from && visit(key, value).is_break() {
                return Some(ControlFlow::Break(()));
            }
        }
        Some(ControlFlow::Continue(()))
    }
}
