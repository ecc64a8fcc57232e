//! Opening an LMDB file, and keeping its pages out of the resident memory.
//!
//! JUSTIFICATION: an LMDB environment is a memory map, which std and heed rightly call unsafe to open; and only the
//! kernel can be told to forget mapped pages. Walking a database of 350 MB leaves all of it resident; [`Env::trim`] takes
//! 3 ms and leaves nothing, and the next read finds the pages in the page cache.
#![allow(unsafe_code, reason = "memory maps")]

use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, EnvFlags, EnvOpenOptions, WithoutTls};
use retcd_state_machine::backend::Size;
use retcd_state_machine::schema::Bucket;

use super::Error;

/// The database with what belongs to the file itself.
const FILE_DATABASE: &str = "retcd";
const FORMAT_KEY: &[u8] = b"format";
/// Changes when an older program could not read the file.
const FORMAT: &str = "1";
/// Calls that may read at the same time; each takes a slot of 64 bytes in the lock file.
const READERS_MAX: u32 = 1024;
/// The buckets and what belongs to the file itself.
const DATABASES_MAX: u32 = 16;
/// LMDB's two meta pages belong to no tree.
const META_PAGES: usize = 2;

pub(super) type BucketDatabase = Database<'static, Bytes, Bytes>;

/// An open database file of our format.
#[derive(Debug)]
pub(super) struct Env {
    pub(super) inner: heed::Env<WithoutTls>,
    buckets: Vec<BucketDatabase>,
    file: BucketDatabase,
    /// Addresses of the map; `None` where the system does not tell.
    map: Option<Range<usize>>,
}

impl Env {
    /// Makes an empty file of our format, durably; nothing is there yet.
    pub(super) fn create(path: &Path, map_bytes: usize) -> Result<(), Error> {
        let env = open(path, map_bytes, EnvFlags::empty())?;
        create_databases(&env).map(drop).map_err(|source| error("create", path, source))
    }

    /// Makes an empty file of our format to be filled: nothing is synced until the caller says so, and a crash before
    /// that leaves a file of no use.
    pub(super) fn create_unsynced(path: &Path, map_bytes: usize) -> Result<Self, Error> {
        let env = open(path, map_bytes, EnvFlags::NO_SYNC)?;
        Env::new(env, path).map_err(|source| error("create", path, source))
    }

    /// Opens a file that is there. No other process uses it: the data dir is locked.
    pub(super) fn open(path: &Path, map_bytes: usize) -> Result<Self, Error> {
        let env = open(path, map_bytes, EnvFlags::empty())?;
        check_format(&env, path)?;
        Env::new(env, path).map_err(|source| error("open", path, source))
    }

    fn new(env: heed::Env<WithoutTls>, path: &Path) -> heed::Result<Self> {
        let (file, buckets) = create_databases(&env)?;
        let map = find_map(path);
        Ok(Env { inner: env, buckets, file, map })
    }

    pub(super) fn bucket(&self, bucket: Bucket) -> BucketDatabase {
        self.buckets[bucket as usize]
    }

    /// Pages of the file up to the highest one ever used, and without the free ones. Reads a dozen tree roots.
    pub(super) fn size(&self) -> heed::Result<Size> {
        let txn = self.inner.read_txn()?;
        let main = self.inner.unnamed_database_stat();
        let mut in_use = META_PAGES * main.page_size as usize + main.non_free_page_size();
        for database in self.buckets.iter().chain([&self.file]) {
            in_use += database.stat(&txn)?.non_free_page_size();
        }
        let total = (self.inner.info().last_page_number + 1) * main.page_size as usize;
        Ok(Size { total_bytes: total as u64, in_use_bytes: in_use as u64 })
    }

    /// Tells the kernel that the pages read so far are not needed in this process. They stay in the page cache.
    pub(super) fn trim(&self) -> std::io::Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let page_bytes = self.inner.unnamed_database_stat().page_size as usize;
        let used = (self.inner.info().last_page_number + 1) * page_bytes;
        let len = used.min(map.len());
        let start = std::ptr::with_exposed_provenance_mut(map.start);
        // SAFETY: the range is within the map of this environment's file, which lives as long as `self.inner`; it was
        // looked up as a shared mapping of that very file. For a shared mapping this advice drops page table entries
        // only: concurrent readers fault the same bytes in again.
        let code = unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) };
        match std::io::Error::last_os_error() {
            _ if code == 0 => Ok(()),
            // Pages that are locked into memory are meant to stay.
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            error => Err(error),
        }
    }
}

