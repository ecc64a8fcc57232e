//! A cluster moves from etcd to this server and back, member by member, while a client writes.
//!
//! Each way is the same walk: a member of the other kind joins as a learner, becomes a voter, leads, and outlives the
//! members that were there before it. At every step all voters have the same hash of all keys, and at the end every
//! write that was acknowledged is there.
//!
//! `ETCD_REAL` names a release of etcd. etcd of our own version is built from its Go modules. Without them the tests say
//! so and pass.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

#[path = "../go/program.rs"]
mod program;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use program::go_program;
use retcd_api::etcdserverpb::cluster_client::ClusterClient;
use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_api::etcdserverpb::request_op::Request;
use retcd_api::etcdserverpb::{
    CompactionRequest, HashKvRequest, MemberAddRequest, MemberListRequest, MoveLeaderRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use retcd_testkit::{
    Cluster, MemberPlan, PATIENCE, Plan, Port, Process, SOON, real_etcd, server_binary,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Between two looks at something that should change.
const POLL: Duration = Duration::from_millis(20);
/// How long one call may take before it is made again.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Writes that have to succeed between two steps.
const WRITES_PER_STEP: usize = 20;
/// Below this prefix there is a key per write.
const PREFIX: &str = "writes/";

#[tokio::test]
async fn a_cluster_of_etcd_moves_to_this_server() {
    let Some(etcd) = released_etcd() else { return };
    let ours = MemberPlan::of(&server_binary());
    let mut cluster = walk(MemberPlan::of(&etcd), ours).await;
    // The members that could not do more are gone.
    expect_cluster_version(&mut cluster, "3.7.0").await;
}

#[tokio::test]
async fn a_cluster_of_this_server_moves_to_etcd() {
    let Some(etcd) = go_program("etcd") else { return };
    walk(MemberPlan::of(&server_binary()), MemberPlan::of(&etcd)).await;
}

/// A member that knows less than the cluster version promises must stay out. That is etcd's own rule, and etcd's own check.
#[tokio::test]
async fn an_older_etcd_refuses_a_cluster_of_a_newer_version() {
    let Some(etcd) = released_etcd() else { return };
    let version = Command::new(&etcd).arg("--version").output().expect("etcd can be run");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !["3.4.", "3.5.", "3.6."]
        .iter()
        .any(|older| version.contains(&format!("etcd Version: {older}")))
    {
        println!("skipped: ETCD_REAL is not older than 3.7: {version}");
        return;
    }
    let mut cluster = Cluster::start(Plan::new(1)).await;
    expect_cluster_version(&mut cluster, "3.7.0").await;
    let (peer, client) = (Port::claim(), Port::claim());
    let request = MemberAddRequest { peer_ur_ls: vec![peer.url()], is_learner: true };
    let added = within(ClusterClient::new(cluster.channel(0)).member_add(request)).await;
    added.expect("a cluster of one member takes a learner");

    let dir = TempDir::new().unwrap();
    let members = format!("{}={},older={}", cluster.name(0), cluster.peer_url(0), peer.url());
    let mut command = Command::new(&etcd);
    command.args(["--name", "older"]).arg("--data-dir").arg(dir.path().join("data"));
    command.args(["--listen-peer-urls", &peer.url(), "--initial-advertise-peer-urls", &peer.url()]);
    command.args(["--listen-client-urls", &client.url(), "--advertise-client-urls", &client.url()]);
    command.args(["--initial-cluster", &members, "--initial-cluster-state", "existing"]);
    let mut process = Process::spawn(&mut command);
    process.expect("incompatible with current running cluster", PATIENCE);
    assert!(!process.wait(SOON).success());
}

/// A release of etcd, or a word why there is none.
fn released_etcd() -> Option<PathBuf> {
    let dir = real_etcd();
    if dir.is_none() {
        println!("skipped: ETCD_REAL names no release of etcd");
    }
    dir.map(|dir| dir.join("etcd"))
}

/// From three members of one kind to one of the other. Returns the cluster that is left.
async fn walk(before: MemberPlan, after: MemberPlan) -> Cluster {
    let mut cluster = Cluster::start(Plan::of(vec![before; 3])).await;
    let old = cluster.slots();
    let writer = Writer::start(&cluster, &old);
    writer.goes_on().await;
    expect_equal(&cluster, &old).await;

    let new = cluster.add(after, true).await;
    expect_to_know(&cluster, new, &writer.last_key()).await;
    writer.goes_on().await;
    cluster.promote(new).await;
    cluster.leader().await;
    writer.aims_at(&cluster, &cluster.slots());
    writer.goes_on().await;
    expect_equal(&cluster, &cluster.slots()).await;

    lead(&mut cluster, new).await;
    writer.goes_on().await;
    expect_equal(&cluster, &cluster.slots()).await;
    compact(&cluster, new).await;
    writer.goes_on().await;
    expect_equal(&cluster, &cluster.slots()).await;

    for slot in old {
        let rest = cluster.others(&[slot]);
        writer.aims_at(&cluster, &rest);
        cluster.remove(slot).await;
        cluster.leader().await;
        writer.goes_on().await;
        expect_equal(&cluster, &rest).await;
    }
    let acknowledged = writer.finish().await;
    expect_alone(&cluster, new).await;
    expect_keys(&cluster, new, &acknowledged).await;
    cluster.restart(new).await;
    expect_keys(&cluster, new, &acknowledged).await;
    cluster
}

/// A client that writes until it is told to stop, one key after the other, at one member until that does not answer.
struct Writer {
    shared: Arc<Shared>,
    task: JoinHandle<BTreeSet<String>>,
}

struct Shared {
    targets: Mutex<Vec<Channel>>,
    is_over: AtomicBool,
    acknowledged: AtomicUsize,
    last_key: Mutex<String>,
}

impl Shared {
    fn target(&self, turn: usize) -> Channel {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets[turn % targets.len()].clone()
    }
}

impl Writer {
    fn start(cluster: &Cluster, slots: &[usize]) -> Self {
        let shared = Arc::new(Shared {
            targets: Mutex::new(channels(cluster, slots)),
            is_over: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
            last_key: Mutex::default(),
        });
        Writer { task: tokio::spawn(write(shared.clone())), shared }
    }

    /// From now on these members are written to.
    fn aims_at(&self, cluster: &Cluster, slots: &[usize]) {
        *self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner) =
            channels(cluster, slots);
    }

    /// Waits until the cluster has taken some more writes.
    async fn goes_on(&self) {
        let goal = self.shared.acknowledged.load(Ordering::Relaxed) + WRITES_PER_STEP;
        let until = Instant::now() + PATIENCE;
        while self.shared.acknowledged.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < until, "no member takes writes");
            tokio::time::sleep(POLL).await;
        }
    }

    /// A key whose write was acknowledged.
    fn last_key(&self) -> String {
        self.shared.last_key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops, and returns the keys of all acknowledged writes.
    async fn finish(self) -> BTreeSet<String> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer does not panic")
    }
}

