//! The other members, as the node sees them: their messages, who they are, who leads.
//!
//! Everything here runs on the background runtime or on the commit thread, takes the Raft lock for microseconds, and
//! sends what needs no disk at once. So heartbeats, elections and answers to reads go on while the log syncs.
//!
//! Three things are done sooner than Raft by itself would:
//! - a leader whose **process ended** (its streams broke and its port refuses) is not waited for: its followers forget it
//!   and stand for election one after the other, a few milliseconds apart. With pre-vote this is harmless if it lives;
//! - a leader whose **disk stands still** for an election timeout hands over: it still sends heartbeats, so nobody else
//!   would notice;
//! - a leader that **stops** hands over first.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use retcd_api::error::RpcError;
use retcd_api::raftpb::{ConfState, Message};
use retcd_consensus::{PeerProgress, ProgressState, Role, Status};
use retcd_net::Url;
use retcd_state_machine::cluster::Member;
use tokio_util::sync::CancellationToken;

use super::{NodeHandle, millis};
use crate::logging;
use crate::peer::{Inbox, Network};

/// Between the candidacies of followers whose leader died: enough for a round of pre-votes on one site.
const STAGGER: Duration = Duration::from_millis(25);
/// How often a hand-over is looked at for its end.
const TRANSFER_POLL: Duration = Duration::from_millis(5);

/// Messages and news from the network.
pub(crate) struct NodeInbox {
    pub(crate) node: NodeHandle,
}

impl Inbox for NodeInbox {
    fn step(&self, message: Message) {
        if let Err(error) = self.node.shared.raft.lock().step(message) {
            tracing::debug!(%error, "dropped a Raft message");
        }
    }

    fn stepped(&self) {
        self.node.react(self.node.shared.raft.lock());
    }

    fn report_unreachable(&self, id: u64) {
        let mut raft = self.node.shared.raft.lock();
        raft.report_unreachable(id);
        self.node.react(raft);
    }

    fn report_snapshot(&self, id: u64, delivered: bool) {
        let mut raft = self.node.shared.raft.lock();
        raft.report_snapshot(id, delivered);
        self.node.react(raft);
    }

    fn is_removed(&self, id: u64) -> bool {
        self.node.shared.removed.read().contains(&id)
    }

    fn peer_died(&self, id: u64) {
        let mut raft = self.node.shared.raft.lock();
        if raft.leader() != id || raft.role() != Role::Follower {
            return;
        }
        tracing::info!(leader = %format!("{id:x}"), "the leader's process has ended, standing for election early");
        raft.forget_leader();
        let own = raft.id();
        let candidates = raft.conf_state().voters.iter().filter(|voter| **voter != id);
        let rank = candidates.take_while(|voter| **voter != own).count();
        self.node.react(raft);
        let node = self.node.clone();
        tokio::spawn(async move {
            tokio::time::sleep(STAGGER * u32::try_from(rank).unwrap_or(u32::MAX)).await;
            let is_leaderless = node.shared.raft.lock().leader() == 0;
            if is_leaderless {
                node.campaign();
            }
        });
    }

    fn local_removed(&self) {
        self.node.note_removal();
    }
}

/// Who the others are.
impl NodeHandle {
    pub(crate) fn network(&self) -> &Network {
        &self.shared.network
    }

