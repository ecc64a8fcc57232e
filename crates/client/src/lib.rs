//! The client library: typed calls to an etcd cluster over several endpoints.
//!
//! ```text
//!   concurrency   naming   leasing  mirror          recipes for many processes, services by name, caches
//!          \          \      /       /
//!   kv  txn  watch  lease  auth  cluster  maintenance  lock      one file per service, thin and typed
//!                │
//!               hub                one stream for all watches of a client
//!                │
//!              client              deadline, identity, namespace, order, size limit, retry rule
//!                │
//!             channel              which endpoint gets the next attempt
//!                │
//!            dial  tls             connections
//! ```
//!
//! A [`Client`] is cheap to clone; clones share the connections. Every call goes to one endpoint, round robin,
//! and endpoints that were of no use a moment ago are asked last.
//!
//! What is tried again follows etcd's own client: a request that certainly never left this process may always be
//! sent to the next endpoint; a read may also be repeated when an answer got lost or said `Unavailable`; a write
//! may not, since it could have been applied: [`Error::may_have_happened`] says so. Long-lived streams
//! ([`Subscription`], [`Watcher`], [`KeepAlive`]) find a new endpoint and go on where they were.
//!
//! ```no_run
//! # async fn example() -> Result<(), retcd_client::Error> {
//! use std::time::Duration;
//! use retcd_client::{Client, Get, Put};
//!
//! let client = Client::builder(["127.0.0.1:2379"]).timeout(Duration::from_secs(5)).build()?;
//! client.put(Put::new("k", "v")).await?;
//! assert_eq!(client.range(Get::key("k")).await?.kvs[0].value, "v");
//! # Ok(())
//! # }
//! ```
//!
//! Where to look further: [`Client::watch`] for events, [`concurrency::Session`] for a lease that is kept alive,
//! [`concurrency`] for agreement, [`naming`] for services by name, [`Client::namespaced`], [`Client::ordered`],
//! [`Leasing`] and [`Mirror`] for other views of the keys. Each has a runnable program in `examples/`, and
//! `docs/client.md` is a cookbook.

#![warn(missing_docs)]

mod auth;
mod balancer;
mod channel;
mod client;
mod cluster;
pub mod concurrency;
mod dial;
mod error;
mod hub;
mod identity;
mod kv;
mod lease;
mod leasing;
mod lock;
mod maintenance;
mod mirror;
mod namespace;
pub mod naming;
mod ordering;
mod request;
mod subscription;
mod tls;
mod txn;
mod unary;
mod watch;

pub use client::{Builder, Client, Config};
pub use error::Error;
pub use kv::{RangeStream, from_key_range, prefix_end, prefix_range};
pub use lease::KeepAlive;
pub use leasing::Leasing;
pub use lock::LeaderStream;
pub use maintenance::Snapshot;
pub use mirror::{Base, Mirror};
pub use request::{Compact, Delete, Get, Put, Watch};
pub use subscription::Subscription;
pub use tls::Tls;
pub use txn::{Condition, Txn, compare, key, keys_with_prefix};
pub use watch::{Watcher, cancellation, is_progress_notify};

/// The code of the cookbook, so that it compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/client.md")]
pub struct Cookbook;
