//! Changes of the membership: learners come and are promoted, voters come and go.

use retcd_api::raftpb::{ConfChange, ConfChangeType};
use retcd_state_machine::cluster::Member;

use super::{Members, Workload};
use crate::member::Process;
use crate::outside::Outside;

impl Workload {
    /// The next change, and the member that leads and is asked for it.
    ///
    /// Two voters always stay, so that progress is possible. Only a leader can be sure of that: it takes no change while
    /// another one is on its way.
    pub(super) fn next_change(
        &mut self,
        members: &Members,
        outside: &mut Outside,
    ) -> Option<(u64, ConfChange)> {
        if !outside.plan.changes_members {
            return None;
        }
        let mut processes = members.values().filter_map(|member| member.process.as_ref());
        let leader = processes.find(|process| process.node.is_leader())?;
        let conf_state = leader.node.conf_state().clone();
        let (voters, learner) = (conf_state.voters, conf_state.learners.first().copied());
        let change = match (outside.dice.below(4), learner) {
            (0, Some(id)) if is_in_step(leader, id) => promotion(id),
            (1, Some(id)) => removal(id),
            (2, _) if voters.len() > 2 => removal(voters[outside.dice.index(voters.len())]),
            (3, _) if voters.len() < 6 => {
                self.next_member += 1;
                addition(self.next_member - 1, false)
            }
            (_, None) => {
                self.next_member += 1;
                addition(self.next_member - 1, true)
            }
            _ => return None,
        };
        leader.reader.check_conf_change(&change).ok()?;
        Some((leader.id, change))
    }
}

/// A learner that lags would cost the cluster its quorum.
fn is_in_step(leader: &Process, id: u64) -> bool {
    let progress = leader.node.status().progress;
    let matched = |id| progress.iter().find(|peer| peer.id == id).map_or(0, |peer| peer.matched);
    matched(id) * 100 >= matched(leader.id) * 90
}

fn removal(node_id: u64) -> ConfChange {
    let r#type = ConfChangeType::ConfChangeRemoveNode.into();
    ConfChange { r#type, node_id, ..ConfChange::default() }
}

fn promotion(id: u64) -> ConfChange {
    let context = Member { id, ..Member::default() }.to_addition_context(true);
    let r#type = ConfChangeType::ConfChangeAddNode.into();
    ConfChange { r#type, node_id: id, context: context.into(), id: 0 }
}

fn addition(id: u64, is_learner: bool) -> ConfChange {
    let r#type = if is_learner {
        ConfChangeType::ConfChangeAddLearnerNode
    } else {
        ConfChangeType::ConfChangeAddNode
    };
    let member = Member { is_learner, ..crate::world::member(id) };
    let context = member.to_addition_context(false).into();
    ConfChange { r#type: r#type.into(), node_id: id, context, id: 0 }
}
