//! The state machine: the writer's half.
//!
//! The commit thread owns [`StateMachine`] and is the only one to change the state; everybody else holds a
//! [`Reader`]. Both share one store behind a lock that the writer takes once per batch of
//! entries and readers for a few hundred keys at a time, so nobody waits for more than tens of microseconds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use retcd_api::raftpb;

use crate::apply::Applier;
use crate::auth::Tokens;
use crate::backend::{Backend, Failure};
use crate::flush::meta_change;
use crate::lease;
use crate::lease::Lessor;
use crate::mvcc::Hashes;
use crate::open::open;
use crate::reader::Reader;
use crate::rejection::Rejection;
use crate::schema::{conf_state_json, meta};
use crate::store::{Gauges, Shared, Store};

/// How many entries one call of [`StateMachine::apply`] may hold, so that the lock is short.
pub const BATCH_ENTRIES_MAX: usize = 64;

/// What a member decides for itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of the database file above which writes are answered with "no space". `None` never blocks.
    pub quota_bytes: Option<u64>,
    /// Bytes of current values that are kept in memory once they are on disk.
    pub cache_bytes: usize,
    /// Bytes of records that stay in memory for watchers once they are on disk, at most 100,000 records.
    pub history_bytes: usize,
    pub lease: lease::Config,
    /// Learners that a cluster may have at once.
    pub learners_max: usize,
    /// How long a simple token lives that nobody uses.
    pub token_life: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            quota_bytes: Some(2 << 30),
            cache_bytes: 1 << 30,
            history_bytes: 32 << 20,
            lease: lease::Config {
                min_ttl_secs: 2,
                checkpoint_interval: Duration::from_secs(5 * 60),
                revoke_retry: Duration::from_secs(7),
            },
            learners_max: 1,
            token_life: Duration::from_secs(300),
        }
    }
}

/// An answer without its header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// `header.revision` of the answer.
    pub revision: i64,
    /// The encoded response message without field 1, the header. Empty when nobody wants it.
    pub body: Vec<u8>,
}

/// What became of one entry.
#[derive(Debug)]
pub struct Applied {
    pub index: u64,
    /// The id its proposer waits on; 0 when there is none (an empty entry).
    pub request_id: u64,
    pub outcome: Result<Response, Rejection>,
    /// The membership change to hand to Raft, validated: `node_id` is 0 when it was refused. After an accepted one
    /// [`StateMachine::set_conf_state`] must be called with what Raft made of it.
    pub conf_change: Option<raftpb::ConfChange>,
    /// The entry's effects were in the backend already when it was opened, so nothing was done now.
    pub is_skipped: bool,
}

/// The writer.
pub struct StateMachine {
    shared: Arc<Shared>,
}

impl StateMachine {
    /// Reads the state from a backend, which may be empty.
    pub fn open(backend: Arc<dyn Backend>, config: Config) -> Result<Self, Failure> {
        let mut lessor = Lessor::new(config.lease.clone());
        let size = backend.size()?;
        let store = open(backend, &mut lessor)?;
        let gauges = Gauges::default();
        gauges.update(&store);
        gauges.set_size(size);
        let shared = Shared {
            store: RwLock::new(store),
            lessor: Mutex::new(lessor),
            tokens: Mutex::new(Tokens::new(config.token_life)),
            hashes: Mutex::default(),
            sweep: Mutex::default(),
            gauges,
            config,
        };
        Ok(StateMachine { shared: Arc::new(shared) })
    }

    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// The last entry whose effects are in the state: replay begins behind it.
    pub fn applied_index(&self) -> u64 {
        self.shared.gauges.applied_index.load(Ordering::Acquire)
    }

    /// The term of that entry.
    pub fn applied_term(&self) -> u64 {
        self.shared.store.read().applied_term
    }

    /// Raft's view of the membership as of the last [`set_conf_state`](Self::set_conf_state).
    pub fn conf_state(&self) -> Option<raftpb::ConfState> {
        self.shared.store.read().conf_state.clone()
    }

    /// Applies committed entries in order, at most [`BATCH_ENTRIES_MAX`] under one lock, and pushes one [`Applied`]
    /// per entry to `out`.
    ///
    /// `wants` tells whether somebody waits for the answer to a request id; other answers are not built. `now` is
    /// the caller's monotonic clock, which only lease deadlines use.
    ///
    /// # Errors
    /// A failure is local and final: the state may hold half a batch and must be thrown away.
    pub fn apply(
        &mut self,
        entries: &[raftpb::Entry],
        wants: impl Fn(u64) -> bool,
        now: Duration,
        out: &mut Vec<Applied>,
    ) -> Result<(), Failure> {
        out.reserve(entries.len());
        for batch in entries.chunks(BATCH_ENTRIES_MAX) {
            let mut guard = self.shared.store.write();
            let mut applier = Applier { shared: &self.shared, store: &mut guard, now };
            for entry in batch {
                out.push(applier.apply(entry, &wants)?);
            }
            self.end_batch(&mut guard);
            // Readers that came while the batch ran go first; otherwise a long replay would starve them.
            RwLockWriteGuard::unlock_fair(guard);
        }
        Ok(())
    }

    /// Stores what Raft made of an accepted membership change. Until then nothing behind that entry is flushed.
    pub fn set_conf_state(&mut self, conf_state: &raftpb::ConfState) {
        let mut store = self.shared.store.write();
        store.conf_state = Some(conf_state.clone());
        store.pending.push(meta_change(meta::CONF_STATE, conf_state_json(conf_state)));
        store.pending.awaits_conf_state = false;
        self.end_batch(&mut store);
    }

    fn end_batch(&self, store: &mut Store) {
        let Store { pending, tail, applied_index, applied_term, revision, .. } = store;
        pending.mark(*applied_index, *applied_term, *revision, tail);
        self.shared.gauges.update(store);
    }

    /// Replaces the whole state by a received one; readers and watchers go on with it.
    ///
    /// The storage thread must not be at work meanwhile: what it holds belongs to the old state.
    pub fn install(&mut self, backend: Arc<dyn Backend>) -> Result<(), Failure> {
        let size = backend.size()?;
        let mut lessor = Lessor::new(self.shared.config.lease.clone());
        let mut state = open(backend, &mut lessor)?;
        let mut store = self.shared.store.write();
        state.generation = store.generation + 1;
        *self.shared.lessor.lock() = lessor;
        *self.shared.hashes.lock() = Hashes::default();
        let old = std::mem::replace(&mut *store, state);
        // What happened in between is not told; who could still log in as before may go on.
        let (auth, before) = (&store.auth, &old.auth);
        self.shared
            .tokens
            .lock()
            .retain(|user| auth.is_enabled() && auth.has_same_password(before, user));
        self.shared.gauges.update(&store);
        self.shared.gauges.set_size(size);
        drop(store);
        // Freeing a big index takes a while; nobody should wait for it.
        drop(old);
        Ok(())
    }
}
