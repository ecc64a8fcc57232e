//! Opening what a server may have open.
//!
//! A server locks what it writes: etcd its database file, ours the data dir. Whoever wants to work on it waits for that
//! lock, as long as `--timeout` says.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use retcd_command_line::go::in_go_words;
use retcd_command_line::{Failure, Invocation};
use retcd_conversion::open_stored;
use retcd_state_machine::backend::Backend;
use retcd_storage::data_dir::{self, DataDir, Layout, is_bbolt};

/// Between two attempts at a lock.
const POLL: Duration = Duration::from_millis(50);

pub(crate) fn path_of(argument: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(argument))
}

/// Fails in etcd's words when there is no such file.
pub(crate) fn expect_there(path: &Path) -> Result<(), Failure> {
    let found = path.metadata();
    found.map(drop).map_err(|error| {
        Failure::error(&format!("stat {}: {}", path.display(), in_go_words(&error)))
    })
}

/// A database file that is read, and its lock.
pub(crate) struct Stored {
    pub(crate) backend: Arc<dyn Backend>,
    _lock: Lock,
}

/// Keeps servers away until it is dropped.
pub(crate) enum Lock {
    File {
        _file: File,
    },
    Dir {
        _dir: DataDir,
    },
    /// No server uses a file of ours outside of a data dir.
    None,
}

impl Stored {
    pub(crate) fn open(path: &Path, invocation: &Invocation) -> Result<Self, Failure> {
        let lock = lock(path, invocation)?;
        let backend = open_stored(path).map_err(|error| Failure::error(&error))?;
        let backend = backend.ok_or_else(|| Failure::error(&"invalid database"))?;
        Ok(Stored { backend, _lock: lock })
    }
}

/// Keeps a server away from a database file.
pub(crate) fn lock(path: &Path, invocation: &Invocation) -> Result<Lock, Failure> {
    if is_bbolt(path).map_err(|error| Failure::error(&error))? {
        let file = File::open(path).map_err(|error| Failure::error(&error))?;
        wait(invocation, || match file.try_lock_shared() {
            Ok(()) => Ok(Some(())),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Failure::error(&error)),
        })?;
        return Ok(Lock::File { _file: file });
    }
    match data_dir_of(path) {
        Some(dir) => Ok(Lock::Dir { _dir: lock_dir(&Layout::new(dir, None), invocation)? }),
        None => Ok(Lock::None),
    }
}

/// The data dir in which a file is `member/snap/db`.
fn data_dir_of(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let dir = path.ancestors().nth(3)?;
    (Layout::new(dir, None).backend_path() == path).then(|| dir.to_owned())
}

/// Keeps servers away from a data dir that is there.
pub(crate) fn lock_dir(layout: &Layout, invocation: &Invocation) -> Result<DataDir, Failure> {
    wait(invocation, || match DataDir::open_existing(layout.clone()) {
        Ok(dir) => Ok(Some(dir)),
        Err(data_dir::Error::Locked { .. }) => Ok(None),
        Err(error @ data_dir::Error::Io { .. }) => Err(Failure::error(&error)),
    })
}

/// Tries until something is there, at most as long as `--timeout` says; 0 means forever.
fn wait<T>(
    invocation: &Invocation,
    mut attempt: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let timeout = invocation.flags.duration("timeout");
    let start = Instant::now();
    loop {
        if let Some(found) = attempt()? {
            return Ok(found);
        }
        if !timeout.is_zero() && start.elapsed() >= timeout {
            return Err(Failure::error(&"timeout"));
        }
        std::thread::sleep(POLL);
    }
}
