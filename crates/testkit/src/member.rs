//! A member of a cluster: a server process with ports and a data directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Port, Process, SOON};

/// What etcd logs once clients may come.
const READY: &str = "ready to serve client requests";

/// A single-member cluster.
#[derive(Debug)]
pub struct Member {
    binary: PathBuf,
    args: Vec<String>,
    client_port: Port,
    /// Its own while it is down, too.
    _peer_port: Port,
    process: Process,
    dir: TempDir,
}

impl Member {
    /// Starts a server and waits until it serves.
    ///
    /// # Panics
    /// It does not get that far.
    pub fn start(binary: &Path, extra_args: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let (client_port, peer_port) = (Port::claim(), Port::claim());
        let (client_url, peer_url) = (client_port.url(), peer_port.url());
        let data_dir = dir.path().join("data").display().to_string();
        let initial_cluster = format!("m1={peer_url}");
        let own_args = [
            ["--name", "m1"],
            ["--data-dir", &data_dir],
            ["--listen-client-urls", &client_url],
            ["--advertise-client-urls", &client_url],
            ["--listen-peer-urls", &peer_url],
            ["--initial-advertise-peer-urls", &peer_url],
            ["--initial-cluster", &initial_cluster],
        ];
        let args: Vec<String> =
            own_args.as_flattened().iter().chain(extra_args).map(ToString::to_string).collect();
        let process = launch(binary, &args);
        Member { binary: binary.to_owned(), args, client_port, _peer_port: peer_port, process, dir }
    }

    /// `host:port` for clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port.number())
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The running server.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops the server as an operator would and starts it again on the same data.
    pub fn restart(&mut self) {
        self.process.terminate();
        self.start_again();
    }

    /// Crashes the server and starts it again on the same data.
    pub fn crash_and_restart(&mut self) {
        self.process.kill();
        self.start_again();
    }

    fn start_again(&mut self) {
        self.process.wait(SOON);
        self.process = launch(&self.binary, &self.args);
    }
}

fn launch(binary: &Path, args: &[String]) -> Process {
    let mut process = Process::spawn(Command::new(binary).args(args));
    process.expect(READY, SOON);
    process
}
