//! Recipes for processes that have to agree: sessions, locks, elections, transactions over several keys.
//!
//! ```text
//!   mutex   rw_mutex   election   barrier        stm      queue
//!       \       |         |        /              reads, then one guarded transaction
//!                 claim                           a place in the queue under a prefix
//!                   │
//!                session                          a lease that is kept alive in the background
//! ```
//!
//! Keys are those of etcd's Go packages `clientv3/concurrency` and `recipes`, so programs in both languages exclude each
//! other: a
//! claim is the key `<name>/<lease id in hex>`, written under the lease of its session, and the claim with the lowest
//! create revision is the owner. Everybody else waits for the deletion of the claim right before its own, so one
//! release wakes one waiter.
//!
//! A lease may end while its owner is paused and does not know. So what a lock protects should refuse the late: pass
//! [`Locked::fencing_token`] along, or add [`Locked::is_owner`] to the transaction that writes.
//!
//! Dropping stands for giving up: a dropped [`Locked`] or [`Leadership`] is released in the background, as is the
//! claim of a [`Mutex::lock`] or [`Election::campaign`] that was dropped while it waited.

mod barrier;
mod claim;
mod election;
mod mutex;
mod queue;
mod rw_mutex;
mod session;
mod stm;

pub use barrier::{DoubleBarrier, Entered};
pub use election::{Election, Leadership, Observer};
pub use mutex::{Locked, Mutex};
pub use queue::{PriorityQueue, Queue};
pub use rw_mutex::RwMutex;
pub use session::{SESSION_TTL, Session};
pub use stm::{Committed, Isolation, Stm, transact};

/// Why a recipe could not be followed. The texts are those of etcd's Go package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A call failed.
    #[error(transparent)]
    Client(#[from] crate::Error),
    /// Somebody else holds the mutex, or is ahead in its queue.
    #[error("mutex: Locked by another session")]
    Locked,
    /// The lease has ended, and with it every claim of the session.
    #[error("mutex: session is expired")]
    SessionExpired,
    /// The leadership has been lost.
    #[error("election: not leader")]
    NotLeader,
    /// Nobody leads.
    #[error("election: no leader")]
    NoLeader,
    /// As many as a barrier waits for have entered it already.
    #[error("too many clients")]
    TooManyClients,
    /// A key below a priority queue that the queue has not made.
    #[error("key {0:?} does not belong to the queue")]
    ForeignItem(bytes::Bytes),
}
