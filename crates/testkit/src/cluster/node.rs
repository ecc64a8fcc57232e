//! One member of a cluster: what it needs to be started again, and the process while there is one.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::{ATTEMPT, MemberPlan};
use crate::{Links, Port, Process};

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    plan: MemberPlan,
    client_port: Port,
    peer_port: Port,
    /// The port of the door, if there are links.
    door: Option<Port>,
    /// `--initial-cluster` and `--initial-cluster-state`, decided when the member is first started.
    pub(super) bootstrap: Vec<String>,
    pub(super) id: u64,
    pub(super) state: State,
    /// Connects by itself, whenever the member is there.
    pub(super) channel: Channel,
    dir: TempDir,
}

#[derive(Debug)]
pub(super) enum State {
    Running(Process),
    /// Hangs, by SIGSTOP.
    Paused(Process),
    Down,
    /// Out of the cluster for good.
    Removed,
}

impl Node {
    /// Chooses names and ports. Nothing is started.
    pub(super) fn new(slot: usize, plan: MemberPlan, links: Option<&Links>) -> Self {
        let (client_port, peer_port) = (Port::claim(), Port::claim());
        let endpoint = Endpoint::from_shared(client_port.url()).expect("the URL is well formed");
        Node {
            name: format!("m{slot}"),
            plan,
            door: links.map(|links| links.open_door(slot, peer_port.number())),
            client_port,
            peer_port,
            bootstrap: Vec::new(),
            id: 0,
            state: State::Down,
            channel: endpoint.connect_timeout(ATTEMPT).connect_lazy(),
            dir: TempDir::new().expect("a temporary directory can be made"),
        }
    }

    /// `host:port` for clients.
    pub(super) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port.number())
    }

    /// Where other members are told to find this one.
    pub(super) fn advertised(&self) -> String {
        self.for_members(self.door.as_ref().unwrap_or(&self.peer_port))
    }

    fn for_members(&self, port: &Port) -> String {
        if self.plan.has_peer_tls { port.https_url() } else { port.url() }
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn is_removed(&self) -> bool {
        matches!(self.state, State::Removed)
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    pub(super) fn process(&mut self) -> &mut Process {
        match &mut self.state {
            State::Running(process) | State::Paused(process) => process,
            State::Down | State::Removed => panic!("{} has no process", self.name),
        }
    }

    pub(super) fn start(&mut self) {
        assert!(matches!(self.state, State::Down), "{} has a process, or is removed", self.name);
        self.state = State::Running(Process::spawn(&mut self.command()));
    }

    /// From its next start on, the member is another program.
    pub(super) fn set_binary(&mut self, binary: &Path) {
        binary.clone_into(&mut self.plan.binary);
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.plan.binary);
        // A server takes flags from such variables.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("ETCD_") && name != "ETCD_UNSUPPORTED_ARCH" {
                command.env_remove(&*name);
            }
        }
        command.args(["--name", &self.name]);
        command.arg("--data-dir").arg(self.data_dir());
        command.args(["--listen-client-urls", &self.client_port.url()]);
        command.args(["--advertise-client-urls", &self.client_port.url()]);
        command.args(["--listen-peer-urls", &self.for_members(&self.peer_port)]);
        command.args(["--initial-advertise-peer-urls", &self.advertised()]);
        command.args(&self.bootstrap).args(&self.plan.args);
        command
    }
}
