//! A member with its disk and its state machine, driven as a server drives it.
//!
//! The disk keeps what was synced, and loses the rest in a crash. The state machine only remembers which entries it has
//! applied; its durable part (what a server's database holds) lags behind.

use std::collections::VecDeque;

use prost::Message as _;
use retcd_api::raftpb::{ConfChange, ConfState, Entry, EntryType, HardState, Message};
use retcd_consensus::{Config, InitialState, Node, Output, Persist};

#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) snapshot_index: u64,
    pub(crate) snapshot_term: u64,
    pub(crate) entries: Vec<Entry>,
}

impl Disk {
    pub(crate) fn last_index(&self) -> u64 {
        self.snapshot_index + self.entries.len() as u64
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.snapshot_index + 1)?;
        self.entries.get(usize::try_from(offset).unwrap())
    }

    /// Whether an entry is here, in the log or under the snapshot.
    pub(crate) fn holds(&self, entry: &Entry) -> bool {
        entry.index <= self.snapshot_index || self.entry(entry.index) == Some(entry)
    }

    fn write(&mut self, persist: &Persist) {
        if let Some(metadata) =
            persist.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref())
        {
            self.snapshot_index = metadata.index;
            self.snapshot_term = metadata.term;
            self.entries.clear();
        }
        self.write_entries(&persist.entries);
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = hard_state;
        }
    }

    fn write_entries(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.snapshot_index && first.index <= self.last_index() + 1,
            "a gap on disk"
        );
        self.entries.truncate(usize::try_from(first.index - self.snapshot_index - 1).unwrap());
        self.entries.extend_from_slice(entries);
    }

    /// Drops entries that the durable state machine covers.
    fn compact(&mut self, index: u64) {
        let Some(entry) = self.entry(index) else { return };
        self.snapshot_term = entry.term;
        self.entries.drain(..usize::try_from(index - self.snapshot_index).unwrap());
        self.snapshot_index = index;
    }
}

/// A state machine: how far it is, and who was a member then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) applied: u64,
    pub(crate) conf_state: ConfState,
}

pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) node: Option<Node>,
    pub(crate) disk: Disk,
    pub(crate) machine: Machine,
    /// The part of `machine` that survives a crash.
    pub(crate) durable_machine: Machine,
    /// Committed entries that the state machine has not come to yet.
    pub(crate) to_apply: VecDeque<Entry>,
    /// Outputs that were taken and are not written yet.
    pub(crate) in_flight: VecDeque<Output>,
    /// A commit index that was reported as persisted without a sync.
    lazy_hard_state: Option<HardState>,
    config: Config,
}

impl Member {
    /// Starts a member from the state of a new cluster or, with the default, one that will join.
    pub(crate) fn new(config: Config, initial: InitialState) -> Self {
        let disk = Disk {
            hard_state: initial.hard_state,
            snapshot_index: initial.snapshot_index,
            snapshot_term: initial.snapshot_term,
            entries: initial.entries.clone(),
        };
        let node = Node::new(&config, initial).unwrap();
        Self {
            id: config.id,
            node: Some(node),
            disk,
            machine: Machine::default(),
            durable_machine: Machine::default(),
            to_apply: VecDeque::new(),
            in_flight: VecDeque::new(),
            lazy_hard_state: None,
            config,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.node.is_some()
    }

    pub(crate) fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("the member is up")
    }

    /// Takes the next output. What it commits waits for [`Member::apply`], the rest is in flight.
    pub(crate) fn take_output(&mut self) -> Output {
        let output = self.node().take_output();
        for entry in &output.committed {
            assert!(
                self.disk.holds(entry),
                "member {} is given an entry that is not on its disk: {entry:?}",
                self.id
            );
        }
        self.to_apply.extend(output.committed.iter().cloned());
        self.in_flight.push_back(output.clone());
        output
    }

