//! A cluster of one: everything the driver promises can be seen without a network.

#![allow(clippy::unwrap_used, reason = "what is unwrapped here is what the tests claim")]

use bytes::Bytes;
use prost::Message as _;
use retcd_api::raftpb::{
    ConfChange, ConfChangeType, Entry, EntryType, HardState, Message, MessageType,
};
use retcd_consensus::{
    Config, Error, FirstMember, InitialState, Node, Output, Persist, Refusal, Role,
};

fn bootstrapped() -> Node {
    let member = FirstMember { id: 1, context: Bytes::from_static(b"{}") };
    Node::new(&Config::new(1, 7), InitialState::bootstrap(vec![member])).unwrap()
}

/// Applies the committed entries of `output` as a server would.
fn apply(node: &mut Node, output: &Output) {
    for entry in &output.committed {
        if entry.r#type == EntryType::EntryConfChange as i32 {
            node.apply_conf_change(&ConfChange::decode(entry.data.clone()).unwrap()).unwrap();
        }
    }
    if let Some(last) = output.committed.last() {
        node.applied(last.index);
    }
}

/// Handles outputs until there is nothing left to do; returns all committed entries.
fn run(node: &mut Node) -> Vec<Entry> {
    let mut committed = Vec::new();
    while node.has_output() {
        let output = node.take_output();
        node.persisted(output.number);
        apply(node, &output);
        committed.extend(output.committed);
    }
    committed
}

fn leading() -> Node {
    let mut node = bootstrapped();
    run(&mut node);
    node.campaign();
    run(&mut node);
    assert_eq!(node.role(), Role::Leader);
    node
}

