//! The tail of the log, in memory.
//!
//! ```text
//!        base        first ……………………… applied …… committed …… last
//!   ──────┴───────────┴─────────────────────────────────────────┘
//!   compacted: only the base's index and term are kept        unstable entries of the library follow
//! ```
//!
//! Everything the member may still have to send or apply is here: [`Node`](crate::Node) appends each output's entries
//! before the caller writes them, and compaction stays behind the applied index. A peer that needs an entry at or below
//! the base gets a snapshot, as in etcd; so nothing ever has to be read back from the disk.
//!
//! Invariants
//! - entries have consecutive indexes, the first one is base + 1;
//! - base ≤ applied, so an entry is never dropped before it was applied.

use std::collections::VecDeque;

use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use retcd_api::raftpb;

use crate::convert;

/// Bytes an entry takes on the wire beyond its payload, about: tags, type, term, index, length.
const ENTRY_OVERHEAD_BYTES: u64 = 16;

pub(crate) struct Log {
    /// The last entry that is gone: the snapshot's or the last compacted one.
    base_index: u64,
    base_term: u64,
    entries: VecDeque<raftpb::Entry>,
    /// Given to the library once, at start.
    initial: RaftState,
    /// What a snapshot of the applied state would say about itself.
    applied: raftpb::SnapshotMetadata,
}

impl Log {
    pub(crate) fn new(
        base_index: u64,
        base_term: u64,
        entries: Vec<raftpb::Entry>,
        initial: RaftState,
        applied: raftpb::SnapshotMetadata,
    ) -> Self {
        let mut log = Self { base_index, base_term, entries: VecDeque::new(), initial, applied };
        log.append(entries);
        log
    }

    pub(crate) fn first(&self) -> u64 {
        self.base_index + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    /// The term of the entry at `index`, if it is the base or later and exists.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base_index {
            return Some(self.base_term);
        }
        let offset = index.checked_sub(self.first())?;
        self.entries.get(position(offset)).map(|entry| entry.term)
    }

    /// Appends `entries`; those that are here from the first one's index on are replaced.
    pub(crate) fn append(&mut self, entries: Vec<raftpb::Entry>) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.checked_sub(self.first()).expect("entries lie behind the base");
        assert!(keep <= self.entries.len() as u64, "entries leave no gap");
        self.entries.truncate(position(keep));
        self.entries.extend(entries);
    }

    /// Forgets all entries: the log goes on after a snapshot.
    pub(crate) fn restore(&mut self, index: u64, term: u64) {
        self.base_index = index;
        self.base_term = term;
        self.entries.clear();
    }

    /// Forgets the entries up to and including `index`, which must be applied.
    pub(crate) fn compact(&mut self, index: u64) {
        let Some(term) = self.term_at(index) else { return };
        self.entries.drain(..position(index - self.base_index));
        self.base_index = index;
        self.base_term = term;
    }

    /// Notes how far the state machine is. An index behind the base is passed over: a later snapshot has replaced the
    /// log already and will be applied next.
    pub(crate) fn set_applied(&mut self, index: u64, conf_state: &raftpb::ConfState) {
        let Some(term) = self.term_at(index) else { return };
        self.applied.index = index;
        self.applied.term = term;
        if self.applied.conf_state.as_ref() != Some(conf_state) {
            self.applied.conf_state = Some(conf_state.clone());
        }
    }

    pub(crate) fn applied(&self) -> &raftpb::SnapshotMetadata {
        &self.applied
    }
}