    /// Makes these members known to the network before the log tells of them.
    pub(crate) fn meet<'a>(&self, members: impl IntoIterator<Item = &'a Member>) {
        let mut peers = self.shared.peers.lock();
        for member in members.into_iter().filter(|member| member.id != self.shared.ids.member) {
            match peers.get(&member.id) {
                None => self.shared.network.add_peer(member.id, &member.peer_urls),
                Some(urls) if *urls == member.peer_urls => continue,
                Some(_) => self.shared.network.update_peer(member.id, &member.peer_urls),
            }
            peers.insert(member.id, member.peer_urls.clone());
        }
    }

    /// Makes the members known that the state machine has read from disk.
    pub(crate) fn meet_known(&self) {
        let members = self.shared.reader.members();
        self.meet(&members);
        *self.shared.members.lock() =
            members.into_iter().map(|member| (member.id, member)).collect();
        self.shared.removed.write().extend(self.shared.reader.removed_members());
    }

    /// The state machine and Raft know other members now than before.
    pub(super) fn members_changed(&self, conf_state: &ConfState) {
        let own = self.shared.ids.member;
        self.shared.is_learner.store(conf_state.learners.contains(&own), Ordering::Relaxed);
        let is_sole_voter = conf_state.voters == [own];
        self.shared.is_sole_voter.store(is_sole_voter, Ordering::Release);
        if !is_sole_voter {
            self.shared.is_always_fresh.store(false, Ordering::Release);
        }
        let members = self.shared.reader.members();
        self.meet(&members);
        self.log_changes(members);
        let removed = self.shared.reader.removed_members();
        let mut peers = self.shared.peers.lock();
        for id in removed.iter().filter(|id| peers.remove(id).is_some()) {
            self.shared.network.remove_peer(*id);
        }
        drop(peers);
        let is_removed = removed.contains(&own);
        self.shared.removed.write().extend(removed);
        if is_removed {
            self.note_removal();
        }
    }

    /// Logs how the members differ from those that were known before.
    fn log_changes(&self, members: Vec<Member>) {
        let cluster_id = format!("{:x}", self.shared.ids.cluster);
        let local_member_id = format!("{:x}", self.shared.ids.member);
        let mut known = self.shared.members.lock();
        let now: BTreeMap<_, _> = members.into_iter().map(|member| (member.id, member)).collect();
        for member in known.values().filter(|member| !now.contains_key(&member.id)) {
            tracing::info!(
                cluster_id,
                local_member_id,
                removed_remote_peer_id = %format!("{:x}", member.id),
                removed_remote_peer_urls = %logging::strings(&member.peer_urls),
                removed_remote_peer_is_learner = member.is_learner,
                "removed member"
            );
        }
        for member in now.values() {
            let id = format!("{:x}", member.id);
            match known.get(&member.id) {
                None => tracing::info!(
                    cluster_id,
                    local_member_id,
                    added_peer_id = id,
                    added_peer_peer_urls = %logging::strings(&member.peer_urls),
                    added_peer_is_learner = member.is_learner,
                    "added member"
                ),
                Some(before) if before.is_learner && !member.is_learner => {
                    tracing::info!(
                        cluster_id,
                        local_member_id,
                        promoted_member_id = id,
                        "promote member"
                    );
                }
                Some(before) if before.peer_urls != member.peer_urls => tracing::info!(
                    cluster_id,
                    local_member_id,
                    updated_remote_peer_id = id,
                    updated_remote_peer_urls = %logging::strings(&member.peer_urls),
                    updated_remote_peer_is_learner = member.is_learner,
                    "updated member"
                ),
                Some(_) => {}
            }
        }
        *known = now;
    }

    fn note_removal(&self) {
        if !self.shared.is_removed.is_cancelled() {
            tracing::warn!(
                local_member_id = %format!("{:x}", self.shared.ids.member),
                "the member has been permanently removed from the cluster"
            );
            self.shared.is_removed.cancel();
        }
    }

    /// Fires when this member was removed from the cluster.
    pub(crate) fn removal(&self) -> &CancellationToken {
        &self.shared.is_removed
    }

    pub(crate) fn is_sole_voter(&self) -> bool {
        self.shared.is_sole_voter.load(Ordering::Acquire)
    }

    pub(crate) fn is_learner(&self) -> bool {
        self.shared.is_learner.load(Ordering::Relaxed)
    }

    /// How many members the network knows, this one included.
    pub(crate) fn members_known(&self) -> usize {
        self.shared.peers.lock().len() + 1
    }

    /// Where another member reaches the leader. Empty when nobody leads, or this member does.
    pub(crate) fn leader_urls(&self) -> Vec<Url> {
        let leader = self.leader().unwrap_or_default();
        let peers = self.shared.peers.lock();
        let urls = peers.get(&leader).into_iter().flatten();
        urls.filter_map(|url| Url::parse(url).ok()).collect()
    }

    /// Everything Raft knows, as of now.
    pub(crate) fn raft_status(&self) -> Status {
        self.shared.raft.lock().status()
    }

    /// How many members, this one included, have been in contact for at least `lasting`.
    pub(crate) fn connected_count(&self, lasting: Duration) -> usize {
        self.shared.network.connected_count(lasting) + 1
    }
}

/// Who leads.
impl NodeHandle {
    /// Moves Raft's clock by one tick.
    pub(crate) fn tick(&self) {
        let mut raft = self.shared.raft.lock();
        raft.tick();
        let is_leader = raft.is_leader();
        self.react(raft);
        if is_leader {
            self.hand_over_if_disk_stalls();
        }
        self.retry_reads(false);
    }

    /// Lets the first election come sooner: all but one tick of the shortest wait pass at once.
    pub(crate) fn advance_ticks(&self, ticks: usize) {
        let mut raft = self.shared.raft.lock();
        if raft.leader() == 0 {
            (0..ticks).for_each(|_| raft.tick());
        }
        self.react(raft);
    }

    pub(super) fn set_leader(&self, leader: u64) {
        let before = self.shared.leader.swap(leader, Ordering::Relaxed);
        if before == leader {
            return;
        }
        let now = millis(self.now()).max(1);
        if leader == 0 {
            self.shared.leader_left.store(now, Ordering::Relaxed);
            return;
        }
        self.shared.leader_came.store(now, Ordering::Relaxed);
        self.shared.metrics.server_leader_changes_seen_total.increment();
        self.retry_reads(true);
    }

