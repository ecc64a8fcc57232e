//! What is agreed: Raft behind a thin, pure driver.
//!
//! A [`Node`] is one member's part in the agreement. It does no IO, reads no clock and starts no thread: ticks and
//! messages go in, an [`Output`] comes out that says what to send, what to write and what is committed. The same calls
//! in the same order give the same outputs, so a whole cluster can be simulated in one thread from one seed.
//!
//! ```text
//!   tick, step, propose, read_index ─▶ ┌──────┐ ─▶ take_messages   may leave at once, by any thread
//!                                      │ Node │
//!   persisted(number), applied(index)─▶└──────┘ ─▶ take_output     by the one thread that writes the log
//! ```
//!
//! The node sits behind a lock that is free while the disk works:
//!
//! ```text
//!   lock    output = node.take_output()
//!   unlock  send output.messages; write output.persist; sync if persist.must_sync
//!   lock    node.persisted(output.number)          only now may the rest be sent:
//!   unlock  send output.messages_after_persist
//!           apply output.committed                 (they were durable here before this output)
//!   lock    node.applied(index)
//! ```
//!
//! Meanwhile other threads may step messages and ticks and send what [`Node::take_messages`] gives them: heartbeats,
//! appends of a leader, answers to pre-votes never wait for a disk.
//!
//! The agreement itself is done by the `raft` crate, whose types end here: the surface speaks
//! [`raftpb`](retcd_api::raftpb), `convert.rs` holds the numbers that differ between the two.
//!
//! Invariants
//! - an entry is given out as committed only when a quorum has it durably *and* this member has;
//! - a promise (a vote, an accepted append, a term's first words) leaves only after it was written;
//! - outputs are persisted in the order in which they were taken;
//! - everything random (the election timeouts) comes from [`Config::seed`].

mod config;
mod convert;
mod error;
mod initial;
mod log;
mod logger;
mod membership;
mod node;
mod output;
mod random;
mod read_index;
mod status;

pub use config::Config;
pub use error::{Error, ProposeError, Refusal};
pub use initial::{FirstMember, InitialState};
pub use node::Node;
pub use output::{Output, Persist, ReadState, SoftState};
pub use status::{PeerProgress, ProgressState, Role, Status};