    /// Applies up to `count` committed entries.
    pub(crate) fn apply(&mut self, count: usize) {
        let entries: Vec<_> = self.to_apply.drain(..count.min(self.to_apply.len())).collect();
        for entry in &entries {
            self.apply_entry(entry);
        }
        if !entries.is_empty() {
            let applied = self.machine.applied;
            self.node().applied(applied);
        }
    }

    fn apply_entry(&mut self, entry: &Entry) {
        assert_eq!(
            entry.index,
            self.machine.applied + 1,
            "member {} applies out of order",
            self.id
        );
        self.machine.applied = entry.index;
        if entry.r#type == EntryType::EntryConfChange as i32 {
            let change = ConfChange::decode(entry.data.clone()).unwrap();
            self.machine.conf_state = self.node().apply_conf_change(&change).unwrap();
        }
    }

    /// Writes the oldest output in flight; returns what may leave now.
    pub(crate) fn write(&mut self) -> Vec<Message> {
        let output = self.in_flight.pop_front().expect("an output is in flight");
        self.save(&output.persist);
        self.node().persisted(output.number);
        if output.persist.snapshot.is_some() {
            // The state machine works in order: first what was committed before.
            self.apply(usize::MAX);
            let metadata = output.persist.snapshot.and_then(|snapshot| snapshot.metadata).unwrap();
            self.machine =
                Machine { applied: metadata.index, conf_state: metadata.conf_state.unwrap() };
            self.durable_machine = self.machine.clone();
            self.node().applied(metadata.index);
        }
        output.messages_after_persist
    }

    fn save(&mut self, persist: &Persist) {
        if persist.must_sync {
            // A file is synced as a whole, so what was lazy becomes durable too.
            if let Some(lazy) = self.lazy_hard_state.take() {
                self.disk.hard_state = lazy;
            }
            self.disk.write(persist);
        } else {
            assert!(
                persist.entries.is_empty() && persist.snapshot.is_none(),
                "entries need a sync"
            );
            self.lazy_hard_state = persist.hard_state.or(self.lazy_hard_state);
        }
    }

    /// Makes the state machine durable as it is, and drops log entries it covers except the last `keep`.
    pub(crate) fn checkpoint(&mut self, keep: u64) {
        self.durable_machine = self.machine.clone();
        let to_index = self.machine.applied.saturating_sub(keep);
        self.node().compact_log(to_index);
        self.disk.compact(to_index);
    }

    /// Ends the process. `torn` outputs in flight reach the disk all the same, and a part of the next one's entries.
    pub(crate) fn crash(&mut self, torn: usize) {
        self.node = None;
        self.lazy_hard_state = None;
        self.to_apply.clear();
        let in_flight = std::mem::take(&mut self.in_flight);
        for (position, output) in in_flight.into_iter().enumerate() {
            if position < torn {
                self.save(&output.persist);
                if let Some(metadata) =
                    output.persist.snapshot.and_then(|snapshot| snapshot.metadata)
                {
                    let conf_state = metadata.conf_state.unwrap();
                    self.durable_machine = Machine { applied: metadata.index, conf_state };
                }
            } else {
                if output.persist.snapshot.is_none() {
                    let part = torn.min(output.persist.entries.len());
                    self.disk.write_entries(&output.persist.entries[..part]);
                }
                break;
            }
        }
        self.machine = self.durable_machine.clone();
    }

    /// Starts again from the disk.
    pub(crate) fn restart(&mut self) {
        self.config.seed = self.config.seed.wrapping_add(1);
        let initial = InitialState {
            hard_state: self.disk.hard_state,
            conf_state: self.durable_machine.conf_state.clone(),
            snapshot_index: self.disk.snapshot_index,
            snapshot_term: self.disk.snapshot_term,
            entries: self.disk.entries.clone(),
            applied: self.durable_machine.applied,
        };
        self.node = Some(Node::new(&self.config, initial).unwrap());
    }
}
