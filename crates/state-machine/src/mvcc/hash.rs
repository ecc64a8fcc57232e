//! What members compare to find out that their data differ.
//!
//! The hash runs over the records as they stand on disk, in revision order. Members compact at their own pace, so
//! records at or below the compaction count only when compaction would keep them; then the hash of one revision is the
//! same before, during and after the physical work, and between releases.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::index::{Index, Version};
use super::range::{Scan, Show};
use super::{KeyRange, Record, RecordKey, Revision, encoded_key};
use crate::backend::{Backend, Failure};
use crate::reader::ReadError;
use crate::rejection::Rejection;
use crate::schema::{Bucket, meta};
use crate::store::Shared;

/// `HashKVResponse` without its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    /// -1 when nothing was compacted yet.
    pub compact_revision: i64,
    pub hash_revision: i64,
    /// Of the store, for the header.
    pub current_revision: i64,
}

/// Hashes of the last compactions, newest last.
#[derive(Debug, Default)]
pub(crate) struct Hashes {
    stored: VecDeque<HashKv>,
}

impl Hashes {
    const MAX: usize = 10;

    pub(crate) fn store(&mut self, hash: HashKv) {
        self.stored.push_back(hash);
        if self.stored.len() > Self::MAX {
            self.stored.pop_front();
        }
    }

    pub(crate) fn get(&self, revision: i64) -> Option<HashKv> {
        self.stored.iter().find(|hash| hash.hash_revision == revision).copied()
    }

    pub(crate) fn newest_first(&self) -> Vec<HashKv> {
        self.stored.iter().rev().copied().collect()
    }
}

/// A record of the backend, read for hashing or compaction.
#[derive(Debug)]
pub(crate) struct StoredRecord {
    pub(crate) version: Version,
    pub(crate) kv: Vec<u8>,
}

impl StoredRecord {
    pub(crate) fn key(&self) -> &[u8] {
        encoded_key(&self.kv)
    }

    pub(crate) fn record_key(&self) -> RecordKey {
        RecordKey::new(self.version.revision(), self.version.is_tombstone())
    }
}

/// Bytes that one slice of stored records may hold before it ends early.
const SLICE_BYTES: usize = 4 << 20;

/// Reads up to `limit` records from `from` on, none above main revision `to`. Returns them, and whether that was all.
pub(crate) fn stored_records(
    backend: &dyn Backend,
    from: Revision,
    to: i64,
    limit: usize,
) -> Result<(Vec<StoredRecord>, bool), Failure> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut is_end = true;
    let mut damage = None;
    backend.scan(Bucket::Key, RecordKey::new(from, false).as_bytes(), &mut |key, kv| {
        let Some((revision, is_tombstone)) = RecordKey::decode(key) else {
            damage = Some(Failure::new("a key of bucket `key` is no revision"));
            return ControlFlow::Break(());
        };
        if revision.main > to {
            return ControlFlow::Break(());
        }
        if records.len() >= limit || bytes > SLICE_BYTES {
            is_end = false;
            return ControlFlow::Break(());
        }
        bytes += kv.len();
        records.push(StoredRecord {
            version: Version::new(revision, is_tombstone, kv.len()),
            kv: kv.to_vec(),
        });
        ControlFlow::Continue(())
    })?;
    damage.map_or(Ok((records, is_end)), Err)
}

/// The hash in the making.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hasher {
    crc: u32,
    compacted: i64,
    revision: i64,
    /// Of the records up to the compaction those count that a read at this revision finds.
    found_at: i64,
}

impl Hasher {
    /// `is_empty` tells that no key exists at `revision`. Then etcd counts every record that is there, which means
    /// what a finished compaction has left: the keys as of the compaction.
    pub(crate) fn new(compacted: i64, revision: i64, is_empty: bool) -> Self {
        Hasher {
            crc: crc32c::crc32c(Bucket::Key.name().as_bytes()),
            compacted,
            revision,
            found_at: if is_empty { compacted } else { revision },
        }
    }

    /// Adds the next record. The index must hold every version that a read at or above the compaction finds.
    pub(crate) fn add(&mut self, record: &StoredRecord, index: &Index) {
        let version = record.version;
        if version.main == self.compacted && version.is_tombstone() {
            return;
        }
        if version.main <= self.compacted && !is_found(index, record, self.found_at) {
            return;
        }
        self.crc = crc32c::crc32c_append(self.crc, record.record_key().as_bytes());
        self.crc = crc32c::crc32c_append(self.crc, &record.kv);
    }

