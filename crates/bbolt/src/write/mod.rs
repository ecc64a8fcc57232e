//! Writes a file front to back.

mod sink;
mod tree;

use std::io;

pub use sink::{Measured, Seekable, Sink, Streamed};

use crate::format::{
    ELEMENT_BUCKET, ELEMENT_VALUE, FLAG_FREELIST, FLAG_META, HEADER_BYTES, KEY_LEN_MAX, META_BYTES,
    META_PAGES, Meta, PageHeader, PageSize, VALUE_LEN_MAX,
};
use tree::Tree;

/// The page of the freelist, which is empty. With one there, bbolt need not walk the file when it opens it.
const FREELIST_PAGE: u64 = META_PAGES;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("bbolt: cannot write: {0}")]
    Io(#[from] io::Error),

    #[error("bbolt: a key or the name of a bucket is empty")]
    KeyEmpty,

    #[error("bbolt: a key of {len} bytes is longer than {KEY_LEN_MAX}")]
    KeyTooLong { len: usize },

    #[error("bbolt: a value of {len} bytes is longer than {VALUE_LEN_MAX}")]
    ValueTooLong { len: usize },

    #[error("bbolt: a key or bucket is not above the one before it")]
    Order,

    #[error("bbolt: a key comes before any bucket")]
    NoBucket,

    /// The second pass differs from the first. What was written is of no use.
    #[error("bbolt: the content is not what was measured")]
    Changed,

    /// An earlier call failed to write.
    #[error("bbolt: an earlier write failed")]
    Broken,
}

/// What is known of a file once all its content has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    page_size: PageSize,
    /// All of them, the metas included.
    pages: u64,
    /// The root page of the bucket tree.
    root: u64,
}

impl Layout {
    /// The size of the file, a multiple of the page size.
    pub fn size_bytes(&self) -> u64 {
        self.page_size.offset_of(self.pages)
    }

    /// Both metas, as the first two pages. They differ in their transaction id, as in a new file of bbolt.
    fn meta_pages(&self) -> Vec<u8> {
        let page_bytes = self.page_size.bytes();
        let mut bytes = vec![0; page_bytes * 2];
        for (txid, page) in (0..META_PAGES).zip(bytes.chunks_exact_mut(page_bytes)) {
            let header = PageHeader { id: txid, flags: FLAG_META, count: 0, overflow: 0 };
            let meta = Meta {
                page_size: self.page_size,
                root: self.root,
                freelist: FREELIST_PAGE,
                high_water: self.pages,
                txid,
            };
            page[..HEADER_BYTES].copy_from_slice(&header.encode());
            page[HEADER_BYTES..HEADER_BYTES + META_BYTES].copy_from_slice(&meta.encode());
        }
        bytes
    }
}

/// Writes a bbolt file from buckets and keys in ascending order.
///
/// What becomes of the pages is the [`Sink`]'s matter: [`Writer::new`], [`Writer::measuring`], [`Writer::streaming`].
#[derive(Debug)]
pub struct Writer<S> {
    pages: Pages<S>,
    /// The bucket tree; its values are the roots of buckets.
    root: Tree,
    open: Option<OpenBucket>,
    is_broken: bool,
}

#[derive(Debug)]
struct OpenBucket {
    name: Vec<u8>,
    tree: Tree,
}

impl<W: io::Write + io::Seek> Writer<Seekable<W>> {
    /// Writes a file to `out`, from its current position on. It becomes valid with [`Self::finish`], which returns
    /// `out`, flushed but not synced.
    ///
    /// # Errors
    /// I/O.
    pub fn new(out: W, page_size: PageSize) -> Result<Self, Error> {
        Writer::start(Seekable::new(out, page_size)?, page_size)
    }
}

impl Writer<Measured> {
    /// Writes nothing; [`Self::finish`] returns the layout of the file. Values are not looked at, only their lengths.
    pub fn measuring(page_size: PageSize) -> Self {
        Writer::start(Measured, page_size).expect("nothing is written")
    }
}

impl<W: io::Write> Writer<Streamed<W>> {
    /// Writes a file whose content has been measured, strictly in sequence. [`Self::finish`] returns `out`, flushed.
    ///
    /// Bytes are gathered to pieces of 128 KiB. Never are there more of them than `layout` says; when the content
    /// turns out to be a different one, the call that notices fails with [`Error::Changed`].
    ///
    /// # Errors
    /// I/O.
    pub fn streaming(out: W, layout: Layout) -> Result<Self, Error> {
        Writer::start(Streamed::new(out, layout)?, layout.page_size)
    }
}

