//! etcdctl with a person at a terminal.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod pty;

use std::path::Path;
use std::time::Instant;

use pty::{SOON, Terminal};
use retcd_testkit::{Member, Tool, server_binary};

const INTERRUPT: &str = "\x03";
const END: &str = "\x04";
const UP: &str = "\x1b[A";
const LEFT: &str = "\x1b[D";
const BACKSPACE: &str = "\x7f";
const ENTER: &str = "\r";

fn start() -> (Member, Tool) {
    let member = Member::start(&server_binary(), &[]);
    let tool = Tool::new(Path::new(env!("CARGO_BIN_EXE_etcdctl")), &member.endpoint());
    (member, tool)
}

fn at_terminal(tool: &Tool, args: &[&str]) -> Terminal {
    Terminal::start(&tool.command(args))
}

/// Types a line into the editor of `-i`, once it is there.
fn enter(terminal: &mut Terminal, line: &str) {
    terminal.until_echo_is(false);
    terminal.keys(line);
    terminal.keys(ENTER);
}

fn until_keys(tool: &Tool, prefix: &str, count: usize) {
    let until = Instant::now() + SOON;
    loop {
        let keys = tool.expect(&["get", "--prefix", prefix, "--keys-only"]);
        if keys.lines().filter(|key| !key.is_empty()).count() == count {
            return;
        }
        assert!(Instant::now() < until, "{count} keys below {prefix}, not\n{keys}");
    }
}

#[test]
fn a_transaction_is_typed_with_mistakes_and_from_memory() {
    let (_member, tool) = start();
    let mut terminal = at_terminal(&tool, &["txn", "-i"]);
    terminal.expect("compares:");
    enter(&mut terminal, &format!("mod(\"k\") = \"7{BACKSPACE}0\""));
    enter(&mut terminal, "");
    terminal.expect("success requests (get, put, del):");
    enter(&mut terminal, &format!("put k vaue{LEFT}{LEFT}l"));
    // The line before, with another key.
    enter(&mut terminal, &format!("{UP}\x01\x1bf\x1b[3~\x1b[3~ other"));
    enter(&mut terminal, "");
    terminal.expect("failure requests (get, put, del):");
    enter(&mut terminal, "");
    terminal.expect("SUCCESS");
    assert!(terminal.wait().success());
    assert_eq!(tool.expect(&["get", "k"]), "k\nvalue\n");
    assert_eq!(tool.expect(&["get", "other"]), "other\nvalue\n");
    assert!(terminal.echoes(), "the terminal is as it was");
}

#[test]
fn a_transaction_can_be_given_up() {
    let (_member, tool) = start();
    let mut terminal = at_terminal(&tool, &["txn", "-i"]);
    terminal.expect("compares:");
    terminal.until_echo_is(false);
    terminal.keys("half a li");
    terminal.keys(INTERRUPT);
    assert_eq!(terminal.wait().code(), Some(130));
    assert!(terminal.echoes(), "the terminal is as it was");

    let mut terminal = at_terminal(&tool, &["txn", "-i"]);
    terminal.expect("compares:");
    terminal.until_echo_is(false);
    terminal.keys(END);
    terminal.expect("Error: EOF");
    assert_eq!(terminal.wait().code(), Some(3));
}

#[test]
fn events_come_above_the_line_that_is_being_typed() {
    let (_member, tool) = start();
    let mut terminal = at_terminal(&tool, &["watch", "-i"]);
    enter(&mut terminal, "watch a --rev 1");
    tool.expect(&["put", "a", "first"]);
    terminal.expect("PUT\r\na\r\nfirst\r\n");
    // The line is taken off the screen, and comes back below the event.
    terminal.keys("watch b --re");
    terminal.expect("watch b --re");
    tool.expect(&["put", "a", "second"]);
    terminal.expect("PUT\r\na\r\nsecond\r\n");
    terminal.expect("watch b --re");
    terminal.keys("v 1 --diff");
    terminal.keys(ENTER);
    tool.expect(&["put", "b", "third"]);
    terminal.expect("PUT b at revision");
    terminal.expect("+ third");
    enter(&mut terminal, "nonsense");
    terminal.expect("Invalid command nonsense (only support watch)");
    terminal.keys(INTERRUPT);
    assert_eq!(terminal.wait().code(), Some(130));
    assert!(terminal.echoes(), "the terminal is as it was");
}

#[test]
fn a_watch_that_cannot_go_on_leaves_the_terminal_in_order() {
    let (_member, tool) = start();
    let mut terminal = at_terminal(&tool, &["watch", "-i"]);
    // A flag that does not exist ends the program while the next line is awaited already.
    enter(&mut terminal, "watch a --nope");
    terminal.expect("Error: unknown flag: --nope");
    assert_eq!(terminal.wait().code(), Some(128));
    assert!(terminal.echoes(), "the terminal is as it was");
}

