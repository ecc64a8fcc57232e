//! Where pages go.

use std::io::{self, BufWriter, SeekFrom, Write};

use super::{Error, Layout};
use crate::format::{META_PAGES, PageSize};

/// Pages are small; the outputs are files and streams that like larger pieces.
const BUFFER_BYTES: usize = 128 << 10;
const ZEROS: [u8; 4096] = [0; 4096];

/// What a [`Writer`](super::Writer) does with pages: [`Seekable`], [`Streamed`] or [`Measured`].
///
/// `Output` is what [`Writer::finish`](super::Writer::finish) returns.
pub trait Sink: sealed::Sink {}

impl<S: sealed::Sink> Sink for S {}

mod sealed {
    use super::{Error, Layout};

    pub trait Sink {
        type Output;

        /// Whether the bytes of keys and values are wanted.
        const KEEPS_BYTES: bool;

        /// Takes the next page as its parts and `padding` zeros. `end`: the id of the page after it.
        fn write(&mut self, end: u64, parts: &[&[u8]], padding: usize) -> Result<(), Error>;

        /// All pages have been written.
        fn finish(self, layout: Layout) -> Result<Self::Output, Error>;
    }
}

/// Counts pages.
#[derive(Debug, Clone, Copy)]
pub struct Measured;

impl sealed::Sink for Measured {
    type Output = Layout;
    const KEEPS_BYTES: bool = false;

    fn write(&mut self, _end: u64, _parts: &[&[u8]], _padding: usize) -> Result<(), Error> {
        Ok(())
    }

    fn finish(self, layout: Layout) -> Result<Layout, Error> {
        Ok(layout)
    }
}

/// Leaves room for the metas and comes back to it.
#[derive(Debug)]
pub struct Seekable<W: Write> {
    out: BufWriter<W>,
    /// Where the file starts in `out`.
    start: u64,
}

impl<W: Write + io::Seek> Seekable<W> {
    pub(super) fn new(out: W, page_size: PageSize) -> Result<Self, Error> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
        let start = io::Seek::stream_position(&mut out)?;
        // Zeros, not a gap: an older file that is written over must not show its metas until the end.
        for _ in 0..META_PAGES {
            write_zeros(&mut out, page_size.bytes())?;
        }
        Ok(Seekable { out, start })
    }
}

impl<W: Write + io::Seek> sealed::Sink for Seekable<W> {
    type Output = W;
    const KEEPS_BYTES: bool = true;

    fn write(&mut self, _end: u64, parts: &[&[u8]], padding: usize) -> Result<(), Error> {
        write_parts(&mut self.out, parts, padding)
    }

    fn finish(mut self, layout: Layout) -> Result<W, Error> {
        io::Seek::seek(&mut self.out, SeekFrom::Start(self.start))?;
        self.out.write_all(&layout.meta_pages())?;
        io::Seek::seek(&mut self.out, SeekFrom::Start(self.start + layout.size_bytes()))?;
        into_inner(self.out)
    }
}

/// Writes the metas first, from a layout that must come true.
#[derive(Debug)]
pub struct Streamed<W: Write> {
    out: BufWriter<W>,
    layout: Layout,
}

impl<W: Write> Streamed<W> {
    pub(super) fn new(out: W, layout: Layout) -> Result<Self, Error> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
        out.write_all(&layout.meta_pages())?;
        Ok(Streamed { out, layout })
    }
}

impl<W: Write> sealed::Sink for Streamed<W> {
    type Output = W;
    const KEEPS_BYTES: bool = true;

    fn write(&mut self, end: u64, parts: &[&[u8]], padding: usize) -> Result<(), Error> {
        if end > self.layout.pages {
            return Err(Error::Changed);
        }
        write_parts(&mut self.out, parts, padding)
    }

    fn finish(self, layout: Layout) -> Result<W, Error> {
        if layout != self.layout {
            return Err(Error::Changed);
        }
        into_inner(self.out)
    }
}

fn write_parts(out: &mut impl Write, parts: &[&[u8]], padding: usize) -> Result<(), Error> {
    for part in parts {
        out.write_all(part)?;
    }
    write_zeros(out, padding)?;
    Ok(())
}

fn write_zeros(out: &mut impl Write, mut len: usize) -> io::Result<()> {
    while len > 0 {
        let part = len.min(ZEROS.len());
        out.write_all(&ZEROS[..part])?;
        len -= part;
    }
    Ok(())
}

/// Flushes the buffer, and what is below it.
fn into_inner<W: Write>(out: BufWriter<W>) -> Result<W, Error> {
    let mut out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    out.flush()?;
    Ok(out)
}
