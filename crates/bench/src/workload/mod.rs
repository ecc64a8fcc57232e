//! What clients can be told to do: one file per workload.

pub(crate) mod compaction;
pub(crate) mod delete;
pub(crate) mod floor;
pub(crate) mod gateway;
pub(crate) mod lease;
pub(crate) mod mixed;
pub(crate) mod preload;
pub(crate) mod put;
pub(crate) mod range;
pub(crate) mod restart;
pub(crate) mod txn;
pub(crate) mod watch;

use crate::client::CallError;

/// The error of an answer that does not fit its question.
fn unexpected(text: impl Into<String>) -> CallError {
    CallError::Unexpected(text.into())
}
