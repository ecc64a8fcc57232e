//! Reads and writes bbolt files, the format of etcd's database and of its snapshots.
//!
//! A bbolt file is a run of pages of one size. The first two say where everything else is; the rest are B+trees of
//! byte strings: one tree of buckets, and one tree of entries per bucket.
//!
//! ```text
//! page 0   meta ┐ magic, page size, root of the bucket tree, high-water mark (pages in use), transaction id, checksum;
//! page 1   meta ┘ the valid one with the larger transaction id counts
//! page 2   freelist
//! page …   leaf    [ header | element element … | key value key value … ]
//!          branch  [ header | element element … | key key … ]      an element's key is the first key below it
//!          a page that does not hold its content goes on in the pages behind it: overflow
//! ```
//!
//! The leaf elements of the bucket tree are buckets: the page id of a bucket's root, or, for a small bucket, a whole
//! leaf in line behind a root of zero.
//!
//! etcd knows this format as a database that is changed in place. Here it is a **transport**: a snapshot is written
//! once, in key order, and read once, in key order. So there is no map of the file, no lock, no cache and no free
//! page, and memory does not grow with the file.
//!
//! **Writing** ([`Writer`]) takes buckets and keys in ascending order. Pages are written as they fill, children
//! before parents, and what stays in memory is per level of the tree: the leaf that is being filled, and two
//! branch pages (why two: `write/tree.rs`). A tree of 4 KiB pages with keys as long as etcd's has a fanout of about
//! 120, so 8 GiB make four levels: under 50 KiB, plus the largest entry, which is copied into its leaf. Keys of the
//! greatest length, 32 KiB, still cost under 200 KiB per level.
//!
//! The metas lie first and say what is known last. Where the output can seek, they are written last
//! ([`Writer::new`]), and a file that was not finished is not valid. Where it cannot, the same content is given twice:
//! first to a writer that only counts ([`Writer::measuring`]), whose [`Layout`] also tells the size in advance, then
//! to one that streams ([`Writer::streaming`]) and refuses to write anything that was not announced.
//!
//! ```
//! # use retcd_bbolt::{Error, PageSize, Sink, Writer};
//! fn fill<S: Sink>(writer: &mut Writer<S>) -> Result<(), Error> {
//!     writer.bucket(b"key")?.put(b"a", b"1")?.put(b"b", b"2")?;
//!     writer.bucket(b"meta")?;
//!     Ok(())
//! }
//! let mut counter = Writer::measuring(PageSize::DEFAULT);
//! fill(&mut counter)?;
//! let layout = counter.finish()?;
//! let mut writer = Writer::streaming(Vec::new(), layout)?;
//! fill(&mut writer)?;
//! assert_eq!(writer.finish()?.len() as u64, layout.size_bytes());
//! # Ok::<(), Error>(())
//! ```
//!
//! **Reading** ([`Database`]) walks a bucket with one page per level. Data pages have no checksum, so all that can be
//! checked of their structure is: kinds, ids, counts, bounds, the order of keys within a page and between a page and
//! its parents. A flipped bit in a value is not seen; the SHA-256 at the end of a saved snapshot ([`trailer`]) is
//! there for that. Whatever the bytes are, a walk ends, does not panic and holds no more than what the elements of
//! one page claim within the file.
//!
//! Nested buckets are refused: etcd has none.
//!
//! The format is that of `go.etcd.io/bbolt`, files `internal/common/{page,meta,inode,bucket}.go`.

mod format;
mod read;
#[cfg(test)]
mod tests;
pub mod trailer;
mod write;

pub use format::{KEY_LEN_MAX, PageSize, VALUE_LEN_MAX};
pub use read::{Bucket, Buckets, Damage, Database, Entries, Entry, Fault, ReadAt};
pub use write::{Error, Layout, Measured, Seekable, Sink, Streamed, Writer};
