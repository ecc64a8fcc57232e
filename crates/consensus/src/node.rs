//! One member's part in the agreement: messages and ticks in, outputs out.
//!
//! The library hands out work in numbered batches and lets several be on their way to the disk at once. This driver
//! adds what makes that safe and deterministic for its callers:
//!
//! - **Promises wait, the rest does not.** The library decides by role alone whether messages wait for the disk; here
//!   it is decided per message (see [`Node::may_leave_at_once`]), so a follower's answer to a heartbeat does not wait,
//!   and a single voter's first words to its learners do: their term is not durable yet.
//! - **No election with entries in flight.** The library assumes that a candidate's log is durable and panics
//!   otherwise; elections wait for the disk here.
//! - **Overwritten batches are not reported alone.** When a later batch in flight replaces entries of an earlier one,
//!   the log on disk is right only after the later one, and only then the library hears of either.
//! - **Election timeouts come from the seed**, drawn anew with each change of term or role.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;

use bytes::Bytes;
use raft::eraftpb::{self, MessageType};
use raft::{RawNode, StateRole};
use retcd_api::raftpb;

use crate::log::Log;
use crate::random::Random;
use crate::{
    Config, Error, InitialState, Output, PeerProgress, Persist, ProposeError, ReadState, Refusal,
    Role, SoftState, Status, convert, logger,
};

/// One member of the cluster. See the crate's description for how it is driven.
pub struct Node {
    pub(crate) raft: RawNode<Log>,
    /// Reads that came before this leader's first commit.
    pub(crate) waiting_reads: Vec<eraftpb::Message>,
    max_uncommitted_bytes: u64,
    random: Random,
    election_ticks: Range<usize>,
    election_timeout: usize,
    /// As of the last [`Node::settle`].
    seen: Seen,
    /// Term and vote that are on disk.
    durable_ballot: Ballot,
    /// Outputs that were taken but not persisted, by number.
    in_flight: VecDeque<InFlight>,
    last_number: u64,
    /// The members as of the last applied entry.
    conf_state: raftpb::ConfState,
    /// Snapshots that were given out and are not applied yet. Their members are in force inside the library already.
    restored: VecDeque<raftpb::SnapshotMetadata>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ballot {
    term: u64,
    vote: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    term: u64,
    role: Role,
    leader: u64,
}

/// An output on its way to the disk.
#[derive(Debug)]
struct InFlight {
    number: u64,
    ballot: Ballot,
    /// First and last index of its entries.
    entries: Option<(u64, u64)>,
}

/// Starting and driving.
impl Node {
    /// Starts from what was found on disk.
    ///
    /// # Errors
    /// When the settings are out of range or the state contradicts itself.
    pub fn new(config: &Config, initial: InitialState) -> Result<Self, Error> {
        let initial = initial.checked()?;
        let raft_config = config.to_raft(initial.applied)?;
        let hard_state = initial.hard_state;
        let conf_state = initial.conf_state.clone();
        let raft = RawNode::new(&raft_config, initial.into_log(), &logger::logger())
            .map_err(|error| Error::InvalidState(error.to_string()))?;
        let election_ticks = config.election_ticks..2 * config.election_ticks;
        let mut random = Random::new(config.seed);
        let election_timeout = random.in_range(election_ticks.clone());
        let mut node = Self {
            raft,
            waiting_reads: Vec::new(),
            max_uncommitted_bytes: config.max_uncommitted_bytes,
            random,
            election_ticks,
            election_timeout,
            seen: Seen { term: hard_state.term, role: Role::Follower, leader: 0 },
            durable_ballot: Ballot { term: hard_state.term, vote: hard_state.vote },
            in_flight: VecDeque::new(),
            last_number: 0,
            conf_state,
            restored: VecDeque::new(),
        };
        node.settle();
        Ok(node)
    }

