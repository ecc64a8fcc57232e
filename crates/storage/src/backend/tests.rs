//! The database file: what was committed is there, in order, after any end of the process.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use retcd_state_machine::backend::{Backend, Batch, Change};
use retcd_state_machine::mvcc::{RecordKey, Revision};
use retcd_state_machine::schema::Bucket;

use super::*;

#[test]
fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = open(&path);
    let changes = Bucket::ALL
        .into_iter()
        .filter(|bucket| *bucket != Bucket::Key)
        .map(|bucket| change(bucket, bucket.name().as_bytes(), Some(b"value")))
        .collect();
    backend.commit(&Batch { records: records(2..10), changes, ..Batch::default() }).unwrap();
    drop(backend);

    let backend = open(&path);
    for bucket in Bucket::ALL.into_iter().filter(|bucket| *bucket != Bucket::Key) {
        let name = bucket.name().as_bytes();
        assert_eq!(backend.get(bucket, name).unwrap().as_deref(), Some(&b"value"[..]));
        assert_eq!(all(&backend, bucket, b""), [(name.to_vec(), b"value".to_vec())]);
    }
    assert_eq!(all(&backend, Bucket::Key, b"").len(), 8);
    assert_eq!(backend.get(Bucket::Key, key(5).as_bytes()).unwrap().unwrap(), b"value of 5");
    assert_eq!(backend.get(Bucket::Meta, b"absent").unwrap(), None);
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn records_are_looked_up_scanned_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(&dir.path().join("db"));
    backend.commit(&Batch { records: records(2..1000), ..Batch::default() }).unwrap();
    backend.commit(&Batch { records: records(1000..1002), ..Batch::default() }).unwrap();
    let dropped = (2..500).map(key).chain([key(5000)]).collect();
    backend.commit(&Batch { dropped, ..Batch::default() }).unwrap();

    let mut found = Vec::new();
    let wanted = [key(500), key(3), key(1001)];
    let mut visit =
        |position, value: Option<&[u8]>| found.push((position, value.map(<[u8]>::to_vec)));
    backend.get_records(&wanted, &mut visit).unwrap();
    let expected =
        [(0, Some(b"value of 500".to_vec())), (1, None), (2, Some(b"value of 1001".to_vec()))];
    assert_eq!(found, expected);

    let scanned = all(&backend, Bucket::Key, key(999).as_bytes());
    assert_eq!(scanned.len(), 3);
    assert_eq!(scanned[0].0, key(999).as_bytes());

    let mut visited = 0;
    let mut visit = |_: &[u8], _: &[u8]| {
        visited += 1;
        if visited == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    backend.scan(Bucket::Key, b"", &mut visit).unwrap();
    assert_eq!(visited, 2);
}

#[test]
fn records_that_do_not_come_last_are_put_where_they_belong() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(&dir.path().join("db"));
    for range in [10..12, 2..5, 11..14, 3..4] {
        backend.commit(&Batch { records: records(range), ..Batch::default() }).unwrap();
    }
    let expected: Vec<_> =
        [2, 3, 4, 10, 11, 12, 13].map(|main| key(main).as_bytes().to_vec()).to_vec();
    let keys: Vec<_> = all(&backend, Bucket::Key, b"").into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Keys of any length behave as in an ordered map.
    #[test]
    fn a_bucket_is_an_ordered_map(
        steps in prop::collection::vec((key_of_any_length(), prop::option::of(0_u8..9)), 1..40),
        from in key_of_any_length(),
        limit in 1_usize..40,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let backend = open(&dir.path().join("db"));
        let mut model = BTreeMap::new();
        for chunk in steps.chunks(7) {
            let changes = chunk.iter().map(|(key, value)| {
                let value = value.map(|value| vec![value; usize::from(value)]);
                match &value {
                    Some(value) => model.insert(key.clone(), value.clone()),
                    None => model.remove(key),
                };
                Change { bucket: Bucket::AuthUsers, key: key.clone(), value }
            }).collect();
            backend.commit(&Batch { changes, ..Batch::default() }).unwrap();
        }
        for (key, _) in &steps {
            prop_assert_eq!(backend.get(Bucket::AuthUsers, key).unwrap(), model.get(key).cloned());
        }
        let mut found = Vec::new();
        backend.scan(Bucket::AuthUsers, &from, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }).unwrap();
        let expected: Vec<_> = model.range(from..).take(limit)
            .map(|(key, value)| (key.clone(), value.clone())).collect();
        prop_assert_eq!(found, expected);
    }
}

/// Many with the same first 478 bytes, and around that length.
fn key_of_any_length() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0_usize..3, 476_usize..482, 600_usize..603];
    (len, 0_u8..3).prop_map(|(len, last)| {
        let mut key = vec![b'x'; len];
        if let Some(byte) = key.last_mut() {
            *byte = last;
        }
        key
    })
}

