//! `snapshot status`: is a file whole, and what is in it?

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use retcd_bbolt::{Database, Fault};
use retcd_command_line::{Action, Command, Failure, Invocation};
use retcd_state_machine::backend::Backend;
use retcd_state_machine::mvcc::{KeyValue, RecordKey};
use retcd_state_machine::schema::{Bucket, meta};
use retcd_storage::data_dir::is_bbolt;

use crate::file::{Stored, expect_there, lock, path_of};
use crate::print::{Column, Format, Value};

pub(super) const COMMAND: Command = Command {
    operands: "<filename>",
    short: "Gets backend snapshot status of a given file",
    takes_files: true,
    ..Command::new("status", "", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [file] = invocation.args.as_slice() else {
        return Err(Failure::bad_args("snapshot status requires exactly one argument"));
    };
    let path = path_of(file);
    expect_there(&path)?;
    let format = Format::of(invocation)?;
    let (summary, bytes) = if is_bbolt(&path).map_err(|error| Failure::error(&error))? {
        let _lock = lock(&path, invocation)?;
        of_bbolt(&path)?
    } else {
        of_ours(&*Stored::open(&path, invocation)?.backend)?
    };
    let Summary { crc, revision, live, version } = summary;
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    format.print(&[
        Column { title: "HASH", field: "Hash", key: "hash", value: Value::Hash(crc) },
        Column {
            title: "REVISION",
            field: "Revision",
            key: "revision",
            value: Value::Number(revision),
        },
        Column {
            title: "TOTAL KEYS",
            field: "Keys",
            key: "totalKey",
            value: Value::Number(number(live.len())),
        },
        Column {
            title: "TOTAL SIZE",
            field: "Size",
            key: "totalSize",
            value: Value::Bytes(i64::try_from(bytes).unwrap_or(i64::MAX)),
        },
        Column { title: "VERSION", field: "Version", key: "version", value: Value::Text(version) },
    ])
}

/// What a walk over all buckets has seen.
#[derive(Default)]
struct Summary {
    /// Over names of buckets, keys and values.
    crc: u32,
    revision: i64,
    live: HashSet<Vec<u8>>,
    version: String,
}

impl Summary {
    fn bucket(&mut self, name: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, name);
    }

    fn entry(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), Failure> {
        self.crc = crc32c::crc32c_append(self.crc, key);
        self.crc = crc32c::crc32c_append(self.crc, value);
        if bucket == Bucket::Key.name().as_bytes() {
            return self.record(key, value);
        }
        if bucket == Bucket::Meta.name().as_bytes() && key == meta::STORAGE_VERSION {
            self.version = String::from_utf8_lossy(value).into_owned();
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let Some((revision, is_tombstone)) = RecordKey::decode(key) else {
            return Err(Failure::error(&format!("cannot parse revision key: {key:?}")));
        };
        let Some(kv) = KeyValue::decode(value) else {
            return Err(Failure::error(&format!("cannot unmarshal value, key: {key:?}")));
        };
        self.revision = revision.main;
        if is_tombstone {
            self.live.remove(kv.key);
        } else {
            self.live.insert(kv.key.to_vec());
        }
        Ok(())
    }
}

fn of_bbolt(path: &Path) -> Result<(Summary, u64), Failure> {
    let database = Database::open_path(path).map_err(|fault| damaged(&fault))?;
    let mut summary = Summary::default();
    let mut buckets = database.buckets();
    while let Some(bucket) = buckets.next().map_err(|fault| damaged(&fault))? {
        summary.bucket(bucket.name());
        let mut entries = database.entries(&bucket);
        while let Some((key, value)) = entries.next().map_err(|fault| damaged(&fault))? {
            summary.entry(bucket.name(), key, value)?;
        }
    }
    Ok((summary, database.size_bytes()))
}

/// The walk ends at the first damage, so there is always one.
fn damaged(fault: &Fault) -> Failure {
    Failure::error(&format!("snapshot file integrity check failed. 1 errors found.\n{fault}"))
}

fn of_ours(backend: &dyn Backend) -> Result<(Summary, u64), Failure> {
    let mut summary = Summary::default();
    for bucket in Bucket::ALL {
        let name = bucket.name().as_bytes();
        summary.bucket(name);
        let mut outcome = Ok(());
        let walked = backend.scan(bucket, &[], &mut |key, value| {
            outcome = summary.entry(name, key, value);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        walked.map_err(|error| Failure::error(&error))?;
        outcome?;
    }
    let size = backend.size().map_err(|error| Failure::error(&error))?;
    Ok((summary, size.total_bytes))
}
