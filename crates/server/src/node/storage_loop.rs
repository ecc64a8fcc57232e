//! The storage thread: everything that is written behind the log, and everything that would hold up others.
//!
//! It flushes what was applied every second or 16 MiB, drops what compaction left behind in slices between the flushes,
//! keeps the value cache in its budget, takes Raft snapshots so that the log can be cut, holds on to states that are
//! exported, and answers requests about storage itself. Nothing in the way of a put or a range waits for it.
//!
//! When another member's database replaces the own one, both threads that write take part, so that neither works on what
//! is going away:
//!
//! ```text
//! commit thread                        storage thread
//! install(index) ────────────────────► ends what it does; gives the received database the place of the own one
//! reads it: StateMachine::install ◄─── the open database
//! done ──────────────────────────────► goes on with the new one
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use retcd_api::error::{Code, RpcError};
use retcd_api::{raftpb, walpb};
use retcd_state_machine::backend::{Backend, Batch, Failure};
use retcd_state_machine::mvcc::{CompactionStep, HashKv};
use retcd_state_machine::{ReadError, Reader};
use retcd_storage::backend::{LmdbBackend, Pinned};
use retcd_storage::data_dir::DataDir;
use retcd_storage::fs::RealFs;
use retcd_storage::snapshot::Snapshots;
use retcd_storage::wal;
use tokio::sync::{oneshot, watch};

use super::NodeHandle;
use super::proposals::Command;
use crate::logging;
use crate::metrics::Metrics;
use crate::snapshot::{self, Exporter, Exports, Importer, Membership};

/// Requests that may wait for the storage thread. A client that finds the queue full is refused.
const REQUESTS_MAX: usize = 64;
/// What one flush writes at most: bounds the memory and the time of a transaction.
const FLUSH_BYTES_MAX: usize = 8 << 20;
/// How often files that are no longer needed are removed.
const PURGE_INTERVAL: Duration = Duration::from_secs(30);
/// Between two slices of warming: a start must not cost the clients more than a fraction of a core.
const WARMING_PAUSE: Duration = Duration::from_millis(10);
/// Keys that cache eviction and warming look at in one slice.
const CACHE_SLICE_KEYS: usize = 4096;

/// How the storage thread paces itself.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    pub(crate) flush_interval: Duration,
    /// Records that one compaction slice looks at.
    pub(crate) compaction_records: usize,
    /// Pause between compaction slices.
    pub(crate) compaction_pause: Duration,
    /// Applied entries between Raft snapshots.
    pub(crate) snapshot_entries: u64,
    /// Files of the log and of snapshots that stay; 0 keeps all.
    pub(crate) wal_files_max: usize,
    pub(crate) snapshots_max: usize,
}

enum Request {
    Flush,
    Hash(oneshot::Sender<Result<u32, Failure>>),
    HashKv(i64, oneshot::Sender<Result<HashKv, ReadError>>),
    Defragment(oneshot::Sender<Result<(), Failure>>),
    Pin(oneshot::Sender<Result<Pinned, Failure>>),
    Install(Install),
    Stop,
}

/// What replaces the database, and the way back and forth with whoever waits for it.
struct Install {
    /// Of the Raft snapshot that came with it.
    index: u64,
    taken: SyncSender<Result<Arc<LmdbBackend>, Failure>>,
    /// Tells that the new database is in use; closed without a word when that failed.
    installed: Receiver<()>,
}

/// The storage thread as others see it.
#[derive(Clone)]
pub(crate) struct StorageHandle {
    requests: SyncSender<Request>,
    is_flush_asked: Arc<AtomicBool>,
    /// The last compaction whose records are gone.
    compacted: watch::Receiver<i64>,
    exports: Exports,
}

impl StorageHandle {
    /// Asks for a flush before its time. Never waits.
    pub(crate) fn flush_soon(&self) {
        if !self.is_flush_asked.swap(true, Ordering::AcqRel) {
            // A full queue keeps the thread awake anyway: it looks at the flag after each request.
            let _ = self.requests.try_send(Request::Flush);
        }
    }

