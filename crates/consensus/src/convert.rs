//! Between etcd's `raftpb` and the library's `eraftpb`: where their numbers differ, and the moves.
//!
//! Payloads are moved, never copied. Entry, snapshot, hard state and configuration agree in every number, and so do the
//! message types 0 to 18. What does not:
//!
//! | | raftpb | eraftpb |
//! |---|---|---|
//! | change: update a member | 2 | none: nothing changes for Raft |
//! | change: add a learner | 3 | 2 |
//! | message fields 13 and 14 | `vote`, `responses`: local to a Go process | request snapshot, priority: unused here |
//! | message fields 15 and 16 | none | commit term, priority: never sent |
//! | message types 19 to 23 | storage threads, forget leader: local to a Go process | none |
//!
//! Entries keep etcd's bytes, so a change's type is mapped where it is applied, not where it is proposed. But a leader's
//! library parses every change that is proposed to it, and drops the proposal when the type is unknown to it. So a
//! proposed change passes through the library with empty data, which it takes for an empty change, and with the real
//! bytes in the entry's `context`, a field that etcd does not have; on the way out they take their place again.

use bytes::Bytes;
use raft::eraftpb;
use retcd_api::raftpb;

use crate::Error;

pub(crate) fn message_to_raft(message: raftpb::Message) -> Result<eraftpb::Message, Error> {
    let msg_type = message_type_to_raft(message.r#type)?;
    let is_proposal = msg_type == eraftpb::MessageType::MsgPropose;
    let entries = message
        .entries
        .into_iter()
        .map(|entry| if is_proposal { proposal_to_raft(entry) } else { entry_to_raft(entry) })
        .collect::<Result<Vec<_>, _>>()?;
    let mut converted = eraftpb::Message {
        msg_type,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.into(),
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        ..eraftpb::Message::default()
    };
    // Older Go members put an empty snapshot into every message.
    if let Some(snapshot) = message.snapshot.filter(|snapshot| snapshot_index(snapshot) != 0) {
        converted.set_snapshot(snapshot_to_raft(snapshot));
    }
    Ok(converted)
}

pub(crate) fn message_from_raft(mut message: eraftpb::Message) -> raftpb::Message {
    let snapshot = message.has_snapshot().then(|| snapshot_from_raft(message.take_snapshot()));
    raftpb::Message {
        r#type: message.msg_type as i32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.into_iter().map(entry_from_raft).collect(),
        commit: message.commit,
        vote: 0,
        snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        responses: Vec::new(),
    }
}

fn message_type_to_raft(number: i32) -> Result<eraftpb::MessageType, Error> {
    use eraftpb::MessageType as To;
    use raftpb::MessageType as From;
    let from = From::try_from(number).map_err(|_| Error::Malformed("unknown message type"))?;
    Ok(match from {
        From::MsgProp => To::MsgPropose,
        From::MsgApp => To::MsgAppend,
        From::MsgAppResp => To::MsgAppendResponse,
        From::MsgVote => To::MsgRequestVote,
        From::MsgVoteResp => To::MsgRequestVoteResponse,
        From::MsgSnap => To::MsgSnapshot,
        From::MsgHeartbeat => To::MsgHeartbeat,
        From::MsgHeartbeatResp => To::MsgHeartbeatResponse,
        From::MsgTransferLeader => To::MsgTransferLeader,
        From::MsgTimeoutNow => To::MsgTimeoutNow,
        From::MsgReadIndex => To::MsgReadIndex,
        From::MsgReadIndexResp => To::MsgReadIndexResp,
        From::MsgPreVote => To::MsgRequestPreVote,
        From::MsgPreVoteResp => To::MsgRequestPreVoteResponse,
        From::MsgHup
        | From::MsgBeat
        | From::MsgUnreachable
        | From::MsgSnapStatus
        | From::MsgCheckQuorum
        | From::MsgStorageAppend
        | From::MsgStorageAppendResp
        | From::MsgStorageApply
        | From::MsgStorageApplyResp
        | From::MsgForgetLeader => return Err(Error::LocalMessage(number)),
    })
}

pub(crate) fn entry_to_raft(entry: raftpb::Entry) -> Result<eraftpb::Entry, Error> {
    let entry_type = match raftpb::EntryType::try_from(entry.r#type) {
        Ok(raftpb::EntryType::EntryNormal) => eraftpb::EntryType::EntryNormal,
        Ok(raftpb::EntryType::EntryConfChange) => eraftpb::EntryType::EntryConfChange,
        Ok(raftpb::EntryType::EntryConfChangeV2) => eraftpb::EntryType::EntryConfChangeV2,
        Err(_) => return Err(Error::Malformed("unknown entry type")),
    };
    Ok(eraftpb::Entry {
        entry_type,
        term: entry.term,
        index: entry.index,
        data: entry.data,
        ..eraftpb::Entry::default()
    })
}

pub(crate) fn entry_from_raft(entry: eraftpb::Entry) -> raftpb::Entry {
    let data = if entry.context.is_empty() { entry.data } else { entry.context };
    raftpb::Entry { term: entry.term, index: entry.index, r#type: entry.entry_type as i32, data }
}

fn proposal_to_raft(entry: raftpb::Entry) -> Result<eraftpb::Entry, Error> {
    let entry = entry_to_raft(entry)?;
    Ok(match entry.entry_type {
        eraftpb::EntryType::EntryConfChange => conf_change_proposal(entry.data),
        eraftpb::EntryType::EntryNormal | eraftpb::EntryType::EntryConfChangeV2 => entry,
    })
}

/// A normal entry of a proposal: the leader fills in term and index.
pub(crate) fn proposal(data: Bytes) -> eraftpb::Entry {
    eraftpb::Entry { data, ..eraftpb::Entry::default() }
}

/// A membership change of a proposal, its bytes out of the library's sight.
pub(crate) fn conf_change_proposal(data: Bytes) -> eraftpb::Entry {
    let entry_type = eraftpb::EntryType::EntryConfChange;
    eraftpb::Entry { entry_type, context: data, ..eraftpb::Entry::default() }
}

pub(crate) fn snapshot_index(snapshot: &raftpb::Snapshot) -> u64 {
    snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index)
}

pub(crate) fn snapshot_to_raft(snapshot: raftpb::Snapshot) -> eraftpb::Snapshot {
    let mut converted = eraftpb::Snapshot { data: snapshot.data, ..eraftpb::Snapshot::default() };
    if let Some(metadata) = snapshot.metadata {
        converted.set_metadata(metadata_to_raft(metadata));
    }
    converted
}

pub(crate) fn metadata_to_raft(metadata: raftpb::SnapshotMetadata) -> eraftpb::SnapshotMetadata {
    let mut converted = eraftpb::SnapshotMetadata {
        index: metadata.index,
        term: metadata.term,
        ..eraftpb::SnapshotMetadata::default()
    };
    converted.set_conf_state(conf_state_to_raft(metadata.conf_state.unwrap_or_default()));
    converted
}

pub(crate) fn snapshot_from_raft(mut snapshot: eraftpb::Snapshot) -> raftpb::Snapshot {
    let mut metadata = snapshot.take_metadata();
    raftpb::Snapshot {
        data: snapshot.data,
        metadata: Some(raftpb::SnapshotMetadata {
            conf_state: Some(conf_state_from_raft(metadata.take_conf_state())),
            index: metadata.index,
            term: metadata.term,
        }),
    }
}

pub(crate) fn hard_state_to_raft(state: raftpb::HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term,
        vote: state.vote,
        commit: state.commit,
        ..eraftpb::HardState::default()
    }
}