    pub(crate) fn finish(self, current_revision: i64) -> HashKv {
        HashKv {
            hash: self.crc,
            compact_revision: self.compacted,
            hash_revision: self.revision,
            current_revision,
        }
    }
}

/// Whether a read at main revision `at` finds this record. A tombstone is never found.
fn is_found(index: &Index, record: &StoredRecord, at: i64) -> bool {
    !record.version.is_tombstone()
        && index.get(record.key()).is_some_and(|entry| entry.at(at) == Some(record.version))
}

/// Records that are hashed in one go, while the writer waits at times.
const SLICE: usize = 64;

impl Shared {
    /// Hashes what is on disk, and behind it what is only in memory. On the storage thread neither moves meanwhile,
    /// and records above the hashed revision do not matter.
    pub(crate) fn hash_kv(&self, requested: i64) -> Result<HashKv, ReadError> {
        let (current, compacted, backend, flushed) = {
            let store = self.store.read();
            let flushed = store.tail.flushed_revision();
            (store.revision, store.compacted, Arc::clone(&store.backend), flushed)
        };
        if let Some(stored) = self.hashes.lock().get(requested) {
            return Ok(HashKv { current_revision: current, ..stored });
        }
        if requested > 0 && requested < compacted {
            return Err(Rejection::Compacted { requested, compacted }.into());
        }
        if requested > current {
            return Err(Rejection::FutureRevision { requested, current }.into());
        }
        let revision = if requested == 0 { current } else { requested };
        let mut hasher = Hasher::new(compacted, revision, !self.has_key_at(revision));
        let mut next = Revision::default();
        loop {
            let (records, is_end) = stored_records(&*backend, next, revision.min(flushed), SLICE)?;
            self.add(&mut hasher, &records);
            if is_end {
                break;
            }
            if let Some(last) = records.last() {
                next = last.version.next();
            }
        }
        self.add_unflushed(&mut hasher, flushed + 1, revision);
        Ok(hasher.finish(current))
    }

    fn add(&self, hasher: &mut Hasher, records: &[StoredRecord]) {
        let store = self.store.read();
        for record in records {
            hasher.add(record, &store.index);
        }
    }

    fn add_unflushed(&self, hasher: &mut Hasher, from: i64, to: i64) {
        let mut next = Revision::new(from, 0);
        loop {
            let records: Vec<_> = {
                let store = self.store.read();
                let records = store.tail.since(next).take(SLICE);
                records
                    .filter(|record| record.revision.main <= to)
                    .map(StoredRecord::from)
                    .collect()
            };
            let Some(last) = records.last() else { return };
            next = last.version.next();
            self.add(hasher, &records);
        }
    }

    /// Whether any key exists at main revision `at`. The versions needed to tell stay in the index until this very
    /// thread drops them, even when a compaction above `at` is accepted now.
    fn has_key_at(&self, at: i64) -> bool {
        let mut scan = Scan::new(KeyRange::ALL, at, Show::Meta).take(1);
        while !scan.step(&self.store.read(), SLICE) {}
        !scan.items.is_empty()
    }
}

impl From<&Record> for StoredRecord {
    fn from(record: &Record) -> Self {
        StoredRecord {
            version: Version::new(record.revision, record.is_tombstone, record.kv.len()),
            kv: record.kv.to_vec(),
        }
    }
}

/// Over all buckets, but for what differs between members by nature.
pub(crate) fn all_buckets(backend: &dyn Backend) -> Result<u32, Failure> {
    let mut crc = 0;
    for bucket in Bucket::ALL {
        crc = crc32c::crc32c_append(crc, bucket.name().as_bytes());
        backend.scan(bucket, &[], &mut |key, value| {
            let is_local = bucket == Bucket::Meta
                && [meta::CONSISTENT_INDEX, meta::TERM, meta::STORAGE_VERSION].contains(&key);
            if !is_local {
                crc = crc32c::crc32c_append(crc, key);
                crc = crc32c::crc32c_append(crc, value);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(crc)
}
