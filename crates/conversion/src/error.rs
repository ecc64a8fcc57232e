use std::io;
use std::path::{Path, PathBuf};

use retcd_state_machine::backend::Failure;

/// Why a database or data dir was not converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },

    #[error(transparent)]
    Backend(#[from] retcd_storage::backend::Error),

    #[error(transparent)]
    Failure(#[from] Failure),

    #[error(transparent)]
    DataDir(#[from] retcd_storage::data_dir::Error),

    #[error(transparent)]
    Wal(#[from] retcd_storage::wal::Error),

    #[error(transparent)]
    Snapshot(#[from] retcd_storage::snapshot::Error),

    #[error("cannot write the database: {0}")]
    Write(#[from] retcd_bbolt::Error),

    #[error("the database is damaged: {0}")]
    Damaged(#[from] retcd_bbolt::Fault),

    #[error("the database is damaged: an entry of bucket {bucket} {reason}")]
    Entry { bucket: &'static str, reason: &'static str },

    #[error(
        "{} was written by etcd before 3.5: start etcd 3.5 on this data dir first",
        path.display()
    )]
    TooOld { path: PathBuf },

    #[error(
        "{} has storage version {version}, this program knows those up to {known}",
        path.display()
    )]
    TooNew { path: PathBuf, version: String, known: &'static str },

    #[error("{} is etcd's own database already", path.display())]
    NothingToExport { path: PathBuf },

    #[error("{}: no entry was applied yet", path.display())]
    Empty { path: PathBuf },

    #[error(
        "the log in {} begins behind entry {applied}, which is the last one in the database: start and stop the member once",
        dir.display()
    )]
    Gap { dir: PathBuf, applied: u64 },

    #[error(
        "the log in {} has entries behind the database that need etcd {needed}, which is above {target}: start and stop the \
         member once",
        dir.display()
    )]
    NewerEntries { dir: PathBuf, needed: String, target: String },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
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
