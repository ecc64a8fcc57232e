//! The commit loop: the only writer of the log and of the state machine.
//!
//! One turn:
//!
//! 1. take all requests that wait; under the Raft lock: report the last write as durable, propose the requests as one
//!    message, take Raft's output;
//! 2. send what may leave: promises about the last write, and what needs none;
//! 3. apply the committed entries and post their answers: they are durable already;
//! 4. write the new entries and the hard state: one `pwrite`, one `fdatasync`.
//!
//! So with load, the answers of one batch leave right before the next batch goes to the disk; without, a turn with
//! nothing to write follows at once and applies what step 4 has made durable.
//!
//! The turns are the commit thread's, but for a lone call's, which its own thread does ([`lone`](super::lone)).
//!
//! A hard state that only moves the commit index needs no sync: it goes out with the next batch, or when the member has
//! been idle for a moment.
//!
//! Proposals that come while nobody leads wait here for a leader, as long as their callers do.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use retcd_api::error::RpcError;
use retcd_api::{raftpb, walpb};
use retcd_consensus::{Output, Persist, Refusal, Role};
use retcd_state_machine::backend::Failure;
use retcd_state_machine::{Applied, Rejection, StateMachine};
use retcd_storage::snapshot::Snapshots;
use retcd_storage::wal::{EntryRef, Wal};

use super::lone;
use super::mailbox::{Outcome, ReplyTo};
use super::proposals::{Command, Proposal, Waiter, Work};
use super::{NodeHandle, Shared};
use crate::logging;
use crate::metrics::{Hop, request_id};

/// How long an unsynced commit index may wait for company before it is written by itself.
const IDLE_WRITE: Duration = Duration::from_millis(100);
/// A sync that takes longer is worth a warning.
const SYNC_WARNING: Duration = Duration::from_secs(1);
/// Payloads of applied entries that stay in memory for followers that lag.
const LOG_BYTES_MAX: usize = 16 << 20;
/// The same while a member is sent the database and will ask for what comes behind it.
const NEEDED_LOG_BYTES_MAX: usize = 256 << 20;
/// A flush is asked for when this much is not on disk yet.
const FLUSH_BYTES: usize = 16 << 20;
/// How often callers that have given up are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What a turn leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The next turn has something to do.
    Busy,
    Idle {
        /// The log's buffer holds a commit index that is not written.
        has_unwritten: bool,
    },
    /// Nothing is left, and no more will come.
    Closed,
}

/// Owns what only one thread at a time may touch.
pub(crate) struct CommitLoop {
    node: NodeHandle,
    shared: Arc<Shared>,
    machine: StateMachine,
    wal: Wal,
    snapshots: Snapshots,
    work: Work,
    /// The output whose write is done, and what may be said now that it is.
    written: Option<Written>,
    /// Proposals that wait for a leader.
    held: Vec<Proposal>,
    waiters: HashMap<u64, Proposed, BuildHasherDefault<IdHasher>>,
    /// Of the last committed entry.
    term: u64,
    sweep_due: Duration,
    /// Answers of the present batch, by client thread.
    answers: Vec<Vec<(ReplyTo, Outcome)>>,
    applied: Vec<Applied>,
    /// Written to the log's buffer, but not to the disk.
    has_unwritten: bool,
    log: MemoryLog,
    settings: Settings,
}

/// A call whose request is in the log, or on its way to the leader.
struct Proposed {
    waiter: Waiter,
    /// Raft's when it was proposed.
    term: u64,
}

struct Written {
    number: u64,
    promises: Vec<raftpb::Message>,
}

/// What the commit loop is told by the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Applied entries that stay in memory for followers that lag.
    pub(crate) catch_up_entries: u64,
    pub(crate) election_timeout: Duration,
    /// An apply that takes longer is worth a warning.
    pub(crate) apply_warning: Duration,
    /// `--unsafe-no-fsync`: a crash of the machine may lose what was acknowledged.
    pub(crate) is_unsynced: bool,
}

