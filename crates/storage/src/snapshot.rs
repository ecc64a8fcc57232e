//! Raft snapshots on disk: `<term>-<index>.snap` in `member/snap`, in etcd's format.
//!
//! A file is a `snappb.snapshot { crc, data }`, where data is an encoded `raftpb.Snapshot` and crc its CRC-32C. The
//! state itself is not in it: that is the backend's file.
//!
//! A file counts only when the log has a record of it whose index is committed. The order on disk is: the file, then
//! the record, then entries behind it; so a file without a record is the trace of a crash and is passed over.
//!
//! The format is that of etcd's `server/etcdserver/api/snap`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use retcd_api::{raftpb, snappb, walpb};

use crate::fs::{Access, Fs, read_all};

/// A failure of the snapshot files: I/O, or a snapshot that has no metadata. Each stops the member.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("snapshot: cannot {operation} {}: {source}", file.display())]
    Io { operation: &'static str, file: PathBuf, source: io::Error },

    #[error("snapshot: {} is damaged: {reason}", file.display())]
    Damaged { file: PathBuf, reason: &'static str },

    #[error("snapshot: an empty snapshot is not saved")]
    Empty,
}

/// The directory of the snapshot files.
#[derive(Debug, Clone)]
pub struct Snapshots {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
}

impl Snapshots {
    /// `dir`: `member/snap`, which exists.
    pub fn new(fs: Arc<dyn Fs>, dir: &Path) -> Self {
        Snapshots { fs, dir: dir.to_path_buf() }
    }

    /// Writes a snapshot; durable, under its name, when it returns.
    ///
    /// # Errors
    /// I/O; [`Error::Empty`] for one of index 0.
    pub fn save(&self, snapshot: &raftpb::Snapshot) -> Result<PathBuf, Error> {
        let metadata = snapshot.metadata.as_ref().filter(|metadata| metadata.index > 0);
        let name = Name::of(metadata.ok_or(Error::Empty)?);
        let path = self.dir.join(name.to_string());
        let temporary = self.dir.join(format!("{name}.tmp"));
        let file = self
            .fs
            .open(&temporary, Access::Replace)
            .map_err(|source| io_error("open", &temporary, source))?;
        file.write_at(&encode(snapshot), 0)
            .map_err(|source| io_error("write", &temporary, source))?;
        file.sync().map_err(|source| io_error("sync", &temporary, source))?;
        self.fs
            .rename(&temporary, &path)
            .map_err(|source| io_error("rename", &temporary, source))?;
        self.fs.sync_dir(&self.dir).map_err(|source| io_error("sync", &self.dir, source))?;
        Ok(path)
    }

    /// The newest snapshot whose file can be read, whatever the log says of it. Nothing is renamed.
    ///
    /// # Errors
    /// I/O on the directory.
    pub fn newest(&self) -> Result<Option<raftpb::Snapshot>, Error> {
        Ok(self.names()?.into_iter().rev().find_map(|name| self.load(name).ok()))
    }

    /// The newest snapshot that is among `valid` (from [`valid_snapshots`](crate::wal::valid_snapshots)).
    ///
    /// A file of that name that cannot be used is renamed to `*.broken`, and the next older one is tried.
    ///
    /// # Errors
    /// I/O on the directory.
    pub fn load_newest(
        &self,
        valid: &[walpb::Snapshot],
    ) -> Result<Option<raftpb::Snapshot>, Error> {
        for name in self.names()?.into_iter().rev() {
            if !valid.iter().any(|valid| (valid.term, valid.index) == (name.term, name.index)) {
                continue;
            }
            match self.load(name) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(error) => self.set_aside(name, &error)?,
            }
        }
        Ok(None)
    }

    /// Removes the oldest snapshots until `snapshots_max` are left. Returns what is gone.
    /// 0 removes nothing, as in etcd's `--max-snapshots`.
    ///
    /// # Errors
    /// I/O.
    pub fn purge(&self, snapshots_max: usize) -> Result<Vec<String>, Error> {
        if snapshots_max == 0 {
            return Ok(Vec::new());
        }
        let mut names = self.names()?;
        names.truncate(names.len().saturating_sub(snapshots_max));
        let surplus: Vec<String> = names.iter().map(ToString::to_string).collect();
        for file in &surplus {
            self.remove(file)?;
        }
        Ok(surplus)
    }

    /// Removes what a crash left half written: `tmp*`, `db.tmp.*`, `*.tmp`.
    ///
    /// # Errors
    /// I/O.
    pub fn remove_leftovers(&self) -> Result<(), Error> {
        for name in self.list()? {
            let is_temporary = Path::new(&name).extension().is_some_and(|end| end == "tmp");
            if is_temporary || name.starts_with("tmp") || name.starts_with("db.tmp") {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    fn load(&self, name: Name) -> Result<raftpb::Snapshot, Error> {
        let path = self.dir.join(name.to_string());
        let file =
            self.fs.open(&path, Access::Read).map_err(|source| io_error("open", &path, source))?;
        let bytes = read_all(file.as_ref()).map_err(|source| io_error("read", &path, source))?;
        let damaged = |reason| Error::Damaged { file: path.clone(), reason };
        let snapshot = decode(bytes.into()).map_err(damaged)?;
        match &snapshot.metadata {
            Some(metadata) if Name::of(metadata) == name => Ok(snapshot),
            _ => Err(damaged("it holds a snapshot of another term or index")),
        }
    }

    fn set_aside(&self, name: Name, error: &Error) -> Result<(), Error> {
        tracing::warn!(%error, "setting an unusable snapshot file aside");
        let path = self.dir.join(name.to_string());
        let broken = self.dir.join(format!("{name}.broken"));
        self.fs.rename(&path, &broken).map_err(|source| io_error("rename", &path, source))
    }

    fn names(&self) -> Result<Vec<Name>, Error> {
        let mut names: Vec<_> = self.list()?.iter().filter_map(|file| Name::parse(file)).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        self.fs.list(&self.dir).map_err(|source| io_error("list", &self.dir, source))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.dir.join(name);
        self.fs.remove(&path).map_err(|source| io_error("remove", &path, source))
    }
}

fn io_error(operation: &'static str, file: &Path, source: io::Error) -> Error {
    Error::Io { operation, file: file.to_path_buf(), source }
}

fn encode(snapshot: &raftpb::Snapshot) -> Vec<u8> {
    let data = Bytes::from(snapshot.encode_to_vec());
    snappb::Snapshot { crc: crc32c::crc32c(&data), data }.encode_to_vec()
}

fn decode(bytes: Bytes) -> Result<raftpb::Snapshot, &'static str> {
    let envelope = snappb::Snapshot::decode(bytes).map_err(|_| "it is not a snapshot envelope")?;
    if envelope.data.is_empty() || envelope.crc == 0 {
        return Err("it is empty");
    }
    if crc32c::crc32c(&envelope.data) != envelope.crc {
        return Err("the crc does not match");
    }
    raftpb::Snapshot::decode(envelope.data).map_err(|_| "it does not hold a snapshot")
}

/// `<term>-<index>.snap`, 16 hex digits each. The order of names is that of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    term: u64,
    index: u64,
}

impl Name {
    fn of(metadata: &raftpb::SnapshotMetadata) -> Self {
        Name { term: metadata.term, index: metadata.index }
    }

    fn parse(name: &str) -> Option<Self> {
        let (term, index) = name.strip_suffix(".snap")?.split_once('-')?;
        Some(Name { term: hex(term)?, index: hex(index)? })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:016x}.snap", self.term, self.index)
    }
}

