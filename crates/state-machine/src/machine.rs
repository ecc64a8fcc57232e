//! The state machine: the writer's half.
//!
//! The commit thread owns [`StateMachine`] and is the only one to change the state; everybody else holds a
//! [`Reader`]. Both share one store behind a lock that the writer takes once per batch of
//! entries and readers for a few hundred keys at a time, so nobody waits for more than tens of microseconds.

use std::sync::Arc;
use std::time::Duration;

use retcd_api::raftpb;

use crate::backend::{Backend, Failure};
use crate::reader::Reader;
use crate::rejection::Rejection;

/// How many entries one call of [`StateMachine::apply`] may hold, so that the lock is short.
pub const BATCH_ENTRIES_MAX: usize = 64;

/// What a member decides for itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of the database file above which writes are answered with "no space". `None` never blocks.
    pub quota_bytes: Option<u64>,
    /// Bytes of current values that are kept in memory once they are on disk.
    pub cache_bytes: usize,
    /// Shorter lease times are raised to this many seconds.
    pub lease_ttl_min: i64,
    /// Learners that a cluster may have at once.
    pub learners_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            quota_bytes: Some(2 << 30),
            cache_bytes: 1 << 30,
            lease_ttl_min: 2,
            learners_max: 1,
        }
    }
}

/// An answer without its header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// `header.revision` of the answer.
    pub revision: i64,
    /// The encoded response message without field 1, the header. Empty when nobody wants it.
    pub body: Vec<u8>,
}

/// What became of one entry.
#[derive(Debug)]
pub struct Applied {
    pub index: u64,
    /// The id its proposer waits on; 0 when there is none (an empty entry).
    pub request_id: u64,
    pub outcome: Result<Response, Rejection>,
    /// The membership change to hand to Raft, validated: `node_id` is 0 when it was refused. After an accepted one
    /// [`StateMachine::set_conf_state`] must be called with what Raft made of it.
    pub conf_change: Option<raftpb::ConfChange>,
    /// The entry's effects were in the backend already when it was opened, so nothing was done now.
    pub is_skipped: bool,
}

/// The writer.
pub struct StateMachine {
    reader: Reader,
}

impl StateMachine {
    /// Reads the state from a backend, which may be empty.
    pub fn open(backend: Arc<dyn Backend>, config: Config) -> Result<Self, Failure> {
        let _ = (backend, config);
        unimplemented!()
    }

    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// The last entry whose effects are in the state: replay begins behind it.
    pub fn applied_index(&self) -> u64 {
        unimplemented!()
    }

    /// Raft's view of the membership as of the last [`set_conf_state`](Self::set_conf_state).
    pub fn conf_state(&self) -> Option<raftpb::ConfState> {
        unimplemented!()
    }

    /// Applies committed entries in order, at most [`BATCH_ENTRIES_MAX`] under one lock, and pushes one [`Applied`]
    /// per entry to `out`.
    ///
    /// `wants` tells whether somebody waits for the answer to a request id; other answers are not built. `now` is
    /// the caller's monotonic clock, which only lease deadlines use.
    ///
    /// # Errors
    /// A failure is local and final: the state may hold half a batch and must be thrown away.
    pub fn apply(
        &mut self,
        entries: &[raftpb::Entry],
        wants: impl Fn(u64) -> bool,
        now: Duration,
        out: &mut Vec<Applied>,
    ) -> Result<(), Failure> {
        let _ = (entries, wants(0), now, out);
        unimplemented!()
    }

    /// Stores what Raft made of an accepted membership change. Until then nothing behind that entry is flushed.
    pub fn set_conf_state(&mut self, conf_state: &raftpb::ConfState) {
        let _ = conf_state;
        unimplemented!()
    }

    /// Replaces the whole state by a received one; readers and watchers go on with it.
    pub fn install(&mut self, backend: Arc<dyn Backend>) -> Result<(), Failure> {
        let _ = backend;
        unimplemented!()
    }
}