    /// Whether nobody has led for three election timeouts: streams that need a leader end then.
    pub(crate) fn has_lost_leader(&self) -> bool {
        if self.leader().is_some() {
            return false;
        }
        let since = Duration::from_millis(self.shared.leader_left.load(Ordering::Relaxed));
        self.now().saturating_sub(since) >= 3 * self.shared.limits.election_timeout
    }

    /// Why a request that began `waited` ago was not applied by now.
    pub(super) fn timeout_error(&self, waited: Duration) -> RpcError {
        let started = self.now().saturating_sub(waited);
        let came = self.shared.leader_came.load(Ordering::Relaxed);
        let lost =
            Duration::from_millis(came).saturating_sub(2 * self.shared.limits.election_timeout);
        if came != 0 && started > lost && started < Duration::from_millis(came) {
            return RpcError::TimeoutDueToLeaderFail;
        }
        let is_connected = match self.leader() {
            None => true,
            Some(leader) if leader == self.shared.ids.member => self.has_quorum_since(waited),
            Some(leader) => self.is_connected_since(leader, waited),
        };
        if is_connected { RpcError::Timeout } else { RpcError::TimeoutDueToConnectionLost }
    }

    fn is_connected_since(&self, id: u64, waited: Duration) -> bool {
        let since = self.shared.network.active_since(id);
        since.is_some_and(|since: Instant| since.elapsed() >= waited)
    }

    fn has_quorum_since(&self, waited: Duration) -> bool {
        self.connected_count(waited) > self.shared.reader.members().len() / 2
    }

    /// The leader's heartbeats go on while its log stands still, so no other member would take over.
    fn hand_over_if_disk_stalls(&self) {
        let since = self.shared.sync_since.load(Ordering::Relaxed);
        let stalled = millis(self.now()).saturating_sub(since);
        if since == 0 || stalled < millis(self.shared.limits.election_timeout) {
            return;
        }
        if let Some(to) = self.transferee(&self.raft_status()) {
            tracing::warn!(stalled_ms = stalled, to = %format!("{to:x}"), "the log's disk stands still, handing over the leadership");
            self.transfer_leader(to);
        }
    }

    /// The voter that is best fit to lead instead of this leader: in step, and connected for the longest time.
    pub(crate) fn transferee(&self, status: &Status) -> Option<u64> {
        let is_fit = |peer: &&PeerProgress| {
            peer.id != status.id
                && !peer.is_learner
                && peer.recently_active
                && peer.state == ProgressState::Replicate
        };
        let fit: Vec<u64> = status.progress.iter().filter(is_fit).map(|peer| peer.id).collect();
        self.shared.network.longest_connected(&fit)
    }

    pub(crate) fn transfer_leader(&self, to: u64) {
        let mut raft = self.shared.raft.lock();
        raft.transfer_leader(to);
        self.react(raft);
    }

    /// Asks `to` to lead and waits until somebody else than before does, for at most `patience`. Returns whether it was
    /// `to`.
    pub(crate) async fn transfer_leader_and_wait(&self, to: u64, patience: Duration) -> bool {
        tracing::info!(
            local_member_id = %format!("{:x}", self.shared.ids.member),
            transferee_member_id = %format!("{to:x}"),
            "leadership transfer starting"
        );
        let begun = Instant::now();
        let old_leader = self.leader().unwrap_or_default();
        self.transfer_leader(to);
        while begun.elapsed() < patience {
            if self.leader() == Some(to) {
                tracing::info!(
                    local_member_id = %format!("{:x}", self.shared.ids.member),
                    old_leader_member_id = %format!("{old_leader:x}"),
                    new_leader_member_id = %format!("{to:x}"),
                    took = %logging::took(begun.elapsed()),
                    "leadership transfer finished"
                );
                return true;
            }
            tokio::time::sleep(TRANSFER_POLL).await;
        }
        false
    }

    /// Before a stop: the others need not wait for an election timeout to find a leader.
    pub(crate) async fn hand_over(&self) {
        let status = self.raft_status();
        if status.role != Role::Leader {
            return;
        }
        if status.conf_state.voters.len() < 2 {
            tracing::info!(
                local_member_id = %format!("{:x}", status.id),
                current_leader_member_id = %format!("{:x}", status.id),
                "skipped leadership transfer for single voting member cluster"
            );
            return;
        }
        let Some(to) = self.transferee(&status) else {
            tracing::warn!("no other member is fit to lead, stopping as the leader");
            return;
        };
        let patience = 2 * self.shared.limits.election_timeout;
        if !self.transfer_leader_and_wait(to, patience).await {
            tracing::warn!("leadership transfer failed, stopping as the leader");
        }
    }
}
