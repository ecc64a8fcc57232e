//! What every member computes from the log. Pure: same entries, same state, same answers, no IO.

pub mod backend;
pub mod check;
pub mod cluster;
pub mod lease;
pub mod machine;
pub mod mvcc;
pub mod reader;
pub mod rejection;
pub mod schema;
pub mod watch;

pub use machine::{Applied, Config, Response, StateMachine};
pub use reader::{ReadError, Reader};
pub use rejection::Rejection;
