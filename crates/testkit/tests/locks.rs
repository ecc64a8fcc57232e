//! The lock service, as a client without a lock of its own uses it.

mod contenders;

use std::time::Duration;

use bytes::Bytes;
use contenders::{Fixture, assert_refused, is_ours, revision, soon};
use retcd_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use retcd_api::etcdserverpb::response_op::Response;
use retcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, TxnResponse,
};
use retcd_api::v3lockpb::lock_client::LockClient;
use retcd_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use retcd_client::{Client, Txn, compare};
use retcd_testkit::SOON;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tonic::Status;
use tonic::transport::Channel;

async fn locks(fixture: &Fixture) -> LockClient<Channel> {
    LockClient::new(fixture.connect().await)
}

async fn lock(
    locks: &mut LockClient<Channel>,
    name: &'static str,
    lease: i64,
) -> Result<LockResponse, Status> {
    let request = LockRequest { name: name.into(), lease };
    soon(locks.lock(request)).await.map(tonic::Response::into_inner)
}

async fn unlock(locks: &mut LockClient<Channel>, key: &str) -> i64 {
    let request = UnlockRequest { key: key.to_owned().into() };
    let response = soon(locks.unlock(request)).await.expect("an unlock always succeeds");
    revision(response.into_inner().header)
}

/// Asks for a lock and waits until its key is in line, the `place`th below the name.
async fn wait_in_line(
    fixture: &Fixture,
    name: &'static str,
    lease: i64,
    place: usize,
) -> JoinHandle<Result<LockResponse, Status>> {
    let mut locks = locks(fixture).await;
    let waiting = tokio::spawn(async move { lock(&mut locks, name, lease).await });
    fixture.queue_of(&format!("{name}/"), place).await;
    waiting
}

#[tokio::test]
async fn a_free_lock_is_given_at_once_and_again_to_the_same_lease() {
    let fixture = Fixture::start().await;
    let mut locks = locks(&fixture).await;
    let lease = fixture.lease().await;
    let before = fixture.write().await;
    let held = lock(&mut locks, "m", lease).await.expect("the lock is free");
    assert_eq!(held.key, format!("m/{lease:x}"));
    assert_eq!(revision(held.header), before + 1, "the transaction that made the key");
    let queue = fixture.queue("m/").await;
    assert_eq!((queue.len(), queue[0].lease, queue[0].value.len()), (1, lease, 0));

    let again = lock(&mut locks, "m", lease).await.expect("it is our own");
    assert_eq!((again.key, revision(again.header)), (held.key, before + 1), "nothing was written");
    assert_eq!(unlock(&mut locks, &format!("m/{lease:x}")).await, before + 2, "no counter");
    assert_eq!(fixture.queue("m/").await, []);
}

#[tokio::test]
async fn a_negative_lease_has_its_sign_in_the_key() {
    let fixture = Fixture::start().await;
    fixture.client.lease_grant(600, -9).await.expect("any id may be asked for");
    let held = lock(&mut locks(&fixture).await, "m", -9).await.expect("the lock is free");
    assert_eq!(held.key, "m/-9");
}

#[tokio::test]
async fn waiters_come_in_the_order_in_which_they_asked() {
    let fixture = Fixture::start().await;
    let first = fixture.lease().await;
    let mut locks = locks(&fixture).await;
    let mut held = lock(&mut locks, "m", first).await.expect("the lock is free");
    let mut waiting = Vec::new();
    for place in 2..6 {
        let lease = fixture.lease().await;
        waiting.push((lease, wait_in_line(&fixture, "m", lease, place).await));
    }
    for (lease, next) in waiting {
        // What others write wakes nobody.
        fixture.write().await;
        assert!(!next.is_finished(), "the lock is held");
        let key = String::from_utf8(held.key.to_vec()).expect("names and numbers");
        let unlocked = unlock(&mut locks, &key).await;
        let given = soon(next).await.expect("no panic").expect("the lock is free now");
        assert_eq!(given.key, format!("m/{lease:x}"));
        let (given_at, held_at) = (revision(given.header), revision(held.header));
        assert!(given_at >= unlocked && given_at > held_at, "{given_at} after {held_at}");
        held = given;
    }
    assert_eq!(fixture.queue("m/").await.len(), 1);
}

