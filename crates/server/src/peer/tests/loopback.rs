//! Members in one process.

use std::pin::Pin;
use std::time::{Duration, Instant};

use http_body::Body as _;
use retcd_api::raftpb::MessageType;
use retcd_testkit::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::member::{AT_ONCE, CLUSTER, Member, connected_pair, poll_until, run};
use crate::peer::inbox::StreamKind;
use crate::peer::writer::StreamBody;

#[test]
fn messages_arrive_in_order_over_the_streams() {
    run(async {
        let (a, b) = connected_pair().await;
        for index in 1..=1000 {
            a.network.send(vec![
                a.append(2, index, "value"),
                a.message(2, MessageType::MsgHeartbeat, index),
            ]);
        }
        let last = b.told.message(MessageType::MsgApp, 1000).await;
        assert_eq!(last, a.append(2, 1000, "value"));
        b.told.message(MessageType::MsgHeartbeat, 1000).await;
        b.told.with(|state| {
            for kind in [MessageType::MsgApp, MessageType::MsgHeartbeat] {
                let of_kind = state.messages.iter().filter(|message| message.r#type() == kind);
                let indexes: Vec<_> = of_kind.map(|message| message.index).collect();
                assert_eq!(indexes, (1..=1000).collect::<Vec<_>>());
            }
            // What comes together is stepped together.
            assert!(state.batches < 1000, "{} batches", state.batches);
        });
        assert!(a.metric("etcd_network_peer_sent_bytes_total{To=\"2\"}") > 10_000);
        assert!(b.metric("etcd_network_peer_received_bytes_total{From=\"1\"}") > 10_000);
        assert_eq!(a.metric("etcd_network_active_peers{Local=\"1\",Remote=\"2\"}"), 1);
        a.told.with(|state| assert!(state.unreachable.is_empty()));
    });
}

#[test]
fn the_first_messages_go_by_post_before_any_stream_is_up() {
    run(async {
        let (a, b) = (Member::start(1, CLUSTER), Member::start(2, CLUSTER));
        // B does not know A: no stream can be opened.
        a.know(&b);
        a.network.send(vec![a.message(2, MessageType::MsgPreVote, 7)]);
        b.told.message(MessageType::MsgPreVote, 7).await;
        assert!(!a.network.has_streams_to(2));
        // B has learned from the request where A is, and can answer.
        b.network.send(vec![b.message(1, MessageType::MsgPreVoteResp, 7)]);
        a.told.message(MessageType::MsgPreVoteResp, 7).await;
    });
}

#[test]
fn peers_and_messages_may_come_before_the_start() {
    run(async {
        let b = Member::start(2, CLUSTER);
        let a = Member::start_later(1, CLUSTER);
        a.know(&b);
        a.network.send(vec![a.message(2, MessageType::MsgPreVote, 3)]);
        b.know(&a);
        a.network.start(a.told.callbacks());
        b.told.message(MessageType::MsgPreVote, 3).await;
        a.streams_to(2).await;
    });
}

#[test]
fn three_members_reach_each_other() {
    run(async {
        let members = [1, 2, 3].map(|id| Member::start(id, CLUSTER));
        for member in &members {
            for other in &members {
                member.know(other);
            }
        }
        for (member, other) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            members[member].streams_to(members[other].id).await;
        }
        let a = &members[0].network;
        poll_until("both are active", || a.connected_count(Duration::ZERO) == 2).await;
        assert_eq!(a.connected_count(Duration::from_secs(3600)), 0);
        let oldest = a.longest_connected(&[1, 2, 3]).unwrap();
        let younger = 5 - oldest;
        assert!(a.active_since(oldest).unwrap() <= a.active_since(younger).unwrap());
        assert_eq!(a.longest_connected(&[younger, 9]), Some(younger));
        assert_eq!(a.longest_connected(&[9]), None);
        for to in [2, 3] {
            a.send(vec![members[0].message(to, MessageType::MsgHeartbeat, 5)]);
        }
        for other in &members[1..] {
            other.told.message(MessageType::MsgHeartbeat, 5).await;
        }
    });
}

