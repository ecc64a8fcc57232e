//! What etcdutl does with files: etcd's and ours.
//!
//! `ETCD_REAL` names a release of etcd 3.7 whose etcdutl is asked the same; without one that comparison is skipped.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use retcd_api::mvccpb;
use retcd_bbolt::trailer::HashingWriter;
use retcd_bbolt::{PageSize, Writer};
use retcd_state_machine::mvcc::{RecordKey, Revision};
use retcd_state_machine::schema::{Bucket, meta};
use retcd_storage::data_dir::{DataDir, Layout};
use retcd_testkit::real_etcd;
use tempfile::TempDir;

struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(program: &Path, args: &[&str]) -> Said {
    let output = Command::new(program).args(args).output().expect("etcdutl can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("etcdutl writes text");
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn etcdutl(args: &[&str]) -> Said {
    run(Path::new(env!("CARGO_BIN_EXE_etcdutl")), args)
}

/// Runs etcdutl, which must succeed, and returns its stdout.
#[track_caller]
fn expect(args: &[&str]) -> String {
    let said = etcdutl(args);
    assert_eq!(said.code, 0, "{args:?}: {}", said.stderr);
    said.stdout
}

/// Runs etcdutl, which must fail with 1, and returns what it says.
#[track_caller]
fn refuse(args: &[&str]) -> String {
    let said = etcdutl(args);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{args:?}: {}", said.stderr);
    let error = said.stderr.split("Error: ").nth(1).expect("an error is named");
    error.trim_end().to_owned()
}

/// A snapshot as etcd saves it: five puts, of which one is overwritten and one deleted; compacted at 3.
fn snapshot() -> (TempDir, String) {
    let mut writer = Writer::new(std::io::Cursor::new(Vec::new()), PageSize::DEFAULT).unwrap();
    for bucket in Bucket::ALL {
        writer.bucket(bucket.name().as_bytes()).unwrap();
        match bucket {
            Bucket::Key => {
                for (main, key, is_tombstone) in [
                    (2, "a", false),
                    (3, "b", false),
                    (4, "c", false),
                    (5, "a", false),
                    (6, "d", false),
                    (7, "b", true),
                ] {
                    let kv = if is_tombstone {
                        mvccpb::KeyValue { key: key.into(), ..Default::default() }
                    } else {
                        mvccpb::KeyValue {
                            key: key.into(),
                            value: "value".into(),
                            create_revision: if main == 5 { 2 } else { main },
                            mod_revision: main,
                            version: if main == 5 { 2 } else { 1 },
                            ..Default::default()
                        }
                    };
                    let record = RecordKey::new(Revision::new(main, 0), is_tombstone);
                    writer.put(record.as_bytes(), &kv.encode_to_vec()).unwrap();
                }
            }
            Bucket::Members => {
                let member = br#"{"id":1,"peerURLs":["http://old:1"],"name":"old"}"#;
                writer.put(b"1", member).unwrap();
            }
            Bucket::Meta => {
                let compacted = RecordKey::new(Revision::new(3, 0), false);
                writer.put(meta::CONF_STATE, br#"{"voters":[1]}"#).unwrap();
                writer.put(meta::CONSISTENT_INDEX, &9_u64.to_be_bytes()).unwrap();
                writer.put(meta::FINISHED_COMPACT_REVISION, compacted.as_bytes()).unwrap();
                writer.put(meta::SCHEDULED_COMPACT_REVISION, compacted.as_bytes()).unwrap();
                writer.put(meta::STORAGE_VERSION, b"3.7.0").unwrap();
                writer.put(meta::TERM, &2_u64.to_be_bytes()).unwrap();
            }
            _ => {}
        }
    }
    let root = TempDir::new().unwrap();
    let path = root.path().join("snapshot.db");
    let mut file = HashingWriter::new(std::fs::File::create(&path).unwrap());
    file.write_all(&writer.finish().unwrap().into_inner()).unwrap();
    file.finish().unwrap();
    (root, path.display().to_string())
}

const FORMATS: [&str; 5] = ["simple", "fields", "json", "table", "protobuf"];

#[test]
fn results_have_all_formats() {
    let (_root, file) = snapshot();
    let status = |format| expect(&["snapshot", "status", &file, "-w", format]);
    assert_eq!(status("simple"), "1b5ebaf, 7, 3, 16 kB, 3.7.0\n");
    assert_eq!(
        status("fields"),
        "\
\"Hash\" : 28699567
\"Revision\" : 7
\"Keys\" : 3
\"Size\" : 16384
\"Version\" : 3.7.0
"
    );
    assert_eq!(
        status("json"),
        "{\"hash\":28699567,\"revision\":7,\"totalKey\":3,\"totalSize\":16384,\"version\":\"3.7.0\"}\n"
    );
    assert_eq!(
        status("table"),
        "\
┌─────────┬──────────┬────────────┬────────────┬─────────┐
│  HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├─────────┼──────────┼────────────┼────────────┼─────────┤
│ 1b5ebaf │        7 │          3 │      16 kB │   3.7.0 │
└─────────┴──────────┴────────────┴────────────┴─────────┘
"
    );
    let hash = |format| expect(&["hashkv", &file, "-w", format]);
    assert_eq!(hash("simple"), "3213691199, 7, 3\n");
    assert_eq!(
        hash("fields"),
        "\
\"Hash\" : 3213691199
\"Hash revision\" : 7
\"Compact revision\" : 3
"
    );
    assert_eq!(hash("json"), "{\"hash\":3213691199,\"hashRevision\":7,\"compactRevision\":3}\n");
    assert_eq!(
        hash("table"),
        "\
┌────────────┬───────────────┬──────────────────┐
│    HASH    │ HASH REVISION │ COMPACT REVISION │
├────────────┼───────────────┼──────────────────┤
│ 3213691199 │             7 │                3 │
└────────────┴───────────────┴──────────────────┘
"
    );
    for command in [&["snapshot", "status"][..], &["hashkv"]] {
        let said = etcdutl(&[command, &[&file, "-w", "protobuf"]].concat());
        let expected = "Error: protobuf not supported as output format\n";
        assert_eq!((said.code, said.stderr.as_str()), (4, expected));
    }
}

#[test]
fn results_are_those_of_etcd() {
    let Some(theirs) = real_etcd().map(|dir| dir.join("etcdutl")).filter(|path| path.exists())
    else {
        println!("skipped: ETCD_REAL names no release of etcd with an etcdutl");
        return;
    };
    let version = run(&theirs, &["version"]).stdout;
    if !version.starts_with("etcdutl version: 3.7.") {
        println!("skipped: the etcdutl of ETCD_REAL is not of 3.7: {version}");
        return;
    }
    let (root, file) = snapshot();
    // etcd's own tool changes what it hashes.
    let copy = root.path().join("copy.db").display().to_string();
    let commands: [&[&str]; 5] = [
        &["snapshot", "status"],
        &["hashkv"],
        &["hashkv", "--rev", "5"],
        &["hashkv", "--rev", "2"],
        &["hashkv", "--rev", "99"],
    ];
    for command in commands {
        for format in FORMATS {
            std::fs::copy(&file, &copy).unwrap();
            let ours = etcdutl(&[command, &[&file, "-w", format]].concat());
            let theirs = run(&theirs, &[command, &[&copy, "-w", format]].concat());
            assert_eq!(
                (ours.code, ours.stdout, ours.stderr),
                (theirs.code, theirs.stdout, theirs.stderr),
                "{command:?} {format}"
            );
        }
    }
    // A restored database has the same keys as well, also behind a bump.
    std::fs::copy(&file, &copy).unwrap();
    let restored = root.path().join("theirs").display().to_string();
    let flags = ["--bump-revision", "1000", "--mark-compacted", "--data-dir", &restored];
    assert_eq!(run(&theirs, &[&["snapshot", "restore", &copy][..], &flags].concat()).code, 0);
    let (_, db) = restored_here(&root, &file, &flags[..3]);
    let of_etcd = format!("{restored}/member/snap/db");
    let hash = expect(&["hashkv", &of_etcd]);
    assert_eq!(run(&theirs, &["hashkv", &of_etcd]).stdout, hash);
    assert_eq!(expect(&["hashkv", &db]), hash);
}

#[test]
fn reading_changes_nothing() {
    let (_root, file) = snapshot();
    let before = std::fs::read(&file).unwrap();
    expect(&["hashkv", &file]);
    expect(&["snapshot", "status", &file]);
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn a_file_that_is_no_database_is_told() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("file").display().to_string();
    for content in [&[][..], &[7; 9000]] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(refuse(&["hashkv", &path]), "invalid database");
        assert_eq!(refuse(&["snapshot", "status", &path]), "invalid database");
    }
    let (_root, file) = snapshot();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[2 * 4096..].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    let error = refuse(&["snapshot", "status", &file]);
    assert!(
        error.starts_with("snapshot file integrity check failed. 1 errors found.\n"),
        "{error}"
    );
}

fn restored_here(root: &TempDir, file: &str, flags: &[&str]) -> (PathBuf, String) {
    let dir = root.path().join("restored");
    let path = dir.display().to_string();
    let made = expect(&[&["snapshot", "restore", file, "--data-dir", &path], flags].concat());
    assert_eq!(made, "");
    let db = Layout::new(&dir, None).backend_path();
    (dir, db.display().to_string())
}

#[test]
fn a_snapshot_is_restored_with_its_keys() {
    let (root, file) = snapshot();
    let (dir, db) = restored_here(&root, &file, &[]);
    assert_eq!(expect(&["hashkv", &db]), expect(&["hashkv", &file]));
    let status = expect(&["snapshot", "status", &db, "-w", "fields"]);
    for line in ["\"Revision\" : 7", "\"Keys\" : 3", "\"Version\" : 3.7.0"] {
        assert!(status.contains(line), "{status}");
    }
    let path = dir.display().to_string();
    let error = refuse(&["snapshot", "restore", &file, "--data-dir", &path]);
    assert_eq!(error, format!("data-dir {path:?} not empty or could not be read"));
    // A database that is no snapshot can be restored as well, when that is wanted.
    let again = root.path().join("again").display().to_string();
    let error = refuse(&["snapshot", "restore", &db, "--data-dir", &again]);
    assert_eq!(error, "snapshot missing hash but --skip-hash-check=false");
    expect(&["snapshot", "restore", &db, "--data-dir", &again, "--skip-hash-check"]);
}

#[test]
fn a_restore_may_move_the_revision_on() {
    let (root, file) = snapshot();
    let flags = ["--bump-revision", "1000", "--mark-compacted"];
    let (_, db) = restored_here(&root, &file, &flags);
    assert_eq!(expect(&["hashkv", &db]), "1912144373, 1007, 1007\n");
    assert_eq!(
        refuse(&["hashkv", &db, "--rev", "1006"]),
        "mvcc: required revision has been compacted"
    );
}

#[test]
fn a_restore_checks_what_it_is_told() {
    let (root, file) = snapshot();
    let dir = root.path().join("dir").display().to_string();
    let restore = |flags: &[&str]| {
        let error = refuse(&[&["snapshot", "restore", &file, "--data-dir", &dir], flags].concat());
        assert!(!Path::new(&dir).exists(), "nothing is made");
        error
    };
    assert_eq!(
        restore(&["--name", "other"]),
        "couldn't find local name \"other\" in the initial cluster configuration"
    );
    assert_eq!(
        restore(&["--initial-advertise-peer-urls", "http://a:1"]),
        "--initial-cluster has default=http://localhost:2380 but missing from \
         --initial-advertise-peer-urls=http://a:1"
    );
    let wal_dir = root.path().display().to_string();
    assert_eq!(restore(&["--wal-dir", &wal_dir]), format!("wal-dir {wal_dir:?} exists"));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let error = restore(&[]);
    assert!(error.starts_with("expected sha256 [") && error.contains("], got ["), "{error}");
}

#[test]
fn what_changes_a_data_dir_waits_for_its_lock() {
    let (root, file) = snapshot();
    let (dir, db) = restored_here(&root, &file, &[]);
    let path = dir.display().to_string();
    let lock = DataDir::open_existing(Layout::new(&dir, None)).unwrap();
    let words = format!("Failed to defragment etcd data[{path}] (timeout)");
    assert_eq!(refuse(&["defrag", "--data-dir", &path, "--timeout", "100ms"]), words);
    assert_eq!(refuse(&["hashkv", &db, "--timeout", "100ms"]), "timeout");
    drop(lock);
    let before = expect(&["hashkv", &db]);
    assert_eq!(expect(&["defrag", "--data-dir", &path]), "");
    assert_eq!(expect(&["hashkv", &db]), before);
}

#[test]
fn the_storage_version_changes_step_by_step() {
    let (root, file) = snapshot();
    let (dir, db) = restored_here(&root, &file, &[]);
    let path = dir.display().to_string();
    let migrate = |target| etcdutl(&["migrate", "--data-dir", &path, "--target-version", target]);
    let version = || {
        let status = expect(&["snapshot", "status", &db]);
        status.trim_end_matches('\n').rsplit(", ").next().unwrap().to_owned()
    };
    for (target, expected) in [("3.6", "3.6.0"), ("3.5", ""), ("3.5", ""), ("3.7", "3.7.0")] {
        let said = migrate(target);
        assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{}", said.stderr);
        assert_eq!(version(), expected);
    }
    let refused = migrate("3.8");
    let words = "Error: cannot create migration plan: version \"3.8.0\" is not supported\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (1, words));
    let words =
        "Error: cannot create migration plan: changing major storage version is not supported\n";
    assert_eq!(migrate("4.0").stderr, words);
}

#[test]
fn an_export_is_a_data_dir_for_etcd() {
    let (root, file) = snapshot();
    let (dir, db) = restored_here(&root, &file, &[]);
    let from = dir.display().to_string();
    let to = root.path().join("for-etcd").display().to_string();
    assert_eq!(expect(&["export", "--data-dir", &from, "--output-dir", &to]), "");
    let exported = format!("{to}/member/snap/db");
    assert_eq!(expect(&["hashkv", &exported]), expect(&["hashkv", &db]));
    assert!(Path::new(&to).join("member/wal/0000000000000000-0000000000000000.wal").exists());
    let error = refuse(&["export", "--data-dir", &from, "--output-dir", &to]);
    assert_eq!(error, format!("output-dir {to:?} not empty or could not be read"));
    let other = root.path().join("other").display().to_string();
    let error = refuse(&["export", "--data-dir", &to, "--output-dir", &other]);
    assert_eq!(error, format!("{exported} is etcd's own database already"));
    for command in ["defrag", "migrate"] {
        let flags: &[&str] = if command == "migrate" { &["--target-version", "3.6"] } else { &[] };
        let error = refuse(&[&[command, "--data-dir", &to], flags].concat());
        assert!(error.contains("is etcd's own bbolt file"), "{error}");
    }
}
