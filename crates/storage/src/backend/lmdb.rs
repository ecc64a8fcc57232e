//! [`LmdbBackend`]: reads, the durable commit, and replacing the file under it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heed::CompactionOption;
use parking_lot::{Mutex, RwLock};
use retcd_state_machine::backend::{Backend, Batch, Failure, Size, Visit};
use retcd_state_machine::mvcc::RecordKey;
use retcd_state_machine::schema::Bucket;

use super::env::Env;
use super::files::{copy_path, database_error, inspect_error, io_error};
use super::read::View;
use super::{Error, Pinned, files, write};
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
    env: RwLock<Option<Arc<Env>>>,
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
        files::remove_copies(path)?;
        if !path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
            create(path, options)?;
        }
        let (env, size) = open_and_measure(path, options)?;
        Ok(LmdbBackend::new(path, options, env, size))
    }

    /// Opens a whole, durable database file of our format and gives it the name `path`, durably. The file that has this
    /// name loses it and is gone as soon as nobody reads it any more; that may be later.
    ///
    /// A crash at any moment leaves either file under the name, whole. `from` must be in the directory of `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open): both files are left as they are. I/O.
    pub fn open_as(from: &Path, path: &Path, options: Options) -> Result<Self, Error> {
        if !from.exists() {
            return Err(io_error("open", from, std::io::ErrorKind::NotFound.into()));
        }
        let (env, size) = open_and_measure(from, options)?;
        files::rename_database(from, path)?;
        Ok(LmdbBackend::new(path, options, env, size))
    }

    fn new(path: &Path, options: Options, env: Env, size: Size) -> Self {
        LmdbBackend {
            path: path.to_path_buf(),
            options,
            writer: Mutex::new(()),
            env: RwLock::new(Some(Arc::new(env))),
            size: Mutex::new(size),
            is_failed: AtomicBool::new(false),
        }
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
                let mut file = files::create(path)?;
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
        self.exchange(&copy).inspect_err(|_| {
            // The failure before is the one to tell.
            let _ = files::remove_database(&copy);
        })?;
        Ok(Defragmented { before_bytes, after_bytes: self.size.lock().total_bytes })
    }

    /// Holds on to the state of the last commit.
    ///
    /// # Errors
    /// I/O; all places for readers are taken.
    pub fn pin(&self) -> Result<Pinned, Error> {
        let env = self.env.read().as_ref().map(Arc::clone).ok_or_else(|| self.closed())?;
        Pinned::new(&env, self.path.clone()).map_err(|source| self.error("pin", source))
    }

    /// Gives back the memory of pages that reads have touched; they stay in the page cache. For after long scans.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn trim_resident(&self) -> Result<(), Error> {
        self.with_env(|env| env.trim().map_err(|source| io_error("trim", &self.path, source)))
    }

    /// Gives the file `from` the own name and uses it from now on. The caller holds `writer`.
    ///
    /// The new file is open before the old one is closed: that may still be pinned, and lives on without a name.
    fn exchange(&self, from: &Path) -> Result<(), Error> {
        let (opened, size) = open_and_measure(from, self.options)?;
        let mut env = self.env.write();
        // Once names change, only the new file may be written.
        *env = None;
        files::rename_database(from, &self.path)?;
        *self.size.lock() = size;
        *env = Some(Arc::new(opened));
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

    /// Runs a read of one transaction.
    fn view<T>(&self, run: impl FnOnce(View<'_>) -> Result<T, Error>) -> Result<T, Error> {
        self.with_env(|env| {
            let txn = env.inner.read_txn().map_err(|source| self.error("read", source))?;
            run(View { env, txn: &txn, path: &self.path })
        })
    }

    fn try_commit(&self, batch: &Batch) -> Result<(), Error> {
        self.check()?;
        self.with_env(|env| {
            write::batch(env, &self.path, batch)?;
            *self.size.lock() = env.size().map_err(|source| self.error("measure", source))?;
            Ok(())
        })
    }
}

impl Backend for LmdbBackend {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.view(|view| view.get(bucket, key))?)
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
        Ok(self.view(|view| view.scan(bucket, from, visit))?)
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

fn open_and_measure(path: &Path, options: Options) -> Result<(Env, Size), Error> {
    let env = Env::open(path, options.map_bytes)?;
    let size = env.size().map_err(|source| database_error("measure", path, source))?;
    Ok((env, size))
}

/// Makes the file under another name first: one that has its name is whole.
fn create(path: &Path, options: Options) -> Result<(), Error> {
    let new = copy_path(path, "create");
    Env::create(&new, options.map_bytes)?;
    files::remove_lock_file(&new)?;
    files::rename_database(&new, path)
}
