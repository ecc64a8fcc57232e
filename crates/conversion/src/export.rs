//! A data dir of ours as one that etcd starts on.
//!
//! What etcd gets is what a member has after it received a snapshot: the database, a `.snap` file of the same index, and a
//! log that begins there. What is in the log behind the database goes along, committed or not: other members may count on
//! it.

use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use retcd_api::etcdserverpb::InternalRaftRequest;
use retcd_api::raftpb::{self, Entry, EntryType, HardState};
use retcd_api::walpb;
use retcd_bbolt::{PageSize, Writer};
use retcd_state_machine::DurableState;
use retcd_state_machine::schema::{Bucket, cluster, meta};
use retcd_storage::backend::{LmdbBackend, Options, Pinned};
use retcd_storage::data_dir::{DataDir, Layout, is_bbolt};
use retcd_storage::fs::{Fs, RealFs};
use retcd_storage::snapshot::Snapshots;
use retcd_storage::wal::{self, EntryRef, Kind, Reader, Wal};

use crate::adopt::sync_dir;
use crate::buckets::{Kept, write_changed};
use crate::{Error, Membership, Version, stored};

/// Writes what `from` holds to `to`, whose directories are missing or empty. `target`: the version of etcd that is going
/// to read it; older ones than 3.7 get the cluster version lowered to theirs.
///
/// # Errors
/// Nothing to export; damage; I/O. What was written so far is not removed: without a log, which comes last, etcd takes it
/// for the leftovers that it is.
pub fn export(from: &DataDir, to: &Layout, target: Version) -> Result<(), Error> {
    let path = from.layout().backend_path();
    if is_bbolt(&path)? {
        return Err(Error::NothingToExport { path });
    }
    let backend = LmdbBackend::open(&path, Options::default())?;
    let state = backend.pin()?;
    let durable = stored::durable_state(&state)?.ok_or(Error::Empty { path })?;
    let log = Log::read(&from.layout().wal_dir(), durable.index)?;
    log.check(&from.layout().wal_dir(), target)?;

    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let snap_dir = to.snap_dir();
    fs.create_dir_all(&snap_dir).map_err(Error::io("create", &snap_dir))?;
    write_database(&state, &to.backend_path(), target)?;
    sync_dir(&snap_dir)?;
    let membership = Membership::read(&state)?;
    let membership = membership.lowered_to(target);
    write_log(fs, to, &durable, &membership, &log)
}

fn write_database(state: &Pinned, path: &Path, target: Version) -> Result<(), Error> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(path).map_err(Error::io("create", path))?;
    let mut writer = Writer::new(BufWriter::new(file), PageSize::DEFAULT)?;
    let version = lowered(state.get(Bucket::Cluster, cluster::VERSION)?, target);
    write_changed(state, &mut writer, &|bucket, key| match (bucket, key) {
        (Bucket::Cluster, cluster::VERSION) => version.clone().map_or(Kept::AsItIs, Kept::With),
        (Bucket::Meta, meta::STORAGE_VERSION) if target < Version::V3_6 => Kept::Not,
        (Bucket::Meta, meta::STORAGE_VERSION) if target < Version::NEWEST => {
            Kept::With(target.stored().into_bytes())
        }
        _ => Kept::AsItIs,
    })?;
    let file = writer.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).map_err(Error::io("write", path))
}

/// The version to be written in place of a stored one that is above `target`.
fn lowered(stored: Option<Vec<u8>>, target: Version) -> Option<Vec<u8>> {
    let version: Version = String::from_utf8_lossy(&stored?).parse().ok()?;
    (version > target).then(|| target.stored().into_bytes())
}

fn write_log(
    fs: Arc<dyn Fs>,
    to: &Layout,
    durable: &DurableState,
    membership: &Membership,
    log: &Log,
) -> Result<(), Error> {
    let DurableState { index, term, conf_state } = durable.clone();
    let metadata = raftpb::SnapshotMetadata { conf_state: Some(conf_state.clone()), index, term };
    Snapshots::new(fs.clone(), &to.snap_dir()).save(&raftpb::Snapshot {
        data: membership.to_store_json().into(),
        metadata: Some(metadata),
    })?;
    let mut wal = Wal::create(fs, &to.wal_dir(), &log.metadata, wal::Options::default())?;
    let hard_state = HardState {
        // What the database holds was committed, whether or not the log had time to say so.
        commit: log.hard_state.commit.max(index),
        ..log.hard_state
    };
    wal.append(Some(&hard_state), log.entries.iter().map(EntryRef::from))?;
    wal.save_snapshot(&walpb::Snapshot { index, term, conf_state: Some(conf_state) })?;
    Ok(())
}

/// What a log holds behind a database.
struct Log {
    metadata: Vec<u8>,
    hard_state: HardState,
    entries: Vec<Entry>,
}

impl Log {
    fn read(dir: &Path, applied: u64) -> Result<Self, Error> {
        let mut reader = Reader::open(&RealFs, dir)?;
        let mut log =
            Log { metadata: Vec::new(), hard_state: HardState::default(), entries: Vec::new() };
        while let Some(item) = reader.next_item()? {
            match item.kind {
                Kind::Metadata => log.metadata = item.data.to_vec(),
                Kind::State => log.hard_state = item.hard_state()?,
                Kind::Entry => log.add(item.entry()?, dir, applied)?,
                Kind::Snapshot | Kind::Crc => {}
            }
        }
        Ok(log)
    }

    /// An entry replaces one of the same index and all behind it.
    fn add(&mut self, entry: Entry, dir: &Path, applied: u64) -> Result<(), Error> {
        let Some(position) = entry.index.checked_sub(applied + 1) else {
            self.entries.clear();
            return Ok(());
        };
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        if position > self.entries.len() {
            return Err(Error::Gap { dir: dir.to_path_buf(), applied });
        }
        self.entries.truncate(position);
        self.entries.push(entry);
        Ok(())
    }

    /// An old etcd refuses to run in a cluster of a newer version, and learns of that from the log, too.
    fn check(&self, dir: &Path, target: Version) -> Result<(), Error> {
        for entry in self.entries.iter().filter(|entry| entry.r#type() == EntryType::EntryNormal) {
            let Ok(request) = InternalRaftRequest::decode(entry.data.clone()) else { continue };
            let Some(set) = request.cluster_version_set else { continue };
            if set.ver.parse::<Version>().is_ok_and(|version| version > target) {
                let dir = dir.to_path_buf();
                let (needed, target) = (set.ver, target.to_string());
                return Err(Error::NewerEntries { dir, needed, target });
            }
        }
        Ok(())
    }
}