    /// One tick of the caller's clock: `heartbeat_ticks` and `election_ticks` count these.
    ///
    /// A member whose election is due while entries are on their way to its disk stands still at that moment until
    /// they are durable.
    pub fn tick(&mut self) {
        if self.is_election_due() && !self.may_campaign() {
            return;
        }
        self.raft.tick();
        self.settle();
    }

    /// Takes a message from another member.
    ///
    /// A forwarded proposal that cannot be taken is dropped, as if it were lost on the way.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::LocalMessage`] and [`Error::UnknownPeer`]; the message is dropped.
    pub fn step(&mut self, message: raftpb::Message) -> Result<(), Error> {
        let message = convert::message_to_raft(message)?;
        check_envelope(&message, self.id())?;
        let from = message.from;
        match message.msg_type {
            // A follower sent it to the member that led before, which sent it on. A leader serves it as its own; between
            // two members that take each other for the leader it would go round.
            _ if from == self.id() && !self.is_leader() => return Ok(()),
            // Nobody hands over to a member that has not acknowledged everything; such a message is late.
            MessageType::MsgTimeoutNow if !self.may_campaign() => return Ok(()),
            // Forwarded to a member that no longer leads. The library would stumble over its term.
            MessageType::MsgTransferLeader if !self.is_leader() => return Ok(()),
            MessageType::MsgReadIndex => self.step_read(message),
            _ => match self.raft.step(message) {
                Ok(()) => {}
                Err(raft::Error::ProposalDropped) => {
                    tracing::debug!("dropped a forwarded proposal");
                }
                Err(raft::Error::StepPeerNotFound) => return Err(Error::UnknownPeer(from)),
                Err(_) => return Err(Error::Malformed("refused by raft")),
            },
        }
        self.settle();
        Ok(())
    }

    /// Proposes `payloads` as consecutive normal entries, in one step.
    ///
    /// Success means that they are in this leader's log or on the way to the leader, not that they will be committed.
    ///
    /// # Errors
    /// All payloads come back; none was proposed.
    pub fn propose(&mut self, payloads: Vec<Bytes>) -> Result<(), ProposeError> {
        if payloads.is_empty() {
            return Ok(());
        }
        let bytes = payloads.iter().map(|payload| payload.len() as u64).sum();
        if let Err(reason) = self.may_propose(bytes) {
            return Err(ProposeError { reason, payloads });
        }
        self.step_proposal(payloads.into_iter().map(convert::proposal).collect());
        Ok(())
    }

    /// Whether [`take_output`](Node::take_output) has anything to say.
    pub fn has_output(&self) -> bool {
        self.raft.has_ready()
    }

    /// Everything that has to be done now. To be called by the one thread that writes the log.
    ///
    /// Several outputs may be on their way to the disk; they must be written and reported in order.
    pub fn take_output(&mut self) -> Output {
        let mut ready = self.raft.ready();
        let snapshot = (!ready.snapshot().is_empty())
            .then(|| convert::snapshot_from_raft(ready.snapshot().clone()));
        let entries: Vec<_> =
            ready.take_entries().into_iter().map(convert::entry_from_raft).collect();
        let mut messages = ready.take_messages();
        messages.append(&mut ready.take_persisted_messages());
        let (at_once, later) = self.split(messages);
        let output = Output {
            number: ready.number(),
            messages: at_once.into_iter().map(convert::message_from_raft).collect(),
            persist: Persist {
                snapshot,
                entries,
                hard_state: ready.hs().map(convert::hard_state_from_raft),
                must_sync: ready.must_sync(),
            },
            messages_after_persist: later.into_iter().map(convert::message_from_raft).collect(),
            committed: ready
                .take_committed_entries()
                .into_iter()
                .map(convert::entry_from_raft)
                .collect(),
            read_states: ready.take_read_states().into_iter().map(read_state).collect(),
            soft_state: ready
                .ss()
                .map(|state| SoftState { leader: state.leader_id, role: state.raft_state.into() }),
        };
        self.remember(&output);
        self.raft.advance_append_async(ready);
        output
    }