    pub(crate) async fn hash(&self) -> Result<Result<u32, Failure>, RpcError> {
        self.ask(Request::Hash).await
    }

    pub(crate) async fn hash_kv(
        &self,
        revision: i64,
    ) -> Result<Result<HashKv, ReadError>, RpcError> {
        self.ask(|reply| Request::HashKv(revision, reply)).await
    }

    pub(crate) async fn defragment(&self) -> Result<Result<(), Failure>, RpcError> {
        self.ask(Request::Defragment).await
    }

    /// Has everything written that was applied until now, and holds on to that state.
    pub(crate) async fn pin(&self) -> Result<Result<Pinned, Failure>, RpcError> {
        self.ask(Request::Pin).await
    }

    /// The databases on their way out: what of the log they need.
    pub(crate) fn exports(&self) -> &Exports {
        &self.exports
    }

    /// Replaces the database by the one that was received for the Raft snapshot at `index`. `install` makes the state
    /// machine use it, while the storage thread stands still. Waits for all of that; the commit thread calls this, and the
    /// log has the snapshot durably.
    ///
    /// # Errors
    /// Of the disk, of the received database or of `install`: the member cannot go on. It must end, and the next start
    /// goes on from the files.
    pub(crate) fn install(
        &self,
        index: u64,
        install: impl FnOnce(Arc<LmdbBackend>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let gone = || Failure::new("the storage thread has ended");
        let (taken, backend) = sync_channel(1);
        let (done, installed) = sync_channel(1);
        let request = Request::Install(Install { index, taken, installed });
        self.requests.send(request).map_err(|_| gone())?;
        install(backend.recv().map_err(|_| gone())??)?;
        done.send(()).map_err(|_| gone())
    }

    /// Waits until everything up to the compaction at `revision` is gone from the disk.
    pub(crate) async fn compacted(&self, revision: i64) -> Result<(), RpcError> {
        self.compacted
            .clone()
            .wait_for(|done| *done >= revision)
            .await
            .map(drop)
            .map_err(|_| RpcError::Stopped)
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, RpcError> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|error| match error {
            TrySendError::Full(_) => {
                RpcError::other(Code::ResourceExhausted, "too many requests wait for the disk")
            }
            TrySendError::Disconnected(_) => RpcError::Stopped,
        })?;
        answer.await.map_err(|_| RpcError::Stopped)
    }

    /// Ends the thread after one last flush.
    pub(crate) fn stop(&self) {
        let _ = self.requests.send(Request::Stop);
    }
}

/// The thread's end of the handle.
pub(crate) struct StorageRequests {
    requests: Receiver<Request>,
    is_flush_asked: Arc<AtomicBool>,
    compacted: watch::Sender<i64>,
}

pub(crate) fn channel() -> (StorageHandle, StorageRequests) {
    let (sender, requests) = sync_channel(REQUESTS_MAX);
    let (compacted_sender, compacted) = watch::channel(-1);
    let is_flush_asked = Arc::new(AtomicBool::new(false));
    let handle = StorageHandle {
        requests: sender,
        is_flush_asked: is_flush_asked.clone(),
        compacted,
        exports: Exports::default(),
    };
    (handle, StorageRequests { requests, is_flush_asked, compacted: compacted_sender })
}

impl NodeHandle {
    /// Gives away the database.
    pub(crate) fn exporter(&self) -> Exporter {
        Exporter::new(self.shared.storage.clone(), self.shared.metrics.clone())
    }
}

/// Owns what only the storage thread may touch.
pub(crate) struct StorageLoop {
    member_id: u64,
    /// Has the log note a snapshot that was saved.
    note_snapshot: Box<dyn Fn(walpb::Snapshot) + Send>,
    metrics: Arc<Metrics>,
    reader: Reader,
    backend: Arc<LmdbBackend>,
    snapshots: Snapshots,
    requests: StorageRequests,
    pace: Pace,
    last_flush: Instant,
    /// Index of the last Raft snapshot.
    snapshot_index: u64,
    is_warming: bool,
    compaction_due: Instant,
    /// When the running compaction began, and how many keys it has dropped.
    compacting: Option<(Instant, u64)>,
    purge_due: Instant,
    importer: Importer,
    data_dir: DataDir,
}

