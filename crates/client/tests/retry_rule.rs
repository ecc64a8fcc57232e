//! What is sent again and what is not, with a proxy in between that eats answers.
#![allow(clippy::unwrap_used, reason = "this is a test")]
#![allow(clippy::print_stderr, reason = "what is skipped is told")]

mod common;

use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::proxy::{Mode, Proxy};
use common::{client, client_of, member, soon, until_count, value};
use retcd_client::{Client, Delete, Error, Get, Put, Txn, key};
use retcd_testkit::server_binary;

also_with_older_servers!();

/// The number of times a key was written.
async fn version(client: &Client, name: &str) -> i64 {
    let reply = client.range(Get::key(name.to_owned())).await.unwrap();
    reply.kvs.first().map_or(0, |kv| kv.version)
}

/// Releases 3.5.0 to 3.5.4 of etcd panic when the client of a transaction that only reads goes away in the middle of it.
fn dies_of_cancelled_transactions(server: &Path) -> bool {
    let version = common::version(server);
    version.strip_prefix("3.5.").is_some_and(|patch| matches!(patch.parse(), Ok(0..=4)))
}

/// Makes a call whose answer is eaten. `is_done` says, by another way, when the server has carried it out; only then the
/// connection breaks.
fn with_lost_answer<'a, T: 'a>(
    proxy: &'a Proxy,
    call: impl Future<Output = T> + 'a,
    is_done: impl Future<Output = ()> + 'a,
) -> Pin<Box<dyn Future<Output = T> + 'a>> {
    proxy.set(Mode::EatReplies);
    let breaking = async move {
        is_done.await;
        proxy.set(Mode::Pass);
        proxy.cut();
    };
    let both = Box::pin(async move { tokio::join!(call, breaking).0 });
    Box::pin(soon("a call whose answer was lost must end", both))
}

#[tokio::test]
async fn a_write_is_never_sent_twice() {
    let member = member();
    let direct = client(&member);
    let proxy = Proxy::start(&member.endpoint()).await;
    let client = client_of(&[proxy.endpoint()]);
    client.put(Put::new("warm", "up")).await.unwrap();

    let put = client.put(Put::new("a", "1"));
    let error = with_lost_answer(&proxy, put, until_count(&direct, "a", 1)).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionLost(_)), "{error:?}");
    assert!(error.may_have_happened());

    let txn = Txn::new().when(key("b").is_absent()).put(Put::new("b", "1"));
    let error = with_lost_answer(&proxy, client.txn(txn), until_count(&direct, "b", 1)).await;
    assert!(error.unwrap_err().may_have_happened());

    let delete = client.delete_range(Delete::key("warm"));
    let error = with_lost_answer(&proxy, delete, until_count(&direct, "warm", 0)).await;
    assert!(error.unwrap_err().may_have_happened());

    // The client goes on working, and nothing comes after.
    client.put(Put::new("warm", "again")).await.unwrap();
    assert_eq!(version(&client, "a").await, 1);
    assert_eq!(version(&client, "b").await, 1);
    assert_eq!(version(&client, "warm").await, 1);
}

#[tokio::test]
async fn a_read_is_sent_again() {
    let member = member();
    let direct = client(&member);
    let proxy = Proxy::start(&member.endpoint()).await;
    let client = client_of(&[proxy.endpoint()]);
    client.put(Put::new("a", "1")).await.unwrap();

    // Nothing tells that a read has been done, so the answer to another request on the same connection does.
    let read = async {
        let (read, write) =
            tokio::join!(client.range(Get::key("a")), client.put(Put::new("b", "1")));
        assert!(write.unwrap_err().may_have_happened());
        read
    };
    let reply = with_lost_answer(&proxy, read, until_count(&direct, "b", 1)).await.unwrap();
    assert_eq!(reply.kvs[0].value, "1");

    if dies_of_cancelled_transactions(&server_binary()) {
        eprintln!("skipped: this server ends when a transaction that only reads is cancelled");
        return;
    }
    let read_only = Txn::new().range(Get::key("a"));
    let read = async {
        let (read, _) = tokio::join!(client.txn(read_only), client.put(Put::new("c", "1")));
        read
    };
    let reply = with_lost_answer(&proxy, read, until_count(&direct, "c", 1)).await.unwrap();
    assert_eq!(reply.responses.len(), 1);
}

#[tokio::test]
async fn a_write_that_cannot_have_left_waits_for_a_connection() {
    let member = member();
    let proxy = Proxy::start(&member.endpoint()).await;
    let client = client_of(&[proxy.endpoint()]);
    client.put(Put::new("a", "1")).await.unwrap();
    // The connection breaks while nothing is under way. The next write must neither fail nor be done twice.
    for round in 2..12 {
        let before = proxy.connections();
        proxy.cut();
        let put = client.put(Put::new("a", round.to_string()));
        match soon("a put", put).await {
            Ok(_) => assert!(proxy.connections() > before),
            // It went out on the dying connection; that cannot be told from having arrived.
            Err(error) => assert!(error.may_have_happened(), "{error:?}"),
        }
    }
    let last = value(&client, "a").await.parse::<i64>().unwrap();
    assert!(version(&client, "a").await <= last);
}

#[tokio::test]
async fn writers_over_a_lossy_link_know_what_they_do_not_know() {
    let member = member();
    let direct = client(&member);
    let mut proxy = Proxy::start(&member.endpoint()).await;
    let client = client_of(&[proxy.endpoint()]);
    let (certain, unknown) = (AtomicU64::new(0), AtomicU64::new(0));
    let writing = async {
        for _ in 0..200 {
            match client.put(Put::new("counter", "")).await {
                Ok(_) => certain.fetch_add(1, Ordering::Relaxed),
                Err(error) if error.may_have_happened() => unknown.fetch_add(1, Ordering::Relaxed),
                Err(error) => panic!("nothing else can go wrong here: {error:?}"),
            };
        }
    };
    let breaking = async {
        let mut rounds = 0;
        loop {
            rounds += 1;
            let before = version(&direct, "counter").await;
            proxy.set(if rounds % 2 == 0 { Mode::EatReplies } else { Mode::Pass });
            // A few writes arrive, with or without an answer; or none can, because the writer waits for one.
            let some = async { while version(&direct, "counter").await < before + 3 {} };
            let _ = tokio::time::timeout(Duration::from_millis(50), some).await;
            let connections = proxy.connections();
            proxy.set(Mode::Pass);
            proxy.cut();
            proxy.until_more_than(connections).await;
        }
    };
    let writing = async {
        tokio::select! {
            () = writing => {}
            () = breaking => unreachable!("it never ends"),
        }
    };
    soon("all writes must end", Box::pin(writing)).await;
    let written = u64::try_from(version(&direct, "counter").await).unwrap();
    let (certain, unknown) = (certain.into_inner(), unknown.into_inner());
    assert!(
        (certain..=certain + unknown).contains(&written),
        "{written} writes, where {certain} are certain and {unknown} are not"
    );
    assert!(unknown > 0, "the proxy has not been in the way");
}