/// The commit thread: runs until the queue is closed and everything in it is done.
///
/// # Errors
/// A fault of the disk or of the data. Nothing may be answered any more; the process must end.
pub(crate) fn run(commit: &Mutex<CommitLoop>) -> Result<(), Failure> {
    let shared = commit.lock().shared.clone();
    let mut patience = Some(Duration::ZERO);
    loop {
        let has_work = shared.proposals.wait(patience);
        let mut commit = commit.lock();
        if !has_work && patience == Some(IDLE_WRITE) {
            commit.write(false)?;
        }
        patience = match commit.turn()? {
            Progress::Busy => Some(Duration::ZERO),
            Progress::Idle { has_unwritten: true } => Some(IDLE_WRITE),
            Progress::Idle { has_unwritten: false } => None,
            Progress::Closed => return Ok(()),
        };
    }
}

impl CommitLoop {
    pub(crate) fn new(
        node: &NodeHandle,
        machine: StateMachine,
        wal: Wal,
        snapshots: Snapshots,
        settings: Settings,
    ) -> Self {
        let shared = node.shared.clone();
        let answers = shared.mailboxes.iter().map(|_| Vec::new()).collect();
        CommitLoop {
            node: node.clone(),
            shared,
            machine,
            wal,
            snapshots,
            work: Work::default(),
            written: None,
            held: Vec::new(),
            waiters: HashMap::default(),
            term: 0,
            sweep_due: Duration::ZERO,
            answers,
            applied: Vec::new(),
            has_unwritten: false,
            log: MemoryLog::new(settings.catch_up_entries),
            settings,
        }
    }

    /// One turn.
    ///
    /// # Errors
    /// As [`run`].
    pub(crate) fn turn(&mut self) -> Result<Progress, Failure> {
        let mut work = std::mem::take(&mut self.work);
        self.shared.proposals.take(&mut work);
        let is_idle = work.proposals.is_empty() && work.commands.is_empty();
        let output = self.turn_raft(&mut work)?;
        let is_closed = work.closed;
        self.work = work;
        if let Some(output) = output {
            self.carry_out(output)?;
            return Ok(Progress::Busy);
        }
        if !is_idle {
            return Ok(Progress::Busy);
        }
        if is_closed {
            self.write(false)?;
            return Ok(Progress::Closed);
        }
        Ok(Progress::Idle { has_unwritten: self.has_unwritten })
    }

    /// Steps 1 and 2.
    fn turn_raft(&mut self, work: &mut Work) -> Result<Option<Output>, Failure> {
        let shared = self.shared.clone();
        let written = self.written.take();
        let mut raft = shared.raft.lock();
        if let Some(written) = &written {
            raft.persisted(written.number);
        }
        raft.applied(self.machine.applied_index());
        self.propose(&mut raft, work);
        let snapshots = self.commands(&mut raft, work);
        let output = raft.has_output().then(|| raft.take_output());
        drop(raft);
        if let Some(written) = written {
            shared.network.send(written.promises);
        }
        let output = output.map(|mut output| {
            shared.network.send(std::mem::take(&mut output.messages));
            output
        });
        self.post(false);
        for snapshot in snapshots {
            self.snapshot_saved(&snapshot)?;
        }
        Ok(output)
    }

    fn propose(&mut self, raft: &mut retcd_consensus::Node, work: &mut Work) {
        self.collect_held(raft, work);
        if !raft.is_leader() {
            work.proposals.retain(|proposal| !proposal.is_leaders_own);
        }
        if work.proposals.is_empty() {
            return;
        }
        self.note_batch(work);
        let payloads =
            work.proposals.iter_mut().map(|proposal| std::mem::take(&mut proposal.data)).collect();
        match raft.propose(payloads) {
            Ok(()) => {
                for proposal in work.proposals.drain(..) {
                    if let Some(waiter) = proposal.waiter {
                        self.waiters.insert(proposal.id, Proposed { waiter, term: raft.term() });
                    }
                }
            }
            Err(error) => {
                let payloads = error.payloads.into_iter();
                for (proposal, data) in work.proposals.iter_mut().zip(payloads) {
                    proposal.data = data;
                }
                match error.reason {
                    Refusal::NoLeader | Refusal::TooManyUncommitted => {
                        self.held.append(&mut work.proposals);
                    }
                    reason @ (Refusal::LeaderTransfer | Refusal::ConfChangePending) => {
                        tracing::warn!(%reason, proposals = work.proposals.len(), "raft refused proposals");
                        for waiter in
                            work.proposals.drain(..).filter_map(|proposal| proposal.waiter)
                        {
                            self.answer(waiter.reply_to, Err(RpcError::ProposalDropped));
                        }
                    }
                }
            }
        }
    }

