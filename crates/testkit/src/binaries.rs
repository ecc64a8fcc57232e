//! Where the programs are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Names of the programs that this process has built.
static BUILT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A program of this workspace, from the directory that the running test was built into.
///
/// Cargo is asked to build it first, once per process: a test of one package does not build the programs of others, and
/// one that is left from before would be tested in place of today's.
///
/// # Panics
/// The program is not there and cannot be built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    // target/<profile>/deps/<test> or target/<profile>/<program>
    let profile_dir = test
        .ancestors()
        .skip(1)
        .find(|dir| dir.file_name().is_some_and(|name| name != "deps"))
        .expect("tests run from a target directory");
    let path = profile_dir.join(name);
    let mut built = BUILT.lock().expect("a failed build ends the test process");
    if !built.iter().any(|other| other == name) {
        build(name, profile_dir);
        built.push(name.to_owned());
    }
    drop(built);
    assert!(path.exists(), "{} is missing; run `cargo build --bin {name}`", path.display());
    path
}

fn build(name: &str, profile_dir: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Of the whole workspace, so that dependencies have the features with which the tests were built.
    command.args(["build", "--quiet", "--workspace", "--bin", name]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile_dir.file_name().is_some_and(|profile| profile == "release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo can be run");
    assert!(status.success(), "`cargo build --bin {name}` failed: {status}");
}

/// The server that tests talk to: `ETCD_SERVER`, or this workspace's own.
pub fn server_binary() -> PathBuf {
    std::env::var_os("ETCD_SERVER").map_or_else(|| binary("etcd"), PathBuf::from)
}

/// The directory of an etcd release to compare with, if the environment names one.
pub fn real_etcd() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("ETCD_REAL")?);
    assert!(dir.join("etcd").exists(), "ETCD_REAL is {}, without etcd", dir.display());
    Some(dir)
}

/// An etcdctl of etcd 3.4, as Debian packages it, if this machine has one.
pub fn etcdctl_34() -> Option<PathBuf> {
    let path = std::env::var_os("ETCDCTL_34")
        .map_or_else(|| PathBuf::from("/usr/bin/etcdctl"), PathBuf::from);
    let output = Command::new(&path).arg("version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).contains("etcdctl version: 3.4").then_some(path)
}
