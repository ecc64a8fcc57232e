//! Keys with all their versions.

mod revision;

pub use revision::{RecordKey, Revision};
