//! The client library: typed calls to an etcd cluster over several endpoints.
//!
//! ```text
//!   kv  txn  watch  lease  cluster  maintenance     one file per service, thin and typed
//!                    │
//!                 client        deadline, metadata, size limit, retry rule
//!                    │
//!                 channel       which endpoint gets the next attempt
//!                    │
//!              tonic channels   one per endpoint, reconnecting by themselves
//! ```
//!
//! A [`Client`] is cheap to clone; clones share the connections. Every call goes to one endpoint, round robin,
//! and endpoints that could not be reached a moment ago are asked last.
//!
//! What is tried again follows etcd's own client: a request that certainly never left this process may always be
//! sent to the next endpoint; a read may also be repeated when an answer got lost or said `Unavailable`; a write
//! may not, since it could have been applied. Long-lived streams ([`Watcher`], [`KeepAlive`]) find a new endpoint
//! and go on where they were.

mod channel;
mod client;
mod cluster;
mod error;
mod kv;
mod lease;
mod maintenance;
mod txn;
mod watch;

pub use client::{Client, Config};
pub use error::Error;
pub use kv::{RangeStream, from_key_range, prefix_end, prefix_range};
pub use lease::KeepAlive;
pub use txn::{Txn, compare};
pub use watch::{Watcher, cancellation, is_progress_notify};
