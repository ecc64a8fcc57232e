//! Flags whose effect is seen from outside of the process: in files, in what the kernel says of it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

use std::fs;
use std::process::Command;

use retcd_testkit::{Member, PATIENCE, Process, Tool, binary, server_binary};
use tempfile::TempDir;

/// The bit of the capability to lock any amount of memory.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// The number behind a label of a file in /proc, in the base that the file has it.
fn number(text: &str, label: &str, radix: u32) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap();
    u64::from_str_radix(line.split_whitespace().next().unwrap(), radix).unwrap()
}

fn may_lock_memory() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap();
    limit.trim_start().starts_with("unlimited")
        || number(&status, "CapEff:", 16) & CAP_IPC_LOCK != 0
}

#[test]
fn what_is_in_use_stays_in_memory_and_the_rest_of_the_map_is_not_taken() {
    if !may_lock_memory() {
        let dir = TempDir::new().unwrap();
        let mut refused = Command::new(server_binary());
        refused.arg("--memory-mlock").arg("--data-dir").arg(dir.path().join("data"));
        refused.args([
            "--listen-client-urls=http://127.0.0.1:0",
            "--advertise-client-urls=http://a:1",
        ]);
        refused.arg("--listen-peer-urls=http://127.0.0.1:0");
        let mut process = Process::spawn(&mut refused);
        process.expect("--memory-mlock: this process may lock", PATIENCE);
        assert_eq!(process.wait(PATIENCE).code(), Some(1));
        println!("skipped: no right to lock memory");
        return;
    }
    let mut member = Member::start(&server_binary(), &["--memory-mlock"]);
    let tool = Tool::new(&binary("etcdctl"), &member.endpoint());
    tool.expect(&["put", "key", &"value".repeat(10_000)]);
    // What reads the whole database gives its pages back afterwards, but for this.
    let dir = TempDir::new().unwrap();
    tool.expect(&["snapshot", "save", dir.path().join("saved.db").to_str().unwrap()]);
    tool.expect(&["defrag"]);
    tool.expect(&["put", "key", "value"]);
    assert_eq!(tool.expect(&["get", "key"]), "key\nvalue\n");

    let proc = format!("/proc/{}", member.process().id());
    let smaps = fs::read_to_string(format!("{proc}/smaps")).unwrap();
    let (mut locked, mut largest, mut resident) = (0, 0, 0);
    for line in smaps.lines() {
        let size = |label| if line.starts_with(label) { number(line, label, 10) } else { 0 };
        locked += size("Locked:");
        resident += size("Rss:");
        largest = largest.max(size("Size:"));
    }
    assert!(locked > resident / 2, "{locked} kB of {resident} kB are locked");
    assert!(largest > 1 << 20 && locked < 1 << 19, "{locked} kB locked, a map of {largest} kB");
}

#[test]
fn a_full_log_file_steps_aside() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("etcd.log");
    // Not a byte fits any more.
    fs::write(&path, vec![b'\n'; 1 << 20]).unwrap();
    let outputs = format!("stderr,{}", path.display());
    let flags = [
        "--enable-log-rotation",
        "--log-rotation-config-json={\"maxsize\": 1, \"compress\": true}",
        "--log-outputs",
        &outputs,
    ];
    let mut member = Member::start(&server_binary(), &flags);
    assert!(fs::read_to_string(&path).unwrap().contains("ready to serve client requests"));
    let names = || {
        let names = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let until = std::time::Instant::now() + PATIENCE;
    while !names()[0].ends_with(".log.gz") || names().len() != 2 {
        assert!(std::time::Instant::now() < until, "{:?}", names());
        std::thread::yield_now();
    }
    member.process().terminate();
    member.process().wait(PATIENCE);
    assert!(names()[0].starts_with("etcd-20") && names()[1] == "etcd.log", "{:?}", names());
}

#[test]
fn a_gateway_passes_connections_on() {
    let member = Member::start(&server_binary(), &[]);
    let port = retcd_testkit::Port::claim();
    let gateway = format!("127.0.0.1:{}", port.number());
    let dead = retcd_testkit::Port::claim();
    let endpoints = format!("--endpoints={},{}", dead.url(), member.endpoint());
    let mut command = Command::new(server_binary());
    command.args(["gateway", &endpoints, "start", "--listen-addr", &gateway]);
    let mut process = Process::spawn(&mut command);
    process.expect("ready to proxy client requests", PATIENCE);
    let tool = Tool::new(&binary("etcdctl"), &gateway);
    assert_eq!(tool.expect(&["put", "key", "value"]), "OK\n");
    process.expect("deactivated endpoint", PATIENCE);
    assert_eq!(tool.expect(&["get", "key"]), "key\nvalue\n");

    // The port is taken, and leads to itself.
    let fails = |flags: &[&str], words: &str| {
        let mut command = Command::new(server_binary());
        let mut process = Process::spawn(command.args(["gateway", "start"]).args(flags));
        process.expect(words, PATIENCE);
        assert_eq!(process.wait(PATIENCE).code(), Some(1));
    };
    fails(
        &["--listen-addr", &gateway],
        &format!("listen tcp {gateway}: bind: address already in use"),
    );
    fails(
        &["--listen-addr", &gateway, "--endpoints", &gateway],
        "should not resolve to the gateway listen addr",
    );
    fails(&["--nope"], "unknown flag: --nope");
}
