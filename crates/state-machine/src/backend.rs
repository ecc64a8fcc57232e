//! What the state machine asks of a disk: ordered buckets, and one atomic batch at a time.
//!
//! The log is what makes a write durable; the backend follows behind it. A batch carries the Raft index up to which
//! it is complete, so a restart replays the log from exactly there.

mod memory;

pub use memory::MemoryBackend;

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::mvcc::RecordKey;
use crate::schema::Bucket;

/// Encoded bytes that several owners share: the cached value of a key, the history tail, a batch on its way to disk.
pub type Encoded = Arc<[u8]>;

/// A local fault of the disk or of what was read from it. It never becomes an answer to a client: it stops the member.
#[derive(Debug, thiserror::Error)]
#[error("backend: {message}")]
pub struct Failure {
    pub message: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Failure { message: message.into(), source: None }
    }

    pub fn because(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Failure { message: message.into(), source: Some(source.into()) }
    }
}

/// One change of a bucket other than `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub bucket: Bucket,
    pub key: Vec<u8>,
    /// `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// All that one commit writes, atomically.
#[derive(Debug, Default)]
pub struct Batch {
    /// New records of bucket `key`: ascending, and above every record stored so far.
    pub records: Vec<(RecordKey, Encoded)>,
    /// Records of bucket `key` that compaction drops. An absent one is no error.
    pub dropped: Vec<RecordKey>,
    /// Changes of the other buckets, applied in order.
    pub changes: Vec<Change>,
}

/// Bytes of the database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Allocated, free pages included. What the quota is compared with.
    pub total_bytes: u64,
    /// Without free pages.
    pub in_use_bytes: u64,
}

/// What a scan shows its entries to: key and value, until it breaks.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Ordered buckets. Reads see the last committed batch; each call is one short read transaction.
pub trait Backend: Send + Sync + 'static {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Failure>;

    /// Looks up many records of bucket `key` at once; `visit` gets the position in `keys` and the value, if there is one.
    fn get_records(
        &self,
        keys: &[RecordKey],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), Failure>;

    /// Visits entries in key order, from `from` (included) until `visit` breaks or the bucket ends.
    fn scan(&self, bucket: Bucket, from: &[u8], visit: Visit<'_>) -> Result<(), Failure>;

    /// How many entries a bucket has. Cheap.
    fn count(&self, bucket: Bucket) -> Result<usize, Failure>;

    /// Writes a batch, durably. Returns when it is on disk.
    fn commit(&self, batch: &Batch) -> Result<(), Failure>;

    fn size(&self) -> Result<Size, Failure>;
}
