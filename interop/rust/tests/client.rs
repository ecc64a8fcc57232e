//! What users of `etcd-client` do. Every test has a server of its own.
//!
//! Ignored tests are of services that the server does not have yet; `--include-ignored` runs them, against etcd itself.

mod server;

use etcd_client::{
    AlarmAction, AlarmType, Compare, CompareOp, CompactionOptions, ConnectOptions, DeleteOptions, Error, EventType,
    GetOptions, LockOptions, Permission, PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    WatchOptions, WatchStream,
};
use server::{Server, eventually, soon};

fn message(error: Error) -> String {
    match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => panic!("not an answer of the server: {other}"),
    }
}

#[tokio::test]
async fn put_get_and_delete() {
    let (_server, mut client) = Server::start().await;
    let first = client.put("k", "old", None).await.unwrap().header().unwrap().revision();
    let put = client.put("k", "new", Some(PutOptions::new().with_prev_key())).await.unwrap();
    assert_eq!(put.prev_key().unwrap().value(), b"old");
    let got = client.get("k", None).await.unwrap();
    let kv = &got.kvs()[0];
    assert_eq!((kv.value(), kv.version(), kv.create_revision(), kv.mod_revision()), (&b"new"[..], 2, first, first + 1));
    let old = client.get("k", Some(GetOptions::new().with_revision(first))).await.unwrap();
    assert_eq!(old.kvs()[0].value(), b"old");
    let deleted = client.delete("k", Some(DeleteOptions::new().with_prev_key())).await.unwrap();
    assert_eq!((deleted.deleted(), deleted.prev_kvs()[0].value()), (1, &b"new"[..]));
    assert_eq!(client.get("k", None).await.unwrap().count(), 0);
}

#[tokio::test]
async fn ranges_are_sorted_limited_and_counted() {
    let (_server, mut client) = Server::start().await;
    for (key, value) in [("p/b", "1"), ("p/a", "3"), ("p/c", "2"), ("q", "0")] {
        client.put(key, value, None).await.unwrap();
    }
    let options =
        GetOptions::new().with_prefix().with_sort(SortTarget::Value, SortOrder::Descend).with_limit(2).with_serializable();
    let got = client.get("p/", Some(options)).await.unwrap();
    let keys: Vec<_> = got.kvs().iter().map(|kv| kv.key_str().unwrap()).collect();
    assert_eq!((keys, got.count(), got.more()), (vec!["p/a", "p/c"], 3, true));
    let all = client.get("", Some(GetOptions::new().with_all_keys().with_count_only())).await.unwrap();
    assert_eq!((all.count(), all.kvs().len()), (4, 0));
    let deleted = client.delete("p/b", Some(DeleteOptions::new().with_range("q"))).await.unwrap();
    assert_eq!(deleted.deleted(), 2);
}

#[tokio::test]
async fn transactions_take_one_branch() {
    let (_server, mut client) = Server::start().await;
    let create = || {
        Txn::new()
            .when([Compare::create_revision("k", CompareOp::Equal, 0)])
            .and_then([TxnOp::put("k", "v", None), TxnOp::get("k", None)])
            .or_else([TxnOp::delete("k", None)])
    };
    let created = client.txn(create()).await.unwrap();
    assert!(created.succeeded());
    let answers = created.op_responses();
    let Some(TxnOpResponse::Get(seen)) = answers.get(1) else { panic!("no get in {answers:?}") };
    assert_eq!(seen.kvs()[0].value(), b"v");
    assert!(!client.txn(create()).await.unwrap().succeeded());
    assert_eq!(client.get("k", None).await.unwrap().count(), 0);
}

/// The next `n` events, in words.
async fn events(stream: &mut WatchStream, n: usize) -> Vec<String> {
    let mut out = Vec::new();
    while out.len() < n {
        let response = soon(stream.message()).await.unwrap().expect("the stream goes on");
        assert!(!response.canceled(), "{}", response.cancel_reason());
        for event in response.events() {
            let kv = event.kv().unwrap();
            let verb = match event.event_type() {
                EventType::Put => "put",
                EventType::Delete => "delete",
            };
            out.push(format!("{verb} {}={}", kv.key_str().unwrap(), kv.value_str().unwrap()));
        }
    }
    out
}

