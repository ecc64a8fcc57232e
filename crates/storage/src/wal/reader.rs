//! Reading a log: frame by frame ([`Reader`]), and folded into what Raft starts from ([`read`], [`Wal::open`]).
//!
//! A frame is read into memory of its own size and everything decoded from it shares that memory, so replay needs
//! little more than the entries it returns.
//!
//! [`Wal::open`]: super::Wal::open

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use retcd_api::raftpb::{Entry, HardState};
use retcd_api::walpb;

use super::error::{Error, Operation};
use super::record::{
    self, FrameLength, HEAD_BYTES_MAX, Kind, LENGTH_BYTES, decode_entry, decode_length_field,
    decode_record, decode_state,
};
use super::segment::{self, SegmentName};
use crate::fs::{Access, File, Fs};

/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: u64 = 512;
/// Bytes read at once. Records above it are read directly.
const WINDOW_BYTES: usize = 256 << 10;
/// Records that open every segment: crc, metadata.
const HEADER_RECORDS: u64 = 2;

/// What a log held behind a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Encoded `etcdserverpb.Metadata`: who wrote this log.
    pub metadata: Bytes,
    /// The last one saved; all zero when there is none.
    pub hard_state: HardState,
    /// With indexes from that of the snapshot + 1, without gaps. Those above `hard_state.commit` may yet be replaced.
    pub entries: Vec<Entry>,
    /// The tail, when a crash had torn it. It held nothing that was acknowledged.
    pub torn_tail: Option<Tail>,
}

/// Where the good records of a log end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    pub file: PathBuf,
    /// Bytes of that file that are good.
    pub offset: u64,
}

/// Reads a log without changing or locking it, from the snapshot on (index 0: from its first entry).
///
/// # Errors
/// See [`Error`]; a torn tail is none.
pub fn read(fs: &dyn Fs, dir: &Path, from: &walpb::Snapshot) -> Result<Replayed, Error> {
    let names = segment::from_index(fs, dir, from.index)?;
    let mut reader = Reader::new(dir, open_all(fs, dir, &names)?);
    Ok(replay(&mut reader, from)?.replayed)
}

/// The snapshot records whose index is committed, oldest first: a `.snap` file counts only when it is among them.
///
/// # Errors
/// See [`Error`]; a torn tail is none.
pub fn valid_snapshots(fs: &dyn Fs, dir: &Path) -> Result<Vec<walpb::Snapshot>, Error> {
    let mut reader = Reader::open(fs, dir)?;
    let mut snapshots = Vec::new();
    let mut commit = 0;
    while let Some(item) = reader.next_item()? {
        match item.kind {
            Kind::Snapshot => snapshots.push(item.snapshot()?),
            Kind::State => commit = item.hard_state()?.commit,
            Kind::Metadata | Kind::Entry | Kind::Crc => {}
        }
    }
    snapshots.retain(|snapshot| snapshot.index <= commit);
    Ok(snapshots)
}

fn open_all(fs: &dyn Fs, dir: &Path, names: &[SegmentName]) -> Result<Vec<Segment>, Error> {
    let open = |name: &SegmentName| {
        let path = name.path(dir);
        let file = segment::open(fs, &path, Access::Read)?;
        Ok(Segment { name: *name, path, file })
    };
    names.iter().map(open).collect()
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) name: SegmentName,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn File>,
}

/// One record, checked, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub kind: Kind,
    /// CRC-32C of all data up to and with this record.
    pub crc: u32,
    /// Empty for [`Kind::Crc`].
    pub data: Bytes,
    pub file: PathBuf,
    /// Of the frame, in bytes from the start of the file.
    pub offset: u64,
}

impl Item {
    /// # Errors
    /// When the data is not an entry.
    pub fn entry(&self) -> Result<Entry, Error> {
        decode_entry(&self.data).ok_or_else(|| self.damaged("the data is not an entry"))
    }

    /// # Errors
    /// When the data is not a hard state.
    pub fn hard_state(&self) -> Result<HardState, Error> {
        decode_state(&self.data).ok_or_else(|| self.damaged("the data is not a hard state"))
    }

    /// # Errors
    /// When the data is not a snapshot record.
    pub fn snapshot(&self) -> Result<walpb::Snapshot, Error> {
        walpb::Snapshot::decode(self.data.clone())
            .map_err(|error| self.damaged(format!("the data is not a snapshot record: {error}")))
    }

    fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::damaged(&self.file, self.offset, reason)
    }
}

