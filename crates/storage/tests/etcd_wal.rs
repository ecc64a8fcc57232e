//! Logs that etcd itself wrote are read record for record.
//!
//! Needs etcd 3.5 and its etcdctl: `ETCD_REAL` names their directory. Without one the tests say so and pass.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use retcd_api::etcdserverpb::{InternalRaftRequest, Metadata};
use retcd_api::raftpb::{ConfChange, Entry, EntryType};
use retcd_api::walpb;
use retcd_storage::fs::RealFs;
use retcd_storage::snapshot::Snapshots;
use retcd_storage::wal::{self, EntryRef, Kind, Options, Reader, SegmentName, Wal};

const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn a_log_of_etcd_is_read_record_for_record() {
    let Some(etcd) = Etcd::find() else { return };
    let data = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..3 {
        let server = etcd.start(data.path(), &[]);
        for i in 0..10 {
            let (key, value) = (format!("key-{round}-{i}"), format!("value {i}"));
            server.put(&key, &value);
            expected.push((key.into_bytes(), value.into_bytes()));
        }
    }
    let dir = data.path().join("member/wal");
    let replayed = wal::read(&RealFs, &dir, &walpb::Snapshot::default()).unwrap();
    let metadata = Metadata::decode(replayed.metadata.clone()).unwrap();
    assert!(metadata.node_id != 0 && metadata.cluster_id != 0, "{metadata:?}");
    assert_eq!(replayed.hard_state.vote, metadata.node_id);
    assert!(replayed.hard_state.term > 3, "one election in each round");
    assert_eq!(puts(&replayed.entries), expected);
    assert_contiguous(&replayed.entries, 1);

    let first = &replayed.entries[0];
    assert_eq!(first.r#type(), EntryType::EntryConfChange);
    let change = ConfChange::decode(first.data.clone()).unwrap();
    assert_eq!(change.node_id, metadata.node_id);
    assert!(std::str::from_utf8(&change.context).unwrap().contains("\"peerURLs\""));

    // The same records come out as bytes that are the same: what we write is what etcd wrote.
    let copy = data.path().join("copy");
    rewrite(&dir, &copy);
    let original = std::fs::read(dir.join(FIRST_SEGMENT)).unwrap();
    let copied = std::fs::read(copy.join(FIRST_SEGMENT)).unwrap();
    assert_eq!(original.len(), copied.len());
    let difference = original.iter().zip(&copied).position(|(a, b)| a != b);
    assert_eq!(difference, None, "first byte that differs");
}

#[test]
fn snapshots_of_etcd_are_found_and_the_log_is_read_from_there() {
    let Some(etcd) = Etcd::find() else { return };
    let data = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let server = etcd.start(data.path(), &["--snapshot-count=10"]);
        for i in 0..40 {
            server.put(&format!("key-{round}-{i}"), "value");
        }
    }
    let dir = data.path().join("member/wal");
    let valid = wal::valid_snapshots(&RealFs, &dir).unwrap();
    assert!(valid.len() > 4, "{valid:?}");
    let snapshots = Snapshots::new(Arc::new(RealFs), &data.path().join("member/snap"));
    let newest = snapshots.load_newest(&valid).unwrap().unwrap();
    let metadata = newest.metadata.unwrap();
    let conf_state = metadata.conf_state.unwrap();
    assert_eq!(conf_state.voters.len(), 1);
    assert!(newest.data.starts_with(b"{\"Root\""), "the membership of the v2 store");

    let from = walpb::Snapshot { index: metadata.index, term: metadata.term, conf_state: None };
    let replayed = wal::read(&RealFs, &dir, &from).unwrap();
    assert_eq!(replayed.hard_state.vote, conf_state.voters[0]);
    assert_contiguous(&replayed.entries, metadata.index + 1);
    assert!(replayed.entries.len() <= 20, "{}", replayed.entries.len());
}

/// etcd goes on with a log that we wrote to: formats are the same in both directions.
#[test]
fn etcd_goes_on_with_a_log_that_we_opened() {
    let Some(etcd) = Etcd::find() else { return };
    let data = tempfile::tempdir().unwrap();
    let server = etcd.start(data.path(), &[]);
    server.put("before", "1");
    drop(server);
    let dir = data.path().join("member/wal");
    let from = walpb::Snapshot::default();
    let (mut wal, replayed) = Wal::open(Arc::new(RealFs), &dir, &from, Options::default()).unwrap();
    // A new term, as a member writes that saw an election it did not win.
    let mut state = replayed.hard_state;
    state.term += 5;
    wal.append(Some(&state), std::iter::empty()).unwrap();
    wal.flush(true).unwrap();
    drop(wal);

    let server = etcd.start(data.path(), &[]);
    assert_eq!(server.get("before"), "before\n1\n");
    server.put("after", "2");
    drop(server);
    let replayed = wal::read(&RealFs, &dir, &from).unwrap();
    assert!(replayed.hard_state.term > state.term);
    let keys: Vec<_> = puts(&replayed.entries).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"before".to_vec(), b"after".to_vec()]);
}

