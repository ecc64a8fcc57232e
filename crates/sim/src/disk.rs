//! What of a member survives the end of its process: the log, snapshot files, databases.
//!
//! The log is a list of records with two marks in it, as `storage` and a disk below it treat one:
//!
//! ```text
//!   durable ………………│ in the file, not synced ………│ in the process's buffer
//!                  synced                     written
//! ```
//!
//! A crash leaves everything durable, and as much behind it as the seed says, up to `written`. What is read after a crash
//! is read by the rules of `storage/src/wal/reader.rs` and `server/src/bootstrap.rs`.
//!
//! A database commits a batch as a whole, and what it has committed is durable; so it lags behind the log, as far as its
//! member's storage loop does.

use std::collections::BTreeMap;
use std::sync::Arc;

use retcd_api::raftpb::{Entry, HardState, SnapshotMetadata};
use retcd_checkers::Dice;
use retcd_consensus::InitialState;
use retcd_state_machine::backend::MemoryBackend;

#[derive(Debug, Clone, PartialEq)]
enum Record {
    Entry(Entry),
    State(HardState),
    Snapshot(SnapshotMetadata),
}

pub(crate) struct Disk {
    records: Vec<Record>,
    written: usize,
    synced: usize,
    /// The durable part of the log as it counts, for the checkers.
    durable: Log,
    /// Snapshot files. They are durable before the log tells of them.
    snapshots: BTreeMap<u64, SnapshotMetadata>,
    pub(crate) backend: Arc<MemoryBackend>,
    /// Databases from other members, by the snapshot that they came with.
    received: BTreeMap<u64, Arc<MemoryBackend>>,
}

/// A log with its beginning cut off.
#[derive(Debug, Default)]
pub(crate) struct Log {
    snapshot: u64,
    entries: BTreeMap<u64, Entry>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Disk {
            records: Vec::new(),
            written: 0,
            synced: 0,
            durable: Log::default(),
            snapshots: BTreeMap::new(),
            backend: Arc::default(),
            received: BTreeMap::new(),
        }
    }

    pub(crate) fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry]) {
        self.records.extend(entries.iter().cloned().map(Record::Entry));
        self.records.extend(hard_state.map(Record::State));
    }

    /// Hands the buffer to the system.
    pub(crate) fn write(&mut self) {
        self.written = self.records.len();
    }

    pub(crate) fn sync(&mut self) {
        for record in &self.records[self.synced..self.written] {
            self.durable.add(record);
        }
        self.synced = self.written;
    }

    pub(crate) fn save_snapshot_file(&mut self, snapshot: &SnapshotMetadata) {
        self.snapshots.insert(snapshot.index, snapshot.clone());
    }

    /// Notes a snapshot in the log, durably.
    pub(crate) fn note_snapshot(&mut self, snapshot: &SnapshotMetadata) {
        self.records.push(Record::Snapshot(snapshot.clone()));
        self.write();
        self.sync();
    }

    pub(crate) fn receive(&mut self, index: u64, database: &MemoryBackend) {
        self.received.insert(index, Arc::new(database.copy()));
    }

    /// Gives a received database the place of the own one.
    pub(crate) fn take_received(&mut self, index: u64) -> Arc<MemoryBackend> {
        self.backend = self.received.remove(&index).expect("it was received before the snapshot");
        self.received.retain(|&other, _| other > index);
        Arc::clone(&self.backend)
    }

    pub(crate) fn durable(&self) -> &Log {
        &self.durable
    }

    /// The power goes off.
    pub(crate) fn crash(&mut self, dice: &mut Dice) {
        let unsure = self.written - self.synced;
        self.written = self.synced + dice.index(unsure + 1);
        self.records.truncate(self.written);
        self.sync();
        self.backend = Arc::new(self.backend.copy());
    }

    /// What the next process finds. `applied` reads the index that a database holds.
    pub(crate) fn open(&mut self, applied: impl Fn(&MemoryBackend) -> u64) -> InitialState {
        let from = self.newest_snapshot();
        let (hard_state, entries) = self.replay(&from);
        if applied(&self.backend) < from.index {
            self.take_received(from.index);
        }
        self.received.clear();
        InitialState {
            hard_state,
            conf_state: from.conf_state.unwrap_or_default(),
            snapshot_index: from.index,
            snapshot_term: from.term,
            entries,
            applied: 0,
        }
    }

    /// The newest snapshot that the log confirms.
    fn newest_snapshot(&self) -> SnapshotMetadata {
        let committed = self.hard_state().commit;
        let is_valid = |snapshot: &&SnapshotMetadata| {
            snapshot.index <= committed
                && self.records.contains(&Record::Snapshot((*snapshot).clone()))
        };
        self.snapshots.values().rev().find(is_valid).cloned().unwrap_or_default()
    }

    fn hard_state(&self) -> HardState {
        let states = self.records.iter().rev();
        let mut states = states.filter_map(|record| match record {
            Record::State(state) => Some(*state),
            Record::Entry(_) | Record::Snapshot(_) => None,
        });
        states.next().unwrap_or_default()
    }

    fn replay(&self, from: &SnapshotMetadata) -> (HardState, Vec<Entry>) {
        let mut entries: Vec<Entry> = Vec::new();
        let mut term_at_snapshot = None;
        for record in &self.records {
            match record {
                Record::Entry(entry) if entry.index <= from.index => {
                    entries.clear();
                    term_at_snapshot = (entry.index == from.index).then_some(entry.term);
                }
                Record::Entry(entry) => {
                    let position = usize::try_from(entry.index - from.index - 1);
                    let position = position.expect("a short log");
                    assert!(position <= entries.len(), "the log has a gap before {}", entry.index);
                    entries.truncate(position);
                    entries.push(entry.clone());
                }
                // Another member has sent it, and it has replaced the log.
                Record::Snapshot(snapshot)
                    if snapshot == from
                        && term_at_snapshot.is_some_and(|term| term != snapshot.term) =>
                {
                    entries.clear();
                }
                Record::Snapshot(_) | Record::State(_) => {}
            }
        }
        (self.hard_state(), entries)
    }
}