impl<S: Sink> Writer<S> {
    fn start(sink: S, page_size: PageSize) -> Result<Self, Error> {
        let mut pages = Pages { sink, page_size, next: FREELIST_PAGE };
        pages.write(FLAG_FREELIST, 0, &[], &[], 0)?;
        Ok(Writer { pages, root: Tree::default(), open: None, is_broken: false })
    }

    /// Starts the next bucket; it may stay empty.
    ///
    /// # Errors
    /// [`Error::Order`] when `name` is not above that of the bucket before; a bad name; I/O.
    pub fn bucket(&mut self, name: &[u8]) -> Result<&mut Self, Error> {
        self.check_usable()?;
        check_key(name)?;
        if self.open.as_ref().is_some_and(|open| name <= open.name.as_slice()) {
            return Err(Error::Order);
        }
        self.close_bucket()?;
        self.open = Some(OpenBucket { name: name.to_vec(), tree: Tree::default() });
        Ok(self)
    }

    /// Adds an entry to the bucket that was started last.
    ///
    /// # Errors
    /// [`Error::Order`] when `key` is not above that of the entry before; a key or value that bbolt does not take;
    /// I/O. The entry is not in the file then; after I/O the writer is of no use.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<&mut Self, Error> {
        self.check_usable()?;
        check_key(key)?;
        if value.len() > VALUE_LEN_MAX {
            return Err(Error::ValueTooLong { len: value.len() });
        }
        let open = self.open.as_mut().ok_or(Error::NoBucket)?;
        if !open.tree.is_next(key) {
            return Err(Error::Order);
        }
        let result = open.tree.put(&mut self.pages, ELEMENT_VALUE, key, value);
        self.is_broken = result.is_err();
        result?;
        Ok(self)
    }

    /// Writes what is left, and the metas.
    ///
    /// # Errors
    /// I/O; [`Error::Changed`] when streaming.
    pub fn finish(mut self) -> Result<S::Output, Error> {
        self.check_usable()?;
        self.close_bucket()?;
        let Writer { mut pages, root, .. } = self;
        let root = root.finish(&mut pages)?;
        let layout = Layout { page_size: pages.page_size, pages: pages.next, root };
        pages.sink.finish(layout)
    }

    fn check_usable(&self) -> Result<(), Error> {
        if self.is_broken { Err(Error::Broken) } else { Ok(()) }
    }

    fn close_bucket(&mut self) -> Result<(), Error> {
        let Some(OpenBucket { name, tree }) = self.open.take() else { return Ok(()) };
        let result = tree
            .finish_as_bucket(&mut self.pages)
            .and_then(|value| self.root.put(&mut self.pages, ELEMENT_BUCKET, &name, &value));
        self.is_broken = result.is_err();
        result
    }
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    match key.len() {
        0 => Err(Error::KeyEmpty),
        1..=KEY_LEN_MAX => Ok(()),
        len => Err(Error::KeyTooLong { len }),
    }
}

/// Hands out page ids in the order in which the pages are written.
#[derive(Debug)]
struct Pages<S> {
    sink: S,
    page_size: PageSize,
    /// The id of the next page.
    next: u64,
}

impl<S: Sink> Pages<S> {
    /// Writes a page, with the pages it overflows into, and returns its id.
    ///
    /// `data` is `data_len` bytes, or none where the sink keeps none.
    fn write(
        &mut self,
        flags: u16,
        count: u16,
        table: &[u8],
        data: &[u8],
        data_len: usize,
    ) -> Result<u64, Error> {
        let len = HEADER_BYTES + table.len() + data_len;
        let run_bytes = len.next_multiple_of(self.page_size.bytes());
        let run = run_bytes / self.page_size.bytes();
        let overflow = u32::try_from(run - 1).expect("an entry has less than 4 GiB");
        let (id, run) = (self.next, u64::from(overflow) + 1);
        let header = PageHeader { id, flags, count, overflow };
        self.sink.write(id + run, &[&header.encode(), table, data], run_bytes - len)?;
        self.next += run;
        Ok(id)
    }
}
