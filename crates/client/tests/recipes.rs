//! What several clients do together: shared locks, barriers, queues, caches and mirrors.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use common::{client, member, soon, until_count, value};
use retcd_api::error::RpcError;
use retcd_client::concurrency::{
    DoubleBarrier, Election, Error, Mutex, PriorityQueue, Queue, RwMutex, Session,
};
use retcd_client::naming::{Endpoint, Endpoints};
use retcd_client::{
    Client, Compact, Delete, Get, Leasing, Mirror, Put, Txn, Watch, key, keys_with_prefix,
};
use tokio::task::JoinSet;

also_with_older_servers!();

async fn session(client: &Client) -> Session {
    Session::start(client).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_exclude_everybody_and_readers_only_writers() {
    let member = member();
    let client = client(&member);
    // Readers count up, writers set the sign.
    let inside: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(0)));
    let mut users = JoinSet::new();
    for user in 0..6 {
        let client = client.clone();
        users.spawn(async move {
            let session = session(&client).await;
            let lock = RwMutex::new(&session, "rw");
            for _ in 0..5 {
                if user % 3 == 0 {
                    let locked = lock.write().await.unwrap();
                    assert_eq!(inside.swap(-1, Ordering::SeqCst), 0, "a writer is alone");
                    let check = Txn::new().when(locked.is_owner());
                    assert!(client.txn(check).await.unwrap().succeeded);
                    assert_eq!(inside.swap(0, Ordering::SeqCst), -1);
                    locked.unlock().await.unwrap();
                } else {
                    let locked = lock.read().await.unwrap();
                    assert!(inside.fetch_add(1, Ordering::SeqCst) >= 0, "no writer is there");
                    let check = Txn::new().when(locked.is_owner());
                    assert!(client.txn(check).await.unwrap().succeeded);
                    assert!(inside.fetch_sub(1, Ordering::SeqCst) > 0);
                    locked.unlock().await.unwrap();
                }
            }
        });
    }
    soon("everybody gets a turn", users.join_all()).await;
    assert_eq!(client.range(Get::prefix("rw/")).await.unwrap().count, 0);
}

#[tokio::test]
async fn readers_share_and_a_waiting_writer_comes_before_later_readers() {
    let member = member();
    let client = client(&member);
    let session = session(&client).await;
    let lock = RwMutex::new(&session, "rw");
    let one = lock.read().await.unwrap();
    let two = soon("a second reader", lock.read()).await.unwrap();
    let writing = tokio::spawn({
        let lock = lock.clone();
        async move { lock.write().await }
    });
    until_count(&client, "rw/", 3).await;
    let late = tokio::spawn({
        let lock = lock.clone();
        async move { lock.read().await }
    });
    until_count(&client, "rw/", 4).await;
    one.unlock().await.unwrap();
    two.unlock().await.unwrap();
    let written = soon("the writer", writing).await.unwrap().unwrap();
    assert_eq!(client.range(Get::prefix("rw/")).await.unwrap().count, 2, "the reader waits");
    assert!(!late.is_finished());
    written.unlock().await.unwrap();
    let late = soon("the late reader", late).await.unwrap().unwrap();
    late.unlock().await.unwrap();
}

#[tokio::test]
async fn a_barrier_opens_for_as_many_as_it_waits_for() {
    let member = member();
    let client = client(&member);
    let barrier = async || {
        let session = session(&client).await;
        DoubleBarrier::new(&session, "b", 3)
    };
    let mut entering = JoinSet::new();
    for _ in 0..2 {
        let barrier = barrier().await;
        entering.spawn(async move { barrier.enter().await });
    }
    until_count(&client, "b/waiters", 2).await;
    assert_eq!(client.range(Get::key("b/ready")).await.unwrap().count, 0);
    let third = soon("the last one opens it", barrier().await.enter()).await.unwrap();
    let first_two = soon("all enter", entering.join_all()).await;
    let fourth = barrier().await.enter().await.unwrap_err();
    assert_eq!(fourth, Error::TooManyClients);

    let mut leaving = JoinSet::new();
    for entered in first_two {
        leaving.spawn(entered.unwrap().leave());
    }
    // The first waits for the last, who is still within.
    until_count(&client, "b/waiters", 2).await;
    assert!(leaving.try_join_next().is_none());
    soon("leaving", third.leave()).await.unwrap();
    for left in soon("all leave", leaving.join_all()).await {
        left.unwrap();
    }
    assert_eq!(client.range(Get::prefix("b/")).await.unwrap().count, 0, "and it can be used again");
}

