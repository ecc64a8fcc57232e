//! What a node starts from: what was on disk, or the first entries of a new cluster.

use bytes::Bytes;
use prost::Message as _;
use raft::RaftState;
use retcd_api::raftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, SnapshotMetadata,
};

use crate::log::Log;
use crate::{Error, convert};

/// The state found on disk at start. The default is a member that joins a running cluster: it knows nothing yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InitialState {
    pub hard_state: HardState,
    /// The members as of `applied`; changes in later entries come out as committed entries again.
    pub conf_state: ConfState,
    /// The last entry that is covered by the snapshot, 0 without one.
    pub snapshot_index: u64,
    pub snapshot_term: u64,
    /// All entries after the snapshot, without gaps.
    pub entries: Vec<Entry>,
    /// The last entry the state machine has applied durably; later ones are given out again.
    pub applied: u64,
}

/// A member of a new cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstMember {
    pub id: u64,
    /// The context of its entry: etcd's member object as JSON.
    pub context: Bytes,
}

impl InitialState {
    /// The state every member of a new cluster starts from, as etcd writes it: one committed change per member, by
    /// ascending id, at term 1.
    ///
    /// Its `entries` and `hard_state` must be made durable before the node's first output is. The changes come out as
    /// the first committed entries and take effect through
    /// [`apply_conf_change`](crate::Node::apply_conf_change); until then the member stands for no election. A single
    /// member then calls [`campaign`](crate::Node::campaign) to lead at once.
    pub fn bootstrap(mut members: Vec<FirstMember>) -> Self {
        members.sort_by_key(|member| member.id);
        let entries: Vec<_> = members
            .into_iter()
            .zip(1..)
            .map(|(member, index)| first_entry(member, index))
            .collect();
        let hard_state = HardState { term: 1, vote: 0, commit: entries.len() as u64 };
        Self { hard_state, entries, ..Self::default() }
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.snapshot_index + self.entries.len() as u64
    }

    /// Checks what must hold of any state that was written by a node, and mends what a crash may leave behind.
    ///
    /// - A commit index is written lazily, so it may lag behind what is known to be committed: the snapshot and what
    ///   was applied.
    /// - A torn last write may hold entries of a term without the hard state of that term. Nothing was promised in
    ///   that term then, so it is entered without a vote.
    pub(crate) fn checked(mut self) -> Result<Self, Error> {
        self.check_entries()?;
        let last_term = self.entries.last().map_or(self.snapshot_term, |entry| entry.term);
        if self.hard_state.term < last_term {
            self.hard_state = HardState { term: last_term, vote: 0, ..self.hard_state };
        }
        self.applied = self.applied.max(self.snapshot_index);
        self.hard_state.commit = self.hard_state.commit.max(self.applied);
        if self.hard_state.commit > self.last_index() {
            return Err(Error::InvalidState(format!(
                "commit index {} (applied {}) lies beyond the last entry {}",
                self.hard_state.commit,
                self.applied,
                self.last_index()
            )));
        }
        Ok(self)
    }

    fn check_entries(&self) -> Result<(), Error> {
        let mut term = self.snapshot_term;
        for (entry, expected) in self.entries.iter().zip(self.snapshot_index + 1..) {
            if entry.index != expected {
                return Err(Error::InvalidState(format!(
                    "entry {} found where {expected} should be",
                    entry.index
                )));
            }
            if entry.term < term {
                return Err(Error::InvalidState(format!(
                    "entry {expected} has term {} after term {term}",
                    entry.term
                )));
            }
            if EntryType::try_from(entry.r#type).is_err() {
                return Err(Error::InvalidState(format!(
                    "entry {expected} has the unknown type {}",
                    entry.r#type
                )));
            }
            term = entry.term;
        }
        Ok(())
    }

    /// The log in memory of a checked state.
    pub(crate) fn into_log(self) -> Log {
        let initial = RaftState::new(
            convert::hard_state_to_raft(self.hard_state),
            convert::conf_state_to_raft(self.conf_state.clone()),
        );
        let unset = SnapshotMetadata::default();
        let mut log =
            Log::new(self.snapshot_index, self.snapshot_term, self.entries, initial, unset);
        log.set_applied(self.applied, &self.conf_state);
        log
    }
}

fn first_entry(member: FirstMember, index: u64) -> Entry {
    let change = ConfChange {
        id: 0,
        r#type: ConfChangeType::ConfChangeAddNode as i32,
        node_id: member.id,
        context: member.context,
    };
    Entry {
        term: 1,
        index,
        r#type: EntryType::EntryConfChange as i32,
        data: change.encode_to_vec().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { term, index, r#type: 0, data: Bytes::from_static(b"x") }
    }

    fn state(entries: Vec<Entry>, term: u64, commit: u64, applied: u64) -> InitialState {
        InitialState {
            hard_state: HardState { term, vote: 3, commit },
            snapshot_index: 4,
            snapshot_term: 1,
            entries,
            applied,
            ..InitialState::default()
        }
    }

    #[test]
    fn bootstrap_writes_one_committed_change_per_member_by_id() {
        let member = |id, context| FirstMember { id, context: Bytes::from_static(context) };
        let state = InitialState::bootstrap(vec![member(7, b"b"), member(3, b"a")]);
        assert_eq!(state.hard_state, HardState { term: 1, vote: 0, commit: 2 });
        assert_eq!(state.conf_state, ConfState::default());
        let changes: Vec<_> = state
            .entries
            .iter()
            .map(|entry| {
                assert_eq!((entry.term, entry.r#type), (1, EntryType::EntryConfChange as i32));
                let change = ConfChange::decode(entry.data.clone()).unwrap();
                (entry.index, change.r#type, change.node_id, change.context)
            })
            .collect();
        assert_eq!(
            changes,
            [(1, 0, 3, Bytes::from_static(b"a")), (2, 0, 7, Bytes::from_static(b"b"))]
        );
    }

    #[test]
    fn gaps_and_falling_terms_are_refused() {
        for entries in
            [vec![entry(6, 2)], vec![entry(5, 2), entry(7, 2)], vec![entry(5, 2), entry(6, 1)]]
        {
            assert!(matches!(state(entries, 2, 5, 4).checked(), Err(Error::InvalidState(_))));
        }
        let unknown = Entry { r#type: 9, ..entry(5, 2) };
        assert!(matches!(state(vec![unknown], 2, 5, 4).checked(), Err(Error::InvalidState(_))));
    }

    #[test]
    fn a_commit_index_beyond_the_log_is_refused() {
        assert!(state(vec![entry(5, 2)], 2, 6, 4).checked().is_err());
        assert!(state(vec![entry(5, 2)], 2, 5, 6).checked().is_err());
    }

    #[test]
    fn a_lagging_commit_index_follows_the_snapshot_and_the_applied_index() {
        let commit = |commit, applied| {
            state(vec![entry(5, 2), entry(6, 2)], 2, commit, applied)
                .checked()
                .unwrap()
                .hard_state
                .commit
        };
        assert_eq!(commit(0, 0), 4);
        assert_eq!(commit(4, 6), 6);
        assert_eq!(commit(5, 4), 5);
    }

    #[test]
    fn a_term_without_its_hard_state_is_entered_without_a_vote() {
        let checked = state(vec![entry(5, 9)], 2, 4, 4).checked().unwrap();
        assert_eq!((checked.hard_state.term, checked.hard_state.vote), (9, 0));
        let checked = state(vec![entry(5, 2)], 2, 4, 4).checked().unwrap();
        assert_eq!((checked.hard_state.term, checked.hard_state.vote), (2, 3));
    }
}
