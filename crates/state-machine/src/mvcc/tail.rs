//! The newest records, in memory: what the disk does not have yet, and what watchers are likely to read next.
//!
//! ```text
//! records   … 41 42 43 44 45 46 47 …
//!             ▲           ▲         ▲
//!             covers_from flushed   next
//! ```
//!
//! Every record from main revision `covers_from` on is here. Records below `flushed` are on disk as well and may be
//! trimmed; the others may not, since nobody else has them. Positions count records since the store was opened.

use std::collections::VecDeque;

use super::{Record, Revision};

/// Flushed records that are kept for watchers.
pub(crate) const KEEP_RECORDS: usize = 100_000;
#[derive(Debug)]
pub(crate) struct Tail {
    records: VecDeque<Record>,
    /// Position of the first record.
    first: u64,
    /// Position of the first record that is not on disk.
    flushed: u64,
    /// Main revision of the newest record on disk.
    flushed_revision: i64,
    covers_from: i64,
    flushed_bytes: usize,
}

impl Tail {
    /// A tail of a store whose records up to `revision` are all on disk.
    pub(crate) fn new(revision: i64) -> Self {
        Tail {
            records: VecDeque::new(),
            first: 0,
            flushed: 0,
            flushed_revision: revision,
            covers_from: revision + 1,
            flushed_bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, record: Record) {
        self.records.push_back(record);
    }

    /// The position of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    pub(crate) fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Everything up to this main revision is on disk.
    pub(crate) fn flushed_revision(&self) -> i64 {
        self.flushed_revision
    }

    /// Every record of this main revision and above is in the tail.
    pub(crate) fn covers_from(&self) -> i64 {
        self.covers_from
    }

    /// The records at positions `from..to`, which must not be flushed yet.
    pub(crate) fn slice(&self, from: u64, to: u64) -> impl Iterator<Item = &Record> {
        let at = |position: u64| {
            usize::try_from(position - self.first).expect("the tail fits into memory")
        };
        self.records.range(at(from)..at(to))
    }

    /// The record of one revision.
    pub(crate) fn get(&self, revision: Revision) -> Option<&Record> {
        if revision.main < self.covers_from {
            return None;
        }
        let position = self.position(revision);
        self.records.get(position).filter(|record| record.revision == revision)
    }

    /// The records from `from` on, which the tail must cover.
    pub(crate) fn since(&self, from: Revision) -> impl Iterator<Item = &Record> {
        debug_assert!(from.main >= self.covers_from, "older records are on disk only");
        self.records.range(self.position(from)..)
    }

    fn position(&self, revision: Revision) -> usize {
        self.records.partition_point(|record| record.revision < revision)
    }

    /// Marks the records below `position`, the end of a revision, as on disk; `revision` is the store's at that point,
    /// and `bytes` what the newly flushed records have.
    pub(crate) fn mark_flushed(&mut self, position: u64, revision: i64, bytes: usize) {
        assert!(self.flushed <= position && position <= self.next(), "a flush goes forward");
        self.flushed_bytes += bytes;
        self.flushed = position;
        self.flushed_revision = revision;
    }

    /// Drops at most about `count` flushed records that are beyond the limits, whole revisions only. Returns whether
    /// more should go.
    pub(crate) fn trim(&mut self, count: usize, keep_bytes: usize) -> bool {
        let mut dropped = 0;
        while self.is_over(keep_bytes) {
            if dropped >= count {
                return true;
            }
            let Some(first) = self.records.front() else { break };
            let main = first.revision.main;
            while self.records.front().is_some_and(|record| record.revision.main == main) {
                let record = self.records.pop_front().expect("there is a front");
                self.flushed_bytes -= record.kv.len();
                self.first += 1;
                dropped += 1;
            }
            self.covers_from = main + 1;
        }
        false
    }

    fn is_over(&self, keep_bytes: usize) -> bool {
        let flushed = self.flushed - self.first;
        flushed > 0 && (flushed > KEEP_RECORDS as u64 || self.flushed_bytes > keep_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_BYTES: usize = 1 << 20;

    fn record(main: i64, sub: i64, bytes: usize) -> Record {
        Record {
            revision: Revision::new(main, sub),
            is_tombstone: false,
            kv: vec![0; bytes].into(),
        }
    }

    fn mains(tail: &Tail, from: i64) -> Vec<i64> {
        tail.since(Revision::new(from, 0)).map(|record| record.revision.main).collect()
    }

    #[test]
    fn only_flushed_records_beyond_the_limits_are_trimmed() {
        let mut tail = Tail::new(1);
        for main in 2..6 {
            tail.push(record(main, 0, KEEP_BYTES / 2));
            tail.push(record(main, 1, 1));
        }
        assert!(!tail.trim(usize::MAX, KEEP_BYTES));
        assert_eq!((tail.covers_from(), tail.next()), (2, 8));
        tail.mark_flushed(6, 4, 3 * (KEEP_BYTES / 2 + 1));
        assert!(!tail.trim(usize::MAX, KEEP_BYTES));
        assert_eq!((tail.covers_from(), tail.flushed(), tail.flushed_revision()), (4, 6, 4));
        assert_eq!(mains(&tail, 4), [4, 4, 5, 5]);
        assert_eq!(tail.get(Revision::new(4, 1)), Some(&record(4, 1, 1)));
        assert_eq!(tail.get(Revision::new(3, 1)), None);
    }

    #[test]
    fn trimming_goes_in_slices() {
        let mut tail = Tail::new(1);
        for main in 2..8 {
            tail.push(record(main, 0, KEEP_BYTES));
        }
        tail.mark_flushed(6, 7, 6 * KEEP_BYTES);
        assert!(tail.trim(1, KEEP_BYTES));
        assert_eq!(mains(&tail, 3).len(), 5);
        assert!(!tail.trim(10, KEEP_BYTES));
        assert_eq!(mains(&tail, 7), [7]);
    }
}
