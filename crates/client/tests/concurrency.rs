//! Sessions, locks, elections and transactions against a real server.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use retcd_api::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest, RangeResponse};
use retcd_client::concurrency::{Election, Error, Isolation, Mutex, Session, Stm, transact};
use retcd_client::{Client, Config, Txn, prefix_end};
use retcd_testkit::{Member, SOON, server_binary};
use tokio::time::timeout;

also_with_older_servers!();

fn member() -> Member {
    Member::start(&server_binary(), &[])
}

fn client(member: &Member) -> Client {
    let config = Config { endpoints: vec![member.endpoint()], ..Config::default() };
    Client::new(&config).unwrap().with_timeout(SOON)
}

async fn session(client: &Client) -> Session {
    Session::start(client).await.unwrap()
}

async fn under(client: &Client, prefix: &str) -> RangeResponse {
    let request = RangeRequest {
        key: Bytes::copy_from_slice(prefix.as_bytes()),
        range_end: prefix_end(prefix.as_bytes()).into(),
        ..Default::default()
    };
    client.range(request).await.unwrap()
}

/// Waits until there are `count` keys under `prefix`. Each look is a round trip, so this does not spin.
async fn until_count(client: &Client, prefix: &str, count: i64) {
    let looking = async { while under(client, prefix).await.count != count {} };
    timeout(SOON, looking).await.expect("the keys must come or go");
}

async fn put(client: &Client, key: &'static str, value: &'static str) -> i64 {
    let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    client.put(put).await.unwrap().header.unwrap().revision
}

#[tokio::test]
async fn a_session_lives_until_it_is_closed() {
    let member = member();
    let client = client(&member);
    let session = Session::with_ttl(&client, 4).await.unwrap();
    let key = PutRequest { key: "s".into(), lease: session.lease(), ..Default::default() };
    client.put(key).await.unwrap();
    // Longer than the lease would live by itself.
    assert!(timeout(Duration::from_secs(7), session.done()).await.is_err());
    assert_eq!(under(&client, "s").await.count, 1);

    session.close().await.unwrap();
    assert!(session.is_done());
    assert_eq!(under(&client, "s").await.count, 0);
    session.close().await.expect("closing twice is as good as once");
}

#[tokio::test]
async fn a_session_notices_that_its_lease_is_gone() {
    let member = member();
    let client = client(&member);
    let session = Session::with_ttl(&client, 1).await.unwrap();
    client.lease_revoke(session.lease()).await.unwrap();
    timeout(SOON, session.done()).await.expect("the next renewal says so");
    let late = Mutex::new(&session, "m").lock().await.unwrap_err();
    assert_eq!(late.to_string(), "etcdserver: requested lease not found");
}

#[tokio::test]
async fn a_dropped_session_lets_its_lease_expire() {
    let member = member();
    let client = client(&member);
    let session = Session::with_ttl(&client, 4).await.unwrap();
    let key = PutRequest { key: "s".into(), lease: session.lease(), ..Default::default() };
    client.put(key).await.unwrap();
    drop(session);
    until_count(&client, "s", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_and_in_order_of_their_tokens() {
    let member = member();
    let client = client(&member);
    let is_held: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let rounds: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    let mut owners = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let client = client.clone();
        owners.spawn(async move {
            let session = session(&client).await;
            let mut tokens = Vec::new();
            for _ in 0..5 {
                let locked = Mutex::new(&session, "m").lock().await.unwrap();
                assert!(!is_held.swap(true, Ordering::SeqCst), "two owners");
                let check = Txn::new().when(locked.is_owner()).into_request();
                assert!(client.txn(check).await.unwrap().succeeded);
                tokens.push((rounds.fetch_add(1, Ordering::SeqCst), locked.fencing_token()));
                is_held.store(false, Ordering::SeqCst);
                locked.unlock().await.unwrap();
            }
            tokens
        });
    }
    let all = timeout(SOON, owners.join_all()).await.expect("nobody waits forever");
    let mut tokens = all.concat();
    tokens.sort_unstable();
    assert_eq!(tokens.len(), 20);
    assert!(tokens.is_sorted_by(|a, b| a.1 < b.1), "tokens grow from owner to owner: {tokens:?}");
    assert_eq!(under(&client, "m/").await.count, 0);
}

#[tokio::test]
async fn keys_are_where_go_looks_for_them() {
    let member = member();
    let client = client(&member);
    let (one, other) = (session(&client).await, session(&client).await);
    let locked = Mutex::new(&one, "m").lock().await.unwrap();
    assert_eq!(locked.key(), &Bytes::from(format!("m/{:x}", one.lease())));
    let kv = &under(&client, "m/").await.kvs[0];
    assert_eq!((kv.lease, kv.create_revision), (one.lease(), locked.fencing_token()));
    assert!(kv.value.is_empty());

    assert_eq!(Mutex::new(&other, "m").try_lock().await.unwrap_err(), Error::Locked);
    assert_eq!(under(&client, "m/").await.count, 1, "who does not wait does not queue");
    let again = Mutex::new(&one, "m").try_lock().await.unwrap();
    assert_eq!(again.fencing_token(), locked.fencing_token(), "the same session owns it already");
}

#[tokio::test]
async fn giving_up_leaves_the_queue() {
    let member = member();
    let client = client(&member);
    let (one, other) = (session(&client).await, session(&client).await);
    let locked = Mutex::new(&one, "m").lock().await.unwrap();
    let mutex = Mutex::new(&other, "m");
    let mut waiting = Box::pin(mutex.lock());
    let queued = async { until_count(&client, "m/", 2).await };
    tokio::select! {
        _ = &mut waiting => panic!("the mutex is held"),
        () = queued => {}
    }
    drop(waiting);
    until_count(&client, "m/", 1).await;

    // Given up before the claim was even made, and wanted again at once: the old release must not hit the new claim.
    for _ in 0..20 {
        let mut waiting = Box::pin(mutex.lock());
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("the mutex is held"),
            () = tokio::task::yield_now() => {}
        }
        drop(waiting);
    }
    drop(locked);
    let locked = timeout(SOON, mutex.lock()).await.expect("a dropped mutex is released").unwrap();
    locked.unlock().await.expect("it was still ours");
}

