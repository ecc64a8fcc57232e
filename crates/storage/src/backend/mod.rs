//! The state machine's data on disk: LMDB, one database per bucket.
//!
//! ```text
//! member/snap/db          the file; grows, never shrinks but by defragment
//! member/snap/db-lock     readers and the writer of that file; means nothing after the process has ended
//! member/snap/db.tmp.*    a copy being made; removed at the next start
//! ```
//!
//! LMDB is a copy-on-write B+tree: a commit writes changed pages to free places, syncs, then writes and syncs one of
//! two meta pages. So a crash at any moment leaves the last commit or the one before it, and readers are never in the
//! way of the writer. Pages that an old reader still sees cannot be reused, which is why no transaction outlives its
//! call, but for a [`Pinned`] state.
//!
//! Beside the buckets a database of our own (`retcd`) says which format the file has, so that a newer one is refused
//! by its number and a foreign one for lacking it. etcd's own database is a bbolt file, which is recognised and left
//! alone (the crate `conversion` makes one of ours out of it); etcd in turn does not start on this one.
//!
//! `heed` does not leave this module.

mod env;
mod files;
mod key;
mod lmdb;
mod loader;
mod pinned;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use lmdb::{Defragmented, LmdbBackend, Options};
pub use loader::Loader;
pub use pinned::Pinned;

use std::io;
use std::path::PathBuf;

use retcd_state_machine::backend::Failure;

/// Why the database file cannot be used. Each stops the member.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "backend: {} is etcd's own bbolt file, which has to be converted first",
        path.display()
    )]
    IsBbolt { path: PathBuf },

    #[error("backend: {} was not written by this program: it names no format", path.display())]
    Foreign { path: PathBuf },

    #[error(
        "backend: {} has format {found}, this program knows format {known} only",
        path.display()
    )]
    UnknownFormat { path: PathBuf, found: String, known: &'static str },

    #[error("backend: cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },

    #[error("backend: cannot {operation} {}: {source}", path.display())]
    Database { operation: &'static str, path: PathBuf, source: heed::Error },

    #[error("backend: {} is closed by an earlier failure", path.display())]
    Closed { path: PathBuf },

    #[error("backend: a key of {len} bytes cannot stand in bucket key, or is no revision")]
    RecordKey { len: usize },

    #[error("backend: {} holds a long key that cannot be read", path.display())]
    LongKey { path: PathBuf },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::because("database file", error)
    }
}
