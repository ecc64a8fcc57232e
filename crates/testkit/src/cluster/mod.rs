//! A cluster of real processes on loopback.
//!
//! A member is named by its *slot*: the number of the call that made it, from 0. Slots are never used twice; a member
//! that replaces another one gets the next slot.
//!
//! Waiting means asking the members until they say what is wanted, with a deadline; when it passes, or when a member
//! ends that should not, the test panics with the last output of every member.
//!
//! ```no_run
//! # async fn example() {
//! use retcd_testkit::{Cluster, Plan};
//!
//! let mut cluster = Cluster::start(Plan::new(3)).await;
//! let leader = cluster.leader().await;
//! cluster.kill(leader);
//! let others = cluster.others(&[leader]);
//! assert_ne!(cluster.leader_among(&others).await, leader);
//! cluster.start_again(leader);
//! cluster.leader().await;
//! # }
//! ```

mod node;
mod plan;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::cluster_client::ClusterClient;
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_api::etcdserverpb::{
    MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, StatusRequest, StatusResponse,
};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

pub use plan::{MemberPlan, Plan};

use crate::{Links, Process, SOON};
use node::{Node, State};

/// How long a cluster may take for what it should do within seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long one question to one member may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Pause between two questions.
const POLL: Duration = Duration::from_millis(20);
/// Lines of each member that a failure shows.
const LINES_SHOWN: usize = 60;

/// Members that form a cluster. All processes end with this handle.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    links: Option<Links>,
}

impl Cluster {
    /// Starts all members at once, and waits until each serves and all agree on a leader. Must run inside a tokio
    /// runtime, as everything here.
    ///
    /// # Panics
    /// They do not get that far.
    pub async fn start(plan: Plan) -> Self {
        let links = plan.has_links.then(Links::new);
        let members = plan.members.into_iter().enumerate();
        let nodes = members.map(|(slot, plan)| Node::new(slot, plan, links.as_ref())).collect();
        let mut cluster = Cluster { nodes, links };
        let bootstrap = cluster.bootstrap("new");
        for node in &mut cluster.nodes {
            node.bootstrap.clone_from(&bootstrap);
            node.start();
        }
        cluster.leader().await;
        cluster
    }

