//! What etcd has left is taken over whole or not at all; what is exported is what was there.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use retcd_api::mvccpb;
use retcd_api::raftpb::{ConfState, Entry, HardState};
use retcd_api::{etcdserverpb, walpb};
use retcd_bbolt::{PageSize, Writer};
use retcd_state_machine::backend::Backend;
use retcd_state_machine::cluster::Member;
use retcd_state_machine::mvcc::{RecordKey, Revision};
use retcd_state_machine::schema::{Bucket, cluster, meta};
use retcd_storage::backend::{LmdbBackend, Options};
use retcd_storage::data_dir::{DataDir, Layout, is_bbolt};
use retcd_storage::fs::RealFs;
use retcd_storage::snapshot::Snapshots;
use retcd_storage::wal::{self, EntryRef, Wal};
use tempfile::TempDir;

use crate::adopt::{Step, adopt_in_steps};
use crate::{BboltFile, Error, Version, adopt, export};

type Content = BTreeMap<Bucket, BTreeMap<Vec<u8>, Vec<u8>>>;

const ID: u64 = 0xab;
const INDEX: u64 = 7;

/// What a member of etcd 3.7 has after a few writes.
fn content() -> Content {
    let mut content: Content =
        Bucket::ALL.into_iter().map(|bucket| (bucket, BTreeMap::new())).collect();
    let mut put = |bucket, key: &[u8], value: Vec<u8>| {
        content.get_mut(&bucket).unwrap().insert(key.to_vec(), value);
    };
    for main in 2..500 {
        let kv = mvccpb::KeyValue {
            key: format!("key-{main}").into(),
            create_revision: main,
            mod_revision: main,
            version: 1,
            value: vec![b'v'; 40].into(),
            ..Default::default()
        };
        let key = RecordKey::new(Revision::new(main, 0), false);
        put(Bucket::Key, key.as_bytes(), kv.encode_to_vec());
    }
    let member = Member { id: ID, peer_urls: vec!["http://a:1".into()], ..Member::default() };
    put(Bucket::Members, b"ab", member.to_json());
    put(Bucket::Cluster, cluster::VERSION, b"3.7.0".to_vec());
    put(Bucket::AuthUsers, b"root", b"\x0a\x04root".to_vec());
    put(Bucket::Meta, meta::CONSISTENT_INDEX, INDEX.to_be_bytes().to_vec());
    put(Bucket::Meta, meta::TERM, 2_u64.to_be_bytes().to_vec());
    put(
        Bucket::Meta,
        meta::CONF_STATE,
        format!("{{\"voters\":[{ID}],\"auto_leave\":false}}").into_bytes(),
    );
    put(Bucket::Meta, meta::STORAGE_VERSION, b"3.7.0".to_vec());
    content
}

fn bbolt_file(content: &Content) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), PageSize::DEFAULT).unwrap();
    let mut buckets: Vec<_> = content.iter().collect();
    buckets.sort_by_key(|(bucket, _)| bucket.name());
    for (bucket, entries) in buckets {
        writer.bucket(bucket.name().as_bytes()).unwrap();
        for (key, value) in entries {
            writer.put(key, value).unwrap();
        }
    }
    writer.finish().unwrap().into_inner()
}

/// A data dir with that database.
fn dir_with(file: &[u8]) -> (TempDir, Layout) {
    let root = TempDir::new().unwrap();
    let layout = Layout::new(root.path().join("data"), None);
    std::fs::create_dir_all(layout.snap_dir()).unwrap();
    std::fs::write(layout.backend_path(), file).unwrap();
    (root, layout)
}

