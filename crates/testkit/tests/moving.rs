//! Members move between etcd and this server with their data dirs: there by a start, back by `etcdutl export`.
//!
//! After every step the members have the hash of all keys, the keys with their revisions, the leases and the members that
//! they had before.
//!
//! `ETCD_REAL` names a release of etcd. etcd of our own version is built from its Go modules. Without them the tests say
//! so and pass.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

#[path = "../go/program.rs"]
mod program;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use program::go_program;
use retcd_testkit::{
    Cluster, MemberPlan, PATIENCE, Plan, Process, SOON, Tool, binary, real_etcd, server_binary,
};

#[tokio::test]
async fn a_member_of_a_release_moves_here_and_back() {
    let Some(dir) = real_etcd() else {
        println!("skipped: ETCD_REAL names no release of etcd");
        return;
    };
    let etcd = dir.join("etcd");
    let version = Command::new(&etcd).arg("--version").output().expect("etcd can be run");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let known = ["3.5", "3.6", "3.7"];
    let minor = known.iter().find(|minor| version.contains(&format!("etcd Version: {minor}.")));
    let Some(minor) = minor else {
        println!("skipped: ETCD_REAL is older than 3.5: {version}");
        return;
    };
    there_and_back(&etcd, minor).await;
}

#[tokio::test]
async fn a_member_of_etcd_moves_here_and_back() {
    let Some(etcd) = go_program("etcd") else { return };
    there_and_back(&etcd, "3.7").await;
}

async fn there_and_back(etcd: &Path, minor: &str) {
    let mut cluster = Cluster::start(Plan::of(vec![MemberPlan::of(etcd)])).await;
    let tool = tool(&cluster, 0);
    fill(&tool);
    let before = state(&tool);
    cluster.kill(0);

    cluster.start_again_as(0, &server_binary());
    cluster.serving(0).await;
    assert_eq!(state(&tool), before, "as etcd has left it");
    let snap = cluster.data_dir(0).join("member/snap");
    assert!(snap.join("db.bbolt").exists(), "etcd's own file is kept");
    tool.expect(&["put", "here", "1"]);
    cluster.kill(0);
    cluster.start_again(0);
    cluster.serving(0).await;
    tool.expect(&["del", "k5"]);
    let before = state(&tool);
    cluster.kill(0);
    // What a killed member has not written yet goes along in the log; but not to an etcd that does not know its version.
    if minor != "3.7" {
        cluster.start_again(0);
        cluster.serving(0).await;
        cluster.stop(0).await;
    }

    export(&cluster, 0, minor);
    cluster.start_again_as(0, etcd);
    cluster.serving(0).await;
    assert_eq!(state(&tool), before, "as this server has left it");
    tool.expect(&["put", "back", "1"]);
}

#[tokio::test]
async fn a_cluster_of_etcd_moves_here_and_back_member_by_member() {
    let Some(etcd) = go_program("etcd") else { return };
    let mut cluster = Cluster::start(Plan::of(vec![MemberPlan::of(&etcd); 3])).await;
    let tools: Vec<Tool> = (0..3).map(|slot| tool(&cluster, slot)).collect();
    fill(&tools[0]);
    for is_back in [false, true] {
        for slot in 0..3 {
            cluster.stop(slot).await;
            // The others go on meanwhile.
            tools[(slot + 1) % 3].expect(&["put", &format!("while-{slot}-is-away"), "1"]);
            if is_back {
                export(&cluster, slot, "3.7");
                cluster.start_again_as(slot, &etcd);
            } else {
                cluster.start_again_as(slot, &server_binary());
            }
            cluster.serving(slot).await;
            tools[slot].expect(&["put", &format!("with-{slot}"), "1"]);
            expect_equal(&tools);
        }
    }
}

fn tool(cluster: &Cluster, slot: usize) -> Tool {
    Tool::new(&binary("etcdctl"), &cluster.endpoint(slot))
}

/// Keys with a history, a lease, a compaction.
fn fill(tool: &Tool) {
    for number in 0..300 {
        tool.expect(&["put", &format!("k{}", number % 50), &format!("value {number}")]);
    }
    let lease = tool.expect(&["lease", "grant", "3600"]);
    let lease = lease.split_whitespace().nth(1).unwrap();
    tool.expect(&["put", "--lease", lease, "leased", "x"]);
    tool.expect(&["del", "k7"]);
    tool.expect(&["compact", "200"]);
}

/// What must not change when a member moves.
fn state(tool: &Tool) -> [String; 4] {
    let keys = tool.expect(&["get", "", "--prefix", "-w", "json"]);
    let keys = keys.split_once("\"kvs\"").expect("there are keys").1.to_owned();
    let members = tool.expect(&["member", "list"]);
    [hash(tool), keys, tool.expect(&["lease", "list"]), members]
}

/// The hash of all keys. The revision it is of, old releases do not tell.
fn hash(tool: &Tool) -> String {
    let line = tool.expect(&["endpoint", "hashkv"]);
    line.split(", ").nth(1).expect("a hash follows the endpoint").to_owned()
}

/// Waits until all members have the same keys.
fn expect_equal(tools: &[Tool]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let hashes: Vec<String> = tools.iter().map(hash).collect();
        if hashes.iter().all(|hash| *hash == hashes[0]) {
            return;
        }
        assert!(Instant::now() < until, "{hashes:?}");
    }
}

/// Puts what etcd can read in the place of a member's data dir.
fn export(cluster: &Cluster, slot: usize, minor: &str) {
    let dir = cluster.data_dir(slot);
    let made = dir.with_file_name("for-etcd");
    let mut command = Command::new(binary("etcdutl"));
    command.arg("export").arg("--data-dir").arg(&dir).arg("--output-dir").arg(&made);
    command.args(["--target-version", minor]);
    let mut process = Process::spawn(&mut command);
    let status = process.wait(SOON);
    assert!(status.success(), "{}", String::from_utf8_lossy(&process.stderr()));
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&made, &dir).unwrap();
}
