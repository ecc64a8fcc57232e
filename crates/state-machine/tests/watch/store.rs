//! A store with history, in the plainest form.

use std::cell::Cell;
use std::collections::BTreeMap;

use prost::Message;
use retcd_api::mvccpb::KeyValue;
use retcd_state_machine::backend::{Encoded, Failure};
use retcd_state_machine::mvcc::{Record, Revision};
use retcd_state_machine::watch::{History, HistoryError};

pub(crate) const RAFT_TERM: u64 = 3;

pub(crate) struct Store {
    /// Every record ever written.
    pub(crate) log: Vec<Record>,
    /// By position in `log`: dropped by a compaction.
    is_dropped: Vec<bool>,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    pub(crate) current: i64,
    pub(crate) compacted: i64,
    /// Records from here on are readable whatever was compacted: what the hub has not read.
    pub(crate) tail: i64,
    /// Records that one call returns at most, below what the caller allows.
    pub(crate) slice: usize,
    /// How often records and values were read.
    pub(crate) reads: Cell<usize>,
    pub(crate) look_ups: Cell<usize>,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Vec<u8>),
}

impl Store {
    pub(crate) fn new() -> Self {
        Store {
            log: Vec::new(),
            is_dropped: Vec::new(),
            keys: BTreeMap::new(),
            current: 1,
            compacted: -1,
            tail: 2,
            slice: usize::MAX,
            reads: Cell::new(0),
            look_ups: Cell::new(0),
        }
    }

    /// Applies a request; it takes a revision unless it changes nothing.
    pub(crate) fn apply(&mut self, ops: &[Op]) {
        let main = self.current + 1;
        for op in ops {
            match op {
                Op::Put(key, value) => self.put(main, key, value),
                Op::Delete(key) => self.delete(main, key),
                Op::DeleteRange(start, end) => {
                    let range = start.clone()..end.clone();
                    let keys: Vec<Vec<u8>> =
                        self.keys.range(range).map(|(key, _)| key.clone()).collect();
                    for key in &keys {
                        self.delete(main, key);
                    }
                }
            }
        }
        if self.log.last().is_some_and(|record| record.revision.main == main) {
            self.current = main;
        }
    }

    fn put(&mut self, main: i64, key: &[u8], value: &[u8]) {
        let old = self.keys.get(key);
        let kv = KeyValue {
            key: key.to_vec().into(),
            create_revision: old.map_or(main, |old| old.create_revision),
            mod_revision: main,
            version: old.map_or(1, |old| old.version + 1),
            value: value.to_vec().into(),
            lease: 0,
        };
        self.keys.insert(key.to_vec(), kv.clone());
        self.record(main, false, &kv);
    }

    fn delete(&mut self, main: i64, key: &[u8]) {
        if self.keys.remove(key).is_some() {
            self.record(main, true, &KeyValue { key: key.to_vec().into(), ..Default::default() });
        }
    }

    fn record(&mut self, main: i64, is_tombstone: bool, kv: &KeyValue) {
        let last = self.log.last().map(|record| record.revision);
        let sub = last.filter(|last| last.main == main).map_or(0, |last| last.sub + 1);
        let revision = Revision { main, sub };
        self.log.push(Record { revision, is_tombstone, kv: kv.encode_to_vec().into() });
        self.is_dropped.push(false);
    }

    /// Keeps of every key what it was at `revision`, and of deleted ones a tombstone of just that revision.
    pub(crate) fn compact(&mut self, revision: i64) {
        self.compacted = revision;
        let mut newest: BTreeMap<&[u8], usize> = BTreeMap::new();
        for (position, record) in self.log.iter().enumerate() {
            if record.revision.main > revision {
                break;
            }
            if let Some(older) = newest.insert(record.key(), position) {
                self.is_dropped[older] = true;
            }
            if record.is_tombstone && record.revision.main < revision {
                self.is_dropped[position] = true;
            }
        }
    }
}

impl History for Store {
    fn current_revision(&self) -> i64 {
        self.current
    }

    fn compacted_revision(&self) -> i64 {
        self.compacted
    }

    fn raft_term(&self) -> u64 {
        RAFT_TERM
    }

    fn records(&self, from: i64, limit: usize, out: &mut Vec<Record>) -> Result<i64, HistoryError> {
        self.reads.set(self.reads.get() + 1);
        let is_tail = from >= self.tail;
        if from < self.compacted && !is_tail {
            return Err(HistoryError::Compacted(self.compacted));
        }
        let start = self.log.partition_point(|record| record.revision.main < from);
        let mut taken = 0;
        let mut last = None;
        for (record, is_dropped) in self.log[start..].iter().zip(&self.is_dropped[start..]) {
            let main = record.revision.main;
            if taken >= limit.min(self.slice) && last != Some(main) {
                return Ok(main);
            }
            if is_tail || !is_dropped {
                out.push(record.clone());
                taken += 1;
                last = Some(main);
            }
        }
        Ok(self.current + 1)
    }

    fn value_at(&self, key: &[u8], main: i64) -> Result<Option<Encoded>, Failure> {
        self.look_ups.set(self.look_ups.get() + 1);
        if main < self.compacted {
            return Ok(None);
        }
        let end = self.log.partition_point(|record| record.revision.main <= main);
        let newest = self.log[..end].iter().rev().find(|record| record.key() == key);
        Ok(newest.filter(|record| !record.is_tombstone).map(|record| record.kv.clone()))
    }
}
