//! The lock service, as a client without a lock of its own uses it.

mod contenders;

use contenders::{Fixture, assert_refused, is_ours, revision, soon};
use retcd_api::v3lockpb::lock_client::LockClient;
use retcd_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use retcd_testkit::SOON;
use tokio::task::JoinHandle;
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
    fixture.queue_of("m/", 1).await;
    let lease = fixture.lease().await;
    let again = wait_in_line(&fixture, "m", lease, 2).await;
    assert!(!again.is_finished());
    assert_eq!(fixture.queue("m/").await[1].lease, lease, "no key came after its call had gone");
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
