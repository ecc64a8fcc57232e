//! etcd's own packages read the log and the snapshots of every member of a cluster as we read them ourselves.
//!
//! Needs Go and etcd's modules. Without them the test says so and passes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

#[path = "../go/program.rs"]
mod program;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use program::go_program;
use prost::Message;
use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::{InternalRaftRequest, Metadata, PutRequest, RangeRequest};
use retcd_api::raftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use retcd_storage::fs::RealFs;
use retcd_storage::snapshot::Snapshots;
use retcd_storage::wal;
use retcd_testkit::{Cluster, MemberPlan, PATIENCE, Plan};

/// Entries between two snapshots.
const SNAPSHOT_COUNT: u64 = 20;
/// Puts in each round: enough for a snapshot.
const PUTS: u64 = 50;
const LAST_ROUND: &str = "without the first member";

/// Keys and values.
type Puts = BTreeSet<(String, String)>;

#[tokio::test]
async fn etcd_reads_the_log_of_each_member_as_we_do() {
    let Some(reader) = go_program("wal") else { return };
    let args = [format!("--snapshot-count={SNAPSHOT_COUNT}")];
    let plan = MemberPlan::new().with_args(&[&args[0]]);
    let mut cluster = Cluster::start(Plan::of(vec![plan.clone(); 3])).await;
    let mut expected = Puts::new();
    put_some(&mut cluster, "first", &mut expected).await;

    let leader = cluster.leader().await;
    cluster.restart(leader).await;
    put_some(&mut cluster, "after an election", &mut expected).await;

    let learner = cluster.add(plan.clone(), true).await;
    cluster.promote(learner).await;
    put_some(&mut cluster, "with a fourth member", &mut expected).await;

    let removed = cluster.others(&[learner])[0];
    let removed_id = cluster.id(removed);
    cluster.remove(removed).await;
    put_some(&mut cluster, LAST_ROUND, &mut expected).await;

    let slots = cluster.slots();
    for &slot in &slots {
        knows(&cluster, slot, &format!("{LAST_ROUND} {}", PUTS - 1)).await;
    }
    // All at once: the last one could not hand over, and would take its time.
    for &slot in &slots {
        cluster.kill(slot);
    }
    for &slot in &slots {
        let ours = read(&cluster.data_dir(slot), 0);
        let theirs = read_by_etcd(&reader, &cluster.data_dir(slot), 0);
        assert_eq!(ours.lines, theirs, "member {slot}");
        for snapshot in &ours.snapshots {
            let behind = read(&cluster.data_dir(slot), *snapshot);
            let theirs = read_by_etcd(&reader, &cluster.data_dir(slot), *snapshot);
            assert_eq!(behind.lines, theirs, "member {slot}, from {snapshot}");
        }
        if slot == learner {
            // It may have begun from a snapshot, without what was before.
            assert!(ours.puts.is_subset(&expected), "{:?}", ours.puts);
        } else {
            assert_eq!(ours.puts, expected, "member {slot}");
            let terms = ours.terms;
            assert!(terms.len() > 1, "the restart of the leader began another term: {terms:?}");
            let id = cluster.id(learner);
            let changes = [
                (ConfChangeType::ConfChangeAddLearnerNode, id),
                (ConfChangeType::ConfChangeAddNode, id),
                (ConfChangeType::ConfChangeRemoveNode, removed_id),
            ];
            assert!(ours.changes.ends_with(&changes), "{:?}", ours.changes);
            assert!(!ours.snapshots.is_empty(), "{PUTS} puts make a snapshot");
        }
    }
}

/// Puts keys until each is acknowledged; an attempt that seemed to fail may be in the log too.
async fn put_some(cluster: &mut Cluster, name: &str, done: &mut Puts) {
    let until = Instant::now() + PATIENCE;
    for number in 0..PUTS {
        let (key, value) = (format!("{name} {number}"), format!("value {number}"));
        let request = PutRequest {
            key: key.clone().into(),
            value: value.clone().into(),
            ..PutRequest::default()
        };
        loop {
            let leader = cluster.leader().await;
            match KvClient::new(cluster.channel(leader)).put(request.clone()).await {
                Ok(_) => break,
                Err(status) => assert!(Instant::now() < until, "{key}: {status}"),
            }
        }
        done.insert((key, value));
    }
}

