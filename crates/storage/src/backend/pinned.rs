//! [`Pinned`]: one state of the database, held for as long as somebody reads it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use heed::{RoTxn, WithoutTls};
use retcd_state_machine::backend::{Failure, Visit};
use retcd_state_machine::schema::Bucket;

use super::Error;
use super::env::Env;
use super::read::View;

/// The state as of one commit, whatever is committed later.
///
/// It may be read for minutes: commits, defragmentation and even another file in the place of this one do not wait
/// for it and do not change it. The price is paid in file size: pages that were in use at that commit are not used
/// again until it is dropped, so the file grows by what is rewritten meanwhile; and a file that was replaced keeps its
/// space on the disk.
///
/// It belongs to one thread at a time.
pub struct Pinned {
    txn: RoTxn<'static, WithoutTls>,
    env: Arc<Env>,
    path: PathBuf,
}

impl Pinned {
    pub(super) fn new(env: &Arc<Env>, path: PathBuf) -> heed::Result<Self> {
        let txn = env.inner.clone().static_read_txn()?;
        Ok(Pinned { txn, env: Arc::clone(env), path })
    }

    /// # Errors
    /// A fault of the disk or of the data.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.view().get(bucket, key)?)
    }

    /// Visits entries in key order, from `from` (included) until `visit` breaks or the bucket ends.
    ///
    /// # Errors
    /// A fault of the disk or of the data.
    pub fn scan(&self, bucket: Bucket, from: &[u8], visit: Visit<'_>) -> Result<(), Failure> {
        Ok(self.view().scan(bucket, from, visit)?)
    }

    /// Gives back the memory of pages that reads have touched; they stay in the page cache. A visitor may call it: what
    /// it looks at is read in again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn trim_resident(&self) -> Result<(), Failure> {
        let trimmed = self.env.trim();
        let failed = |source| Error::Io { operation: "trim", path: self.path.clone(), source };
        Ok(trimmed.map_err(failed)?)
    }

    fn view(&self) -> View<'_> {
        View { env: &self.env, txn: &self.txn, path: &self.path }
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("path", &self.path).finish_non_exhaustive()
    }
}
