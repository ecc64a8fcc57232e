//! How a member takes part: timing in ticks, sizes in bytes.

use crate::Error;

/// How many bytes of committed entries one [`Output`](crate::Output) carries at most (one entry may be larger).
///
/// Bounds how long one batch of applies keeps the next disk sync waiting, and the memory of a long replay at start.
const COMMITTED_BYTES_PER_OUTPUT: u64 = 4 << 20;

/// Settings of one [`Node`](crate::Node). [`Config::new`] has etcd's defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member's id, never 0.
    pub id: u64,
    /// A follower that hears no leader starts an election after a random number of ticks in `[n, 2n - 1]`.
    pub election_ticks: usize,
    /// A leader sends heartbeats every so many ticks.
    pub heartbeat_ticks: usize,
    /// Ask whether an election could be won before disturbing anybody with a higher term.
    pub pre_vote: bool,
    /// A leader that hears no quorum for an election timeout steps down; members that hear a leader refuse to vote.
    pub check_quorum: bool,
    /// Entries in one append message, in bytes; a larger single entry travels alone.
    pub max_message_bytes: u64,
    /// Append messages to one peer that may wait for their answers.
    pub max_inflight: usize,
    /// Payload bytes a leader accepts beyond what is committed; `u64::MAX` for no limit.
    pub max_uncommitted_bytes: u64,
    /// Seeds the election timeouts. Members must have different ones, or they stand for election together.
    pub seed: u64,
}

impl Config {
    /// etcd's defaults for the member `id`: a tick is 100 ms.
    pub fn new(id: u64, seed: u64) -> Self {
        Self {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            check_quorum: true,
            max_message_bytes: 1 << 20,
            max_inflight: 512,
            max_uncommitted_bytes: u64::MAX,
            seed,
        }
    }

    pub(crate) fn to_raft(&self, applied: u64) -> Result<raft::Config, Error> {
        let config = raft::Config {
            id: self.id,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied,
            max_size_per_msg: self.max_message_bytes,
            max_inflight_msgs: self.max_inflight,
            check_quorum: self.check_quorum,
            pre_vote: self.pre_vote,
            // Merging appends has no size limit in the library; proposals come in batches anyway.
            batch_append: false,
            max_uncommitted_size: self.max_uncommitted_bytes,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_OUTPUT,
            ..raft::Config::default()
        };
        config.validate().map_err(|error| Error::InvalidConfig(error.to_string()))?;
        Ok(config)
    }
}
