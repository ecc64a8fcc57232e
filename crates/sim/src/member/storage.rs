//! The storage loop: the database follows behind the log.
//!
//! A flush is taken out of memory in one step and committed in a later one; a crash in between loses it. As in
//! `server/src/node/storage_loop.rs`, flushes, compaction and exports never run at the same time.

use std::sync::Arc;
use std::time::Duration;

use retcd_api::raftpb::{Message, Snapshot, SnapshotMetadata};
use retcd_state_machine::backend::{Backend, MemoryBackend};
use retcd_state_machine::mvcc::CompactionStep;
use retcd_state_machine::schema::{Bucket, meta, parse_conf_state};
use retcd_state_machine::{Config, DurableState, Flush, Reader, lease};

use crate::disk::Disk;
use crate::outside::Outside;

/// Applied entries between two snapshots of the log.
const SNAPSHOT_ENTRIES: u64 = 30;
/// For how many steps the log is kept for a member that was sent a database.
const LINGER: u64 = 300;

pub(crate) struct StorageLoop {
    /// Not committed before this step.
    flush: Option<(u64, Flush)>,
    snapshot_index: u64,
    /// States that were sent to members, and until when the log behind them is kept.
    exports: Vec<(u64, u64)>,
}

/// Small, so that what can be evicted, trimmed or flushed in parts is.
pub(crate) fn config(has_checkpoints: bool) -> Config {
    Config {
        quota_bytes: None,
        cache_bytes: 300,
        history_bytes: 600,
        lease: lease::Config {
            min_ttl_secs: 1,
            checkpoint_interval: Duration::from_secs(if has_checkpoints { 1 } else { 1000 }),
            revoke_retry: Duration::from_secs(2),
        },
        learners_max: 1,
        token_life: Duration::from_secs(300),
    }
}

/// What a database says of itself; `None` when it says nothing of Raft's members yet.
pub(crate) fn durable_state(backend: &MemoryBackend) -> Option<DurableState> {
    let number = |key| {
        let bytes = backend.get(Bucket::Meta, key).expect("memory does not fail");
        bytes.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().expect("8 bytes")))
    };
    let conf_state = backend.get(Bucket::Meta, meta::CONF_STATE).expect("memory does not fail")?;
    Some(DurableState {
        index: number(meta::CONSISTENT_INDEX),
        term: number(meta::TERM),
        conf_state: parse_conf_state(&conf_state).expect("what was written can be read"),
    })
}

fn metadata(state: DurableState) -> SnapshotMetadata {
    let DurableState { index, term, conf_state } = state;
    SnapshotMetadata { conf_state: Some(conf_state), index, term }
}

impl StorageLoop {
    pub(super) fn new(snapshot_index: u64) -> Self {
        StorageLoop { flush: None, snapshot_index, exports: Vec::new() }
    }

    /// One piece of work. Returns a snapshot that the log has to note.
    pub(super) fn work(
        &mut self,
        reader: &Reader,
        disk: &mut Disk,
        outside: &mut Outside,
    ) -> Option<SnapshotMetadata> {
        if self.flush.as_ref().is_some_and(|(until, _)| *until > outside.now) {
            return None;
        }
        self.finish(reader, disk);
        match outside.dice.below(100) {
            0..2 => {
                let bytes = if outside.dice.one_in(3) { 200 } else { usize::MAX };
                let until = outside.now + outside.dice.below(20);
                self.flush = reader.take_flush(bytes).map(|flush| (until, flush));
                None
            }
            2 => {
                while reader.evict(10) {}
                None
            }
            3 => self.snapshot(disk),
            4..7 => {
                self.compact(reader, disk, outside);
                None
            }
            _ => None,
        }
    }

    /// Ends what is under way.
    pub(super) fn finish(&mut self, reader: &Reader, disk: &Disk) {
        if let Some((_, flush)) = self.flush.take() {
            commit(reader, disk, flush);
        }
    }

    pub(super) fn installed(&mut self, index: u64) {
        self.snapshot_index = index;
    }

    fn flush_all(&mut self, reader: &Reader, disk: &Disk) {
        self.finish(reader, disk);
        let target = reader.applied_index();
        while reader.flushed_index() < target
            && let Some(flush) = reader.take_flush(usize::MAX)
        {
            commit(reader, disk, flush);
        }
    }

    fn compact(&mut self, reader: &Reader, disk: &Disk, outside: &mut Outside) {
        let records = 1 + outside.dice.index(8);
        match reader.compaction_step(records).expect("memory does not fail") {
            CompactionStep::Idle => {}
            CompactionStep::NotFlushed => self.flush_all(reader, disk),
            CompactionStep::Work(batch) => {
                disk.backend.commit(&batch).expect("memory does not fail");
            }
        }
    }

    /// A Raft snapshot at what the database holds.
    fn snapshot(&mut self, disk: &mut Disk) -> Option<SnapshotMetadata> {
        let state = durable_state(&disk.backend)?;
        if state.index < self.snapshot_index + SNAPSHOT_ENTRIES {
            return None;
        }
        self.snapshot_index = state.index;
        let metadata = metadata(state);
        disk.save_snapshot_file(&metadata);
        Some(metadata)
    }

    /// The database for a member that lags, and the message that tells what is in it.
    pub(crate) fn export(
        &mut self,
        mut message: Message,
        reader: &Reader,
        disk: &Disk,
        now: u64,
    ) -> Option<(Message, Arc<MemoryBackend>)> {
        self.flush_all(reader, disk);
        let state = durable_state(&disk.backend)?;
        let wanted = message.snapshot.and_then(|snapshot| snapshot.metadata);
        if state.index < wanted.map_or(0, |metadata| metadata.index) {
            return None;
        }
        self.exports.push((state.index, now + LINGER));
        let metadata = Some(metadata(state));
        message.snapshot = Some(Snapshot { data: bytes::Bytes::new(), metadata });
        Some((message, Arc::new(disk.backend.copy())))
    }

    /// The log behind this index will be asked for.
    pub(super) fn lowest_needed(&mut self, now: u64) -> Option<u64> {
        self.exports.retain(|(_, until)| *until > now);
        self.exports.iter().map(|(index, _)| *index).min()
    }
}

fn commit(reader: &Reader, disk: &Disk, flush: Flush) {
    disk.backend.commit(&flush.batch).expect("memory does not fail");
    reader.flushed(flush).expect("memory does not fail");
}
