//! Databases on their way: what leaves is what was applied, what arrives is what was sent, and a crash at any step is
//! made good by the next start.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use prost::Message as _;
use retcd_api::raftpb::{ConfState, Entry, Message, Snapshot, SnapshotMetadata};
use retcd_api::{etcdserverpb as pb, walpb};
use retcd_bbolt::{Database, PageSize, Writer};
use retcd_state_machine::backend::{Backend, Batch, Change, Encoded};
use retcd_state_machine::cluster::Member;
use retcd_state_machine::mvcc::{KeyValue, RecordKey, Revision};
use retcd_state_machine::schema::{Bucket, cluster, meta};
use retcd_state_machine::{DurableState, StateMachine};
use retcd_storage::backend::{LmdbBackend, Options, Pinned};
use retcd_storage::data_dir::{DataDir, Layout};
use tempfile::TempDir;

use super::*;
use crate::config::FeatureGates;
use crate::metrics::Metrics;
use crate::node::storage_loop::{self, StorageHandle, StorageLoop};
use crate::peer::{IncomingSnapshot, SnapshotSource, chunks};

/// All entries of a database, by bucket.
type Content = BTreeMap<&'static str, Vec<(Vec<u8>, Vec<u8>)>>;

#[test]
fn what_is_exported_is_imported_byte_for_byte() {
    let mut member = Lone::start(&full_batch(40));
    member.put("more", "of it");
    let export = member.export();
    let bytes = export.bytes;
    let file = collect(export.chunks);
    assert_eq!(file.len() as u64, bytes, "the length was told in advance");
    let content = member.content();
    assert_eq!(content_of_bbolt(&file), content);
    assert!(content.values().all(|entries| !entries.is_empty()), "{content:?}");

    let other = Place::new();
    other.receive(5, &file).unwrap();
    assert_eq!(other.names(), [converted(5)]);
    let taken = other.importer().take(5).unwrap();
    assert_eq!(content_of(&taken.pin().unwrap()), content);
    assert_eq!(other.names(), ["db", "db-lock"]);
}

#[test]
fn an_empty_bucket_is_exported_too() {
    let member = Lone::start(&Batch { changes: state_at(1), ..Batch::default() });
    let file = collect(member.export().chunks);
    let names: Vec<_> = content_of_bbolt(&file).into_keys().collect();
    assert_eq!(names, Bucket::ALL.map(Bucket::name));
}

#[test]
fn an_export_is_of_the_state_when_it_began() {
    // Far more than the queue between the threads takes.
    let mut member = Lone::start(&full_batch(4000));
    let export = member.export();
    let before = member.content();
    for round in 0..20 {
        member.put("later", &round.to_string());
    }
    member.flush();
    member.run(member.storage.defragment()).unwrap().unwrap();
    assert_ne!(member.content(), before);
    assert_eq!(content_of_bbolt(&collect(export.chunks)), before);
}

