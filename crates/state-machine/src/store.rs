//! What the writer and the readers share.
//!
//! Lock order: the store, then the lessor, then the tokens. The writer holds the store's lock for one batch of entries, a reader for
//! [`SLICE`] keys. Numbers that everybody asks for all the time are copied to atomics when a batch ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use retcd_api::raftpb::ConfState;

use crate::alarm::Alarms;
use crate::auth::{Auth, Tokens};
use crate::backend::{Backend, Encoded, Size};
use crate::cache::Sweep;
use crate::cluster::Cluster;
use crate::flush::Pending;
use crate::lease::Lessor;
use crate::machine::Config;
use crate::mvcc::index::{Entry, Index, Version};
use crate::mvcc::tail::Tail;
use crate::mvcc::{Compactions, Hashes};

/// Keys that a reader looks at in one go, while the writer waits.
pub(crate) const SLICE: usize = 128;

/// The state of one member.
pub(crate) struct Store {
    pub(crate) backend: Arc<dyn Backend>,
    /// Goes up when a received state replaces this one.
    pub(crate) generation: u64,
    pub(crate) index: Index,
    pub(crate) tail: Tail,
    pub(crate) pending: Pending,
    /// The newest revision that a read may see.
    pub(crate) revision: i64,
    /// The newest revision in the index: one above `revision` while a transaction runs.
    pub(crate) newest: i64,
    /// -1 when nothing was compacted.
    pub(crate) compacted: i64,
    pub(crate) compactions: Compactions,
    pub(crate) applied_index: u64,
    pub(crate) applied_term: u64,
    pub(crate) conf_state: Option<ConfState>,
    pub(crate) cluster: Cluster,
    pub(crate) alarms: Alarms,
    pub(crate) auth: Auth,
    /// Bytes of the values in the index.
    pub(crate) cached_bytes: usize,
    /// Saves an allocation per put.
    pub(crate) scratch: Vec<u8>,
    pub(crate) tally: Tally,
    pub(crate) sizes: Sizes,
}

/// What was written since the start, for metrics. Replayed entries count too.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub puts: u64,
    /// Keys and values of the puts.
    pub put_bytes: u64,
    /// Deleted keys.
    pub deletes: u64,
    /// Requests that changed more than one key, or one more than once.
    pub txns: u64,
}

/// What all records take that compaction has not dropped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// The part of the newest versions of keys that exist.
    pub(crate) live_bytes: u64,
}

/// The stored versions of all keys. Live are the newest ones of keys that exist, historic the older ones and tombstones,
/// until compaction drops them. Bytes are those of encoded key-value messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// As many as there are keys.
    pub live_versions: u64,
    pub live_bytes: u64,
    pub historic_versions: u64,
    pub historic_bytes: u64,
}

impl Store {
    pub(crate) fn census(&self) -> Census {
        let Sizes { records, bytes, live_bytes } = self.sizes;
        let live_versions = self.index.live_len();
        Census {
            live_versions,
            live_bytes,
            historic_versions: records - live_versions,
            historic_bytes: bytes - live_bytes,
        }
    }

    /// The encoded version of a key if it is in memory.
    pub(crate) fn locate(&self, entry: &Entry, version: Version) -> Option<Encoded> {
        if version == entry.newest
            && let Some(value) = &entry.value
        {
            return Some(Arc::clone(value));
        }
        self.tail.get(version.revision()).map(|record| Arc::clone(&record.kv))
    }
}

/// Everything behind [`Reader`](crate::Reader) and [`StateMachine`](crate::StateMachine).
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: RwLock<Store>,
    pub(crate) lessor: Mutex<Lessor>,
    pub(crate) tokens: Mutex<Tokens>,
    pub(crate) hashes: Mutex<Hashes>,
    pub(crate) sweep: Mutex<Sweep>,
    pub(crate) gauges: Gauges,
}

/// Copies of numbers in the store, for those who do not want to lock it. They may lag by one batch.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) revision: AtomicI64,
    pub(crate) compacted: AtomicI64,
    pub(crate) finished_compaction: AtomicI64,
    pub(crate) applied_index: AtomicU64,
    pub(crate) auth_is_enabled: AtomicBool,
    pub(crate) auth_revision: AtomicU64,
    pub(crate) pending_bytes: AtomicUsize,
    pub(crate) total_bytes: AtomicU64,
    pub(crate) in_use_bytes: AtomicU64,
    /// Told by the server; only passed on to response headers.
    pub(crate) raft_term: AtomicU64,
}

impl Gauges {
    pub(crate) fn update(&self, store: &Store) {
        self.compacted.store(store.compacted, Ordering::Release);
        self.finished_compaction.store(store.compactions.finished(), Ordering::Release);
        self.pending_bytes.store(store.pending.bytes(), Ordering::Relaxed);
        self.auth_is_enabled.store(store.auth.is_enabled(), Ordering::Relaxed);
        self.auth_revision.store(store.auth.revision(), Ordering::Relaxed);
        self.revision.store(store.revision, Ordering::Release);
        // Last: who has waited for this index finds all the rest.
        self.applied_index.store(store.applied_index, Ordering::Release);
    }

    pub(crate) fn set_size(&self, size: Size) {
        self.total_bytes.store(size.total_bytes, Ordering::Relaxed);
        self.in_use_bytes.store(size.in_use_bytes, Ordering::Relaxed);
    }

    pub(crate) fn size(&self) -> Size {
        Size {
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
            in_use_bytes: self.in_use_bytes.load(Ordering::Relaxed),
        }
    }
}
