//! [`LmdbBackend`]: reads, the durable commit, and replacing the file under it.

use std::fs::File;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use heed::{CompactionOption, PutFlags, RwTxn};
use parking_lot::{Mutex, RwLock};
use retcd_state_machine::backend::{Backend, Batch, Change, Encoded, Failure, Size, Visit};
use retcd_state_machine::mvcc::RecordKey;
use retcd_state_machine::schema::Bucket;

use super::Error;
use super::env::{BucketDatabase, Env};
use super::key::{self, Stored};
use crate::data_dir;

/// Address space of the map, and so the largest size of the file, in bytes. Costs nothing until it is used.
const MAP_BYTES: usize = 64 << 30;

/// How the file is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The largest size the file may get, in bytes: a multiple of the page size. A commit beyond it fails.
    pub map_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { map_bytes: MAP_BYTES }
    }
}

/// What [`LmdbBackend::defragment`] did, in bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defragmented {
    pub before_bytes: u64,
    pub after_bytes: u64,
}

/// The database file of a member.
///
/// Calls may come from any thread. A visitor must not defragment or replace the file it reads from.
#[derive(Debug)]
pub struct LmdbBackend {
    path: PathBuf,
    options: Options,
    /// Held by whoever changes the file; taken before `env`.
    writer: Mutex<()>,
    /// Written only while the file is exchanged. `None`: that failed half-way.
    env: RwLock<Option<Env>>,
    /// As of the last commit.
    size: Mutex<Size>,
    /// A commit failed: what is on disk is not known until the file is opened again.
    is_failed: AtomicBool,
}

impl LmdbBackend {
    /// Opens a database file or makes it, mode 0600. What an interrupted copy left beside it is removed.
    ///
    /// # Errors
    /// [`Error::IsBbolt`], [`Error::Foreign`], [`Error::UnknownFormat`]: the file is left as it is. I/O.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        if data_dir::is_bbolt(path).map_err(|error| inspect_error(path, error))? {
            return Err(Error::IsBbolt { path: path.to_path_buf() });
        }
        remove_copies(path)?;
        if !path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
            create(path, options)?;
        }
        let env = Env::open(path, options.map_bytes)?;
        let size = env.size().map_err(|source| database_error("measure", path, source))?;
        Ok(LmdbBackend {
            path: path.to_path_buf(),
            options,
            writer: Mutex::new(()),
            env: RwLock::new(Some(env)),
            size: Mutex::new(size),
            is_failed: AtomicBool::new(false),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a copy without free pages to `path`, durably, and returns its size in bytes. It is a consistent state:
    /// that of the last commit. Reads and commits go on meanwhile.
    ///
    /// # Errors
    /// I/O; nothing is left at `path` then.
    pub fn copy_to(&self, path: &Path) -> Result<u64, Error> {
        self.with_env(|env| {
            let copy = || -> heed::Result<u64> {
                let mut file = create_file(path)?;
                env.inner.copy_to_file(&mut file, CompactionOption::Enabled)?;
                file.sync_all()?;
                Ok(file.metadata()?.len())
            };
            copy().map_err(|source| {
                // The copy's own failure is the one to tell.
                let _ = std::fs::remove_file(path);
                database_error("copy to", path, source)
            })
        })
    }

    /// Rewrites the file without its free pages. Reads go on but for the moment of the exchange; commits wait.
    ///
    /// A crash at any moment leaves the old file or the new one, both whole: the copy is durable before it takes the
    /// name, and no commit comes in between.
    ///
    /// # Errors
    /// I/O. Before the exchange the old file stays in use; after a failed one the backend is closed.
    pub fn defragment(&self) -> Result<Defragmented, Error> {
        let _writer = self.writer.lock();
        self.check()?;
        let before_bytes = self.size.lock().total_bytes;
        let copy = copy_path(&self.path, "defragment");
        self.copy_to(&copy)?;
        self.exchange(&copy)?;
        Ok(Defragmented { before_bytes, after_bytes: self.size.lock().total_bytes })
    }

    /// Takes the place of the own file: a whole database file of our format on the same file system, made durable by
    /// the caller. `path` is gone afterwards. Readers see the old state or the new one.
    ///
    /// # Errors
    /// A file that is not of our format is refused and the old one stays in use; after a failed exchange the backend
    /// is closed.
    pub fn replace_with(&self, path: &Path) -> Result<(), Error> {
        let _writer = self.writer.lock();
        self.check()?;
        drop(Env::open(path, self.options.map_bytes)?);
        remove_lock_file(path)?;
        self.exchange(path)
    }

    /// Gives back the memory of pages that reads have touched; they stay in the page cache. For after long scans.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn trim_resident(&self) -> Result<(), Error> {
        self.with_env(|env| env.trim().map_err(|source| io_error("trim", &self.path, source)))
    }

    /// Gives `from` the name of the own file, closes that and opens the new one. The caller holds `writer`.
    fn exchange(&self, from: &Path) -> Result<(), Error> {
        let mut env = self.env.write();
        // The old file stays mapped without a name: until here a failure changes nothing.
        rename(from, &self.path)?;
        *env = None;
        sync_dir_of(&self.path)?;
        let opened = Env::open(&self.path, self.options.map_bytes)?;
        *self.size.lock() = opened.size().map_err(|source| self.error("measure", source))?;
        *env = Some(opened);
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_failed.load(Ordering::Relaxed) { Err(self.closed()) } else { Ok(()) }
    }

    fn closed(&self) -> Error {
        Error::Closed { path: self.path.clone() }
    }

    /// Runs with the open file. Recursive, so that a visitor may read.
    fn with_env<T>(&self, run: impl FnOnce(&Env) -> Result<T, Error>) -> Result<T, Error> {
        let env = self.env.read_recursive();
        run(env.as_ref().ok_or_else(|| self.closed())?)
    }

    /// Runs a read and names the file in its error.
    fn read<T>(&self, run: impl FnOnce(&Env) -> heed::Result<T>) -> Result<T, Error> {
        self.with_env(|env| run(env).map_err(|source| self.error("read", source)))
    }

    fn error(&self, operation: &'static str, source: heed::Error) -> Error {
        database_error(operation, &self.path, source)
    }

    fn try_commit(&self, batch: &Batch) -> Result<(), Error> {
        self.check()?;
        self.with_env(|env| {
            let failed = |source| self.error("write", source);
            let mut txn = env.inner.write_txn().map_err(failed)?;
            put_records(env, &mut txn, &batch.records).map_err(failed)?;
            let records = env.bucket(Bucket::Key);
            for key in &batch.dropped {
                records.delete(&mut txn, key.as_bytes()).map_err(failed)?;
            }
            for change in &batch.changes {
                apply(env, &mut txn, change, &failed)?;
            }
            txn.commit().map_err(failed)?;
            *self.size.lock() = env.size().map_err(failed)?;
            Ok(())
        })
    }

    fn try_scan(&self, bucket: Bucket, from: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        self.with_env(|env| {
            let failed = |source| self.error("read", source);
            let txn = env.inner.read_txn().map_err(failed)?;
            let database = env.bucket(bucket);
            let start = if bucket == Bucket::Key { from.to_vec() } else { key::seek_key(from) };
            // LMDB knows no empty key, and refuses to look for one.
            let start =
                if start.is_empty() { Bound::Unbounded } else { Bound::Included(&start[..]) };
            let entries = database.range(&txn, &(start, Bound::Unbounded)).map_err(failed)?;
            let mut walk = Walk { from, group: Vec::new(), group_prefix: Vec::new() };
            for entry in entries {
                let (key, value) = entry.map_err(failed)?;
                let flow = if bucket == Bucket::Key {
                    visit(key, value)
                } else {
                    walk.step(key, value, visit).ok_or_else(|| self.long_key())?
                };
                if flow.is_break() {
                    return Ok(());
                }
            }
            // Whether the visitor breaks here does not matter: nothing follows.
            let _ = walk.end_group(visit).ok_or_else(|| self.long_key())?;
            Ok(())
        })
    }

    fn long_key(&self) -> Error {
        Error::LongKey { path: self.path.clone() }
    }
}