#[test]
fn defragment_gives_free_pages_back_and_keeps_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = open(&path);
    backend.commit(&Batch { records: large_records(2..2000), ..Batch::default() }).unwrap();
    let full = backend.size().unwrap();
    assert!(full.in_use_bytes <= full.total_bytes);
    assert!(full.in_use_bytes * 10 > full.total_bytes * 9, "{full:?}");
    backend.commit(&Batch { dropped: (2..1900).map(key).collect(), ..Batch::default() }).unwrap();
    let sparse = backend.size().unwrap();
    assert!(sparse.in_use_bytes * 5 < sparse.total_bytes, "{sparse:?}");
    assert!(sparse.total_bytes >= full.total_bytes);
    let kept = all(&backend, Bucket::Key, b"");

    let done = backend.defragment().unwrap();
    assert_eq!(done.before_bytes, sparse.total_bytes);
    assert!(done.after_bytes * 5 < done.before_bytes, "{done:?}");
    assert_eq!(backend.size().unwrap().total_bytes, done.after_bytes);
    assert_eq!(path.metadata().unwrap().len(), done.after_bytes);
    assert_eq!(all(&backend, Bucket::Key, b""), kept);
    backend.commit(&Batch { records: records(3000..3001), ..Batch::default() }).unwrap();
    drop(backend);
    assert_eq!(all(&open(&path), Bucket::Key, b"").len(), kept.len() + 1);
}

#[test]
fn reads_and_commits_go_on_while_others_defragment() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(open(&dir.path().join("db")));
    backend.commit(&Batch { records: large_records(2..300), ..Batch::default() }).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..10 {
                backend.defragment().unwrap();
            }
        });
        scope.spawn(|| {
            for main in 300..330 {
                let records = records(main..main + 1);
                backend.commit(&Batch { records, ..Batch::default() }).unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut before = 0;
                for _ in 0..200 {
                    let mut count = 0;
                    let mut visit = |key: &[u8], _: &[u8]| {
                        if count % 100 == 0 {
                            assert!(backend.get(Bucket::Key, key).unwrap().is_some());
                        }
                        count += 1;
                        ControlFlow::Continue(())
                    };
                    backend.scan(Bucket::Key, b"", &mut visit).unwrap();
                    assert!(count >= before.max(298), "{count} after {before}");
                    before = count;
                }
            });
        }
    });
    assert_eq!(all(&backend, Bucket::Key, b"").len(), 328);
}

#[test]
fn a_process_that_ends_at_any_moment_leaves_the_last_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = open(&path);
    for round in 1..20 {
        let meta = change(Bucket::Meta, b"consistent_index", Some(&round_bytes(round)));
        let records = large_records(round * 10..round * 10 + 10);
        backend.commit(&Batch { records, changes: vec![meta], ..Batch::default() }).unwrap();
        let copied = dir.path().join(format!("copy-{round}"));
        std::fs::copy(&path, &copied).unwrap();
        let copy = open(&copied);
        let index = copy.get(Bucket::Meta, b"consistent_index").unwrap().unwrap();
        assert_eq!(index, round_bytes(round));
        assert_eq!(all(&copy, Bucket::Key, b"").len(), usize::try_from(round * 10).unwrap());
    }
}

#[test]
fn a_copy_left_by_a_crash_is_removed_and_the_file_is_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = open(&path);
    backend.commit(&Batch { records: records(2..10), ..Batch::default() }).unwrap();
    drop(backend);
    for left in ["db.tmp.defragment.3", "db.tmp.defragment.3-lock", "db.tmp.create.0"] {
        std::fs::write(dir.path().join(left), b"half a copy").unwrap();
    }
    let backend = open(&path);
    assert_eq!(names(dir.path()), ["db", "db-lock"]);
    assert_eq!(all(&backend, Bucket::Key, b"").len(), 8);
}

#[test]
fn a_copy_is_a_database_of_its_own_and_can_take_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = open(&path);
    backend.commit(&Batch { records: records(2..10), ..Batch::default() }).unwrap();
    let copy = dir.path().join("copy");
    let bytes = backend.copy_to(&copy).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), bytes);
    backend.commit(&Batch { records: records(10..20), ..Batch::default() }).unwrap();
    assert_eq!(all(&open(&copy), Bucket::Key, b"").len(), 8);

    let taken = LmdbBackend::open_as(&copy, &path, options()).unwrap();
    assert_eq!(all(&taken, Bucket::Key, b"").len(), 8);
    taken.commit(&Batch { records: records(10..11), ..Batch::default() }).unwrap();
    assert_eq!(all(&backend, Bucket::Key, b"").len(), 18, "the old one is still read");
    drop((taken, backend));
    assert_eq!(names(dir.path()), ["db", "db-lock"]);
    assert_eq!(all(&open(&path), Bucket::Key, b"").len(), 9);
}

