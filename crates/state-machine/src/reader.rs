//! The state machine: everybody else's half.
//!
//! A [`Reader`] is cheap to clone and may be used from any thread. Client threads read keys, members and alarms; the
//! storage thread takes what is to be written, and does compaction, cache and hashing in slices.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::MutexGuard;
use retcd_api::etcdserverpb as pb;
use retcd_api::raftpb::ConfChange;

use crate::auth::{Action, Identity};
use crate::backend::{Backend, Batch, Encoded, Failure, Size};
use crate::cluster::{Downgrade, Member};
use crate::flush::Flush;
use crate::lease::Lessor;
use crate::machine::Response;
use crate::mvcc::range::{Halt, Query, Scan, Show, View, read_revision};
use crate::mvcc::write::fault;
use crate::mvcc::{
    CompactionStep, HashKv, KeyRange, RangeStream, Record, RecordKey, Revision, txn,
};
use crate::rejection::Rejection;
use crate::schema::Bucket;
use crate::store::{Census, SLICE, Shared, Store, Tally};
use crate::watch::{History, HistoryError};

/// Why a read gave nothing: a "no" for the client, or a fault of this member.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Rejection(#[from] Rejection),
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// A cheap, shared view of the state.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// # State
impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Reader { shared }
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.shared.gauges.revision.load(Ordering::Acquire)
    }

    /// The last accepted compaction; -1 when there was none.
    pub fn compacted_revision(&self) -> i64 {
        self.shared.gauges.compacted.load(Ordering::Acquire)
    }

    /// The last compaction whose old records are gone; -1 when there was none.
    pub fn finished_compaction_revision(&self) -> i64 {
        self.shared.gauges.finished_compaction.load(Ordering::Acquire)
    }

    /// Whether no compaction waits for its work to be done.
    pub fn is_compaction_idle(&self) -> bool {
        self.shared.store.read().compactions.is_idle()
    }

    pub fn applied_index(&self) -> u64 {
        self.shared.gauges.applied_index.load(Ordering::Acquire)
    }

    /// The last entry whose effects are completely on disk.
    pub fn flushed_index(&self) -> u64 {
        self.shared.store.read().pending.flushed_index()
    }

    /// Everything that is not on disk yet, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.shared.gauges.pending_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the database file as of the last flush.
    pub fn size(&self) -> Size {
        self.shared.gauges.size()
    }

    /// Reads the size of the file again: after a defragmentation it is smaller.
    pub fn refresh_size(&self) -> Result<(), Failure> {
        let backend = self.backend();
        self.shared.gauges.set_size(backend.size()?);
        Ok(())
    }
    /// Bytes of the values in memory.
    pub fn cached_bytes(&self) -> usize {
        self.shared.store.read().cached_bytes
    }

    /// The stored versions of all keys, counted.
    pub fn census(&self) -> Census {
        self.shared.store.read().census()
    }

    /// What was written since the start.
    pub fn tally(&self) -> Tally {
        self.shared.store.read().tally
    }

    /// Whether a write of this [charge](crate::check::charge) fits the quota.
    pub fn fits_quota(&self, charge: u64) -> bool {
        self.shared.fits_quota(&self.shared.store.read(), charge)
    }

    /// Tells the Raft term that headers of watch answers show.
    pub fn set_raft_term(&self, term: u64) {
        self.shared.gauges.raft_term.store(term, Ordering::Relaxed);
    }

    pub(crate) fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.shared.store.read().backend)
    }

    /// The leases. Never call a method of this reader while holding the guard.
    pub fn lessor(&self) -> MutexGuard<'_, Lessor> {
        self.shared.lessor.lock()
    }
}

impl Shared {
    /// Compares with the file and what is on its way to it.
    pub(crate) fn fits_quota(&self, store: &Store, charge: u64) -> bool {
        let Some(quota) = self.config.quota_bytes else { return true };
        let used = self.gauges.size().total_bytes + store.pending.bytes() as u64;
        charge == 0 || used + charge < quota
    }
}

/// # Reads
impl Reader {
    pub fn range(&self, request: &pb::RangeRequest) -> Result<Response, ReadError> {
        let query = Query::new(request);
        self.at_one_revision(|view| {
            let at = read_revision(request.revision, view.current, view.compacted)?;
            let mut body = Vec::new();
            query.answer(view, at, &mut body)?;
            Ok(Response { revision: view.current, body })
        })
    }

