//! The data directory: where things are, who may use it, and that only one process does.
//!
//! The whole directory is locked by a `flock` on itself: no file of ours appears beside `member`. Segments of the log
//! have locks of their own, which Go etcd honours; so neither starts on what the other is writing.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::sys;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What the first page of a bbolt file says behind its 16-byte page header; the second page says it too.
const BBOLT_MAGIC: u32 = 0xED0C_DAED;
const BBOLT_MAGIC_OFFSETS: [u64; 2] = [16, 4096 + 16];
/// The same of LMDB. Its page header has 16 bytes, too.
const LMDB_MAGIC: u32 = 0xBEEF_C0DE;
const LMDB_MAGIC_OFFSETS: [u64; 1] = [16];

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("data dir: cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },

    #[error("data dir: {} is in use: another process holds its lock", path.display())]
    Locked { path: PathBuf },
}

/// The paths inside a data directory. Nothing is touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
}

impl Layout {
    /// `wal_dir`: etcd's `--wal-dir`; `None` or empty for the place inside the data dir.
    pub fn new(data_dir: impl Into<PathBuf>, wal_dir: Option<PathBuf>) -> Self {
        let wal_dir = wal_dir.filter(|dir| !dir.as_os_str().is_empty());
        Layout { data_dir: data_dir.into(), wal_dir }
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// `<data-dir>/member`.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// `<data-dir>/member/wal`, or the dedicated directory.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// `<data-dir>/member/snap`.
    pub fn snap_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// `<data-dir>/member/snap/db`.
    pub fn backend_path(&self) -> PathBuf {
        self.snap_dir().join("db")
    }
}

/// A data directory that this process may write, and no other: the lock lasts as long as this value.
#[derive(Debug)]
pub struct DataDir {
    layout: Layout,
    _lock: File,
}

impl DataDir {
    /// Locks a directory that is there, for work on it while the member is down. Nothing is made.
    ///
    /// # Errors
    /// [`Error::Locked`]; I/O.
    pub fn open_existing(layout: Layout) -> Result<Self, Error> {
        let lock = lock(&layout.data_dir)?;
        Ok(DataDir { layout, _lock: lock })
    }

    /// Makes what is missing (mode 0700), locks the directory, and tests that it can be written.
    ///
    /// The directory of the log is not made: it comes with the log, and its absence means a new member.
    ///
    /// # Errors
    /// [`Error::Locked`]; I/O.
    pub fn open(layout: Layout) -> Result<Self, Error> {
        create_dir(&layout.data_dir)?;
        let lock = lock(&layout.data_dir)?;
        warn_about_mode(&layout.data_dir)?;
        for dir in [layout.member_dir(), layout.snap_dir()] {
            create_dir(&dir)?;
            test_writable(&dir)?;
        }
        sync_dir(&layout.member_dir())?;
        sync_dir(&layout.data_dir)?;
        Ok(DataDir { layout, _lock: lock })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// Whether a file is a bbolt database, as etcd keeps it. An absent one is not.
///
/// # Errors
/// I/O.
pub fn is_bbolt(path: &Path) -> Result<bool, Error> {
    has_magic(path, BBOLT_MAGIC, &BBOLT_MAGIC_OFFSETS)
}

/// Whether a file is an LMDB database, as ours are. An absent one is not.
///
/// # Errors
/// I/O.
pub fn is_lmdb(path: &Path) -> Result<bool, Error> {
    has_magic(path, LMDB_MAGIC, &LMDB_MAGIC_OFFSETS)
}

fn has_magic(path: &Path, magic: u32, offsets: &[u64]) -> Result<bool, Error> {
    let failed = |source| Error::Io { operation: "read", path: path.to_path_buf(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    for offset in offsets {
        let mut found = [0; 4];
        file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
        match file.read_exact(&mut found) {
            Ok(()) if u32::from_le_bytes(found) == magic => return Ok(true),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(false)
}

fn create_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(|source| Error::Io {
        operation: "create",
        path: path.to_path_buf(),
        source,
    })
}

fn lock(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Io { operation: "lock", path: path.to_path_buf(), source };
    let dir = File::open(path).map_err(failed)?;
    if sys::try_flock(&dir).map_err(failed)? {
        Ok(dir)
    } else {
        Err(Error::Locked { path: path.to_path_buf() })
    }
}

/// A directory that others may read is their decision, as in etcd; it is only said.
fn warn_about_mode(path: &Path) -> Result<(), Error> {
    let metadata = path.metadata().map_err(|source| Error::Io {
        operation: "inspect",
        path: path.to_path_buf(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o777;
    if Permissions::from_mode(mode) != Permissions::from_mode(DIR_MODE) {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{mode:o}"),
            recommended = format!("{DIR_MODE:o}"),
            "the data dir can be used by others"
        );
    }
    Ok(())
}

fn test_writable(dir: &Path) -> Result<(), Error> {
    let path = dir.join(".touch");
    let write = || {
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&path)?;
        std::fs::remove_file(&path)
    };
    write().map_err(|source| Error::Io { operation: "write", path: path.clone(), source })
}

fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|source| Error::Io {
        operation: "sync",
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_dir_is_made_with_its_modes_and_left_without_traces() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("a/b"), None);
        let data_dir = DataDir::open(layout.clone()).unwrap();
        assert_eq!(data_dir.layout(), &layout);
        for dir in [layout.data_dir().to_path_buf(), layout.member_dir(), layout.snap_dir()] {
            let mode = dir.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o700, "{}", dir.display());
        }
        assert!(!layout.wal_dir().exists());
        assert_eq!(std::fs::read_dir(layout.data_dir()).unwrap().count(), 1, "only member");
        assert_eq!(std::fs::read_dir(layout.snap_dir()).unwrap().count(), 0);
    }

    #[test]
    fn the_log_may_be_elsewhere() {
        let inside = Layout::new("/d", Some(PathBuf::new()));
        assert_eq!(inside.wal_dir(), Path::new("/d/member/wal"));
        let outside = Layout::new("/d", Some("/w".into()));
        assert_eq!(outside.wal_dir(), Path::new("/w"));
        assert_eq!(outside.backend_path(), Path::new("/d/member/snap/db"));
    }

    #[test]
    fn a_data_dir_is_used_by_one_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), None);
        let first = DataDir::open(layout.clone()).unwrap();
        let error = DataDir::open(layout.clone()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&root.path().display().to_string()), "{text}");
        assert!(text.contains("another process"), "{text}");
        drop(first);
        assert!(DataDir::open(layout).is_ok());
    }

    #[test]
    fn the_database_of_etcd_is_known_by_either_meta() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("db");
        for offset in [16, 4096 + 16] {
            let mut bytes = vec![0; 16384];
            bytes[offset..offset + 4].copy_from_slice(&BBOLT_MAGIC.to_le_bytes());
            std::fs::write(&path, &bytes).unwrap();
            assert!(is_bbolt(&path).unwrap());
        }
        std::fs::write(&path, b"short").unwrap();
        assert!(!is_bbolt(&path).unwrap());
        assert!(!is_bbolt(&root.path().join("absent")).unwrap());
    }

    #[test]
    fn a_path_that_is_no_directory_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let text = DataDir::open(Layout::new(&file, None)).unwrap_err().to_string();
        assert!(text.contains("file"), "{text}");
    }
}
