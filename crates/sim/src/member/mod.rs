//! One member: the shipped consensus and state machine, and between them what a server's threads do.
//!
//! [`Process`] is what a crash takes away. It mirrors `server/src/node`, where the order of things matters:
//!
//! | here | in the server |
//! |---|---|
//! | [`Process::turn`], [`Process::end_sync`] | the commit loop's turn: `commit_loop.rs` |
//! | [`Process::step`], [`Process::tick`] | what goes on while the log syncs: `peers.rs` |
//! | [`storage`] | flushes, compaction, snapshots, databases for others: `storage_loop.rs` |
//! | [`reads`] | rounds of linearizable reads: `reads.rs` |
//! | [`Process::expire_leases`] | `background/leases.rs` |
//!
//! A turn reports the last write as durable, proposes all that waits, takes Raft's output; sends the promises about the
//! last write and what needs none; applies what is committed and answers; then writes and begins to sync. The sync takes
//! time, in which messages and ticks are stepped and what promises nothing leaves.

pub(crate) mod reads;
pub(crate) mod storage;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use retcd_api::etcdserverpb as pb;
use retcd_api::raftpb::{
    ConfChange, ConfState, Entry, EntryType, HardState, Message, SnapshotMetadata,
};
use retcd_consensus::{Config, InitialState, Node, Output, ProgressState, Refusal, Role};
use retcd_state_machine::backend::MemoryBackend;
use retcd_state_machine::lease::KeepAliveError;
use retcd_state_machine::watch::{self, Hub};
use retcd_state_machine::{Reader, Rejection, Response, StateMachine};

use self::reads::Rounds;
use self::storage::StorageLoop;
use crate::disk::Disk;
use crate::outside::{ELECTION_STEPS, Outside, Told, clock};
use crate::sabotage::Sabotage;

/// Applied entries that stay in Raft's memory for members that lag.
const CATCH_UP_ENTRIES: u64 = 20;

pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) disk: Disk,
    pub(crate) process: Option<Process>,
    /// How often it was started.
    lives: u64,
    /// It was removed from the cluster and never comes back.
    pub(crate) is_removed: bool,
}

pub(crate) struct Process {
    pub(crate) id: u64,
    /// Tells the lives of a member apart.
    pub(crate) life: u64,
    started_at: u64,
    pub(crate) node: Node,
    pub(crate) machine: StateMachine,
    pub(crate) reader: Reader,
    pub(crate) hub: Hub,
    pub(crate) storage: StorageLoop,
    proposals: Vec<Proposal>,
    changes: Vec<(u64, ConfChange)>,
    /// Snapshots that the storage loop has saved.
    saved: Vec<SnapshotMetadata>,
    written: Option<Written>,
    syncing: Option<Syncing>,
    held: Vec<Proposal>,
    /// Calls by the id of their request.
    waiters: BTreeMap<u64, Waiter>,
    /// Of the last committed entry.
    term: u64,
    has_unwritten: bool,
    log: VecDeque<u64>,
    rounds: Rounds,
    /// Keep-alives among the calls that wait for a round: their leases.
    renewals: BTreeMap<u64, i64>,
    next_id: u64,
    /// As the commit loop knows it.
    leader: u64,
    /// Up to this revision the history was compared.
    pub(crate) seen_revision: i64,
    /// Who was removed for good.
    pub(crate) removed: BTreeSet<u64>,
    pub(crate) is_removed: bool,
}

struct Proposal {
    id: u64,
    data: Bytes,
    call: Option<u64>,
    is_leaders_own: bool,
}

#[derive(Clone, Copy)]
struct Waiter {
    call: u64,
    term: u64,
}

struct Written {
    number: u64,
    promises: Vec<Message>,
}

struct Syncing {
    since: u64,
    until: u64,
    written: Written,
    snapshot: Option<SnapshotMetadata>,
}

