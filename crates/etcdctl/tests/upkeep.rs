//! Mirrors, checks and live views: commands that go on for a while.
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::path::Path;
use std::time::{Duration, Instant};

use retcd_testkit::{Member, Tool, server_binary};

/// Machines for tests are busy.
const SOON: Duration = Duration::from_secs(60);

fn start() -> (Member, Tool) {
    let member = Member::start(&server_binary(), &[]);
    let tool = Tool::new(Path::new(env!("CARGO_BIN_EXE_etcdctl")), &member.endpoint());
    (member, tool)
}

/// Waits until the keys are these.
#[track_caller]
fn until_keys_are(tool: &Tool, expected: &str) {
    let until = Instant::now() + SOON;
    loop {
        let keys = tool.expect(&["get", "", "--prefix"]);
        if keys == expected {
            return;
        }
        assert!(Instant::now() < until, "{keys}");
    }
}

#[test]
fn a_mirror_copies_keys_and_follows_changes() {
    let ((_source, from), (destination, to)) = (start(), start());
    for key in ["a/1", "a/2", "b/1"] {
        from.expect(&["put", key, "old"]);
    }
    let address = destination.endpoint();
    let mirror = from.spawn(&["make-mirror", "--prefix", "a/", "--dest-prefix", "m/", &address]);
    until_keys_are(&to, "m/1\nold\nm/2\nold\n");
    from.expect(&["put", "a/3", "new"]);
    from.expect(&["put", "b/2", "not mirrored"]);
    let txn = b"\nput a/1 both\ndel a/2\n\n\n";
    assert_eq!(from.run_with_input(&["txn"], txn).code, 0);
    until_keys_are(&to, "m/1\nboth\nm/3\nnew\n");
    drop(mirror);

    // From a revision on, without the keys of before, and with keys that lose their prefix.
    let revision = from.expect(&["get", "nokey", "-w", "json"]);
    let (_, rest) = revision.split_once("\"revision\":").unwrap();
    let revision: i64 = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    from.expect(&["put", "a/4", "later"]);
    to.expect(&["del", "", "--prefix"]);
    let next = (revision + 1).to_string();
    let _mirror = from.spawn(&[
        "make-mirror",
        "--prefix",
        "a/",
        "--no-dest-prefix",
        "--rev",
        &next,
        &address,
    ]);
    until_keys_are(&to, "4\nlater\n");
}

#[test]
fn a_mirror_needs_a_place_to_go() {
    let (_member, tool) = start();
    let cases: [(&[&str], i32, &str); 3] = [
        (&["make-mirror"], 128, "make-mirror takes one destination argument"),
        (
            &["make-mirror", "--dest-prefix", "a", "--no-dest-prefix", "127.0.0.1:1"],
            128,
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
        ),
        (
            &["make-mirror", "--max-txn-ops", "0", "127.0.0.1:1"],
            128,
            "--max-txn-ops must be at least 1",
        ),
    ];
    for (args, code, text) in cases {
        let outcome = tool.run(args);
        assert_eq!(String::from_utf8(outcome.stderr).unwrap(), format!("Error: {text}\n"));
        assert_eq!(outcome.code, code, "{args:?}");
    }
}

