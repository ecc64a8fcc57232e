//! What every member computes from the log. Pure: same entries, same state, same answers, no IO.

pub mod backend;
pub mod mvcc;
pub mod schema;