#[test]
fn the_message_says_what_the_database_holds() {
    let mut member = Lone::start(&full_batch(3));
    member.put("not", "flushed yet");
    let asked = message(2, 0);
    let sent = member.run(SnapshotSource::open(&member.exporter(), asked.clone())).unwrap();
    let snapshot = sent.message.snapshot.clone().unwrap();
    assert_eq!(Message { snapshot: asked.snapshot.clone(), ..sent.message }, asked);
    let metadata = snapshot.metadata.unwrap();
    assert_eq!((metadata.index, metadata.term), (6, 2));
    assert_eq!(metadata.conf_state.unwrap().voters, [7]);
    let store: serde_json::Value = serde_json::from_slice(&snapshot.data).unwrap();
    let members = &store["Root"]["Children"]["0"]["Children"]["members"]["Children"];
    let attributes = &members["7"]["Children"]["raftAttributes"]["Value"];
    assert_eq!(attributes, r#"{"peerURLs":["http://a:1"]}"#);
    let removed = &store["Root"]["Children"]["0"]["Children"]["removed_members"]["Children"];
    assert_eq!(removed["8"]["Path"], "/0/removed_members/8");

    let queue = &store["WatcherHub"]["EventHistory"]["Queue"];
    assert_eq!(queue["Events"].as_array().unwrap().len() as u64, queue["Capacity"]);

    let file = collect(sent.chunks);
    let content = content_of_bbolt(&file);
    let index = (meta::CONSISTENT_INDEX.to_vec(), 6_u64.to_be_bytes().to_vec());
    assert!(content["meta"].contains(&index), "{content:?}");

    let newer = member.run(SnapshotSource::open(&member.exporter(), message(7, 0)));
    let error = newer.err().expect("nothing is exported").to_string();
    assert!(error.contains("at index 6") && error.contains("index 7"), "{error}");
}

#[test]
fn the_log_is_kept_for_members_but_not_for_clients() {
    let member = Lone::start(&full_batch(4000));
    let exports = member.storage.exports();
    let for_client = member.run(member.exporter().for_client()).unwrap();
    assert_eq!(exports.lowest_index(), None);
    drop(for_client);
    let export = member.export();
    assert_eq!(exports.lowest_index(), Some(5));
    collect(export.chunks);
    wait_until(|| exports.to_members.available_permits() == 16);
    assert_eq!(exports.lowest_index(), Some(5), "the member has not asked for more yet");

    let broken = Lone::start(&full_batch(4000));
    drop(broken.export());
    wait_until(|| broken.storage.exports().lowest_index().is_none());
}

#[test]
fn clients_are_refused_when_too_many_are_served() {
    let member = Lone::start(&full_batch(4000));
    let open = || member.run(member.exporter().for_client());
    let served: Vec<_> = (0..16).map(|_| open().unwrap()).collect();
    let refused = open().err().expect("one too many");
    assert_eq!(refused.code(), retcd_api::error::Code::ResourceExhausted);
    assert_eq!(member.export().state.index, 5, "members have places of their own");
    drop(served);
    wait_until(|| member.storage.exports().to_clients.available_permits() == 16);
    open().unwrap();
}

#[test]
fn nothing_is_exported_before_there_is_a_state() {
    let member = Lone::start(&Batch::default());
    let error = member.run(member.exporter().for_client()).err().expect("nothing is exported");
    assert!(error.message().contains("nothing to export"), "{error}");
}

#[test]
fn a_database_that_breaks_off_leaves_nothing() {
    let place = Place::new();
    let file = bbolt_file(&full_batch(2000));
    for at in [0, 1, file.len() / 2, file.len()] {
        let (sender, chunks) = chunks();
        let receiving = place.start_receiving(5, chunks);
        for piece in file[..at].chunks(100_000) {
            sender.blocking_send(piece.to_vec().into()).unwrap();
        }
        // Without a word, or with a reason.
        if at % 2 == 0 {
            drop(sender);
        } else {
            sender.blocking_fail(io::Error::other("gone"));
        }
        let error = receiving.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::BreaksOff(_)), "{error}");
        assert_eq!(place.names(), [""; 0], "at {at}");
    }
}

