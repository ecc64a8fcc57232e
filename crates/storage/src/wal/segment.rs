//! The files of a log: their names, which of them to read, and getting rid of old ones.

use std::path::{Path, PathBuf};

use super::error::{Error, Operation};
use crate::fs::{Access, File, Fs};

/// Bytes of a segment before the next one starts.
pub const SEGMENT_BYTES: u64 = 64_000_000;

/// The name of a segment: `<sequence>-<first index>.wal`, 16 hex digits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Counts the segments of a log from 0.
    pub sequence: u64,
    /// The first Raft index that may stand in it: one above the last one saved before it.
    pub first_index: u64,
}

impl SegmentName {
    /// Reads a file name. `None` when it is not that of a segment.
    pub fn parse(name: &str) -> Option<Self> {
        let (sequence, first_index) = name.strip_suffix(".wal")?.split_once('-')?;
        Some(SegmentName { sequence: hex(sequence)?, first_index: hex(first_index)? })
    }

    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.to_string())
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.sequence, self.first_index)
    }
}

fn hex(digits: &str) -> Option<u64> {
    let is_plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_plain.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Whether a directory holds a log. One that cannot be listed holds none.
pub fn exists(fs: &dyn Fs, dir: &Path) -> bool {
    fs.list(dir).is_ok_and(|names| names.iter().any(|name| SegmentName::parse(name).is_some()))
}

/// All segments of a directory, oldest first, without a gap between them. Other files are left alone.
pub(super) fn list(fs: &dyn Fs, dir: &Path) -> Result<Vec<SegmentName>, Error> {
    let files = fs.list(dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound { dir: dir.to_path_buf() },
        _ => Error::io(Operation::List, dir, 0, error),
    })?;
    let mut names: Vec<_> = files.iter().filter_map(|name| SegmentName::parse(name)).collect();
    if names.is_empty() {
        return Err(Error::NotFound { dir: dir.to_path_buf() });
    }
    names.sort_unstable();
    Ok(names)
}

/// The segments to read for what comes behind `index`: from the newest that starts at or below it.
pub(super) fn from_index(fs: &dyn Fs, dir: &Path, index: u64) -> Result<Vec<SegmentName>, Error> {
    let mut names = list(fs, dir)?;
    let first = names
        .iter()
        .rposition(|name| name.first_index <= index)
        .ok_or_else(|| Error::SnapshotNotFound { dir: dir.to_path_buf(), index })?;
    names.drain(..first);
    contiguous(dir, &names)?;
    Ok(names)
}

pub(super) fn contiguous(dir: &Path, names: &[SegmentName]) -> Result<(), Error> {
    for pair in names.windows(2) {
        if pair[1].sequence != pair[0].sequence + 1 {
            let sequence = pair[0].sequence + 1;
            return Err(Error::MissingSegment { dir: dir.to_path_buf(), sequence });
        }
    }
    Ok(())
}

/// Removes the oldest segments until `segments_max` are left, or one is locked, that is, still needed by a [`Wal`].
/// Returns the names of the removed ones. 0 removes nothing, as in etcd's `--max-wals`.
///
/// Takes time (large files are unlinked): not for a thread that others wait for.
///
/// [`Wal`]: super::Wal
///
/// # Errors
/// When a file cannot be opened or removed; those before it are gone.
pub fn purge(fs: &dyn Fs, dir: &Path, segments_max: usize) -> Result<Vec<String>, Error> {
    if segments_max == 0 {
        return Ok(Vec::new());
    }
    let names = list(fs, dir)?;
    let surplus = names.len().saturating_sub(segments_max);
    let mut removed = Vec::new();
    for name in &names[..surplus] {
        let path = name.path(dir);
        let file = open(fs, &path, Access::Write)?;
        if !try_lock(file.as_ref(), &path)? {
            break;
        }
        fs.remove(&path).map_err(|error| Error::io(Operation::Remove, &path, 0, error))?;
        removed.push(name.to_string());
    }
    Ok(removed)
}

pub(super) fn open(fs: &dyn Fs, path: &Path, access: Access) -> Result<Box<dyn File>, Error> {
    fs.open(path, access).map_err(|error| Error::io(Operation::Open, path, 0, error))
}

/// Opens and locks a segment for a writer.
pub(super) fn open_locked(
    fs: &dyn Fs,
    path: &Path,
    access: Access,
) -> Result<Box<dyn File>, Error> {
    let file = open(fs, path, access)?;
    if try_lock(file.as_ref(), path)? {
        Ok(file)
    } else {
        Err(Error::Locked { file: path.to_path_buf() })
    }
}

fn try_lock(file: &dyn File, path: &Path) -> Result<bool, Error> {
    file.try_lock().map_err(|error| Error::io(Operation::Lock, path, 0, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_sequence_and_first_index() {
        let name = SegmentName { sequence: 16, first_index: 0xabc };
        assert_eq!(name.to_string(), "0000000000000010-0000000000000abc.wal");
        assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        for other in
            ["0.tmp", "x-y.wal", "0000000000000010-0000000000000abc.wal.broken", "10-1.wal"]
        {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }
}