#[test]
fn a_lock_is_held_until_ctrl_c() {
    let (_member, tool) = start();
    let mut terminal = at_terminal(&tool, &["lock", "door"]);
    terminal.expect("door/");
    until_keys(&tool, "door/", 1);
    terminal.keys(INTERRUPT);
    assert!(terminal.wait().success());
    until_keys(&tool, "door/", 0);
}

#[test]
fn a_command_under_the_lock_has_the_terminal() {
    let (_member, tool) = start();
    let script = "test -t 1 && echo held $ETCD_LOCK_KEY; exit 4";
    let mut terminal = at_terminal(&tool, &["lock", "door", "--", "sh", "-c", script]);
    terminal.expect("held door/");
    assert_eq!(terminal.wait().code(), Some(4));
    until_keys(&tool, "door/", 0);
}

#[test]
fn a_leader_resigns_at_ctrl_c() {
    let (_member, tool) = start();
    let mut terminal = at_terminal(&tool, &["elect", "crown", "anna"]);
    terminal.expect("anna");
    terminal.keys(INTERRUPT);
    assert!(terminal.wait().success());
    until_keys(&tool, "crown/", 0);
}

#[test]
fn passwords_are_asked_for_without_echo() {
    let (_member, tool) = start();
    let mut terminal = at_terminal(&tool, &["--user", "root", "put", "k", "v"]);
    terminal.expect("Password: ");
    terminal.until_echo_is(false);
    terminal.keys(&format!("sesame{BACKSPACE}e"));
    terminal.keys(ENTER);
    // Nobody is asked for passwords here, so any will do.
    terminal.expect("OK");
    assert!(terminal.wait().success());
    assert!(!terminal.screen().contains("sesam"), "{:?}", terminal.screen());
    assert!(terminal.echoes(), "the terminal is as it was");

    let mut terminal = at_terminal(&tool, &["--user", "root", "get", "k"]);
    terminal.expect("Password: ");
    terminal.until_echo_is(false);
    terminal.keys(INTERRUPT);
    terminal.expect("Error: interrupted");
    assert_eq!(terminal.wait().code(), Some(1));
    assert!(terminal.echoes(), "the terminal is as it was");
}

#[test]
fn new_passwords_are_asked_for_twice() {
    let (_member, tool) = start();
    let mut terminal = at_terminal(&tool, &["user", "add", "alice"]);
    terminal.expect("Password of alice: ");
    terminal.until_echo_is(false);
    terminal.keys(&format!("sesame{ENTER}"));
    terminal.expect("Type password of alice again for confirmation: ");
    terminal.until_echo_is(false);
    terminal.keys(&format!("open{ENTER}"));
    terminal.expect("Error: given passwords are different");
    assert_eq!(terminal.wait().code(), Some(128));
    assert!(!terminal.screen().contains("sesame"), "{:?}", terminal.screen());
}

#[test]
fn top_fills_the_screen_and_leaves_it() {
    let (_member, tool) = start();
    tool.expect(&["put", "/fruit/apple", "red"]);
    let mut terminal = at_terminal(&tool, &["top", "--interval", "100ms"]);
    terminal.expect("\x1b[?1049h");
    terminal.expect("etcdctl top - cluster");
    terminal.expect("leader m1");
    terminal.expect("/fruit/");
    // Changes are seen while they happen; a later frame has them.
    let until = Instant::now() + SOON;
    while !terminal.screen().contains("/vegetables/") {
        tool.expect(&["put", "/vegetables/leek", "green"]);
        assert!(Instant::now() < until, "{:?}", terminal.screen());
    }
    terminal.keys("q");
    terminal.expect("\x1b[?1049l");
    assert!(terminal.wait().success());
    assert!(terminal.echoes(), "the terminal is as it was");

    let mut terminal = at_terminal(&tool, &["top", "--no-keys"]);
    terminal.expect("etcdctl top - cluster");
    terminal.keys(INTERRUPT);
    terminal.expect("\x1b[?1049l");
    assert!(terminal.wait().success());
    assert!(!terminal.screen().contains("PREFIXES"));
}

#[test]
fn long_work_shows_a_bar() {
    let (_member, tool) = start();
    let mut terminal = at_terminal(&tool, &["check", "perf", "--duration", "1s"]);
    terminal.expect("check perf: ");
    terminal.expect("Throughput");
    terminal.wait();
    assert!(terminal.screen().contains('%'), "{:?}", terminal.screen());
}
