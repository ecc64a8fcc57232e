//! Whole databases on their way to other members, to clients, and in.
//!
//! What is on the disk is LMDB; what travels is a bbolt file, as etcd's members and tools know it. The buckets are the
//! same, so both directions are plain loops ([`bbolt`]).
//!
//! ```text
//!  storage thread        a thread per export                             connection
//!  ──────────────        ───────────────────                             ──────────
//!  flush, pin ─────────► measure, then write ──► bounded queue ────────► POST /raft/snapshot, Maintenance.Snapshot
//!
//!  connection            a thread per import                             storage thread
//!  ──────────            ───────────────────                             ──────────────
//!  POST /raft/snapshot ► tmp.… ► <index>.snap.lmdb                       db   (when Raft and the log have the snapshot)
//!                        as sent converted, durable                      in use
//! ```
//!
//! **Out** ([`Exporter`]). The storage thread writes everything that was applied and holds on to that state; index, term
//! and members are read out of the very state that is sent, so they cannot disagree with it. It is read twice: first for
//! its measures, since the file begins with what is known last and its length is told in advance.
//!
//! **In** ([`Importer`]). Raft hears of a snapshot only when its database is converted and durable. So once the log has
//! the snapshot, the database is there, and every crash before or after is made good at the next start:
//!
//! | crash | what the start finds | what it does |
//! |---|---|---|
//! | while receiving or converting | half files | removes them |
//! | before the log confirms the snapshot | a database that nobody asks for | removes it: the leader sends it again |
//! | before the database has its place | `db` behind the log's snapshot | takes the received database ([`recover`]) |
//! | afterwards | `db` at the snapshot | nothing |
//!
//! Memory is bounded on both ways, whatever the size of the database.

mod exporter;
mod exports;
mod importer;
mod received;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use retcd_state_machine::backend::Failure;

pub(crate) use exporter::{Export, Exporter};
pub(crate) use exports::Exports;
pub(crate) use importer::Importer;
pub(crate) use received::recover;
pub(crate) use retcd_conversion::{Membership, durable_state};

/// Why a database was not exported, imported or taken into use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },

    #[error(transparent)]
    Backend(#[from] retcd_storage::backend::Error),

    #[error(transparent)]
    Failure(#[from] Failure),

    #[error("cannot write the database: {0}")]
    Write(#[from] retcd_bbolt::Error),

    #[error("what was received cannot be used: {0}")]
    Conversion(#[from] retcd_conversion::Error),

    #[error("the received database breaks off: {0}")]
    BreaksOff(#[source] io::Error),

    #[error(
        "the received database holds the state at index {found}, the snapshot is of index {announced}"
    )]
    Old { found: u64, announced: u64 },

    #[error("a snapshot message names no index")]
    NoIndex,

    #[error("there is nothing to export yet: no entry was applied and written")]
    Empty,

    #[error("the database is at index {found}, Raft sends a snapshot of index {wanted}")]
    Behind { found: u64, wanted: u64 },

    #[error(
        "failed to find database snapshot file (snap: snapshot file doesn't exist): the database is at index {applied}, \
         but the log begins behind the snapshot of index {snapshot}, and no database of that snapshot was received"
    )]
    Missing { applied: u64, snapshot: u64 },
}

impl Error {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Error::Io { operation, path, source }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Failure(failure) => failure,
            error => Failure::new(error.to_string()),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io { source, .. } | Error::BreaksOff(source) => {
                let kind = source.kind();
                io::Error::new(kind, source)
            }
            error @ (Error::Conversion(
                retcd_conversion::Error::Damaged(_)
                | retcd_conversion::Error::Entry { .. }
                | retcd_conversion::Error::Failure(_),
            )
            | Error::Old { .. }
            | Error::NoIndex) => io::Error::new(io::ErrorKind::InvalidData, error),
            error => io::Error::other(error),
        }
    }
}
