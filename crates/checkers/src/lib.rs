//! Was everything that clients saw allowed?
//!
//! Searching for a linearization of a history is hard in general. etcd makes it easy: every answer carries the
//! revision at which it is true. So there is only one order that can be right, the order of revisions, and what
//! remains is to check it:
//!
//! ```text
//!   Timeline     the events of all revisions, as a watch from the beginning tells them: is it a possible history?
//!   operations   has each operation its place in it, with the right contents, and do the places respect real time?
//!   watch        did each watcher see exactly its part of it, in order and once?
//! ```
//!
//! The members' timelines must be equal, so no member tells a history of its own. Histories come from real processes
//! (`testkit`) and from the simulation (`sim`).
//!
//! A checker that accepts everything would go unnoticed; the tests beside each feed it histories that are wrong in one
//! way, and compare the verdict on operations with a search over all orders.

pub mod history;
mod operations;
mod random;
mod timeline;
mod watch;

#[cfg(test)]
mod samples;

pub use operations::check_operations;
pub use random::Dice;
pub use timeline::{Event, Timeline};
pub use watch::{Filter, Reply, Session, Trace, WatchedEvent, check_watch};

use history::{Record, Version};

/// What should not have happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("revision {expected} is missing, {found} comes next")]
    RevisionMissing { expected: i64, found: i64 },
    #[error("event does not follow from the ones before: {event:?}, before it: {before:?}")]
    ImpossibleEvent { event: Box<Event>, before: Option<Version> },
    #[error("member {member} tells another history than member {other} at revision {revision}")]
    HistoriesDiffer { member: usize, other: usize, revision: i64 },

    #[error("acknowledged write is not in the history: {0:?}")]
    LostWrite(Box<Record>),
    #[error("two writes were acknowledged at one revision: {0:?} and {1:?}")]
    SharedRevision(Box<Record>, Box<Record>),
    #[error("revision {revision} was written by nobody, or a second time: {events:?}")]
    UnexplainedWrite { revision: i64, events: Vec<Event> },
    #[error("read of what was not there, which was {expected:?}: {record:?}")]
    WrongRead { record: Box<Record>, expected: Option<Version> },
    #[error("the lease was over, but it still has keys: {0:?}")]
    KeptKeys(Box<Record>),
    #[error("condition was judged wrongly, the key was at {actual}: {record:?}")]
    WrongSwap { record: Box<Record>, actual: i64 },
    #[error(
        "order of revisions contradicts time: {later:?} had returned before {earlier:?} was called"
    )]
    OutOfOrder { earlier: Box<Record>, later: Box<Record> },

    #[error("watcher {watcher}: revision {revision} after {last}")]
    WatchOutOfOrder { watcher: usize, revision: i64, last: i64 },
    #[error("watcher {watcher}: revision {revision} comes in two answers")]
    WatchSplitRevision { watcher: usize, revision: i64 },
    #[error("watcher {watcher}: event is missing: {event:?}")]
    WatchMissing { watcher: usize, event: Box<Event> },
    #[error(
        "watcher {watcher}: event comes twice, or is not in the history, or not its own: {event:?}"
    )]
    WatchExtra { watcher: usize, event: Box<Event> },
    #[error("watcher {watcher}: event of revision {revision} after progress to {progress}")]
    WatchBehindProgress { watcher: usize, revision: i64, progress: i64 },
    #[error("watcher {watcher}: progress to {revision} after {last}")]
    WatchProgressFell { watcher: usize, revision: i64, last: i64 },
    #[error("watcher {watcher}: progress to {progress}, but not delivered: {event:?}")]
    WatchProgressTooEarly { watcher: usize, progress: i64, event: Box<Event> },
    #[error("watcher {watcher}: previous version of {event:?} was {expected:?}, told was {told:?}")]
    WatchWrongPrevious {
        watcher: usize,
        event: Box<Event>,
        expected: Option<Box<Version>>,
        told: Option<Box<Version>>,
    },
    #[error("watcher {watcher} was cancelled: {reason:?}")]
    WatchCancelled { watcher: usize, reason: String },
}