fn payloads(texts: &[&'static str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
}

fn data(entries: &[Entry]) -> Vec<&[u8]> {
    entries.iter().map(|entry| entry.data.as_ref()).collect()
}

#[test]
fn a_bootstrapped_member_leads_after_its_first_change_is_applied() {
    let mut node = bootstrapped();
    node.campaign();
    assert_eq!(
        node.role(),
        Role::Follower,
        "without an applied configuration there is nobody to elect"
    );
    assert_eq!(node.conf_state().voters, [0; 0]);

    let first = run(&mut node);
    assert_eq!(first.iter().map(|entry| (entry.term, entry.index)).collect::<Vec<_>>(), [(1, 1)]);
    assert_eq!(node.conf_state().voters, [1]);

    node.campaign();
    let committed = run(&mut node);
    assert_eq!((node.role(), node.leader(), node.term()), (Role::Leader, 1, 2));
    assert_eq!(data(&committed), [b""], "a leader begins its term with an empty entry");
}

#[test]
fn nothing_is_committed_before_it_is_persisted() {
    let mut node = leading();
    node.propose(payloads(&["a", "b"])).unwrap();
    let first = node.take_output();
    assert_eq!(data(&first.persist.entries), [b"a", b"b"]);
    assert!(first.persist.must_sync);
    assert!(first.committed.is_empty());

    // The disk is slow: ticks, reads and a second batch come in the meantime.
    for _ in 0..30 {
        node.tick();
    }
    node.propose(payloads(&["c"])).unwrap();
    let second = node.take_output();
    assert_eq!(data(&second.persist.entries), [b"c"]);
    assert!(second.committed.is_empty());
    assert!(!node.has_output());
    assert_eq!(node.commit_index(), first.persist.entries[0].index - 1);

    node.persisted(first.number);
    let third = node.take_output();
    assert_eq!(data(&third.committed), [b"a", b"b"]);
    let state = third.persist.hard_state.expect("the commit index has moved");
    assert_eq!(state.commit, first.persist.entries[1].index);
    assert!(!third.persist.must_sync, "a commit index alone needs no sync");

    node.persisted(second.number);
    assert_eq!(data(&node.take_output().committed), [b"c"]);
}

#[test]
fn one_report_may_cover_several_outputs() {
    let mut node = leading();
    node.propose(payloads(&["a"])).unwrap();
    let first = node.take_output();
    node.propose(payloads(&["b"])).unwrap();
    let second = node.take_output();
    assert_eq!(second.number, first.number + 1);
    node.persisted(second.number);
    assert_eq!(data(&node.take_output().committed), [b"a", b"b"]);
}

#[test]
#[should_panic(expected = "was never taken")]
fn an_output_that_was_never_taken_cannot_be_persisted() {
    bootstrapped().persisted(1);
}

#[test]
fn a_payload_comes_back_in_the_same_memory() {
    let mut node = leading();
    let payload = Bytes::from(vec![7; 4096]);
    let address = payload.as_ptr();
    node.propose(vec![payload]).unwrap();
    let output = node.take_output();
    assert_eq!(output.persist.entries[0].data.as_ptr(), address);
    node.persisted(output.number);
    assert_eq!(node.take_output().committed[0].data.as_ptr(), address);
}

#[test]
fn a_refused_proposal_gives_its_payloads_back() {
    let mut node = bootstrapped();
    let refused = node.propose(payloads(&["a", "b"])).unwrap_err();
    assert_eq!(refused.reason, Refusal::NoLeader);
    assert_eq!(refused.payloads, payloads(&["a", "b"]));
    assert!(!node.read_index(Bytes::from_static(b"r")));
}

#[test]
fn uncommitted_bytes_are_limited() {
    let member = FirstMember { id: 1, context: Bytes::new() };
    let config = Config { max_uncommitted_bytes: 1 << 20, ..Config::new(1, 7) };
    let mut node = Node::new(&config, InitialState::bootstrap(vec![member])).unwrap();
    run(&mut node);
    node.campaign();
    run(&mut node);

    let large = Bytes::from(vec![0; 700 << 10]);
    node.propose(vec![large.clone()]).unwrap();
    let refused = node.propose(vec![large.clone()]).unwrap_err();
    assert_eq!(refused.reason, Refusal::TooManyUncommitted);
    run(&mut node);
    node.propose(vec![large]).unwrap();
}

#[test]
fn a_proposal_of_nothing_does_nothing() {
    let mut node = leading();
    node.propose(Vec::new()).unwrap();
    assert!(!node.has_output());
}

#[test]
fn a_read_is_free() {
    let mut node = leading();
    node.propose(payloads(&["a"])).unwrap();
    run(&mut node);
    assert!(node.read_index(Bytes::from_static(b"r1")));
    let output = node.take_output();
    assert_eq!(output.persist, Persist::default());
    assert_eq!(output.read_states.len(), 1);
    assert_eq!(
        (output.read_states[0].context.as_ref(), output.read_states[0].index),
        (&b"r1"[..], node.commit_index())
    );
}

/// As a follower it has asked the leader before, which has sent the question on.
#[test]
fn a_leader_answers_its_own_question_from_its_time_as_a_follower() {
    let mut node = leading();
    let question = Entry { data: Bytes::from_static(b"r1"), ..Entry::default() };
    let back = Message {
        r#type: MessageType::MsgReadIndex as i32,
        from: 1,
        to: 1,
        entries: vec![question],
        ..Message::default()
    };
    node.step(back).unwrap();
    let output = node.take_output();
    assert_eq!(output.read_states.len(), 1);
    assert_eq!(output.read_states[0].context.as_ref(), b"r1");
    assert!(node.take_messages().is_empty());
}

#[test]
fn a_read_before_the_leaders_first_commit_is_answered_after_it() {
    let mut node = bootstrapped();
    run(&mut node);
    node.campaign();
    assert!(node.read_index(Bytes::from_static(b"early")));
    let output = node.take_output();
    assert!(output.read_states.is_empty());
    node.persisted(output.number);
    let output = node.take_output();
    assert_eq!(output.read_states.len(), 1);
    assert_eq!(output.read_states[0].index, 2);
}

#[test]
fn a_new_leaders_first_words_wait_until_its_term_is_durable() {
    // A voter and a learner: the voter elects itself in one step, before its term was written anywhere.
    let mut node = leading();
    let learner = ConfChange {
        r#type: ConfChangeType::ConfChangeAddLearnerNode as i32,
        node_id: 2,
        ..ConfChange::default()
    };
    node.propose_conf_change(&learner).unwrap();
    run(&mut node);
    assert_eq!(node.conf_state().learners, [2]);

    let restarted = InitialState {
        hard_state: HardState { term: 2, vote: 1, commit: 0 },
        conf_state: node.conf_state().clone(),
        snapshot_index: 3,
        snapshot_term: 2,
        ..InitialState::default()
    };
    let mut node = Node::new(&Config::new(1, 7), restarted).unwrap();
    node.campaign();
    assert_eq!((node.role(), node.term()), (Role::Leader, 3));
    assert!(node.take_messages().is_empty());
    let output = node.take_output();
    assert!(output.messages.is_empty());
    assert!(!output.messages_after_persist.is_empty());
    for _ in 0..3 {
        node.tick();
    }
    assert!(node.take_messages().is_empty(), "not even a heartbeat");
    node.persisted(output.number);
    let heartbeats = node.take_messages();
    assert!(heartbeats.iter().any(|message| message.r#type == MessageType::MsgHeartbeat as i32));
}

#[test]
fn a_restart_gives_out_what_is_not_applied_and_nothing_else() {
    let mut disk = InitialState::bootstrap(vec![FirstMember { id: 1, context: Bytes::new() }]);
    let mut node = Node::new(&Config::new(1, 7), disk.clone()).unwrap();
    run(&mut node);
    node.campaign();
    node.propose(payloads(&["a", "b", "c"])).unwrap();
    let output = node.take_output();
    disk.entries.extend(output.persist.entries.clone());
    disk.hard_state = output.persist.hard_state.unwrap();

    // Nothing said that the entries are committed; alone the member may decide so.
    disk.applied = 1;
    disk.conf_state = node.conf_state().clone();
    let mut node = Node::new(&Config::new(1, 8), disk.clone()).unwrap();
    assert!(run(&mut node).is_empty());
    node.campaign();
    assert_eq!(data(&run(&mut node)), [&b""[..], b"a", b"b", b"c", b""]);

    // The backend has applied more than the lazily written commit index says.
    disk.applied = 4;
    let mut node = Node::new(&Config::new(1, 9), disk).unwrap();
    assert_eq!(node.commit_index(), 4);
    node.campaign();
    assert_eq!(data(&run(&mut node)), [&b"c"[..], b""]);
}

#[test]
fn compaction_stays_behind_the_applied_index() {
    let mut node = leading();
    node.propose(payloads(&["a", "b", "c"])).unwrap();
    let output = node.take_output();
    node.persisted(output.number);
    node.compact_log(u64::MAX);
    assert_eq!(node.first_index(), 3);
    assert_eq!(data(&run(&mut node)), [b"a", b"b", b"c"]);
    node.compact_log(4);
    assert_eq!((node.first_index(), node.last_index()), (5, 5));
    assert_eq!(
        (node.term_of(3), node.term_of(4), node.term_of(5), node.term_of(6)),
        (None, Some(2), Some(2), None)
    );
}

#[test]
fn the_last_voter_cannot_be_removed() {
    let mut node = leading();
    let change = ConfChange {
        r#type: ConfChangeType::ConfChangeRemoveNode as i32,
        node_id: 1,
        ..ConfChange::default()
    };
    assert!(matches!(node.apply_conf_change(&change), Err(Error::ImpossibleConfChange(_))));
    assert_eq!(node.conf_state().voters, [1]);
}

#[test]
fn a_rejected_change_and_an_update_change_nothing() {
    let mut node = leading();
    let rejected =
        ConfChange { r#type: ConfChangeType::ConfChangeAddNode as i32, ..ConfChange::default() };
    assert_eq!(node.apply_conf_change(&rejected).unwrap().voters, [1]);
    let update = ConfChange {
        r#type: ConfChangeType::ConfChangeUpdateNode as i32,
        node_id: 9,
        ..ConfChange::default()
    };
    assert_eq!(node.apply_conf_change(&update).unwrap().voters, [1]);
}

#[test]
fn invalid_settings_are_refused() {
    let broken: [fn(&mut Config); 4] = [
        |config| config.id = 0,
        |config| config.heartbeat_ticks = 0,
        |config| config.election_ticks = 1,
        |config| config.max_inflight = 0,
    ];
    for change in broken {
        let mut config = Config::new(1, 1);
        change(&mut config);
        assert!(matches!(
            Node::new(&config, InitialState::default()),
            Err(Error::InvalidConfig(_))
        ));
    }
}

/// The node moves to the log's thread and stands behind a lock there.
#[test]
fn a_node_may_move_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Node>();
}
