//! Which values stay in memory.
//!
//! The index holds the newest value of every key until they take more than the budget; then a hand goes round the
//! index and drops values that are on disk, wherever it happens to stand. Reads of such keys go to the disk. The
//! other way round, values are loaded in the background while there is room.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::backend::{Encoded, Failure};
use crate::mvcc::RecordKey;
use crate::mvcc::index::Version;
use crate::store::{SLICE, Shared};

/// Where the two hands stand.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    evict: Hand,
    warm: Hand,
}

/// A position in the index that goes round.
#[derive(Debug, Default)]
struct Hand {
    key: Vec<u8>,
    /// Whether this round has done anything.
    is_useful: bool,
}

impl Hand {
    fn bound(&self) -> Bound<&[u8]> {
        if self.key.is_empty() { Bound::Unbounded } else { Bound::Excluded(&self.key) }
    }

    /// Goes on behind `key`, or from the start when there is none. Returns whether to call again: not after a whole
    /// round in vain.
    fn advance(&mut self, key: Option<Vec<u8>>) -> bool {
        if let Some(key) = key {
            self.key = key;
            return true;
        }
        self.key.clear();
        std::mem::take(&mut self.is_useful)
    }
}

impl Shared {
    /// Drops values while the cache is over its budget. Returns whether to call again.
    pub(crate) fn evict(&self, keys: usize) -> bool {
        let mut sweep = self.sweep.lock();
        let hand = &mut sweep.evict;
        let mut left = keys;
        while left > 0 {
            let slice = left.min(SLICE);
            let mut guard = self.store.write();
            let store = &mut *guard;
            let budget = self.config.cache_bytes;
            if store.cached_bytes <= budget {
                return false;
            }
            let flushed = store.tail.flushed_revision();
            let cached_bytes = &mut store.cached_bytes;
            let mut seen = 0;
            let mut last = None;
            let mut is_useful = false;
            let _ = store.index.for_each_range_mut(hand.bound(), Bound::Unbounded, |key, entry| {
                if entry.value.is_some() && entry.newest.main <= flushed && *cached_bytes > budget {
                    *cached_bytes -= entry.cached_bytes();
                    entry.value = None;
                    is_useful = true;
                }
                seen += 1;
                if seen < slice {
                    return ControlFlow::Continue(());
                }
                last = Some(key.to_vec());
                ControlFlow::Break(())
            });
            hand.is_useful |= is_useful;
            if !hand.advance(last) {
                return false;
            }
            left -= slice;
        }
        true
    }

    /// Loads values while there is room. Returns whether to call again.
    pub(crate) fn warm(&self, keys: usize) -> Result<bool, Failure> {
        let mut sweep = self.sweep.lock();
        let hand = &mut sweep.warm;
        let mut left = keys;
        while left > 0 {
            let slice = left.min(SLICE);
            let (missing, last, backend) = {
                let store = self.store.read();
                if store.cached_bytes >= self.config.cache_bytes {
                    return Ok(false);
                }
                let mut missing: Vec<(Vec<u8>, Version)> = Vec::new();
                let mut seen = 0;
                let mut last = None;
                let _ = store.index.for_each_range(hand.bound(), Bound::Unbounded, |key, entry| {
                    if entry.value.is_none() && entry.is_live() {
                        missing.push((key.to_vec(), entry.newest));
                    }
                    seen += 1;
                    if seen < slice {
                        return ControlFlow::Continue(());
                    }
                    last = Some(key.to_vec());
                    ControlFlow::Break(())
                });
                (missing, last, Arc::clone(&store.backend))
            };
            let record_keys: Vec<_> = missing
                .iter()
                .map(|(_, version)| RecordKey::new(version.revision(), false))
                .collect();
            let mut values: Vec<Option<Encoded>> = vec![None; missing.len()];
            backend.get_records(&record_keys, &mut |position, value| {
                values[position] = value.map(Encoded::from);
            })?;
            hand.is_useful |= self.fill(missing, values);
            if !hand.advance(last) {
                return Ok(false);
            }
            left -= slice;
        }
        Ok(true)
    }

    /// Gives values to entries that still want them. Returns whether any did.
    fn fill(&self, missing: Vec<(Vec<u8>, Version)>, values: Vec<Option<Encoded>>) -> bool {
        if missing.is_empty() {
            return false;
        }
        let mut store = self.store.write();
        let mut is_useful = false;
        for ((key, version), value) in missing.into_iter().zip(values) {
            let Some(value) = value else { continue };
            if store.cached_bytes + value.len() > self.config.cache_bytes {
                break;
            }
            let bytes = value.len();
            let is_taken = store.index.upsert(&key, |slot| match slot {
                retcd_btree::Slot::Occupied(entry)
                    if entry.newest == version && entry.value.is_none() =>
                {
                    entry.value = Some(value);
                    true
                }
                _ => false,
            });
            if is_taken {
                store.cached_bytes += bytes;
                is_useful = true;
            }
        }
        is_useful
    }
}