#[test]
fn a_damaged_database_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let file = bbolt_file(&full_batch(50));
    let refused = |file: &[u8]| {
        let error = place.receive(5, file).unwrap_err();
        assert_eq!(place.names(), [""; 0], "{error}");
        error
    };
    assert!(matches!(refused(b""), Error::Conversion(_)));
    assert!(matches!(refused(&file[..file.len() - 4096]), Error::Conversion(_)));
    let mut torn = file.clone();
    torn[4096 * 3..4096 * 4].fill(0);
    assert!(matches!(refused(&torn), Error::Conversion(_)));

    let with = |bucket, key: &[u8], value: &[u8]| {
        let mut batch = full_batch(2);
        batch.changes.push(change(bucket, key, value));
        refused(&bbolt_file(&batch)).to_string()
    };
    assert!(with(Bucket::Members, b"9", b"no json").contains("bucket members is no member"));
    assert!(with(Bucket::MembersRemoved, b"xyz", b"removed").contains("is no member id"));
    assert!(with(Bucket::Lease, b"l", &[0xff]).contains("is no lease"));
    assert!(with(Bucket::AuthUsers, b"u", &[0xff]).contains("is no user"));
    assert!(with(Bucket::AuthRoles, b"r", &[0xff]).contains("is no role"));
    assert!(with(Bucket::Alarm, &[0xff], b"").contains("is no alarm"));
    assert!(with(Bucket::Cluster, cluster::DOWNGRADE, b"{").contains("is no downgrade"));
    assert!(with(Bucket::Meta, meta::CONF_STATE, b"{").contains("is no Raft membership"));
    assert!(with(Bucket::Meta, meta::CONSISTENT_INDEX, b"short").contains("is no index"));
    assert!(
        with(Bucket::Meta, meta::FINISHED_COMPACT_REVISION, b"short").contains("is no revision")
    );

    let mut batch = full_batch(2);
    batch.records[1].1 = Arc::from([0xff, 0xff]);
    assert!(refused(&bbolt_file(&batch)).to_string().contains("is no key-value message"));
    let mut batch = full_batch(2);
    batch.records[1].1 = batch.records[0].1.clone();
    assert!(refused(&bbolt_file(&batch)).to_string().contains("names another revision"));
}

#[test]
fn a_database_older_than_its_snapshot_is_refused() {
    let place = Place::new();
    let file = bbolt_file(&full_batch(2));
    assert!(matches!(place.receive(6, &file), Err(Error::Old { found: 5, announced: 6 })));
    assert!(matches!(place.receive(0, &file), Err(Error::NoIndex)));
    assert_eq!(place.names(), [""; 0]);
    place.receive(4, &file).unwrap();
}

#[test]
fn what_old_databases_do_not_say_comes_from_the_snapshot() {
    let place = Place::new();
    let mut batch = full_batch(2);
    batch.changes.retain(|change| change.key != meta::TERM && change.key != meta::CONF_STATE);
    place.receive(5, &bbolt_file(&batch)).unwrap();
    let taken = place.importer().take(5).unwrap();
    let state = durable_state(&taken.pin().unwrap()).unwrap().unwrap();
    assert_eq!(state, DurableState { index: 5, term: 2, conf_state: voters() });
}

#[test]
fn the_snapshot_knows_better_than_a_database_that_etcd_has_restored() {
    let place = Place::new();
    let mut batch = full_batch(2);
    let before = ConfState { voters: vec![77], ..ConfState::default() };
    let json = retcd_state_machine::schema::conf_state_json(&before);
    batch.changes.retain(|change| change.key != meta::CONF_STATE);
    batch.changes.push(change(Bucket::Meta, meta::CONF_STATE, &json));
    place.receive(5, &bbolt_file(&batch)).unwrap();
    let taken = place.importer().take(5).unwrap();
    let state = durable_state(&taken.pin().unwrap()).unwrap().unwrap();
    assert_eq!(state.conf_state, voters());
}

#[test]
fn a_start_takes_over_what_etcd_had_received() {
    let place = Place::new();
    std::fs::write(place.dir().join("db"), bbolt_file(&full_batch(3))).unwrap();
    let received = place.dir().join(format!("{:016x}.snap.db", 9));
    std::fs::write(received, bbolt_file(&at_index(9, 10))).unwrap();
    let taken = recover(place.layout(), &confirmed(9)).unwrap();
    assert_eq!(content_of(&taken.pin().unwrap())["key"].len(), 10);
    assert!(place.names().contains(&"db.bbolt".to_owned()));
}

