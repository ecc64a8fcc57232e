//! Puts and deletes of one request: they share a revision and are numbered by sub revisions.

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use retcd_btree::Slot;

use super::index::{Entry, Version};
use super::key_range::KeyRange;
use super::kv::KeyValue;
use super::range::{Halt, Scan, Show, View, bounds};
use super::{Record, Revision};
use crate::backend::{Backend, Encoded, Failure};
use crate::lease::Lessor;
use crate::store::Store;

/// One write request at work. The revision is taken only when it changes something.
pub(crate) struct Writer<'a> {
    store: &'a mut Store,
    lessor: &'a Mutex<Lessor>,
    sub: i64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(store: &'a mut Store, lessor: &'a Mutex<Lessor>) -> Self {
        Writer { store, lessor, sub: 0 }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store
    }

    pub(crate) fn lease_exists(&self, lease: i64) -> bool {
        lease == 0 || self.lessor.lock().exists(lease)
    }

    /// The revision that answers show: the request's own once it has changed something.
    pub(crate) fn reached(&self) -> i64 {
        self.store.newest
    }

    /// Makes the changes visible; returns the revision of the answer.
    pub(crate) fn finish(self) -> i64 {
        self.store.tally.txns += u64::from(self.sub > 1);
        self.store.revision = self.store.newest;
        self.store.revision
    }

    /// The encoded newest value of a key.
    pub(crate) fn current(&self, key: &[u8]) -> Result<Option<Encoded>, Failure> {
        Ok(self.records(KeyRange::new(key, b""))?.pop())
    }

    /// The encoded newest values of a range.
    pub(crate) fn records(&self, range: KeyRange<'_>) -> Result<Vec<Encoded>, Failure> {
        let mut scan = Scan::new(range, self.reached(), Show::Records);
        scan.step(self.store, usize::MAX);
        scan.fetch(self, |_| true).map_err(fault)?;
        Ok(scan.into_records())
    }

    /// The lease must exist.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) {
        let revision = self.next_revision();
        let mut kv = KeyValue {
            key,
            create_revision: revision.main,
            mod_revision: revision.main,
            version: 1,
            value,
            lease,
        };
        let Store { index, scratch, cached_bytes, sizes, .. } = &mut *self.store;
        let (version, encoded, old_lease) = index.upsert(key, |slot| match slot {
            Slot::Occupied(entry) => {
                if entry.is_live() {
                    kv.create_revision = entry.create;
                    kv.version = entry.version + 1;
                }
                let encoded = kv.to_encoded(scratch);
                let version = Version::new(revision, false, encoded.len());
                let old_lease = entry.lease();
                sizes.live_bytes -= entry.newest.put_bytes();
                *cached_bytes -= entry.cached_bytes();
                entry.supersede(version);
                entry.create = kv.create_revision;
                entry.version = kv.version;
                entry.value = Some(Encoded::clone(&encoded));
                entry.set_lease(lease);
                (version, encoded, old_lease)
            }
            Slot::Vacant(place) => {
                let encoded = kv.to_encoded(scratch);
                let version = Version::new(revision, false, encoded.len());
                let mut entry =
                    Entry::new(version, version.main, 1, Some(Encoded::clone(&encoded)));
                entry.set_lease(lease);
                place.insert(entry);
                (version, encoded, 0)
            }
        });
        *cached_bytes += encoded.len();
        sizes.live_bytes += version.put_bytes();
        self.store.tally.puts += 1;
        self.store.tally.put_bytes += (key.len() + value.len()) as u64;
        self.record(version, encoded);
        self.move_lease(key, old_lease, lease);
    }

    fn move_lease(&self, key: &[u8], old: i64, new: i64) {
        if old == new {
            return;
        }
        let mut lessor = self.lessor.lock();
        if old != 0 {
            lessor.detach(old, key);
        }
        if new != 0 {
            lessor.attach(new, key);
        }
    }

    /// Deletes the live keys of a range in key order; returns how many there were.
    pub(crate) fn delete(&mut self, range: KeyRange<'_>) -> usize {
        if range.is_single() {
            return usize::from(self.delete_key(range.start));
        }
        let mut keys = Vec::new();
        let (from, to) = bounds(range);
        if !range.is_empty() {
            let _ = self.store.index.for_each_range(from, to, |key, entry| {
                if entry.is_live() {
                    keys.push(key.to_vec());
                }
                ControlFlow::Continue(())
            });
        }
        for key in &keys {
            self.delete_key(key);
        }
        keys.len()
    }

    fn delete_key(&mut self, key: &[u8]) -> bool {
        let version = Version::new(self.next_revision(), true, 0);
        let (mut freed, mut dead) = (0, 0);
        let old_lease = self.store.index.upsert(key, |slot| match slot {
            Slot::Occupied(entry) if entry.is_live() => {
                let lease = entry.lease();
                freed = entry.cached_bytes();
                dead = entry.newest.put_bytes();
                entry.supersede(version);
                entry.create = 0;
                entry.version = 0;
                entry.value = None;
                entry.set_lease(0);
                Some(lease)
            }
            Slot::Occupied(_) | Slot::Vacant(_) => None,
        });
        let Some(old_lease) = old_lease else { return false };
        self.store.cached_bytes -= freed;
        self.store.sizes.live_bytes -= dead;
        self.store.tally.deletes += 1;
        let tombstone = KeyValue { key, ..KeyValue::default() }.to_encoded(&mut self.store.scratch);
        self.record(version, tombstone);
        self.move_lease(key, old_lease, 0);
        true
    }

    fn next_revision(&self) -> Revision {
        Revision::new(self.store.revision + 1, self.sub)
    }

    fn record(&mut self, version: Version, kv: Encoded) {
        self.sub += 1;
        self.store.newest = version.main;
        self.store.sizes.records += 1;
        self.store.sizes.bytes += kv.len() as u64;
        self.store.pending.add_record(kv.len());
        self.store.tail.push(Record {
            revision: version.revision(),
            is_tombstone: version.is_tombstone(),
            kv,
        });
    }
}

impl View for Writer<'_> {
    fn scan_slice(&self, scan: &mut Scan<'_>) -> Result<bool, Halt> {
        self.store.scan_slice(scan)
    }

    fn backend(&self) -> Result<Arc<dyn Backend>, Halt> {
        self.store.backend()
    }
}

/// Under the writer's lock nothing can overtake a read, so what is missing is damage.
pub(crate) fn fault(halt: Halt) -> Failure {
    match halt {
        Halt::Failed(failure) => failure,
        Halt::Missing(revision) => Failure::new(format!(
            "the record of revision {}.{} is missing",
            revision.main, revision.sub
        )),
        Halt::Rejected(_) | Halt::Overtaken => {
            unreachable!("the writer's reads are of the newest state")
        }
    }
}
