//! What can go wrong with the log. None of it is an answer to a client: each stops the member.

use std::io;
use std::path::{Path, PathBuf};

/// The step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    List,
    Open,
    Lock,
    Read,
    Write,
    Sync,
    Truncate,
    Rename,
    Remove,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Operation::List => "list",
            Operation::Open => "open",
            Operation::Lock => "lock",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Sync => "sync",
            Operation::Truncate => "truncate",
            Operation::Rename => "rename",
            Operation::Remove => "remove",
        })
    }
}

/// A failure of the log. Offsets count bytes from the start of the named file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("wal: cannot {operation} {} at offset {offset}: {source}", file.display())]
    Io { operation: Operation, file: PathBuf, offset: u64, source: io::Error },

    #[error("wal: {} is damaged at offset {offset}: {reason}", file.display())]
    Damaged { file: PathBuf, offset: u64, reason: String },

    #[error("wal: {} is already in use by another process", file.display())]
    Locked { file: PathBuf },

    #[error("wal: {} holds no log", dir.display())]
    NotFound { dir: PathBuf },

    #[error("wal: {} holds a log already", dir.display())]
    AlreadyExists { dir: PathBuf },

    #[error("wal: the segment with sequence {sequence:016x} is missing in {}", dir.display())]
    MissingSegment { dir: PathBuf, sequence: u64 },

    #[error("wal: no snapshot record with index {index} in {}", dir.display())]
    SnapshotNotFound { dir: PathBuf, index: u64 },

    #[error(
        "wal: the snapshot record of index {index} in {} has term {found}, not {expected}",
        file.display()
    )]
    SnapshotMismatch { file: PathBuf, index: u64, expected: u64, found: u64 },

    #[error("wal: a snapshot record of index {index} needs a conf state")]
    SnapshotWithoutConfState { index: u64 },

    /// What was to be appended could not be told from damage when it is read: a bug of the caller.
    #[error("wal: {what} cannot stand in a log")]
    Unwritable { what: String },

    /// The log was used after a failure.
    #[error("wal: {} is closed by an earlier failure", dir.display())]
    Poisoned { dir: PathBuf },
}

impl Error {
    pub(super) fn io(operation: Operation, file: &Path, offset: u64, source: io::Error) -> Self {
        Error::Io { operation, file: file.to_path_buf(), offset, source }
    }

    pub(super) fn damaged(file: &Path, offset: u64, reason: impl Into<String>) -> Self {
        Error::Damaged { file: file.to_path_buf(), offset, reason: reason.into() }
    }
}
