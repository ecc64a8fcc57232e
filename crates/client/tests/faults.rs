//! Members that die or are cut off, owners that are paused, answers that are lost: for each part of the library.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::sync::{Arc, Condvar, Mutex as StdMutex};
use std::time::{Duration, Instant};

use common::proxy::{Mode, Proxy};
use common::{SOON, client, client_of, member, soon, until_count, value};
use retcd_api::error::RpcError;
use retcd_client::concurrency::{Election, Error, Isolation, Mutex, Session, Stm, transact};
use retcd_client::naming::{Endpoint, Endpoints};
use retcd_client::{Client, Get, Leasing, Put, Subscription, Txn, Watch};
use retcd_testkit::{Cluster, Fault, Plan};

also_with_older_servers!();

/// Writes the numbers after `next` to a key, until `count` have certainly been written. Those whose fate is unknown are
/// left out.
async fn count_up(client: &Client, name: &'static str, mut next: u32, count: usize) -> Vec<String> {
    let mut certain = Vec::new();
    while certain.len() < count {
        next += 1;
        let number = next.to_string();
        match client.put(Put::new(name, number.clone())).await {
            Ok(_) => certain.push(number),
            Err(error) => assert!(error.may_have_happened(), "{error:?}"),
        }
    }
    certain
}

/// Reads events until `last` is among the values. No revision may come twice or out of order.
async fn values_until(changes: &mut Subscription, last: &str) -> Vec<String> {
    let (mut values, mut revision) = (Vec::<String>::new(), 0);
    while values.last().is_none_or(|value| value != last) {
        let reply = soon("an event", changes.next()).await.unwrap();
        for kv in reply.events.into_iter().filter_map(|event| event.kv) {
            assert!(kv.mod_revision > revision, "{} after {revision}", kv.mod_revision);
            revision = kv.mod_revision;
            values.push(String::from_utf8(kv.value.to_vec()).unwrap());
        }
    }
    values
}