#[tokio::test]
async fn who_dies_within_a_barrier_does_not_keep_the_others() {
    let member = member();
    let client = client(&member);
    let dying = Session::with_ttl(&client, 1).await.unwrap();
    let living = session(&client).await;
    let (one, other) = (DoubleBarrier::new(&dying, "b", 2), DoubleBarrier::new(&living, "b", 2));
    let both = async { tokio::join!(one.enter(), other.enter()) };
    let (one, other) = soon("both enter", Box::pin(both)).await;
    let (one, other) = (one.unwrap(), other.unwrap());
    dying.orphan().await;
    soon("the lease of the dead one ends", other.leave()).await.unwrap();
    drop(one);
}

#[tokio::test]
async fn a_queue_keeps_the_order_and_gives_each_item_once() {
    let member = member();
    let client = client(&member);
    let queue = Queue::new(&client, "q");
    for item in ["1", "2", "3"] {
        queue.enqueue(item).await.unwrap();
    }
    assert_eq!(queue.dequeue().await.unwrap(), "1");
    assert_eq!(queue.dequeue().await.unwrap(), "2");
    assert_eq!(queue.dequeue().await.unwrap(), "3");

    let mut takers = JoinSet::new();
    for _ in 0..4 {
        let queue = queue.clone();
        takers.spawn(async move {
            let mut taken = Vec::new();
            for _ in 0..5 {
                taken.push(queue.dequeue().await.unwrap());
            }
            taken
        });
    }
    for item in 0..20 {
        queue.enqueue(item.to_string()).await.unwrap();
    }
    let taken = soon("all items are taken", takers.join_all()).await.concat();
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 20, "none twice");
}

#[tokio::test]
async fn a_priority_queue_gives_the_most_urgent_first() {
    let member = member();
    let client = client(&member);
    let queue = PriorityQueue::new(&client, "q");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.dequeue().await }
    });
    queue.enqueue("alone", 7).await.unwrap();
    assert_eq!(soon("the waiting one", waiting).await.unwrap().unwrap(), "alone");
    for (item, priority) in [("c", 500), ("a", 2), ("d", 65535), ("b", 2)] {
        queue.enqueue(item, priority).await.unwrap();
    }
    for expected in ["a", "b", "c", "d"] {
        assert_eq!(soon("an item", queue.dequeue()).await.unwrap(), expected);
    }
    client.put(Put::new("q/00001/hello", "")).await.unwrap();
    let error = queue.enqueue("x", 1).await.unwrap_err();
    assert_eq!(error, Error::ForeignItem("q/00001/hello".into()));
}

#[tokio::test]
async fn the_services_of_the_server_exclude_the_recipes() {
    let member = member();
    let client = client(&member).namespaced("ns/");
    let lease = client.lease_grant(60, 0).await.unwrap().id;
    let locked = client.lock("m", lease).await.unwrap();
    assert_eq!(locked.key, format!("m/{lease:x}"));
    let session = session(&client).await;
    assert_eq!(Mutex::new(&session, "m").try_lock().await.unwrap_err(), Error::Locked);
    client.unlock(locked.key).await.unwrap();
    Mutex::new(&session, "m").try_lock().await.unwrap().unlock().await.unwrap();

    let nobody = client.leader("e").await.unwrap_err();
    assert_eq!(nobody.rpc(), Some(&RpcError::ElectionNoLeader));
    let leader = client.campaign("e", lease, "a").await.unwrap().leader.unwrap();
    assert_eq!((&leader.name[..], &leader.key[..2]), (&b"e"[..], &b"e/"[..]));
    let mut told = client.observe("e");
    assert_eq!(soon("the leader", told.next()).await.unwrap().kv.unwrap().value, "a");
    client.proclaim(leader.clone(), "b").await.unwrap();
    assert_eq!(soon("its new value", told.next()).await.unwrap().kv.unwrap().value, "b");
    let seen = Election::new(&session, "e").leader().await.unwrap();
    assert_eq!((seen.key, seen.value), (leader.key.clone(), "b".into()));
    client.resign(leader.clone()).await.unwrap();
    let late = client.proclaim(leader, "c").await.unwrap_err();
    assert_eq!(late.rpc(), Some(&RpcError::ElectionNotLeader));
}