#[test]
fn databases_may_come_at_the_same_time() {
    let place = Place::new();
    let (small, large) = (bbolt_file(&full_batch(10)), bbolt_file(&full_batch(3000)));
    let (slow_sender, slow_chunks) = chunks();
    let slow = place.start_receiving(5, slow_chunks);
    slow_sender.blocking_send(large[..5000].to_vec().into()).unwrap();
    // The same snapshot from another member, and an older one, while the first is on its way.
    place.receive(5, &small).unwrap();
    place.receive(4, &small).unwrap();
    slow_sender.blocking_send(large[5000..].to_vec().into()).unwrap();
    slow_sender.blocking_finish().unwrap();
    slow.join().unwrap().unwrap();
    assert_eq!(place.names(), [converted(4), converted(5)]);
    let taken = place.importer().take(5).unwrap();
    assert_eq!(content_of(&taken.pin().unwrap())["key"].len(), 3000);
    assert_eq!(place.names(), ["db", "db-lock"], "older ones are of no use");
}

#[test]
fn a_start_takes_the_received_database_that_the_log_confirms() {
    let place = Place::new();
    place.own(&full_batch(3));
    place.receive(5, &bbolt_file(&at_index(9, 10))).unwrap();
    let kept = place.copy_of(&converted(5));
    // What a crash may leave beside it.
    for name in ["tmp.3.snap.db", "tmp.4.snap.lmdb", "tmp.4.snap.lmdb-lock", "db.tmp.create.0"] {
        std::fs::write(place.dir().join(name), b"half a file").unwrap();
    }
    std::fs::write(place.dir().join(format!("{}-lock", converted(5))), b"old").unwrap();

    // Not confirmed: the own database is as new as the log's snapshot.
    let before = content_of(&recover(place.layout(), &confirmed(5)).unwrap().pin().unwrap());
    assert_eq!(before["key"].len(), 3);
    assert_eq!(place.names(), ["db", "db-lock"]);

    // Confirmed.
    std::fs::write(place.dir().join(converted(9)), &kept).unwrap();
    let taken = recover(place.layout(), &confirmed(9)).unwrap();
    assert_eq!(content_of(&taken.pin().unwrap())["key"].len(), 10);
    assert_eq!(place.names(), ["db", "db-lock"]);
    drop(taken);

    // The crash came after the database had got its place.
    let again = recover(place.layout(), &confirmed(9)).unwrap();
    assert_eq!(content_of(&again.pin().unwrap())["key"].len(), 10);
}

#[test]
fn a_start_without_the_confirmed_database_names_both_indexes() {
    let place = Place::new();
    place.own(&full_batch(3));
    place.receive(7, &bbolt_file(&at_index(7, 3))).unwrap();
    let error = recover(place.layout(), &confirmed(1234)).unwrap_err().to_string();
    assert!(error.contains("index 5,") && error.contains("index 1234,"), "{error}");
    assert!(place.names().contains(&converted(7)), "an error removes nothing");
    assert_eq!(recover(place.layout(), &confirmed(5)).unwrap().count(Bucket::Key).unwrap(), 3);

    let new = Place::new();
    let empty = recover(new.layout(), &walpb::Snapshot::default()).unwrap();
    assert_eq!(empty.count(Bucket::Key).unwrap(), 0);
}

#[test]
fn the_storage_thread_goes_on_with_the_received_database() {
    let mut member = Lone::start(&full_batch(4000));
    let old_content = member.content();
    let old_export = member.export();
    member.put("dropped", "with the old state");
    let place = Importer::new(&member.layout);
    let file = bbolt_file(&at_index(50, 7));
    place.receive_blocking(incoming(50, feed(&file))).unwrap();
    let machine = &mut member.machine;
    member
        .storage
        .install(50, |backend| {
            member.backend = backend.clone();
            machine.install(backend)
        })
        .unwrap();
    assert_eq!(member.machine.applied_index(), 50);
    assert_eq!(content_of_bbolt(&collect(old_export.chunks)), old_content);

    member.put("new", "after it");
    let export = member.export();
    assert_eq!(export.state.index, 51);
    let content = content_of_bbolt(&collect(export.chunks));
    assert_eq!(content["key"].len(), 8);
    assert_eq!(content, member.content());
    let layout = member.layout.clone();
    let _dir = member.stop();
    let restarted = recover(&layout, &confirmed(50)).unwrap();
    assert_eq!(content_of(&restarted.pin().unwrap()), content);
}

