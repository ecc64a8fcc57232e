//! Runs every workload for a moment against real servers.
//!
//! The server is the `etcd` in the directory that `ETCD_REAL` names; without it the tests say that they have shown
//! nothing.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail loudly and say what it skips"
)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn server() -> Option<String> {
    let Some(dir) = std::env::var_os("ETCD_REAL") else {
        println!("skipped: ETCD_REAL names no directory with a server");
        return None;
    };
    let path = Path::new(&dir).join("etcd");
    assert!(path.is_file(), "ETCD_REAL: there is no {}", path.display());
    Some(format!("etcd={} --log-level=error --unsafe-no-fsync", path.display()))
}

/// Compares a server with itself, in windows too short to mean anything.
fn compare(server: &str, arguments: &[&str]) -> Output {
    let data = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_etcd-bench"))
        .args(["compare", "--a", server, "--b", server, "-o", "json", "--rounds", "1"])
        .args(["--duration", "200ms", "--warm-up", "50ms", "--dir"])
        .arg(data.path())
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn figure(comparison: &Value, workload: &str, metric: &str) -> f64 {
    let rows = comparison["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["workload"] == workload && row["metric"] == metric);
    let row = row.unwrap_or_else(|| panic!("no {metric} of {workload} in {comparison:#}"));
    assert_eq!(row["errors"], serde_json::json!([0, 0]), "{workload}: {}", row["first_error"]);
    row["b"]["median"].as_f64().unwrap()
}

#[test]
fn the_whole_suite_runs_without_an_error() {
    let Some(server) = server() else { return };
    let output = compare(
        &server,
        &[
            "--keys",
            "20000",
            "--heavy-keys",
            "20000",
            "--compaction-rate",
            "500",
            "--b-small",
            "--snapshot-count=1000",
        ],
    );
    let comparison = json(&output);
    for workload in [
        "range, linearizable",
        "range, serializable",
        "range of 10,000 keys",
        "count",
        "limit 1,000",
        "put",
        "put, 100 connections, 1,000 clients",
        "txn put",
        "txn get, compare and swap",
        "watch, 1,000 watchers on 10 streams",
        "delete",
        "lease keep-alive",
        "lease grant",
    ] {
        assert!(figure(&comparison, workload, "rate_per_s") > 0.0, "{workload}");
        assert!(figure(&comparison, workload, "p99_ms") > 0.0, "{workload}");
    }
    assert!(figure(&comparison, "put, one client", "p50_ms") > 0.0);
    assert!(figure(&comparison, "memory with 20,000 keys", "rss_mib") > 1.0);
    assert!(figure(&comparison, "memory with 20,000 keys, small settings", "rss_mib") > 1.0);
    assert!(figure(&comparison, "restart with 20,000 keys", "first_answer_s") > 0.0);
    assert!(figure(&comparison, "compaction of 20,000 revisions", "compacting_p99_ms") > 0.0);
    assert!(comparison["floor"]["floor_p50_ms"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_other_modes_run_without_an_error() {
    let Some(server) = server() else { return };
    let runs = [
        "--run",
        "mixed=mixed --threads 2 --conns 4 --clients 8",
        "--run",
        "paced=put --rate 500",
        "--run",
        "watch=watch --own-keys --watchers 50 --streams 5 --rate 200",
        "--run",
        "revoke=lease-grant --revoke --clients 10",
        "--run",
        "txn=txn-put --ops 10 --sequential",
        "--run",
        "total=delete --sequential --total 500",
        "--run",
        "memory=memory",
        "--run",
        "gateway=gateway-put --clients 4",
        "--run",
        "watches=gateway-watches --watches 200",
    ];
    let comparison = json(&compare(&server, &[&["--keys", "2000"], &runs[..]].concat()));
    for workload in ["mixed", "watch", "revoke", "txn", "total", "gateway"] {
        assert!(figure(&comparison, workload, "rate_per_s") > 0.0, "{workload}");
    }
    let paced = figure(&comparison, "paced", "rate_per_s");
    assert!((50.0..=1_000.0).contains(&paced), "500 puts per second were asked for, not {paced}");
    assert!(figure(&comparison, "memory", "anonymous_mib") > 1.0);
    // After the other loads a server has room for the watches, and may even give some back.
    assert!(figure(&comparison, "watches", "bytes_per_watch").is_finite());
    assert!(figure(&comparison, "watches", "event_max_ms") > 0.0);
}

#[test]
fn reads_of_missing_keys_are_errors_and_show_in_the_exit_code() {
    let Some(server) = server() else { return };
    let output = compare(&server, &["--keys", "1000", "--run", "range=range --keys 1000000"]);
    assert!(!output.status.success());
    let comparison: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &comparison["rows"][0];
    assert!(row["errors"][1].as_u64().unwrap() > 0);
    assert!(row["first_error"].as_str().unwrap().contains("is the server preloaded?"));
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_etcd-bench"))
        .args(["put", "--endpoints", "127.0.0.1:1", "--duration", "100ms"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cannot connect to 127.0.0.1:1"), "{text}");
}

#[test]
fn the_floor_needs_no_server() {
    let data = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_etcd-bench"))
        .args(["floor", "-o", "json", "--conns", "1", "--clients", "1"])
        .args(["--duration", "100ms", "--warm-up", "20ms", "--dir"])
        .arg(data.path())
        .output()
        .unwrap();
    let report = json(&output);
    assert!(report["figures"]["fdatasync_p50_ms"].as_f64().unwrap() > 0.0);
    assert!(report["figures"]["grpc_echo_p50_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(report["errors"], 0);
}