#[test]
fn a_dead_peer_is_told_at_once_and_found_again_after_its_restart() {
    run(async {
        let (a, b) = connected_pair().await;
        let url = b.url.clone();
        let before = Instant::now();
        b.die().await;
        a.told.until("the peer died", |state| (state.died == [2]).then_some(())).await;
        assert!(before.elapsed() < AT_ONCE, "took {:?}", before.elapsed());
        a.told.until("unreachable", |state| state.unreachable.contains(&2).then_some(())).await;
        assert_eq!(a.network.active_since(2), None);
        assert!(a.metric("etcd_network_disconnected_peers_total{Local=\"1\",Remote=\"2\"}") >= 1);

        let b = Member::start_at(2, CLUSTER, &url, None);
        b.know(&a);
        a.streams_to(2).await;
        b.streams_to(1).await;
        a.network.send(vec![a.append(2, 1, "again")]);
        assert_eq!(b.told.message(MessageType::MsgApp, 1).await, a.append(2, 1, "again"));
        // One loss, one notice.
        a.told.with(|state| assert_eq!(state.died, [2]));
    });
}

#[test]
fn a_peer_that_was_never_there_has_not_died() {
    run(async {
        let a = Member::start(1, CLUSTER);
        let nobody = Port::claim();
        a.network.add_peer(2, &[nobody.url()]);
        a.network.send(vec![a.message(2, MessageType::MsgPreVote, 1)]);
        a.told.until("unreachable", |state| state.unreachable.contains(&2).then_some(())).await;
        a.told.with(|state| assert!(state.died.is_empty()));
    });
}

#[test]
fn what_overflows_is_reported_and_nothing_waits() {
    run(async {
        let a = Member::start(1, CLUSTER);
        // It accepts connections and says nothing, so all that is sent to it waits.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        a.network.add_peer(2, &[url]);
        a.network.send((0..200).map(|at| a.message(2, MessageType::MsgHeartbeat, at)).collect());
        a.told.until("unreachable", |state| state.unreachable.contains(&2).then_some(())).await;
        let failures = a.metric("etcd_network_peer_sent_failures_total{To=\"2\"}");
        assert!((100..200).contains(&failures), "{failures}");
    });
}

#[test]
fn a_member_of_another_cluster_is_kept_out() {
    run(async {
        let (a, b) = (Member::start(1, CLUSTER), Member::start(2, CLUSTER + 1));
        a.know(&b);
        b.know(&a);
        a.network.send(vec![a.message(2, MessageType::MsgPreVote, 1)]);
        b.network.send(vec![b.message(1, MessageType::MsgPreVote, 1)]);
        for (member, other) in [(&a, 2), (&b, 1)] {
            let told = &member.told;
            told.until("unreachable", |state| state.unreachable.contains(&other).then_some(()))
                .await;
            told.with(|state| assert!(state.messages.is_empty()));
            assert!(!member.network.has_streams_to(other));
            assert_eq!(member.network.active_since(other), None);
        }
    });
}

#[test]
fn a_removed_member_is_told_so_by_both_channels() {
    run(async {
        let (a, b) = (Member::start(1, CLUSTER), Member::start(2, CLUSTER));
        b.told.with(|state| state.removed.insert(1));
        a.know(&b);
        a.told.until("told by the stream", |state| (state.local_removals > 0).then_some(())).await;
        let before = a.told.with(|state| std::mem::take(&mut state.local_removals));
        assert!(before > 0);
        a.network.send(vec![a.message(2, MessageType::MsgPreVote, 1)]);
        a.told
            .until("told by the pipeline", |state| (state.local_removals > 0).then_some(()))
            .await;
        b.told.with(|state| assert!(state.messages.is_empty()));
    });
}

#[test]
fn a_message_from_a_member_that_was_removed_meanwhile_is_not_stepped() {
    run(async {
        let (a, b) = connected_pair().await;
        b.told.with(|state| state.removed.insert(1));
        let received = || b.metric("etcd_network_peer_received_bytes_total{From=\"1\"}");
        let before = received();
        a.network.send(vec![a.append(2, 1, "a payload that no heartbeat has")]);
        poll_until("the bytes are there", || received() >= before + 30).await;
        b.told.with(|state| assert!(state.messages.is_empty()));
    });
}