    /// The answer in chunks at one revision. `chunk_bytes` is the size that chunks aim at (max-request-bytes).
    pub fn range_stream(
        &self,
        request: &pb::RangeRequest,
        chunk_bytes: usize,
    ) -> Result<RangeStream, ReadError> {
        let view = self.pin();
        let at = read_revision(request.revision, view.current, view.compacted)?;
        Ok(RangeStream::new(view, request, chunk_bytes, at))
    }

    /// A transaction for which [`check::is_read_only`](crate::check::is_read_only) holds.
    pub fn txn_read_only(&self, request: &pb::TxnRequest) -> Result<Response, ReadError> {
        self.at_one_revision(|view| {
            let body = txn::read_only(view, view.current, view.compacted, request)?;
            Ok(Response { revision: view.current, body })
        })
    }

    /// Reads at the current revision, and again at a newer one when that was overtaken.
    fn at_one_revision<T>(
        &self,
        read: impl Fn(&Pinned) -> Result<T, Halt>,
    ) -> Result<T, ReadError> {
        loop {
            let view = self.pin();
            match read(&view) {
                Ok(value) => return Ok(value),
                Err(Halt::Rejected(rejection)) => return Err(rejection.into()),
                Err(Halt::Overtaken) => {}
                Err(Halt::Missing(_)) if view.compacted_now() > view.compacted => {}
                Err(halt @ (Halt::Failed(_) | Halt::Missing(_))) => return Err(fault(halt).into()),
            }
        }
    }

    fn pin(&self) -> Pinned {
        let store = self.shared.store.read();
        Pinned {
            shared: Arc::clone(&self.shared),
            generation: store.generation,
            current: store.revision,
            compacted: store.compacted,
        }
    }
}

/// The state as of one moment, of a store that moves on: scans go in slices, between which others get the lock.
pub(crate) struct Pinned {
    shared: Arc<Shared>,
    generation: u64,
    current: i64,
    compacted: i64,
}

impl Pinned {
    /// The newest revision at that moment.
    pub(crate) fn current(&self) -> i64 {
        self.current
    }

    /// The last compaction, as of now.
    pub(crate) fn compacted_now(&self) -> i64 {
        self.shared.store.read().compacted
    }
}

impl View for Pinned {
    fn scan_slice(&self, scan: &mut Scan<'_>) -> Result<bool, Halt> {
        let store = self.shared.store.read();
        if store.compacted > scan.at() || store.generation != self.generation {
            return Err(Halt::Overtaken);
        }
        Ok(scan.step(&store, SLICE))
    }

    fn backend(&self) -> Result<Arc<dyn Backend>, Halt> {
        let store = self.shared.store.read();
        if store.generation == self.generation { store.backend() } else { Err(Halt::Overtaken) }
    }
}

impl History for Reader {
    fn current_revision(&self) -> i64 {
        self.revision()
    }

    fn compacted_revision(&self) -> i64 {
        Reader::compacted_revision(self)
    }

    fn raft_term(&self) -> u64 {
        self.shared.gauges.raft_term.load(Ordering::Relaxed)
    }

    /// Reads from memory where it reaches back to `from`, whatever was compacted meanwhile, and else from disk.
    fn records(&self, from: i64, limit: usize, out: &mut Vec<Record>) -> Result<i64, HistoryError> {
        let mut next = Revision::new(from, 0);
        let full = out.len().saturating_add(limit.max(1));
        while out.len() < full || next.sub > 0 {
            let covers_from = {
                let store = self.shared.store.read();
                if next.main > store.revision {
                    return Ok(next.main);
                }
                store.tail.covers_from()
            };
            let is_full = if next.main < covers_from {
                self.records_on_disk(&mut next, covers_from, full, out)?
            } else {
                self.records_in_tail(&mut next, full, out)
            };
            if is_full {
                break;
            }
        }
        Ok(next.main)
    }

