//! The client library: typed calls to an etcd cluster over several endpoints.
//!
//! ```text
//!   concurrency   naming                            recipes for many processes, and services by name
//!                    │
//!   kv  txn  watch  lease  auth  cluster  maintenance     one file per service, thin and typed
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
//!
//! ```no_run
//! use retcd_api::etcdserverpb::{PutRequest, RangeRequest};
//! use retcd_client::{Client, Config};
//!
//! # async fn example() -> Result<(), retcd_client::Error> {
//! let config = Config { endpoints: vec!["127.0.0.1:2379".into()], ..Config::default() };
//! let client = Client::new(&config)?.with_timeout(std::time::Duration::from_secs(5));
//! client.put(PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }).await?;
//! let found = client.range(RangeRequest { key: "k".into(), ..Default::default() }).await?;
//! assert_eq!(found.kvs[0].value, "v");
//! # Ok(())
//! # }
//! ```
//!
//! Where to look further: [`Client::watch`] for events, [`concurrency::Session`] for a lease that is kept alive,
//! [`concurrency::Mutex`], [`concurrency::Election`] and [`concurrency::transact`] for agreement,
//! [`naming::Endpoints`] and [`naming::resolve`] for services by name. Each has a runnable program in `examples/`.

mod auth;
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
