//! Locks and elections among processes.
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::path::Path;

use retcd_testkit::{Member, Process, SOON, Tool, server_binary};

fn start() -> (Member, Tool) {
    let member = Member::start(&server_binary(), &[]);
    let tool = Tool::new(Path::new(env!("CARGO_BIN_EXE_etcdctl")), &member.endpoint());
    (member, tool)
}

fn interrupt(process: &mut Process) -> Option<i32> {
    process.terminate();
    process.wait(SOON).code()
}

/// Waits until `count` keys stand in the line.
fn until_waiting(tool: &Tool, line: &str, count: usize) {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let keys = tool.expect(&["get", "--prefix", line, "--keys-only"]);
        if keys.lines().filter(|key| !key.is_empty()).count() == count {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{count} keys in {line}, not\n{keys}");
    }
}

#[test]
fn a_lock_has_one_holder_and_goes_to_the_next() {
    let (_member, tool) = start();
    let mut first = tool.spawn(&["lock", "door"]);
    first.expect("door/", SOON);
    let mut second = tool.spawn(&["lock", "door", "--ttl", "5"]);
    until_waiting(&tool, "door/", 2);
    assert!(second.stdout().is_empty(), "two holders at once");
    assert_eq!(interrupt(&mut first), Some(0));
    second.expect("door/", SOON);
    assert_eq!(interrupt(&mut second), Some(0));
    assert_eq!(tool.expect(&["get", "--prefix", "door/"]), "");
    assert_eq!(tool.expect(&["lease", "list"]), "found 0 leases\n");
}

#[test]
fn a_killed_holder_frees_the_lock_with_its_lease() {
    let (_member, tool) = start();
    let mut first = tool.spawn(&["lock", "door", "--ttl", "1"]);
    first.expect("door/", SOON);
    first.kill();
    let mut second = tool.spawn(&["lock", "door"]);
    second.expect("door/", SOON);
    assert_eq!(interrupt(&mut second), Some(0));
}

#[test]
fn a_waiter_gives_up_its_place_when_interrupted() {
    let (_member, tool) = start();
    let mut first = tool.spawn(&["lock", "door"]);
    first.expect("door/", SOON);
    let mut second = tool.spawn(&["lock", "door"]);
    until_waiting(&tool, "door/", 2);
    assert_eq!(interrupt(&mut second), Some(1));
    assert_eq!(second.stderr(), b"Error: context canceled\n");
    until_waiting(&tool, "door/", 1);
}

#[test]
fn a_lost_lease_ends_the_holder_and_the_waiter() {
    let (_member, tool) = start();
    let lease_of = |line: &str| line.trim().rsplit('/').next().unwrap().to_owned();
    let mut first = tool.spawn(&["lock", "door", "--ttl", "3"]);
    let first_lease = lease_of(&first.expect("door/", SOON));
    let mut second = tool.spawn(&["lock", "door", "--ttl", "3"]);
    until_waiting(&tool, "door/", 2);
    let keys = tool.expect(&["get", "--prefix", "door/", "--keys-only"]);
    let second_lease = keys.lines().filter(|key| !key.is_empty()).map(lease_of);
    let second_lease = second_lease.into_iter().find(|lease| *lease != first_lease).unwrap();
    tool.expect(&["lease", "revoke", &second_lease]);
    assert_eq!(second.wait(SOON).code(), Some(1));
    assert_eq!(second.stderr(), b"Error: mutex: session is expired\n");
    tool.expect(&["lease", "revoke", &first_lease]);
    assert_eq!(first.wait(SOON).code(), Some(1));
    assert_eq!(first.stderr(), b"Error: session expired\n");
}

#[test]
fn commands_run_under_the_lock_and_their_exit_code_counts() {
    let (_member, tool) = start();
    let run = |script: &str| tool.run(&["lock", "door", "--", "sh", "-c", script]);
    let outcome = run("echo $ETCD_LOCK_KEY at $ETCD_LOCK_REV; exit 7");
    assert_eq!(outcome.code, 7);
    assert_eq!(outcome.stderr, b"Error: exit status 7\n");
    let told = String::from_utf8(outcome.stdout).unwrap();
    assert!(told.starts_with("door/") && told.ends_with(" at 2\n"), "{told}");
    assert_eq!(run("true").code, 0);
    let killed = run("kill -9 $$");
    assert_eq!((killed.code, killed.stderr), (255, b"Error: signal: killed\n".to_vec()));
    let missing = tool.run(&["lock", "door", "no-such-program"]);
    let text = b"Error: exec: \"no-such-program\": executable file not found in $PATH\n".to_vec();
    assert_eq!((missing.code, missing.stderr), (1, text));
    assert_eq!(tool.expect(&["get", "--prefix", "door/"]), "");
}

#[test]
fn leaders_follow_each_other_and_are_seen() {
    let (_member, tool) = start();
    let mut listener = tool.spawn(&["elect", "--listen", "crown"]);
    let mut first = tool.spawn(&["elect", "crown", "anna"]);
    first.expect("anna", SOON);
    listener.expect("anna", SOON);
    let mut second = tool.spawn(&["elect", "crown", "bert"]);
    until_waiting(&tool, "crown/", 2);
    assert_eq!(interrupt(&mut first), Some(0));
    second.expect("bert", SOON);
    listener.expect("bert", SOON);
    assert_eq!(interrupt(&mut second), Some(0));
    assert_eq!(interrupt(&mut listener), Some(0));
}

#[test]
fn lines_that_make_no_sense_are_refused() {
    let (_member, tool) = start();
    let cases: [(&[&str], &str); 4] = [
        (&["lock"], "lock takes a lock name argument and an optional command to execute"),
        (&["elect", "crown"], "no proposal argument but -l not set"),
        (&["elect", "crown", "anna", "-l"], "proposal given but -l is set"),
        (&["elect"], "elect takes one election name argument and an optional proposal argument"),
    ];
    for (args, text) in cases {
        let outcome = tool.run(args);
        assert_eq!(outcome.code, 128, "{args:?}");
        assert_eq!(String::from_utf8(outcome.stderr).unwrap(), format!("Error: {text}\n"));
    }
}
