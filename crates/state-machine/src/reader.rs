//! The state machine: everybody else's half.
//!
//! A [`Reader`] is cheap to clone and may be used from any thread. Client threads read keys, members and alarms; the
//! storage thread takes what is to be written, and does compaction, cache and hashing in slices.

use retcd_api::etcdserverpb as pb;

use crate::backend::{Batch, Encoded, Failure, Size};
use crate::cluster;
use crate::machine::Response;
use crate::mvcc::Record;
use crate::rejection::Rejection;

/// Why a read gave nothing: a "no" for the client, or a fault of this member.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Rejection(#[from] Rejection),
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// Why the history cannot be read from where the caller wants it.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("the history begins at {compacted}")]
    Compacted { compacted: i64 },
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// What one commit of the backend is to write: a consistent cut up to one applied entry.
#[derive(Debug)]
pub struct Flush {
    pub batch: Batch,
    /// The last entry whose effects the batch completes.
    pub applied_index: u64,
    /// Bytes of the batch, roughly.
    pub bytes: usize,
}

/// A piece of compaction work.
#[derive(Debug)]
pub enum CompactionStep {
    /// Nothing to do.
    Idle,
    /// The records to compact are not all flushed yet: flush first.
    NotFlushed,
    /// To be committed in this order with the steps before it; then call again.
    Work(Batch),
}

/// `HashKVResponse` without its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    /// -1 when nothing was compacted yet.
    pub compact_revision: i64,
    pub hash_revision: i64,
    /// Of the store, for the header.
    pub current_revision: i64,
}

/// A cheap, shared view of the state.
#[derive(Clone)]
pub struct Reader {}

/// # State
impl Reader {
    /// The newest revision.
    pub fn revision(&self) -> i64 {
        unimplemented!()
    }

    /// The last accepted compaction; -1 when there was none.
    pub fn compacted_revision(&self) -> i64 {
        unimplemented!()
    }

    /// The last compaction whose old records are gone; -1 when there was none.
    pub fn finished_compaction_revision(&self) -> i64 {
        unimplemented!()
    }

    pub fn applied_index(&self) -> u64 {
        unimplemented!()
    }

    /// Everything that is not on disk yet, in bytes.
    pub fn pending_bytes(&self) -> usize {
        unimplemented!()
    }

    /// What the quota is compared with, and the bytes in use.
    pub fn size(&self) -> Size {
        unimplemented!()
    }

    /// Live keys.
    pub fn keys(&self) -> u64 {
        unimplemented!()
    }

    /// Whether a write of this [charge](crate::check::charge) fits the quota.
    pub fn fits_quota(&self, charge: u64) -> bool {
        let _ = charge;
        unimplemented!()
    }
}

/// # Reads
impl Reader {
    pub fn range(&self, request: &pb::RangeRequest) -> Result<Response, ReadError> {
        let _ = request;
        unimplemented!()
    }

    /// The answer in chunks at one revision. `chunk_bytes` is the size that chunks aim at (max-request-bytes).
    pub fn range_stream(
        &self,
        request: &pb::RangeRequest,
        chunk_bytes: usize,
    ) -> Result<RangeStream, ReadError> {
        let _ = (request, chunk_bytes);
        unimplemented!()
    }

    /// A transaction for which [`check::is_read_only`](crate::check::is_read_only) holds.
    pub fn txn_read_only(&self, request: &pb::TxnRequest) -> Result<Response, ReadError> {
        let _ = request;
        unimplemented!()
    }

    /// Appends the records of whole revisions from main revision `from` on, until `limit` records are reached or the
    /// history ends; returns the main revision to go on with.
    pub fn records(
        &self,
        from: i64,
        limit: usize,
        out: &mut Vec<Record>,
    ) -> Result<i64, HistoryError> {
        let _ = (from, limit, out);
        unimplemented!()
    }

    /// The value that `key` had before main revision `revision`. `None` when there was none or it was compacted.
    pub fn value_before(&self, key: &[u8], revision: i64) -> Result<Option<Encoded>, Failure> {
        let _ = (key, revision);
        unimplemented!()
    }
}

/// Chunks of a `RangeStreamResponse.range_response` body: only the last one carries count and more.
pub struct RangeStream {}

impl Iterator for RangeStream {
    /// The body without header, and whether it is the last; the header belongs to the last one only.
    type Item = Result<Chunk, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}

/// One piece of a [`RangeStream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub response: Response,
    pub is_last: bool,
}

/// # Members and alarms
impl Reader {
    /// Sorted by id.
    pub fn members(&self) -> Vec<cluster::Member> {
        unimplemented!()
    }

    pub fn member(&self, id: u64) -> Option<cluster::Member> {
        let _ = id;
        unimplemented!()
    }

    /// Ids that were members once and can never be again.
    pub fn removed_members(&self) -> Vec<u64> {
        unimplemented!()
    }

    /// Text such as `3.7.0`; `None` while undecided.
    pub fn cluster_version(&self) -> Option<String> {
        unimplemented!()
    }

    pub fn downgrade(&self) -> cluster::Downgrade {
        unimplemented!()
    }

    pub fn alarms(&self) -> Vec<pb::AlarmMember> {
        unimplemented!()
    }

    /// Whether an alarm of this kind is active for any member.
    pub fn has_alarm(&self, kind: pb::AlarmType) -> bool {
        let _ = kind;
        unimplemented!()
    }

    /// Why a conf change would be refused when applied now: the check that the leader makes before proposing.
    pub fn check_conf_change(
        &self,
        change: &retcd_api::raftpb::ConfChange,
    ) -> Result<(), Rejection> {
        let _ = change;
        unimplemented!()
    }
}

/// # Storage thread
impl Reader {
    /// What is to be written next, up to about `max_bytes`. `None` when all is on disk. Commit the batch, then call
    /// [`flushed`](Self::flushed); one flush at a time.
    pub fn take_flush(&self, max_bytes: usize) -> Option<Flush> {
        let _ = max_bytes;
        unimplemented!()
    }

    /// Marks a committed flush as on disk.
    pub fn flushed(&self, flush: Flush) -> Result<(), Failure> {
        let _ = flush;
        unimplemented!()
    }

    /// Drops flushed values from memory while the cache is over its budget, looking at no more than `keys` keys.
    /// Returns whether it is still over.
    pub fn evict(&self, keys: usize) -> bool {
        let _ = keys;
        unimplemented!()
    }

    /// Loads values into a cache that is under its budget, at most `keys` of them. Returns whether there is more.
    pub fn warm(&self, keys: usize) -> Result<bool, Failure> {
        let _ = keys;
        unimplemented!()
    }

    /// The next piece of the pending compaction, looking at no more than `records` records. A returned batch must be
    /// committed before the next call.
    pub fn compaction_step(&self, records: usize) -> Result<CompactionStep, Failure> {
        let _ = records;
        unimplemented!()
    }

    /// etcd's `HashKV`; revision 0 means the current one. Call it on the storage thread.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        let _ = revision;
        unimplemented!()
    }

    /// The last compactions' hashes, newest first, as the corruption check walks them.
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        unimplemented!()
    }

    /// etcd's `Hash`: of all buckets as they stand in the backend.
    pub fn hash(&self) -> Result<u32, Failure> {
        unimplemented!()
    }
}