#[test]
fn an_install_that_fails_ends_the_storage_thread() {
    let member = Lone::start(&full_batch(3));
    let error = member.storage.install(50, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("0000000000000032.snap.lmdb"), "{error}");
    assert!(member.storage.install(50, |_| Ok(())).is_err());
    member.wait_for_end();

    let member = Lone::start(&full_batch(3));
    let importer = Importer::new(&member.layout);
    importer.receive_blocking(incoming(50, feed(&bbolt_file(&at_index(50, 7))))).unwrap();
    let error = member.storage.install(50, |_| Err(Failure::new("no memory"))).unwrap_err();
    assert!(error.to_string().contains("no memory"));
    member.wait_for_end();
}

/// 200 MB out of one directory and into another within 32 MB of memory.
#[test]
#[ignore = "writes 600 MB; for a release build"]
fn memory_does_not_grow_with_the_database() {
    const RECORDS: i64 = 200_000;
    const GROWTH_MAX_BYTES: u64 = 32 << 20;
    let mut member = Lone::start(&full_batch(1));
    let value = vec![b'v'; 1000];
    for start in (3..RECORDS).step_by(10_000) {
        let records = (start..(start + 10_000).min(RECORDS)).map(|main| record(main, &value));
        let batch = Batch { records: records.collect(), ..Batch::default() };
        member.backend.commit(&batch).unwrap();
    }
    member.backend.trim_resident().unwrap();
    member.put("forces", "a flush");
    drop(member.run(member.storage.pin()));
    let place = Place::new();
    let before = reset_peak_bytes();
    let export = member.export();
    let bytes = export.bytes;
    place.importer().receive_blocking(incoming(6, export.chunks)).unwrap();
    let peak = peak_bytes();
    println!("{bytes} bytes exported and imported, {before} bytes resident before, {peak} at most");
    assert!(bytes > 200_000_000);
    assert!(peak < before + GROWTH_MAX_BYTES, "{peak} after {before}");
    let taken = place.importer().take(6).unwrap();
    assert_eq!(taken.count(Bucket::Key).unwrap(), member.backend.count(Bucket::Key).unwrap());
}

/// Forgets how much memory was resident at most, and returns how much is now.
fn reset_peak_bytes() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak_bytes()
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A state machine with its storage thread, and no node around them.
struct Lone {
    dir: TempDir,
    layout: Layout,
    machine: StateMachine,
    backend: Arc<LmdbBackend>,
    storage: StorageHandle,
    metrics: Arc<Metrics>,
    thread: Option<JoinHandle<Result<(), Failure>>>,
    runtime: tokio::runtime::Runtime,
}

impl Lone {
    /// With what `batch` says already on disk.
    fn start(batch: &Batch) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), None);
        let data_dir = DataDir::open(layout.clone()).unwrap();
        let backend =
            Arc::new(LmdbBackend::open(&layout.backend_path(), Options::default()).unwrap());
        backend.commit(batch).unwrap();
        let machine = StateMachine::open(backend.clone(), retcd_state_machine::Config::default());
        let machine = machine.unwrap();
        let (storage, requests) = storage_loop::channel();
        let metrics = Arc::new(Metrics::new(false, &FeatureGates::default()));
        let (reader, of_thread) = (machine.reader(), backend.clone());
        let storing = StorageLoop::alone(reader, metrics.clone(), of_thread, requests, data_dir);
        let thread = std::thread::spawn(move || storing.run());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Lone { dir, layout, machine, backend, storage, metrics, thread: Some(thread), runtime }
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.unwrap() })
    }

    fn exporter(&self) -> Exporter {
        Exporter::new(self.storage.clone(), self.metrics.clone())
    }

    fn export(&self) -> Export {
        self.run(self.exporter().for_member()).unwrap()
    }

    fn put(&mut self, key: &str, value: &str) {
        let put = pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        let request = pb::InternalRaftRequest { put: Some(put), ..Default::default() };
        let index = self.machine.applied_index() + 1;
        let entry =
            Entry { index, term: 2, data: request.encode_to_vec().into(), ..Entry::default() };
        self.machine.apply(&[entry], |_| false, Duration::ZERO, &mut Vec::new()).unwrap();
    }

    fn flush(&self) {
        drop(self.run(self.storage.pin()).unwrap().unwrap());
    }

    /// What is on disk, after a flush.
    fn content(&self) -> Content {
        self.flush();
        content_of(&self.backend.pin().unwrap())
    }

    fn wait_for_end(mut self) {
        let thread = self.thread.take().unwrap();
        wait_until(|| thread.is_finished());
        thread.join().unwrap().unwrap();
    }

    /// Ends the storage thread after a last flush, and lets go of the database.
    fn stop(mut self) -> impl Drop {
        self.storage.stop();
        self.thread.take().unwrap().join().unwrap().unwrap();
        let Lone { dir, .. } = self;
        dir
    }
}

