//! One batch, in one transaction.

use std::path::Path;

use heed::{PutFlags, RwTxn};
use retcd_state_machine::backend::{Batch, Change, Encoded};
use retcd_state_machine::mvcc::RecordKey;
use retcd_state_machine::schema::Bucket;

use super::env::Env;
use super::{Error, files, key};

/// Writes all of a batch or nothing; durable when it returns, unless the file was opened without syncs.
pub(super) fn batch(env: &Env, path: &Path, batch: &Batch) -> Result<(), Error> {
    let failed = |source| files::database_error("write", path, source);
    let mut txn = env.inner.write_txn().map_err(failed)?;
    put_records(env, &mut txn, &batch.records).map_err(failed)?;
    let records = env.bucket(Bucket::Key);
    for key in &batch.dropped {
        records.delete(&mut txn, key.as_bytes()).map_err(failed)?;
    }
    for change in &batch.changes {
        apply(env, &mut txn, change, &failed)?;
    }
    txn.commit().map_err(failed)
}

/// Puts records, which are ascending, behind those that are there. Appending fills pages to the brim.
fn put_records(
    env: &Env,
    txn: &mut RwTxn<'_>,
    records: &[(RecordKey, Encoded)],
) -> heed::Result<()> {
    let database = env.bucket(Bucket::Key);
    let mut last = database.last(txn)?.map(|(key, _)| key.to_vec()).unwrap_or_default();
    for (key, value) in records {
        let key = key.as_bytes();
        if key > &last[..] {
            database.put_with_flags(txn, PutFlags::APPEND, key, value)?;
            last.clear();
            last.extend_from_slice(key);
        } else {
            database.put(txn, key, value)?;
        }
    }
    Ok(())
}

fn apply(
    env: &Env,
    txn: &mut RwTxn<'_>,
    change: &Change,
    failed: &impl Fn(heed::Error) -> Error,
) -> Result<(), Error> {
    let Change { bucket, key, value } = change;
    let database = env.bucket(*bucket);
    let stored = key::stored(*bucket, key)?;
    match value {
        None => database.delete(txn, &stored).map(drop),
        Some(value) if *bucket != Bucket::Key && key::is_long(key) => {
            database.put(txn, &stored, &key::long_value(key, value))
        }
        Some(value) => database.put(txn, &stored, value),
    }
    .map_err(failed)
}