#[tokio::test]
async fn a_waiter_that_leaves_the_middle_of_the_line_lets_nobody_in() {
    let fixture = Fixture::start().await;
    let mut locks = locks(&fixture).await;
    let first = fixture.lease().await;
    lock(&mut locks, "m", first).await.expect("the lock is free");
    let middle = fixture.lease().await;
    let (second, third) = (
        wait_in_line(&fixture, "m", middle, 2).await,
        wait_in_line(&fixture, "m", fixture.lease().await, 3).await,
    );
    second.abort();
    let queue = fixture.queue_of("m/", 2).await;
    assert!(queue.iter().all(|kv| kv.lease != middle), "the key left with its call: {queue:?}");
    fixture.write().await;
    assert!(!third.is_finished(), "the lock is held");
    unlock(&mut locks, &format!("m/{first:x}")).await;
    soon(third).await.expect("no panic").expect("the lock is free now");
}

#[tokio::test]
async fn a_call_that_goes_away_at_once_leaves_no_key() {
    if !is_ours() {
        // In etcd the key of such a call stays until its lease ends.
        return;
    }
    let fixture = Fixture::start().await;
    let mut first = locks(&fixture).await;
    lock(&mut first, "m", fixture.lease().await).await.expect("the lock is free");
    let locks = locks(&fixture).await;
    for _ in 0..50 {
        let mut locks = locks.clone();
        let lease = fixture.lease().await;
        let asking = tokio::spawn(async move { lock(&mut locks, "m", lease).await });
        // The reset follows the request with whatever the server has begun by then.
        fixture.write().await;
        asking.abort();
    }
    // A request may arrive later than the next ones of other connections, but then its reset follows at once.
    let last = fixture.lease().await;
    let mut locks = locks.clone();
    let waiting = tokio::spawn(async move { lock(&mut locks, "m", last).await });
    fixture.queue_when("m/", |queue| matches!(queue, [_, second] if second.lease == last)).await;
    assert!(!waiting.is_finished(), "the lock is held");
}

#[tokio::test]
async fn a_waiter_whose_lease_ends_is_told() {
    let fixture = Fixture::start().await;
    let mut locks = locks(&fixture).await;
    let first = fixture.lease().await;
    lock(&mut locks, "m", first).await.expect("the lock is free");
    let lost = fixture.lease().await;
    let waiting = wait_in_line(&fixture, "m", lost, 2).await;
    fixture.client.lease_revoke(lost).await.expect("the lease is there");
    if !is_ours() {
        // etcd looks only when the lock is free.
        unlock(&mut locks, &format!("m/{first:x}")).await;
    }
    assert_refused(soon(waiting).await.expect("no panic"), "mutex: session is expired");
}

#[tokio::test]
async fn a_call_without_a_lease_gets_one_of_a_minute() {
    let fixture = Fixture::start().await;
    let held = lock(&mut locks(&fixture).await, "m", 0).await.expect("the lock is free");
    let queue = fixture.queue("m/").await;
    let lease = queue[0].lease;
    assert_eq!(held.key, format!("m/{lease:x}"));
    let left = fixture.client.lease_time_to_live(lease, true).await.expect("the lease is there");
    assert_eq!((left.granted_ttl, &left.keys[..]), (60, &[held.key][..]));
}

#[tokio::test]
async fn names_are_prefixes_of_keys() {
    let fixture = Fixture::start().await;
    let mut locks = locks(&fixture).await;
    let lease = fixture.lease().await;
    let held = lock(&mut locks, "", lease).await.expect("the lock is free");
    assert_eq!(held.key, format!("/{lease:x}"));

    lock(&mut locks, "a/b", lease).await.expect("the lock is free");
    let waiting = wait_in_line(&fixture, "a", fixture.lease().await, 2).await;
    fixture.write().await;
    assert!(!waiting.is_finished(), "a/b/... begins with a/");
    unlock(&mut locks, &format!("a/b/{lease:x}")).await;
    soon(waiting).await.expect("no panic").expect("the lock is free now");
    lock(&mut locks, "a/b", lease).await.expect("a/... is not below a/b/");
}

#[tokio::test]
async fn an_unlock_asks_nothing() {
    let fixture = Fixture::start().await;
    let mut locks = locks(&fixture).await;
    let before = fixture.write().await;
    assert_eq!(unlock(&mut locks, "none").await, before);
    assert_eq!(unlock(&mut locks, "other").await, before + 1, "a key that is no lock");
    assert_eq!(fixture.queue("other").await, []);
    let refused = locks.unlock(UnlockRequest::default()).await;
    assert_refused(refused, "etcdserver: key is not provided");
}