/// The directory of a member that does not run.
struct Place {
    _dir: TempDir,
    layout: Layout,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), None);
        std::fs::create_dir_all(layout.snap_dir()).unwrap();
        Place { _dir: dir, layout }
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn dir(&self) -> PathBuf {
        self.layout.snap_dir()
    }

    fn importer(&self) -> Importer {
        Importer::new(&self.layout)
    }

    fn own(&self, batch: &Batch) {
        let own = LmdbBackend::open(&self.layout.backend_path(), Options::default()).unwrap();
        own.commit(batch).unwrap();
    }

    fn receive(&self, index: u64, file: &[u8]) -> Result<(), Error> {
        self.importer().receive_blocking(incoming(index, feed(file)))
    }

    fn start_receiving(
        &self,
        index: u64,
        chunks: crate::peer::Chunks,
    ) -> JoinHandle<Result<(), Error>> {
        let importer = self.importer();
        std::thread::spawn(move || importer.receive_blocking(incoming(index, chunks)))
    }

    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn copy_of(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir().join(name)).unwrap()
    }
}

const PATIENCE: Duration = Duration::from_secs(120);

fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "waited for too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn converted(index: u64) -> String {
    format!("{index:016x}.snap.lmdb")
}

fn confirmed(index: u64) -> walpb::Snapshot {
    walpb::Snapshot { index, term: 2, conf_state: Some(voters()) }
}

fn voters() -> ConfState {
    ConfState { voters: vec![7], ..ConfState::default() }
}

fn message(index: u64, to: u64) -> Message {
    let metadata = SnapshotMetadata { conf_state: Some(voters()), index, term: 2 };
    let snapshot = Snapshot { metadata: Some(metadata), ..Snapshot::default() };
    Message { snapshot: Some(snapshot), to, term: 2, ..Message::default() }
}

fn incoming(index: u64, chunks: crate::peer::Chunks) -> IncomingSnapshot {
    IncomingSnapshot { message: message(index, 1), chunks }
}

/// The pieces of a whole file, as they come from a connection.
fn feed(file: &[u8]) -> crate::peer::Chunks {
    let (sender, chunks) = chunks();
    let file = file.to_vec();
    std::thread::spawn(move || {
        for piece in file.chunks(100_000) {
            sender.blocking_send(piece.to_vec().into()).unwrap();
        }
        sender.blocking_finish().unwrap();
    });
    chunks
}

fn collect(mut chunks: crate::peer::Chunks) -> Vec<u8> {
    let mut file = Vec::new();
    while let Some(piece) = chunks.blocking_next().unwrap() {
        file.extend_from_slice(&piece);
    }
    file
}

/// The state at index 5, term 2: something in every bucket, and so many records of 600 bytes.
fn full_batch(records: i64) -> Batch {
    at_index(5, records)
}