#[tokio::test]
async fn a_namespace_is_a_world_of_its_own() {
    let member = member();
    let outside = client(&member);
    let inside = outside.namespaced("a/").namespaced("b/");
    outside.put(Put::new("before", "")).await.unwrap();
    outside.put(Put::new("a/b0", "after")).await.unwrap();
    let mut changes = inside.watch(Watch::all()).await;
    changes.created().await.unwrap();

    inside.put(Put::new("k", "1")).await.unwrap();
    assert_eq!(value(&outside, "a/b/k").await, "1");
    let all = inside.range(Get::all()).await.unwrap();
    assert_eq!(all.kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"k"]);
    let event = soon("its event", changes.next()).await.unwrap().events.remove(0);
    assert_eq!(event.kv.unwrap().key, "k");

    let txn = Txn::new()
        .when(key("k").value_is("1"))
        .when(keys_with_prefix("none").is_absent())
        .put(Put::new("l", "2").prev_kv())
        .range(Get::key("k"));
    let reply = inside.txn(txn).await.unwrap();
    assert!(reply.succeeded);
    assert!(format!("{reply:?}").contains(r#"key: b"k""#), "{reply:?}");

    let lease = inside.lease_grant(60, 0).await.unwrap().id;
    outside.put(Put::new("elsewhere", "").lease(lease)).await.unwrap();
    inside.put(Put::new("k", "3").lease(lease)).await.unwrap();
    assert_eq!(inside.lease_time_to_live(lease, true).await.unwrap().keys, ["k"]);

    let service = Endpoints::new(&inside, "s").unwrap();
    service.add("s/1", Endpoint::new("1:1"), 0).await.unwrap();
    assert_eq!(service.list().await.unwrap().keys().collect::<Vec<_>>(), ["s/1"]);
    let gone = inside.delete_range(Delete::all().prev_kv()).await.unwrap();
    assert_eq!(
        gone.prev_kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(),
        [&b"k"[..], b"l", b"s/1"]
    );
    assert_eq!(outside.range(Get::all().keys_only()).await.unwrap().count, 3, "all others stay");
}

#[tokio::test]
async fn a_mirror_is_complete_and_goes_on() {
    let member = member();
    let client = client(&member);
    for batch in 0..25 {
        let mut txn = Txn::new();
        for item in 0..100 {
            txn = txn.put(Put::new(format!("m/{:05}", batch * 100 + item), "1"));
        }
        client.txn(txn).await.unwrap();
    }
    client.put(Put::new("other", "")).await.unwrap();
    let mirror = Mirror::new(&client, "m/").await.unwrap();
    client.put(Put::new("m/00000", "2")).await.unwrap();
    client.delete_range(Delete::key("m/00001")).await.unwrap();
    let (mut base, mut keys) = (mirror.base(), Vec::new());
    while let Some(page) = base.next().await.unwrap() {
        assert!(page.kvs.iter().all(|kv| kv.value == "1"), "nothing newer");
        keys.extend(page.kvs.into_iter().map(|kv| kv.key));
    }
    assert_eq!(keys.len(), 2500);
    assert!(keys.is_sorted());
    let mut changes = mirror.changes().await;
    let first = soon("a change", changes.next()).await.unwrap();
    assert_eq!(first.events[0].kv.as_ref().unwrap().mod_revision, mirror.revision() + 1);
    let end = client.range(Get::key("m/00000")).await.unwrap().header.unwrap().revision;
    client.compact(Compact::at(end).physical()).await.unwrap();
    let late = mirror.base().next().await.unwrap_err();
    assert_eq!(late.rpc(), Some(&RpcError::Compacted));
}

#[tokio::test]
async fn a_cache_answers_from_memory_until_somebody_writes() {
    let member = member();
    let client = client(&member);
    let one = Leasing::start(&client, "l/", 60).await.unwrap();
    let other = Leasing::start(&client, "l/", 60).await.unwrap();
    one.put(Put::new("k", "1")).await.unwrap();
    assert_eq!(one.get("k").await.unwrap().kvs[0].value, "1");
    assert_eq!(client.range(Get::key("l/k")).await.unwrap().count, 1, "it is owned");
    // Behind the back of the cache, which nobody must do: so we see that it is not asked.
    client.put(Put::new("k", "unseen")).await.unwrap();
    assert_eq!(one.get("k").await.unwrap().kvs[0].value, "1", "from memory");
    one.put(Put::new("k", "2")).await.unwrap();
    let kv = one.get("k").await.unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.version), (&b"2"[..], 3), "as the server has it");

    assert_eq!(other.get("k").await.unwrap().kvs[0].value, "2", "others may read");
    soon("the owner gives way", other.put(Put::new("k", "3"))).await.unwrap();
    assert_eq!(one.get("k").await.unwrap().kvs[0].value, "3");
    one.delete_range(Delete::key("k")).await.unwrap();
    assert_eq!(other.get("k").await.unwrap().count, 0);

    one.get("absent").await.unwrap();
    let txn = Txn::new().when(key("absent").is_absent()).put(Put::new("absent", "no more"));
    assert!(soon("the owner gives way", other.txn(txn)).await.unwrap().succeeded);
    assert_eq!(one.get("absent").await.unwrap().kvs[0].value, "no more");
    let gone = soon("all give way", other.delete_range(Delete::prefix("a"))).await.unwrap();
    assert_eq!(gone.deleted, 1);
    one.close().await.unwrap();
    other.close().await.unwrap();
    assert_eq!(client.range(Get::prefix("l/")).await.unwrap().count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_is_never_stale() {
    let member = member();
    let client = client(&member);
    let last: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(0)));
    let writer = Leasing::start(&client, "l/", 60).await.unwrap();
    writer.put(Put::new("k", "0")).await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let cache = Leasing::start(&client, "l/", 60).await.unwrap();
        tasks.spawn(async move {
            loop {
                let before = last.load(Ordering::SeqCst);
                let kv = cache.get("k").await.unwrap().kvs.remove(0);
                let seen: i64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
                assert!(seen >= before, "saw {seen} after {before} had been written");
                if seen == 30 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for number in 1..=30 {
        soon("a write", writer.put(Put::new("k", number.to_string()))).await.unwrap();
        last.store(number, Ordering::SeqCst);
        writer.get("k").await.unwrap();
    }
    soon("everybody sees the last one", tasks.join_all()).await;
}

#[tokio::test]
async fn a_slow_reader_loses_nothing_and_delays_nobody() {
    let member = member();
    let client = client(&member);
    let mut slow = client.watch(Watch::prefix("k")).await;
    let mut quick = client.watch(Watch::prefix("k")).await;
    slow.created().await.unwrap();
    quick.created().await.unwrap();
    // Far more than a queue holds, one revision each.
    let total = 1000;
    let mut seen_by_quick = 0;
    for number in 0..total {
        client.put(Put::new(format!("k{number}"), "")).await.unwrap();
        let reply = soon("the quick one is not delayed", quick.next()).await.unwrap();
        seen_by_quick += reply.events.len();
    }
    assert_eq!(seen_by_quick, total);
    let mut revisions = Vec::new();
    while revisions.len() < total {
        let reply = soon("the slow one gets it all", slow.next()).await.unwrap();
        revisions.extend(reply.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    let expected: Vec<i64> = (revisions[0]..).take(total).collect();
    assert_eq!(revisions, expected, "no gap, nothing twice, in order");

    // Progress is told to both, once they have caught up.
    slow.request_progress();
    let progress = soon("progress", slow.next_or_progress()).await.unwrap();
    assert!(progress.events.is_empty());
    let revision = progress.header.unwrap().revision;
    assert_eq!(revision, *revisions.last().unwrap());
}

#[tokio::test]
async fn watches_of_one_client_come_and_go_alone() {
    let member = member();
    let client = client(&member);
    let first = client.put(Put::new("a", "1")).await.unwrap().header.unwrap().revision;
    client.put(Put::new("a", "2")).await.unwrap();
    let second = client.put(Put::new("a", "3")).await.unwrap().header.unwrap().revision;
    let mut lives = client.watch(Watch::key("a").from_revision(second)).await;
    client.compact(Compact::at(second).physical()).await.unwrap();
    let mut compacted = client.watch(Watch::key("a").from_revision(first)).await;
    let refused = soon("the past is gone", compacted.next()).await.unwrap_err();
    assert_eq!(refused.rpc(), Some(&RpcError::Compacted));
    let kv = soon("the others go on", lives.next()).await.unwrap().events.remove(0).kv.unwrap();
    assert_eq!(kv.value, "3");
    drop(lives);
    drop(compacted);
    // The stream has ended with its last watch; another one begins.
    let mut later = client.watch(Watch::key("a")).await;
    soon("another stream", later.created()).await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(1), later.next()).await;
    assert!(nothing.is_err());
    client.put(Put::new("a", "4")).await.unwrap();
    let kv = soon("an event", later.next()).await.unwrap().events.remove(0).kv.unwrap();
    assert_eq!(kv.value, "4");
}