fn endpoints(cluster: &Cluster) -> Vec<String> {
    cluster.slots().into_iter().map(|slot| cluster.endpoint(slot)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_member_is_not_missed() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    let client = client_of(&endpoints(&cluster));
    let session = Session::with_ttl(&client, 20).await.unwrap();
    let locked = Mutex::new(&session, "m").lock().await.unwrap();
    let leadership = Election::new(&session, "e").campaign("me").await.unwrap();
    let service = Endpoints::new(&client, "s").unwrap();
    service.add("s/1", Endpoint::new("1:1"), session.lease()).await.unwrap();
    let mut changes = client.watch(Watch::key("k")).await;
    soon("the watch", changes.created()).await.unwrap();

    let mut written = count_up(&client, "k", 0, 5).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    written.extend(count_up(&client, "k", 1_000_000, 20).await);
    let seen = values_until(&mut changes, written.last().unwrap()).await;
    // In order, with room for those of unknown fate.
    let mut seen = seen.into_iter();
    for number in &written {
        assert!(seen.any(|value| value == *number), "{number} was written and not seen");
    }

    assert!(!session.is_done());
    let check = Txn::new().when(locked.is_owner());
    assert!(client.txn(check).await.unwrap().succeeded);
    assert_eq!(service.list().await.unwrap().len(), 1);
    soon("others can proclaim", leadership.proclaim("still me")).await.unwrap();
    soon("and unlock", locked.unlock()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_the_others_is_passed_over() {
    let mut cluster = Cluster::start(Plan::new(3).with_links()).await;
    let client = client_of(&endpoints(&cluster));
    client.put(Put::new("k", "1")).await.unwrap();
    let leader = cluster.leader().await;
    let lonely = cluster.others(&[leader])[0];
    let there = Client::builder([cluster.endpoint(lonely)]).require_leader().build().unwrap();
    let mut changes = there.watch(Watch::key("k")).await;
    soon("the watch", changes.created()).await.unwrap();

    cluster.links().between(&[lonely], &cluster.others(&[lonely]), Fault::Silent);
    // A follower may have begun to watch before it knew of the first write, and then tells of that one.
    let until_told = async {
        loop {
            if let Err(error) = changes.next().await {
                break error;
            }
        }
    };
    let told = soon("who wants a leader is told", until_told).await;
    assert_eq!(told.rpc(), Some(&RpcError::NoLeader));
    for _ in 0..6 {
        assert_eq!(value(&client, "k").await, "1", "reads ask on");
    }
    cluster.links().heal();
    cluster.leader().await;
    let mut changes = there.watch(Watch::key("k").from_revision(1)).await;
    let again = async {
        while changes.next().await.is_err() {
            changes = there.watch(Watch::key("k").from_revision(1)).await;
        }
    };
    soon("and may watch again", again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_endpoint_is_left_alone() {
    let cluster = Cluster::start(Plan::new(3)).await;
    let mut proxies = Vec::new();
    for endpoint in endpoints(&cluster) {
        proxies.push(Proxy::start(&endpoint).await);
    }
    // The first one is where the watch is.
    let only = Client::builder([proxies[0].endpoint(), proxies[1].endpoint()])
        .keep_alive(Duration::from_secs(10), Duration::from_secs(1))
        .timeout(SOON)
        .build()
        .unwrap();
    let mut changes = only.watch(Watch::key("k")).await;
    soon("the watch", changes.created()).await.unwrap();
    let other = client_of(&endpoints(&cluster));
    proxies[0].set(Mode::Silence);

    let hurried = only.with_timeout(Duration::from_secs(2));
    let mut in_a_row = 0;
    let calling = async {
        while in_a_row < 5 {
            let read = hurried.range(Get::key("k")).await;
            in_a_row = if read.is_ok() { in_a_row + 1 } else { 0 };
        }
    };
    soon("the other endpoint answers", calling).await;
    other.put(Put::new("k", "1")).await.unwrap();
    assert_eq!(values_until(&mut changes, "1").await, ["1"], "wherever it was watched");
    proxies[0].set(Mode::Pass);
    other.put(Put::new("k", "2")).await.unwrap();
    assert_eq!(values_until(&mut changes, "2").await, ["2"]);
}

#[tokio::test]
async fn claims_whose_answer_is_lost_are_found_again() {
    let member = member();
    let direct = client(&member);
    let proxy = Proxy::start(&member.endpoint()).await;
    let client = client_of(&[proxy.endpoint()]);
    let session = Session::with_ttl(&client, 60).await.unwrap();
    let mutex = Mutex::new(&session, "m");
    proxy.set(Mode::EatReplies);
    let breaking = async {
        until_count(&direct, "m/", 1).await;
        proxy.set(Mode::Pass);
        proxy.cut();
    };
    let both = async { tokio::join!(mutex.lock(), breaking).0 };
    let locked = soon("the lock", Box::pin(both)).await.unwrap();
    let kv = direct.range(Get::prefix("m/")).await.unwrap().kvs.remove(0);
    assert_eq!((kv.version, kv.create_revision), (1, locked.fencing_token()));
    locked.unlock().await.unwrap();
}

#[tokio::test]
async fn transactions_in_code_are_not_run_again_when_their_commit_is_lost() {
    let member = member();
    let direct = client(&member);
    let proxy = Proxy::start(&member.endpoint()).await;
    let client = client_of(&[proxy.endpoint()]);
    client.put(Put::new("n", "0")).await.unwrap();
    let committing = transact(&client, Isolation::default(), async |stm: &mut Stm| {
        stm.get("n").await?;
        stm.put("n", "1");
        proxy.set(Mode::EatReplies);
        Ok::<_, retcd_client::Error>(())
    });
    let breaking = async {
        while value(&direct, "n").await != "1" {}
        proxy.set(Mode::Pass);
        proxy.cut();
    };
    let both = async { tokio::join!(committing, breaking).0 };
    let error = soon("the end", Box::pin(both)).await.unwrap_err();
    assert!(error.may_have_happened(), "{error:?}");
    assert_eq!(direct.range(Get::key("n")).await.unwrap().kvs[0].version, 2);
}

#[tokio::test]
async fn a_cache_forgets_what_it_may_have_written() {
    let member = member();
    let direct = client(&member);
    let proxy = Proxy::start(&member.endpoint()).await;
    let client = client_of(&[proxy.endpoint()]);
    let cache = Leasing::start(&client, "l/", 60).await.unwrap();
    cache.put(Put::new("k", "1")).await.unwrap();
    let owning = async {
        while direct.range(Get::key("l/k")).await.unwrap().count == 0 {
            cache.get("k").await.unwrap();
        }
    };
    soon("the key is owned", owning).await;
    proxy.set(Mode::EatReplies);
    let breaking = async {
        while value(&direct, "k").await != "2" {}
        proxy.set(Mode::Pass);
        proxy.cut();
    };
    let both = async { tokio::join!(cache.put(Put::new("k", "2")), breaking).0 };
    let error = soon("the write ends", Box::pin(both)).await.unwrap_err();
    assert!(error.may_have_happened(), "{error:?}");
    assert_eq!(cache.get("k").await.unwrap().kvs[0].value, "2");
    soon("it can be written again", cache.put(Put::new("k", "3"))).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap().kvs[0].value, "3");
}

/// A number that threads raise and wait for.
#[derive(Default)]
struct Highest {
    number: StdMutex<i64>,
    raised: Condvar,
}

impl Highest {
    fn raise(&self, number: i64) {
        let mut highest = self.number.lock().unwrap();
        *highest = number.max(*highest);
        self.raised.notify_all();
    }

    /// Blocks the whole thread, and so every task of its runtime, as a paused process is blocked.
    fn pause_until_above(&self, number: i64) {
        let highest = self.number.lock().unwrap();
        let is_low = |highest: &mut i64| *highest <= number;
        let (_highest, waited) = self.raised.wait_timeout_while(highest, SOON, is_low).unwrap();
        assert!(!waited.timed_out(), "nobody came after {number}");
    }
}

/// Runs in a thread of its own, with a runtime of its own.
fn in_a_process_of_its_own<T: Send + 'static>(
    work: impl AsyncFnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
}

#[test]
fn who_was_paused_for_longer_than_the_lease_is_refused() {
    let member = member();
    let endpoint = member.endpoint();
    let highest = Arc::new(Highest::default());
    let late = {
        let (endpoint, highest) = (endpoint.clone(), highest.clone());
        in_a_process_of_its_own(async move || {
            let client = client_of(&[endpoint]);
            let session = Session::with_ttl(&client, 1).await.unwrap();
            let locked = Mutex::new(&session, "m").lock().await.unwrap();
            let until = Instant::now() + SOON;
            while !session.is_certain() {
                assert!(Instant::now() < until, "renewals must come through");
                tokio::task::yield_now().await;
            }
            highest.raise(locked.fencing_token());
            highest.pause_until_above(locked.fencing_token());
            assert!(!session.is_certain(), "the clock tells, before anybody else can");
            let write = Txn::new().when(locked.is_owner()).put(Put::new("guarded", "late"));
            assert!(!client.txn(write).await.unwrap().succeeded, "the late are refused");
            soon("the session ends", session.done()).await;
            assert_eq!(locked.unlock().await.unwrap_err(), Error::SessionExpired);
        })
    };
    highest.pause_until_above(0);
    let next = {
        let (endpoint, highest) = (endpoint.clone(), highest.clone());
        in_a_process_of_its_own(async move || {
            let client = client_of(&[endpoint]);
            let session = Session::with_ttl(&client, 60).await.unwrap();
            let locked = soon("its turn", Mutex::new(&session, "m").lock()).await.unwrap();
            let write = Txn::new().when(locked.is_owner()).put(Put::new("guarded", "in time"));
            assert!(client.txn(write).await.unwrap().succeeded);
            highest.raise(locked.fencing_token());
            locked.unlock().await.unwrap();
        })
    };
    next.join().unwrap();
    late.join().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let written = runtime.block_on(async { value(&client_of(&[endpoint]), "guarded").await });
    assert_eq!(written, "in time");
}

#[test]
fn tokens_fence_off_paused_owners_every_time() {
    let member = member();
    let endpoint = member.endpoint();
    let highest = Arc::new(Highest::default());
    // Each owner but the last is paused while it owns the lock, until the next one has got it.
    let owners: Vec<_> = (0..5)
        .map(|number| {
            let (endpoint, highest) = (endpoint.clone(), highest.clone());
            in_a_process_of_its_own(async move || {
                let client = client_of(&[endpoint]);
                let session = Session::with_ttl(&client, 1).await.unwrap();
                let mutex = Mutex::new(&session, "m");
                let Ok(locked) = soon("its turn", mutex.lock()).await else {
                    // Starved by a busy machine: the lease ended in the queue. That is no turn.
                    return None;
                };
                let token = locked.fencing_token();
                highest.raise(token);
                let before = *highest.number.lock().unwrap();
                let put = Put::new("fenced", format!("{token}"));
                let write = Txn::new().when(locked.is_owner()).put(put);
                let written = client.txn(write).await.unwrap().succeeded;
                if number % 2 == 0 {
                    // Gives way without knowing, if others are left to come.
                    let until = Instant::now() + Duration::from_secs(5);
                    while *highest.number.lock().unwrap() <= before && Instant::now() < until {
                        std::thread::yield_now();
                    }
                }
                let put = Put::new("fenced", format!("{token}"));
                let write = Txn::new().when(locked.is_owner()).put(put);
                let again = client.txn(write).await.unwrap().succeeded;
                drop(locked.unlock().await);
                Some((token, written, again))
            })
        })
        .collect();
    let turns: Vec<_> = owners.into_iter().filter_map(|owner| owner.join().unwrap()).collect();
    assert!(!turns.is_empty());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = client_of(&[endpoint]);
        let mut changes = client.watch(Watch::key("fenced").from_revision(1)).await;
        let last = value(&client, "fenced").await;
        let mut tokens = Vec::new();
        let revision = client.range(Get::key("fenced")).await.unwrap().kvs[0].mod_revision;
        let mut seen = 0;
        while seen < revision {
            for event in soon("history", changes.next()).await.unwrap().events {
                let kv = event.kv.unwrap();
                seen = kv.mod_revision;
                tokens.push(std::str::from_utf8(&kv.value).unwrap().parse::<i64>().unwrap());
            }
        }
        assert_eq!(tokens.last().unwrap().to_string(), last);
        assert!(tokens.is_sorted(), "a write with an old token came after a newer one: {tokens:?}");
    });
}