#[test]
fn a_segment_that_etcd_has_open_is_not_opened_for_writing() {
    let Some(etcd) = Etcd::find() else { return };
    let data = tempfile::tempdir().unwrap();
    let server = etcd.start(data.path(), &[]);
    server.put("key", "value");
    let dir = data.path().join("member/wal");
    let from = walpb::Snapshot::default();
    let error = Wal::open(Arc::new(RealFs), &dir, &from, Options::default()).unwrap_err();
    assert!(matches!(error, wal::Error::Locked { .. }), "{error}");
    drop(server);
    Wal::open(Arc::new(RealFs), &dir, &from, Options::default()).unwrap();
}

const FIRST_SEGMENT: &str = "0000000000000000-0000000000000000.wal";

/// Writes all records of a log of one segment again, in their order.
fn rewrite(from: &Path, to: &Path) {
    let mut reader = Reader::open(&RealFs, from).unwrap();
    let mut wal: Option<Wal> = None;
    let mut is_behind_header = false;
    while let Some(item) = reader.next_item().unwrap() {
        assert!(SegmentName::parse(item.file.file_name().unwrap().to_str().unwrap()).is_some());
        match item.kind {
            Kind::Crc => assert_eq!((item.crc, item.offset), (0, 0)),
            Kind::Metadata => {
                let options = Options::default();
                wal = Some(Wal::create(Arc::new(RealFs), to, &item.data, options).unwrap());
            }
            Kind::Snapshot if !is_behind_header => is_behind_header = true,
            Kind::Snapshot => {
                wal.as_mut().unwrap().save_snapshot(&item.snapshot().unwrap()).unwrap();
            }
            Kind::Entry => {
                let entry = item.entry().unwrap();
                let entries = std::iter::once(EntryRef::from(&entry));
                wal.as_mut().unwrap().append(None, entries).unwrap();
            }
            Kind::State => {
                let state = item.hard_state().unwrap();
                wal.as_mut().unwrap().append(Some(&state), std::iter::empty()).unwrap();
            }
        }
    }
    assert_eq!(reader.torn_tail(), None);
    wal.unwrap().flush(true).unwrap();
}

/// Keys and values of all puts, in order.
///
/// Up to 3.5 etcd writes member attributes and cluster version as requests of the v2 store; all else decodes.
fn puts(entries: &[Entry]) -> Vec<(Vec<u8>, Vec<u8>)> {
    entries
        .iter()
        .filter(|entry| entry.r#type() == EntryType::EntryNormal && !entry.data.is_empty())
        .filter_map(|entry| match InternalRaftRequest::decode(entry.data.clone()) {
            Ok(request) => request.put,
            Err(error) => {
                let is_v2 = entry.data.windows(3).any(|bytes| bytes == b"/0/");
                assert!(is_v2, "entry {}: {error}", entry.index);
                None
            }
        })
        .map(|put| (put.key.to_vec(), put.value.to_vec()))
        .collect()
}

fn assert_contiguous(entries: &[Entry], first: u64) {
    for (index, entry) in (first..).zip(entries) {
        assert_eq!(entry.index, index);
    }
}

/// A real etcd, where there is one.
struct Etcd {
    etcd: PathBuf,
    etcdctl: PathBuf,
}

impl Etcd {
    fn find() -> Option<Self> {
        let Some(dir) = std::env::var_os("ETCD_REAL").map(PathBuf::from) else {
            println!("skipped: ETCD_REAL names no directory with etcd and etcdctl");
            return None;
        };
        let (etcd, etcdctl) = (dir.join("etcd"), dir.join("etcdctl"));
        assert!(
            etcd.exists() && etcdctl.exists(),
            "ETCD_REAL is {}, without etcd or etcdctl",
            dir.display()
        );
        Some(Etcd { etcd, etcdctl })
    }

    fn start(&self, data: &Path, flags: &[&str]) -> Server {
        let [client, peer] = free_urls();
        let child = Command::new(&self.etcd)
            .arg("--data-dir")
            .arg(data)
            .args(["--name", "m", "--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, etcdctl: self.etcdctl.clone(), client };
        let start = Instant::now();
        while !server.etcdctl(&["endpoint", "health"]).1 {
            assert!(start.elapsed() < DEADLINE, "etcd does not start");
        }
        server
    }
}

/// Killed on drop.
struct Server {
    child: Child,
    etcdctl: PathBuf,
    client: String,
}

impl Server {
    fn put(&self, key: &str, value: &str) {
        assert_eq!(self.etcdctl(&["put", key, value]), ("OK\n".to_owned(), true));
    }

    fn get(&self, key: &str) -> String {
        self.etcdctl(&["get", key]).0
    }

    fn etcdctl(&self, args: &[&str]) -> (String, bool) {
        let output = Command::new(&self.etcdctl)
            .args(["--endpoints", &self.client])
            .args(args)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_urls() -> [String; 2] {
    let listeners = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| format!("http://{}", listener.local_addr().unwrap()))
}
