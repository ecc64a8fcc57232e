//! Keys with all their versions.

mod record;
mod revision;

pub use record::{Record, encoded_key};
pub use revision::{RecordKey, Revision};
