//! What a node can tell about itself.

use retcd_api::raftpb::ConfState;

/// What a member does in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Follower,
    /// Asks whether it could win an election, without a new term.
    PreCandidate,
    Candidate,
    Leader,
}

impl Role {
    /// The word etcd's raft uses in logs and in `/debug/vars`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Follower => "StateFollower",
            Self::PreCandidate => "StatePreCandidate",
            Self::Candidate => "StateCandidate",
            Self::Leader => "StateLeader",
        }
    }
}

impl From<raft::StateRole> for Role {
    fn from(role: raft::StateRole) -> Self {
        match role {
            raft::StateRole::Follower => Self::Follower,
            raft::StateRole::PreCandidate => Self::PreCandidate,
            raft::StateRole::Candidate => Self::Candidate,
            raft::StateRole::Leader => Self::Leader,
        }
    }
}

/// A picture of the node at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub id: u64,
    pub term: u64,
    /// Who got this member's vote in `term`, 0 for nobody.
    pub vote: u64,
    pub commit: u64,
    pub applied: u64,
    /// Where the log in memory begins; peers that need older entries get a snapshot.
    pub first_index: u64,
    pub last_index: u64,
    /// 0 when unknown.
    pub leader: u64,
    pub role: Role,
    pub is_learner: bool,
    /// Who gets the leadership, while this leader hands it over.
    pub transfer_to: Option<u64>,
    /// Voters and learners, ascending.
    pub conf_state: ConfState,
    /// Every member as this leader sees it, itself included, by ascending id. Empty when not leading.
    pub progress: Vec<PeerProgress>,
}

/// How far a leader knows one member to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerProgress {
    pub id: u64,
    pub is_learner: bool,
    /// The last entry known to be durable there and equal to the leader's.
    pub matched: u64,
    /// The next entry to send.
    pub next: u64,
    /// Whether it was heard since the last quorum check (one election timeout). Always true for the leader itself.
    pub recently_active: bool,
    pub state: ProgressState,
}

/// How a leader sends to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressState {
    /// One message per heartbeat, until it is known where the logs meet.
    Probe,
    /// A stream of appends without waiting for the answers.
    Replicate,
    /// Nothing, until the snapshot that is under way is reported.
    Snapshot,
}

impl From<raft::ProgressState> for ProgressState {
    fn from(state: raft::ProgressState) -> Self {
        match state {
            raft::ProgressState::Probe => Self::Probe,
            raft::ProgressState::Replicate => Self::Replicate,
            raft::ProgressState::Snapshot => Self::Snapshot,
        }
    }
}