#[tokio::test]
async fn a_watch_sees_its_prefix_in_order() {
    let (_server, mut client) = Server::start().await;
    let mut stream = client.watch("w/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    client.put("w/1", "a", None).await.unwrap();
    client.put("other", "b", None).await.unwrap();
    client.delete("w/1", None).await.unwrap();
    assert_eq!(events(&mut stream, 2).await, ["put w/1=a", "delete w/1="]);
}

#[tokio::test]
async fn one_stream_carries_several_watches_with_history() {
    let (_server, mut client) = Server::start().await;
    let start = client.put("a", "1", None).await.unwrap().header().unwrap().revision();
    client.put("b", "2", None).await.unwrap();
    let history = |id| WatchOptions::new().with_start_revision(start).with_watch_id(id);
    let mut stream = client.watch("a", Some(history(7))).await.unwrap();
    assert_eq!(events(&mut stream, 1).await, ["put a=1"]);
    stream.watch("b", Some(history(8))).await.unwrap();
    assert_eq!(events(&mut stream, 1).await, ["put b=2"]);
    stream.cancel(7).await.unwrap();
    let ended = soon(stream.message()).await.unwrap().unwrap();
    assert!(ended.canceled() && ended.watch_id() == 7);
}

#[tokio::test]
async fn a_watch_below_a_compaction_is_cancelled() {
    let (_server, mut client) = Server::start().await;
    let start = client.put("k", "1", None).await.unwrap().header().unwrap().revision();
    let last = client.put("k", "2", None).await.unwrap().header().unwrap().revision();
    client.compact(last, Some(CompactionOptions::new().with_physical())).await.unwrap();
    let mut stream = client.watch("k", Some(WatchOptions::new().with_start_revision(start))).await.unwrap();
    let cancelled = eventually(async || {
        let response = soon(stream.message()).await.unwrap().unwrap();
        response.canceled().then_some(response)
    })
    .await;
    assert_eq!(cancelled.compact_revision(), last);
    let error = client.get("k", Some(GetOptions::new().with_revision(start))).await.unwrap_err();
    assert_eq!(message(error), "etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn leases_hold_keys_until_they_are_revoked_or_expire() {
    let (_server, mut client) = Server::start().await;
    let id = client.lease_grant(60, None).await.unwrap().id();
    client.put("k", "v", Some(PutOptions::new().with_lease(id))).await.unwrap();
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(soon(answers.message()).await.unwrap().unwrap().ttl(), 60);
    assert_eq!(client.leases().await.unwrap().leases().len(), 1);
    assert_eq!(client.lease_time_to_live(id, None).await.unwrap().granted_ttl(), 60);
    client.lease_revoke(id).await.unwrap();
    assert_eq!(client.get("k", None).await.unwrap().count(), 0);
    assert_eq!(message(client.lease_revoke(id).await.unwrap_err()), "etcdserver: requested lease not found");

    let short = client.lease_grant(1, None).await.unwrap().id();
    client.put("short", "v", Some(PutOptions::new().with_lease(short))).await.unwrap();
    eventually(async || (client.get("short", None).await.unwrap().count() == 0).then_some(())).await;
}

#[tokio::test]
async fn the_lock_service_lets_one_in() {
    let (server, mut client) = Server::start().await;
    let first = client.lock("mutex", None).await.unwrap();
    let mut other = server.client().await;
    let waiting = tokio::spawn(async move {
        let lease = other.lease_grant(60, None).await.unwrap().id();
        let key = other.lock("mutex", Some(LockOptions::new().with_lease(lease))).await.unwrap().key().to_vec();
        other.unlock(key).await.unwrap();
    });
    let queued = async || {
        let queue = client.get("mutex/", Some(GetOptions::new().with_prefix())).await.unwrap();
        (queue.count() == 2).then_some(())
    };
    eventually(queued).await;
    assert!(!waiting.is_finished());
    client.unlock(first.key()).await.unwrap();
    soon(waiting).await.unwrap();
}

#[tokio::test]
async fn the_election_service_knows_its_leader() {
    let (_server, mut client) = Server::start().await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let won = client.campaign("room", "one", lease).await.unwrap();
    let leader = won.leader().unwrap().clone();
    let mut observer = client.observe("room").await.unwrap();
    let seen = soon(observer.message()).await.unwrap().unwrap();
    assert_eq!(seen.kv().unwrap().value(), b"one");
    client.proclaim("again", Some(etcd_client::ProclaimOptions::new().with_leader(leader.clone()))).await.unwrap();
    let seen = soon(observer.message()).await.unwrap().unwrap();
    assert_eq!(seen.kv().unwrap().value(), b"again");
    client.resign(Some(ResignOptions::new().with_leader(leader))).await.unwrap();
    assert_eq!(message(client.leader("room").await.unwrap_err()), "election: no leader");
}

#[tokio::test]
async fn members_status_hashes_and_alarms() {
    let (server, mut client) = Server::start().await;
    let members = client.member_list().await.unwrap();
    let member = &members.members()[0];
    assert_eq!((member.name(), member.client_urls()), ("m", &[format!("http://{}", server.address)][..]));
    let status = client.status().await.unwrap();
    assert_eq!(status.leader(), member.id());
    assert!(!status.version().is_empty() && status.db_size() > 0);
    let before = client.hash_kv(0).await.unwrap().hash();
    client.put("k", "v", None).await.unwrap();
    assert_ne!(client.hash_kv(0).await.unwrap().hash(), before);
    client.defragment().await.unwrap();
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    assert_eq!(alarms.alarms().len(), 0);
}

#[tokio::test]
async fn users_have_the_rights_of_their_roles() {
    let (server, mut client) = Server::start().await;
    client.role_add("root").await.unwrap();
    client.role_add("reader").await.unwrap();
    client.role_grant_permission("reader", Permission::read("public/").with_prefix()).await.unwrap();
    for (user, role) in [("root", "root"), ("ann", "reader")] {
        client.user_add(user, format!("{user}-secret"), None).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    client.auth_enable().await.unwrap();
    let connect = async |user: &str| {
        let options = ConnectOptions::new().with_user(user, format!("{user}-secret"));
        etcd_client::Client::connect([&server.address], Some(options)).await.unwrap()
    };
    let (mut root, mut ann) = (connect("root").await, connect("ann").await);
    root.put("public/k", "v", None).await.unwrap();
    assert_eq!(ann.get("public/k", None).await.unwrap().kvs()[0].value(), b"v");
    assert_eq!(message(ann.put("public/k", "w", None).await.unwrap_err()), "etcdserver: permission denied");
    assert_eq!(message(client.get("public/k", None).await.unwrap_err()), "etcdserver: user name is empty");
    root.auth_disable().await.unwrap();
    client.get("public/k", None).await.unwrap();
}

#[tokio::test]
async fn data_survives_a_kill() {
    let (mut server, mut client) = Server::start().await;
    let put = client.put("k", "v", None).await.unwrap().header().unwrap().revision();
    let mut client = server.restart().await;
    let got = client.get("k", None).await.unwrap();
    assert_eq!((got.kvs()[0].value(), got.kvs()[0].mod_revision()), (&b"v"[..], put));
}
