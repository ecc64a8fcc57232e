//! Reads a file, and trusts nothing in it.

mod page;
mod walk;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::format::{
    BUCKET_BYTES, BucketHeader, ELEMENT_BUCKET, ELEMENT_VALUE, FLAG_META, HEADER_BYTES, META_BYTES,
    META_PAGES, Meta, NO_FREELIST, PageHeader, PageSize,
};
use page::{Kind, Page};
use walk::{Root, Walk};

/// Bytes at offsets: a [`File`], or memory.
pub trait ReadAt {
    /// Fills `bytes` from `offset` on, or fails.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// How many bytes there are.
    fn size_bytes(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for &[u8] {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = start.checked_add(bytes.len()).and_then(|end| self.get(start..end));
        bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("bbolt: cannot read {what}: {source}")]
    Io { what: &'static str, source: io::Error },

    #[error("bbolt: cannot read page {page} at offset {offset}: {source}")]
    PageIo { page: u64, offset: u64, source: io::Error },

    #[error("bbolt: neither page 0 nor page 1 is a valid meta page")]
    NoMeta,

    #[error("bbolt: the file has {size_bytes} bytes, its pages need {needed_bytes}")]
    Truncated { size_bytes: u64, needed_bytes: u64 },

    #[error("bbolt: meta page {page}: the {what} is page {id}, the file has {pages}")]
    MetaRange { page: u64, what: &'static str, id: u64, pages: u64 },

    /// `page`, at `offset` of the file, is not what a page can be. For a bucket in line: the page that holds it.
    #[error("bbolt: page {page} at offset {offset}: {damage}")]
    Page { page: u64, offset: u64, damage: Damage },
}

/// What is wrong with a page. Elements count from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the id is outside of the file, which has {pages} pages")]
    OutOfRange { pages: u64 },

    #[error("it calls itself page {found}")]
    WrongId { found: u64 },

    #[error("flags {flags:#06x} are neither branch nor leaf")]
    Kind { flags: u16 },

    #[error("a bucket in line is not a leaf")]
    InlineKind,

    #[error("{overflow} overflow pages go over the end of the file")]
    Overflow { overflow: u32 },

    #[error("it has no elements and is not the root")]
    Empty,

    #[error("a table of {count} elements does not fit")]
    Table { count: u16 },

    #[error("element {element} does not start where the one before it ends")]
    Position { element: usize },

    #[error("element {element} goes over the end")]
    Length { element: usize },

    #[error("element {element} has a key of {len} bytes")]
    KeyLength { element: usize, len: u32 },

    #[error("element {element} is not above the one before it")]
    Order { element: usize },

    #[error("its keys are outside of what its parents say")]
    Bounds,

    #[error("element {element} has flags {flags:#x}")]
    ElementKind { element: usize, flags: u32 },

    #[error("element {element} is a value among buckets")]
    NotABucket { element: usize },

    #[error("element {element} is a bucket within a bucket")]
    NestedBucket { element: usize },

    #[error("element {element} is a bucket of {len} bytes")]
    BucketValue { element: usize, len: usize },

    #[error("it is its own ancestor")]
    Cycle,

    #[error("more pages hang together than the file has, or deeper than a tree can be")]
    TooMany,
}

/// A bbolt file that is read.
///
/// The newest complete transaction is what counts. The file is not locked: whoever reads a database that bbolt has
/// open for writing sees pages change.
#[derive(Debug)]
pub struct Database<R> {
    source: R,
    meta: Meta,
}

impl Database<File> {
    /// # Errors
    /// As [`Self::open`].
    pub fn open_path(path: &Path) -> Result<Self, Fault> {
        let file = File::open(path).map_err(|source| Fault::Io { what: "the file", source })?;
        Database::open(file)
    }
}

impl<R: ReadAt> Database<R> {
    /// Finds the valid meta with the larger transaction id. Bytes behind the pages, as the hash of a saved snapshot,
    /// are passed over.
    ///
    /// # Errors
    /// No meta, one that makes no sense, a file shorter than it says; I/O.
    pub fn open(source: R) -> Result<Self, Fault> {
        let size_bytes =
            source.size_bytes().map_err(|source| Fault::Io { what: "the size", source })?;
        let meta = newest_meta(&source, size_bytes)?;
        let needed_bytes = meta.page_size.offset_of(meta.high_water);
        if size_bytes < needed_bytes {
            return Err(Fault::Truncated { size_bytes, needed_bytes });
        }
        let in_file = META_PAGES..meta.high_water;
        let range = |what, id| {
            let (page, pages) = (meta.txid % META_PAGES, meta.high_water);
            Fault::MetaRange { page, what, id, pages }
        };
        if !in_file.contains(&meta.root) {
            return Err(range("root", meta.root));
        }
        if meta.freelist != NO_FREELIST && !in_file.contains(&meta.freelist) {
            return Err(range("freelist", meta.freelist));
        }
        Ok(Database { source, meta })
    }

    pub fn page_size(&self) -> PageSize {
        self.meta.page_size
    }

    /// The size of all pages in use; what follows in the file is no part of the database.
    pub fn size_bytes(&self) -> u64 {
        self.meta.page_size.offset_of(self.meta.high_water)
    }

    #[cfg(test)]
    pub(crate) fn root_page(&self) -> u64 {
        self.meta.root
    }

    /// The buckets in the order of their names.
    pub fn buckets(&self) -> Buckets<'_, R> {
        let pages = page::Source::new(&self.source, &self.meta);
        Buckets { walk: Walk::new(pages, Root::Page(self.meta.root)) }
    }

    /// The bucket of that name. Walks the buckets before it, of which etcd has ten.
    ///
    /// # Errors
    /// Damage; I/O.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Fault> {
        let mut buckets = self.buckets();
        while let Some(bucket) = buckets.next()? {
            if bucket.name == name {
                return Ok(Some(bucket));
            }
        }
        Ok(None)
    }

