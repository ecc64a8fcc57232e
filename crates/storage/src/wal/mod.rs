//! The write-ahead log: etcd's files, byte for byte, with our own way of writing them.
//!
//! ```text
//! 0000000000000000-0000000000000000.wal     sequence 0, first index 0      64,000,000 bytes each,
//! 0000000000000001-0000000000002711.wal     sequence 1, first index 0x2711 zeros behind the last record
//!
//! segment   = frame frame frame … zeros
//! frame     = length (8 bytes, little endian), record, zeros up to a multiple of 8
//! record    = walpb.Record { type, crc, data }
//! ```
//!
//! `crc` is the CRC-32C of all `data` since the first segment ever written, so a lost or swapped record shows at the
//! next one, across segments too. A segment opens with a `crc` record (the running value), the metadata and, but for
//! the first, the hard state: any of them can be the first one that is read. The first holds a snapshot record of
//! index 0.
//!
//! Writing
//! - [`Wal::append`] encodes into one buffer, [`Wal::flush`] writes it with one `pwrite` and, when asked, one
//!   `fdatasync`. Nothing is durable before a `flush(true)` has returned.
//! - The zeros of the next segment are written ahead of time by a background thread, so that a sync has only data to
//!   write: no file length, no allocation, no journal.
//! - After an error the log refuses all further use. A failed sync may have dropped the pages; only reading the files
//!   again in a new process tells what is there.
//!
//! Reading
//! - A later entry of the same index replaces the earlier one and all behind it; a gap is an error.
//! - A tail that was torn by a crash (cut short, or with a sector that never reached the disk) is copied to
//!   `*.wal.broken` and cut off. Any other damage is an error that names file and offset.
//! - Besides the crc, which covers `data` only, the structure around it must be as we would have written it.
//!
//! The format is that of etcd's `server/storage/wal`.

mod error;
mod reader;
mod record;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{Error, Operation};
pub use reader::{Item, Reader, Replayed, Tail, read, valid_snapshots};
pub use record::{EntryRef, Kind};
pub use segment::{SEGMENT_BYTES, SegmentName, exists, purge};
pub use writer::{Flushed, Options, Wal};