    fn value_at(&self, key: &[u8], main: i64) -> Result<Option<Encoded>, Failure> {
        let read = self.at_one_revision(|view| {
            if main < view.compacted || main < 1 {
                return Ok(None);
            }
            let mut scan =
                Scan::new(KeyRange::new(key, b""), main.min(view.current), Show::Records);
            view.scan(&mut scan)?;
            scan.fetch(view, |_| true)?;
            Ok(scan.into_records().pop())
        });
        read.map_err(|error| match error {
            ReadError::Failure(failure) => failure,
            ReadError::Rejection(rejection) => Failure::because("an old value", rejection),
        })
    }
}

impl Reader {
    /// Takes a slice out of the tail. Returns whether `out` is full and `next` the start of a revision.
    fn records_in_tail(&self, next: &mut Revision, full: usize, out: &mut Vec<Record>) -> bool {
        let store = self.shared.store.read();
        if next.main < store.tail.covers_from() {
            return false;
        }
        for record in store.tail.since(*next).take(SLICE) {
            if out.len() >= full && record.revision.main > next.main {
                *next = Revision::new(next.main + 1, 0);
                return true;
            }
            *next = Revision::new(record.revision.main, record.revision.sub + 1);
            out.push(record.clone());
        }
        if store.tail.since(*next).next().is_none() {
            *next = Revision::new(store.revision + 1, 0);
            return true;
        }
        false
    }

    /// Reads records below `end` from disk. Returns whether `out` is full and `next` the start of a revision.
    fn records_on_disk(
        &self,
        next: &mut Revision,
        end: i64,
        full: usize,
        out: &mut Vec<Record>,
    ) -> Result<bool, HistoryError> {
        let first = next.main;
        let mut is_full = false;
        let mut is_damaged = false;
        self.backend().scan(
            Bucket::Key,
            RecordKey::new(*next, false).as_bytes(),
            &mut |key, kv| {
                let Some((revision, is_tombstone)) = RecordKey::decode(key) else {
                    is_damaged = true;
                    return ControlFlow::Break(());
                };
                if revision.main >= end {
                    return ControlFlow::Break(());
                }
                if out.len() >= full && revision.main > next.main {
                    is_full = true;
                    return ControlFlow::Break(());
                }
                *next = Revision::new(revision.main, revision.sub + 1);
                out.push(Record { revision, is_tombstone, kv: kv.into() });
                ControlFlow::Continue(())
            },
        )?;
        if is_damaged {
            return Err(Failure::new("a key of bucket `key` is no revision").into());
        }
        // Asked last: nothing that was read may have been thinned out by a compaction meanwhile.
        let compacted = self.shared.store.read().compacted;
        if first < compacted {
            return Err(HistoryError::Compacted(compacted));
        }
        *next = Revision::new(if is_full { next.main + 1 } else { end }, 0);
        Ok(is_full)
    }
}

/// # Members and alarms
impl Reader {
    /// Sorted by id.
    pub fn members(&self) -> Vec<Member> {
        self.shared.store.read().cluster.members().cloned().collect()
    }

    pub fn member(&self, id: u64) -> Option<Member> {
        self.shared.store.read().cluster.member(id).cloned()
    }

    /// Ids that were members once and can never be again.
    pub fn removed_members(&self) -> Vec<u64> {
        self.shared.store.read().cluster.removed().collect()
    }

    /// Text such as `3.7.0`; `None` while undecided.
    pub fn cluster_version(&self) -> Option<String> {
        self.shared.store.read().cluster.version().map(str::to_owned)
    }

    pub fn downgrade(&self) -> Downgrade {
        self.shared.store.read().cluster.downgrade().clone()
    }

    /// All active alarms.
    pub fn alarms(&self) -> Vec<pb::AlarmMember> {
        self.shared.store.read().alarms.list(pb::AlarmType::None)
    }

    /// Whether an alarm of this kind is active for any member.
    pub fn has_alarm(&self, kind: pb::AlarmType) -> bool {
        self.shared.store.read().alarms.has(kind)
    }

    /// Why a conf change would be refused when applied now: the check that the leader makes before proposing.
    pub fn check_conf_change(&self, change: &ConfChange) -> Result<(), ReadError> {
        let store = self.shared.store.read();
        Ok(store.cluster.check(change, self.shared.config.learners_max)??)
    }
}

/// # Who may do what
impl Reader {
    /// Whether that is asked at all. As of the last batch of entries, and free.
    pub fn auth_is_enabled(&self) -> bool {
        self.shared.gauges.auth_is_enabled.load(Ordering::Relaxed)
    }

