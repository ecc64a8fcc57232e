//! docs/metrics.md and the Grafana board, held against the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

use super::*;

/// Metrics that exist for those who look for all of etcd's names, and why they never move here. The beginning of a name
/// stands for all that begin so.
const STILL: &[(&str, &str)] = &[
    ("etcd_debugging_disk_backend_commit_", "LMDB commits in one step"),
    ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "not told yet"),
    (
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "the index is compacted with the backend, in slices of a few hundred keys",
    ),
    (
        "etcd_debugging_server_watch_send_loop_",
        "there is no send loop: a stream is read when its client has room",
    ),
    ("etcd_debugging_snap_save_", "a raft snapshot has no data of its own"),
    ("etcd_debugging_store_", "there is no v2 store"),
    ("etcd_grpc_proxy_", "of the proxy only"),
    ("etcd_mvcc_db_open_read_transactions", "no transaction lasts longer than a call"),
    ("etcd_server_go_version", "its value is `none`"),
    ("etcd_server_heartbeat_send_failures_total", "not told yet"),
    ("etcd_server_slow_read_indexes_total", "not told yet"),
    ("etcd_snap_", "a received database is synced as it is written"),
];

const MARK: &str = "<!-- the rest is written by a test of metrics/document.rs -->\n";

fn path(name: &str) -> String {
    format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn table() -> String {
    let metrics = Metrics::new(true, &FeatureGates::default());
    let process = process::Process::read();
    let grpc = metrics.grpc.rows();
    let mut text =
        "\n| name | type | labels | buckets | meaning |\n|---|---|---|---|---|\n".to_owned();
    for (name, help, family) in families(metrics.rows(), &grpc, process.rows()) {
        let still = STILL.iter().find(|(start, _)| name.starts_with(start));
        let note = still.map_or(String::new(), |(_, why)| format!(" **Does not move**: {why}."));
        let labels = family.labels().join(", ");
        let _ = writeln!(
            text,
            "| `{name}` | {} | {labels} | {} | {help}{note} |",
            family.type_name(),
            buckets(family.bounds())
        );
    }
    text
}

fn buckets(bounds: &[f64]) -> String {
    match bounds {
        [first, second, .., last] => format!("{first}, {second}, … {last} ({})", bounds.len()),
        _ => String::new(),
    }
}

/// `UPDATE_DOCS=1 cargo test -p retcd-server` rewrites the table behind the mark.
#[test]
fn the_document_agrees_with_the_table() {
    let document = std::fs::read_to_string(path("metrics.md")).unwrap();
    let (head, rest) = document.split_once(MARK).expect("the mark stands in the document");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path("metrics.md"), format!("{head}{MARK}{}", table())).unwrap();
    } else {
        assert!(rest == table(), "run the tests with UPDATE_DOCS=1");
    }
    for (start, _) in STILL {
        assert!(table().contains(&format!("`{start}")), "{start} names nothing");
    }
}

/// The names of series in a query: words before a brace, a bracket, or the end of a word, that no function has.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    query.split(move |char| !is_word(char)).filter(|word| {
        ["etcd_", "retcd_", "grpc_", "process_", "os_"].iter().any(|start| word.starts_with(start))
    })
}

#[test]
fn the_board_shows_what_exists() {
    let board: Value =
        serde_json::from_str(&std::fs::read_to_string(path("grafana.json")).unwrap()).unwrap();
    let metrics = Metrics::new(true, &FeatureGates::default());
    let (process, grpc) = (process::Process::read(), metrics.grpc.rows());
    let types: BTreeMap<_, _> = families(metrics.rows(), &grpc, process.rows())
        .into_iter()
        .map(|(name, _, family)| (name, family.type_name()))
        .collect();
    let labels: BTreeSet<_> = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"].into();
    assert!(board["schemaVersion"].as_u64().unwrap() >= 36);
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for side in ["h", "w", "x", "y"] {
            assert!(panel["gridPos"][side].is_u64(), "{panel}");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let mut found = 0;
            for name in names(query).filter(|name| !labels.contains(name)) {
                let base = name
                    .strip_suffix("_bucket")
                    .filter(|base| types.get(base) == Some(&"histogram"));
                let base = base.unwrap_or_else(|| {
                    name.strip_suffix("_sum")
                        .or_else(|| name.strip_suffix("_count"))
                        .filter(|base| types.contains_key(base))
                        .unwrap_or(name)
                });
                assert!(types.contains_key(base), "{name} in {query}");
                assert!(
                    !STILL.iter().any(|(start, _)| base.starts_with(start)),
                    "{name} does not move"
                );
                found += 1;
            }
            assert!(found > 0, "{query}");
        }
    }
    assert!(panels.len() > 10);
}