/// Reads records in order, over all segments of a log.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    segments: Vec<Segment>,
    /// The segment being read.
    current: usize,
    /// Size of that segment; `None` before its first read.
    size: Option<u64>,
    offset: u64,
    /// Records read from that segment.
    records: u64,
    crc: u32,
    metadata: Option<Bytes>,
    window: Window,
    is_torn: bool,
}

impl Reader {
    /// Opens all segments of a directory, without locks.
    ///
    /// # Errors
    /// When there is no log, a segment is missing in between or cannot be opened.
    pub fn open(fs: &dyn Fs, dir: &Path) -> Result<Self, Error> {
        let names = segment::list(fs, dir)?;
        segment::contiguous(dir, &names)?;
        Ok(Reader::new(dir, open_all(fs, dir, &names)?))
    }

    /// `segments`: at least one, in order.
    pub(super) fn new(dir: &Path, segments: Vec<Segment>) -> Self {
        Reader {
            dir: dir.to_path_buf(),
            segments,
            current: 0,
            size: None,
            offset: 0,
            records: 0,
            crc: 0,
            metadata: None,
            window: Window::default(),
            is_torn: false,
        }
    }

    /// The next record; `None` at the end of the log, then see [`Reader::torn_tail`].
    ///
    /// # Errors
    /// [`Error::Damaged`] for anything but a torn tail.
    pub fn next_item(&mut self) -> Result<Option<Item>, Error> {
        loop {
            match self.next_frame()? {
                Frame::Record(item) => return Ok(Some(item)),
                Frame::End if self.records < HEADER_RECORDS => {
                    return Err(self.damaged("the segment ends within its header"));
                }
                Frame::End if self.is_in_last() => return Ok(None),
                Frame::Torn if self.is_in_last() && self.records >= HEADER_RECORDS => {
                    self.is_torn = true;
                    return Ok(None);
                }
                Frame::Torn => return Err(self.damaged("the segment is cut short")),
                Frame::End => {
                    self.current += 1;
                    self.size = None;
                    self.offset = 0;
                    self.records = 0;
                    self.window = Window::default();
                }
            }
        }
    }

    /// Where the good records end, if a crash had torn what follows. Known after the last record was read.
    pub fn torn_tail(&self) -> Option<Tail> {
        self.is_torn
            .then(|| Tail { file: self.segments[self.current].path.clone(), offset: self.offset })
    }

    /// The parts a writer goes on with: segments, offset in the last one, running crc.
    pub(super) fn into_parts(self) -> (Vec<Segment>, u64, u32) {
        (self.segments, self.offset, self.crc)
    }

    fn is_in_last(&self) -> bool {
        self.current + 1 == self.segments.len()
    }

    fn next_frame(&mut self) -> Result<Frame, Error> {
        let size = self.size()?;
        let Some(field) = self.length_field(size)? else { return Ok(Frame::Torn) };
        if field == 0 {
            return Ok(Frame::End);
        }
        let Some(length) = decode_length_field(field) else {
            return Err(self.damaged(format!("{field:#018x} is not a length field")));
        };
        if length.whole() > size - self.offset {
            if self.may_be_torn(length, size)? {
                return Ok(Frame::Torn);
            }
            return Err(self.damaged("the record is longer than the rest of the segment"));
        }
        let frame = match self.record(length)? {
            Ok(item) => {
                self.offset += length.whole();
                self.records += 1;
                Frame::Record(item)
            }
            Err(_)
                if self.may_be_torn(length, size)?
                    && self.has_unwritten_sector(length, size)? =>
            {
                Frame::Torn
            }
            Err(reason) => return Err(self.damaged(reason)),
        };
        Ok(frame)
    }

    fn size(&mut self) -> Result<u64, Error> {
        if let Some(size) = self.size {
            return Ok(size);
        }
        let segment = &self.segments[self.current];
        let size = segment
            .file
            .size()
            .map_err(|error| Error::io(Operation::Read, &segment.path, 0, error))?;
        self.size = Some(size);
        Ok(size)
    }

    /// The length field at the offset; 0 at the end of the file, `None` when only a part of it is there.
    fn length_field(&mut self, size: u64) -> Result<Option<u64>, Error> {
        let mut bytes = [0; 8];
        let there = (size - self.offset).min(LENGTH_BYTES);
        self.read(self.offset, &mut bytes[..usize::try_from(there).unwrap_or(8)])?;
        let field = u64::from_le_bytes(bytes);
        Ok((there == LENGTH_BYTES || field == 0).then_some(field))
    }