fn channels(cluster: &Cluster, slots: &[usize]) -> Vec<Channel> {
    slots.iter().map(|&slot| cluster.channel(slot)).collect()
}

async fn write(shared: Arc<Shared>) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    let mut turn = 0;
    for number in 0_u64.. {
        if shared.is_over.load(Ordering::Relaxed) {
            break;
        }
        // A key of its own, and one that all writes share, so that there is a history to compact.
        let key = format!("{PREFIX}{number}");
        let put = |key: &str| PutRequest {
            key: key.to_owned().into(),
            value: format!("value {number}").into(),
            ..PutRequest::default()
        };
        let success = [put(&key), put("shared")];
        let success =
            success.map(|put| RequestOp { request: Some(Request::RequestPut(put)) }).to_vec();
        let request = TxnRequest { success, ..TxnRequest::default() };
        match within(KvClient::new(shared.target(turn)).txn(request)).await {
            Ok(_) => {
                shared.last_key.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&key);
                acknowledged.insert(key);
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // It may have been carried out or not; the next one is another key.
            Err(_) => turn += 1,
        }
        // Two cores serve four members and this client.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    acknowledged
}

/// The answer, or that there was none in time.
async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(ATTEMPT, call).await {
        Ok(response) => response.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// Makes a call until it succeeds.
async fn until_answered<T, C>(what: &str, mut call: impl FnMut() -> C) -> T
where
    C: Future<Output = Result<Response<T>, Status>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match within(call()).await {
            Ok(answer) => return answer,
            Err(status) => assert!(Instant::now() < until, "cannot {what}: {status}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until a learner has a key in its own state.
async fn expect_to_know(cluster: &Cluster, slot: usize, key: &str) {
    let until = Instant::now() + PATIENCE;
    let request =
        RangeRequest { key: key.to_owned().into(), serializable: true, ..RangeRequest::default() };
    loop {
        let answer = until_answered("read locally", || {
            let (mut kv, request) = (KvClient::new(cluster.channel(slot)), request.clone());
            async move { kv.range(request).await }
        });
        if answer.await.count == 1 {
            return;
        }
        assert!(Instant::now() < until, "member {slot} does not learn of {key}");
        tokio::time::sleep(POLL).await;
    }
}

/// Hands the leadership to a member. Elections in between are no reason to give up.
async fn lead(cluster: &mut Cluster, slot: usize) {
    let until = Instant::now() + PATIENCE;
    loop {
        let leader = cluster.leader().await;
        if leader == slot {
            return;
        }
        let request = MoveLeaderRequest { target_id: cluster.id(slot) };
        let moved =
            within(MaintenanceClient::new(cluster.channel(leader)).move_leader(request)).await;
        assert!(Instant::now() < until, "member {slot} does not lead: {moved:?}");
    }
}

/// Drops the older half of the history.
async fn compact(cluster: &Cluster, slot: usize) {
    let revision = revision(cluster, slot).await / 2;
    until_answered("compact", || {
        let mut kv = KvClient::new(cluster.channel(slot));
        async move {
            let request = CompactionRequest { revision, physical: false };
            match kv.compact(request).await {
                // The attempt before, which seemed to fail, was the one.
                Err(status) if status.message().contains("has been compacted") => {
                    Ok(Response::new(retcd_api::etcdserverpb::CompactionResponse::default()))
                }
                other => other,
            }
        }
    })
    .await;
}

/// The revision of the cluster, as of now.
async fn revision(cluster: &Cluster, slot: usize) -> i64 {
    let answer = until_answered("read", || {
        let mut kv = KvClient::new(cluster.channel(slot));
        async move { kv.range(RangeRequest { key: "any".into(), ..RangeRequest::default() }).await }
    });
    answer.await.header.expect("answers have a header").revision
}

/// All these members have the same keys with the same history, at one revision that all of them have reached.
///
/// Hashes are comparable only when the same part of the history has been compacted; a member may still have that before
/// it.
async fn expect_equal(cluster: &Cluster, slots: &[usize]) {
    let revision = revision(cluster, slots[0]).await;
    let until = Instant::now() + PATIENCE;
    loop {
        let mut hashes = Vec::new();
        for &slot in slots {
            let answer = until_answered("hash", || {
                let mut maintenance = MaintenanceClient::new(cluster.channel(slot));
                async move { maintenance.hash_kv(HashKvRequest { revision }).await }
            });
            let answer = answer.await;
            hashes.push((answer.compact_revision, answer.hash));
        }
        let are_comparable = hashes.iter().all(|(compacted, _)| *compacted == hashes[0].0);
        if are_comparable {
            let is_equal = hashes.iter().all(|hash| *hash == hashes[0]);
            assert!(
                is_equal,
                "at {revision}, members {slots:?}: {hashes:?}\n{}",
                cluster.last_lines()
            );
            return;
        }
        assert!(Instant::now() < until, "not all of {slots:?} compact: {hashes:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// The member list holds this member only.
async fn expect_alone(cluster: &Cluster, slot: usize) {
    let list = until_answered("list members", || {
        let mut members = ClusterClient::new(cluster.channel(slot));
        async move { members.member_list(MemberListRequest { linearizable: true }).await }
    });
    let ids: Vec<u64> = list.await.members.iter().map(|member| member.id).collect();
    assert_eq!(ids, [cluster.id(slot)]);
}

/// All these keys are there, with the values that were written.
async fn expect_keys(cluster: &Cluster, slot: usize, keys: &BTreeSet<String>) {
    assert!(keys.len() >= WRITES_PER_STEP, "{} keys", keys.len());
    let answer = until_answered("read all", || {
        let mut kv = KvClient::new(cluster.channel(slot));
        let range_end = PREFIX.replace('/', "0").into();
        let request = RangeRequest { key: PREFIX.into(), range_end, ..RangeRequest::default() };
        async move { kv.range(request).await }
    });
    let answer = answer.await;
    let found: BTreeSet<String> = answer
        .kvs
        .iter()
        .map(|pair| {
            let key = String::from_utf8_lossy(&pair.key).into_owned();
            let number = key.strip_prefix(PREFIX).expect("the range has this prefix");
            assert_eq!(pair.value, format!("value {number}"));
            key
        })
        .collect();
    let lost: Vec<&String> = keys.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged, but not there: {lost:?}");
}

/// Waits until the only member says that the cluster is of this version.
async fn expect_cluster_version(cluster: &mut Cluster, version: &str) {
    let slot = cluster.leader().await;
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = get(&cluster.endpoint(slot), "/version").await;
        if answer.contains(&format!("\"etcdcluster\":\"{version}\"")) {
            return;
        }
        assert!(
            Instant::now() < until,
            "the cluster is of another version than {version}: {answer}"
        );
        tokio::time::sleep(POLL).await;
    }
}

async fn get(endpoint: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(endpoint).await.expect("the member serves");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the member reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the answer is text");
    answer
}