fn hex(digits: &str) -> Option<u64> {
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimFs;

    const DIR: &str = "/data/member/snap";

    #[test]
    fn the_newest_valid_snapshot_is_loaded() {
        let (_, snapshots) = empty();
        for (term, index) in [(1, 10), (2, 20), (2, 300)] {
            snapshots.save(&snapshot(term, index)).unwrap();
        }
        let valid = [record(0, 0), record(1, 10), record(2, 20)];
        assert_eq!(snapshots.load_newest(&valid).unwrap(), Some(snapshot(2, 20)));
        assert_eq!(snapshots.load_newest(&[record(3, 20)]).unwrap(), None, "another term");
        assert!(matches!(snapshots.save(&snapshot(1, 0)), Err(Error::Empty)));
    }

    #[test]
    fn a_damaged_one_is_set_aside_for_an_older_one() {
        let valid = [record(1, 10), record(1, 11)];
        let len = encode(&snapshot(1, 11)).len();
        for offset in 0..len {
            let (fs, snapshots) = empty();
            snapshots.save(&snapshot(1, 10)).unwrap();
            let path = snapshots.save(&snapshot(1, 11)).unwrap();
            assert!(fs.flip(&path, offset, 1));
            assert_eq!(snapshots.load_newest(&valid).unwrap(), Some(snapshot(1, 10)), "{offset}");
            let files = fs.list(Path::new(DIR)).unwrap();
            assert_eq!(files[1], "0000000000000001-000000000000000b.snap.broken");
        }
    }

    #[test]
    fn a_saved_snapshot_survives_a_crash_at_any_later_moment_and_one_half_saved_is_no_harm() {
        for seed in 0..50 {
            for step in 0..8 {
                let fs = SimFs::new(seed);
                fs.create_dir_all(Path::new(DIR)).unwrap();
                let snapshots = Snapshots::new(Arc::new(fs.clone()), Path::new(DIR));
                snapshots.save(&snapshot(1, 10)).unwrap();
                fs.stop_at(fs.operations() + step);
                let is_saved = snapshots.save(&snapshot(1, 20)).is_ok();
                fs.crash();
                snapshots.remove_leftovers().unwrap();
                let valid = [record(1, 10), record(1, 20)];
                let loaded = snapshots.load_newest(&valid).unwrap().unwrap();
                let expected = [snapshot(1, 10), snapshot(1, 20)];
                assert!(expected[usize::from(is_saved)..].contains(&loaded), "step {step}");
                assert!(
                    fs.list(Path::new(DIR)).unwrap().iter().all(|name| Name::parse(name).is_some())
                );
            }
        }
    }

    #[test]
    fn purge_keeps_the_newest() {
        let (fs, snapshots) = empty();
        for index in 1..=4 {
            snapshots.save(&snapshot(1, index)).unwrap();
        }
        fs.open(&Path::new(DIR).join("db"), Access::Replace).unwrap();
        assert_eq!(snapshots.purge(0).unwrap(), Vec::<String>::new());
        let removed = snapshots.purge(3).unwrap();
        assert_eq!(removed, ["0000000000000001-0000000000000001.snap"]);
        assert_eq!(snapshots.purge(3).unwrap(), Vec::<String>::new());
        let files = fs.list(Path::new(DIR)).unwrap();
        assert_eq!(files.len(), 4);
        assert!(files.contains(&"db".to_owned()));
    }

    fn empty() -> (SimFs, Snapshots) {
        let fs = SimFs::new(1);
        fs.create_dir_all(Path::new(DIR)).unwrap();
        let snapshots = Snapshots::new(Arc::new(fs.clone()), Path::new(DIR));
        (fs, snapshots)
    }

    fn snapshot(term: u64, index: u64) -> raftpb::Snapshot {
        let conf_state = raftpb::ConfState { voters: vec![1, 2], ..raftpb::ConfState::default() };
        let metadata = raftpb::SnapshotMetadata { conf_state: Some(conf_state), index, term };
        raftpb::Snapshot { data: Bytes::from_static(b"{}"), metadata: Some(metadata) }
    }

    fn record(term: u64, index: u64) -> walpb::Snapshot {
        walpb::Snapshot { index, term, conf_state: None }
    }
}