#[test]
fn a_peer_lives_at_any_of_its_urls_and_may_move() {
    run(async {
        let (a, b, c) =
            (Member::start(1, CLUSTER), Member::start(2, CLUSTER), Member::start(3, CLUSTER));
        let nobody = Port::claim();
        a.network.add_peer(2, &[nobody.url(), b.url.clone()]);
        b.know(&a);
        a.streams_to(2).await;
        b.streams_to(1).await;
        poll_until("A reads from B", || a.network.active_since(2).is_some()).await;
        b.network.send(vec![b.message(1, MessageType::MsgHeartbeat, 1)]);
        a.told.message(MessageType::MsgHeartbeat, 1).await;

        a.network.add_peer(3, &[nobody.url()]);
        c.know(&a);
        a.network.update_peer(3, std::slice::from_ref(&c.url));
        c.streams_to(1).await;
        c.network.send(vec![c.message(1, MessageType::MsgHeartbeat, 3)]);
        a.told.message(MessageType::MsgHeartbeat, 3).await;
    });
}

#[test]
fn a_removed_peer_hears_nothing_more() {
    run(async {
        let (a, b) = connected_pair().await;
        a.network.remove_peer(2);
        assert!(!a.network.has_streams_to(2));
        assert_eq!(a.network.active_since(2), None);
        a.network.send(vec![a.message(2, MessageType::MsgHeartbeat, 1)]);
        poll_until("B has lost its streams", || {
            b.network.shared().member(1).is_some_and(|peer| peer.status.streams() == 0)
        })
        .await;
        b.told.with(|state| assert!(state.messages.is_empty()));
        // Its process lives, as its port shows.
        b.told.with(|state| assert!(state.died.is_empty()));
        assert_eq!(a.metric("etcd_network_known_peers{Local=\"1\",Remote=\"2\"}"), 0);
    });
}

#[test]
fn an_idle_stream_shows_that_it_lives() {
    run(async {
        let a = Member::start(1, CLUSTER);
        a.network.add_peer(2, &["http://127.0.0.1:1".to_owned()]);
        let shared = a.network.shared().clone();
        let peer = shared.member(2).unwrap();
        for (kind, expected) in [
            (StreamKind::Append, &b"\0"[..]),
            (StreamKind::Message, &b"\0\0\0\0\0\0\0\x02\x08\x08"[..]),
        ] {
            let mut body = StreamBody::attach(shared.clone(), peer.clone(), kind);
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            let frame = tokio::time::timeout(Duration::from_secs(4), frame).await.unwrap();
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), expected);
        }
    });
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    run(async {
        let a = Member::start(1, CLUSTER);
        a.network.add_peer(2, &["http://127.0.0.1:1".to_owned()]);
        // Opens a stream, as a peer would, and never reads from it.
        let mut socket = tokio::net::TcpStream::connect(a.address()).await.unwrap();
        let request = format!(
            "GET /raft/stream/message/2 HTTP/1.1\r\nHost: a\r\nX-Server-From: 2\r\n\
             X-Server-Version: 3.5.1\r\nX-Min-Cluster-Version: 3.0.0\r\n\
             X-Etcd-Cluster-ID: {CLUSTER:x}\r\nX-Raft-To: 1\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 15];
        socket.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        let peer = a.network.shared().member(2).unwrap();
        assert!(peer.outbox.has_stream(StreamKind::Message));

        let large = vec![0; 1 << 20];
        let mut sent = 0;
        let gone = async {
            while peer.outbox.has_stream(StreamKind::Message) {
                let mut message = a.message(2, MessageType::MsgReadIndex, sent);
                message.context = large.clone().into();
                a.network.send(vec![message]);
                sent += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), gone).await.unwrap();
        a.told.until("unreachable", |state| state.unreachable.contains(&2).then_some(())).await;
    });
}