impl Backend for LmdbBackend {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let stored = stored(bucket, key)?;
        let value = self.read(|env| {
            let txn = env.inner.read_txn()?;
            Ok(env.bucket(bucket).get(&txn, &stored)?.map(<[u8]>::to_vec))
        })?;
        match value {
            Some(value) if bucket != Bucket::Key && key::is_long(key) => {
                let (_, value) = key::split_long_value(&value).ok_or_else(|| self.long_key())?;
                Ok(Some(value.to_vec()))
            }
            value => Ok(value),
        }
    }

    fn get_records(
        &self,
        keys: &[RecordKey],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), Failure> {
        self.read(|env| {
            let txn = env.inner.read_txn()?;
            let records = env.bucket(Bucket::Key);
            for (position, key) in keys.iter().enumerate() {
                visit(position, records.get(&txn, key.as_bytes())?);
            }
            Ok(())
        })?;
        Ok(())
    }

    fn scan(&self, bucket: Bucket, from: &[u8], visit: Visit<'_>) -> Result<(), Failure> {
        Ok(self.try_scan(bucket, from, visit)?)
    }

    /// After an error the backend is closed for writing: what is on disk shows only when it is opened again.
    fn commit(&self, batch: &Batch) -> Result<(), Failure> {
        let _writer = self.writer.lock();
        let result = self.try_commit(batch);
        if result.is_err() {
            self.is_failed.store(true, Ordering::Relaxed);
        }
        Ok(result?)
    }

    /// Entries as LMDB counts them; long keys with one hash stand in one entry.
    fn count(&self, bucket: Bucket) -> Result<usize, Failure> {
        let count = self.read(|env| {
            let txn = env.inner.read_txn()?;
            env.bucket(bucket).len(&txn)
        })?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// As of the last commit.
    fn size(&self) -> Result<Size, Failure> {
        Ok(*self.size.lock())
    }
}

