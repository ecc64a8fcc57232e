//! What the caller has to do now.

use bytes::Bytes;
use retcd_api::raftpb::{Entry, HardState, Message, Snapshot};

use crate::Role;

/// One batch of work from [`Node::take_output`](crate::Node::take_output), in the order in which it is done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// Goes into [`Node::persisted`](crate::Node::persisted) once `persist` is written. Grows by one each time.
    pub number: u64,
    /// May leave at once, before `persist` is written.
    pub messages: Vec<Message>,
    pub persist: Persist,
    /// Promises about what `persist` holds: they leave after `persisted(number)` was called, never earlier.
    pub messages_after_persist: Vec<Message>,
    /// Committed by a quorum and durable on this member since an earlier output: safe to apply before `persist` is
    /// written. In log order, without gaps, each entry once per life of the node.
    pub committed: Vec<Entry>,
    /// Answers to `read_index`.
    pub read_states: Vec<ReadState>,
    /// Set when the leader or the own role changed since the last output.
    pub soft_state: Option<SoftState>,
}

/// What goes to disk, in this order: snapshot, entries, hard state.
///
/// The order matters for a torn write: a commit index must not become durable before the entries it covers, and entries not
/// before a hard state that commits the snapshot they follow. So with both, the hard state comes twice: with the snapshot's
/// index as its commit index before the entries, and as it is behind them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Persist {
    /// Replaces the whole log; the entries below begin right after it.
    pub snapshot: Option<Snapshot>,
    /// Entries to append. Where the log already has an entry of an equal or higher index, these replace it and all
    /// that follow it.
    pub entries: Vec<Entry>,
    /// The whole hard state, when a part of it changed.
    pub hard_state: Option<HardState>,
    /// Whether the write must be synced before `persisted` is called. False when there is nothing but a commit index,
    /// which may be written along with a later batch.
    pub must_sync: bool,
}

impl Persist {
    pub fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.entries.is_empty() && self.hard_state.is_none()
    }
}

/// A read that asked with `context` is linearizable once `index` is applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadState {
    pub context: Bytes,
    pub index: u64,
}

/// Who leads, and what this member is. Known from memory only, never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftState {
    /// 0 when no leader is known.
    pub leader: u64,
    pub role: Role,
}
