//! A member that was away for longer than the log reaches back gets the database itself, from leaders of both kinds.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

use std::time::Instant;

use retcd_api::etcdserverpb::PutRequest;
use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_testkit::{Cluster, MemberPlan, PATIENCE, Plan, Tool, binary, real_etcd};
use tokio::task::JoinSet;

/// Our members keep few entries in memory, so that a short absence is a long one.
const SHORT_LOG: [&str; 4] = ["--snapshot-catchup-entries", "20", "--snapshot-count", "100"];
/// More than such a log has, with what the members write of their own.
const SHORT_ABSENCE: usize = 400;
/// etcd 3.5 keeps 5000 entries, whatever it is told.
const LONG_ABSENCE: usize = 5_500;
const WRITERS: usize = 16;

#[tokio::test]
async fn a_member_that_lags_goes_on_with_the_leaders_database() {
    let mut cluster = Cluster::start(Plan::new(3).with_args(&SHORT_LOG)).await;
    let leader = cluster.leader().await;
    let lagging = cluster.others(&[leader])[0];
    cluster.kill(lagging);
    put_many(&cluster, leader, SHORT_ABSENCE).await;
    cluster.start_again(lagging);
    cluster.process(lagging).expect("applied snapshot", PATIENCE);
    expect_same_content(&mut cluster).await;

    // What it got is its own by now.
    cluster.restart(lagging).await;
    expect_same_content(&mut cluster).await;
}

/// The crash comes somewhere near the line of the log that is waited for.
///
/// Each time in a cluster of its own: for half a minute after it has sent a database, a leader keeps its log.
#[tokio::test]
async fn a_crash_while_a_database_comes_in_is_made_good() {
    for moment in ["receiving database", "applying snapshot", "applied snapshot"] {
        let mut cluster = Cluster::start(Plan::new(3).with_args(&SHORT_LOG)).await;
        let leader = cluster.leader().await;
        let lagging = cluster.others(&[leader])[0];
        cluster.kill(lagging);
        put_many(&cluster, leader, SHORT_ABSENCE).await;
        cluster.start_again(lagging);
        cluster.process(lagging).expect(moment, PATIENCE);
        cluster.kill(lagging);
        cluster.start_again(lagging);
        cluster.leader().await;
        expect_same_content(&mut cluster).await;
    }
}

#[tokio::test]
async fn members_of_both_kinds_give_each_other_their_database() {
    let Some(dir) = real_etcd() else {
        println!("skipped: ETCD_REAL names no release of etcd");
        return;
    };
    let ours = MemberPlan::new().with_args(&SHORT_LOG);
    let theirs = MemberPlan::of(&dir.join("etcd")).with_args(&["--snapshot-count", "100"]);
    let mut cluster = Cluster::start(Plan::of(vec![ours, theirs.clone(), theirs])).await;

    lead(&mut cluster, 0).await;
    cluster.kill(1);
    put_many(&cluster, 0, SHORT_ABSENCE).await;
    cluster.start_again(1);
    cluster.process(1).expect("applied snapshot", PATIENCE);
    expect_same_content(&mut cluster).await;
    assert_eq!(etcdctl(&cluster, 1).expect(&["put", "through", "etcd"]), "OK\n");

    lead(&mut cluster, 2).await;
    cluster.kill(0);
    put_many(&cluster, 2, LONG_ABSENCE).await;
    cluster.start_again(0);
    cluster.process(0).expect("applied snapshot", PATIENCE);
    expect_same_content(&mut cluster).await;
    assert_eq!(etcdctl(&cluster, 0).expect(&["put", "through", "ours"]), "OK\n");
}

/// Makes a member the leader.
async fn lead(cluster: &mut Cluster, slot: usize) {
    let until = Instant::now() + PATIENCE;
    let id = format!("{:x}", cluster.id(slot));
    loop {
        let leader = cluster.leader().await;
        if leader == slot {
            return;
        }
        assert!(Instant::now() < until, "{id} does not become leader\n{}", cluster.last_lines());
        // Refused when the leader has just become another one.
        etcdctl(cluster, leader).run(&["move-leader", &id]);
    }
}

/// Puts so many entries into the log. One that fails, because the leader changes, is tried again.
async fn put_many(cluster: &Cluster, slot: usize, count: usize) {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut kv = KvClient::new(cluster.channel(slot));
        writers.spawn(async move {
            let until = Instant::now() + PATIENCE;
            for number in 0..count.div_ceil(WRITERS) {
                let key = format!("{writer}/{}", number % 50).into();
                let value = vec![b'v'; 200].into();
                let request = PutRequest { key, value, ..PutRequest::default() };
                while let Err(status) = kv.put(request.clone()).await {
                    assert!(Instant::now() < until, "a put fails: {status}");
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
}

/// All members have the same keys with the same history.
async fn expect_same_content(cluster: &mut Cluster) {
    cluster.leader().await;
    let hashes: Vec<_> =
        cluster.slots().into_iter().map(|slot| hash_kv(&etcdctl(cluster, slot))).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}

/// The hash of all keys. A linearizable get makes the member as new as the others first.
fn hash_kv(tool: &Tool) -> String {
    tool.expect(&["get", "key"]);
    let line = tool.expect(&["endpoint", "hashkv"]);
    line.split(", ").nth(1).expect("the endpoint, the hash, and more").trim().to_owned()
}

fn etcdctl(cluster: &Cluster, slot: usize) -> Tool {
    Tool::new(&binary("etcdctl"), &cluster.endpoint(slot))
}