/// An offset into the entries. They are in memory, so it fits.
fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("the log is in memory")
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_bytes: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        assert!(
            high <= self.last() + 1,
            "entries up to {high} asked of a log that ends at {}",
            self.last()
        );
        let max_bytes = max_bytes.into().unwrap_or(u64::MAX);
        let wanted =
            self.entries.range(position(low - self.first())..position(high - self.first()));
        let mut bytes = 0u64;
        let mut found = Vec::with_capacity(wanted.len().min(1024));
        for entry in wanted {
            bytes = bytes.saturating_add(entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(
                convert::entry_to_raft(entry.clone()).expect("types were checked on the way in"),
            );
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base_index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The announcement of a snapshot of the applied state; the caller adds the state itself when it sends it.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        if self.applied.index == 0 || self.applied.index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(convert::snapshot_to_raft(raftpb::Snapshot {
            metadata: Some(self.applied.clone()),
            ..raftpb::Snapshot::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<raftpb::Entry> {
        indexes
            .map(|index| raftpb::Entry { term, index, r#type: 0, data: Bytes::from(vec![0; 84]) })
            .collect()
    }

    /// Base 4@1, entries 5..=8 at term 2.
    fn log() -> Log {
        let applied = raftpb::SnapshotMetadata { index: 4, term: 1, conf_state: None };
        Log::new(4, 1, entries(5..=8, 2), RaftState::default(), applied)
    }

    fn indexes(log: &Log, low: u64, high: u64, max_bytes: Option<u64>) -> Vec<u64> {
        let found = log.entries(low, high, max_bytes, GetEntriesContext::empty(false)).unwrap();
        found.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn terms_are_known_from_the_base_on() {
        let log = log();
        assert_eq!(log.term(3), Err(StorageError::Compacted.into()));
        assert_eq!(log.term(4), Ok(1));
        assert_eq!(log.term(8), Ok(2));
        assert_eq!(log.term(9), Err(StorageError::Unavailable.into()));
    }

    #[test]
    fn a_range_is_cut_by_bytes_but_never_empty() {
        let log = log();
        assert_eq!(indexes(&log, 5, 9, None), [5, 6, 7, 8]);
        assert_eq!(indexes(&log, 6, 8, None), [6, 7]);
        assert_eq!(indexes(&log, 5, 9, Some(200)), [5, 6]);
        assert_eq!(indexes(&log, 5, 9, Some(0)), [5]);
        let compacted = log.entries(4, 6, None, GetEntriesContext::empty(false));
        assert_eq!(compacted, Err(StorageError::Compacted.into()));
    }

    #[test]
    fn append_replaces_from_the_first_index_on() {
        let mut log = log();
        log.append(entries(7..=7, 3));
        assert_eq!(
            (log.last(), log.term_at(6), log.term_at(7), log.term_at(8)),
            (7, Some(2), Some(3), None)
        );
        log.append(entries(8..=9, 3));
        assert_eq!(log.last(), 9);
    }

    #[test]
    #[should_panic(expected = "entries leave no gap")]
    fn a_gap_is_a_bug() {
        log().append(entries(10..=10, 3));
    }

    #[test]
    fn compaction_keeps_the_term_of_the_last_compacted_entry() {
        let mut log = log();
        log.compact(6);
        assert_eq!(
            (log.first(), log.last(), log.term_at(5), log.term_at(6)),
            (7, 8, None, Some(2))
        );
        log.compact(3);
        assert_eq!(log.first(), 7, "a compaction below the base changes nothing");
    }

    #[test]
    fn a_restored_log_is_empty_behind_the_snapshot() {
        let mut log = log();
        log.restore(20, 5);
        assert_eq!((log.first(), log.last(), log.term_at(20)), (21, 20, Some(5)));
    }

    #[test]
    fn a_snapshot_announces_the_applied_state() {
        let mut log = log();
        let conf_state = raftpb::ConfState { voters: vec![1, 2], ..raftpb::ConfState::default() };
        log.set_applied(6, &conf_state);
        let snapshot = log.snapshot(0, 9).unwrap();
        assert_eq!((snapshot.get_metadata().index, snapshot.get_metadata().term), (6, 2));
        assert_eq!(snapshot.get_metadata().get_conf_state().voters, [1, 2]);
        log.set_applied(3, &raftpb::ConfState::default());
        assert_eq!(log.applied().index, 6, "what is behind the base is passed over");
        assert_eq!(log.snapshot(7, 9), Err(StorageError::SnapshotTemporarilyUnavailable.into()));
    }
}