    /// Takes only the messages that may leave at once: heartbeats, a leader's appends, answers that promise nothing.
    ///
    /// For threads that step messages or ticks while the log's thread is busy with the disk.
    pub fn take_messages(&mut self) -> Vec<raftpb::Message> {
        if self.raft.raft.msgs.is_empty() {
            return Vec::new();
        }
        let messages = mem::take(&mut self.raft.raft.msgs);
        let (at_once, later) = self.split(messages);
        self.raft.raft.msgs = later;
        at_once.into_iter().map(convert::message_from_raft).collect()
    }

    /// Takes only the answers to [`read_index`](Node::read_index), for threads that need not wait for the log's thread.
    pub fn take_read_states(&mut self) -> Vec<ReadState> {
        mem::take(&mut self.raft.raft.read_states).into_iter().map(read_state).collect()
    }

    /// All outputs up to `number` are written, and synced if one of them said so.
    ///
    /// Must be called before their `messages_after_persist` are sent.
    pub fn persisted(&mut self, number: u64) {
        assert!(number <= self.last_number, "output {number} was never taken");
        let mut written_to = 0;
        while self.in_flight.front().is_some_and(|output| output.number <= number) {
            let Some(output) = self.in_flight.pop_front() else { break };
            self.durable_ballot = output.ballot;
            written_to = output.entries.map_or(written_to, |(_, last)| last);
        }
        let is_overwritten = self
            .in_flight
            .iter()
            .filter_map(|output| output.entries)
            .any(|(first, _)| first <= written_to);
        if !is_overwritten {
            self.raft.on_persist_ready(number);
            self.settle();
        }
    }

    /// The state machine has applied everything up to `index`; a restored snapshot counts once it was persisted.
    pub fn applied(&mut self, index: u64) {
        if index <= self.applied_index() {
            return;
        }
        self.raft.advance_apply_to(index);
        while self.restored.front().is_some_and(|snapshot| snapshot.index <= index) {
            let snapshot = self.restored.pop_front();
            self.conf_state = snapshot.and_then(|snapshot| snapshot.conf_state).unwrap_or_default();
        }
        self.raft.mut_store().set_applied(index, &self.conf_state);
        self.settle();
    }

    /// Forgets entries up to `to_index`, which is cut to the applied index.
    ///
    /// Peers that still need them get a snapshot, so keep some thousands behind what is applied (etcd keeps 5000).
    pub fn compact_log(&mut self, to_index: u64) {
        let to_index = to_index.min(self.applied_index());
        self.raft.mut_store().compact(to_index);
    }
}

/// Looking at it.
impl Node {
    pub fn id(&self) -> u64 {
        self.raft.raft.id
    }

    pub fn term(&self) -> u64 {
        self.raft.raft.term
    }

    /// The leader's id, 0 when none is known.
    pub fn leader(&self) -> u64 {
        self.raft.raft.leader_id
    }

    pub fn role(&self) -> Role {
        self.raft.raft.state.into()
    }

    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    pub fn commit_index(&self) -> u64 {
        self.raft.raft.raft_log.committed
    }

    pub fn applied_index(&self) -> u64 {
        self.raft.raft.raft_log.applied
    }

    pub fn last_index(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// The first index the log in memory holds.
    pub fn first_index(&self) -> u64 {
        self.raft.store().first()
    }

    /// The members after the last applied change, ids ascending.
    pub fn conf_state(&self) -> &raftpb::ConfState {
        &self.conf_state
    }

    /// Index, term and members that belong to a snapshot of the state as of the last [`applied`](Node::applied).
    ///
    /// A `MsgSnap` in an output carries these as of the moment it was made; whoever sends the state itself may be
    /// further by then and must replace them.
    pub fn snapshot_metadata(&self) -> &raftpb::SnapshotMetadata {
        self.raft.store().applied()
    }

    /// The term of the entry at `index`, if the log in memory knows it.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.raft.raft.raft_log.term(index).ok().filter(|term| *term != 0)
    }