#[tokio::test]
async fn a_lost_lease_ends_waiting_and_ownership() {
    let member = member();
    let client = client(&member);
    let (one, other) = (session(&client).await, session(&client).await);
    let locked = Mutex::new(&one, "m").lock().await.unwrap();
    let mutex = Mutex::new(&other, "m");
    let lose = async {
        until_count(&client, "m/", 2).await;
        client.lease_revoke(other.lease()).await.unwrap();
        client.lease_revoke(one.lease()).await.unwrap();
    };
    let both = Box::pin(async { tokio::join!(mutex.lock(), lose) });
    let (waited, ()) = timeout(SOON, both).await.expect("nobody waits for what is lost");
    assert_eq!(waited.unwrap_err(), Error::SessionExpired);
    let check = Txn::new().when(locked.is_owner()).into_request();
    assert!(!client.txn(check).await.unwrap().succeeded, "the late are refused");
    assert_eq!(locked.unlock().await.unwrap_err(), Error::SessionExpired);
}

#[tokio::test]
async fn waiting_survives_a_restart_and_a_compaction() {
    let mut member = member();
    let client = client(&member);
    let (one, other) = (session(&client).await, session(&client).await);
    let locked = Mutex::new(&one, "m").lock().await.unwrap();
    let mutex = Mutex::new(&other, "m");
    let waiting = tokio::spawn(async move { mutex.lock().await });
    until_count(&client, "m/", 2).await;
    member.crash_and_restart();
    until_count(&client, "m/", 2).await;
    let revision = under(&client, "m/").await.header.unwrap().revision;
    client.compact(CompactionRequest { revision, ..Default::default() }).await.unwrap();
    locked.unlock().await.unwrap();
    let locked = timeout(SOON, waiting).await.expect("its turn").unwrap().unwrap();
    locked.unlock().await.unwrap();
}

#[tokio::test]
async fn leaders_follow_each_other() {
    let member = member();
    let client = client(&member);
    let (one, other) = (session(&client).await, session(&client).await);
    let first = Election::new(&one, "e");
    let second = Election::new(&other, "e");
    assert_eq!(first.leader().await.unwrap_err(), Error::NoLeader);
    let mut observer = second.observe();
    let next = async |observer: &mut retcd_client::concurrency::Observer| {
        timeout(SOON, observer.next()).await.expect("news").unwrap().value
    };

    let leadership = first.campaign("a").await.unwrap();
    assert_eq!(next(&mut observer).await, "a");
    leadership.proclaim("b").await.unwrap();
    assert_eq!(next(&mut observer).await, "b");
    assert_eq!(second.leader().await.unwrap().value, "b");

    let campaign = tokio::spawn(async move { second.campaign("c").await });
    until_count(&client, "e/", 2).await;
    let resumed = first.resume(leadership.key().clone(), leadership.create_revision());
    resumed.resign().await.unwrap();
    let next_leadership = timeout(SOON, campaign).await.unwrap().unwrap().unwrap();
    assert!(next_leadership.create_revision() > leadership.create_revision());
    assert_eq!(next(&mut observer).await, "c");
    assert_eq!(leadership.proclaim("d").await.unwrap_err(), Error::NotLeader);
    leadership.resign().await.expect("nothing is left to give up");
    other.close().await.unwrap();
    assert_eq!(first.leader().await.unwrap_err(), Error::NoLeader);
}