#[tokio::test]
async fn an_unknown_lease_is_refused() {
    let fixture = Fixture::start().await;
    let refused = lock(&mut locks(&fixture).await, "m", 7).await;
    assert_refused(refused, "etcdserver: requested lease not found");
    assert_eq!(fixture.queue("m/").await, []);
}

#[tokio::test]
async fn waiting_outlives_the_compaction_of_its_history() {
    if !is_ours() {
        // etcd fails a call when the compaction comes between its look at the line and its watch.
        return;
    }
    let fixture = Fixture::start().await;
    let mut locks = locks(&fixture).await;
    let first = fixture.lease().await;
    lock(&mut locks, "m", first).await.expect("the lock is free");
    let waiting = wait_in_line(&fixture, "m", fixture.lease().await, 2).await;
    fixture.compact().await;
    assert!(!waiting.is_finished(), "the lock is held");
    unlock(&mut locks, &format!("m/{first:x}")).await;
    soon(waiting).await.expect("no panic").expect("the lock is free now");
}

#[tokio::test]
async fn a_member_that_stops_waits_for_nobody() {
    let mut fixture = Fixture::start().await;
    let mut locks = locks(&fixture).await;
    lock(&mut locks, "m", fixture.lease().await).await.expect("the lock is free");
    let waiting = wait_in_line(&fixture, "m", fixture.lease().await, 2).await;
    fixture.member.process().terminate();
    soon(waiting).await.expect("no panic").expect_err("nobody unlocked");
    fixture.member.process().wait(SOON);
}

/// How many locks are fought for at the same time, by how many each, and how often each is acquired.
const CROWDS: usize = 20;
const CROWD: usize = 4;
const ACQUISITIONS: usize = 50;
/// Of so many holders one is killed: it unlocks nothing, and its lease is not renewed any more.
const KILLED_OF: usize = 10;
/// Of so many attempts one loses its lease while it waits.
const LOST_OF: usize = 7;
/// Seconds a lease lives without renewal.
const TTL: i64 = 3;
/// Enough for a busy machine.
const LONG: Duration = Duration::from_secs(900);

/// What a crowd has seen.
#[derive(Debug, Default)]
struct Seen {
    acquired: usize,
    /// Waiters that were refused, each because its lease had died.
    told: usize,
    /// Guarded writes of killed holders, after somebody else had got the lock. Each failed.
    late_writes: usize,
}

/// Somebody who wants a lock, with a lease that is renewed for as long as it lives.
struct Contender {
    lease: i64,
    renewing: AbortHandle,
    asked: Result<LockResponse, Status>,
}

/// Somebody who has a lock.
struct Holder {
    contender: Contender,
    key: Bytes,
    create_revision: i64,
}

#[tokio::test]
async fn a_thousand_contended_acquisitions_never_have_two_holders() {
    let fixture = Fixture::start().await;
    let mut crowds = JoinSet::new();
    for number in 0..CROWDS {
        let (client, locks) = (fixture.client.clone(), locks(&fixture).await);
        crowds.spawn(fight(client, locks, format!("lock-{number}")));
    }
    let seen = tokio::time::timeout(LONG, crowds.join_all()).await.expect("it happens in time");
    let sum = |count: fn(&Seen) -> usize| seen.iter().map(count).sum::<usize>();
    assert_eq!(sum(|seen| seen.acquired), CROWDS * ACQUISITIONS);
    assert_eq!(sum(|seen| seen.late_writes), CROWDS * (ACQUISITIONS / KILLED_OF - 1));
    assert!(sum(|seen| seen.told) > 0, "some waiters lost their leases");
}

/// A crowd fights for one lock until it has been acquired often enough.
async fn fight(client: Client, locks: LockClient<Channel>, name: String) -> Seen {
    let mut seen = Seen::default();
    let mut killed: Option<Holder> = None;
    let mut waiting = JoinSet::new();
    let mut attempts = 0;
    while seen.acquired < ACQUISITIONS {
        while waiting.len() < CROWD {
            attempts += 1;
            let lease = client.lease_grant(TTL, 0).await.expect("the member grants").id;
            waiting.spawn(contend(client.clone(), locks.clone(), name.clone(), lease));
            if attempts % LOST_OF == 0 {
                let key = Bytes::from(format!("{name}/{lease:x}"));
                while !run(&client, Txn::new().when(exists(&key)).into_request()).await {}
                client.lease_revoke(lease).await.expect("the lease is there");
            }
        }
        let contender = waiting.join_next().await.expect("somebody waits").expect("no panic");
        let Some(holder) = enter(&client, &name, contender, &mut seen).await else {
            continue;
        };
        seen.acquired += 1;
        if let Some(killed) = killed.take() {
            // It wakes up and goes on where it was.
            let late = Txn::new().when(holds(&killed.key, killed.create_revision));
            let late = late.put(put(format!("{name}-written"), "late", 0)).into_request();
            assert!(!run(&client, late).await, "a holder that was killed has written to {name}");
            seen.late_writes += 1;
        }
        if seen.acquired % KILLED_OF == 0 {
            holder.contender.renewing.abort();
            killed = Some(holder);
        } else {
            leave(&client, locks.clone(), &name, holder).await;
        }
    }
    seen
}