    /// How many requests go into the log together, and how long the first of them has waited.
    fn note_batch(&self, work: &Work) {
        let metrics = &self.shared.metrics;
        #[expect(clippy::cast_precision_loss, reason = "a queue has a bound")]
        metrics.commit_batch_requests.observe(work.proposals.len() as f64);
        if let Some(waiter) = work.proposals.iter().find_map(|proposal| proposal.waiter) {
            let pushed = waiter.deadline.saturating_sub(self.shared.limits.request_timeout);
            let took = self.shared.started.elapsed().saturating_sub(pushed);
            metrics.hop_took(Hop::Queue, took);
            let requests = work.proposals.iter().map(|proposal| proposal.id);
            metrics.timeline.left(Hop::Queue, took, requests);
        }
    }

    /// What has waited for a leader goes before what has just come, if its callers are still there.
    fn collect_held(&mut self, raft: &retcd_consensus::Node, work: &mut Work) {
        if self.held.is_empty() || raft.leader() == 0 {
            return;
        }
        let now = self.shared.started.elapsed();
        let mut held = std::mem::take(&mut self.held);
        held.retain(|proposal| proposal.waiter.is_none_or(|waiter| waiter.deadline > now));
        held.append(&mut work.proposals);
        work.proposals = held;
    }

    fn commands(
        &mut self,
        raft: &mut retcd_consensus::Node,
        work: &mut Work,
    ) -> Vec<walpb::Snapshot> {
        let mut snapshots = Vec::new();
        for command in work.commands.drain(..) {
            match command {
                Command::SnapshotSaved(snapshot) => snapshots.push(snapshot),
                Command::ChangeMembers { change, waiter } => {
                    match raft.propose_conf_change(&change) {
                        Ok(()) => {
                            self.waiters.insert(change.id, Proposed { waiter, term: raft.term() });
                        }
                        Err(refusal) => self.answer(waiter.reply_to, Err(refused_change(refusal))),
                    }
                }
            }
        }
        // A member that gets a snapshot needs what follows it.
        let needed = self.shared.storage.exports().lowest_index();
        if let Some(index) = self.log.cut(self.machine.applied_index(), needed) {
            raft.compact_log(index);
        }
        snapshots
    }

    /// Notes a snapshot in the log and lets go of the segments that it replaces.
    fn snapshot_saved(&mut self, snapshot: &walpb::Snapshot) -> Result<(), Failure> {
        self.write(false)?;
        let failed = |error| Failure::because("write the snapshot record", error);
        self.wal.save_snapshot(snapshot).map_err(failed)?;
        self.wal.release_to(snapshot.index);
        Ok(())
    }

    /// Steps 3 and 4.
    fn carry_out(&mut self, output: Output) -> Result<(), Failure> {
        if let Some(soft) = &output.soft_state {
            self.leadership_changed(soft.leader, soft.role == Role::Leader);
        }
        if let Some(hard_state) = &output.persist.hard_state {
            self.shared.term.store(hard_state.term, Ordering::Relaxed);
            self.shared.reader.set_raft_term(hard_state.term);
            self.shared.committed.store(hard_state.commit, Ordering::Relaxed);
        }
        self.node.answer_reads(&output.read_states);
        self.apply(&output.committed)?;
        self.persist(&output)?;
        self.written =
            Some(Written { number: output.number, promises: output.messages_after_persist });
        Ok(())
    }

    fn leadership_changed(&mut self, leader: u64, is_leader: bool) {
        self.node.set_leader(leader);
        if is_leader {
            let now = self.shared.started.elapsed();
            self.machine.reader().lessor().promote(now, self.settings.election_timeout);
        } else {
            self.shared.is_always_fresh.store(false, Ordering::Release);
            self.machine.reader().lessor().demote();
        }
        tracing::info!(leader = %format!("{leader:x}"), is_leader, "raft leadership changed");
    }