impl StorageLoop {
    pub(crate) fn new(
        node: NodeHandle,
        backend: Arc<LmdbBackend>,
        snapshots: Snapshots,
        requests: StorageRequests,
        pace: Pace,
        snapshot_index: u64,
        data_dir: DataDir,
    ) -> Self {
        let (reader, metrics) = (node.shared.reader.clone(), node.shared.metrics.clone());
        let member_id = node.member_id();
        let note_snapshot = Box::new(move |record| {
            node.shared.proposals.command(Command::SnapshotSaved(record));
        });
        StorageLoop {
            member_id,
            note_snapshot,
            metrics,
            reader,
            backend,
            snapshots,
            requests,
            pace,
            last_flush: Instant::now(),
            snapshot_index,
            is_warming: true,
            compaction_due: Instant::now(),
            compacting: None,
            purge_due: Instant::now(),
            importer: Importer::new(data_dir.layout()),
            data_dir,
        }
    }

    /// A storage thread without a node around it.
    #[cfg(test)]
    pub(crate) fn alone(
        reader: Reader,
        metrics: Arc<Metrics>,
        backend: Arc<LmdbBackend>,
        requests: StorageRequests,
        data_dir: DataDir,
    ) -> Self {
        let pace = Pace {
            flush_interval: Duration::from_secs(3600),
            compaction_records: 1000,
            compaction_pause: Duration::ZERO,
            snapshot_entries: u64::MAX / 2,
            wal_files_max: 0,
            snapshots_max: 0,
        };
        StorageLoop {
            member_id: 0,
            note_snapshot: Box::new(|_| {}),
            metrics,
            reader,
            backend,
            snapshots: Snapshots::new(Arc::new(RealFs), &data_dir.layout().snap_dir()),
            requests,
            pace,
            last_flush: Instant::now(),
            snapshot_index: 0,
            is_warming: true,
            compaction_due: Instant::now(),
            compacting: None,
            purge_due: Instant::now(),
            importer: Importer::new(data_dir.layout()),
            data_dir,
        }
    }

