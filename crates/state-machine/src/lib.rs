//! What every member computes from the log. Pure: same entries, same state, same answers, no IO.
//!
//! ```text
//!  commit thread          client threads, watch hub        storage thread
//!  StateMachine::apply    Reader::range, records, …        Reader::take_flush, compaction_step, evict, hash_kv
//!        │ write lock,          │ read lock,                     │ either lock,
//!        ▼ a batch of entries   ▼ a few hundred keys             ▼ a slice
//!  ┌───────────────────────────────────────────────────────────────────────┐
//!  │ Store    index: key → newest version, value, older versions           │
//!  │          tail: the newest records, not on disk yet or lately flushed  │
//!  │          pending: changes of the small buckets, marks to cut a flush  │
//!  │          members, alarms, users, compactions                          │
//!  └───────────────────────────────────────────────────────────────────────┘
//!                          ▲ what memory does not hold     │ one batch up to one applied entry
//!                          └────────── Backend ◄───────────┘
//! ```
//!
//! A write is durable by the log alone. The backend follows behind and always holds the state after some entry,
//! together with its index, so replay begins there and applies nothing twice.
//!
//! | module | question |
//! |---|---|
//! | `machine`, `apply` | what an entry does |
//! | `reader` | what others may ask |
//! | `check`, `rejection` | what is refused, and why |
//! | `mvcc` | keys with their versions: ranges, transactions, history, compaction, hashes |
//! | `auth` | who may do what |
//! | `lease`, `watch`, `cluster`, `alarm` | the rest of the state, and who hears of its changes |
//! | `store`, `flush`, `cache`, `open` | what is in memory, what goes to disk, what comes back |
//! | `backend`, `schema` | the disk's border and what stands there |
//!
//! Invariants
//! - **Nothing local decides an answer.** Ids, times and tokens are chosen before the proposal and travel in it.
//! - **A read is of one state**, however many slices it takes; if that state is compacted away meanwhile, it says so.
//! - **What the disk does not have is never dropped from memory.**
//! - **A rejection has changed nothing**, with the one exception that etcd makes: a write over the quota is done.

mod alarm;
mod apply;
pub mod auth;
pub mod backend;
mod cache;
pub mod check;
pub mod cluster;
mod durable;
mod flush;
pub mod lease;
pub mod machine;
pub mod mvcc;
mod open;
pub mod reader;
pub mod rejection;
pub mod schema;
mod store;
pub mod watch;

pub use durable::DurableState;
pub use flush::Flush;
pub use machine::{Applied, Config, Response, StateMachine};
pub use reader::{ReadError, Reader};
pub use rejection::Rejection;
pub use store::{Census, Tally};
