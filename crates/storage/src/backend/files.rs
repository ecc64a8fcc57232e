//! Names of database files, and changing them durably.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;
use crate::data_dir;

/// `db.tmp.<why>.<number>`: names that etcd too removes at its start.
///
/// Never the same one twice in a process: an environment is known by the path that it was opened with, also after the
/// file was given another name, and may live on there as long as somebody reads it.
pub(super) fn copy_path(path: &Path, why: &str) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    with_suffix(path, &format!(".tmp.{why}.{number}"))
}

/// Removes what interrupted copies have left beside a database file that is not in use.
pub(super) fn remove_copies(path: &Path) -> Result<(), Error> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let mut prefix = name.to_owned();
    prefix.push(".tmp.");
    let dir = dir_of(path);
    let failed = |source| io_error("read", dir, source);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            remove(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Gives a database file, which may be open, another name, durably. The file that had the name loses it.
pub(super) fn rename_database(from: &Path, to: &Path) -> Result<(), Error> {
    rename(from, to)?;
    let lock_file = lock_file(from);
    if lock_file.exists() {
        rename(&lock_file, &self::lock_file(to))?;
    }
    sync_dir_of(to)
}

/// Removes a database file that is not in use, if there is one.
pub(super) fn remove_database(path: &Path) -> Result<(), Error> {
    remove(path)?;
    remove_lock_file(path)
}

/// LMDB's lock file of a database that is not in use.
pub(super) fn remove_lock_file(path: &Path) -> Result<(), Error> {
    remove(&lock_file(path))
}

fn lock_file(path: &Path) -> PathBuf {
    with_suffix(path, "-lock")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(|source| io_error("rename", from, source))
}

fn sync_dir_of(path: &Path) -> Result<(), Error> {
    let dir = dir_of(path);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| io_error("sync", dir, source))
}

fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

pub(super) fn create(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

pub(super) fn io_error(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { operation, path: path.to_path_buf(), source }
}

pub(super) fn database_error(operation: &'static str, path: &Path, source: heed::Error) -> Error {
    Error::Database { operation, path: path.to_path_buf(), source }
}

pub(super) fn inspect_error(path: &Path, error: data_dir::Error) -> Error {
    match error {
        data_dir::Error::Io { operation, path, source } => Error::Io { operation, path, source },
        locked @ data_dir::Error::Locked { .. } => {
            io_error("inspect", path, std::io::Error::other(locked))
        }
    }
}
