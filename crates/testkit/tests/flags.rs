//! Flags whose effect is seen from outside of the process.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use retcd_testkit::{Member, PATIENCE, server_binary};
use tempfile::TempDir;

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