    fn apply(&mut self, mut committed: &[raftpb::Entry]) -> Result<(), Failure> {
        let now = self.shared.started.elapsed();
        let term = committed.last().map_or(self.term, |entry| entry.term);
        let revision = self.machine.reader().revision();
        while !committed.is_empty() {
            // Raft must know a membership change before anything behind it is applied.
            let is_change =
                |entry: &raftpb::Entry| entry.r#type() != raftpb::EntryType::EntryNormal;
            let len = committed
                .iter()
                .position(is_change)
                .map_or(committed.len(), |position| position + 1);
            let (now_applied, rest) = committed.split_at(len);
            committed = rest;
            let waiters = &self.waiters;
            let mut applied = std::mem::take(&mut self.applied);
            let started = Instant::now();
            self.machine.apply(now_applied, |id| waiters.contains_key(&id), now, &mut applied)?;
            self.shared.metrics.entries_applied(now_applied, &applied, started.elapsed());
            for entry in applied.drain(..) {
                if let Some(change) = &entry.conf_change {
                    self.apply_conf_change(change, entry.index)?;
                }
                if matches!(entry.outcome, Err(Rejection::QuotaExceeded)) {
                    self.node.raise_no_space_alarm_unattended();
                }
                if entry.request_id != 0
                    && let Some(proposed) = self.waiters.remove(&entry.request_id)
                {
                    let outcome = entry.outcome.map_err(|rejection| RpcError::from(&rejection));
                    self.answer(proposed.waiter.reply_to, outcome);
                }
            }
            self.applied = applied;
        }
        self.warn_slow_apply(now);
        if std::mem::replace(&mut self.term, term) < term {
            self.tell_of_lost_proposals();
            self.shared.term_began.notify_one();
        }
        if self.node.is_sole_voter() && self.node.is_leader() && self.term == self.node.term() {
            self.shared.is_always_fresh.store(true, Ordering::Release);
        }
        let reader = self.machine.reader();
        self.node.answer_reads_applied(reader.applied_index());
        self.post(reader.revision() != revision);
        if reader.pending_bytes() >= FLUSH_BYTES {
            self.shared.storage.flush_soon();
        }
        self.forget_gone_waiters(now);
        Ok(())
    }

    /// A proposal that was lost on the way to the leader is never applied; its caller has been told long ago.
    fn forget_gone_waiters(&mut self, now: Duration) {
        if now >= self.sweep_due {
            self.sweep_due = now + SWEEP_INTERVAL;
            self.waiters.retain(|_, proposed| proposed.waiter.deadline + SWEEP_INTERVAL > now);
        }
    }

    /// A new leader's first entry is applied. What was proposed under an earlier one and has not come before it will most
    /// likely never come: its caller need not wait for the timeout to hear so.
    fn tell_of_lost_proposals(&mut self) {
        let term = self.term;
        let lost: Vec<_> = self
            .waiters
            .extract_if(|_, proposed| proposed.term < term)
            .map(|(_, proposed)| proposed.waiter.reply_to)
            .collect();
        for reply_to in lost {
            self.answer(reply_to, Err(RpcError::TimeoutDueToLeaderFail));
        }
    }

    /// `started`: when the batch's apply began.
    fn warn_slow_apply(&self, started: Duration) {
        let took = self.shared.started.elapsed().saturating_sub(started);
        if took > self.settings.apply_warning {
            self.shared.metrics.server_slow_apply_total.increment();
            tracing::warn!(
                took = %logging::took(took),
                expected_duration = %logging::took(self.settings.apply_warning),
                "apply request took too long"
            );
        }
    }

    fn apply_conf_change(
        &mut self,
        change: &raftpb::ConfChange,
        index: u64,
    ) -> Result<(), Failure> {
        let mut raft = self.shared.raft.lock();
        let conf_state = raft.apply_conf_change(change);
        // At once, not in the next turn: Raft takes the next change only when this one counts as applied.
        raft.applied(index);
        drop(raft);
        let conf_state =
            conf_state.map_err(|error| Failure::because("apply a membership change", error))?;
        self.machine.set_conf_state(&conf_state);
        self.node.members_changed(&conf_state);
        Ok(())
    }

    /// Step 4.
    fn persist(&mut self, output: &Output) -> Result<(), Failure> {
        let persist = &output.persist;
        if let Some(snapshot) = &persist.snapshot {
            self.save_received(snapshot)?;
        }
        if persist.hard_state.is_none() && persist.entries.is_empty() {
            return Ok(());
        }
        self.log.add(&persist.entries);
        let failed = |error| Failure::because("write the log", error);
        // The log must confirm the snapshot before it has entries behind it: a torn write would leave a gap otherwise.
        if let Some(confirmation) = confirmation(persist) {
            self.wal.append(Some(&confirmation), std::iter::empty()).map_err(failed)?;
        }
        let entries = persist.entries.iter().map(EntryRef::from);
        self.wal.append(persist.hard_state.as_ref(), entries).map_err(failed)?;
        self.has_unwritten = true;
        if persist.must_sync || persist.snapshot.is_some() {
            let started = Instant::now();
            self.write(true)?;
            let requests = persist.entries.iter().map(request_id);
            self.shared.metrics.timeline.left(Hop::Log, started.elapsed(), requests);
        }
        persist.snapshot.as_ref().map_or(Ok(()), |snapshot| self.install(snapshot))
    }

