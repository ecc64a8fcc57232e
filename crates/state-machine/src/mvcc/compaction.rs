//! Forgetting old versions.
//!
//! A compaction is accepted in an instant: from then on nobody may read below it. The work follows on the storage
//! thread, in slices. It goes through the stored records in revision order, since that is the order of the hash that
//! belongs to every compaction; for each it asks the index whether a read at the compacted revision needs it, and
//! drops what is not needed from the index at once and from the disk with the slice's batch.
//!
//! Readers that have found a version in the index but not its record on disk were overtaken and start again.

use std::collections::VecDeque;

use super::Revision;
use super::hash::{Hasher, StoredRecord, stored_records};
use crate::backend::{Batch, Failure};
use crate::flush::meta_change;
use crate::mvcc::RecordKey;
use crate::mvcc::index::Forgotten;
use crate::schema::meta;
use crate::store::{Shared, Store};

/// Entries that are changed in one go, while readers and the writer wait.
const CHANGES: usize = 32;

/// A piece of compaction work.
#[derive(Debug)]
pub enum CompactionStep {
    /// Nothing to do.
    Idle,
    /// The records to compact are not all flushed yet: flush first.
    NotFlushed,
    /// To be committed before the next call.
    Work(Batch),
}

/// The accepted compactions whose work is not done, oldest first.
#[derive(Debug)]
pub(crate) struct Compactions {
    jobs: VecDeque<Job>,
    finished: i64,
}

/// One compaction at work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) target: i64,
    /// The disk must be complete up to this entry first.
    pub(crate) applied_index: u64,
    /// Whether every record since the compaction before is still there to be hashed.
    is_hash_complete: bool,
    hasher: Hasher,
    next: Revision,
    /// The last batch was handed out; by the next call it is on disk.
    is_done: bool,
}

impl Compactions {
    pub(crate) fn new(finished: i64) -> Self {
        Compactions { jobs: VecDeque::new(), finished }
    }

    /// Queues the work of a compaction that came after the one at `previous`. The queue keeps their order, so nothing
    /// above `previous` is gone when its turn comes.
    pub(crate) fn push(&mut self, target: i64, previous: i64, applied_index: u64) {
        self.jobs.push_back(Job::new(target, previous, applied_index, true));
    }

    /// Queues work that a restart interrupted. Some of it may be done, so the hash would be wrong.
    pub(crate) fn resume(&mut self, target: i64) {
        self.jobs.push_back(Job::new(target, self.finished, 0, false));
    }

    pub(crate) fn finished(&self) -> i64 {
        self.finished
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }
}

impl Job {
    fn new(target: i64, previous: i64, applied_index: u64, is_hash_complete: bool) -> Self {
        // Something is kept by every compaction: at its revision stands a put or a tombstone.
        let hasher = Hasher::new(previous, target, false);
        Job {
            target,
            applied_index,
            is_hash_complete,
            hasher,
            next: Revision::default(),
            is_done: false,
        }
    }
}

impl Shared {
    pub(crate) fn compaction_step(&self, records: usize) -> Result<CompactionStep, Failure> {
        self.finish_done_job();
        let (mut job, backend) = {
            let store = self.store.read();
            let Some(job) = store.compactions.jobs.front() else { return Ok(CompactionStep::Idle) };
            if store.pending.flushed_index() < job.applied_index {
                return Ok(CompactionStep::NotFlushed);
            }
            (*job, std::sync::Arc::clone(&store.backend))
        };
        let (slice, is_end) = stored_records(&*backend, job.next, job.target, records.max(1))?;
        let dropped = self.sift(&mut job, &slice);
        self.forget(&dropped);
        let mut batch = Batch {
            dropped: dropped.iter().map(|record| record.record_key()).collect(),
            ..Batch::default()
        };
        if is_end {
            let revision = RecordKey::new(Revision::new(job.target, 0), false);
            batch
                .changes
                .push(meta_change(meta::FINISHED_COMPACT_REVISION, revision.as_bytes().to_vec()));
            job.is_done = true;
        } else if let Some(last) = slice.last() {
            job.next = last.version.next();
        }
        if let Some(front) = self.store.write().compactions.jobs.front_mut() {
            *front = job;
        }
        Ok(CompactionStep::Work(batch))
    }

    /// Hashes a slice of records and returns those that compaction drops.
    fn sift<'s>(&self, job: &mut Job, slice: &'s [StoredRecord]) -> Vec<&'s StoredRecord> {
        let mut dropped = Vec::new();
        for records in slice.chunks(CHANGES) {
            let store = self.store.read();
            for record in records {
                job.hasher.add(record, &store.index);
                let entry = store.index.get(record.key());
                if !entry.is_some_and(|entry| entry.survives(record.version, job.target)) {
                    dropped.push(record);
                }
            }
        }
        dropped
    }

    fn forget(&self, dropped: &[&StoredRecord]) {
        for records in dropped.chunks(CHANGES) {
            let mut store = self.store.write();
            for record in records {
                store.forget(record);
            }
        }
    }

    fn finish_done_job(&self) {
        if !self.store.read().compactions.jobs.front().is_some_and(|job| job.is_done) {
            return;
        }
        let mut store = self.store.write();
        let Some(job) = store.compactions.jobs.pop_front() else { return };
        store.compactions.finished = job.target;
        if job.is_hash_complete {
            self.hashes.lock().store(job.hasher.finish(store.revision));
        }
        self.gauges.update(&store);
    }
}

impl Store {
    fn forget(&mut self, record: &StoredRecord) {
        let key = record.key();
        let forgotten = self.index.upsert(key, |slot| match slot {
            retcd_btree::Slot::Occupied(entry) => entry.forget(record.version),
            retcd_btree::Slot::Vacant(_) => Forgotten::Nothing,
        });
        match forgotten {
            Forgotten::Nothing => return,
            Forgotten::One => {}
            Forgotten::Last => drop(self.index.remove(key)),
        }
        self.sizes.records -= 1;
        self.sizes.bytes -= record.kv.len() as u64;
    }
}