async fn contend(
    client: Client,
    mut locks: LockClient<Channel>,
    name: String,
    lease: i64,
) -> Contender {
    let mut renewals = client.lease_keep_alive(lease);
    let renewing = tokio::spawn(async move { while let Ok(Some(_)) = renewals.next().await {} });
    let asked = locks.lock(LockRequest { name: name.into(), lease }).await;
    let asked = asked.map(tonic::Response::into_inner);
    Contender { lease, renewing: renewing.abort_handle(), asked }
}

/// Goes into the room behind the lock, which has a sign at the door that lives as long as the lease of whoever is
/// inside. `None` when the lock was not acquired, or the lease died at once; then there must be a reason.
async fn enter(
    client: &Client,
    name: &str,
    contender: Contender,
    seen: &mut Seen,
) -> Option<Holder> {
    let key = match &contender.asked {
        Ok(held) => held.key.clone(),
        Err(refusal) => {
            assert!(is_dead(client, contender.lease).await, "refused alive: {refusal}");
            seen.told += 1;
            return None;
        }
    };
    let sign = format!("{name}-inside");
    let is_empty = compare(sign.clone(), CompareResult::Equal, TargetUnion::CreateRevision(0));
    let hang = put(sign, "", contender.lease);
    let own = RangeRequest { key: key.clone(), ..Default::default() };
    let txn = Txn::new().when(exists(&key)).when(is_empty).put(hang).range(own.clone());
    let reply = answer(client, txn.otherwise().range(own).into_request()).await?;
    let found = reply.responses.iter().find_map(|op| match &op.response {
        Some(Response::ResponseRange(found)) => found.kvs.first(),
        _ => None,
    });
    let Some(own) = found else {
        assert!(is_dead(client, contender.lease).await, "the key of a live holder is gone");
        return None;
    };
    assert!(reply.succeeded, "two holders of {name} with live leases");
    let create_revision = own.create_revision;
    Some(Holder { contender, key, create_revision })
}

/// Takes the sign off the door, and unlocks.
async fn leave(client: &Client, mut locks: LockClient<Channel>, name: &str, holder: Holder) {
    let key = format!("{name}-inside").into();
    let sign = DeleteRangeRequest { key, ..Default::default() };
    let still_holds = holds(&holder.key, holder.create_revision);
    run(client, Txn::new().when(still_holds).delete_range(sign).into_request()).await;
    locks.unlock(UnlockRequest { key: holder.key }).await.expect("an unlock always succeeds");
    holder.contender.renewing.abort();
    // On a machine that stood still the lease may be gone by now.
    let _ = client.lease_revoke(holder.contender.lease).await;
}

fn holds(key: &Bytes, create_revision: i64) -> Compare {
    let own = TargetUnion::CreateRevision(create_revision);
    compare(key.clone(), CompareResult::Equal, own)
}

fn put(key: String, value: &'static str, lease: i64) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() }
}

fn exists(key: &Bytes) -> Compare {
    compare(key.clone(), CompareResult::Greater, TargetUnion::CreateRevision(0))
}

/// The answer to a transaction. `None` when a lease that it names ended meanwhile.
async fn answer(client: &Client, request: TxnRequest) -> Option<TxnResponse> {
    match client.txn(request).await {
        Ok(reply) => Some(reply),
        Err(error) => {
            assert_eq!(error.to_string(), "etcdserver: requested lease not found");
            None
        }
    }
}

/// Whether the conditions of a transaction held.
async fn run(client: &Client, request: TxnRequest) -> bool {
    answer(client, request).await.is_some_and(|reply| reply.succeeded)
}

async fn is_dead(client: &Client, lease: i64) -> bool {
    client.lease_time_to_live(lease, false).await.expect("the member serves").ttl < 0
}
