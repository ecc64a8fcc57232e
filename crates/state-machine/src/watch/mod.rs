//! Watch: clients hear of every change of the keys they name, in order, without gap or doubling.
//!
//! There is no queue of events. The store keeps its newest records anyway; a [`Hub`] reads them from there, at the
//! pace at which it is woken, and a watcher that cannot follow reads them again later:
//!
//! ```text
//!              history of the store (RAM tail, then disk)
//!   2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19
//!       ↑               ↑              ↑        ↑
//!   catch_up        catch_up        advance   current revision
//!   (started at 4)  (was parked)    (all who are synced)
//! ```
//!
//! There is one hub on each runtime thread, with the streams of that thread. It is pure and without locks: the thread
//! calls it, and passes the store ([`History`]) and the time. What clients shall receive collects as bytes in one
//! buffer per stream; the stream's body takes it from there.
//!
//! A watcher is in one of four states:
//!
//! - *synced*: it has everything below the hub's next revision. [`Hub::advance`] gives it each new revision at once;
//! - *behind*: it has everything below a revision of its own. [`Hub::catch_up`] gives it history, slice by slice,
//!   until that revision is the hub's. Nothing happens between the last slice and the change to *synced*, since
//!   there is only one thread: no gap, no doubling, nothing to merge;
//! - *parked*: as *behind*, but its stream's buffer is full. It goes on when the buffer was read. Other streams never
//!   wait for it, and what it misses costs no memory;
//! - *compacted*: history below its revision is gone. It was told so, and gets nothing more.
//!
//! All output of a stream, control answers and progress included, goes through its one ordered buffer. So a created
//! answer precedes the watcher's events, and a progress answer for revision R stands behind all events up to R.
//!
//! Invariants
//! - the hub's next revision never falls;
//! - a watcher is *behind* or *parked* only at a revision below the hub's next one;
//! - all events of a revision for one watcher are in one answer (or its fragments), and no later answer has more.

mod catch_up;
mod delivery;
mod encode;
mod history;
mod hub;
mod interval_tree;
mod progress;
mod requests;
mod set;
mod slab;
mod stream;
mod watcher;

pub use history::{History, HistoryError};
pub use hub::{Config, Counters, Hub, StreamId};
