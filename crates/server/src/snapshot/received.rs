//! The files of received databases, and taking them into use.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use retcd_api::raftpb::SnapshotMetadata;
use retcd_api::walpb;
use retcd_state_machine::backend::Failure;
use retcd_storage::backend::{LmdbBackend, Options};
use retcd_storage::data_dir::Layout;

use super::{Error, importer};

/// A whole database in our format, of the snapshot at the index before it.
const CONVERTED_SUFFIX: &str = ".snap.lmdb";
/// LMDB's lock file of it, left by a crash.
const CONVERTED_LOCK_SUFFIX: &str = ".snap.lmdb-lock";
/// A whole database as etcd keeps it, of the snapshot at the index before it.
const AS_ETCD_KEEPS_IT_SUFFIX: &str = ".snap.db";
/// What is not whole. etcd too removes such names at its start.
const TEMPORARY_PREFIX: &str = "tmp.";

/// Gives a member its database at a start, converted if etcd has left it: its own, or the one that was received for the newest snapshot that the log
/// confirms, when the own one is behind that. Then all that was received is removed.
///
/// `snapshot`: that newest one; the default for none.
///
/// # Errors
/// The own database is behind and there is no other ([`Error::Missing`]); a file that is not ours; I/O.
pub(crate) fn recover(layout: &Layout, snapshot: &walpb::Snapshot) -> Result<LmdbBackend, Failure> {
    retcd_conversion::adopt(layout)?;
    Ok(Received::new(layout).recover(snapshot)?)
}

/// `member/snap`, as far as received databases are concerned.
#[derive(Debug)]
pub(super) struct Received {
    dir: PathBuf,
    backend_path: PathBuf,
}

impl Received {
    pub(super) fn new(layout: &Layout) -> Self {
        Received { dir: layout.snap_dir(), backend_path: layout.backend_path() }
    }

    pub(super) fn converted_path(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{index:016x}{CONVERTED_SUFFIX}"))
    }

    /// A name for a file in the making; no other one has it, now or later.
    pub(super) fn temporary(&self, what: &str) -> Temporary {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{TEMPORARY_PREFIX}{number}.{what}"));
        Temporary { path, dir: self.dir.clone(), is_renamed: false }
    }

    pub(super) fn take(&self, index: u64) -> Result<LmdbBackend, Error> {
        let path = self.converted_path(index);
        Ok(LmdbBackend::open_as(&path, &self.backend_path, Options::default())?)
    }

    fn recover(&self, snapshot: &walpb::Snapshot) -> Result<LmdbBackend, Error> {
        let own = LmdbBackend::open(&self.backend_path, Options::default())?;
        let applied = retcd_conversion::applied_index(&own.pin()?)?;
        let backend = if applied < snapshot.index {
            drop(own);
            self.replace(applied, snapshot)?
        } else {
            own
        };
        self.purge(u64::MAX)?;
        self.remove(|name| name.starts_with(TEMPORARY_PREFIX))?;
        Ok(backend)
    }

    /// The start after a crash between the log's record of a snapshot and the use of its database.
    fn replace(&self, applied: u64, snapshot: &walpb::Snapshot) -> Result<LmdbBackend, Error> {
        let index = snapshot.index;
        tracing::info!(
            consistent_index = applied,
            snapshot_index = index,
            "Recovering from snapshot backend"
        );
        let of_etcd = self.dir.join(format!("{index:016x}{AS_ETCD_KEEPS_IT_SUFFIX}"));
        if !self.converted_path(index).exists() && of_etcd.exists() {
            let file = File::open(&of_etcd).map_err(Error::io("open", &of_etcd))?;
            let walpb::Snapshot { index, term, conf_state } = snapshot.clone();
            importer::convert(self, file, &SnapshotMetadata { conf_state, index, term })?;
        }
        if !self.converted_path(index).exists() {
            return Err(Error::Missing { applied, snapshot: index });
        }
        self.take(index)
    }

    /// Removes what was received of snapshots up to `index`.
    pub(super) fn purge(&self, index: u64) -> Result<(), Error> {
        self.remove(|name| index_of(name).is_some_and(|at| at <= index))
    }

    fn remove(&self, is_useless: impl Fn(&str) -> bool) -> Result<(), Error> {
        let failed = |source| Error::io("read", &self.dir)(source);
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.to_str().is_some_and(&is_useless) {
                remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }
}

/// The index in the name of a received database, or of its lock.
fn index_of(name: &str) -> Option<u64> {
    let suffixes = [CONVERTED_SUFFIX, CONVERTED_LOCK_SUFFIX];
    let hex = suffixes.into_iter().find_map(|suffix| name.strip_suffix(suffix))?;
    if hex.len() == 16 { u64::from_str_radix(hex, 16).ok() } else { None }
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// A file in the making. Dropped before it has got its name, it is removed.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    dir: PathBuf,
    is_renamed: bool,
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Mode 0600. What a crash has left under this name is replaced.
    pub(super) fn create(&self) -> Result<File, Error> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        options.open(&self.path).map_err(Error::io("create", &self.path))
    }

    /// Gives the file, which is synced, its name, durably.
    pub(super) fn rename(mut self, to: &Path) -> Result<(), Error> {
        std::fs::rename(&self.path, to).map_err(Error::io("rename", &self.path))?;
        self.is_renamed = true;
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(Error::io("sync", &self.dir))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_renamed {
            // What is left over is removed at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
