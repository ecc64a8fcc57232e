//! Every example runs.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{SOON, member};
use retcd_testkit::{Member, Process};

also_with_older_servers!();

/// `target/<profile>/examples`, where cargo puts them before it runs tests.
fn examples_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples")
}

/// What an example prints.
fn run(name: &str, member: &Member) -> String {
    let mut command = Command::new(examples_dir().join(name));
    let mut process = Process::spawn(command.env("ETCD_ENDPOINT", member.endpoint()));
    let status = process.wait(SOON);
    let errors = String::from_utf8(process.stderr()).unwrap();
    assert!(status.success(), "example {name} failed: {errors}");
    String::from_utf8(process.stdout()).unwrap()
}

#[test]
fn every_example_shows_what_it_says() {
    let member = member();
    let last_lines = [
        ("kv", "deleted 2\n"),
        ("txn", "first: written\nsecond: too late\n"),
        ("watch", "b\"two\" at revision "),
        ("session", "while the session lives: 1 key\nafter it: 0 keys\n"),
        (
            "mutex",
            "the other: mutex: Locked by another session\nthen the other has it, with token ",
        ),
        ("election", "it moved: b\"10.0.0.7:8080\"\nafter it resigned: Some(NoLeader)\n"),
        ("stm", "alice has 90, bob has 110\n"),
        (
            "service_discovery",
            "after one was killed: {\"other\"}\nafter the other has gone: nobody\n",
        ),
        ("rw_mutex", "two read at once\nthe writer waits\nthen it writes, with token "),
        ("double_barrier", "both are done\n"),
        ("queue", "first b\"compile\"\nthen b\"test\"\nat last b\"release\"\n"),
        ("priority_queue", "first b\"put out the fire\"\nthen b\"clean up\"\n"),
        ("namespace", "within: b\"color\"\nwithout: b\"example-namespace/color\"\n"),
        ("ordering", "not older: true\n"),
        ("leasing", "from memory: b\"red\"\nafter another has written: b\"blue\"\n"),
        ("mirror", "then: {b\"example-mirror/a\": b\"1\", b\"example-mirror/b\": b\"2\"}\n"),
        ("lock_service", "locked\nleader: b\"10.0.0.7:8080\"\n"),
    ];
    let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap();
    assert_eq!(sources.count(), last_lines.len(), "an example is not run here");
    for (name, text) in last_lines {
        let output = run(name, &member);
        assert!(output.contains(text), "example {name} printed {output}");
    }
}
