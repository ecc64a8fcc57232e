//! The file system as this crate needs it: few calls, each with a stated durability.
//!
//! | made durable by | what |
//! |---|---|
//! | [`File::sync`] | bytes and length of that file |
//! | [`Fs::sync_dir`] | names that came, went or changed in that directory |
//!
//! Nothing else is durable: after a crash every other change may be there, missing, or there in part.
//! [`RealFs`] is the machine's own; [`SimFs`] keeps all in memory and can crash.

mod real;
pub mod sim;

use std::fmt::Debug;
use std::io;
use std::path::Path;

pub use real::RealFs;
pub use sim::SimFs;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Must be there; reads only.
    Read,
    /// Must be there; reads and writes.
    Write,
    /// Reads and writes; made when absent (mode 0600), emptied when there.
    Replace,
}

/// A directory tree.
pub trait Fs: Send + Sync + Debug + 'static {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;

    /// Gives a file another name, in place of what has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory and those above it, mode 0700. One that is there is no error.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Names of the files in a directory, sorted.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
}

/// An open file. Offsets and lengths in bytes.
pub trait File: Send + Sync + Debug {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`, growing the file when needed (a gap reads as zeros).
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes bytes and length durable. After an error nothing is known about what was written since the last success.
    fn sync(&self) -> io::Result<()>;

    fn size(&self) -> io::Result<u64>;

    /// Cuts or grows the file; what it grows by reads as zeros.
    fn set_size(&self, size_bytes: u64) -> io::Result<()>;

    /// Takes the exclusive lock, which lasts as long as this handle. `false`: another handle has it, here or in
    /// another process.
    fn try_lock(&self) -> io::Result<bool>;
}

/// A block of zeros to write from. One megabyte: large enough to be a cheap call, small enough to stay in cache.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Overwrites `from..to` with zeros, really written: a region that is only reserved costs a journal commit at its
/// first sync, which is what writing them ahead of time avoids.
pub(crate) fn write_zeros(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let mut offset = from;
    while offset < to {
        let len = (to - offset).min(ZEROS.len() as u64);
        file.write_at(prefix(&ZEROS, len), offset)?;
        offset += len;
    }
    Ok(())
}

/// The first `len` bytes, where `len` is known to be within.
fn prefix(bytes: &[u8], len: u64) -> &[u8] {
    usize::try_from(len).ok().and_then(|len| bytes.get(..len)).unwrap_or(bytes)
}

/// Reads a whole file of moderate size.
pub(crate) fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
