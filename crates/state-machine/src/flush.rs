//! What the disk does not have yet, and how it gets there.
//!
//! The writer ends every batch with a *mark*: the applied index, and how far records and changes had come by then. A
//! flush takes everything up to one mark, so the disk always holds the state after some entry, complete, together
//! with that entry's index. Replay begins behind it and nothing is applied twice.

use std::collections::VecDeque;

use crate::backend::{Batch, Change};
use crate::mvcc::tail::Tail;
use crate::schema::{Bucket, meta};

/// What one commit of the backend is to write: a consistent cut up to one applied entry.
#[derive(Debug)]
pub struct Flush {
    pub batch: Batch,
    /// The last entry whose effects the batch completes.
    pub applied_index: u64,
    /// Bytes of the batch, roughly.
    pub bytes: usize,
    pub(crate) mark: Mark,
}

/// The state of things after one entry.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mark {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) revision: i64,
    /// Position of the next record in the tail.
    pub(crate) records: u64,
    /// Number of the next change.
    changes: u64,
    /// Bytes of all records and changes so far.
    bytes: u64,
}

/// Changes of the small buckets, and the marks.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    changes: VecDeque<Change>,
    /// Number of the first change.
    first_change: u64,
    marks: VecDeque<Mark>,
    /// Bytes of everything that was ever pending.
    bytes: u64,
    /// The same, of what is on disk.
    flushed_bytes: u64,
    flushed_index: u64,
    /// An accepted membership change waits for what Raft makes of it; no mark may be set in between, or the disk
    /// would hold members without the matching Raft configuration.
    pub(crate) awaits_conf_state: bool,
}

impl Pending {
    /// Nothing pending: the disk is complete up to this entry.
    pub(crate) fn new(flushed_index: u64) -> Self {
        Pending { flushed_index, ..Pending::default() }
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.bytes += change_bytes(&change) as u64;
        self.changes.push_back(change);
    }

    /// Counts a record, which itself stands in the tail.
    pub(crate) fn add_record(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Ends a batch.
    pub(crate) fn mark(&mut self, index: u64, term: u64, revision: i64, tail: &Tail) {
        if self.awaits_conf_state {
            return;
        }
        self.marks.push_back(Mark {
            index,
            term,
            revision,
            records: tail.next(),
            changes: self.first_change + self.changes.len() as u64,
            bytes: self.bytes,
        });
    }

    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.bytes - self.flushed_bytes).unwrap_or(usize::MAX)
    }

    /// The last entry that is completely on disk.
    pub(crate) fn flushed_index(&self) -> u64 {
        self.flushed_index
    }

    /// The last mark within `max_bytes`, but at least the first one.
    pub(crate) fn cut(&self, max_bytes: usize) -> Option<Mark> {
        let limit = self.flushed_bytes.saturating_add(max_bytes as u64);
        let within = self.marks.partition_point(|mark| mark.bytes <= limit);
        self.marks.get(within.saturating_sub(1)).copied()
    }

    /// Takes the changes up to a mark out, followed by the index they complete.
    pub(crate) fn take_changes(&mut self, mark: Mark) -> Vec<Change> {
        let count =
            usize::try_from(mark.changes - self.first_change).expect("changes fit into memory");
        self.first_change = mark.changes;
        let mut changes: Vec<_> = self.changes.drain(..count).collect();
        changes.push(meta_change(meta::CONSISTENT_INDEX, mark.index.to_be_bytes().to_vec()));
        changes.push(meta_change(meta::TERM, mark.term.to_be_bytes().to_vec()));
        changes
    }

    /// Bytes up to a mark that are not on disk yet.
    pub(crate) fn bytes_to(&self, mark: Mark) -> usize {
        usize::try_from(mark.bytes - self.flushed_bytes).unwrap_or(usize::MAX)
    }

    pub(crate) fn mark_flushed(&mut self, mark: Mark) {
        assert!(mark.index >= self.flushed_index, "a flush goes forward");
        self.flushed_index = mark.index;
        self.flushed_bytes = mark.bytes;
        let done = self.marks.partition_point(|other| other.index <= mark.index);
        self.marks.drain(..done);
    }
}

/// A change of bucket `meta`.
pub(crate) fn meta_change(key: &[u8], value: Vec<u8>) -> Change {
    Change { bucket: Bucket::Meta, key: key.to_vec(), value: Some(value) }
}

fn change_bytes(change: &Change) -> usize {
    change.key.len() + change.value.as_ref().map_or(0, Vec::len)
}