    /// Reads and checks the record of a frame. Inner error: what is wrong with it.
    fn record(&mut self, length: FrameLength) -> Result<Result<Item, String>, Error> {
        let bytes = self.read_vec(self.offset + LENGTH_BYTES, length.record)?;
        let Some(record) = decode_record(&Bytes::from(bytes)) else {
            return Ok(Err("not a record".to_owned()));
        };
        if let Err(reason) = self.check(&record) {
            return Ok(Err(reason));
        }
        self.crc = record.crc;
        Ok(Ok(Item {
            kind: record.kind,
            crc: record.crc,
            data: record.data.unwrap_or_default(),
            file: self.segments[self.current].path.clone(),
            offset: self.offset,
        }))
    }

    fn check(&mut self, record: &record::Record) -> Result<(), String> {
        match (self.records, record.kind) {
            (0, Kind::Crc) | (1, Kind::Metadata) | (HEADER_RECORDS.., _) => {}
            (position, kind) => {
                return Err(format!("record {position} of a segment is of kind {kind:?}"));
            }
        }
        // Nothing before the first segment that is read can tell the value it starts from.
        let is_start = self.current == 0 && self.records == 0;
        let data = record.data.as_deref().unwrap_or_default();
        let expected = crc32c::crc32c_append(self.crc, data);
        if record.crc != expected && !is_start {
            return Err(format!("crc {:08x} does not match {expected:08x}", record.crc));
        }
        if record.kind == Kind::Metadata {
            let known = self.metadata.get_or_insert_with(|| data.to_vec().into());
            if known != data {
                return Err("the metadata differs from that of an earlier segment".to_owned());
            }
        }
        Ok(())
    }

    /// Whether a frame that cannot be read may be the last one, with a part missing. Its length field is not torn, as
    /// it never crosses a sector; so the start of the record must agree with it, as far as it was written.
    ///
    /// Without this a flipped bit in a length would pass for a torn tail, and take all behind it along.
    fn may_be_torn(&mut self, length: FrameLength, size: u64) -> Result<bool, Error> {
        if !self.is_in_last() {
            return Ok(false);
        }
        let start = self.offset + LENGTH_BYTES;
        let wanted = length.record.min(HEAD_BYTES_MAX);
        if size - start < wanted {
            return Ok(true);
        }
        let head = self.read_vec(start, wanted)?;
        let sector = start.next_multiple_of(SECTOR_BYTES);
        Ok(record::head_agrees(&head, length.record)
            || sector < start + wanted && self.is_unwritten(sector, size)?)
    }

    /// Whether a sector of the frame never reached the disk.
    ///
    /// Behind the records the file holds only zeros, so such a sector is zero from the frame's start, or its own, to
    /// its end, past the end of the frame. (Zeros to the frame's end alone could be the tail of a value.)
    fn has_unwritten_sector(&mut self, length: FrameLength, size: u64) -> Result<bool, Error> {
        let end = self.offset + length.whole();
        let mut from = self.offset + LENGTH_BYTES;
        while from < end {
            if self.is_unwritten(from, size)? {
                return Ok(true);
            }
            from = (from / SECTOR_BYTES + 1) * SECTOR_BYTES;
        }
        Ok(false)
    }

    /// Whether all is zero from here to the end of the sector.
    fn is_unwritten(&mut self, from: u64, size: u64) -> Result<bool, Error> {
        let to = (from / SECTOR_BYTES + 1) * SECTOR_BYTES;
        let rest = self.read_vec(from, to.min(size) - from)?;
        Ok(rest.iter().all(|byte| *byte == 0))
    }

    fn read_vec(&mut self, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(len).map_err(|_| self.damaged("the record is too large"))?;
        let mut bytes = vec![0; len];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let segment = &self.segments[self.current];
        self.window
            .read(segment.file.as_ref(), offset, out)
            .map_err(|error| Error::io(Operation::Read, &segment.path, offset, error))
    }

    fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::damaged(&self.segments[self.current].path, self.offset, reason)
    }
}

enum Frame {
    Record(Item),
    End,
    Torn,
}

/// A piece of a file, read ahead.
#[derive(Debug, Default)]
struct Window {
    bytes: Vec<u8>,
    start: u64,
}