    /// A copy of everything; see the single questions above for what is asked often.
    pub fn status(&self) -> Status {
        let raft = &self.raft.raft;
        Status {
            id: raft.id,
            term: raft.term,
            vote: raft.vote,
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            first_index: self.first_index(),
            last_index: self.last_index(),
            leader: raft.leader_id,
            role: self.role(),
            is_learner: self.conf_state.learners.contains(&raft.id),
            transfer_to: raft.lead_transferee,
            conf_state: self.conf_state.clone(),
            progress: if self.is_leader() { self.progress() } else { Vec::new() },
        }
    }

    fn progress(&self) -> Vec<PeerProgress> {
        let mut peers: Vec<_> = self
            .raft
            .raft
            .prs()
            .iter()
            .map(|(&id, progress)| PeerProgress {
                id,
                is_learner: self.conf_state.learners.contains(&id),
                matched: progress.matched,
                next: progress.next_idx,
                recently_active: id == self.id() || progress.recent_active,
                state: progress.state.into(),
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.id);
        peers
    }
}

/// Below the surface.
impl Node {
    /// The library's own reasons to drop a proposal, asked first: it does not give dropped ones back.
    pub(crate) fn may_propose(&self, bytes: u64) -> Result<(), Refusal> {
        let raft = &self.raft.raft;
        match raft.state {
            StateRole::PreCandidate | StateRole::Candidate => Err(Refusal::NoLeader),
            StateRole::Follower if raft.leader_id == raft::INVALID_ID => Err(Refusal::NoLeader),
            StateRole::Follower => Ok(()),
            StateRole::Leader if raft.prs().get(raft.id).is_none() => Err(Refusal::NoLeader),
            StateRole::Leader if raft.lead_transferee.is_some() => Err(Refusal::LeaderTransfer),
            StateRole::Leader => {
                let uncommitted = raft.uncommitted_size() as u64;
                let fits = bytes == 0
                    || uncommitted == 0
                    || uncommitted.saturating_add(bytes) <= self.max_uncommitted_bytes;
                if fits { Ok(()) } else { Err(Refusal::TooManyUncommitted) }
            }
        }
    }

    /// Steps a proposal that [`Node::may_propose`] has allowed.
    pub(crate) fn step_proposal(&mut self, entries: Vec<eraftpb::Entry>) {
        let mut message = eraftpb::Message {
            msg_type: MessageType::MsgPropose,
            from: self.id(),
            ..eraftpb::Message::default()
        };
        message.set_entries(entries.into());
        self.raft.step(message).expect("every reason to drop a proposal was asked for before");
        self.settle();
    }

    pub(crate) fn set_conf_state(&mut self, conf_state: raftpb::ConfState) {
        self.conf_state = conf_state;
    }

    /// Whether a snapshot was received that is not applied yet.
    pub(crate) fn is_restoring(&self) -> bool {
        self.raft.snap().is_some() || !self.restored.is_empty()
    }

    /// Whether the member may stand for election: its whole log is durable, and no snapshot is being installed (the
    /// library would look for unapplied changes in entries that the snapshot has replaced).
    pub(crate) fn may_campaign(&self) -> bool {
        let log = &self.raft.raft.raft_log;
        log.persisted == log.last_index() && !self.is_restoring()
    }

    fn is_election_due(&self) -> bool {
        let raft = &self.raft.raft;
        !self.is_leader() && raft.election_elapsed + 1 >= raft.randomized_election_timeout()
    }

    /// To be called after everything that may have changed the role, the term, the leader or the commit index.
    pub(crate) fn settle(&mut self) {
        let now = Seen { term: self.term(), role: self.role(), leader: self.leader() };
        if now != self.seen {
            if (now.term, now.role) != (self.seen.term, self.seen.role) {
                self.election_timeout = self.random.in_range(self.election_ticks.clone());
            }
            self.log_change(now);
            self.seen = now;
        }
        // Whatever the library has drawn in the meantime must not outlive the call.
        self.raft.raft.set_randomized_election_timeout(self.election_timeout);
        self.start_waiting_reads();
    }