impl Member {
    /// A member of a new cluster, or one that knows nothing yet.
    pub(crate) fn new(id: u64, initial: &InitialState) -> Self {
        let mut disk = Disk::new();
        if !initial.entries.is_empty() {
            disk.append(Some(initial.hard_state), &initial.entries);
            disk.write();
            disk.sync();
        }
        Member { id, disk, process: None, lives: 0, is_removed: false }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn start(&mut self, outside: &mut Outside) {
        self.lives += 1;
        let initial = self
            .disk
            .open(|backend| storage::durable_state(backend).map_or(0, |state| state.index));
        self.process = Some(Process::new(self.id, self.lives, initial, &self.disk, outside));
    }

    pub(crate) fn crash(&mut self, outside: &mut Outside) {
        self.process = None;
        self.disk.crash(&mut outside.dice);
    }

    /// The process with its disk.
    pub(crate) fn parts(&mut self) -> (&mut Process, &mut Disk) {
        (self.process.as_mut().expect("the member is up"), &mut self.disk)
    }
}

impl Process {
    fn new(
        id: u64,
        life: u64,
        mut initial: InitialState,
        disk: &Disk,
        outside: &mut Outside,
    ) -> Self {
        let backend: Arc<MemoryBackend> = Arc::clone(&disk.backend);
        let machine = StateMachine::open(backend, storage::config(outside.plan.has_checkpoints))
            .expect("a backend that was committed can be opened");
        let reader = machine.reader();
        initial.applied = machine.applied_index();
        if let Some(conf_state) = machine.conf_state() {
            initial.conf_state = conf_state;
        }
        let snapshot_index = initial.snapshot_index;
        // Small limits, so that many messages and full windows happen.
        let config = Config {
            max_message_bytes: 600,
            max_inflight: 4,
            ..Config::new(id, outside.dice.number())
        };
        let node = Node::new(&config, initial).expect("what was written can be read again");
        let hub = watch::Config {
            cluster_id: 1,
            member_id: id,
            fragment_bytes: usize::MAX,
            stream_buffer_bytes: 400,
        };
        outside.checkers.opened(id, &reader);
        Process {
            id,
            life,
            started_at: outside.now,
            node,
            hub: Hub::new(hub, reader.revision()),
            storage: StorageLoop::new(snapshot_index),
            proposals: Vec::new(),
            changes: Vec::new(),
            saved: Vec::new(),
            written: None,
            syncing: None,
            held: Vec::new(),
            waiters: BTreeMap::new(),
            term: 0,
            has_unwritten: false,
            log: VecDeque::new(),
            rounds: Rounds::default(),
            renewals: BTreeMap::new(),
            next_id: id << 48 | life << 32,
            leader: 0,
            seen_revision: reader.revision(),
            is_removed: reader.removed_members().contains(&id),
            removed: reader.removed_members().into_iter().collect(),
            machine,
            reader,
        }
    }

