//! A backend without a disk, for tests.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::Mutex;

use super::{Backend, Batch, Failure, Size, Visit};
use crate::mvcc::RecordKey;
use crate::schema::Bucket;

type Buckets = BTreeMap<(Bucket, Vec<u8>), Vec<u8>>;

/// Ordered buckets in memory. Keeps the promises of [`Backend`], and checks those of its caller.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    buckets: Mutex<Buckets>,
}

impl MemoryBackend {
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of the contents, as a restart after a crash would find them.
    #[must_use]
    pub fn copy(&self) -> Self {
        MemoryBackend { buckets: Mutex::new(self.buckets.lock().clone()) }
    }

    /// Everything stored, in order: two backends with equal contents hold the same state.
    pub fn contents(&self) -> Vec<(Bucket, Vec<u8>, Vec<u8>)> {
        let buckets = self.buckets.lock();
        buckets.iter().map(|((bucket, key), value)| (*bucket, key.clone(), value.clone())).collect()
    }
}

impl Backend for MemoryBackend {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.buckets.lock().get(&(bucket, key.to_vec())).cloned())
    }

    fn get_records(
        &self,
        keys: &[RecordKey],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), Failure> {
        let buckets = self.buckets.lock();
        for (position, key) in keys.iter().enumerate() {
            let value = buckets.get(&(Bucket::Key, key.as_bytes().to_vec()));
            visit(position, value.map(Vec::as_slice));
        }
        Ok(())
    }

    fn scan(&self, bucket: Bucket, from: &[u8], visit: Visit<'_>) -> Result<(), Failure> {
        let buckets = self.buckets.lock();
        let start = (Bound::Included((bucket, from.to_vec())), Bound::Unbounded);
        for ((found, key), value) in buckets.range(start) {
            if *found != bucket || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch) -> Result<(), Failure> {
        let mut buckets = self.buckets.lock();
        let all_records = (Bucket::Key, Vec::new())..(Bucket::Lease, Vec::new());
        let mut last = buckets.range(all_records).next_back().map(|((_, key), _)| key.clone());
        for (key, value) in &batch.records {
            let key = key.as_bytes().to_vec();
            assert!(last.is_none_or(|last| last < key), "records are appended in order");
            last = Some(key.clone());
            buckets.insert((Bucket::Key, key), value.to_vec());
        }
        for key in &batch.dropped {
            buckets.remove(&(Bucket::Key, key.as_bytes().to_vec()));
        }
        for change in &batch.changes {
            let key = (change.bucket, change.key.clone());
            match &change.value {
                Some(value) => buckets.insert(key, value.clone()),
                None => buckets.remove(&key),
            };
        }
        Ok(())
    }

    fn count(&self, bucket: Bucket) -> Result<usize, Failure> {
        let buckets = self.buckets.lock();
        Ok(buckets
            .range((bucket, Vec::new())..)
            .take_while(|((other, _), _)| *other == bucket)
            .count())
    }

    fn size(&self) -> Result<Size, Failure> {
        let buckets = self.buckets.lock();
        let bytes = buckets.iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum();
        Ok(Size { total_bytes: bytes, in_use_bytes: bytes })
    }
}