    /// The entries of a bucket, in the order of their keys. `bucket`: from this database.
    pub fn entries(&self, bucket: &Bucket) -> Entries<'_, R> {
        let pages = page::Source::new(&self.source, &self.meta);
        Entries { walk: Walk::new(pages, bucket.root.clone()) }
    }

    /// The entries of a bucket from `key` on, in the order of their keys. Reads one page per level to get there.
    ///
    /// # Errors
    /// Damage; I/O.
    pub fn entries_from(&self, bucket: &Bucket, key: &[u8]) -> Result<Entries<'_, R>, Fault> {
        let pages = page::Source::new(&self.source, &self.meta);
        Ok(Entries { walk: Walk::starting_at(pages, bucket.root.clone(), key)? })
    }
}

/// Where a bucket is.
#[derive(Debug, Clone)]
pub struct Bucket {
    name: Vec<u8>,
    root: Root,
}

impl Bucket {
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// `None` for a bucket in line.
    #[cfg(test)]
    pub(crate) fn root_page(&self) -> Option<u64> {
        match self.root {
            Root::Page(page) => Some(page),
            Root::Inline { .. } => None,
        }
    }
}

/// Walks the buckets of a database.
#[derive(Debug)]
pub struct Buckets<'a, R> {
    walk: Walk<'a, R>,
}

impl<R: ReadAt> Buckets<'_, R> {
    /// The next bucket; `None` at the end. After an error the walk is over.
    ///
    /// # Errors
    /// Damage; I/O.
    #[expect(clippy::should_implement_trait, reason = "the same form as Entries::next")]
    pub fn next(&mut self) -> Result<Option<Bucket>, Fault> {
        let Some((page, element)) = self.walk.next()? else { return Ok(None) };
        let fault = |damage| Err(page.fault(damage));
        match page.flags(element) {
            ELEMENT_BUCKET => {}
            ELEMENT_VALUE => return fault(Damage::NotABucket { element }),
            flags => return fault(Damage::ElementKind { element, flags }),
        }
        let (name, value) = (page.key(element), page.value(element));
        if value.len() < BUCKET_BYTES {
            return fault(Damage::BucketValue { element, len: value.len() });
        }
        let root = match BucketHeader::decode(value).root {
            0 if value.len() < BUCKET_BYTES + HEADER_BYTES => {
                return fault(Damage::BucketValue { element, len: value.len() });
            }
            0 => Root::Inline { holder: page.id(), bytes: value[BUCKET_BYTES..].to_vec() },
            root => Root::Page(root),
        };
        Ok(Some(Bucket { name: name.to_vec(), root }))
    }
}

/// A key and its value.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// Walks the entries of a bucket.
#[derive(Debug)]
pub struct Entries<'a, R> {
    walk: Walk<'a, R>,
}

impl<R: ReadAt> Entries<'_, R> {
    /// The next key and value, valid until the next call; `None` at the end. After an error the walk is over.
    ///
    /// # Errors
    /// Damage; I/O.
    #[expect(clippy::should_implement_trait, reason = "lends what an Iterator would have to copy")]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, Fault> {
        let Some((page, element)) = self.walk.next()? else { return Ok(None) };
        match page.flags(element) {
            ELEMENT_VALUE => Ok(Some((page.key(element), page.value(element)))),
            ELEMENT_BUCKET => Err(page.fault(Damage::NestedBucket { element })),
            flags => Err(page.fault(Damage::ElementKind { element, flags })),
        }
    }
}

/// The valid meta with the larger transaction id, as bbolt chooses.
///
/// Page 0 names the page size, so it says where page 1 is. Without a valid page 0, page 1 is looked for at every
/// page size there may be.
fn newest_meta<R: ReadAt>(source: &R, size_bytes: u64) -> Result<Meta, Fault> {
    let first = meta_at(source, size_bytes, 0, 0)?;
    let second = match first {
        Some(meta) => second_meta(source, size_bytes, meta.page_size)?,
        None => search_second_meta(source, size_bytes)?,
    };
    first.into_iter().chain(second).max_by_key(|meta| meta.txid).ok_or(Fault::NoMeta)
}

fn search_second_meta<R: ReadAt>(source: &R, size_bytes: u64) -> Result<Option<Meta>, Fault> {
    for page_size in PageSize::all() {
        if let Some(meta) = second_meta(source, size_bytes, page_size)? {
            return Ok(Some(meta));
        }
    }
    Ok(None)
}

fn second_meta<R: ReadAt>(
    source: &R,
    size_bytes: u64,
    page_size: PageSize,
) -> Result<Option<Meta>, Fault> {
    let meta = meta_at(source, size_bytes, page_size.offset_of(1), 1)?;
    Ok(meta.filter(|meta| meta.page_size == page_size))
}

fn meta_at<R: ReadAt>(
    source: &R,
    size_bytes: u64,
    offset: u64,
    page: u64,
) -> Result<Option<Meta>, Fault> {
    let mut bytes = [0; HEADER_BYTES + META_BYTES];
    if size_bytes < offset + bytes.len() as u64 {
        return Ok(None);
    }
    source.read_exact_at(&mut bytes, offset).map_err(|source| Fault::PageIo {
        page,
        offset,
        source,
    })?;
    let header = PageHeader::decode(&bytes);
    if header.id != page || header.flags != FLAG_META {
        return Ok(None);
    }
    let meta = bytes[HEADER_BYTES..].first_chunk().expect("as long as a meta");
    Ok(Meta::decode(meta))
}

#[cfg(test)]
mod tests;