#[tokio::test]
async fn a_second_campaign_replaces_the_value() {
    let member = member();
    let client = client(&member);
    let session = session(&client).await;
    let election = Election::new(&session, "e");
    let before = election.campaign("a").await.unwrap();
    let after = election.campaign("b").await.unwrap();
    assert_eq!(before.create_revision(), after.create_revision());
    assert_eq!(election.leader().await.unwrap().value, "b");
}

/// Adds one to a counter, as a transaction of the given isolation.
async fn increment(client: &Client, isolation: Isolation) {
    let counted = transact(client, isolation, async |stm: &mut Stm| {
        let text = stm.get("counter").await?.unwrap_or_default();
        let count: u32 = std::str::from_utf8(&text).unwrap().parse().unwrap_or(0);
        stm.put("counter", (count + 1).to_string());
        Ok::<_, retcd_client::Error>(())
    });
    assert!(counted.await.unwrap().response.succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_increment_is_lost() {
    let member = member();
    let client = client(&member);
    let levels =
        [Isolation::SerializableSnapshot, Isolation::Serializable, Isolation::RepeatableReads];
    let mut tasks = tokio::task::JoinSet::new();
    for isolation in levels {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                increment(&client, isolation).await;
            }
        });
    }
    timeout(SOON, tasks.join_all()).await.expect("somebody always makes progress");
    assert_eq!(under(&client, "counter").await.kvs[0].value, "30");
}

/// Reads `x`, lets another client write `x` and `y`, reads `y`: what is seen in the first run, and how many runs it
/// takes.
async fn interrupted(client: &Client, isolation: Isolation) -> (String, usize) {
    put(client, "x", "old").await;
    put(client, "y", "old").await;
    let (mut runs, mut seen) = (0, String::new());
    let done = transact(client, isolation, async |stm: &mut Stm| {
        runs += 1;
        stm.get("x").await?;
        if runs == 1 {
            put(client, "x", "new").await;
            put(client, "y", "new").await;
        }
        let y = stm.get("y").await?.unwrap();
        if runs == 1 {
            seen = String::from_utf8(y.to_vec()).unwrap();
        }
        assert_eq!(stm.get("y").await?, Some(y), "a second look sees the same");
        stm.put("z", "done");
        Ok::<_, retcd_client::Error>(())
    });
    done.await.unwrap();
    (seen, runs)
}

#[tokio::test]
async fn levels_differ_in_what_they_see_and_check() {
    let member = member();
    let client = client(&member);
    let expected = [
        (Isolation::SerializableSnapshot, "old", 2),
        (Isolation::Serializable, "old", 2),
        (Isolation::RepeatableReads, "new", 2),
        (Isolation::ReadCommitted, "new", 1),
    ];
    for (isolation, seen, runs) in expected {
        assert_eq!(interrupted(&client, isolation).await, (seen.to_owned(), runs), "{isolation:?}");
    }
}

#[tokio::test]
async fn only_snapshot_isolation_minds_blind_writes() {
    let member = member();
    let client = client(&member);
    for (isolation, expected) in
        [(Isolation::SerializableSnapshot, 2), (Isolation::Serializable, 1)]
    {
        let mut runs = 0;
        let done = transact(&client, isolation, async |stm: &mut Stm| {
            runs += 1;
            stm.get("read").await?;
            if runs == 1 {
                put(&client, "written", "by another").await;
            }
            stm.put("written", "by us");
            Ok::<_, retcd_client::Error>(())
        });
        done.await.unwrap();
        assert_eq!(runs, expected, "{isolation:?}");
    }
}

#[tokio::test]
async fn a_transaction_starts_over_when_its_snapshot_is_compacted() {
    let member = member();
    let client = client(&member);
    put(&client, "x", "1").await;
    let mut runs = 0;
    let done = transact(&client, Isolation::Serializable, async |stm: &mut Stm| {
        runs += 1;
        stm.get("x").await?;
        if runs == 1 {
            let revision = put(&client, "y", "1").await;
            client.compact(CompactionRequest { revision, physical: true }).await?;
        }
        let y = stm.get("y").await?;
        stm.delete("x");
        assert_eq!(stm.get("x").await?, None, "writes are seen by later reads");
        assert_ne!(stm.revision("y").await?, 0);
        Ok::<_, retcd_client::Error>(y)
    });
    assert_eq!(done.await.unwrap().value.unwrap(), "1");
    assert_eq!(runs, 2);
    assert_eq!(under(&client, "x").await.count, 0);
}

#[tokio::test]
async fn a_failing_body_writes_nothing() {
    let member = member();
    let client = client(&member);
    let refused = transact(&client, Isolation::default(), async |stm: &mut Stm| {
        stm.put("x", "1");
        Err::<(), _>(retcd_client::Error::NoEndpoints)
    });
    assert_eq!(refused.await.unwrap_err(), retcd_client::Error::NoEndpoints);
    assert_eq!(under(&client, "x").await.count, 0);
}
