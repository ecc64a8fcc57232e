//! A database file that is only read: etcd's or ours.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use retcd_bbolt::Database;
use retcd_state_machine::backend::{Backend, Batch, Failure, Size, Visit};
use retcd_state_machine::mvcc::RecordKey;
use retcd_state_machine::schema::Bucket;

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
        let database = Database::open_path(path)?;
        let mut buckets = Vec::new();
        let mut all = database.buckets();
        while let Some(stored) = all.next()? {
            let known =
                Bucket::ALL.into_iter().find(|known| known.name().as_bytes() == stored.name());
            buckets.extend(known.map(|known| (known, stored)));
        }
        Ok(BboltFile { database, buckets })
    }

    fn bucket(&self, wanted: Bucket) -> Option<&retcd_bbolt::Bucket> {
        self.buckets.iter().find(|(bucket, _)| *bucket == wanted).map(|(_, stored)| stored)
    }
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