fn read(backend: &dyn Backend) -> Content {
    let mut content = Content::new();
    for bucket in Bucket::ALL {
        let entries = content.entry(bucket).or_default();
        backend
            .scan(bucket, &[], &mut |key, value| {
                entries.insert(key.to_vec(), value.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    content
}

fn read_ours(path: &Path) -> Content {
    read(&LmdbBackend::open(path, Options::default()).unwrap())
}

fn names(layout: &Layout) -> Vec<String> {
    let entries = std::fs::read_dir(layout.snap_dir()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_database_of_etcd_is_taken_over_and_kept() {
    let file = bbolt_file(&content());
    let (_root, layout) = dir_with(&file);
    let kept = adopt(&layout).unwrap().unwrap();
    assert_eq!(kept, layout.snap_dir().join("db.bbolt"));
    assert_eq!(std::fs::read(&kept).unwrap(), file);
    assert_eq!(names(&layout), ["db", "db.bbolt"]);
    assert_eq!(read_ours(&layout.backend_path()), content());
    assert_eq!(adopt(&layout).unwrap(), None, "once is enough");

    // The next time etcd's file comes back, the older one stays.
    std::fs::write(layout.snap_dir().join("back"), &file).unwrap();
    std::fs::rename(layout.snap_dir().join("back"), layout.backend_path()).unwrap();
    assert_eq!(adopt(&layout).unwrap(), Some(layout.snap_dir().join("db.bbolt.2")));
}

#[test]
fn a_start_goes_on_after_a_crash_at_any_step() {
    let file = bbolt_file(&content());
    for last in [Step::Started, Step::Converted, Step::Kept, Step::Replaced] {
        let (_root, layout) = dir_with(&file);
        let stopped = adopt_in_steps(&layout, &mut |step| {
            if step == last { Err(Error::Empty { path: "stopped".into() }) } else { Ok(()) }
        });
        assert!(matches!(stopped, Err(Error::Empty { .. })), "{last:?}");
        if last == Step::Started {
            // A process that ends here leaves a part of its work.
            std::fs::write(layout.snap_dir().join("db.tmp.convert"), b"half").unwrap();
        }
        let is_of_etcd = is_bbolt(&layout.backend_path()).unwrap();
        assert_eq!(is_of_etcd, last != Step::Replaced, "{last:?}: the old state or the new one");
        adopt(&layout).unwrap();
        assert_eq!(read_ours(&layout.backend_path()), content(), "{last:?}");
        assert_eq!(std::fs::read(layout.snap_dir().join("db.bbolt")).unwrap(), file);
        let left: Vec<_> =
            names(&layout).into_iter().filter(|name| !name.ends_with("-lock")).collect();
        assert_eq!(left, ["db", "db.bbolt"], "{last:?}");
    }
}

#[test]
fn what_cannot_be_taken_over_is_left_alone() {
    let without = |key: &[u8]| {
        let mut content = content();
        content.get_mut(&Bucket::Meta).unwrap().remove(key);
        content
    };
    let mut newer = content();
    newer.get_mut(&Bucket::Meta).unwrap().insert(meta::STORAGE_VERSION.to_vec(), b"3.8.0".to_vec());
    let mut damaged = content();
    damaged.get_mut(&Bucket::Key).unwrap().insert(b"short".to_vec(), Vec::new());
    let cases = [
        (without(meta::TERM), "was written by etcd before 3.5"),
        (newer, "has storage version 3.8.0"),
        (damaged, "is under no revision"),
    ];
    for (content, words) in cases {
        let file = bbolt_file(&content);
        let (_root, layout) = dir_with(&file);
        let error = adopt(&layout).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(std::fs::read(layout.backend_path()).unwrap(), file);
        assert_eq!(names(&layout), ["db"]);
    }
}

#[test]
fn rafts_membership_is_that_of_the_stored_members() {
    let learner = Member { is_learner: true, id: 0xcd, ..Member::default() };
    let cases = [
        (None, r#"{"voters":[171],"learners":[205],"auto_leave":false}"#),
        // Left by a restore.
        (Some(r#"{"voters":[1,2]}"#), r#"{"voters":[171],"learners":[205],"auto_leave":false}"#),
        // A promotion that is not in the stored member.
        (Some(r#"{"voters":[171,205]}"#), r#"{"voters":[171,205],"auto_leave":false}"#),
    ];
    for (stored, expected) in cases {
        let mut content = content();
        content.get_mut(&Bucket::Members).unwrap().insert(b"cd".to_vec(), learner.to_json());
        let meta = content.get_mut(&Bucket::Meta).unwrap();
        meta.remove(meta::CONF_STATE);
        meta.extend(stored.map(|json| (meta::CONF_STATE.to_vec(), json.into())));
        let (_root, layout) = dir_with(&bbolt_file(&content));
        adopt(&layout).unwrap();
        let found = &read_ours(&layout.backend_path())[&Bucket::Meta][meta::CONF_STATE];
        assert_eq!(String::from_utf8_lossy(found), expected, "{stored:?}");
    }
}

#[test]
fn a_bbolt_file_is_a_backend() {
    let content = content();
    let (_root, layout) = dir_with(&bbolt_file(&content));
    let file = BboltFile::open(&layout.backend_path()).unwrap();
    assert_eq!(read(&file), content);
    let records = &content[&Bucket::Key];
    for (key, value) in records {
        assert_eq!(file.get(Bucket::Key, key).unwrap().as_ref(), Some(value));
        let mut behind = key.clone();
        behind.push(0);
        assert_eq!(file.get(Bucket::Key, &behind).unwrap(), None);
        let mut next = None;
        file.scan(Bucket::Key, &behind, &mut |key, _| {
            next = Some(key.to_vec());
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(next.as_ref(), records.range(behind..).next().map(|(key, _)| key));
    }
    assert_eq!(file.get(Bucket::Meta, b"absent").unwrap(), None);
    assert_eq!(file.get(Bucket::Alarm, b"absent").unwrap(), None);
}

/// A data dir of ours at [`INDEX`], whose log goes on to index 10: committed to 9.
fn our_dir() -> (TempDir, Layout) {
    let (root, layout) = dir_with(&bbolt_file(&content()));
    adopt(&layout).unwrap();
    let metadata = etcdserverpb::Metadata { node_id: ID, cluster_id: 5 }.encode_to_vec();
    let options = wal::Options::default();
    let mut wal = Wal::create(Arc::new(RealFs), &layout.wal_dir(), &metadata, options).unwrap();
    let entry = |index, term, data: &[u8]| Entry {
        index,
        term,
        data: data.to_vec().into(),
        ..Entry::default()
    };
    let entries: Vec<Entry> = (1..=10).map(|index| entry(index, 2, b"")).collect();
    wal.append(None, entries.iter().map(EntryRef::from)).unwrap();
    // Another leader's entries in place of the last two.
    let entries = [entry(9, 3, b"x"), entry(10, 3, b"y")];
    let state = HardState { term: 3, vote: ID, commit: 9 };
    wal.append(Some(&state), entries.iter().map(EntryRef::from)).unwrap();
    wal.flush(true).unwrap();
    (root, layout)
}

#[test]
fn an_export_has_the_database_and_all_of_the_log_behind_it() {
    let (root, layout) = our_dir();
    let to = Layout::new(root.path().join("etcd"), None);
    let from = DataDir::open(layout).unwrap();
    export(&from, &to, Version::NEWEST).unwrap();
    assert_eq!(read(&BboltFile::open(&to.backend_path()).unwrap()), content());

    let snapshots = Snapshots::new(Arc::new(RealFs), &to.snap_dir());
    let snapshot = snapshots.newest().unwrap().unwrap();
    let metadata = snapshot.metadata.unwrap();
    assert_eq!((metadata.index, metadata.term), (INDEX, 2));
    assert!(String::from_utf8_lossy(&snapshot.data).contains("/0/members/ab"));
    let valid = wal::valid_snapshots(&RealFs, &to.wal_dir()).unwrap();
    let conf_state = Some(ConfState { voters: vec![ID], ..ConfState::default() });
    let at = walpb::Snapshot { index: INDEX, term: 2, conf_state };
    assert_eq!(valid.last(), Some(&at));
    let log = wal::read(&RealFs, &to.wal_dir(), &at).unwrap();
    let metadata = etcdserverpb::Metadata { node_id: ID, cluster_id: 5 }.encode_to_vec();
    assert_eq!(log.metadata, metadata);
    assert_eq!(log.hard_state, HardState { term: 3, vote: ID, commit: 9 });
    let entries: Vec<(u64, u64)> =
        log.entries.iter().map(|entry| (entry.index, entry.term)).collect();
    assert_eq!(entries, [(8, 2), (9, 3), (10, 3)]);

    // And back.
    adopt(&to).unwrap();
    assert_eq!(read_ours(&to.backend_path()), content());
}

#[test]
fn an_export_for_an_older_etcd_names_no_newer_version() {
    let (root, layout) = our_dir();
    let from = DataDir::open(layout).unwrap();
    let versions = |target: Version| {
        let to = Layout::new(root.path().join(target.to_string()), None);
        export(&from, &to, target).unwrap();
        let content = read(&BboltFile::open(&to.backend_path()).unwrap());
        let text = |bucket, key: &[u8]| {
            content[&bucket].get(key).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        (text(Bucket::Cluster, cluster::VERSION), text(Bucket::Meta, meta::STORAGE_VERSION))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(versions(Version::V3_5), (some("3.5.0"), None));
    assert_eq!(versions(Version::V3_6), (some("3.6.0"), some("3.6.0")));
}

#[test]
fn an_export_needs_a_database_of_ours() {
    let (root, layout) = dir_with(&bbolt_file(&content()));
    let to = Layout::new(root.path().join("etcd"), None);
    let from = DataDir::open(layout).unwrap();
    let error = export(&from, &to, Version::NEWEST).unwrap_err();
    assert!(matches!(error, Error::NothingToExport { .. }), "{error}");
}