#[test]
fn a_performance_check_writes_reports_and_cleans_up() {
    let (_member, tool) = start();
    let args = ["check", "perf", "--duration", "1s", "--auto-compact"];
    let mut check = tool.spawn(&args);
    let status = check.wait(SOON);
    let text = String::from_utf8(check.stdout()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let revision = lines[0].strip_prefix("Compacting with revision ").expect(&text);
    assert_eq!(lines[1], format!("Compacted with revision {revision}"));
    // How fast this machine is, is not the question.
    assert!(lines[2].contains("Throughput") && lines[2].ends_with(" writes/s"), "{text}");
    assert!(lines[3].contains("Slowest request took"), "{text}");
    assert!(lines[4].contains("Stddev"), "{text}");
    assert_eq!(lines[5], if status.success() { "PASS" } else { "FAIL" });
    assert_eq!(lines.len(), 6, "{text}");
    assert_eq!(tool.expect(&["get", "/etcdctl-check-perf/", "--prefix", "--keys-only"]), "");
}

#[test]
fn checks_refuse_prefixes_that_are_in_use() {
    let (_member, tool) = start();
    tool.expect(&["put", "mine/key", "dear"]);
    let run = |args: &[&str]| {
        let outcome = tool.run(args);
        (outcome.code, String::from_utf8(outcome.stderr).unwrap())
    };
    let expected =
        "Error: prefix \"mine/\" has keys. Delete with 'etcdctl del --prefix mine/' first\n";
    assert_eq!(run(&["check", "perf", "--prefix", "mine/"]), (3, expected.to_owned()));
    let expected =
        "Error: prefix \"mine/\" has keys. Delete with etcdctl del --prefix mine/ first\n";
    assert_eq!(run(&["check", "datascale", "--prefix", "mine/"]), (3, expected.to_owned()));
    let expected = "Error: unknown load option huge\n";
    assert_eq!(run(&["check", "perf", "--load", "huge"]), (4, expected.to_owned()));
    assert_eq!(tool.expect(&["get", "mine/key"]), "mine/key\ndear\n");
}

#[test]
fn the_memory_of_data_is_measured() {
    let (_member, tool) = start();
    let mut check = tool.spawn(&["check", "datascale"]);
    let status = check.wait(Duration::from_secs(300));
    let text = String::from_utf8(check.stdout()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "Start data scale check for work load [10000 key-value pairs, 1024 bytes per key-value, \
         50 concurrent clients]."
    );
    let used = lines[1].strip_prefix("PASS: Approximate system memory used : ").expect(&text);
    // May be negative: a server can free more than it takes.
    used.strip_suffix(" MB.").and_then(|used| used.parse::<f64>().ok()).expect(&text);
    assert_eq!((lines.len(), status.code()), (2, Some(0)));
    assert_eq!(tool.expect(&["get", "/etcdctl-check-datascale/", "--prefix", "--keys-only"]), "");
}

#[test]
fn top_prints_frames_into_a_pipe() {
    let (_member, tool) = start();
    tool.expect(&["put", "/fruit/apple", "red"]);
    let frames = tool.expect(&["top", "--count", "2", "--interval", "100ms"]);
    assert!(!frames.contains('\x1b'), "{frames:?}");
    assert_eq!(frames.matches("etcdctl top - cluster ").count(), 2, "{frames}");
    assert!(frames.contains(", leader m1, "), "{frames}");
    let row = frames.lines().find(|line| line.starts_with("m1 ")).expect(&frames);
    assert_eq!(row.split_whitespace().nth(1), Some("leader"), "{frames}");

    let dead = ["--command-timeout", "300ms", "top", "--count", "1", "--endpoints", "127.0.0.1:1"];
    let frames = tool.expect(&dead);
    assert!(frames.contains("none of") || frames.contains("1 of 2 endpoints"), "{frames}");
    assert!(frames.contains("127.0.0.1:1  down") || frames.contains(" down "), "{frames}");
}

#[test]
fn a_snapshot_is_saved_whole() {
    let (member, tool) = start();
    tool.expect(&["put", "k", &"v".repeat(100_000)]);
    let dir = member.data_dir();
    let file = dir.parent().unwrap().join("backup.db");
    let saved = tool.expect(&["snapshot", "save", &file.display().to_string()]);
    let (first, rest) = saved.split_once('\n').unwrap();
    assert_eq!(first, format!("Snapshot saved at {}", file.display()));
    assert!(rest.is_empty() || rest.starts_with("Server version 3."), "{saved}");
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(bytes.len() % 512, 32, "a database and its checksum");
    assert!(bytes.windows(1_000).any(|window| window == [b'v'; 1_000]));
    assert!(!file.with_extension("db.part").exists());
}
