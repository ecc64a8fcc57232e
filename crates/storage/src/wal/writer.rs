//! Writing a log: one buffer, one write, one sync; and the change to the next segment.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use retcd_api::raftpb::HardState;
use retcd_api::walpb;

use super::error::{Error, Operation};
use super::reader::{Reader, Replayed, Segment, replay};
use super::record::{Encoder, EntryRef};
use super::segment::{self, SEGMENT_BYTES, SegmentName};
use crate::fs::{self, Access, File, Fs};

/// What the batch buffer may keep for the next batch, in bytes: several of the largest messages Raft sends.
const BUFFER_KEPT_BYTES: usize = 4 << 20;
/// Zeros written between two syncs while a segment is prepared: a sync of real data waits behind one of these.
const PREPARED_AT_ONCE_BYTES: u64 = 4 << 20;
/// Bytes of the tail that are looked at at once when it is cleared.
const CLEARED_AT_ONCE_BYTES: usize = 256 << 10;

/// How a log is written. Does not change what its files mean.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A new segment starts when one has at least this many bytes.
    pub segment_bytes: u64,
    /// Whether the next segment is prepared by a thread of its own. Off, the flush that needs it prepares it: a
    /// simulation wants one order of events.
    pub prepares_in_background: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: SEGMENT_BYTES, prepares_in_background: true }
    }
}

/// What a flush did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flushed {
    /// Bytes written, frames included.
    pub bytes: u64,
    /// Time of the sync; zero without one.
    pub sync_took: Duration,
}

/// A log open for appending. It holds the locks of its segments.
#[derive(Debug)]
pub struct Wal {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    options: Options,
    metadata: Bytes,
    /// Locked, oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    /// Where the buffer goes, in bytes of the last segment.
    offset: u64,
    encoder: Encoder,
    buffer: Vec<u8>,
    /// Whether the last segment has bytes that were written but not synced.
    is_dirty: bool,
    hard_state: HardState,
    last_index: u64,
    next: Option<Preparation>,
    is_poisoned: bool,
}

impl Wal {
    /// Starts a log in a directory, which is made when absent. Durable when it returns.
    ///
    /// `metadata`: encoded `etcdserverpb.Metadata`; it opens every segment.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when there is one; I/O.
    pub fn create(
        fs: Arc<dyn Fs>,
        dir: &Path,
        metadata: &[u8],
        options: Options,
    ) -> Result<Self, Error> {
        if segment::exists(fs.as_ref(), dir) {
            return Err(Error::AlreadyExists { dir: dir.to_path_buf() });
        }
        fs.create_dir_all(dir).map_err(|error| Error::io(Operation::Open, dir, 0, error))?;
        let mut wal = Wal {
            fs,
            dir: dir.to_path_buf(),
            options,
            metadata: Bytes::copy_from_slice(metadata),
            segments: VecDeque::new(),
            offset: 0,
            encoder: Encoder::new(0),
            buffer: Vec::new(),
            is_dirty: false,
            hard_state: HardState::default(),
            last_index: 0,
            next: None,
            is_poisoned: false,
        };
        wal.encoder.crc(&mut wal.buffer);
        wal.encoder.metadata(&mut wal.buffer, metadata);
        wal.encoder.snapshot(&mut wal.buffer, &walpb::Snapshot::default());
        wal.start_segment(SegmentName { sequence: 0, first_index: 0 })?;
        if let Some(parent) = dir.parent() {
            sync_dir(wal.fs.as_ref(), parent)?;
        }
        Ok(wal)
    }