    /// How often users, roles and permissions have changed.
    pub fn auth_revision(&self) -> u64 {
        self.shared.gauges.auth_revision.load(Ordering::Relaxed)
    }

    /// Whether a caller may do that now. `None` is one who has not said who it is.
    pub fn permit(&self, caller: Option<&Identity>, action: Action<'_>) -> Result<(), Rejection> {
        let store = self.shared.store.read();
        store.auth.check(caller.into(), action, &self.shared.lessor.lock())
    }

    /// As whom the member itself acts on data.
    pub fn own_identity(&self) -> Option<Identity> {
        self.shared.store.read().auth.own_identity()
    }

    /// What a password is compared with at a login, and the auth revision as of which that is so.
    pub fn password_hash(&self, user: &str) -> Result<(Bytes, u64), Rejection> {
        let store = self.shared.store.read();
        if !store.auth.is_enabled() {
            return Err(Rejection::AuthNotEnabled);
        }
        Ok((store.auth.password_hash(user)?, store.auth.revision()))
    }

    /// Whose simple token this is. Asking renews it. `now` is the clock of [`apply`](crate::StateMachine::apply).
    pub fn token_user(&self, token: &str, now: Duration) -> Option<Identity> {
        // First: what changes from here on makes the identity an old one.
        let revision = self.auth_revision();
        let user = self.shared.tokens.lock().user(token, now)?;
        Some(Identity { user, revision })
    }
}

/// # Storage thread
impl Reader {
    /// What is to be written next, up to about `max_bytes`. `None` when all is on disk. Commit the batch, then call
    /// [`flushed`](Self::flushed); one flush at a time.
    pub fn take_flush(&self, max_bytes: usize) -> Option<Flush> {
        let (mark, changes, bytes, mut from) = {
            let mut store = self.shared.store.write();
            let mark = store.pending.cut(max_bytes)?;
            let changes = store.pending.take_changes(mark);
            (mark, changes, store.pending.bytes_to(mark), store.tail.flushed())
        };
        let mut batch = Batch { changes, ..Batch::default() };
        while from < mark.records {
            let to = mark.records.min(from + SLICE as u64);
            let store = self.shared.store.read();
            let records = store.tail.slice(from, to);
            batch
                .records
                .extend(records.map(|record| (record.record_key(), Arc::clone(&record.kv))));
            from = to;
        }
        Some(Flush { batch, applied_index: mark.index, bytes, mark })
    }

    /// Marks a committed flush as on disk, and trims what memory need not hold any more.
    pub fn flushed(&self, flush: Flush) -> Result<(), Failure> {
        let Flush { mark, batch, .. } = flush;
        let record_bytes = batch.records.iter().map(|(_, kv)| kv.len()).sum();
        // Before any lock: freeing a big batch takes a while.
        drop(batch);
        {
            let mut store = self.shared.store.write();
            store.pending.mark_flushed(mark);
            store.tail.mark_flushed(mark.records, mark.revision, record_bytes);
            self.shared.gauges.update(&store);
        }
        while self.shared.store.write().tail.trim(SLICE, self.shared.config.history_bytes) {}
        self.refresh_size()
    }

    /// Drops flushed values from memory while the cache is over its budget, looking at no more than `keys` keys.
    /// Returns whether to call again.
    pub fn evict(&self, keys: usize) -> bool {
        self.shared.evict(keys)
    }

    /// Loads values into a cache that is under its budget, looking at no more than `keys` keys. Returns whether to
    /// call again.
    pub fn warm(&self, keys: usize) -> Result<bool, Failure> {
        self.shared.warm(keys)
    }

    /// The next piece of the pending compaction, looking at no more than `records` records. A returned batch must be
    /// committed before the next call.
    pub fn compaction_step(&self, records: usize) -> Result<CompactionStep, Failure> {
        self.shared.compaction_step(records)
    }

    /// etcd's `HashKV`; revision 0 means the current one. Call it on the storage thread.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        self.shared.hash_kv(revision)
    }

    /// The last compactions' hashes, newest first, as the corruption check walks them.
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        self.shared.hashes.lock().newest_first()
    }

    /// etcd's `Hash`: of all buckets as they stand in the backend.
    pub fn hash(&self) -> Result<u32, Failure> {
        crate::mvcc::hash_all_buckets(&*self.backend())
    }
}