    /// The member's monotonic clock.
    pub(crate) fn clock(&self, now: u64) -> Duration {
        clock(now - self.started_at)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// Calls.
impl Process {
    pub(crate) fn propose(&mut self, call: Option<u64>, request: pb::InternalRaftRequest) {
        self.propose_as(call, request, false);
    }

    fn propose_as(
        &mut self,
        call: Option<u64>,
        mut request: pb::InternalRaftRequest,
        is_leaders_own: bool,
    ) -> u64 {
        let id = self.new_id();
        request.header = Some(pb::RequestHeader { id, ..Default::default() });
        let data = request.encode_to_vec().into();
        self.proposals.push(Proposal { id, data, call, is_leaders_own });
        id
    }

    pub(crate) fn propose_change(&mut self, call: u64, change: ConfChange) {
        self.changes.push((call, change));
    }

    /// Answers when this member's state holds everything that was acknowledged to anybody before the call.
    pub(crate) fn read_barrier(&mut self, call: u64, outside: &mut Outside) {
        if outside.sabotage == Some(Sabotage::ReadWithoutIndex) {
            outside.answer(call, Told::MayRead);
            return;
        }
        self.rounds.join(call);
        self.begin_read_round(outside);
    }

    /// Renews a lease by the leader's clock, once it is certain that this member leads and has applied every revoke that
    /// may be in the log.
    pub(crate) fn keep_alive(&mut self, call: u64, lease: i64, outside: &mut Outside) {
        if outside.sabotage == Some(Sabotage::RenewWithoutIndex) {
            self.renew(call, lease, outside);
            return;
        }
        self.renewals.insert(call, lease);
        self.rounds.join(call);
        self.begin_read_round(outside);
    }

    fn renew(&mut self, call: u64, lease: i64, outside: &mut Outside) {
        let now = self.clock(outside.now);
        let renewed = self.reader.lessor().keep_alive(lease, now);
        match renewed {
            Ok(renewed) if renewed.needs_checkpoint_clear => {
                let checkpoints = vec![pb::LeaseCheckpoint { id: lease, remaining_ttl: 0 }];
                let request = pb::InternalRaftRequest {
                    lease_checkpoint: Some(pb::LeaseCheckpointRequest { checkpoints }),
                    ..Default::default()
                };
                self.propose(Some(call), request);
            }
            Ok(_) => outside.answer(call, Told::Kept),
            Err(KeepAliveError::NotFound(_)) => {
                outside.answer(call, Told::Refused("not found".to_owned()));
            }
            Err(KeepAliveError::Expired(_) | KeepAliveError::NotPrimary) => {
                outside.answer(call, Told::Nothing);
            }
        }
    }

    fn begin_read_round(&mut self, outside: &mut Outside) {
        let context = self.new_id();
        if self.rounds.begin(context, outside.now) {
            self.ask_for_index(context, outside);
        }
    }

    fn retry_reads(&mut self, is_new_leader: bool, outside: &mut Outside) {
        let context = self.new_id();
        if self.rounds.ask_again(context, outside.now, is_new_leader) {
            self.ask_for_index(context, outside);
        }
    }

    fn ask_for_index(&mut self, context: u64, outside: &mut Outside) {
        let context = Bytes::copy_from_slice(&context.to_be_bytes());
        outside.checkers.read_began(&context);
        self.node.read_index(context);
        self.react(outside);
    }

    fn answer_reads(&mut self, states: &[retcd_consensus::ReadState], outside: &mut Outside) {
        for state in states {
            outside.checkers.read_answered(state);
            self.rounds.answered(&state.context, state.index);
        }
        if !states.is_empty() {
            self.answer_reads_applied(outside);
        }
    }

    fn answer_reads_applied(&mut self, outside: &mut Outside) {
        if let Some(calls) = self.rounds.finish(self.machine.applied_index()) {
            for call in calls {
                match self.renewals.remove(&call) {
                    Some(lease) => self.renew(call, lease, outside),
                    None => outside.answer(call, Told::MayRead),
                }
            }
            self.begin_read_round(outside);
        }
    }
}

/// What goes on while the log syncs.
impl Process {
    pub(crate) fn step(&mut self, message: Message, outside: &mut Outside) {
        // Answers from members that were removed are refused; all else must be taken.
        let result = self.node.step(message);
        assert!(
            matches!(result, Ok(()) | Err(retcd_consensus::Error::UnknownPeer(_))),
            "{result:?}"
        );
        self.react(outside);
    }

    pub(crate) fn tick(&mut self, outside: &mut Outside) {
        self.node.tick();
        self.react(outside);
        self.hand_over_if_disk_stalls(outside);
        self.retry_reads(false, outside);
    }

    pub(crate) fn react(&mut self, outside: &mut Outside) {
        outside.outbox.extend(self.node.take_messages());
        let reads = self.node.take_read_states();
        outside.checkers.leads(self.id, &self.node);
        self.answer_reads(&reads, outside);
    }

    fn hand_over_if_disk_stalls(&mut self, outside: &mut Outside) {
        let is_stalled =
            self.syncing.as_ref().is_some_and(|sync| sync.since + ELECTION_STEPS <= outside.now);
        if !is_stalled || !self.node.is_leader() {
            return;
        }
        let fit = self.node.status().progress.into_iter().find(|peer| {
            let is_in_step = peer.recently_active && peer.state == ProgressState::Replicate;
            peer.id != self.id && !peer.is_learner && is_in_step
        });
        if let Some(peer) = fit {
            self.node.transfer_leader(peer.id);
            self.react(outside);
        }
    }

    /// Stands for election, as when the leader's process was seen to end.
    pub(crate) fn campaign(&mut self, outside: &mut Outside) {
        if self.node.applied_index() == self.node.commit_index() {
            self.node.campaign();
        }
        self.react(outside);
    }

    pub(crate) fn expire_leases(&mut self, outside: &mut Outside) {
        if self.leader != self.id {
            return;
        }
        let mut now = self.clock(outside.now);
        if outside.sabotage == Some(Sabotage::ExpireEarly) {
            now += Duration::from_secs(1);
        }
        let expired = self.reader.lessor().take_expired(now, 500);
        for id in expired {
            let lease_revoke = Some(pb::LeaseRevokeRequest { id });
            let request = pb::InternalRaftRequest { lease_revoke, ..Default::default() };
            let request_id = self.propose_as(None, request, true);
            outside.checkers.lease_expires(request_id, id, outside.now);
        }
        if outside.plan.has_checkpoints {
            let checkpoints = self.reader.lessor().due_checkpoints(now, 1000);
            if !checkpoints.is_empty() {
                let lease_checkpoint = Some(pb::LeaseCheckpointRequest { checkpoints });
                let request = pb::InternalRaftRequest { lease_checkpoint, ..Default::default() };
                self.propose_as(None, request, true);
            }
        }
    }
}

/// The commit loop.
impl Process {
    /// One turn. Nothing happens while the log syncs.
    pub(crate) fn turn(&mut self, disk: &mut Disk, outside: &mut Outside) {
        if self.syncing.is_some() {
            return;
        }
        let written = self.written.take();
        if let Some(written) = &written {
            self.node.persisted(written.number);
        }
        self.node.applied(self.machine.applied_index());
        self.propose_waiting(outside);
        self.commands(outside);
        let output = self.node.has_output().then(|| self.node.take_output());
        outside.checkers.leads(self.id, &self.node);
        if let Some(written) = written {
            outside.outbox.extend(written.promises);
        }
        for snapshot in std::mem::take(&mut self.saved) {
            self.write(disk);
            disk.note_snapshot(&snapshot);
        }
        match output {
            Some(output) => self.carry_out(output, disk, outside),
            // An idle member writes what has waited for company.
            None if outside.dice.one_in(10) => self.write(disk),
            None => {}
        }
    }

    fn propose_waiting(&mut self, outside: &mut Outside) {
        let mut proposals = std::mem::take(&mut self.proposals);
        if self.node.leader() != 0 {
            let mut held = std::mem::take(&mut self.held);
            held.append(&mut proposals);
            proposals = held;
        }
        if !self.node.is_leader() {
            proposals.retain(|proposal| !proposal.is_leaders_own);
        }
        let payloads: Vec<Bytes> = proposals.iter().map(|proposal| proposal.data.clone()).collect();
        if payloads.is_empty() {
            return;
        }
        match self.node.propose(payloads) {
            Ok(()) => {
                let term = self.node.term();
                for Proposal { id, call, .. } in proposals {
                    self.waiters.extend(call.map(|call| (id, Waiter { call, term })));
                }
            }
            Err(error) => match error.reason {
                Refusal::NoLeader | Refusal::TooManyUncommitted => self.held.append(&mut proposals),
                Refusal::LeaderTransfer | Refusal::ConfChangePending => {
                    for call in proposals.into_iter().filter_map(|proposal| proposal.call) {
                        outside.answer(call, Told::Nothing);
                    }
                }
            },
        }
    }

    fn commands(&mut self, outside: &mut Outside) {
        for (call, mut change) in std::mem::take(&mut self.changes) {
            change.id = self.new_id();
            match self.node.propose_conf_change(&change) {
                Ok(()) => {
                    let waiter = Waiter { call, term: self.node.term() };
                    self.waiters.insert(change.id, waiter);
                }
                Err(_) => outside.answer(call, Told::Nothing),
            }
        }
        self.cut_log(outside.now);
    }

    /// Lets go of what lies far behind, unless a member is being sent a database and will ask for it.
    fn cut_log(&mut self, now: u64) {
        let applied = self.machine.applied_index();
        let needed = self.storage.lowest_needed(now);
        let mut cut = None;
        while let Some(&last) = self.log.front() {
            let is_over = last + CATCH_UP_ENTRIES < applied;
            if !is_over || needed.is_some_and(|needed| last > needed) {
                break;
            }
            cut = self.log.pop_front();
        }
        if let Some(index) = cut {
            self.node.compact_log(index);
        }
    }

    fn carry_out(&mut self, output: Output, disk: &mut Disk, outside: &mut Outside) {
        outside.note_output(self.id, &output);
        outside.outbox.extend(output.messages.iter().cloned());
        if let Some(soft) = output.soft_state {
            self.leadership_changed(soft.leader, soft.role == Role::Leader, outside);
        }
        if let Some(hard_state) = output.persist.hard_state {
            self.reader.set_raft_term(hard_state.term);
        }
        self.answer_reads(&output.read_states, outside);
        self.apply(&output.committed, outside);
        self.persist(output, disk, outside);
    }

    fn leadership_changed(&mut self, leader: u64, is_leader: bool, outside: &mut Outside) {
        if is_leader {
            let now = self.clock(outside.now);
            self.reader.lessor().promote(now, clock(ELECTION_STEPS));
        } else {
            self.reader.lessor().demote();
        }
        if std::mem::replace(&mut self.leader, leader) != leader && leader != 0 {
            self.retry_reads(true, outside);
        }
    }

    fn apply(&mut self, mut committed: &[Entry], outside: &mut Outside) {
        let term = committed.last().map_or(self.term, |entry| entry.term);
        while !committed.is_empty() {
            let is_change = |entry: &Entry| entry.r#type() != EntryType::EntryNormal;
            let change = committed.iter().position(is_change);
            let (batch, rest) = committed.split_at(change.map_or(committed.len(), |at| at + 1));
            committed = rest;
            self.apply_batch(batch, outside);
        }
        if std::mem::replace(&mut self.term, term) < term {
            // What was proposed under an earlier leader and has not come before this will most likely never come.
            for waiter in self.waiters.values().filter(|waiter| waiter.term < term) {
                outside.answer(waiter.call, Told::Nothing);
            }
            self.waiters.retain(|_, waiter| waiter.term >= term);
        }
        self.answer_reads_applied(outside);
    }

    fn apply_batch(&mut self, batch: &[Entry], outside: &mut Outside) {
        outside.checkers.committed(self.id, batch);
        let batch = crate::sabotage::entries(outside.sabotage, self.id, batch);
        let now = self.clock(outside.now);
        let waiters = &self.waiters;
        let mut applied = Vec::new();
        self.machine
            .apply(&batch, |id| waiters.contains_key(&id), now, &mut applied)
            .expect("a backend in memory does not fail");
        for entry in applied {
            if let Some(change) = &entry.conf_change {
                self.apply_conf_change(change, entry.index, outside);
            }
            outside.checkers.applied(self.id, &entry, outside.now);
            if let Some(waiter) = self.waiters.remove(&entry.request_id) {
                let told = told(entry.outcome);
                outside.answer(waiter.call, told);
            }
        }
        self.seen_revision =
            outside.checkers.state_reached(self.id, &self.reader, self.seen_revision);
    }

    fn apply_conf_change(&mut self, change: &ConfChange, index: u64, outside: &mut Outside) {
        let conf_state = self.node.apply_conf_change(change).expect("a voter remains");
        self.node.applied(index);
        self.machine.set_conf_state(&conf_state);
        self.members_changed(&conf_state, outside);
    }

    fn members_changed(&mut self, conf_state: &ConfState, outside: &mut Outside) {
        outside.checkers.members(conf_state);
        let members = self.reader.members();
        outside.known.extend(members.iter().map(|member| member.id));
        self.removed = self.reader.removed_members().into_iter().collect();
        self.is_removed |= self.removed.contains(&self.id);
    }

    fn persist(&mut self, output: Output, disk: &mut Disk, outside: &mut Outside) {
        let Output { number, persist, messages_after_persist: promises, .. } = output;
        let written = Written { number, promises };
        let snapshot = persist.snapshot.and_then(|snapshot| snapshot.metadata);
        if let Some(snapshot) = &snapshot {
            self.write(disk);
            disk.save_snapshot_file(snapshot);
            disk.note_snapshot(snapshot);
        }
        if persist.hard_state.is_none() && persist.entries.is_empty() {
            self.written = Some(written);
            return;
        }
        self.log.extend(persist.entries.last().map(|entry| entry.index));
        let hard_state = if outside.sabotage == Some(Sabotage::ForgetVotes) {
            persist.hard_state.map(|state| HardState { vote: 0, ..state })
        } else {
            persist.hard_state
        };
        // The log must confirm the snapshot before it has entries behind it.
        if let (Some(snapshot), Some(state)) = (&snapshot, hard_state) {
            disk.append(Some(HardState { commit: snapshot.index, ..state }), &[]);
        }
        disk.append(hard_state, &persist.entries);
        self.has_unwritten = true;
        if !persist.must_sync && snapshot.is_none() {
            self.written = Some(written);
            return;
        }
        disk.write();
        self.has_unwritten = false;
        if outside.sabotage == Some(Sabotage::AcknowledgeBeforeSync) && snapshot.is_none() {
            self.written = Some(written);
            return;
        }
        let stalls = !outside.is_calm && outside.dice.one_in(60);
        let took = outside.dice.below(if stalls { 200 } else { 5 });
        let (since, until) = (outside.now, outside.now + took);
        self.syncing = Some(Syncing { since, until, written, snapshot });
    }

    /// The disk is done.
    pub(crate) fn end_sync(&mut self, disk: &mut Disk, outside: &mut Outside) {
        let Some(syncing) = self.syncing.take_if(|syncing| syncing.until <= outside.now) else {
            return;
        };
        disk.sync();
        self.written = Some(syncing.written);
        if let Some(snapshot) = syncing.snapshot {
            self.install(&snapshot, disk, outside);
        }
    }

    /// Goes on with a received state.
    fn install(&mut self, snapshot: &SnapshotMetadata, disk: &mut Disk, outside: &mut Outside) {
        self.storage.finish(&self.reader, disk);
        let backend = disk.take_received(snapshot.index);
        self.machine.install(backend).expect("a received database can be opened");
        self.storage.installed(snapshot.index);
        self.log.clear();
        outside.checkers.opened(self.id, &self.reader);
        outside.note(format_args!("{} installs the snapshot at {}", self.id, snapshot.index));
        self.seen_revision = self.reader.revision();
        self.members_changed(&snapshot.conf_state.clone().unwrap_or_default(), outside);
        if self.leader == self.id {
            let now = self.clock(outside.now);
            self.reader.lessor().promote(now, clock(ELECTION_STEPS));
        }
        self.answer_reads_applied(outside);
    }

    fn write(&mut self, disk: &mut Disk) {
        if std::mem::take(&mut self.has_unwritten) {
            disk.write();
        }
    }

    /// The storage loop's work, a piece at a time.
    pub(crate) fn store(&mut self, disk: &mut Disk, outside: &mut Outside) {
        let saved = self.storage.work(&self.reader, disk, outside);
        self.saved.extend(saved);
    }
}

fn told(outcome: Result<Response, Rejection>) -> Told {
    match outcome {
        Ok(response) => Told::Applied(response),
        Err(rejection) => Told::Refused(rejection.to_string()),
    }
}