    /// The slots of all members, but not of removed ones.
    pub fn slots(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&slot| !self.nodes[slot].is_removed()).collect()
    }

    /// The slots of all members but these.
    pub fn others(&self, slots: &[usize]) -> Vec<usize> {
        self.slots().into_iter().filter(|slot| !slots.contains(slot)).collect()
    }

    pub fn name(&self, slot: usize) -> &str {
        &self.nodes[slot].name
    }

    /// The id of a member that has served.
    pub fn id(&self, slot: usize) -> u64 {
        self.nodes[slot].id
    }

    /// `host:port` for clients.
    pub fn endpoint(&self, slot: usize) -> String {
        self.nodes[slot].endpoint()
    }

    /// The peer URL that the member was started with.
    pub fn peer_url(&self, slot: usize) -> String {
        self.nodes[slot].advertised()
    }

    pub fn data_dir(&self, slot: usize) -> PathBuf {
        self.nodes[slot].data_dir()
    }

    /// The network between the members.
    ///
    /// # Panics
    /// The cluster was made without one.
    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("the cluster has links")
    }

    /// A connection to one member. It is made by the first call, and again whenever the member comes back.
    pub fn channel(&self, slot: usize) -> Channel {
        self.nodes[slot].channel.clone()
    }

    /// The process of a member that has one.
    pub fn process(&mut self, slot: usize) -> &mut Process {
        self.nodes[slot].process()
    }

    /// Waits until all running members agree on a leader, and returns it. Members that hang or are down do not count.
    pub async fn leader(&mut self) -> usize {
        self.leader_among(&self.running()).await
    }

    /// Waits until these members agree that one of them is the leader, and returns it.
    pub async fn leader_among(&mut self, slots: &[usize]) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(leader) = self.agreed(slots).await {
                return leader;
            }
            self.check(until, slots, || format!("{slots:?} agree on no leader"));
            tokio::time::sleep(POLL).await;
        }
    }

    async fn agreed(&mut self, slots: &[usize]) -> Option<usize> {
        let mut agreed = None;
        for &slot in slots {
            let status = self.status(slot).await.ok()?;
            let view = (status.leader, status.raft_term);
            if *agreed.get_or_insert(view) != view {
                return None;
            }
        }
        let (leader, _) = agreed?;
        slots.iter().copied().find(|&slot| leader != 0 && self.nodes[slot].id == leader)
    }

    /// What one member says of itself.
    pub async fn status(&mut self, slot: usize) -> Result<StatusResponse, Status> {
        let mut maintenance = MaintenanceClient::new(self.channel(slot));
        let status = within(ATTEMPT, maintenance.status(StatusRequest {})).await?;
        let id = status.header.as_ref().map_or(0, |header| header.member_id);
        let node = &mut self.nodes[slot];
        if node.id != id {
            node.id = id;
            if let Some(links) = &self.links {
                links.introduce(&format!("{id:x}"), slot);
            }
        }
        Ok(status)
    }

    /// Waits until a member answers.
    pub async fn serving(&mut self, slot: usize) {
        let until = Instant::now() + PATIENCE;
        while let Err(error) = self.status(slot).await {
            self.check(until, &[slot], || format!("member {slot} does not serve: {error}"));
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops a member as an operator would, and waits for its end.
    pub async fn stop(&mut self, slot: usize) {
        self.process(slot).terminate();
        self.ended(slot).await;
        self.nodes[slot].state = State::Down;
    }

    /// Crashes a member.
    pub fn kill(&mut self, slot: usize) {
        let process = self.process(slot);
        process.kill();
        process.wait(SOON);
        self.nodes[slot].state = State::Down;
    }

    /// Makes a member hang until [`Self::resume`].
    pub fn pause(&mut self, slot: usize) {
        let node = &mut self.nodes[slot];
        node.state = match std::mem::replace(&mut node.state, State::Down) {
            State::Running(process) => {
                process.pause();
                State::Paused(process)
            }
            State::Paused(_) | State::Down | State::Removed => panic!("member {slot} does not run"),
        };
    }

    /// Ends [`Self::pause`].
    pub fn resume(&mut self, slot: usize) {
        let node = &mut self.nodes[slot];
        node.state = match std::mem::replace(&mut node.state, State::Down) {
            State::Paused(process) => {
                process.resume();
                State::Running(process)
            }
            State::Running(_) | State::Down | State::Removed => {
                panic!("member {slot} is not paused")
            }
        };
    }

    /// Starts a member that is down, on its own data. Does not wait.
    pub fn start_again(&mut self, slot: usize) {
        self.nodes[slot].start();
    }

    /// Starts a member that is down as another program, on its own data. Does not wait.
    pub fn start_again_as(&mut self, slot: usize, binary: &Path) {
        self.nodes[slot].set_binary(binary);
        self.nodes[slot].start();
    }

    /// Stops a member, starts it again, and waits until it serves and knows the leader.
    pub async fn restart(&mut self, slot: usize) {
        self.stop(slot).await;
        self.start_again(slot);
        self.leader().await;
    }

    /// Adds a member, as voter or learner, and waits until it serves.
    ///
    /// A cluster takes voters only while its members have known each other for some seconds, so this may take as long.
    pub async fn add(&mut self, plan: MemberPlan, is_learner: bool) -> usize {
        let slot = self.nodes.len();
        let node = Node::new(slot, plan, self.links.as_ref());
        let request = MemberAddRequest { peer_ur_ls: vec![node.advertised()], is_learner };
        self.reconfigure("add a member", async |mut cluster| {
            match within(ATTEMPT, cluster.member_add(request.clone())).await {
                // The attempt before, which seemed to fail, was the one.
                Err(status) if says(&status, &RpcError::PeerUrlExist) => Ok(()),
                other => other.map(|_| ()),
            }
        })
        .await;
        self.nodes.push(node);
        self.nodes[slot].bootstrap = self.bootstrap("existing");
        self.nodes[slot].start();
        self.serving(slot).await;
        slot
    }

    /// Makes a learner a voter, once it is in step with the leader.
    pub async fn promote(&mut self, slot: usize) {
        let request = MemberPromoteRequest { id: self.id(slot) };
        self.reconfigure("promote a member", async |mut cluster| {
            match within(ATTEMPT, cluster.member_promote(request)).await {
                Err(status) if says(&status, &RpcError::MemberNotLearner) => Ok(()),
                other => other.map(|_| ()),
            }
        })
        .await;
    }

    /// Removes a member for good, and ends its process if that has not ended by itself by then.
    pub async fn remove(&mut self, slot: usize) {
        let request = MemberRemoveRequest { id: self.id(slot) };
        let removed = std::mem::replace(&mut self.nodes[slot].state, State::Removed);
        self.reconfigure("remove a member", async |mut cluster| {
            match within(ATTEMPT, cluster.member_remove(request)).await {
                Err(status) if says(&status, &RpcError::MemberNotFound) => Ok(()),
                other => other.map(|_| ()),
            }
        })
        .await;
        drop(removed);
    }

    /// Removes a member and adds a voter in its place. Returns the slot of the new one.
    pub async fn replace(&mut self, slot: usize, plan: MemberPlan) -> usize {
        self.remove(slot).await;
        self.add(plan, false).await
    }

    /// Tries a change of the membership, at one running member after the other, until it is carried out.
    ///
    /// # Panics
    /// It is refused for a reason that does not pass, or not carried out in time.
    async fn reconfigure(
        &mut self,
        what: &str,
        change: impl AsyncFn(ClusterClient<Channel>) -> Result<(), Status>,
    ) {
        let until = Instant::now() + PATIENCE;
        for turn in 0.. {
            let running = self.running();
            let asked = running[turn % running.len()];
            match change(ClusterClient::new(self.channel(asked))).await {
                Ok(()) => return,
                Err(status) => {
                    let problem = || format!("member {asked} cannot {what}: {status}");
                    assert!(is_passing(&status), "{}\n{}", problem(), self.last_lines());
                    self.check(until, &[], problem);
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The slots of members that run and do not hang.
    fn running(&self) -> Vec<usize> {
        self.slots().into_iter().filter(|&slot| self.nodes[slot].is_running()).collect()
    }

    /// `--initial-cluster` with everybody who is in the cluster, and its state.
    fn bootstrap(&self, state: &str) -> Vec<String> {
        let members = self.nodes.iter().filter(|node| !node.is_removed());
        let members: Vec<String> =
            members.map(|node| format!("{}={}", node.name, node.advertised())).collect();
        ["--initial-cluster", &members.join(","), "--initial-cluster-state", state]
            .map(str::to_owned)
            .to_vec()
    }

    /// Waits until a process has ended.
    async fn ended(&mut self, slot: usize) {
        let until = Instant::now() + PATIENCE;
        while self.process(slot).ended().is_none() {
            self.check(until, &[], || format!("member {slot} does not end"));
            tokio::time::sleep(POLL).await;
        }
    }

    /// Panics when the time is over, or when one of these members has ended.
    fn check(&mut self, until: Instant, slots: &[usize], problem: impl Fn() -> String) {
        for &slot in slots {
            if let State::Running(process) | State::Paused(process) = &mut self.nodes[slot].state
                && let Some(status) = process.ended()
            {
                let lines = process.last_lines(LINES_SHOWN);
                panic!("{}, and member {slot} has ended ({status})\n{lines}", problem());
            }
        }
        assert!(Instant::now() < until, "{}\n{}", problem(), self.last_lines());
    }

    /// The last output of every member that has a process.
    pub fn last_lines(&self) -> String {
        let mut all = String::new();
        for node in &self.nodes {
            if let State::Running(process) | State::Paused(process) = &node.state {
                writeln!(all, "--- {} ---\n{}", node.name, process.last_lines(LINES_SHOWN))
                    .expect("a string takes everything");
            }
        }
        all
    }
}

/// The answer, or that there was none in time.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(response) => response.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn says(status: &Status, error: &RpcError) -> bool {
    RpcError::from_message(status.message()).as_ref() == Some(error)
}

/// Whether a change of the membership may succeed a moment later: there is no leader right now, the members do not
/// know each other for long enough, or a learner lags behind.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
        || says(status, &RpcError::ProposalDropped)
        || says(status, &RpcError::MemberNotEnoughStarted)
        || says(status, &RpcError::LearnerNotReady)
}
