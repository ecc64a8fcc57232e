//! What a client notices of members that are down, hang or come back.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::time::Duration;

use common::proxy::Proxy;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::{PutRequest, RangeRequest, WatchCreateRequest, WatchResponse};
use retcd_client::{Client, Config, Error, Watcher};
use retcd_testkit::{Member, Port, SOON, server_binary};

also_with_older_servers!();

fn member() -> Member {
    Member::start(&server_binary(), &[])
}

fn client(endpoints: &[String]) -> Client {
    let config = Config { endpoints: endpoints.to_vec(), ..Config::default() };
    Client::new(&config).unwrap().with_timeout(SOON)
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

/// The values of the next events, until there are `count`.
async fn values(watcher: &mut Watcher, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    while values.len() < count {
        let reply: WatchResponse =
            tokio::time::timeout(SOON, watcher.next()).await.expect("an event").unwrap();
        let texts = reply.events.into_iter().filter_map(|event| event.kv);
        values.extend(texts.map(|kv| String::from_utf8(kv.value.into()).unwrap()));
    }
    values
}

#[tokio::test]
async fn dead_endpoints_do_not_matter_while_one_lives() {
    let member = member();
    let dead = Port::claim();
    let client = client(&[format!("127.0.0.1:{}", dead.number()), member.endpoint()]);
    for _ in 0..4 {
        client.put(put("key", "value")).await.unwrap();
    }
    let reply =
        client.range(RangeRequest { key: "key".into(), ..Default::default() }).await.unwrap();
    assert_eq!(reply.kvs[0].version, 4, "each write was done once");
}

#[tokio::test]
async fn calls_that_come_together_share_one_connection() {
    let member = member();
    let proxy = Proxy::start(&member.endpoint()).await;
    let client = client(&[proxy.endpoint()]);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        calls.spawn(async move { client.put(put("key", "value")).await });
    }
    for answer in calls.join_all().await {
        answer.unwrap();
    }
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_client_outlives_the_runtime_of_its_connection() {
    let member = member();
    let client = client(&[member.endpoint()]);
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client.put(put("key", "value"))).unwrap();
    }
}

#[tokio::test]
async fn reads_wait_for_a_member_to_come_back() {
    let mut member = member();
    let client = client(&[member.endpoint()]);
    client.put(put("key", "value")).await.unwrap();
    member.crash_and_restart();
    let reply =
        client.range(RangeRequest { key: "key".into(), ..Default::default() }).await.unwrap();
    assert_eq!(reply.count, 1);
}

#[tokio::test]
async fn a_member_that_hangs_costs_the_deadline() {
    let mut member = member();
    let client = client(&[member.endpoint()]);
    client.put(put("key", "value")).await.unwrap();
    member.process().pause();
    let hurried = client.with_timeout(Duration::from_millis(200));
    // A signal takes a moment to stop all threads, and a call may be answered in it.
    let error = loop {
        let read = RangeRequest { key: "key".into(), ..Default::default() };
        if let Err(error) = hurried.range(read).await {
            break error;
        }
    };
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error:?}");
    member.process().resume();
    client.range(RangeRequest { key: "key".into(), ..Default::default() }).await.unwrap();
}

#[tokio::test]
async fn watches_survive_a_restart_without_loss_or_repetition() {
    let mut member = member();
    let client = client(&[member.endpoint()]);
    client.put(put("key", "1")).await.unwrap();
    let mut watcher = client.needing_leader().watcher();
    let from_start =
        WatchCreateRequest { key: "key".into(), start_revision: 2, ..Default::default() };
    watcher.create(from_start).await;
    client.put(put("key", "2")).await.unwrap();
    assert_eq!(values(&mut watcher, 2).await, ["1", "2"]);

    member.crash_and_restart();
    // The watch is not being polled, so this happens behind its back.
    while client.put(put("key", "3")).await.is_err() {}
    client.put(put("key", "4")).await.unwrap();
    assert_eq!(values(&mut watcher, 2).await, ["3", "4"]);
}

#[tokio::test]
async fn watches_share_a_stream_until_they_are_canceled() {
    let member = member();
    let client = client(&[member.endpoint()]);
    let mut watcher = client.needing_leader().watcher();
    let history = |key: &'static str| WatchCreateRequest {
        key: key.into(),
        start_revision: 1,
        ..Default::default()
    };
    let a = watcher.create(history("a")).await;
    let b = watcher.create(history("b")).await;
    let empty = WatchCreateRequest { range_end: "a".into(), ..history("z") };
    watcher.create(empty).await;
    client.put(put("a", "1")).await.unwrap();
    client.put(put("b", "2")).await.unwrap();

    let mut refusals = Vec::new();
    let mut seen = Vec::new();
    while refusals.is_empty() || seen.len() < 2 {
        let reply = tokio::time::timeout(SOON, watcher.next()).await.expect("an answer").unwrap();
        refusals.extend(retcd_client::cancellation(&reply));
        seen.extend(reply.events.iter().map(|_| reply.watch_id));
    }
    assert_eq!(refusals, [Error::WatchRefused("mvcc: watcher range is empty".to_owned())]);
    seen.sort_unstable();
    assert_eq!(seen, [a, b]);

    watcher.cancel(a).await;
    client.put(put("a", "3")).await.unwrap();
    client.put(put("b", "4")).await.unwrap();
    assert_eq!(values(&mut watcher, 1).await, ["4"], "nobody watches a any more");

    watcher.request_progress().await;
    let reply = tokio::time::timeout(SOON, watcher.next()).await.expect("progress").unwrap();
    assert!(retcd_client::is_progress_notify(&reply), "{reply:?}");
    assert_eq!(reply.header.unwrap().revision, 5);
}

#[tokio::test]
async fn leases_are_kept_alive_across_a_restart() {
    let mut member = member();
    let client = client(&[member.endpoint()]);
    let lease = client.lease_grant(30, 0).await.unwrap();
    let mut renewals = client.lease_keep_alive(lease.id);
    assert_eq!(renewals.next().await.unwrap().unwrap().ttl, 30);

    member.crash_and_restart();
    assert_eq!(client.lease_keep_alive_once(lease.id).await.unwrap().ttl, 30);
    client.lease_revoke(lease.id).await.unwrap();
    let gone = client.lease_keep_alive_once(lease.id).await.unwrap_err();
    assert_eq!(gone, Error::Rpc(RpcError::LeaseNotFound));
    assert_eq!(client.lease_keep_alive(lease.id).next().await.unwrap(), None);
}
