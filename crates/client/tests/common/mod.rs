//! What the tests of this crate share: servers old and new, proxies that misbehave, and clients.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::print_stderr, reason = "what is skipped is told")]
#![allow(unreachable_pub, reason = "every test is a crate of its own")]

pub mod proxy;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use retcd_client::{Client, Get};
use retcd_testkit::{Member, Process, real_etcd, server_binary};

/// How long tests wait for what should happen soon. Machines for tests are busy.
pub const SOON: Duration = Duration::from_secs(90);

pub fn member() -> Member {
    Member::start(&server_binary(), &[])
}

pub fn client(member: &Member) -> Client {
    client_of(&[member.endpoint()])
}

pub fn client_of(endpoints: &[String]) -> Client {
    Client::builder(endpoints).timeout(SOON).build().unwrap()
}

/// Waits for `work`, which must not take forever.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(SOON, work).await;
    waited.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// Waits until there are `count` keys with a prefix. Each look is a round trip, so this does not spin.
pub async fn until_count(client: &Client, prefix: &str, count: i64) {
    let looking = async {
        while client.range(Get::prefix(prefix.to_owned())).await.unwrap().count != count {
            tokio::task::yield_now().await;
        }
    };
    soon("the keys must come or go", looking).await;
}

/// The value of a key; empty for one that does not exist.
pub async fn value(client: &Client, key: &str) -> String {
    let reply = client.range(Get::key(key.to_owned())).await.unwrap();
    let kv = reply.kvs.into_iter().next().unwrap_or_default();
    String::from_utf8(kv.value.to_vec()).unwrap()
}

/// The servers of other releases on this machine: Debian's 3.4 (`ETCD_34`, or `/usr/bin/etcd`), and the release that
/// `ETCD_REAL` names.
pub fn older_servers() -> Vec<PathBuf> {
    let etcd_34 =
        std::env::var_os("ETCD_34").map_or_else(|| PathBuf::from("/usr/bin/etcd"), PathBuf::from);
    let mut servers = Vec::new();
    if version(&etcd_34).starts_with("3.4.") {
        servers.push(etcd_34);
    } else {
        eprintln!("skipped: no etcd 3.4 at {}", etcd_34.display());
    }
    match real_etcd() {
        Some(dir) => servers.push(dir.join("etcd")),
        None => eprintln!("skipped: ETCD_REAL names no release of etcd"),
    }
    servers
}

/// `major.minor.patch` of a server; empty if there is none.
pub fn version(server: &Path) -> String {
    let Ok(output) = Command::new(server).arg("--version").output() else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    line.unwrap_or_default().trim().to_owned()
}

/// Runs this very test program again for each older server, without the test that asks for it.
pub fn run_again_with_older_servers(own_name: &str) {
    for server in older_servers() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--skip", own_name, "--test-threads", "4"]);
        command.env("ETCD_SERVER", &server).env_remove("ETCD_REAL").env("ETCD_34", "none");
        let mut process = Process::spawn(&mut command);
        let status = process.wait(SOON * 10);
        assert!(
            status.success(),
            "with {}:\n{}\n{}",
            server.display(),
            String::from_utf8_lossy(&process.stdout()),
            String::from_utf8_lossy(&process.stderr())
        );
    }
}

/// Builds a Go program below `tests/go`, or says why not.
pub fn go_program(package: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("go-{package}"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go");
    let mut build = Command::new("go");
    build.current_dir(source).arg("build").arg("-o").arg(&path).arg(format!("./{package}"));
    match build.output() {
        Err(error) => eprintln!("skipped: go cannot be run: {error}"),
        Ok(output) if output.status.success() => return Some(path),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let is_offline = ["dial tcp", "proxy", "lookup", "requires go"];
            assert!(is_offline.iter().any(|sign| errors.contains(sign)), "{errors}");
            eprintln!("skipped: modules cannot be loaded: {errors}");
        }
    }
    None
}

/// A test that runs all the others again, against older servers.
#[macro_export]
macro_rules! also_with_older_servers {
    () => {
        #[test]
        fn all_of_this_holds_with_older_servers() {
            $crate::common::run_again_with_older_servers("all_of_this_holds_with_older_servers");
        }
    };
}