impl Log {
    fn add(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                drop(self.entries.split_off(&entry.index));
                self.entries.insert(entry.index, entry.clone());
            }
            Record::Snapshot(snapshot) => {
                let own = self.entries.get(&snapshot.index);
                if own.is_none_or(|own| own.term != snapshot.term) {
                    // It came from another member, and replaces the log.
                    self.entries.clear();
                }
                self.snapshot = self.snapshot.max(snapshot.index);
            }
            Record::State(_) => {}
        }
    }

    /// Whether an entry is here, in the log or under the snapshot.
    pub(crate) fn holds(&self, entry: &Entry) -> bool {
        entry.index <= self.snapshot || self.entries.get(&entry.index) == Some(entry)
    }

    /// The entries behind the snapshot.
    pub(crate) fn tail(&self) -> &BTreeMap<u64, Entry> {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn snapshot(index: u64, term: u64) -> SnapshotMetadata {
        SnapshotMetadata { index, term, conf_state: None }
    }

    fn state(term: u64, commit: u64) -> HardState {
        HardState { term, vote: 0, commit }
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_part_of_what_was_written() {
        let mut kept = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut disk = Disk::new();
            disk.append(Some(state(1, 0)), &[entry(1, 1)]);
            disk.write();
            disk.sync();
            disk.append(None, &[entry(2, 1), entry(3, 1)]);
            disk.write();
            disk.append(None, &[entry(4, 1)]);
            disk.crash(&mut Dice::from_seed(seed));
            kept.insert(disk.open(|_| 0).entries.len());
        }
        assert_eq!(kept, [1, 2, 3].into());
    }

    #[test]
    fn a_snapshot_counts_once_its_index_is_committed() {
        let mut disk = Disk::new();
        disk.append(Some(state(1, 1)), &[entry(1, 1)]);
        disk.receive(5, &MemoryBackend::new());
        disk.save_snapshot_file(&snapshot(5, 2));
        disk.note_snapshot(&snapshot(5, 2));
        assert_eq!(disk.open(|_| 5).snapshot_index, 0);
        disk.append(Some(state(2, 5)), &[]);
        assert_eq!(disk.open(|_| 5).snapshot_index, 5);
        assert!(disk.durable().holds(&entry(1, 1)));
    }

    #[test]
    fn entries_that_a_snapshot_has_replaced_are_not_read() {
        for (term, left) in [(1, 2), (2, 0)] {
            let mut disk = Disk::new();
            disk.append(
                Some(state(1, 0)),
                &(1..6).map(|index| entry(index, 1)).collect::<Vec<_>>(),
            );
            disk.save_snapshot_file(&snapshot(3, term));
            disk.note_snapshot(&snapshot(3, term));
            disk.append(Some(state(2, 3)), &[]);
            assert_eq!(disk.open(|_| 3).entries.len(), left);
        }
    }
}
