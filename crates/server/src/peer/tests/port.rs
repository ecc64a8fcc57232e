//! What the peer port answers, byte for byte where it matters.

use std::time::Duration;

use http::StatusCode;
use prost::Message as _;
use retcd_api::error::RpcError;
use retcd_api::raftpb::{Message, MessageType};
use retcd_net::url::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::member::{CLUSTER, Member, run};
use crate::peer::Dialer;
use crate::peer::LeaseError;
use crate::peer::client::{self, Client};

/// Sends a request as it stands and returns the answer: status, headers in lower case, body.
async fn ask(member: &Member, head: &str, body: &[u8]) -> (u16, String, String) {
    let mut socket = TcpStream::connect(member.address()).await.unwrap();
    let head = head.replace('\n', "\r\n");
    let request =
        format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    socket.write_all(body).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

/// The headers of a member of the cluster.
fn raft(first_line: &str) -> String {
    format!(
        "{first_line} HTTP/1.1\nX-Server-From: 2\nX-Server-Version: 3.5.1\n\
         X-Min-Cluster-Version: 3.0.0\nX-Etcd-Cluster-ID: {CLUSTER:x}\nX-Raft-To: 1"
    )
}

#[test]
fn streams_are_refused_with_etcds_words() {
    run(async {
        let a = Member::start(1, CLUSTER);
        a.told.with(|state| state.removed.insert(0xdead));
        let get = |path: &str| raft(&format!("GET {path}"));
        let cases = [
            (get("/raft/stream/message/2"), 404, "error sender not found\n"),
            (get("/raft/stream/other/2"), 404, "invalid path\n"),
            (get("/raft/stream/message/xyz"), 404, "invalid from\n"),
            (get("/raft/stream/msgapp/dead"), 410, "removed member\n"),
            (raft("POST /raft/stream/message/2"), 405, "Method Not Allowed\n"),
            (get("/raft/other"), 404, "404 page not found\n"),
            (get("/nothing"), 404, "404 page not found\n"),
        ];
        for (request, status, text) in cases {
            let (got, head, body) = ask(&a, &request, b"").await;
            assert_eq!((got, &*body), (status, text), "{request}");
            assert!(head.contains("content-type: text/plain; charset=utf-8"));
            assert!(head.contains("x-content-type-options: nosniff"));
        }
        a.network.add_peer(2, &["http://127.0.0.1:1".to_owned()]);
        let wrong_to = get("/raft/stream/message/2").replace("Raft-To: 1", "Raft-To: 3");
        let (status, head, body) = ask(&a, &wrong_to, b"").await;
        assert_eq!((status, &*body), (412, "to field mismatch\n"));
        assert!(head.contains("x-server-version: 3.7.1"));
        assert!(head.contains(&format!("x-etcd-cluster-id: {CLUSTER:x}")));
    });
}

#[test]
fn raft_requests_of_others_are_refused() {
    run(async {
        let a = Member::start(1, CLUSTER);
        for path in ["POST /raft", "POST /raft/snapshot", "GET /raft/stream/message/2"] {
            let other = raft(path).replace(&format!("{CLUSTER:x}"), "1");
            let (status, _, body) = ask(&a, &other, b"").await;
            assert_eq!((status, &*body), (412, "cluster ID mismatch\n"), "{path}");
            let old = raft(path).replace("3.5.1", "2.3.8");
            let (status, _, body) = ask(&a, &old, b"").await;
            assert_eq!((status, &*body), (412, "incompatible version\n"), "{path}");
        }
        let (status, head, _) = ask(&a, &raft("GET /raft"), b"").await;
        assert_eq!(status, 405);
        assert!(head.contains("allow: post"));
    });
}

#[test]
fn a_posted_message_is_stepped_or_refused() {
    run(async {
        let (a, b) = (Member::start(1, CLUSTER), Member::start(2, CLUSTER));
        let vote = |to| b.message(to, MessageType::MsgVote, 5).encode_to_vec();
        let (status, _, body) = ask(&a, &raft("POST /raft"), &vote(1)).await;
        assert_eq!((status, &*body), (204, ""));
        a.told.with(|state| assert_eq!(state.messages.len(), 1));
        let (status, _, body) = ask(&a, &raft("POST /raft"), &vote(3)).await;
        let mismatch = r#"{"message":"cannot process message to mismatch member"}"#;
        assert_eq!((status, &*body), (403, mismatch));
        let (status, _, body) = ask(&a, &raft("POST /raft"), b"\xff\xff").await;
        assert_eq!((status, &*body), (400, "error unmarshalling raft message\n"));
        a.told.with(|state| state.removed.insert(2));
        let (status, _, body) = ask(&a, &raft("POST /raft"), &vote(1)).await;
        let removed = r#"{"message":"cannot process message from removed member"}"#;
        assert_eq!((status, &*body), (403, removed));
        a.told.with(|state| assert_eq!(state.messages.len(), 1));
    });
}

/// Who hears that a removed member wrote a message takes itself for removed.
#[test]
fn who_forwards_a_message_is_not_blamed_for_it() {
    run(async {
        let (a, b) = (Member::start(1, CLUSTER), Member::start(2, CLUSTER));
        let forwarded =
            |from| Message { from, ..b.message(1, MessageType::MsgReadIndex, 0) }.encode_to_vec();
        let (status, _, body) = ask(&a, &raft("POST /raft"), &forwarded(1)).await;
        assert_eq!((status, &*body), (204, ""), "a leader gets back what it asked the one before");
        a.told.with(|state| state.removed.insert(9));
        let (status, _, body) = ask(&a, &raft("POST /raft"), &forwarded(9)).await;
        assert_eq!((status, &*body), (204, ""));
        a.told.with(|state| {
            assert_eq!(state.messages.iter().map(|message| message.from).collect::<Vec<_>>(), [1]);
        });
    });
}

#[test]
fn a_snapshot_that_is_none_is_refused() {
    run(async {
        let (a, b) = (Member::start(1, CLUSTER), Member::start(2, CLUSTER));
        let vote = b.message(1, MessageType::MsgVote, 5).encode_to_vec();
        let frame = [&(vote.len() as u64).to_be_bytes()[..], &vote].concat();
        let (status, _, body) = ask(&a, &raft("POST /raft/snapshot"), &frame).await;
        assert_eq!((status, &*body), (400, "wrong raft message type\n"));
        for frame in
            [&b"\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"\0\0\0\0\0\0\0\x09\x08", b"\0", b""]
        {
            let (status, _, body) = ask(&a, &raft("POST /raft/snapshot"), frame).await;
            assert_eq!(status, 400);
            assert!(body.starts_with("failed to decode raft message ("), "{body}");
        }
        let unknown = "etcd_network_snapshot_receive_failures{From=\"UNKNOWN_SNAPSHOT_SENDER\"}";
        assert_eq!(a.metric(unknown), 5);
    });
}

#[test]
fn members_and_versions_have_etcds_form() {
    run(async {
        let a = Member::start(1, CLUSTER);
        let (status, head, body) = ask(&a, "GET /members HTTP/1.1", b"").await;
        let members = concat!(
            r#"[{"id":10276657743932975437,"peerURLs":["http://h1:2380"],"name":"n1","#,
            r#""clientURLs":["http://h1:2379"]},"#,
            r#"{"id":2,"peerURLs":["http://h2:2380"],"isLearner":true}]"#,
            "\n"
        );
        assert_eq!((status, &*body), (200, members));
        assert!(head.contains("content-type: application/json"));
        assert!(head.contains(&format!("x-etcd-cluster-id: {CLUSTER:x}")));
        let (_, _, body) = ask(&a, "GET /version HTTP/1.1", b"").await;
        assert_eq!(body, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"unknown"}"#);
        let (_, _, body) = ask(&a, "GET /raft/probing HTTP/1.1", b"").await;
        assert!(body.starts_with(r#"{"OK":true,"Now":"20"#) && body.ends_with("Z\"}\n"), "{body}");
        for (line, allowed) in [
            ("POST /members", "get"),
            ("GET /leases", "post"),
            ("GET /members/promote/1", "post"),
            ("POST /version", "get"),
            ("POST /members/hashkv", "get"),
            ("POST /downgrade/enabled", "get"),
        ] {
            let (status, head, _) = ask(&a, &format!("{line} HTTP/1.1"), b"").await;
            assert_eq!(status, 405, "{line}");
            assert!(head.contains(&format!("allow: {allowed}")), "{line}");
        }
    });
}

#[test]
fn calls_between_members_are_answered() {
    run(async {
        let a = Member::start(1, CLUSTER);
        let url = Url::parse(&a.url).unwrap();
        let client = Client { dialer: &Dialer::plain(), url: &url, limit: Duration::from_secs(5) };
        let membership = client.members().await.unwrap();
        assert_eq!(membership.cluster_id, CLUSTER);
        assert_eq!(membership.members.len(), 2);
        assert!(membership.members[1].is_learner);
        let version = client.version().await.unwrap();
        assert_eq!((&*version.etcdserver, &*version.etcdcluster), ("3.7.1", "3.7.0"));
        assert!(!client.downgrade_enabled().await.unwrap());

        let rpc = |error| match error {
            client::Error::Rpc(error) => error,
            other => panic!("{other}"),
        };
        assert_eq!(rpc(client.promote(1, None).await.unwrap_err()), RpcError::MemberNotFound);
        assert_eq!(rpc(client.promote(2, None).await.unwrap_err()), RpcError::MemberNotLearner);
        assert_eq!(rpc(client.promote(3, None).await.unwrap_err()), RpcError::LearnerNotReady);
        assert_eq!(client.promote(4, Some("secret")).await.unwrap().len(), 2);
        let refused = client.promote(4, None).await.unwrap_err();
        let client::Error::Status { status, text, .. } = refused else { panic!("{refused}") };
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(text, r#"{"message":"Internal Server Error"}"#);

        let lease = |error| match error {
            client::Error::Lease(error) => error,
            other => panic!("{other}"),
        };
        assert_eq!(client.renew_lease(7).await.unwrap(), 70);
        for (id, reason) in
            [(1, LeaseError::NotFound), (2, LeaseError::NotPrimary), (3, LeaseError::ApplyTimeout)]
        {
            assert_eq!(lease(client.renew_lease(id).await.unwrap_err()), reason);
        }
        let answer = client.lease_time_to_live(7, true).await.unwrap();
        assert_eq!((answer.ttl, answer.granted_ttl, answer.keys.len()), (7, 9, 1));
        assert!(answer.header.is_some());
        let refused = client.lease_time_to_live(2, false).await.unwrap_err();
        assert_eq!(lease(refused), LeaseError::NotPrimary);

        let hash = client.hash_kv(CLUSTER, 5).await.unwrap();
        assert_eq!((hash.hash, hash.hash_revision, hash.header.revision), (123, 5, 9));
        let refused = |error| match error {
            client::Error::Rpc(error) => error,
            other => panic!("{other}"),
        };
        let compacted = refused(client.hash_kv(CLUSTER, 1).await.unwrap_err());
        assert_eq!(compacted, RpcError::Compacted);
        let other = refused(client.hash_kv(CLUSTER + 1, 1).await.unwrap_err());
        assert_eq!(other, RpcError::ClusterIdMismatch);
    });
}

#[test]
fn lease_requests_are_bounded_and_checked() {
    run(async {
        let a = Member::start(1, CLUSTER);
        for path in ["/leases", "/leases/internal"] {
            let post = format!("POST {path} HTTP/1.1");
            let (status, _, body) = ask(&a, &post, b"\xff").await;
            assert_eq!((status, &*body), (400, "error unmarshalling request\n"));
            let (status, _, body) = ask(&a, &post, &vec![0; (64 << 10) + 1]).await;
            assert_eq!((status, &*body), (413, "request body too large\n"));
        }
        let (status, _, _) = ask(&a, "POST /leases/internal HTTP/1.1", b"").await;
        assert_eq!(status, 400);
        let (status, head, body) =
            ask(&a, "GET /members/hashkv HTTP/1.1", b"{\"revision\":4}").await;
        let expected =
            r#"{"header":{"revision":9},"hash":123,"compact_revision":-1,"hash_revision":4}"#;
        assert_eq!((status, &*body), (200, expected));
        assert!(head.contains("content-type: application/json"));
        let (status, _, body) = ask(&a, "GET /members/hashkv HTTP/1.1", b"revision").await;
        assert_eq!((status, &*body), (400, "error unmarshalling request\n"));
        let (status, _, body) = ask(&a, "POST /members/promote/0x1 HTTP/1.1", b"").await;
        assert_eq!((status, &*body), (404, "member 0x1 not found in cluster\n"));
    });
}
