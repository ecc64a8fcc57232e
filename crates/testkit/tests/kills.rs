//! A member that is killed at any moment loses nothing that it acknowledged, and its revision never falls.
//!
//! Writers write their own counters, each in two ways: one key that is overwritten, and a new key per number. After
//! every kill the restarted member must hold every acknowledged write, at the revision that was told.
//!
//! `KILLS` sets the number of kills (20 when not given).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use retcd_api::etcdserverpb::{PutRequest, RangeRequest};
use retcd_client::{Client, Config, Txn, prefix_range};
use retcd_testkit::{Member, server_binary};
use tokio::task::JoinSet;

const WRITERS: usize = 16;

/// What one writer knows.
#[derive(Debug, Default, Clone)]
struct Acknowledged {
    /// The number and revision of the last write that was answered.
    last: Option<(u64, i64)>,
    /// The last number that was sent: it may have been applied without an answer.
    sent: u64,
    /// Revisions of all answered writes, by number - 1. `None`: no answer.
    revisions: Vec<Option<i64>>,
}

fn client(endpoint: &str) -> Client {
    let config = Config { endpoints: vec![endpoint.to_owned()], ..Config::default() };
    Client::new(&config).expect("the endpoint is well formed").with_timeout(Duration::from_secs(5))
}

/// Writes until a write is not answered.
async fn write(
    client: Client,
    writer: usize,
    mut known: Acknowledged,
    newest: Arc<AtomicI64>,
) -> Acknowledged {
    loop {
        known.sent += 1;
        let number = known.sent;
        let value = number.to_string();
        let put = |key: String| PutRequest {
            key: key.into(),
            value: value.clone().into(),
            ..Default::default()
        };
        let txn = Txn::new()
            .put(put(format!("last/{writer}")))
            .put(put(format!("all/{writer}/{number:09}")));
        let Ok(response) = client.txn(txn.into_request()).await else {
            known.revisions.push(None);
            return known;
        };
        let revision = response.header.expect("every answer has a header").revision;
        newest.fetch_max(revision, Ordering::Relaxed);
        known.last = Some((number, revision));
        known.revisions.push(Some(revision));
    }
}

async fn check(client: &Client, writer: usize, known: &Acknowledged) {
    let request = RangeRequest { key: format!("last/{writer}").into(), ..Default::default() };
    let last = client.range(request).await.expect("the member serves");
    let stored: u64 = last
        .kvs
        .first()
        .map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().expect("a number"));
    let acknowledged = known.last.map_or(0, |(number, _)| number);
    assert!(
        (acknowledged..=known.sent).contains(&stored),
        "writer {writer}: stored {stored}, known {known:?}"
    );
    if let (Some(kv), Some((number, revision))) = (last.kvs.first(), known.last)
        && stored == number
    {
        assert_eq!(kv.mod_revision, revision, "writer {writer}: revision of {number}");
    }

    let (key, range_end) = prefix_range(format!("all/{writer}/").into_bytes());
    let request =
        RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
    let all = client.range(request).await.expect("the member serves");
    let mut kvs = all.kvs.iter().peekable();
    for (number, revision) in (1..).zip(&known.revisions) {
        let key = format!("all/{writer}/{number:09}");
        let found = kvs.next_if(|kv| kv.key == key);
        if let Some(revision) = revision {
            let found = found.unwrap_or_else(|| panic!("acknowledged write {key} is gone"));
            assert_eq!(found.create_revision, *revision, "{key}");
            assert_eq!(found.version, 1, "{key} was applied twice");
        }
    }
    assert!(kvs.next().is_none(), "keys that nobody wrote");
}

#[tokio::test]
async fn kills_lose_no_acknowledged_write() {
    let kills: u64 =
        std::env::var("KILLS").map_or(20, |kills| kills.parse().expect("KILLS is a number"));
    // A small snapshot count makes the log be cut now and then between the kills.
    let mut member = Member::start(&server_binary(), &["--snapshot-count", "500"]);
    let mut known = vec![Acknowledged::default(); WRITERS];
    let newest = Arc::new(AtomicI64::new(1));
    let mut total = 0;
    for kill in 0..kills {
        let connection = client(&member.endpoint());
        let mut writers = JoinSet::new();
        for (writer, known) in known.iter().enumerate() {
            let work = write(connection.clone(), writer, known.clone(), newest.clone());
            writers.spawn(async move { (writer, work.await) });
        }
        // The kill comes after a number of acknowledged writes that differs from round to round.
        let target =
            newest.load(Ordering::Relaxed) + 20 + i64::try_from(kill * 7919 % 1500).expect("small");
        while newest.load(Ordering::Relaxed) < target {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        member.process().kill();
        while let Some(result) = writers.join_next().await {
            let (writer, result) = result.expect("a writer does not panic");
            known[writer] = result;
        }
        member.crash_and_restart();
        let connection = client(&member.endpoint());
        let status = connection.status().await.expect("the member serves");
        let revision = status.header.expect("every answer has a header").revision;
        assert!(revision >= newest.load(Ordering::Relaxed), "the revision fell to {revision}");
        newest.store(revision, Ordering::Relaxed);
        for (writer, known) in known.iter().enumerate() {
            check(&connection, writer, known).await;
        }
        total = known.iter().map(|known| known.revisions.iter().flatten().count()).sum();
    }
    println!("{kills} kills, {total} acknowledged writes, none lost");
}