    fn log_change(&self, now: Seen) {
        let member_id = format_args!("{:x}", self.id());
        if now.role != self.seen.role {
            tracing::info!(member_id, term = now.term, role = now.role.name(), "raft role changed");
        }
        if now.leader != self.seen.leader {
            let (old, new) =
                (format_args!("{:x}", self.seen.leader), format_args!("{:x}", now.leader));
            tracing::info!(
                member_id,
                term = now.term,
                old_leader = old,
                new_leader = new,
                "raft leader changed"
            );
        }
    }

    /// Notes what `output` will have made durable, and puts its entries into the log in memory, where the library looks
    /// for them from now on.
    fn remember(&mut self, output: &Output) {
        if let Some(metadata) =
            output.persist.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.clone())
        {
            self.raft.mut_store().restore(metadata.index, metadata.term);
            self.restored.push_back(metadata);
        }
        let entries = &output.persist.entries;
        self.in_flight.push_back(InFlight {
            number: output.number,
            ballot: self.ballot(),
            entries: entries
                .first()
                .zip(entries.last())
                .map(|(first, last)| (first.index, last.index)),
        });
        self.raft.mut_store().append(entries.clone());
        self.last_number = output.number;
    }

    fn ballot(&self) -> Ballot {
        Ballot { term: self.raft.raft.term, vote: self.raft.raft.vote }
    }

    fn split(
        &self,
        messages: Vec<eraftpb::Message>,
    ) -> (Vec<eraftpb::Message>, Vec<eraftpb::Message>) {
        let is_durable_leader = self.is_leader() && self.durable_ballot == self.ballot();
        if is_durable_leader {
            return (messages, Vec::new());
        }
        messages.into_iter().partition(may_leave_at_once)
    }
}

/// Whether a message promises nothing that a crash could take back.
///
/// A leader whose term is durable may say everything: its own entries count for a commit only once they are durable
/// (Ongaro's thesis, 10.2.1), and this is not asked for it. Of the others' messages these are free:
/// - answers to heartbeats: they say "in this moment I know no later term", which stays true of that moment;
/// - pre-votes and their answers: nothing is recorded;
/// - refused appends, and what is forwarded to the leader.
///
/// A vote, the request for one (it counts the own vote), an accepted append or snapshot have to be durable first.
fn may_leave_at_once(message: &eraftpb::Message) -> bool {
    match message.msg_type {
        MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgPropose
        | MessageType::MsgReadIndex
        | MessageType::MsgTransferLeader => true,
        MessageType::MsgAppendResponse => message.reject,
        MessageType::MsgAppend
        | MessageType::MsgSnapshot
        | MessageType::MsgHeartbeat
        | MessageType::MsgTimeoutNow
        | MessageType::MsgReadIndexResp
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => false,
    }
}

/// Refuses what no correct member sends and the library would take at face value, or panic on.
fn check_envelope(message: &eraftpb::Message, receiver: u64) -> Result<(), Error> {
    if message.from == 0 {
        return Err(Error::Malformed("no sender"));
    }
    match message.msg_type {
        MessageType::MsgPropose | MessageType::MsgReadIndex if message.entries.is_empty() => {
            Err(Error::Malformed("no entries"))
        }
        // Forwarded for another member, so without a term, and perhaps for this one.
        MessageType::MsgPropose | MessageType::MsgReadIndex => Ok(()),
        // Of a transfer, the sender is who is to lead; it may lead already.
        _ if message.from == receiver && message.msg_type != MessageType::MsgTransferLeader => {
            Err(Error::Malformed("sent by this member"))
        }
        // Term 0 is the library's mark for its own messages, which it does not check.
        _ if message.term == 0 => Err(Error::Malformed("no term")),
        _ => Ok(()),
    }
}

fn read_state(state: raft::ReadState) -> ReadState {
    ReadState { context: state.request_ctx.into(), index: state.index }
}