    /// Runs until it is stopped.
    ///
    /// # Errors
    /// A fault of the disk or of the data: the process must end.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        self.requests.compacted.send_replace(self.reader.finished_compaction_revision());
        loop {
            match self.requests.requests.recv_timeout(self.patience()) {
                Ok(Request::Flush) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Request::Hash(reply)) => {
                    self.flush()?;
                    let _ = reply.send(self.reader.hash());
                }
                Ok(Request::HashKv(revision, reply)) => {
                    self.flush()?;
                    let _ = reply.send(self.reader.hash_kv(revision));
                    self.backend.trim_resident()?;
                }
                Ok(Request::Defragment(reply)) => {
                    self.flush()?;
                    let _ = reply.send(self.defragment());
                }
                Ok(Request::Pin(reply)) => {
                    self.flush()?;
                    let _ = reply.send(self.backend.pin().map_err(Failure::from));
                }
                Ok(Request::Install(request)) => {
                    if !self.install(&request) {
                        return Ok(());
                    }
                }
                // No snapshot: the commit loop has ended and could not note it in the log, and one that is not noted makes
                // the next start read all of the log.
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
            self.work()?;
        }
    }

    /// How long to wait for a request before there is something to do.
    fn patience(&self) -> Duration {
        let flush = self.pace.flush_interval.saturating_sub(self.last_flush.elapsed());
        if self.is_warming {
            return flush.min(WARMING_PAUSE);
        }
        if self.has_compaction() {
            flush.min(self.compaction_due.saturating_duration_since(Instant::now()))
        } else {
            flush
        }
    }

    fn has_compaction(&self) -> bool {
        self.reader.compacted_revision() > self.reader.finished_compaction_revision()
    }

    fn work(&mut self) -> Result<(), Failure> {
        let is_asked = self.requests.is_flush_asked.swap(false, Ordering::AcqRel);
        if is_asked || self.last_flush.elapsed() >= self.pace.flush_interval {
            self.flush()?;
            while self.reader.evict(CACHE_SLICE_KEYS) {}
            if self.reader.applied_index() >= self.snapshot_index + self.pace.snapshot_entries {
                self.snapshot()?;
            }
        }
        if self.has_compaction() && Instant::now() >= self.compaction_due {
            self.compact()?;
            self.compaction_due = Instant::now() + self.pace.compaction_pause;
        }
        if Instant::now() >= self.purge_due {
            self.purge();
            self.purge_due = Instant::now() + PURGE_INTERVAL;
        }
        if self.is_warming {
            self.is_warming = self.reader.warm(CACHE_SLICE_KEYS)?;
            if !self.is_warming {
                self.backend.trim_resident()?;
            }
        }
        Ok(())
    }

    /// Writes everything that was applied until now.
    fn flush(&mut self) -> Result<(), Failure> {
        self.last_flush = Instant::now();
        let target = self.reader.applied_index();
        while let Some(flush) = self.reader.take_flush(FLUSH_BYTES_MAX) {
            self.commit(&flush.batch)?;
            let reached = flush.applied_index;
            self.reader.flushed(flush)?;
            if reached >= target {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch) -> Result<(), Failure> {
        let started = Instant::now();
        self.backend.commit(batch)?;
        self.metrics.disk_backend_commit_duration_seconds.observe_duration(started.elapsed());
        Ok(())
    }

    fn compact(&mut self) -> Result<(), Failure> {
        let (began, dropped) = self.compacting.get_or_insert_with(|| (Instant::now(), 0));
        let began = *began;
        match self.reader.compaction_step(self.pace.compaction_records)? {
            CompactionStep::Idle => {}
            CompactionStep::NotFlushed => self.flush()?,
            CompactionStep::Work(batch) => {
                let started = Instant::now();
                *dropped += batch.dropped.len() as u64;
                self.commit(&batch)?;
                let pause_ms = started.elapsed().as_secs_f64() * 1000.0;
                self.metrics.mvcc_db_compaction_keys_total.add(batch.dropped.len() as u64);
                self.metrics.mvcc_db_compaction_pause_duration_milliseconds.observe(pause_ms);
            }
        }
        let finished = self.reader.finished_compaction_revision();
        let is_news = self
            .requests
            .compacted
            .send_if_modified(|last| std::mem::replace(last, finished) != finished);
        if is_news {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.metrics.mvcc_db_compaction_last.set_count(now.as_secs());
            let (_, dropped) = self.compacting.take().unwrap_or((began, 0));
            let size = self.backend.size()?;
            tracing::info!(
                compact_revision = finished,
                took = %logging::took(began.elapsed()),
                number_of_keys_compacted = dropped,
                current_db_size_bytes = size.total_bytes,
                current_db_size = logging::size(size.total_bytes),
                current_db_size_in_use_bytes = size.in_use_bytes,
                current_db_size_in_use = logging::size(size.in_use_bytes),
                "finished scheduled compaction"
            );
        }
        Ok(())
    }

    /// Replaces the database. Returns whether to go on: a failure is the commit thread's to tell, which ends the member.
    fn install(&mut self, request: &Install) -> bool {
        self.metrics.server_snapshot_apply_in_progress_total.set_bool(true);
        // Nothing of the old state is written any more: what it has pending goes away with it.
        let taken = match self.importer.take(request.index) {
            Ok(backend) => Arc::new(backend),
            Err(error) => {
                let _ = request.taken.send(Err(error.into()));
                return false;
            }
        };
        if request.taken.send(Ok(taken.clone())).is_err() || request.installed.recv().is_err() {
            return false;
        }
        self.backend = taken;
        self.snapshot_index = request.index;
        self.is_warming = true;
        self.compaction_due = Instant::now();
        self.requests.compacted.send_replace(self.reader.finished_compaction_revision());
        self.metrics.server_snapshot_apply_in_progress_total.set_bool(false);
        true
    }

    /// Saves a Raft snapshot at what the backend holds, and has the log noted and cut.
    fn snapshot(&mut self) -> Result<(), Failure> {
        let pinned = self.backend.pin()?;
        let Some(state) = snapshot::durable_state(&pinned)? else { return Ok(()) };
        if state.index <= self.snapshot_index {
            return Ok(());
        }
        let metadata = raftpb::SnapshotMetadata {
            conf_state: Some(state.conf_state.clone()),
            index: state.index,
            term: state.term,
        };
        tracing::info!(
            local_member_id = %format!("{:x}", self.member_id),
            local_member_applied_index = state.index,
            local_member_snapshot_index = self.snapshot_index,
            local_member_snapshot_count = self.pace.snapshot_entries,
            snapshot_forced = false,
            "triggering snapshot"
        );
        let data = Membership::read(&pinned)?.to_store_json();
        drop(pinned);
        let snapshot = raftpb::Snapshot { data: data.into(), metadata: Some(metadata) };
        self.snapshots
            .save(&snapshot)
            .map_err(|error| Failure::because("save a snapshot file", error))?;
        tracing::info!(snapshot_index = state.index, snapshot_term = state.term, "saved snapshot");
        self.snapshot_index = state.index;
        let record = walpb::Snapshot {
            index: state.index,
            term: state.term,
            conf_state: Some(state.conf_state),
        };
        (self.note_snapshot)(record);
        Ok(())
    }

    /// Removes files that nobody needs any more. One that cannot be removed is no reason to stop.
    fn purge(&self) {
        self.importer.purge(self.snapshot_index);
        let purged = self
            .snapshots
            .purge(self.pace.snapshots_max)
            .map_err(|error| error.to_string())
            .and_then(|_| {
                wal::purge(&RealFs, &self.data_dir.layout().wal_dir(), self.pace.wal_files_max)
                    .map(drop)
                    .map_err(|error| error.to_string())
            });
        if let Err(error) = purged {
            tracing::warn!(error, "could not remove old files");
        }
    }

    fn defragment(&mut self) -> Result<(), Failure> {
        defragment(&self.backend)?;
        self.reader.refresh_size()?;
        Ok(())
    }
}

/// Gives back the free pages of a database that nobody serves from yet, if they are `threshold_bytes` or more.
pub(crate) fn defragment_at_start(
    backend: &LmdbBackend,
    threshold_bytes: u64,
) -> Result<(), Failure> {
    let size = backend.size()?;
    if size.total_bytes - size.in_use_bytes >= threshold_bytes {
        return defragment(backend);
    }
    tracing::info!(
        current_db_size_bytes = size.total_bytes,
        current_db_size = logging::size(size.total_bytes),
        current_db_size_in_use_bytes = size.in_use_bytes,
        current_db_size_in_use = logging::size(size.in_use_bytes),
        bootstrap_defrag_threshold_bytes = threshold_bytes,
        bootstrap_defrag_threshold = logging::size(threshold_bytes),
        "Skipping defragmentation"
    );
    Ok(())
}

/// Gives back the free pages, and tells of it.
fn defragment(backend: &LmdbBackend) -> Result<(), Failure> {
    tracing::info!("starting defragment");
    let started = Instant::now();
    let before = backend.size()?;
    backend.defragment()?;
    let after = backend.size()?;
    let gained = |after: u64, before: u64| after.cast_signed() - before.cast_signed();
    tracing::info!(
        path = %backend.path().display(),
        current_db_size_bytes_diff = gained(after.total_bytes, before.total_bytes),
        current_db_size_bytes = after.total_bytes,
        current_db_size = logging::size(after.total_bytes),
        current_db_size_in_use_bytes_diff = gained(after.in_use_bytes, before.in_use_bytes),
        current_db_size_in_use_bytes = after.in_use_bytes,
        current_db_size_in_use = logging::size(after.in_use_bytes),
        took = %logging::took(started.elapsed()),
        "finished defragmenting directory"
    );
    Ok(())
}
