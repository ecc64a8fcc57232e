//! Who takes part: membership changes, learners, handing over the leadership.

use prost::Message as _;
use raft::eraftpb;
use retcd_api::raftpb;

use crate::node::Node;
use crate::{Error, Refusal, Role, convert};

impl Node {
    /// Proposes one membership change. Its bytes go into the log as etcd writes them.
    ///
    /// One change may be on its way at a time: a leader refuses the next one until the last is applied, and for a
    /// moment after its election, when it does not know. A follower forwards the change; if the leader cannot take it
    /// there, the entry becomes an empty normal one, as in etcd, and the proposer has to notice that its change never
    /// comes.
    pub fn propose_conf_change(&mut self, change: &raftpb::ConfChange) -> Result<(), Refusal> {
        let data = change.encode_to_vec();
        self.may_propose(data.len() as u64)?;
        if self.is_leader() && self.raft.raft.has_pending_conf() {
            return Err(Refusal::ConfChangePending);
        }
        self.step_proposal(vec![convert::conf_change_proposal(data.into())]);
        Ok(())
    }

    /// Makes a committed change effective, and returns the members after it.
    ///
    /// Must be called for every committed entry that holds a change, in order, before [`applied`](Node::applied) is
    /// told of it. For a change that the cluster rejected, pass one with `node_id` 0: it changes nothing.
    /// A leader that is no longer a voter steps down.
    ///
    /// # Errors
    /// [`Error::ImpossibleConfChange`] when no voter would remain, on every member alike; nothing is changed then.
    pub fn apply_conf_change(
        &mut self,
        change: &raftpb::ConfChange,
    ) -> Result<raftpb::ConfState, Error> {
        let Some(change) = convert::conf_change_to_raft(change)? else {
            return Ok(self.conf_state().clone());
        };
        if self.is_restoring() {
            // The library has the members of a later snapshot already; an older change must not be put on top.
            self.set_conf_state(changed(self.conf_state().clone(), &change));
        } else {
            let conf_state = self
                .raft
                .apply_conf_change(&change)
                .map_err(|error| Error::ImpossibleConfChange(error.to_string()))?;
            self.set_conf_state(convert::conf_state_from_raft(conf_state));
            self.step_down_unless_voter();
            self.settle();
        }
        Ok(self.conf_state().clone())
    }

    /// The library would go on to lead without a place in its own bookkeeping, and panic on the next commit.
    fn step_down_unless_voter(&mut self) {
        let raft = &mut self.raft.raft;
        if raft.state == raft::StateRole::Leader && !raft.promotable() {
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// Asks the leader to hand over to `to`, which must be a voter; otherwise nothing happens.
    ///
    /// A leader refuses proposals meanwhile, for an election timeout at most. A follower forwards the request.
    pub fn transfer_leader(&mut self, to: u64) {
        self.raft.transfer_leader(to);
        self.settle();
    }

    /// Stands for election now instead of at the end of the election timeout; with pre-vote on, asks first.
    ///
    /// Does nothing on a leader, a learner, or a member whose first changes are not applied. As long as entries are on
    /// their way to the disk the election waits for them, until the next tick after.
    pub fn campaign(&mut self) {
        if self.role() == Role::Leader || !self.raft.raft.promotable() {
            return;
        }
        if self.may_campaign() {
            // Errors are about messages from others.
            let _ = self.raft.campaign();
            self.settle();
        } else {
            self.raft.raft.election_elapsed = self.raft.raft.randomized_election_timeout();
        }
    }

    /// Forgets who leads, when the caller has seen the leader's process end.
    ///
    /// A follower that knows a live leader refuses to vote for an election timeout; after this it votes at once. If the
    /// leader lives after all, its next message brings it back. Nothing about safety depends on it.
    pub fn forget_leader(&mut self) {
        if self.role() == Role::Follower {
            self.raft.raft.leader_id = raft::INVALID_ID;
            self.settle();
        }
    }

    /// The last message to `id` could not be delivered: probe before sending more.
    pub fn report_unreachable(&mut self, id: u64) {
        self.raft.report_unreachable(id);
    }

    /// Tells how the sending of a snapshot to `id` ended. Must be called for every `MsgSnap` that was given out.
    pub fn report_snapshot(&mut self, id: u64, delivered: bool) {
        let status =
            if delivered { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
        self.raft.report_snapshot(id, status);
    }
}

/// The members after `change`, as the library would have them.
fn changed(mut members: raftpb::ConfState, change: &eraftpb::ConfChange) -> raftpb::ConfState {
    let id = change.node_id;
    members.voters.retain(|&voter| voter != id);
    members.learners.retain(|&learner| learner != id);
    let set = match change.change_type {
        eraftpb::ConfChangeType::AddNode => &mut members.voters,
        eraftpb::ConfChangeType::AddLearnerNode => &mut members.learners,
        eraftpb::ConfChangeType::RemoveNode => return members,
    };
    set.push(id);
    set.sort_unstable();
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, InitialState};

    #[test]
    fn members_change_as_in_the_library() {
        let members = raftpb::ConfState {
            voters: vec![1, 2, 4],
            learners: vec![3, 7],
            ..raftpb::ConfState::default()
        };
        for number in [0, 1, 3] {
            for node_id in 1..=8 {
                let initial =
                    InitialState { conf_state: members.clone(), ..InitialState::default() };
                let mut node = Node::new(&Config::new(1, 1), initial).unwrap();
                let change =
                    raftpb::ConfChange { r#type: number, node_id, ..raftpb::ConfChange::default() };
                let expected = node.apply_conf_change(&change).unwrap();
                let change = convert::conf_change_to_raft(&change).unwrap().unwrap();
                assert_eq!(changed(members.clone(), &change), expected, "{change:?}");
            }
        }
    }
}