    /// Opens a log for appending and returns what it holds behind a snapshot (index 0: all of it).
    ///
    /// A torn tail is copied to `*.wal.broken` and cut off; what else stands behind the last record is zeroed.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Damaged`] and the others of [`Error`].
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        from: &walpb::Snapshot,
        options: Options,
    ) -> Result<(Self, Replayed), Error> {
        let segments = segment::from_index(fs.as_ref(), dir, from.index)?
            .into_iter()
            .map(|name| {
                let path = name.path(dir);
                let file = segment::open_locked(fs.as_ref(), &path, Access::Write)?;
                Ok(Segment { name, path, file })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let mut reader = Reader::new(dir, segments);
        let found = replay(&mut reader, from)?;
        let (segments, offset, crc) = reader.into_parts();
        let mut wal = Wal {
            fs,
            dir: dir.to_path_buf(),
            options,
            metadata: found.replayed.metadata.clone(),
            segments: segments.into(),
            offset,
            encoder: Encoder::new(crc),
            buffer: Vec::new(),
            is_dirty: true,
            hard_state: found.replayed.hard_state,
            last_index: found.last_index,
            next: None,
            is_poisoned: false,
        };
        if found.replayed.torn_tail.is_some() {
            wal.cut_torn_tail()?;
        }
        wal.clear_tail()?;
        wal.remove_leftovers()?;
        Ok((wal, found.replayed))
    }

    /// Adds entries, then the hard state, to the batch. Nothing is written before [`Wal::flush`].
    ///
    /// The hard state is the one that belongs to these entries; `None` when it has not changed.
    ///
    /// # Errors
    /// [`Error::Poisoned`]; [`Error::Unwritable`] for an entry or state of term 0 and for a membership change without
    /// data, which also closes the log.
    pub fn append<'a>(
        &mut self,
        hard_state: Option<&HardState>,
        entries: impl Iterator<Item = EntryRef<'a>>,
    ) -> Result<(), Error> {
        self.check()?;
        for entry in entries {
            if !entry.is_plausible() {
                return self.refuse(format!("entry {} of term {}", entry.index, entry.term));
            }
            self.last_index = entry.index;
            self.encoder.entry(&mut self.buffer, &entry);
        }
        // A state of zeros says nothing and has no place in a log.
        if let Some(state) = hard_state.filter(|state| **state != HardState::default()) {
            if state.term == 0 {
                return self.refuse("a hard state of term 0".to_owned());
            }
            self.hard_state = *state;
            self.encoder.state(&mut self.buffer, state);
        }
        Ok(())
    }

    /// Writes the batch with one write, and with `sync` makes it and all before it durable with one sync.
    ///
    /// Starts the next segment when this one is full, which syncs in any case.
    ///
    /// # Errors
    /// After an error the log is closed: end the process. The disk may hold none, a part or all of the batch.
    pub fn flush(&mut self, sync: bool) -> Result<Flushed, Error> {
        self.check()?;
        let result = self.try_flush(sync);
        self.is_poisoned = result.is_err();
        result
    }

    /// Adds the record of a saved snapshot and makes it durable.
    ///
    /// # Errors
    /// As [`Wal::flush`]; [`Error::SnapshotWithoutConfState`], after which the log goes on.
    pub fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<Flushed, Error> {
        self.check()?;
        if snapshot.index > 0 && snapshot.conf_state.is_none() {
            return Err(Error::SnapshotWithoutConfState { index: snapshot.index });
        }
        self.encoder.snapshot(&mut self.buffer, snapshot);
        self.last_index = self.last_index.max(snapshot.index);
        self.flush(true)
    }

    /// Gives up the segments that are not needed to read what comes behind `index`, so that [`purge`] may remove them.
    ///
    /// [`purge`]: super::purge
    pub fn release_to(&mut self, index: u64) {
        while self.segments.len() > 1 && self.segments[1].name.first_index < index {
            self.segments.pop_front();
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Encoded `etcdserverpb.Metadata`.
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// Index of the last entry (or snapshot) that was added.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_poisoned { Err(Error::Poisoned { dir: self.dir.clone() }) } else { Ok(()) }
    }

    /// A part of the batch is in the buffer already, so the log cannot go on.
    fn refuse(&mut self, what: String) -> Result<(), Error> {
        self.is_poisoned = true;
        Err(Error::Unwritable { what })
    }

    fn try_flush(&mut self, sync: bool) -> Result<Flushed, Error> {
        let bytes = self.buffer.len() as u64;
        self.write_buffer()?;
        let sync_took = if sync { self.sync()? } else { Duration::ZERO };
        if self.offset >= self.options.segment_bytes {
            self.cut()?;
        } else if self.offset >= self.options.segment_bytes / 2 {
            self.prepare_next();
        }
        Ok(Flushed { bytes, sync_took })
    }

    fn write_buffer(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let tail = self.tail();
        tail.file
            .write_at(&self.buffer, self.offset)
            .map_err(|error| Error::io(Operation::Write, &tail.path, self.offset, error))?;
        self.offset += self.buffer.len() as u64;
        self.is_dirty = true;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        Ok(())
    }

    fn sync(&mut self) -> Result<Duration, Error> {
        if !self.is_dirty {
            return Ok(Duration::ZERO);
        }
        let start = Instant::now();
        sync_file(self.tail(), self.offset)?;
        self.is_dirty = false;
        Ok(start.elapsed())
    }

    fn tail(&self) -> &Segment {
        self.segments.back().expect("a log has at least one segment")
    }

    /// Ends this segment and starts the next one, which opens with all that a reader needs to start there.
    fn cut(&mut self) -> Result<(), Error> {
        let tail = self.tail();
        tail.file
            .set_size(self.offset)
            .map_err(|error| Error::io(Operation::Truncate, &tail.path, self.offset, error))?;
        sync_file(tail, self.offset)?;
        let sequence = tail.name.sequence + 1;
        self.encoder.crc(&mut self.buffer);
        self.encoder.metadata(&mut self.buffer, &self.metadata);
        if self.hard_state != HardState::default() {
            self.encoder.state(&mut self.buffer, &self.hard_state);
        }
        self.start_segment(SegmentName { sequence, first_index: self.last_index + 1 })
    }

    /// Writes the buffer, which holds the header, into a fresh segment and only then gives it its name: a segment
    /// that has one is whole.
    fn start_segment(&mut self, name: SegmentName) -> Result<(), Error> {
        let temporary = temporary_path(&self.dir, name.sequence);
        let file = if let Some(preparation) = self.next.take() {
            preparation.wait()?
        } else {
            let size = self.options.segment_bytes;
            prepare(self.fs.as_ref(), &temporary, size, &AtomicBool::new(false))?
        };
        file.write_at(&self.buffer, 0)
            .map_err(|error| Error::io(Operation::Write, &temporary, 0, error))?;
        file.sync().map_err(|error| Error::io(Operation::Sync, &temporary, 0, error))?;
        let path = name.path(&self.dir);
        self.fs
            .rename(&temporary, &path)
            .map_err(|error| Error::io(Operation::Rename, &temporary, 0, error))?;
        sync_dir(self.fs.as_ref(), &self.dir)?;
        self.offset = self.buffer.len() as u64;
        self.buffer.clear();
        self.is_dirty = false;
        self.segments.push_back(Segment { name, path, file });
        Ok(())
    }

    fn prepare_next(&mut self) {
        if self.next.is_none() && self.options.prepares_in_background {
            let path = temporary_path(&self.dir, self.tail().name.sequence + 1);
            self.next = Preparation::start(Arc::clone(&self.fs), path, self.options.segment_bytes);
        }
    }

    /// Keeps a copy of the last segment for whoever wants to look, and cuts it behind the last good record.
    fn cut_torn_tail(&mut self) -> Result<(), Error> {
        let tail = self.tail();
        tracing::warn!(file = %tail.path.display(), offset = self.offset, "cutting the torn tail of the log");
        let mut broken = tail.path.clone().into_os_string();
        broken.push(".broken");
        let broken = PathBuf::from(broken);
        copy(self.fs.as_ref(), tail, &broken)?;
        tail.file
            .set_size(self.offset)
            .map_err(|error| Error::io(Operation::Truncate, &tail.path, self.offset, error))?;
        sync_file(tail, self.offset)?;
        sync_dir(self.fs.as_ref(), &self.dir)
    }

    /// Zeroes what stands behind the last record, and fills the segment up: old bytes must never be read as records.
    /// What is zero already is only read.
    fn clear_tail(&self) -> Result<(), Error> {
        let tail = self.tail();
        let failed = |error| Error::io(Operation::Write, &tail.path, self.offset, error);
        let size = tail.file.size().map_err(failed)?;
        let mut buffer = vec![0; CLEARED_AT_ONCE_BYTES];
        let mut offset = self.offset;
        while offset < size {
            let read = tail.file.read_at(&mut buffer, offset).map_err(failed)?;
            if read == 0 {
                break;
            }
            let end = offset + read as u64;
            if buffer[..read].iter().any(|byte| *byte != 0) {
                fs::write_zeros(tail.file.as_ref(), offset, end).map_err(failed)?;
            }
            offset = end;
        }
        fs::write_zeros(tail.file.as_ref(), offset, self.options.segment_bytes).map_err(failed)
    }

    /// Removes prepared segments that an earlier process did not come to use.
    fn remove_leftovers(&self) -> Result<(), Error> {
        for sequence in 0..2 {
            let path = temporary_path(&self.dir, sequence);
            match self.fs.remove(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(Operation::Remove, &path, 0, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The next segment has one of two names until it is used, as in etcd.
fn temporary_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{}.tmp", sequence % 2))
}

fn sync_file(segment: &Segment, offset: u64) -> Result<(), Error> {
    segment.file.sync().map_err(|error| Error::io(Operation::Sync, &segment.path, offset, error))
}

fn sync_dir(fs: &dyn Fs, dir: &Path) -> Result<(), Error> {
    fs.sync_dir(dir).map_err(|error| Error::io(Operation::Sync, dir, 0, error))
}

fn copy(fs: &dyn Fs, from: &Segment, to: &Path) -> Result<(), Error> {
    let target = segment::open(fs, to, Access::Replace)?;
    let mut buffer = vec![0; CLEARED_AT_ONCE_BYTES];
    let mut offset = 0;
    loop {
        let read = from
            .file
            .read_at(&mut buffer, offset)
            .map_err(|error| Error::io(Operation::Read, &from.path, offset, error))?;
        if read == 0 {
            break;
        }
        target
            .write_at(&buffer[..read], offset)
            .map_err(|error| Error::io(Operation::Write, to, offset, error))?;
        offset += read as u64;
    }
    target.sync().map_err(|error| Error::io(Operation::Sync, to, offset, error))
}

/// Makes a locked file of zeros, all of them on disk.
fn prepare(
    fs: &dyn Fs,
    path: &Path,
    size_bytes: u64,
    is_cancelled: &AtomicBool,
) -> Result<Box<dyn File>, Error> {
    let file = segment::open_locked(fs, path, Access::Replace)?;
    let mut offset = 0;
    while offset < size_bytes && !is_cancelled.load(Ordering::Relaxed) {
        let end = (offset + PREPARED_AT_ONCE_BYTES).min(size_bytes);
        fs::write_zeros(file.as_ref(), offset, end)
            .map_err(|error| Error::io(Operation::Write, path, offset, error))?;
        file.sync().map_err(|error| Error::io(Operation::Sync, path, offset, error))?;
        offset = end;
    }
    Ok(file)
}

/// The next segment, being prepared by a thread that this handle joins.
#[derive(Debug)]
struct Preparation {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    is_cancelled: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Box<dyn File>, Error>>>,
}

impl Preparation {
    /// `None` when no thread can be had; the segment is then prepared when it is needed.
    fn start(fs: Arc<dyn Fs>, path: PathBuf, size_bytes: u64) -> Option<Self> {
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("wal-prepare".to_owned())
            .spawn({
                let (fs, path, is_cancelled) =
                    (Arc::clone(&fs), path.clone(), Arc::clone(&is_cancelled));
                move || prepare(fs.as_ref(), &path, size_bytes, &is_cancelled)
            })
            .ok()?;
        Some(Preparation { fs, path, is_cancelled, thread: Some(thread) })
    }

    fn wait(mut self) -> Result<Box<dyn File>, Error> {
        let thread = self.thread.take().expect("only wait and drop take the thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Preparation {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.is_cancelled.store(true, Ordering::Relaxed);
        if thread.join().is_ok_and(|prepared| prepared.is_ok()) {
            // What cannot be removed is removed at the next start.
            let _ = self.fs.remove(&self.path);
        }
    }
}
