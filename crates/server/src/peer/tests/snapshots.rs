//! Databases between members.

use bytes::Bytes;
use retcd_api::raftpb::{Message, MessageType, Snapshot, SnapshotMetadata};

use super::member::{Member, connected_pair, poll_until, run};

fn snapshot(from: &Member, to: u64, index: u64) -> Message {
    let metadata = SnapshotMetadata { index, term: 1, ..SnapshotMetadata::default() };
    let snapshot = Snapshot { data: "members".into(), metadata: Some(metadata) };
    Message { snapshot: Some(snapshot), ..from.message(to, MessageType::MsgSnap, 0) }
}

/// Pieces of several sizes, recognisable, and more than all queues on the way hold.
fn database() -> Vec<Bytes> {
    let piece =
        |at: usize| Bytes::from(vec![u8::try_from(at % 251).unwrap(); 1 + at * 7919 % 300_000]);
    (0..200).map(piece).collect()
}

async fn report(member: &Member) -> (u64, bool) {
    let first =
        member.told.until("a report", |state| state.snapshot_reports.first().copied()).await;
    member.told.with(|state| state.snapshot_reports.clear());
    first
}

#[test]
fn a_database_arrives_whole_before_its_message() {
    run(async {
        let (a, b) = connected_pair().await;
        a.told.with(|state| state.database = database());
        a.network.send(vec![snapshot(&a, 2, 42)]);
        assert_eq!(report(&a).await, (2, true));
        b.told.with(|state| {
            assert!(state.received_database == database().concat(), "the database differs");
            assert_eq!(state.messages, [snapshot(&a, 2, 42)]);
        });
        let size = database().concat().len() as u64;
        assert!(a.metric("etcd_network_peer_sent_bytes_total{To=\"2\"}") >= size);
        assert!(b.metric("etcd_network_peer_received_bytes_total{From=\"1\"}") >= size);
        assert_eq!(a.metric("etcd_network_snapshot_send_success{To=\"2\"}"), 1);
        assert_eq!(b.metric("etcd_network_snapshot_receive_success{From=\"1\"}"), 1);
        assert_eq!(a.metric("etcd_network_snapshot_send_inflights_total{To=\"2\"}"), 0);
    });
}

#[test]
fn a_database_that_breaks_off_is_no_snapshot() {
    run(async {
        let (a, b) = connected_pair().await;
        a.told.with(|state| {
            state.database = database();
            state.breaks_database = true;
        });
        a.network.send(vec![snapshot(&a, 2, 42)]);
        assert_eq!(report(&a).await, (2, false));
        let failures = || b.metric("etcd_network_snapshot_receive_failures{From=\"1\"}");
        poll_until("the failure is counted", || failures() == 1).await;
        assert_eq!(b.metric("etcd_network_snapshot_receive_inflights_total{From=\"1\"}"), 0);
        b.told.with(|state| assert!(state.messages.is_empty()));

        // The next try succeeds.
        a.told.with(|state| state.breaks_database = false);
        a.network.send(vec![snapshot(&a, 2, 43)]);
        assert_eq!(report(&a).await, (2, true));
    });
}

#[test]
fn a_receiver_that_cannot_save_says_so() {
    run(async {
        let (a, b) = connected_pair().await;
        a.told.with(|state| state.database = database());
        b.told.with(|state| state.refuses_database = true);
        a.network.send(vec![snapshot(&a, 2, 42)]);
        assert_eq!(report(&a).await, (2, false));
        b.told.with(|state| assert!(state.messages.is_empty()));
        assert_eq!(a.metric("etcd_network_snapshot_send_failures{To=\"2\"}"), 1);
    });
}

#[test]
fn messages_pass_while_a_database_is_on_its_way() {
    run(async {
        let (a, b) = connected_pair().await;
        a.told.with(|state| state.database = database());
        a.network.send(vec![snapshot(&a, 2, 42), a.message(2, MessageType::MsgHeartbeat, 1)]);
        b.told.message(MessageType::MsgHeartbeat, 1).await;
        assert_eq!(report(&a).await, (2, true));
    });
}
