//! Linearizable reads: which index must be applied before a read may look at the state.
//!
//! A leader notes its commit index, asks a quorum with one round of heartbeats whether it still leads, and answers. A
//! follower forwards the question. A new leader knows its commit index only after an entry of its own term is
//! committed; the library drops reads until then, here they wait for that moment (etcd does the same).

use bytes::Bytes;
use raft::eraftpb;

use crate::convert;
use crate::node::Node;

/// Reads that wait for a new leader's first commit. More are dropped, and asked again by their owners: each is one
/// round of a whole member, so a handful is usual.
const WAITING_READS_MAX: usize = 1024;

impl Node {
    /// Starts a read; its answer is a [`ReadState`](crate::ReadState) with the same `context`.
    ///
    /// `context` must be unique in the cluster, across members and restarts. Returns false when no leader is known:
    /// there will be no answer. Even after true an answer may never come (lost messages, a new leader): ask again
    /// after a while.
    pub fn read_index(&mut self, context: Bytes) -> bool {
        if self.leader() == 0 {
            return false;
        }
        let mut message = eraftpb::Message {
            msg_type: eraftpb::MessageType::MsgReadIndex,
            ..eraftpb::Message::default()
        };
        message.set_entries(vec![convert::proposal(context)].into());
        self.step_read(message);
        self.settle();
        true
    }

    /// Steps a read of this member or of a follower.
    pub(crate) fn step_read(&mut self, message: eraftpb::Message) {
        if !self.is_leader() || self.raft.raft.commit_to_current_term() {
            // A read that cannot be served is dropped without an error.
            let _ = self.raft.step(message);
        } else if self.waiting_reads.len() < WAITING_READS_MAX {
            self.waiting_reads.push(message);
        }
    }

    /// Starts the waiting reads once the leader's first entry is committed; drops them when it no longer leads.
    pub(crate) fn start_waiting_reads(&mut self) {
        if self.waiting_reads.is_empty() {
            return;
        }
        if !self.is_leader() {
            self.waiting_reads.clear();
        } else if self.raft.raft.commit_to_current_term() {
            for message in std::mem::take(&mut self.waiting_reads) {
                let _ = self.raft.step(message);
            }
        }
    }
}
