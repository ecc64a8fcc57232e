//! The disk: the only crate that touches the data dir. It blocks, and knows no runtime.
//!
//! ```text
//! <data-dir>/member/wal/    segments of the log           wal/         what makes a write durable
//! <data-dir>/member/snap/   *.snap: Raft snapshots        snapshot.rs  where the log may be cut
//!                           db: the state machine's data  backend/     follows behind the log
//! ```
//!
//! Three parts that know nothing of each other, over one small file system interface ([`fs`]) with a real side and a
//! simulated one that forgets what was not synced. A failed write or sync is never retried: after it nobody knows what
//! the disk holds, so the caller has to end the process and read everything back.

pub mod backend;
pub mod data_dir;
pub mod fs;
pub mod snapshot;
mod sys;
pub mod wal;