#[test]
fn a_file_that_is_no_database_does_not_take_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = open(&path);
    backend.commit(&Batch { records: records(2..10), ..Batch::default() }).unwrap();
    drop(backend);
    let other = dir.path().join("other");
    std::fs::write(&other, vec![7; 20_000]).unwrap();
    assert!(LmdbBackend::open_as(&other, &path, options()).is_err());
    assert!(LmdbBackend::open_as(&dir.path().join("absent"), &path, options()).is_err());
    assert!(other.exists() && !dir.path().join("absent").exists());
    assert_eq!(all(&open(&path), Bucket::Key, b"").len(), 8, "the own file stays in use");
}

#[test]
fn a_pinned_state_stays_whatever_becomes_of_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = open(&path);
    backend.commit(&Batch { records: large_records(2..100), ..Batch::default() }).unwrap();
    let before = all(&backend, Bucket::Key, b"");
    let pinned = backend.pin().unwrap();
    let is_unchanged = || {
        pinned.trim_resident().unwrap();
        let mut found = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        pinned.scan(Bucket::Key, b"", &mut visit).unwrap();
        found == before && pinned.get(Bucket::Meta, b"term").unwrap().is_none()
    };
    for main in 100..130 {
        let dropped = (main - 98..main - 95).map(key).collect();
        let changes = vec![change(Bucket::Meta, b"term", Some(b"t"))];
        let records = large_records(main..main + 1);
        backend.commit(&Batch { records, dropped, changes }).unwrap();
    }
    assert!(is_unchanged());
    backend.defragment().unwrap();
    let defragmented = backend.pin().unwrap();
    backend.defragment().unwrap();
    backend.commit(&Batch { dropped: (2..200).map(key).collect(), ..Batch::default() }).unwrap();
    assert!(is_unchanged());
    drop(backend);
    assert!(is_unchanged());
    assert_eq!(defragmented.get(Bucket::Meta, b"term").unwrap().as_deref(), Some(&b"t"[..]));
    drop((pinned, defragmented));
    assert_eq!(all(&open(&path), Bucket::Key, b""), []);
    assert_eq!(names(dir.path()), ["db", "db-lock"]);
}

#[test]
fn a_loaded_file_holds_what_was_put_and_is_there_only_when_finished() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("loaded");
    std::fs::write(&path, b"half a file of a crash").unwrap();
    let long = vec![b'x'; 700];
    let fill = |loader: &mut Loader| {
        // More than one batch.
        for main in 2..9000 {
            loader.put(Bucket::Key, key(main).as_bytes(), &[7; 1000]).unwrap();
        }
        loader.put(Bucket::AuthUsers, &long, b"user").unwrap();
        loader.put(Bucket::Meta, b"term", b"t").unwrap();
    };
    let mut dropped = Loader::create(&path, options()).unwrap();
    fill(&mut dropped);
    drop(dropped);
    assert_eq!(names(dir.path()), [""; 0]);

    let mut loader = Loader::create(&path, options()).unwrap();
    fill(&mut loader);
    assert!(matches!(loader.put(Bucket::Key, b"short", b""), Err(Error::RecordKey { len: 5 })));
    loader.finish().unwrap();
    assert_eq!(names(dir.path()), ["loaded"]);
    let backend = open(&path);
    assert_eq!(all(&backend, Bucket::Key, b"").len(), 8998);
    assert_eq!(all(&backend, Bucket::AuthUsers, b""), [(long.clone(), b"user".to_vec())]);
    assert_eq!(all(&backend, Bucket::Meta, b""), [(b"term".to_vec(), b"t".to_vec())]);
    let size = backend.size().unwrap();
    // Three records fit into a page.
    assert!(size.total_bytes < 9000 * 4096 / 3 * 11 / 10, "appended pages are full: {size:?}");
}

#[test]
fn files_of_others_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bolt = dir.path().join("bolt");
    let mut bytes = vec![0; 16384];
    bytes[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    std::fs::write(&bolt, &bytes).unwrap();
    assert!(matches!(LmdbBackend::open(&bolt, options()), Err(Error::IsBbolt { .. })));
    assert_eq!(std::fs::read(&bolt).unwrap(), bytes);

    let noise = dir.path().join("noise");
    std::fs::write(&noise, [7; 16384]).unwrap();
    assert!(matches!(LmdbBackend::open(&noise, options()), Err(Error::Database { .. })));
    assert_eq!(std::fs::read(&noise).unwrap(), [7; 16384]);
}

