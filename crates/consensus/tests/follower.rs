//! A member of five, told what to do by messages: orders of events that are too rare to wait for in simulations.

#![allow(clippy::unwrap_used, reason = "what is unwrapped here is what the tests claim")]

use bytes::Bytes;
use prost::Message as _;
use retcd_api::raftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Message, MessageType,
    Snapshot, SnapshotMetadata,
};
use retcd_consensus::{Config, Error, InitialState, Node, Role};

/// Member 2 of five with three old entries at term 1.
fn follower() -> Node {
    let entries = (1..=3).map(|index| entry(index, 1)).collect();
    let initial = InitialState {
        hard_state: HardState { term: 1, vote: 0, commit: 3 },
        conf_state: voters(&[1, 2, 3, 4, 5]),
        entries,
        applied: 3,
        ..InitialState::default()
    };
    Node::new(&Config::new(2, 1), initial).unwrap()
}

fn voters(ids: &[u64]) -> ConfState {
    ConfState { voters: ids.to_vec(), ..ConfState::default() }
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { term, index, r#type: 0, data: Bytes::from(format!("{index}@{term}")) }
}

fn message(r#type: MessageType, from: u64, term: u64) -> Message {
    Message { r#type: r#type as i32, from, to: 2, term, ..Message::default() }
}

fn append(from: u64, term: u64, after: (u64, u64), entries: Vec<Entry>, commit: u64) -> Message {
    let (index, log_term) = after;
    Message { index, log_term, entries, commit, ..message(MessageType::MsgApp, from, term) }
}

fn snapshot(index: u64, term: u64, conf_state: ConfState) -> Message {
    let metadata = SnapshotMetadata { index, term, conf_state: Some(conf_state) };
    let snapshot = Snapshot { data: Bytes::from_static(b"state"), metadata: Some(metadata) };
    Message { snapshot: Some(snapshot), ..message(MessageType::MsgSnap, 1, term) }
}

fn types(messages: &[Message]) -> Vec<MessageType> {
    messages.iter().map(Message::r#type).collect()
}

#[test]
fn an_append_is_acknowledged_only_after_it_is_persisted() {
    let mut node = follower();
    node.step(append(1, 2, (3, 1), vec![entry(4, 2)], 3)).unwrap();
    assert!(node.take_messages().is_empty());
    let output = node.take_output();
    assert_eq!(output.persist.entries, [entry(4, 2)]);
    assert!(output.messages.is_empty());
    assert_eq!(types(&output.messages_after_persist), [MessageType::MsgAppResp]);
}

#[test]
fn a_vote_leaves_only_after_it_is_persisted() {
    let mut node = follower();
    let request = Message { index: 3, log_term: 1, ..message(MessageType::MsgVote, 4, 2) };
    node.step(request).unwrap();
    assert!(node.take_messages().is_empty());
    let output = node.take_output();
    assert_eq!(output.persist.hard_state, Some(HardState { term: 2, vote: 4, commit: 3 }));
    assert!(output.persist.must_sync && output.messages.is_empty());
    assert_eq!(types(&output.messages_after_persist), [MessageType::MsgVoteResp]);
}

#[test]
fn answers_that_promise_nothing_do_not_wait_for_the_disk() {
    let mut node = follower();
    node.step(append(1, 2, (3, 1), vec![entry(4, 2)], 3)).unwrap();
    let slow = node.take_output();
    node.step(Message {
        context: Bytes::from_static(b"read"),
        ..message(MessageType::MsgHeartbeat, 1, 2)
    })
    .unwrap();
    node.step(append(1, 2, (9, 2), vec![entry(10, 2)], 3)).unwrap();
    node.propose(vec![Bytes::from_static(b"forwarded")]).unwrap();
    let now = node.take_messages();
    assert_eq!(
        types(&now),
        [MessageType::MsgHeartbeatResp, MessageType::MsgAppResp, MessageType::MsgProp]
    );
    assert_eq!(now[0].context, Bytes::from_static(b"read"));
    assert!(now[1].reject);
    node.persisted(slow.number);
}

#[test]
fn overwritten_entries_in_flight_count_when_the_last_write_is_done() {
    let mut node = follower();
    let lost: Vec<_> = (4..=6).map(|index| entry(index, 2)).collect();
    // Leader 1 of term 2; then leader 3 of term 3, who has none of its entries; then 1 again, in term 4.
    node.step(append(1, 2, (3, 1), lost.clone(), 3)).unwrap();
    let first = node.take_output();
    node.step(append(3, 3, (3, 1), vec![entry(4, 3)], 3)).unwrap();
    let second = node.take_output();
    node.step(append(1, 4, (3, 1), [lost.clone(), vec![entry(7, 4)]].concat(), 7)).unwrap();
    let third = node.take_output();
    assert_eq!(node.commit_index(), 7);

    // The first write makes 4 to 6 look right, but the second is still to replace them.
    node.persisted(first.number);
    assert!(node.take_output().committed.is_empty());
    node.persisted(second.number);
    assert!(node.take_output().committed.is_empty());
    node.persisted(third.number);
    assert_eq!(node.take_output().committed, [lost, vec![entry(7, 4)]].concat());
}

#[test]
fn an_older_change_is_not_put_on_top_of_a_snapshot() {
    let mut node = follower();
    let change = ConfChange {
        r#type: ConfChangeType::ConfChangeRemoveNode as i32,
        node_id: 3,
        ..ConfChange::default()
    };
    let removal = Entry {
        r#type: EntryType::EntryConfChange as i32,
        data: change.encode_to_vec().into(),
        ..entry(4, 2)
    };
    node.step(append(1, 2, (3, 1), vec![removal.clone()], 4)).unwrap();
    let output = node.take_output();
    node.persisted(output.number);
    let output = node.take_output();
    assert_eq!(output.committed, [removal]);

    // Before the removal is applied here a snapshot comes in which 3 is a member again.
    node.step(snapshot(20, 2, voters(&[1, 2, 3, 4]))).unwrap();
    assert_eq!(node.apply_conf_change(&change).unwrap(), voters(&[1, 2, 4, 5]));
    node.applied(4);
    assert_eq!(node.snapshot_metadata().conf_state, Some(voters(&[1, 2, 4, 5])));

    let output = node.take_output();
    assert!(output.persist.snapshot.is_some());
    node.persisted(output.number);
    node.applied(20);
    assert_eq!(node.conf_state(), &voters(&[1, 2, 3, 4]));
    assert_eq!(node.snapshot_metadata().index, 20);

    node.forget_leader();
    node.campaign();
    let mut asked: Vec<_> = node.take_messages().iter().map(|message| message.to).collect();
    asked.sort_unstable();
    assert_eq!(asked, [1, 3, 4]);
}

#[test]
fn no_election_while_a_snapshot_is_installed() {
    let mut node = follower();
    node.step(snapshot(20, 2, voters(&[1, 2, 3]))).unwrap();
    let output = node.take_output();
    node.persisted(output.number);
    for _ in 0..50 {
        node.tick();
    }
    node.campaign();
    assert_eq!(node.role(), Role::Follower);

    node.applied(20);
    node.tick();
    assert_eq!(node.role(), Role::PreCandidate, "the election was only put off");
}

#[test]
fn two_snapshots_may_be_on_their_way() {
    let mut node = follower();
    node.step(snapshot(20, 2, voters(&[1, 2, 3]))).unwrap();
    let first = node.take_output();
    node.step(snapshot(30, 2, voters(&[1, 2]))).unwrap();
    let second = node.take_output();
    node.persisted(first.number);
    node.applied(20);
    assert_eq!(node.conf_state(), &voters(&[1, 2, 3]));
    node.persisted(second.number);
    node.applied(30);
    assert_eq!(node.conf_state(), &voters(&[1, 2]));
    assert_eq!((node.first_index(), node.snapshot_metadata().index), (31, 30));
}

#[test]
fn no_early_election_with_entries_in_flight() {
    let mut node = follower();
    node.step(append(1, 2, (3, 1), vec![entry(4, 2)], 3)).unwrap();
    let output = node.take_output();
    node.step(message(MessageType::MsgTimeoutNow, 1, 2)).unwrap();
    assert_eq!(node.role(), Role::Follower);
    node.persisted(output.number);
    node.step(message(MessageType::MsgTimeoutNow, 1, 2)).unwrap();
    assert_eq!(node.role(), Role::Candidate);
}

#[test]
fn messages_no_member_sends_are_refused() {
    let mut node = follower();
    let refused = [
        (message(MessageType::MsgHup, 1, 1), Error::LocalMessage(0)),
        (message(MessageType::MsgForgetLeader, 1, 1), Error::LocalMessage(23)),
        (message(MessageType::MsgHeartbeat, 0, 1), Error::Malformed("no sender")),
        (message(MessageType::MsgHeartbeat, 1, 0), Error::Malformed("no term")),
        (message(MessageType::MsgProp, 1, 0), Error::Malformed("no entries")),
        (message(MessageType::MsgReadIndex, 1, 0), Error::Malformed("no entries")),
        (message(MessageType::MsgAppResp, 9, 1), Error::UnknownPeer(9)),
        (message(MessageType::MsgApp, 2, 1), Error::Malformed("sent by this member")),
    ];
    for (message, error) in refused {
        assert_eq!(node.step(message), Err(error));
    }
    assert!(!node.has_output());
}

#[test]
fn a_forwarded_transfer_is_not_forwarded_again() {
    let mut node = follower();
    node.step(message(MessageType::MsgHeartbeat, 1, 2)).unwrap();
    assert_eq!(types(&node.take_messages()), [MessageType::MsgHeartbeatResp]);
    node.step(message(MessageType::MsgTransferLeader, 4, 2)).unwrap();
    assert!(node.take_messages().is_empty());
}

#[test]
fn an_own_question_that_comes_back_does_not_go_round() {
    let mut node = follower();
    node.step(message(MessageType::MsgHeartbeat, 1, 2)).unwrap();
    node.take_messages();
    for r#type in [MessageType::MsgReadIndex, MessageType::MsgProp] {
        let back = Message { entries: vec![entry(0, 0)], ..message(r#type, 2, 0) };
        node.step(back).unwrap();
        assert!(node.take_messages().is_empty());
    }
}
