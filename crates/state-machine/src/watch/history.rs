//! What a hub asks of the store: its newest changes, and values as they were.

use crate::backend::{Encoded, Failure};
use crate::mvcc::Record;

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Records from the asked revision on are no longer complete; the number is the compacted revision.
    #[error("the history before revision {0} has been compacted")]
    Compacted(i64),
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// The history of one store. The store moves on while a hub reads: every method sees it as it is at that call.
///
/// [`crate::watch::Hub::advance`] trusts `records` alone to tell it of a compaction. A store therefore keeps what the
/// hubs have not read yet through a compaction, or watchers that are fresh would be cancelled by it.
pub trait History {
    /// The newest revision; 1 in an empty store.
    fn current_revision(&self) -> i64;

    /// The revision of the last compaction, -1 before the first.
    fn compacted_revision(&self) -> i64;

    /// The Raft term for response headers.
    fn raft_term(&self) -> u64;

    /// Appends the records of main revision `from` and above to `out`, in order.
    ///
    /// Whole revisions only: it stops behind the revision in which `limit` records are reached, and may stop earlier.
    /// Returns the next main revision to ask for, which is above `from` whenever `from` is not in the future.
    ///
    /// # Errors
    /// [`HistoryError::Compacted`] when records from `from` on may be missing. What an error leaves in `out` is not used.
    fn records(&self, from: i64, limit: usize, out: &mut Vec<Record>) -> Result<i64, HistoryError>;

    /// The encoded `KeyValue` of `key` as it was at revision `main`; `None` when the key did not exist or `main` is
    /// compacted.
    fn value_at(&self, key: &[u8], main: i64) -> Result<Option<Encoded>, Failure>;
}
