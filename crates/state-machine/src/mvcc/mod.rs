//! Keys with all their versions.
//!
//! | file | question |
//! |---|---|
//! | `revision`, `record`, `kv`, `key_range` | the words: clock, one change, its bytes, which keys |
//! | `index` | which versions has a key |
//! | `tail` | what was changed lately |
//! | `range`, `range_stream`, `txn` | reads, and requests made of several |
//! | `write` | puts and deletes |
//! | `compaction`, `hash` | what is forgotten, and what members compare |

mod compaction;
mod hash;
pub(crate) mod index;
mod key_range;
pub(crate) mod kv;
pub(crate) mod range;
pub(crate) mod range_stream;
mod record;
mod revision;
pub(crate) mod tail;
pub(crate) mod txn;
pub(crate) mod write;

pub use compaction::CompactionStep;
pub(crate) use compaction::Compactions;
pub use hash::HashKv;
pub(crate) use hash::{Hashes, all_buckets as hash_all_buckets};
pub use key_range::{End, KeyRange};
pub use kv::KeyValue;
pub use range_stream::{Chunk, RangeStream};
pub use record::{Record, encoded_key};
pub use revision::{RecordKey, Revision};
