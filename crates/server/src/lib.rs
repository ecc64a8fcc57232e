//! The member: tasks, queues and timers around the pure parts.
//!
//! [`server::run`] is the program. Read `node/mod.rs` for the way of a request from the log to its answer, `grpc/mod.rs`
//! and `http1/mod.rs` for how calls come in, `services/` for what each of them does.

mod background;
pub mod bootstrap;
mod calls;
pub mod config;
mod discovery;
mod doors;
mod grpc;
mod http;
mod http1;
pub mod logging;
mod memory_lock;
pub mod metrics;
mod node;
mod peer;
pub mod server;
mod services;
mod signal;
mod snapshot;
pub mod tcp_proxy;
pub mod tokens;
mod traces;