impl Window {
    /// Fills `out`, whose bytes are known to be within the file.
    fn read(&mut self, file: &dyn File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        if out.len() >= WINDOW_BYTES {
            return exact(file.read_at(out, offset)?, out.len());
        }
        if self.piece(offset, out.len()).is_none() {
            self.bytes.resize(WINDOW_BYTES, 0);
            let read = file.read_at(&mut self.bytes, offset)?;
            self.bytes.truncate(read);
            self.start = offset;
        }
        match self.piece(offset, out.len()) {
            Some(piece) => out.copy_from_slice(piece),
            None => return exact(0, out.len()),
        }
        Ok(())
    }

    fn piece(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(len)?)
    }
}

fn exact(read: usize, wanted: usize) -> std::io::Result<()> {
    if read == wanted { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// What replay found, with what only a writer needs to go on.
pub(super) struct Replay {
    pub(super) replayed: Replayed,
    /// Index of the last entry or snapshot record.
    pub(super) last_index: u64,
}

/// Folds a log from the snapshot on.
pub(super) fn replay(reader: &mut Reader, from: &walpb::Snapshot) -> Result<Replay, Error> {
    let mut fold = Fold::new(from);
    while let Some(item) = reader.next_item()? {
        fold.add(&item)?;
    }
    if !fold.found_snapshot {
        return Err(Error::SnapshotNotFound { dir: reader.dir.clone(), index: from.index });
    }
    let replayed = Replayed {
        metadata: reader.metadata.clone().unwrap_or_default(),
        hard_state: fold.hard_state,
        entries: fold.entries,
        torn_tail: reader.torn_tail(),
    };
    Ok(Replay { replayed, last_index: fold.last_index })
}

struct Fold<'a> {
    from: &'a walpb::Snapshot,
    found_snapshot: bool,
    /// Of the entry at the snapshot's index, while the log has it.
    term_at_snapshot: Option<u64>,
    hard_state: HardState,
    entries: Vec<Entry>,
    last_index: u64,
}

impl<'a> Fold<'a> {
    fn new(from: &'a walpb::Snapshot) -> Self {
        Fold {
            from,
            found_snapshot: false,
            term_at_snapshot: None,
            hard_state: HardState::default(),
            entries: Vec::new(),
            last_index: 0,
        }
    }

    fn add(&mut self, item: &Item) -> Result<(), Error> {
        match item.kind {
            Kind::Crc | Kind::Metadata => Ok(()),
            Kind::Entry => self.add_entry(item),
            Kind::State => self.add_state(item),
            Kind::Snapshot => self.add_snapshot(item),
        }
    }

    fn add_entry(&mut self, item: &Item) -> Result<(), Error> {
        let entry = item.entry()?;
        self.last_index = entry.index;
        if entry.index <= self.from.index {
            // It replaces all that came behind it.
            self.entries.clear();
            self.term_at_snapshot = (entry.index == self.from.index).then_some(entry.term);
            return Ok(());
        }
        let position = entry.index - self.from.index - 1;
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        if position > self.entries.len() {
            let last = self.from.index + self.entries.len() as u64;
            return Err(item.damaged(format!("entry {} follows entry {last}", entry.index)));
        }
        self.entries.truncate(position);
        let term_before = self.entries.last().map_or(0, |before| before.term);
        if entry.term < term_before {
            return Err(item.damaged(format!(
                "entry {} has term {}, the one before it {term_before}",
                entry.index, entry.term
            )));
        }
        self.entries.push(entry);
        Ok(())
    }

    fn add_state(&mut self, item: &Item) -> Result<(), Error> {
        let state = item.hard_state()?;
        if state.term < self.hard_state.term {
            return Err(item.damaged(format!(
                "the hard state goes back from term {} to {}",
                self.hard_state.term, state.term
            )));
        }
        self.hard_state = state;
        Ok(())
    }

    fn add_snapshot(&mut self, item: &Item) -> Result<(), Error> {
        let snapshot = item.snapshot()?;
        self.last_index = self.last_index.max(snapshot.index);
        if snapshot.index != self.from.index {
            return Ok(());
        }
        if snapshot.term != self.from.term {
            return Err(Error::SnapshotMismatch {
                file: item.file.clone(),
                index: snapshot.index,
                expected: self.from.term,
                found: snapshot.term,
            });
        }
        if self.term_at_snapshot.is_some_and(|term| term != snapshot.term) {
            // Another member has sent it, and it has replaced a log that was never committed.
            self.entries.clear();
        }
        self.found_snapshot = true;
        Ok(())
    }
}