fn at_index(index: u64, records: i64) -> Batch {
    let member = Member { id: 7, peer_urls: vec!["http://a:1".into()], ..Member::default() };
    // Of no kind: the others refuse writes.
    let alarm = pb::AlarmMember { member_id: 7, alarm: pb::AlarmType::None.into() };
    let lease = retcd_api::leasepb::Lease { id: 3, ttl: 60, remaining_ttl: 0 };
    let long_name = vec![b'x'; 1000];
    let mut changes = state_at(index);
    changes.extend([
        change(Bucket::Alarm, &alarm.encode_to_vec(), b""),
        change(Bucket::Auth, b"authEnabled", &[0]),
        change(Bucket::AuthRoles, b"root", b""),
        change(Bucket::AuthUsers, b"root", b""),
        change(Bucket::AuthUsers, &long_name, b""),
        change(Bucket::Cluster, cluster::VERSION, b"3.7.0"),
        change(Bucket::Lease, &3_u64.to_be_bytes(), &lease.encode_to_vec()),
        change(Bucket::Members, b"7", &member.to_json()),
        change(Bucket::MembersRemoved, b"8", b"removed"),
        change(Bucket::Meta, meta::STORAGE_VERSION, b"3.7.0"),
    ]);
    let records = (2..2 + records).map(|main| record(main, &[b'v'; 600]));
    Batch { records: records.collect(), changes, ..Batch::default() }
}

fn record(main: i64, value: &[u8]) -> (RecordKey, Encoded) {
    let key = format!("key {main}").into_bytes();
    let revisions = KeyValue { create_revision: main, mod_revision: main, ..KeyValue::default() };
    let kv = KeyValue { key: &key, value, version: 1, ..revisions };
    (RecordKey::new(Revision::new(main, 0), false), kv.to_encoded(&mut Vec::new()))
}

fn state_at(index: u64) -> Vec<Change> {
    vec![
        change(Bucket::Meta, meta::CONSISTENT_INDEX, &index.to_be_bytes()),
        change(Bucket::Meta, meta::TERM, &2_u64.to_be_bytes()),
        change(Bucket::Meta, meta::CONF_STATE, br#"{"voters":[7],"auto_leave":false}"#),
    ]
}

fn change(bucket: Bucket, key: &[u8], value: &[u8]) -> Change {
    Change { bucket, key: key.to_vec(), value: Some(value.to_vec()) }
}

/// What another member would send that holds this.
fn bbolt_file(batch: &Batch) -> Vec<u8> {
    let mut buckets: BTreeMap<&str, BTreeMap<Vec<u8>, Vec<u8>>> =
        Bucket::ALL.map(|bucket| (bucket.name(), BTreeMap::new())).into();
    for (key, value) in &batch.records {
        let records = buckets.get_mut("key").unwrap();
        records.insert(key.as_bytes().to_vec(), value.to_vec());
    }
    for Change { bucket, key, value } in &batch.changes {
        buckets.get_mut(bucket.name()).unwrap().insert(key.clone(), value.clone().unwrap());
    }
    let mut file = io::Cursor::new(Vec::new());
    let mut writer = Writer::new(&mut file, PageSize::DEFAULT).unwrap();
    for (name, entries) in &buckets {
        writer.bucket(name.as_bytes()).unwrap();
        for (key, value) in entries {
            writer.put(key, value).unwrap();
        }
    }
    writer.finish().unwrap();
    file.into_inner()
}

fn content_of_bbolt(file: &[u8]) -> Content {
    let database = Database::open(file).unwrap();
    let mut content = Content::new();
    let mut buckets = database.buckets();
    while let Some(bucket) = buckets.next().unwrap() {
        let known = Bucket::ALL.into_iter().find(|known| known.name().as_bytes() == bucket.name());
        let found = content.entry(known.unwrap().name()).or_default();
        let mut entries = database.entries(&bucket);
        while let Some((key, value)) = entries.next().unwrap() {
            found.push((key.to_vec(), value.to_vec()));
        }
    }
    content
}

fn content_of(state: &Pinned) -> Content {
    let entries = |bucket: Bucket| {
        let mut found = Vec::new();
        let visit = &mut |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        state.scan(bucket, &[], visit).unwrap();
        (bucket.name(), found)
    };
    Bucket::ALL.map(entries).into()
}