pub(crate) fn hard_state_from_raft(state: &eraftpb::HardState) -> raftpb::HardState {
    raftpb::HardState { term: state.term, vote: state.vote, commit: state.commit }
}

pub(crate) fn conf_state_to_raft(state: raftpb::ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: state.voters,
        learners: state.learners,
        voters_outgoing: state.voters_outgoing,
        learners_next: state.learners_next,
        auto_leave: state.auto_leave,
        ..eraftpb::ConfState::default()
    }
}

/// Sorts the ids: the library keeps them in hash sets.
pub(crate) fn conf_state_from_raft(state: eraftpb::ConfState) -> raftpb::ConfState {
    let sorted = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        ids
    };
    raftpb::ConfState {
        voters: sorted(state.voters),
        learners: sorted(state.learners),
        voters_outgoing: sorted(state.voters_outgoing),
        learners_next: sorted(state.learners_next),
        auto_leave: state.auto_leave,
    }
}

/// What `change` means for Raft: nothing for an update of a member's addresses and for a change that was rejected
/// (`node_id` 0).
pub(crate) fn conf_change_to_raft(
    change: &raftpb::ConfChange,
) -> Result<Option<eraftpb::ConfChange>, Error> {
    use raftpb::ConfChangeType as From;
    let change_type = match From::try_from(change.r#type) {
        Ok(From::ConfChangeAddNode) => eraftpb::ConfChangeType::AddNode,
        Ok(From::ConfChangeRemoveNode) => eraftpb::ConfChangeType::RemoveNode,
        Ok(From::ConfChangeAddLearnerNode) => eraftpb::ConfChangeType::AddLearnerNode,
        Ok(From::ConfChangeUpdateNode) => return Ok(None),
        Err(_) => {
            return Err(Error::ImpossibleConfChange(format!("unknown type {}", change.r#type)));
        }
    };
    if change.node_id == 0 {
        return Ok(None);
    }
    Ok(Some(eraftpb::ConfChange {
        change_type,
        node_id: change.node_id,
        ..eraftpb::ConfChange::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_message() -> raftpb::Message {
        raftpb::Message {
            r#type: raftpb::MessageType::MsgApp as i32,
            to: 1,
            from: 2,
            term: 3,
            log_term: 4,
            index: 5,
            entries: vec![
                raftpb::Entry { term: 3, index: 6, r#type: 0, data: Bytes::from(vec![7; 100]) },
                raftpb::Entry { term: 3, index: 7, r#type: 1, data: Bytes::from_static(b"change") },
            ],
            commit: 6,
            vote: 0,
            snapshot: Some(raftpb::Snapshot {
                data: Bytes::from_static(b"members"),
                metadata: Some(raftpb::SnapshotMetadata {
                    conf_state: Some(raftpb::ConfState {
                        voters: vec![1, 2],
                        learners: vec![3],
                        ..raftpb::ConfState::default()
                    }),
                    index: 9,
                    term: 2,
                }),
            }),
            reject: true,
            reject_hint: 8,
            context: Bytes::from_static(b"context"),
            responses: Vec::new(),
        }
    }

    #[test]
    fn a_message_survives_both_ways() {
        let message = full_message();
        assert_eq!(message_from_raft(message_to_raft(message.clone()).unwrap()), message);
    }

    #[test]
    fn payloads_are_moved_not_copied() {
        let message = full_message();
        let payload = message.entries[0].data.as_ptr();
        let there = message_to_raft(message).unwrap();
        assert_eq!(there.entries[0].data.as_ptr(), payload);
        assert_eq!(message_from_raft(there).entries[0].data.as_ptr(), payload);
    }

    #[test]
    fn every_message_type_between_members_keeps_its_number() {
        for number in [2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18] {
            assert_eq!(message_type_to_raft(number).unwrap() as i32, number);
        }
        for number in [0, 1, 10, 11, 12, 19, 20, 21, 22, 23] {
            assert_eq!(message_type_to_raft(number), Err(Error::LocalMessage(number)));
        }
        assert_eq!(message_type_to_raft(24), Err(Error::Malformed("unknown message type")));
        assert_eq!(message_type_to_raft(-1), Err(Error::Malformed("unknown message type")));
    }

    #[test]
    fn the_empty_snapshot_of_older_members_is_none() {
        let message = raftpb::Message {
            r#type: raftpb::MessageType::MsgHeartbeat as i32,
            snapshot: Some(raftpb::Snapshot {
                data: Bytes::new(),
                metadata: Some(raftpb::SnapshotMetadata::default()),
            }),
            ..raftpb::Message::default()
        };
        assert!(!message_to_raft(message).unwrap().has_snapshot());
    }

    #[test]
    fn local_fields_of_a_go_member_are_not_taken() {
        let message = raftpb::Message {
            r#type: raftpb::MessageType::MsgAppResp as i32,
            vote: 7,
            responses: vec![raftpb::Message::default()],
            ..raftpb::Message::default()
        };
        let there = message_to_raft(message).unwrap();
        assert_eq!(
            (there.request_snapshot, there.deprecated_priority, there.commit_term, there.priority),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn changes_have_etcds_numbers() {
        let map = |number, node_id| {
            let change =
                raftpb::ConfChange { r#type: number, node_id, ..raftpb::ConfChange::default() };
            conf_change_to_raft(&change).map(|change| change.map(|change| change.change_type))
        };
        assert_eq!(map(0, 5), Ok(Some(eraftpb::ConfChangeType::AddNode)));
        assert_eq!(map(1, 5), Ok(Some(eraftpb::ConfChangeType::RemoveNode)));
        assert_eq!(map(2, 5), Ok(None));
        assert_eq!(map(3, 5), Ok(Some(eraftpb::ConfChangeType::AddLearnerNode)));
        assert_eq!(map(0, 0), Ok(None));
        assert!(map(4, 5).is_err());
    }

    #[test]
    fn a_proposed_change_passes_the_library_unseen() {
        let entry = raftpb::Entry {
            r#type: raftpb::EntryType::EntryConfChange as i32,
            data: Bytes::from_static(b"change"),
            ..raftpb::Entry::default()
        };
        let message = raftpb::Message {
            r#type: raftpb::MessageType::MsgProp as i32,
            entries: vec![entry],
            ..raftpb::Message::default()
        };
        let there = message_to_raft(message.clone()).unwrap();
        assert!(there.entries[0].data.is_empty());
        assert_eq!(message_from_raft(there), message);
    }

    #[test]
    fn unknown_entry_types_are_malformed() {
        let entry = raftpb::Entry { r#type: 3, ..raftpb::Entry::default() };
        assert_eq!(entry_to_raft(entry), Err(Error::Malformed("unknown entry type")));
    }
}
