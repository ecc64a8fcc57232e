//! Snapshots go to and come from etcd itself.
//!
//! Needs a release of etcd: `ETCD_REAL` names its directory. Without one the tests say so and pass.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use retcd_api::{leasepb, mvccpb};
use retcd_bbolt::{Database, PageSize, Writer, trailer};
use retcd_testkit::{Member, Tool};
use serde_json::Value;

type Content = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

const KEYS: i64 = 20_000;
/// The member and revision that the handmade database ends with.
const LEASE: i64 = 0x1234_5678;

fn real_etcd() -> Option<PathBuf> {
    let found = retcd_testkit::real_etcd();
    if found.is_none() {
        println!("skipped: no etcd to compare with; ETCD_REAL may name a directory");
    }
    found
}

#[test]
fn etcd_restores_and_serves_what_we_write() {
    let Some(etcd) = real_etcd() else { return };
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshot.db");
    let content = handmade();
    let size_bytes = write_snapshot(&snapshot, &content);
    assert_eq!(trailer::verify_sha256_trailer(&snapshot).unwrap(), size_bytes);

    // `status` runs bbolt's own check first.
    let status = etcdutl(&etcd, &["snapshot", "status", path(&snapshot), "-w", "json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let entries: usize = content.values().map(BTreeMap::len).sum();
    assert_eq!(status["totalKey"], entries);
    assert_eq!(status["totalSize"], size_bytes);
    assert_eq!(status["revision"], KEYS + 2);

    let data = dir.path().join("restored");
    let restore =
        ["snapshot", "restore", path(&snapshot), "--name", "m1", "--data-dir", path(&data)];
    let cluster = ["--initial-cluster", "m1=http://127.0.0.1:1"];
    let advertise = ["--initial-advertise-peer-urls", "http://127.0.0.1:1"];
    etcdutl(&etcd, &[&restore[..], &cluster, &advertise].concat());

    let member = Member::start(&etcd.join("etcd"), &["--data-dir", path(&data)]);
    let tool = Tool::new(&etcd.join("etcdctl"), &member.endpoint());
    let all = json(&tool, &["get", "--prefix", "", "-w", "json"]);
    assert_eq!(all["count"], KEYS - 1, "one was deleted");
    let kvs = all["kvs"].as_array().unwrap();
    assert_eq!(kvs.len(), usize::try_from(KEYS - 1).unwrap());
    for (i, kv) in (2..).zip(kvs) {
        assert_eq!(bytes(&kv["key"]), key(i));
        assert_eq!(bytes(&kv["value"]), value(i));
        assert_eq!(kv["mod_revision"], i + 1);
    }
    // Older revisions, leases and writes on top: the file is a database, not only a list.
    let old = json(&tool, &["get", "key-00001", "--rev", "2", "-w", "json"]);
    assert_eq!(bytes(&old["kvs"][0]["value"]), value(1));
    let lease = tool.expect(&["lease", "timetolive", &format!("{LEASE:x}"), "--keys"]);
    assert!(lease.contains("key-00002") && lease.contains("granted with TTL(7200s)"), "{lease}");
    tool.expect(&["lease", "revoke", &format!("{LEASE:x}")]);
    tool.expect(&["del", "--prefix", "key-0"]);
    tool.expect(&["put", "more", "text"]);
    let count = json(&tool, &["get", "--prefix", "", "--keys-only", "-w", "json"])["count"].clone();
    assert_eq!(count, KEYS - 9_999 + 1);

    // bbolt has rewritten most pages of our file; saved again, it is well-formed for both sides.
    let again = dir.path().join("again.db");
    tool.expect(&["snapshot", "save", path(&again)]);
    etcdutl(&etcd, &["snapshot", "status", path(&again)]);
    assert_eq!(live_keys(&read(&again)).len(), usize::try_from(KEYS - 9_999 + 1).unwrap());
}

#[test]
fn what_etcd_writes_is_read_as_etcd_says() {
    let Some(etcd) = real_etcd() else { return };
    let mut member = Member::start(&etcd.join("etcd"), &[]);
    let tool = Tool::new(&etcd.join("etcdctl"), &member.endpoint());
    for round in (0..15).chain(0..10) {
        put_many(&tool, round);
    }
    let large = "x".repeat(1_000_000);
    assert_eq!(tool.run_with_input(&["put", "large"], large.as_bytes()).code, 0);
    let granted = tool.expect(&["lease", "grant", "7200"]);
    let lease = granted.split_whitespace().nth(1).unwrap();
    tool.expect(&["put", "--lease", lease, "leased", "value"]);
    tool.expect(&["del", "--prefix", "key-1"]);
    tool.expect(&["user", "add", "root", "--new-user-password", "secret"]);
    tool.expect(&["role", "add", "reader"]);
    tool.expect(&["compact", "--physical", "27"]);
    put_many(&tool, 3);

    let dir = tempfile::tempdir().unwrap();
    for step in ["fragmented", "defragmented"] {
        let snapshot = dir.path().join(step);
        tool.expect(&["snapshot", "save", path(&snapshot)]);
        let size_bytes = trailer::verify_sha256_trailer(&snapshot).unwrap();
        let content = read(&snapshot);
        assert_as_etcd_says(&tool, &content, lease);

        let status = etcdutl(&etcd, &["snapshot", "status", path(&snapshot), "-w", "json"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["totalKey"], content.values().map(BTreeMap::len).sum::<usize>());
        assert_eq!(status["totalSize"], size_bytes);

        // The same content in our pages has the same hash for etcd.
        let copy = dir.path().join(format!("{step}-copy"));
        write_snapshot(&copy, &content);
        let copied = etcdutl(&etcd, &["snapshot", "status", path(&copy), "-w", "json"]);
        let copied: Value = serde_json::from_str(&copied).unwrap();
        assert_eq!(copied["hash"], status["hash"]);
        tool.expect(&["defrag"]);
    }

    let before = read_after_stop(&mut member);
    let live = live_keys(&before);
    assert!(live.contains_key(b"large".as_slice()) && live.contains_key(b"leased".as_slice()));
}

fn assert_as_etcd_says(tool: &Tool, content: &Content, lease: &str) {
    let all = json(tool, &["get", "--prefix", "", "-w", "json"]);
    let expected: BTreeMap<Vec<u8>, (Vec<u8>, i64, i64)> = all["kvs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kv| {
            let version = kv["version"].as_i64().unwrap();
            let mod_revision = kv["mod_revision"].as_i64().unwrap();
            (bytes(&kv["key"]), (bytes(&kv["value"]), mod_revision, version))
        })
        .collect();
    assert!(expected.len() > 700);
    let found: BTreeMap<_, _> = live_keys(content)
        .into_iter()
        .map(|(key, kv)| (key, (kv.value.to_vec(), kv.mod_revision, kv.version)))
        .collect();
    assert!(found == expected, "{} keys, expected {}", found.len(), expected.len());

    let lease = i64::from_str_radix(lease, 16).unwrap();
    let leases: Vec<_> = content["lease"].values().collect();
    assert_eq!(leases.len(), 1);
    let stored = leasepb::Lease::decode(leases[0].as_slice()).unwrap();
    assert_eq!((stored.id, stored.ttl), (lease, 7200));
    assert!(content["authUsers"].contains_key(b"root".as_slice()));
    assert!(content["authRoles"].contains_key(b"reader".as_slice()));
    assert_eq!(content["members"].len(), 1);
    assert_eq!(content["meta"][b"consistent_index".as_slice()].len(), 8);
    for bucket in ["alarm", "auth", "cluster", "key", "members_removed"] {
        assert!(content.contains_key(bucket), "{bucket}");
    }
}

/// 100 keys in one transaction.
fn put_many(tool: &Tool, round: usize) {
    let put = |i: usize| format!("put key-{round}-{i} {}", "v".repeat(1 + i * 7));
    let puts: Vec<String> = (0..100).map(put).collect();
    let outcome = tool.run_with_input(&["txn"], format!("\n{}\n\n\n", puts.join("\n")).as_bytes());
    let errors = String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.code == 0 && outcome.stdout.starts_with(b"SUCCESS"), "{errors}");
}

fn read_after_stop(member: &mut Member) -> Content {
    member.process().terminate();
    member.process().wait(retcd_testkit::SOON);
    read(&member.data_dir().join("member/snap/db"))
}

fn read(file: &Path) -> Content {
    let database = Database::open_path(file).unwrap();
    let mut content = Content::new();
    let mut buckets = database.buckets();
    while let Some(bucket) = buckets.next().unwrap() {
        let name = String::from_utf8(bucket.name().to_vec()).unwrap();
        let stored = content.entry(name).or_default();
        let mut entries = database.entries(&bucket);
        while let Some((key, value)) = entries.next().unwrap() {
            stored.insert(key.to_vec(), value.to_vec());
        }
    }
    content
}

/// Writes a database with its hash; returns the size of the database alone.
fn write_snapshot(file: &Path, content: &Content) -> u64 {
    let mut counter = Writer::measuring(PageSize::DEFAULT);
    fill(&mut counter, content);
    let layout = counter.finish().unwrap();
    let out = trailer::HashingWriter::new(File::create(file).unwrap());
    let mut writer = Writer::streaming(out, layout).unwrap();
    fill(&mut writer, content);
    writer.finish().unwrap().finish().unwrap();
    layout.size_bytes()
}

fn fill<S: retcd_bbolt::Sink>(writer: &mut Writer<S>, content: &Content) {
    for (name, entries) in content {
        writer.bucket(name.as_bytes()).unwrap();
        for (key, value) in entries {
            writer.put(key, value).unwrap();
        }
    }
}

/// The newest value of each key that is not deleted, from the `key` bucket.
fn live_keys(content: &Content) -> BTreeMap<Vec<u8>, mvccpb::KeyValue> {
    let mut live = BTreeMap::new();
    for (revision, encoded) in &content["key"] {
        let kv = mvccpb::KeyValue::decode(encoded.as_slice()).unwrap();
        if revision.len() == 18 {
            live.remove(kv.key.as_ref() as &[u8]);
        } else {
            live.insert(kv.key.to_vec(), kv);
        }
    }
    live
}

fn key(i: i64) -> Vec<u8> {
    format!("key-{i:05}").into_bytes()
}

fn value(i: i64) -> Vec<u8> {
    format!("value {i} ").into_bytes().repeat(usize::try_from(i % 30).unwrap())
}

/// A database as a member leaves it: keys 1 to [`KEYS`] at revisions 2 on, then the first one deleted.
fn handmade() -> Content {
    let mut content = Content::new();
    for bucket in ["alarm", "auth", "authRoles", "authUsers", "members", "members_removed"] {
        content.insert(bucket.to_owned(), BTreeMap::new());
    }
    let keys = content.entry("key".to_owned()).or_default();
    let mut put = |main: i64, tombstone: &str, kv: mvccpb::KeyValue| {
        let main = main.to_be_bytes();
        let revision = [&main, b"_".as_slice(), &[0; 8], tombstone.as_bytes()].concat();
        keys.insert(revision, kv.encode_to_vec());
    };
    for i in 1..=KEYS {
        let kv = mvccpb::KeyValue {
            key: key(i).into(),
            value: value(i).into(),
            create_revision: i + 1,
            mod_revision: i + 1,
            version: 1,
            lease: if i == 2 { LEASE } else { 0 },
        };
        put(i + 1, "", kv);
    }
    put(KEYS + 2, "t", mvccpb::KeyValue { key: key(1).into(), ..Default::default() });
    let lease = leasepb::Lease { id: LEASE, ttl: 7200, remaining_ttl: 0 };
    let mut insert = |bucket: &str, key: &[u8], value: &[u8]| {
        content.entry(bucket.to_owned()).or_default().insert(key.to_vec(), value.to_vec());
    };
    insert("lease", &LEASE.to_be_bytes(), &lease.encode_to_vec());
    insert("auth", b"authEnabled", &[0]);
    insert("auth", b"authRevision", &1u64.to_be_bytes());
    insert("cluster", b"clusterVersion", b"3.5.0");
    insert(
        "members",
        b"8e9e05c52164694d",
        br#"{"id":10276657743932975437,"peerURLs":["http://h:2380"]}"#,
    );
    insert("meta", b"consistent_index", &77u64.to_be_bytes());
    insert("meta", b"term", &3u64.to_be_bytes());
    insert("meta", b"confState", br#"{"voters":[10276657743932975437],"auto_leave":false}"#);
    content
}

fn etcdutl(etcd: &Path, args: &[&str]) -> String {
    let output = Command::new(etcd.join("etcdutl")).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(tool: &Tool, args: &[&str]) -> Value {
    serde_json::from_str(&tool.expect(args)).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    value.as_str().map_or_else(Vec::new, |text| BASE64.decode(text).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