fn open(path: &Path, map_bytes: usize, flags: EnvFlags) -> Result<heed::Env<WithoutTls>, Error> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes).max_readers(READERS_MAX).max_dbs(DATABASES_MAX);
    // SAFETY: one flag says that the path is the file itself. The other one of those that are passed here gives up the
    // file in case of a crash, never the memory: it is for files that nobody uses before they are synced.
    unsafe { options.flags(EnvFlags::NO_SUB_DIR | flags) };
    // SAFETY: the map is read only, and the file under it is written by LMDB alone: the data dir's lock keeps other
    // processes away, and within this one heed refuses to open a path twice. A file whose name is given to another is
    // not changed by that, and stays mapped until its environment is closed.
    unsafe { options.open(path) }.map_err(|source| error("open", path, source))
}

fn error(operation: &'static str, path: &Path, source: heed::Error) -> Error {
    Error::Database { operation, path: path.to_path_buf(), source }
}

/// Refuses a file that is not ours before anything is written to it.
fn check_format(env: &heed::Env<WithoutTls>, path: &Path) -> Result<(), Error> {
    let read = || -> heed::Result<Option<Vec<u8>>> {
        let txn = env.read_txn()?;
        let file = env.open_databases_and_commit(txn, |opener, txn| {
            let file = opener.open_database::<Bytes, Bytes>(txn, Some(FILE_DATABASE))?;
            heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(file))
        })?;
        let Some(file) = file.commit().flatten() else { return Ok(None) };
        let txn = env.read_txn()?;
        Ok(file.get(&txn, FORMAT_KEY)?.map(<[u8]>::to_vec))
    };
    let found = read().map_err(|source| error("open", path, source))?;
    let path = || path.to_path_buf();
    match found {
        None => Err(Error::Foreign { path: path() }),
        Some(found) if found == FORMAT.as_bytes() => Ok(()),
        Some(found) => {
            let found = String::from_utf8_lossy(&found).into_owned();
            Err(Error::UnknownFormat { path: path(), found, known: FORMAT })
        }
    }
}

/// Makes all databases, in one transaction with the format: a file that has pages has a format.
fn create_databases(
    env: &heed::Env<WithoutTls>,
) -> heed::Result<(BucketDatabase, Vec<BucketDatabase>)> {
    let txn = env.write_txn()?;
    let databases = env.create_databases_and_commit(txn, |opener, txn| {
        let file = opener.create_database::<Bytes, Bytes>(txn, Some(FILE_DATABASE))?;
        if file.get(txn, FORMAT_KEY)?.is_none() {
            file.put(txn, FORMAT_KEY, FORMAT.as_bytes())?;
        }
        let mut buckets = [None; Bucket::ALL.len()];
        for bucket in Bucket::ALL {
            buckets[bucket as usize] =
                Some(opener.create_database::<Bytes, Bytes>(txn, Some(bucket.name()))?);
        }
        heed::Result::Ok(CommitOrAbort::<_, ()>::Commit((file, buckets)))
    })?;
    let (file, buckets) = databases.unwrap_commit();
    Ok((file, buckets.into_iter().flatten().collect()))
}

/// Where the file is mapped, from the kernel's list of this process's maps. Only a shared map of that very file counts.
fn find_map(path: &Path) -> Option<Range<usize>> {
    let inode = path.metadata().ok()?.ino().to_string();
    let path = path.canonicalize().ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut found = None;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (range, flags) = (words.next()?, words.next()?);
        let (mapped_inode, mapped_path) = (words.nth(2)?, words.next());
        let is_ours = mapped_inode == inode && mapped_path.map(Path::new) == Some(&path);
        if is_ours && flags.ends_with('s') {
            let (start, end) = range.split_once('-')?;
            let start = usize::from_str_radix(start, 16).ok()?;
            let end = usize::from_str_radix(end, 16).ok()?;
            if found.replace(start..end).is_some() {
                return None;
            }
        }
    }
    found
}