    /// Notes a snapshot that another member has sent. Its database is on disk already.
    ///
    /// A crash before the hard state is written leaves all as it was: the log does not confirm the snapshot then.
    fn save_received(&mut self, snapshot: &raftpb::Snapshot) -> Result<(), Failure> {
        self.write(false)?;
        self.snapshots
            .save(snapshot)
            .map_err(|error| Failure::because("save a snapshot file", error))?;
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let record = walpb::Snapshot {
            index: metadata.index,
            term: metadata.term,
            conf_state: metadata.conf_state,
        };
        self.wal
            .save_snapshot(&record)
            .map_err(|error| Failure::because("write the snapshot record", error))?;
        Ok(())
    }

    /// Goes on with the received state. The log confirms it by now, so a crash in here is made good by the next start.
    fn install(&mut self, snapshot: &raftpb::Snapshot) -> Result<(), Failure> {
        let index = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index);
        let term = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.term);
        let applied = self.machine.applied_index();
        tracing::info!(
            current_applied_index = applied,
            incoming_leader_snapshot_index = index,
            incoming_leader_snapshot_term = term,
            "applying snapshot"
        );
        let machine = &mut self.machine;
        self.shared.storage.install(index, |backend| machine.install(backend))?;
        self.wal.release_to(index);
        self.log.clear();
        let conf_state =
            snapshot.metadata.as_ref().and_then(|metadata| metadata.conf_state.clone());
        self.node.members_changed(&conf_state.unwrap_or_default());
        if self.node.is_leader() {
            let now = self.shared.started.elapsed();
            self.machine.reader().lessor().promote(now, self.settings.election_timeout);
        }
        self.node.answer_reads_applied(self.machine.applied_index());
        self.post(true);
        tracing::info!(
            current_applied_index = applied,
            incoming_leader_snapshot_index = index,
            incoming_leader_snapshot_term = term,
            "applied snapshot"
        );
        Ok(())
    }

    fn write(&mut self, sync: bool) -> Result<(), Failure> {
        if !self.has_unwritten {
            return Ok(());
        }
        let sync = sync && !self.settings.is_unsynced;
        let started = Instant::now();
        self.shared.sync_began();
        let flushed =
            self.wal.flush(sync).map_err(|error| Failure::because("write the log", error))?;
        self.shared.sync_ended();
        self.has_unwritten = false;
        let (metrics, took) = (&self.shared.metrics, started.elapsed());
        metrics.disk_wal_write_bytes_total.add_count(flushed.bytes);
        metrics
            .disk_wal_write_duration_seconds
            .observe_duration(took.saturating_sub(flushed.sync_took));
        metrics.hop_took(Hop::Log, took);
        if sync {
            let took = flushed.sync_took;
            self.shared.has_fast_disk.store(took <= lone::SYNC_MAX, Ordering::Relaxed);
            self.shared.metrics.disk_wal_fsync_duration_seconds.observe_duration(took);
            if took > SYNC_WARNING {
                tracing::warn!(took = %logging::took(took), expected_duration = %logging::took(SYNC_WARNING), "slow fdatasync");
            }
        }
        Ok(())
    }

    fn answer(&mut self, reply_to: ReplyTo, outcome: Outcome) {
        self.answers[usize::from(reply_to.runtime)].push((reply_to, outcome));
    }

    /// Sends the batch's answers, each client thread's at once.
    fn post(&mut self, has_events: bool) {
        for (mailbox, answers) in self.shared.mailboxes.iter().zip(&mut self.answers) {
            mailbox.post(answers, has_events);
        }
    }
}

/// The hard state as of a received snapshot: without the entries behind it, and so without a commit index among them.
fn confirmation(persist: &Persist) -> Option<raftpb::HardState> {
    let snapshot = persist.snapshot.as_ref()?.metadata.as_ref()?;
    persist.hard_state.map(|state| raftpb::HardState { commit: snapshot.index, ..state })
}

