//! A database file that is only read: etcd's or ours.
//!
//! No tool that reads changes what it reads; etcd's own `hashkv` does, and with it the digest at the end of a snapshot.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use retcd_bbolt::Database;
use retcd_state_machine::backend::{Backend, Batch, Failure, Size, Visit};
use retcd_state_machine::mvcc::RecordKey;
use retcd_state_machine::schema::Bucket;
use retcd_storage::backend::{LmdbBackend, Options};
use retcd_storage::data_dir::{is_bbolt, is_lmdb};

use crate::Error;

/// etcd's database file, as a backend that takes no writes.
///
/// Reading from some key on takes one page per level of the tree, so a state machine can be opened on it.
#[derive(Debug)]
pub struct BboltFile {
    database: Database<File>,
    buckets: Vec<(Bucket, retcd_bbolt::Bucket)>,
}

impl BboltFile {
    /// # Errors
    /// No bbolt file, or a damaged one; I/O.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::of(File::open(path).map_err(Error::io("open", path))?)
    }

    /// A bucket that etcd does not have is passed over, as etcd would.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of(file: File) -> Result<Self, Error> {
        let database = Database::open(file)?;
        let mut buckets = Vec::new();
        let mut all = database.buckets();
        while let Some(stored) = all.next()? {
            let known =
                Bucket::ALL.into_iter().find(|known| known.name().as_bytes() == stored.name());
            if let Some(known) = known {
                buckets.push((known, stored));
            } else {
                let name = String::from_utf8_lossy(stored.name()).into_owned();
                tracing::warn!(bucket = name, "a database has a bucket that is not known");
            }
        }
        Ok(BboltFile { database, buckets })
    }

    fn bucket(&self, wanted: Bucket) -> Option<&retcd_bbolt::Bucket> {
        self.buckets.iter().find(|(bucket, _)| *bucket == wanted).map(|(_, stored)| stored)
    }
}

/// Opens a database file of either kind; `None` when it is neither.
///
/// One of ours must not be in use: what interrupted copies have left beside it is removed.
///
/// # Errors
/// Damage; I/O.
pub fn open_stored(path: &Path) -> Result<Option<Arc<dyn Backend>>, Error> {
    if is_bbolt(path)? {
        return Ok(Some(Arc::new(BboltFile::open(path)?)));
    }
    if !is_lmdb(path)? {
        return Ok(None);
    }
    Ok(Some(Arc::new(LmdbBackend::open(path, Options::default())?)))
}

fn failure(fault: retcd_bbolt::Fault) -> Failure {
    Error::from(fault).into()
}

impl Backend for BboltFile {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let mut value = None;
        self.scan(bucket, key, &mut |found, bytes| {
            value = (found == key).then(|| bytes.to_vec());
            ControlFlow::Break(())
        })?;
        Ok(value)
    }

    fn get_records(
        &self,
        keys: &[RecordKey],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), Failure> {
        for (position, key) in keys.iter().enumerate() {
            visit(position, self.get(Bucket::Key, key.as_bytes())?.as_deref());
        }
        Ok(())
    }

    fn scan(&self, bucket: Bucket, from: &[u8], visit: Visit<'_>) -> Result<(), Failure> {
        let Some(stored) = self.bucket(bucket) else { return Ok(()) };
        let mut entries = self.database.entries_from(stored, from).map_err(failure)?;
        while let Some((key, value)) = entries.next().map_err(failure)? {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Not known without reading all of them: 0, which is what to expect when nothing is known.
    fn count(&self, _: Bucket) -> Result<usize, Failure> {
        Ok(0)
    }

    fn commit(&self, _: &Batch) -> Result<(), Failure> {
        Err(Failure::new("a bbolt file is not written"))
    }

    fn size(&self) -> Result<Size, Failure> {
        let bytes = self.database.size_bytes();
        Ok(Size { total_bytes: bytes, in_use_bytes: bytes })
    }
}