/// Puts records, which are ascending, behind those that are there. Appending fills pages to the brim.
fn put_records(
    env: &Env,
    txn: &mut RwTxn<'_>,
    records: &[(RecordKey, Encoded)],
) -> heed::Result<()> {
    let database = env.bucket(Bucket::Key);
    let mut last = database.last(txn)?.map(|(key, _)| key.to_vec()).unwrap_or_default();
    for (key, value) in records {
        let key = key.as_bytes();
        if key > &last[..] {
            database.put_with_flags(txn, PutFlags::APPEND, key, value)?;
            last.clear();
            last.extend_from_slice(key);
        } else {
            database.put(txn, key, value)?;
        }
    }
    Ok(())
}

fn apply(
    env: &Env,
    txn: &mut RwTxn<'_>,
    change: &Change,
    failed: &impl Fn(heed::Error) -> Error,
) -> Result<(), Error> {
    let Change { bucket, key, value } = change;
    let database: BucketDatabase = env.bucket(*bucket);
    let stored = stored(*bucket, key)?;
    match value {
        None => database.delete(txn, &stored).map(drop),
        Some(value) if *bucket != Bucket::Key && key::is_long(key) => {
            database.put(txn, &stored, &key::long_value(key, value))
        }
        Some(value) => database.put(txn, &stored, value),
    }
    .map_err(failed)
}

fn stored(bucket: Bucket, key: &[u8]) -> Result<Vec<u8>, Error> {
    match (bucket, key.len()) {
        (Bucket::Key, 1..=511) => Ok(key.to_vec()),
        (Bucket::Key, len) => Err(Error::RecordKey { len }),
        _ => Ok(key::stored_key(key)),
    }
}

/// A scan of a bucket whose keys are stored as `key.rs` says.
struct Walk<'a> {
    from: &'a [u8],
    /// Stored values of long keys with one prefix, to be sorted.
    group: Vec<Vec<u8>>,
    group_prefix: Vec<u8>,
}

impl Walk<'_> {
    /// `None` when a long key cannot be read.
    fn step(&mut self, stored: &[u8], value: &[u8], visit: Visit<'_>) -> Option<ControlFlow<()>> {
        match key::read_stored(stored) {
            Stored::Long(prefix) if !self.group.is_empty() && self.group_prefix == prefix => {
                self.group.push(value.to_vec());
                Some(ControlFlow::Continue(()))
            }
            Stored::Long(prefix) => {
                let flow = self.end_group(visit)?;
                self.group_prefix = prefix.to_vec();
                self.group.push(value.to_vec());
                Some(flow)
            }
            Stored::Plain(key) => {
                let flow = self.end_group(visit)?;
                if flow.is_break() || key < self.from {
                    return Some(flow);
                }
                Some(visit(key, value))
            }
        }
    }

    /// Visits the collected group in the order of its keys.
    fn end_group(&mut self, visit: Visit<'_>) -> Option<ControlFlow<()>> {
        let group = std::mem::take(&mut self.group);
        let mut entries: Vec<_> =
            group.iter().map(|stored| key::split_long_value(stored)).collect::<Option<_>>()?;
        entries.sort_unstable();
        for (key, value) in entries {
            if key >= self.from && visit(key, value).is_break() {
                return Some(ControlFlow::Break(()));
            }
        }
        Some(ControlFlow::Continue(()))
    }
}

/// `db.tmp.<why>`: names that etcd too removes at its start.
fn copy_path(path: &Path, why: &str) -> PathBuf {
    with_suffix(path, &format!(".tmp.{why}"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// LMDB's lock file of a database that is not in use.
fn remove_lock_file(path: &Path) -> Result<(), Error> {
    remove(&with_suffix(path, "-lock"))
}

/// Makes the file under another name first: one that has its name is whole.
fn create(path: &Path, options: Options) -> Result<(), Error> {
    let new = copy_path(path, "create");
    Env::create(&new, options.map_bytes)?;
    remove_lock_file(&new)?;
    rename(&new, path)?;
    sync_dir_of(path)
}

fn remove_copies(path: &Path) -> Result<(), Error> {
    for why in ["create", "defragment"] {
        let copy = copy_path(path, why);
        remove(&copy)?;
        remove_lock_file(&copy)?;
    }
    Ok(())
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
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| io_error("sync", dir, source))
}

fn create_file(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn io_error(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { operation, path: path.to_path_buf(), source }
}

fn database_error(operation: &'static str, path: &Path, source: heed::Error) -> Error {
    Error::Database { operation, path: path.to_path_buf(), source }
}

fn inspect_error(path: &Path, error: data_dir::Error) -> Error {
    match error {
        data_dir::Error::Io { operation, path, source } => Error::Io { operation, path, source },
        other => io_error("inspect", path, std::io::Error::other(other)),
    }
}
