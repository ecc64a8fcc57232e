//! Why the node said no. None of these is part of the replicated state.

use bytes::Bytes;

/// A call that could not be done. The node is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid raft configuration: {0}")]
    InvalidConfig(String),
    /// What was found on disk contradicts itself.
    #[error("invalid raft state on disk: {0}")]
    InvalidState(String),
    /// Such messages never come from another member.
    #[error("raft message type {0} is local to a member")]
    LocalMessage(i32),
    /// An answer from somebody who is not, or no longer, a member.
    #[error("member {0:x} is unknown to raft")]
    UnknownPeer(u64),
    #[error("malformed raft message: {0}")]
    Malformed(&'static str),
    /// A membership change that no configuration allows, such as the removal of the last voter.
    #[error("impossible membership change: {0}")]
    ImpossibleConfChange(String),
}

/// Why a proposal was not taken. It has left no trace and may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no leader is known")]
    NoLeader,
    #[error("leadership is being transferred")]
    LeaderTransfer,
    #[error("too many bytes wait to be committed")]
    TooManyUncommitted,
    #[error("another membership change is not applied yet")]
    ConfChangePending,
}

/// A refused proposal, with its payloads as they were given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("proposal refused: {reason}")]
pub struct ProposeError {
    pub reason: Refusal,
    pub payloads: Vec<Bytes>,
}
