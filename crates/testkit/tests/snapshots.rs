//! A snapshot that a tool saves from a running member is etcd's own format: etcd's tools read it, and etcd starts on it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use retcd_testkit::{
    Member, PATIENCE, Port, Process, Tool, binary, etcdctl_34, real_etcd, server_binary,
};
use serde_json::Value;
use tempfile::TempDir;

/// Bytes of a key and of a value that do not fit into a page.
const LARGE: usize = 20_000;

#[test]
fn a_saved_snapshot_is_a_whole_file_with_a_digest() {
    let member = Member::start(&server_binary(), &[]);
    let tool = Tool::new(&binary("etcdctl"), &member.endpoint());
    fill(&tool);
    let dir = TempDir::new().unwrap();
    let file = save(&tool, dir.path());
    assert_eq!(file.metadata().unwrap().len() % 512, 32, "pages, and a SHA-256 behind them");
    let names: Vec<_> = dir.path().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, [file], "nothing is left beside it");
}

#[test]
fn etcd_starts_on_what_our_etcdctl_saved() {
    starts_on_what_is_saved_by(Some(binary("etcdctl")));
}

#[test]
fn etcd_starts_on_what_etcdctl_of_3_4_saved() {
    starts_on_what_is_saved_by(etcdctl_34());
}

#[test]
fn etcd_starts_on_what_etcds_own_etcdctl_saved() {
    starts_on_what_is_saved_by(real_etcd().map(|dir| dir.join("etcdctl")));
}

fn starts_on_what_is_saved_by(etcdctl: Option<PathBuf>) {
    let Some(etcd) = real_etcd() else {
        println!("skipped: ETCD_REAL does not name a release of etcd");
        return;
    };
    let Some(etcdctl) = etcdctl else {
        println!("skipped: this machine has no such etcdctl");
        return;
    };
    let member = Member::start(&server_binary(), &[]);
    let ours = Tool::new(&binary("etcdctl"), &member.endpoint());
    let lease = fill(&ours);
    let before = newest(&ours);
    let dir = TempDir::new().unwrap();
    let file = save(&Tool::new(&etcdctl, &member.endpoint()), dir.path());
    ours.expect(&["put", "later", "than the snapshot"]);

    let etcdutl = etcd.join("etcdutl");
    let args = ["snapshot", "status", "-w", "json"];
    let status = run(Command::new(&etcdutl).args(args).arg(&file));
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["revision"], before["header"]["revision"]);
    assert_eq!(status["totalSize"], file.metadata().unwrap().len() - 32);

    let restored = Restored::start(&etcd, &file, dir.path());
    let tool = Tool::new(&etcd.join("etcdctl"), &restored.endpoint);
    let after = newest(&tool);
    assert_eq!(after["kvs"], before["kvs"]);
    assert_eq!(after["count"], before["count"]);
    assert_eq!(after["header"]["revision"], before["header"]["revision"]);
    let first = tool.expect(&["get", "overwritten", "--rev=2", "--print-value-only"]);
    assert_eq!(first, "first\n");
    assert_eq!(tool.expect(&["get", "deleted", "--rev=4"]), "deleted\nx\n");
    assert_eq!(tool.expect(&["get", "deleted"]), "");
    let lease = tool.expect(&["lease", "timetolive", &lease, "--keys"]);
    assert!(lease.contains("attached keys([leased])"), "{lease}");
    assert_eq!(tool.expect(&["put", "after", "the restore"]), "OK\n");
}

/// Writes keys of many shapes, revisions 2 to 8. Returns the id of a lease.
fn fill(tool: &Tool) -> String {
    for (key, value) in [("overwritten", "first"), ("overwritten", "second"), ("deleted", "x")] {
        tool.expect(&["put", key, value]);
    }
    tool.expect(&["del", "deleted"]);
    let granted = tool.expect(&["lease", "grant", "6000"]);
    let lease = granted.split(' ').nth(1).expect("lease <id> granted with TTL(6000s)").to_owned();
    tool.expect(&["put", "leased", "value", &format!("--lease={lease}")]);
    tool.expect(&["put", &"k".repeat(LARGE), &"v".repeat(LARGE)]);
    let put = |number| format!("put batch/{number} {}\n", "v".repeat(500));
    let puts: String = (0..100).map(put).collect();
    let txn = tool.run_with_input(&["txn"], format!("\n{puts}\n\n").as_bytes());
    assert_eq!(txn.code, 0, "{}", String::from_utf8_lossy(&txn.stderr));
    lease
}

/// All keys, as JSON.
fn newest(tool: &Tool) -> Value {
    serde_json::from_str(&tool.expect(&["get", "", "--prefix", "-w", "json"])).unwrap()
}

fn save(tool: &Tool, dir: &Path) -> PathBuf {
    let file = dir.join("snapshot.db");
    tool.expect(&["snapshot", "save", file.to_str().unwrap()]);
    file
}

fn run(command: &mut Command) -> Vec<u8> {
    let mut process = Process::spawn(command);
    let status = process.wait(PATIENCE);
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&process.stderr()));
    process.stdout()
}

/// An etcd that was started on a data directory made of a snapshot.
struct Restored {
    endpoint: String,
    _process: Process,
    _ports: [Port; 2],
}

impl Restored {
    fn start(etcd: &Path, snapshot: &Path, dir: &Path) -> Self {
        let data_dir = dir.join("restored").display().to_string();
        let (client, peer) = (Port::claim(), Port::claim());
        let (client_url, peer_url) = (client.url(), peer.url());
        let cluster = format!("m1={peer_url}");
        let member = [
            ["--name", "m1"],
            ["--data-dir", &data_dir],
            ["--initial-cluster", &cluster],
            ["--initial-advertise-peer-urls", &peer_url],
        ];
        let mut restore = Command::new(etcd.join("etcdutl"));
        run(restore.args(["snapshot", "restore"]).arg(snapshot).args(member.as_flattened()));
        let urls = [
            ["--listen-client-urls", &client_url],
            ["--advertise-client-urls", &client_url],
            ["--listen-peer-urls", &peer_url],
        ];
        let mut server = Command::new(etcd.join("etcd"));
        let mut process =
            Process::spawn(server.args(member.as_flattened()).args(urls.as_flattened()));
        process.expect("ready to serve client requests", PATIENCE);
        let endpoint = format!("127.0.0.1:{}", client.number());
        Restored { endpoint, _process: process, _ports: [client, peer] }
    }
}
