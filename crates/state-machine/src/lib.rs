//! What every member computes from the log. Pure: same entries, same state, same answers, no IO.

mod alarm;
mod apply;
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