/// Waits until a member has a key in its own state, and so all entries before it in its log.
async fn knows(cluster: &Cluster, slot: usize, key: &str) {
    let until = Instant::now() + PATIENCE;
    let mut kv = KvClient::new(cluster.channel(slot));
    loop {
        let request = RangeRequest {
            key: key.to_owned().into(),
            serializable: true,
            ..RangeRequest::default()
        };
        if kv.range(request).await.is_ok_and(|answer| answer.get_ref().count == 1) {
            return;
        }
        assert!(Instant::now() < until, "member {slot} does not learn of {key}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a reader finds in a data directory.
struct Found {
    /// In the words of the program in Go.
    lines: Vec<String>,
    /// Indexes of the snapshots that the log confirms, but for the beginning.
    snapshots: Vec<u64>,
    puts: Puts,
    changes: Vec<(ConfChangeType, u64)>,
    /// Of the entries, each once.
    terms: Vec<u64>,
}

fn read_by_etcd(reader: &Path, data_dir: &Path, from: u64) -> Vec<String> {
    let output = Command::new(reader).arg(data_dir).arg(from.to_string()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "etcd cannot read {}: {errors}", data_dir.display());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Reads with this workspace's storage.
fn read(data_dir: &Path, from: u64) -> Found {
    let dir = data_dir.join("member/wal");
    let valid = wal::valid_snapshots(&RealFs, &dir).unwrap();
    let mut lines: Vec<String> = valid
        .iter()
        .map(|snapshot| format!("valid-snapshot {} {}", snapshot.index, snapshot.term))
        .collect();
    let snapshots = Snapshots::new(Arc::new(RealFs), &data_dir.join("member/snap"));
    if let Some(newest) = snapshots.load_newest(&valid).unwrap() {
        let metadata = newest.metadata.unwrap();
        let state = metadata.conf_state.unwrap();
        lines.push(format!(
            "file-snapshot {} {} {} {}",
            metadata.index,
            metadata.term,
            ids(&state.voters),
            ids(&state.learners)
        ));
    }
    let start = valid.iter().find(|snapshot| snapshot.index == from).cloned();
    let replayed = wal::read(&RealFs, &dir, &start.unwrap_or_default()).unwrap();
    let metadata = Metadata::decode(replayed.metadata.clone()).unwrap();
    lines.push(format!("metadata {:x} {:x}", metadata.node_id, metadata.cluster_id));
    let state = replayed.hard_state;
    lines.push(format!("state {} {:x} {}", state.term, state.vote, state.commit));
    let mut found = Found {
        lines,
        snapshots: valid.iter().map(|snapshot| snapshot.index).filter(|index| *index > 0).collect(),
        puts: Puts::new(),
        changes: Vec::new(),
        terms: Vec::new(),
    };
    replayed.entries.iter().for_each(|entry| found.note(entry));
    found.terms.dedup();
    found
}

impl Found {
    fn note(&mut self, entry: &Entry) {
        let (index, term) = (entry.index, entry.term);
        self.terms.push(term);
        match entry.r#type() {
            EntryType::EntryConfChange => {
                let change = ConfChange::decode(entry.data.clone()).unwrap();
                let (kind, id) = (change.r#type(), change.node_id);
                self.lines.push(format!("change {index} {term} {} {id:x}", change.r#type));
                self.changes.push((kind, id));
            }
            EntryType::EntryNormal => {
                let request = InternalRaftRequest::decode(entry.data.clone()).unwrap();
                if let Some(put) = request.put {
                    let (key, value) = (hex(&put.key), hex(&put.value));
                    self.lines.push(format!("put {index} {term} {key} {value}"));
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    self.puts.insert((text(&put.key), text(&put.value)));
                } else {
                    self.lines.push(format!("entry {index} {term} 0 {}", hex(&entry.data)));
                }
            }
            EntryType::EntryConfChangeV2 => {
                let data = hex(&entry.data);
                self.lines.push(format!("entry {index} {term} {} {data}", entry.r#type));
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn ids(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| format!("{id:x}")).collect();
    format!("[{}]", ids.join(" "))
}
