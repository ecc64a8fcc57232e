//! The SHA-256 behind a saved snapshot.
//!
//! A database file is a multiple of its page size. `etcdctl snapshot save` writes it with the SHA-256 of its bytes
//! behind it, 32 bytes, which is how a reader tells whether there is one: pages are multiples of 512. The digest is
//! part of what a server sends, so it covers the way from there.
//!
//! As in etcd's `etcdutl/snapshot/v3_snapshot.go`.

use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Bytes of the digest.
pub const TRAILER_BYTES: u64 = 32;
/// Every page size is a multiple of this.
const SECTOR_BYTES: u64 = 512;
const BUFFER_BYTES: usize = 128 << 10;

/// Why a trailer does not vouch for its file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("snapshot file: {0}")]
    Io(#[from] io::Error),

    #[error("snapshot file has no hash: {size_bytes} bytes are not a database and 32 bytes")]
    Missing { size_bytes: u64 },

    #[error("snapshot file: expected sha256 {}, got {}", hex(expected), hex(found))]
    Mismatch { expected: [u8; 32], found: [u8; 32] },
}

/// Whether a file of that size ends with a digest.
pub const fn is_present(size_bytes: u64) -> bool {
    size_bytes % SECTOR_BYTES == TRAILER_BYTES
}

/// Reads a saved snapshot once and compares it with the digest at its end. Returns the size of the database before it.
///
/// # Errors
/// [`Error::Missing`] by size, as [`is_present`]; [`Error::Mismatch`]; I/O.
pub fn verify_sha256_trailer(path: &Path) -> Result<u64, Error> {
    let mut file = std::fs::File::open(path)?;
    let size_bytes = file.metadata()?.len();
    if !is_present(size_bytes) {
        return Err(Error::Missing { size_bytes });
    }
    let database_bytes = size_bytes - TRAILER_BYTES;
    let found = digest_of(&mut file, database_bytes)?;
    let mut expected = [0; 32];
    file.read_exact(&mut expected)?;
    if expected != found {
        return Err(Error::Mismatch { expected, found });
    }
    Ok(database_bytes)
}

fn digest_of(file: &mut impl Read, len: u64) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut left = len;
    while left > 0 {
        let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..part])?;
        hash.update(&buffer[..part]);
        left -= part as u64;
    }
    Ok(hash.finalize().into())
}

/// Passes bytes on and hashes them, so that the digest can follow.
#[derive(Debug)]
pub struct HashingWriter<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> HashingWriter<W> {
    pub fn new(out: W) -> Self {
        HashingWriter { out, hash: Sha256::new() }
    }

    /// Writes the digest of all that was written, and flushes.
    ///
    /// # Errors
    /// I/O.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&self.hash.finalize())?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = HashingWriter::new(&mut file);
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
        file
    }

    #[test]
    fn a_trailer_vouches_for_every_byte() {
        let content: Vec<u8> = (0..=250).cycle().take(BUFFER_BYTES + 1024).collect();
        let file = saved(&content);
        assert_eq!(verify_sha256_trailer(file.path()).unwrap(), content.len() as u64);

        let whole = std::fs::read(file.path()).unwrap();
        for at in [0, 1000, content.len() - 1, content.len(), whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(file.path(), damaged).unwrap();
            let error = verify_sha256_trailer(file.path()).unwrap_err();
            assert!(matches!(error, Error::Mismatch { .. }), "{error}");
        }
    }

    #[test]
    fn the_digest_is_the_known_one() {
        let file = saved(b"");
        let error = {
            let mut bytes = std::fs::read(file.path()).unwrap();
            bytes[31] = 0;
            std::fs::write(file.path(), bytes).unwrap();
            verify_sha256_trailer(file.path()).unwrap_err().to_string()
        };
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(error.ends_with(&format!("got {empty}")), "{error}");
    }

    #[test]
    fn a_file_without_a_trailer_is_told_by_its_size() {
        for size in [0, 31, 512, 4096, 4097] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(size).unwrap();
            let error = verify_sha256_trailer(file.path()).unwrap_err();
            assert!(matches!(error, Error::Missing { size_bytes } if size_bytes == size));
        }
    }
}
