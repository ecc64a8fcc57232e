//! How members talk to each other: etcd's peer protocol, so that a Go member can be in the same cluster.
//!
//! ```text
//!   commit thread, ticker                 background runtime                              other member
//!   ─────────────────────                 ──────────────────                              ────────────
//!   Network::send ─► outbox of the peer ─► append stream  ─► body of its GET …/msgapp   ─► its reader
//!        │             (bounded)           message stream ─► body of its GET …/message  ─► its reader
//!        └── one wake a batch              pipeline       ─► POST /raft (no stream is up)
//!                                          snapshot sender─► POST /raft/snapshot
//!
//!   Inbox::step ◄── stream readers (our own GETs at the peer), POST /raft, POST /raft/snapshot
//! ```
//!
//! The receiver dials: each member opens both streams at every peer and reads the endless answers, so two members hold
//! four streams. The answer's body pulls from the peer's outbox when the socket takes more ([`outbox`]); nothing is
//! buffered twice.
//!
//! Three rules keep the rest of the member safe from the network:
//! - [`Network::send`] never waits and never calls back; what was dropped is reported to Raft later, from the runtime.
//! - Every queue is bounded in messages and bytes. A full one drops and reports: Raft sends again.
//! - Every wait for a peer has a limit; a silent link is a broken one after five seconds.
//!
//! `wire/` has the formats, [`network`] the handle, [`outbox`] what waits and [`writer`] how it leaves, [`pipeline`] the
//! POSTs, [`inbox`] the way in, [`snapshot_stream`] whole databases, [`probe`] round trips. [`door`] is what the peer port
//! answers, [`requests`] the calls between members that are not Raft's, [`client`] how a member makes such calls, [`dialer`]
//! how all of them get there.
#![allow(
    dead_code,
    unused_imports,
    reason = "some questions that members may ask are asked by tests only so far"
)]

mod chunks;
pub(crate) mod client;
mod connection;
mod dialer;
mod door;
mod inbox;
mod meters;
mod network;
mod outbox;
mod pipeline;
mod probe;
pub(crate) mod requests;
mod snapshot_stream;
mod status;
mod timestamp;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use chunks::{ChunkSender, Chunks, Closed, chunks};
pub(crate) use dialer::Dialer;
pub(crate) use inbox::Inbox;
pub(crate) use network::{Callbacks, Network, Settings};
pub(crate) use requests::{LeaseError, PeerRequests, Versions};
pub(crate) use snapshot_stream::{
    IncomingSnapshot, OutgoingSnapshot, SnapshotReceiver, SnapshotSource,
};

/// An answer that takes a while, of a trait that is used as an object.
pub(crate) type Later<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;