#[test]
fn a_file_of_another_format_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let newer = dir.path().join("newer");
    write_lmdb(&newer, "retcd", b"format", b"2");
    let text = LmdbBackend::open(&newer, options()).unwrap_err().to_string();
    assert!(text.contains("has format 2, this program knows format 1 only"), "{text}");
    let foreign = dir.path().join("foreign");
    write_lmdb(&foreign, "things", b"a", b"b");
    assert!(matches!(LmdbBackend::open(&foreign, options()), Err(Error::Foreign { .. })));
}

#[test]
fn a_database_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = open(&path);
    assert!(LmdbBackend::open(&path, options()).is_err());
    drop(backend);
    open(&path);
}

#[test]
fn a_full_map_closes_the_backend_for_writing() {
    let dir = tempfile::tempdir().unwrap();
    let backend =
        LmdbBackend::open(&dir.path().join("db"), Options { map_bytes: 1 << 20 }).unwrap();
    backend.commit(&Batch { records: records(2..10), ..Batch::default() }).unwrap();
    assert!(
        backend.commit(&Batch { records: large_records(10..3000), ..Batch::default() }).is_err()
    );
    assert!(backend.commit(&Batch::default()).is_err(), "closed");
    assert_eq!(all(&backend, Bucket::Key, b"").len(), 8, "nothing of the failed batch");
}

#[test]
fn pages_of_a_scan_do_not_stay_resident() {
    if !Path::new("/proc/self/smaps").exists() {
        println!("skipped: the system does not tell what is resident");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = open(&path);
    backend.commit(&Batch { records: large_records(2..8000), ..Batch::default() }).unwrap();
    let before = all(&backend, Bucket::Key, b"").len();
    let touched = resident_bytes(&path);
    backend.trim_resident().unwrap();
    let trimmed = resident_bytes(&path);
    assert!(touched > 6 << 20, "{touched}");
    assert!(trimmed < 1 << 20, "{trimmed} of {touched}");
    assert_eq!(all(&backend, Bucket::Key, b"").len(), before);
}

/// Resident bytes of the maps of a file.
fn resident_bytes(path: &Path) -> u64 {
    let path = path.canonicalize().unwrap().display().to_string();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_ours = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        if let Some(rest) = line.strip_prefix("Rss:").filter(|_| is_ours) {
            let kilobytes: u64 = rest.trim().trim_end_matches(" kB").parse().unwrap();
            bytes += kilobytes * 1024;
        }
        let is_header = line.split(' ').next().is_some_and(|word| word.contains('-'));
        if is_header {
            is_ours = line.ends_with(&path);
        }
    }
    bytes
}

#[allow(unsafe_code, reason = "makes a file as another program would")]
fn write_lmdb(path: &Path, database: &str, key: &[u8], value: &[u8]) {
    use heed::types::Bytes;
    let mut options = heed::EnvOpenOptions::new();
    options.map_size(1 << 20).max_dbs(2);
    // SAFETY: the path is the file itself, and nobody else uses it.
    let env = unsafe { options.flags(heed::EnvFlags::NO_SUB_DIR).open(path) }.unwrap();
    let txn = env.write_txn().unwrap();
    env.create_databases_and_commit(txn, |opener, txn| {
        opener.create_database::<Bytes, Bytes>(txn, Some(database))?.put(txn, key, value)?;
        heed::Result::Ok(heed::CommitOrAbort::<_, ()>::Commit(()))
    })
    .unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn options() -> Options {
    Options { map_bytes: 1 << 30 }
}

fn open(path: &Path) -> LmdbBackend {
    LmdbBackend::open(path, options()).unwrap()
}

fn key(main: i64) -> RecordKey {
    RecordKey::new(Revision::new(main, 0), false)
}

fn records(mains: std::ops::Range<i64>) -> Vec<(RecordKey, Arc<[u8]>)> {
    mains.map(|main| (key(main), format!("value of {main}").into_bytes().into())).collect()
}

fn large_records(mains: std::ops::Range<i64>) -> Vec<(RecordKey, Arc<[u8]>)> {
    mains.map(|main| (key(main), vec![7; 1000].into())).collect()
}

fn change(bucket: Bucket, key: &[u8], value: Option<&[u8]>) -> Change {
    Change { bucket, key: key.to_vec(), value: value.map(<[u8]>::to_vec) }
}

fn round_bytes(round: i64) -> [u8; 8] {
    round.to_be_bytes()
}

fn all(backend: &LmdbBackend, bucket: Bucket, from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    backend.scan(bucket, from, &mut visit).unwrap();
    found
}
