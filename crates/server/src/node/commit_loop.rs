//! The commit thread: the only writer of the log and of the state machine.
//!
//! One turn:
//!
//! 1. take all requests that wait; under the Raft lock: report the last write as durable, propose the requests as one
//!    message, take Raft's output;
//! 2. apply the committed entries and post their answers: they are durable already;
//! 3. write the new entries and the hard state: one `pwrite`, one `fdatasync`.
//!
//! So with load, the answers of one batch leave right before the next batch goes to the disk; without, a turn with
//! nothing to write follows at once and applies what step 3 has made durable.
//!
//! A hard state that only moves the commit index needs no sync: it goes out with the next batch, or when the member has
//! been idle for a moment.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use retcd_api::error::RpcError;
use retcd_api::raftpb;
use retcd_consensus::{Output, Role};
use retcd_state_machine::backend::Failure;
use retcd_state_machine::{Applied, Rejection, StateMachine};
use retcd_storage::wal::{EntryRef, Wal};

use super::mailbox::{Outcome, ReplyTo};
use super::proposals::{Command, Work};
use super::{NodeHandle, Shared};
use crate::logging;

/// How long an unsynced commit index may wait for company before it is written by itself.
const IDLE_WRITE: Duration = Duration::from_millis(100);
/// A sync that takes longer is worth a warning.
const SYNC_WARNING: Duration = Duration::from_secs(1);
/// Payloads of applied entries that stay in memory for followers that lag.
const LOG_BYTES_MAX: usize = 16 << 20;
/// A flush is asked for when this much is not on disk yet.
const FLUSH_BYTES: usize = 16 << 20;

/// Owns what only the commit thread may touch.
pub(crate) struct CommitLoop {
    node: NodeHandle,
    shared: Arc<Shared>,
    machine: StateMachine,
    wal: Wal,
    waiters: HashMap<u64, ReplyTo, BuildHasherDefault<IdHasher>>,
    /// Answers of the present batch, by client thread.
    answers: Vec<Vec<(ReplyTo, Outcome)>>,
    applied: Vec<Applied>,
    /// Written to the log's buffer, but not to the disk.
    has_unwritten: bool,
    log: MemoryLog,
    settings: Settings,
}

/// What the commit thread is told by the configuration.
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

impl CommitLoop {
    pub(crate) fn new(
        node: &NodeHandle,
        machine: StateMachine,
        wal: Wal,
        settings: Settings,
    ) -> Self {
        let shared = node.shared.clone();
        let answers = shared.mailboxes.iter().map(|_| Vec::new()).collect();
        CommitLoop {
            node: node.clone(),
            shared,
            machine,
            wal,
            waiters: HashMap::default(),
            answers,
            applied: Vec::new(),
            has_unwritten: false,
            log: MemoryLog::new(settings.catch_up_entries),
            settings,
        }
    }

