//! [`Loader`]: a database file out of the entries of another format.

use std::fs::File;
use std::path::{Path, PathBuf};

use retcd_state_machine::backend::{Batch, Change};
use retcd_state_machine::mvcc::RecordKey;
use retcd_state_machine::schema::Bucket;

use super::env::Env;
use super::{Error, Options, files, write};

/// What is gathered before it is written, in bytes: bounds the memory. LMDB holds the pages of a transaction as well.
const BATCH_BYTES: usize = 4 << 20;

/// Fills a new database file, without syncs until the end. Dropped before [`finish`](Self::finish), it leaves nothing.
pub struct Loader {
    path: PathBuf,
    /// `None` once finished.
    env: Option<Env>,
    batch: Batch,
    batch_bytes: usize,
}

impl Loader {
    /// Makes the file, mode 0600. One that is there, left by a crash, is replaced.
    ///
    /// # Errors
    /// I/O.
    pub fn create(path: &Path, options: Options) -> Result<Self, Error> {
        files::remove_database(path)?;
        let env = Env::create_unsynced(path, options.map_bytes)?;
        let path = path.to_path_buf();
        Ok(Loader { path, env: Some(env), batch: Batch::default(), batch_bytes: 0 })
    }

    /// Adds an entry, or replaces one. The keys of bucket `key` come best in order: they are appended then.
    ///
    /// # Errors
    /// A key of bucket `key` that is no revision; I/O.
    pub fn put(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if bucket == Bucket::Key {
            let Some((revision, is_tombstone)) = RecordKey::decode(key) else {
                return Err(Error::RecordKey { len: key.len() });
            };
            self.batch.records.push((RecordKey::new(revision, is_tombstone), value.into()));
        } else {
            let (key, value) = (key.to_vec(), Some(value.to_vec()));
            self.batch.changes.push(Change { bucket, key, value });
        }
        self.batch_bytes += key.len() + value.len();
        if self.batch_bytes >= BATCH_BYTES { self.write_batch() } else { Ok(()) }
    }

    /// Writes what is left and syncs the file. Its name is not durable yet: that is for whoever gives it the last one.
    ///
    /// # Errors
    /// I/O; nothing is left then.
    pub fn finish(mut self) -> Result<(), Error> {
        self.write_batch()?;
        let env = self.env.take().expect("taken here only");
        let synced = env.inner.force_sync();
        drop(env);
        let finish = || -> Result<(), Error> {
            synced.map_err(|source| files::database_error("sync", &self.path, source))?;
            files::remove_lock_file(&self.path)?;
            File::open(&self.path)
                .and_then(|file| file.sync_all())
                .map_err(|source| files::io_error("sync", &self.path, source))
        };
        finish().inspect_err(|_| {
            // The failure before is the one to tell.
            let _ = files::remove_database(&self.path);
        })
    }

    fn write_batch(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let env = self.env.as_ref().expect("taken by finish only");
        write::batch(env, &self.path, &batch)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if self.env.take().is_some() {
            // What is left over is removed at the next start.
            let _ = files::remove_database(&self.path);
        }
    }
}