/// What the caller of a membership change hears when Raft does not take it.
fn refused_change(refusal: Refusal) -> RpcError {
    match refusal {
        Refusal::NoLeader => RpcError::NoLeader,
        Refusal::LeaderTransfer | Refusal::TooManyUncommitted | Refusal::ConfChangePending => {
            RpcError::ProposalDropped
        }
    }
}

/// What Raft's log in memory holds, by batches: it is kept for followers that lag, in bounds.
struct MemoryLog {
    /// Last index and bytes of each batch.
    batches: VecDeque<(u64, usize)>,
    bytes: usize,
    entries_max: u64,
}

impl MemoryLog {
    fn new(entries_max: u64) -> Self {
        MemoryLog { batches: VecDeque::new(), bytes: 0, entries_max }
    }

    fn clear(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }

    fn add(&mut self, entries: &[raftpb::Entry]) {
        let Some(last) = entries.last() else { return };
        let bytes = entries.iter().map(|entry| entry.data.len()).sum();
        self.batches.push_back((last.index, bytes));
        self.bytes += bytes;
    }

    /// The index up to which applied entries can be forgotten, when there are batches to forget. Those behind `needed` are
    /// asked for soon: they may take more room for a while.
    fn cut(&mut self, applied: u64, needed: Option<u64>) -> Option<u64> {
        let mut cut = None;
        while let Some(&(index, bytes)) = self.batches.front() {
            let is_needed = needed.is_some_and(|needed| index > needed);
            let is_over = if is_needed {
                self.bytes > NEEDED_LOG_BYTES_MAX
            } else {
                index + self.entries_max < applied || self.bytes > LOG_BYTES_MAX
            };
            if !is_over || index > applied {
                break;
            }
            self.batches.pop_front();
            self.bytes -= bytes;
            cut = Some(index);
        }
        cut
    }
}

/// Request ids count up from a start of their own: their low bits already are as good as a hash.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed");
    }

    fn write_u64(&mut self, id: u64) {
        // The table takes its control byte from the high bits, which do not change: spread them.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(indices: std::ops::RangeInclusive<u64>, bytes: usize) -> Vec<raftpb::Entry> {
        let entry =
            |index| raftpb::Entry { index, data: vec![0; bytes].into(), ..Default::default() };
        indices.map(entry).collect()
    }

    #[test]
    fn a_snapshot_is_confirmed_before_the_entries_behind_it() {
        let state = raftpb::HardState { term: 3, vote: 1, commit: 9 };
        let metadata = raftpb::SnapshotMetadata { index: 7, term: 3, conf_state: None };
        let snapshot = raftpb::Snapshot { metadata: Some(metadata), ..Default::default() };
        let mut persist = Persist {
            entries: entries(8..=9, 1),
            hard_state: Some(state),
            must_sync: true,
            snapshot: None,
        };
        assert_eq!(confirmation(&persist), None);
        persist.snapshot = Some(snapshot);
        let expected = raftpb::HardState { commit: 7, ..state };
        assert_eq!(confirmation(&persist), Some(expected));
    }

    #[test]
    fn the_log_in_memory_is_bounded_in_entries() {
        let mut log = MemoryLog::new(100);
        log.add(&entries(1..=60, 1));
        log.add(&entries(61..=120, 1));
        assert_eq!(log.cut(120, None), None, "entry 60 is within 100 of the applied one");
        assert_eq!(log.cut(161, None), Some(60));
        assert_eq!(log.cut(161, None), None);
    }

    #[test]
    fn entries_behind_a_database_on_its_way_stay() {
        let mut log = MemoryLog::new(100);
        log.add(&entries(1..=60, 1));
        log.add(&entries(61..=120, 1));
        assert_eq!(log.cut(500, Some(60)), Some(60));
        assert_eq!(log.cut(500, Some(60)), None);
        assert_eq!(log.cut(500, None), Some(120));
    }

    #[test]
    fn the_log_in_memory_is_bounded_in_bytes_but_keeps_what_is_not_applied() {
        let mut log = MemoryLog::new(100);
        for index in 1..=5 {
            log.add(&entries(index..=index, LOG_BYTES_MAX / 2));
        }
        assert_eq!(log.cut(0, None), None);
        assert_eq!(log.cut(2, None), Some(2));
        assert_eq!(log.cut(5, None), Some(3));
    }
}