    /// Runs until the queue is closed and everything in it is done.
    ///
    /// # Errors
    /// A fault of the disk or of the data. Nothing may be answered any more; the process must end.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let mut work = Work::default();
        let mut durable = None;
        let mut is_busy = true;
        loop {
            let patience = match (is_busy, self.has_unwritten) {
                (true, _) => Some(Duration::ZERO),
                (false, true) => Some(IDLE_WRITE),
                (false, false) => None,
            };
            self.shared.proposals.take(&mut work, patience);
            let is_idle = !is_busy && work.proposals.is_empty() && work.commands.is_empty();
            let output = self.turn_raft(durable.take(), &mut work)?;
            is_busy = output.is_some();
            if let Some(output) = output {
                durable = Some(output.number);
                self.carry_out(&output)?;
            } else if is_idle {
                self.write(false)?;
                if work.closed {
                    return Ok(());
                }
            }
        }
    }

    /// Step 1: everything that happens under the Raft lock.
    fn turn_raft(
        &mut self,
        durable: Option<u64>,
        work: &mut Work,
    ) -> Result<Option<Output>, Failure> {
        let shared = self.shared.clone();
        let mut raft = shared.raft.lock();
        if let Some(number) = durable {
            raft.persisted(number);
        }
        raft.applied(self.machine.applied_index());
        self.propose(&mut raft, work);
        let snapshots = self.commands(&mut raft, work);
        let output = raft.has_output().then(|| raft.take_output());
        drop(raft);
        for snapshot in snapshots {
            self.snapshot_saved(&snapshot)?;
        }
        Ok(output)
    }

    fn propose(&mut self, raft: &mut retcd_consensus::Node, work: &mut Work) {
        if work.proposals.is_empty() {
            return;
        }
        let payloads =
            work.proposals.iter_mut().map(|proposal| std::mem::take(&mut proposal.data)).collect();
        match raft.propose(payloads) {
            Ok(()) => {
                for proposal in work.proposals.drain(..) {
                    if let Some(reply_to) = proposal.reply_to {
                        self.waiters.insert(proposal.id, reply_to);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, proposals = work.proposals.len(), "raft refused proposals");
                for proposal in work.proposals.drain(..) {
                    if let Some(reply_to) = proposal.reply_to {
                        self.answer(reply_to, Err(RpcError::ProposalDropped));
                    }
                }
                self.post(false);
            }
        }
    }

    fn commands(
        &mut self,
        raft: &mut retcd_consensus::Node,
        work: &mut Work,
    ) -> Vec<retcd_api::walpb::Snapshot> {
        let mut snapshots = Vec::new();
        for command in work.commands.drain(..) {
            match command {
                Command::SnapshotSaved(snapshot) => snapshots.push(snapshot),
            }
        }
        if let Some(index) = self.log.cut(self.machine.applied_index()) {
            raft.compact_log(index);
        }
        snapshots
    }

    /// Notes a snapshot in the log and lets go of the segments that it replaces.
    fn snapshot_saved(&mut self, snapshot: &retcd_api::walpb::Snapshot) -> Result<(), Failure> {
        self.write(false)?;
        let failed = |error| Failure::because("write the snapshot record", error);
        self.wal.save_snapshot(snapshot).map_err(failed)?;
        self.wal.release_to(snapshot.index);
        Ok(())
    }

    /// Steps 2 and 3.
    fn carry_out(&mut self, output: &Output) -> Result<(), Failure> {
        if let Some(soft) = &output.soft_state {
            self.shared.leader.store(soft.leader, Ordering::Relaxed);
            let is_leader = soft.role == Role::Leader;
            if is_leader {
                let now = self.shared.started.elapsed();
                self.machine.reader().lessor().promote(now, self.settings.election_timeout);
            } else {
                self.machine.reader().lessor().demote();
            }
            tracing::info!(leader = %format!("{:x}", soft.leader), is_leader, "raft leadership changed");
        }
        if let Some(hard_state) = &output.persist.hard_state {
            self.shared.term.store(hard_state.term, Ordering::Relaxed);
            self.shared.reader.set_raft_term(hard_state.term);
            self.shared.committed.store(hard_state.commit, Ordering::Relaxed);
        }
        self.apply(&output.committed)?;
        self.persist(output)
    }

    fn apply(&mut self, mut committed: &[raftpb::Entry]) -> Result<(), Failure> {
        let now = self.shared.started.elapsed();
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
            self.machine.apply(now_applied, |id| waiters.contains_key(&id), now, &mut applied)?;
            for entry in applied.drain(..) {
                if let Some(change) = &entry.conf_change {
                    self.apply_conf_change(change)?;
                }
                if matches!(entry.outcome, Err(Rejection::QuotaExceeded)) {
                    self.node.raise_no_space_alarm_unattended();
                }
                if entry.request_id != 0
                    && let Some(reply_to) = self.waiters.remove(&entry.request_id)
                {
                    self.answer(
                        reply_to,
                        entry.outcome.map_err(|rejection| RpcError::from(&rejection)),
                    );
                }
            }
            self.applied = applied;
        }
        self.warn_slow_apply(now);
        let reader = self.machine.reader();
        self.post(reader.revision() != revision);
        if reader.pending_bytes() >= FLUSH_BYTES {
            self.shared.storage.flush_soon();
        }
        Ok(())
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

    fn apply_conf_change(&mut self, change: &raftpb::ConfChange) -> Result<(), Failure> {
        let conf_state = self.shared.raft.lock().apply_conf_change(change);
        let conf_state =
            conf_state.map_err(|error| Failure::because("apply a membership change", error))?;
        self.machine.set_conf_state(&conf_state);
        let own = self.shared.ids.member;
        self.shared.is_learner.store(conf_state.learners.contains(&own), Ordering::Relaxed);
        self.shared.is_sole_voter.store(conf_state.voters == [own], Ordering::Release);
        Ok(())
    }

    /// Step 3.
    fn persist(&mut self, output: &Output) -> Result<(), Failure> {
        let persist = &output.persist;
        if persist.hard_state.is_none() && persist.entries.is_empty() {
            return Ok(());
        }
        self.log.add(&persist.entries);
        let entries = persist.entries.iter().map(EntryRef::from);
        let appended = self.wal.append(persist.hard_state.as_ref(), entries);
        appended.map_err(|error| Failure::because("write the log", error))?;
        self.has_unwritten = true;
        if persist.must_sync { self.write(true) } else { Ok(()) }
    }

    fn write(&mut self, sync: bool) -> Result<(), Failure> {
        if !self.has_unwritten {
            return Ok(());
        }
        let sync = sync && !self.settings.is_unsynced;
        let flushed =
            self.wal.flush(sync).map_err(|error| Failure::because("write the log", error))?;
        self.has_unwritten = false;
        self.shared.metrics.disk_wal_write_bytes_total.add_count(flushed.bytes);
        if sync {
            let took = flushed.sync_took;
            self.shared.metrics.disk_wal_fsync_duration_seconds.observe_duration(took);
            if took > SYNC_WARNING {
                tracing::warn!(?took, expected_duration = ?SYNC_WARNING, "slow fdatasync");
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

    fn add(&mut self, entries: &[raftpb::Entry]) {
        let Some(last) = entries.last() else { return };
        let bytes = entries.iter().map(|entry| entry.data.len()).sum();
        self.batches.push_back((last.index, bytes));
        self.bytes += bytes;
    }

    /// The index up to which applied entries can be forgotten, when there are batches to forget.
    fn cut(&mut self, applied: u64) -> Option<u64> {
        let mut cut = None;
        while let Some(&(index, bytes)) = self.batches.front() {
            let is_over = index + self.entries_max < applied || self.bytes > LOG_BYTES_MAX;
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
    fn the_log_in_memory_is_bounded_in_entries() {
        let mut log = MemoryLog::new(100);
        log.add(&entries(1..=60, 1));
        log.add(&entries(61..=120, 1));
        assert_eq!(log.cut(120), None, "entry 60 is within 100 of the applied one");
        assert_eq!(log.cut(161), Some(60));
        assert_eq!(log.cut(161), None);
    }

    #[test]
    fn the_log_in_memory_is_bounded_in_bytes_but_keeps_what_is_not_applied() {
        let mut log = MemoryLog::new(100);
        for index in 1..=5 {
            log.add(&entries(index..=index, LOG_BYTES_MAX / 2));
        }
        assert_eq!(log.cut(0), None);
        assert_eq!(log.cut(2), Some(2));
        assert_eq!(log.cut(5), Some(3));
    }
}
