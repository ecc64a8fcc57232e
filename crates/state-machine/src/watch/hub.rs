//! All watch streams of one runtime thread, and the delivery of new revisions.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use retcd_api::etcdserverpb::{ResponseHeader, WatchResponse};

use super::encode::{Answer, Events, Header, Span};
use super::set::{Member, Set};
use super::slab::Slab;
use super::stream::Stream;
use super::watcher::{State, Watcher};
use super::{History, HistoryError};
use crate::backend::Failure;
use crate::mvcc::Record;

/// Records that `advance` reads at once. Enough to make the reading cheap, few enough to keep their memory small.
const ADVANCE_RECORDS: usize = 1024;

/// What a hub knows about its member, and its limits.
#[derive(Debug, Clone)]
pub struct Config {
    pub cluster_id: u64,
    pub member_id: u64,
    /// Watchers that ask for fragments get answers of this size and above in pieces: max-request-bytes + 512 KiB.
    pub fragment_bytes: usize,
    /// A stream with this many bytes of unread output is parked. One answer may go over it.
    pub stream_buffer_bytes: usize,
}

/// One open stream. Ids of closed streams stay invalid: no later stream gets the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    index: u32,
    generation: u32,
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub streams: usize,
    /// Created and not cancelled by the client, those that a compaction cancelled included.
    pub watchers: usize,
    /// Watchers that are behind the hub: catching up, or waiting for their stream to be read.
    pub slow_watchers: usize,
    /// Events written to streams since the hub exists.
    pub events_sent: u64,
    /// Events in buffers of streams that were not read completely yet.
    pub pending_events: usize,
}

/// Owns the watch streams of one thread. Pure: no clock, no lock, no task.
///
/// The server calls [`Hub::advance`] when the store has moved on, [`Hub::catch_up`] while [`Hub::is_behind`], and
/// [`Hub::notify_progress`] at [`Hub::next_progress`]. After any of them, and after requests, it wakes the bodies of
/// [`Hub::ready_streams`], which call [`Hub::take_output`].
///
/// A [`Failure`] is one of the store and stops the member; the hub is of no use afterwards.
#[derive(Debug)]
pub struct Hub {
    pub(super) config: Config,
    /// Everything below was delivered to the synced watchers. Never falls.
    pub(super) next_revision: i64,
    pub(super) streams: Slab<Stream>,
    pub(super) watchers: Slab<Watcher>,
    pub(super) set: Set,
    /// Watchers that catch up: round, next revision, watcher. Each gets one slice of history per round, so that a
    /// long way back delays nobody else.
    pub(super) behind: BTreeSet<(u64, i64, u32)>,
    pub(super) round: u64,
    /// Records that the next slice of history asks for.
    pub(super) slice_records: usize,
    /// When a stream's periodic progress is due.
    pub(super) progress_due: BTreeSet<(Duration, u32)>,
    ready: Vec<StreamId>,
    synced_watchers: usize,
    compacted_watchers: usize,
    pub(super) events_sent: u64,
    pub(super) scratch: Scratch,
}

/// Memory of one delivery, kept for the next one.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) records: Vec<Record>,
    pub(super) events: Events,
    pub(super) spans: Vec<Span>,
    /// Interests that want something of this delivery.
    pub(super) interests: Vec<u32>,
    /// Watchers whose stream is full.
    fallen: Vec<u32>,
}

impl Hub {
    /// A hub that has delivered everything up to `current_revision`.
    pub fn new(config: Config, current_revision: i64) -> Self {
        Hub {
            config,
            next_revision: current_revision + 1,
            streams: Slab::new(),
            watchers: Slab::new(),
            set: Set::new(),
            behind: BTreeSet::new(),
            round: 0,
            slice_records: super::catch_up::SLICE_RECORDS_FIRST,
            progress_due: BTreeSet::new(),
            ready: Vec::new(),
            synced_watchers: 0,
            compacted_watchers: 0,
            events_sent: 0,
            scratch: Scratch::default(),
        }
    }

    /// Opens a stream. `progress_interval` is the distance of its periodic progress answers, jitter included; it is
    /// raised to 100 ms. `now` is any monotonic time, the same clock as in [`Hub::notify_progress`].
    pub fn open_stream(&mut self, progress_interval: Duration, now: Duration) -> StreamId {
        let interval = progress_interval.max(super::progress::INTERVAL_MIN);
        let due = now.saturating_add(interval);
        let index =
            self.streams.insert(Stream::new(self.config.stream_buffer_bytes, interval, due));
        self.progress_due.insert((due, index));
        StreamId { index, generation: self.streams.generation(index) }
    }

    /// Ends a stream and all its watchers; unread output is dropped. A closed or unknown id is ignored.
    pub fn close_stream(&mut self, stream: StreamId) {
        let Some(index) = self.find(stream) else { return };
        while let Some((_, watcher)) = self.streams[index].watchers.pop_first() {
            self.remove_watcher(watcher);
        }
        let due = self.streams[index].progress_due;
        self.progress_due.remove(&(due, index));
        self.streams.remove(index);
    }

    /// Whether the server should read the next request of this stream: its output is below the limit.
    /// A client that sends without reading so blocks only its own stream.
    pub fn accepts_requests(&self, stream: StreamId) -> bool {
        self.find(stream).is_some_and(|index| !self.streams[index].is_full())
    }

    /// Delivers what the store has written since the last call to all watchers that are synced.
    ///
    /// One answer per watcher and revision; its header has that revision.
    pub fn advance(&mut self, history: &impl History) -> Result<(), Failure> {
        let current = history.current_revision();
        while self.next_revision <= current {
            if self.synced_watchers == 0 {
                self.next_revision = current + 1;
                return Ok(());
            }
            let mut records = std::mem::take(&mut self.scratch.records);
            match history.records(self.next_revision, ADVANCE_RECORDS, &mut records) {
                Ok(next) => self.deliver(&records, next, history)?,
                Err(HistoryError::Compacted(_)) => self.fall_behind(current),
                Err(HistoryError::Failure(failure)) => return Err(failure),
            }
            records.clear();
            self.scratch.records = records;
        }
        Ok(())
    }

    /// Takes at most `max_bytes` of a stream's output: gRPC-framed `WatchResponse` messages, cut anywhere.
    /// `None` when there is none. Parked watchers of the stream may go on afterwards: see [`Hub::is_behind`].
    pub fn take_output(&mut self, stream: StreamId, max_bytes: usize) -> Option<Bytes> {
        let index = self.find(stream)?;
        let stream = &mut self.streams[index];
        let output = stream.take_output(max_bytes);
        if stream.has_room() && !stream.parked.is_empty() {
            self.unpark(index);
        }
        output
    }

    /// The streams that got output since the last call, each once.
    pub fn ready_streams(&mut self) -> impl Iterator<Item = StreamId> + use<> {
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|stream| self.find(*stream).is_some());
        for stream in &ready {
            self.streams[stream.index].is_announced = false;
        }
        ready.into_iter()
    }

    pub fn counters(&self) -> Counters {
        let watchers = self.watchers.len();
        Counters {
            streams: self.streams.len(),
            watchers,
            slow_watchers: watchers - self.synced_watchers - self.compacted_watchers,
            events_sent: self.events_sent,
            pending_events: self.streams.iter().map(Stream::pending_events).sum(),
        }
    }

    /// The table index of a stream that is still open.
    pub(super) fn find(&self, stream: StreamId) -> Option<u32> {
        self.streams.live(stream.index, stream.generation)
    }

    /// Delivers records, which end below revision `next`, to the synced watchers.
    fn deliver(
        &mut self,
        records: &[Record],
        next: i64,
        history: &impl History,
    ) -> Result<(), Failure> {
        assert!(next > self.next_revision, "history must say where to go on");
        for revision in records.chunk_by(|one, other| one.revision.main == other.revision.main) {
            self.deliver_revision(revision, history)?;
        }
        self.next_revision = next;
        Ok(())
    }

    /// Delivers the records of one revision.
    fn deliver_revision(
        &mut self,
        records: &[Record],
        history: &impl History,
    ) -> Result<(), Failure> {
        let revision = records[0].revision.main;
        self.scratch.events.reset(records.len());
        for (record, position) in records.iter().zip(0..) {
            self.set.visit(record.key(), |id, interest| {
                if interest.options.wants(record) {
                    if interest.matched.is_empty() {
                        self.scratch.interests.push(id);
                    }
                    interest.matched.push(position);
                }
            });
        }
        let header = self.header(revision, history);
        while let Some(id) = self.scratch.interests.pop() {
            self.deliver_interest(id, &header, revision, records, history)?;
        }
        while let Some(watcher) = self.scratch.fallen.pop() {
            self.set_state(watcher, State::Parked { next: revision });
        }
        Ok(())
    }

    /// The hot loop: everything that is equal for the members was done before, or is done once.
    fn deliver_interest(
        &mut self,
        id: u32,
        header: &Header,
        revision: i64,
        records: &[Record],
        history: &impl History,
    ) -> Result<(), Failure> {
        let Scratch { events, spans, fallen, .. } = &mut self.scratch;
        let interest = self.set.interest(id);
        spans.clear();
        for member in &mut interest.members {
            if member.from > revision {
                continue;
            }
            let stream = &mut self.streams[member.stream];
            if stream.is_full() {
                fallen.push(member.watcher);
                continue;
            }
            if spans.is_empty() {
                let prev_kv = interest.options.prev_kv;
                for position in interest.matched.iter().map(|position| *position as usize) {
                    spans.push(events.span(&records[position], position, prev_kv, history)?);
                }
            }
            member.put(stream, Answer { header, events, spans }, self.config.fragment_bytes);
            self.events_sent += spans.len() as u64;
            if !stream.is_announced {
                stream.is_announced = true;
                let generation = self.streams.generation(member.stream);
                self.ready.push(StreamId { index: member.stream, generation });
            }
        }
        interest.matched.clear();
        Ok(())
    }

    /// The store has no complete records at the hub's position: it was replaced by a snapshot of another member.
    /// Who was synced goes on from history, where it stands; catching up finds out whether that is still possible.
    fn fall_behind(&mut self, current: i64) {
        let position = self.next_revision;
        self.next_revision = current + 1;
        for watcher in self.watchers.indexes() {
            let next = self.member(watcher).from.max(position);
            if self.watchers[watcher].state == State::Synced && next <= current {
                self.start_catching_up(watcher, next);
            }
        }
    }

    fn unpark(&mut self, stream: u32) {
        for watcher in std::mem::take(&mut self.streams[stream].parked) {
            if let State::Parked { next } = self.watchers[watcher].state {
                self.start_catching_up(watcher, next);
            }
        }
    }

    /// Queues a watcher for the round after this one.
    pub(super) fn start_catching_up(&mut self, watcher: u32, next: i64) {
        self.set_state(watcher, State::Behind { round: self.round + 1, next });
    }

    /// The only place where a watcher changes its state: keeps the queues, the member and the counts in step.
    pub(super) fn set_state(&mut self, watcher: u32, state: State) {
        self.leave_state(watcher);
        let Watcher { stream, interest, seat, start_revision, .. } = self.watchers[watcher];
        let from =
            if state == State::Synced { self.next_revision.max(start_revision) } else { i64::MAX };
        self.set.member_mut(interest, seat).from = from;
        match state {
            State::Synced => self.synced_watchers += 1,
            State::Behind { round, next } => {
                self.behind.insert((round, next, watcher));
            }
            State::Parked { .. } => {
                self.streams[stream].parked.insert(watcher);
            }
            State::Compacted => self.compacted_watchers += 1,
        }
        self.watchers[watcher].state = state;
    }

    fn leave_state(&mut self, watcher: u32) {
        let Watcher { stream, state, .. } = self.watchers[watcher];
        match state {
            State::Synced => self.synced_watchers -= 1,
            State::Behind { round, next } => {
                self.behind.remove(&(round, next, watcher));
            }
            State::Parked { .. } => {
                self.streams[stream].parked.remove(&watcher);
            }
            State::Compacted => self.compacted_watchers -= 1,
        }
    }

    /// Adds a watcher, which is synced and gets the live events of revision `from` and above.
    pub(super) fn add_watcher(
        &mut self,
        range: &super::watcher::KeyRange,
        options: super::watcher::Options,
        from: i64,
        watcher: Watcher,
    ) -> u32 {
        let Watcher { stream, watch_id, fragment, .. } = watcher;
        let index = self.watchers.insert(watcher);
        let member = Member { watch_id, from, watcher: index, stream, fragment, is_told: false };
        let (interest, seat) = self.set.add(range, options, member);
        let watcher = &mut self.watchers[index];
        (watcher.interest, watcher.seat) = (interest, seat);
        self.streams[stream].watchers.insert(watch_id, index);
        self.synced_watchers += 1;
        index
    }

    /// Forgets a watcher that its stream does not list any more.
    pub(super) fn remove_watcher(&mut self, watcher: u32) {
        self.leave_state(watcher);
        let Watcher { interest, seat, .. } = self.watchers.remove(watcher);
        if let Some(moved) = self.set.remove(interest, seat) {
            self.watchers[moved].seat = seat;
        }
    }

    pub(super) fn member(&self, watcher: u32) -> &Member {
        let Watcher { interest, seat, .. } = self.watchers[watcher];
        self.set.member(interest, seat)
    }

    /// Writes an answer without events; its header gets `revision`.
    pub(super) fn put_control(
        &mut self,
        stream: u32,
        revision: i64,
        history: &impl History,
        response: WatchResponse,
    ) {
        let Config { cluster_id, member_id, .. } = self.config;
        let raft_term = history.raft_term();
        let header = Some(ResponseHeader { cluster_id, member_id, revision, raft_term });
        self.streams[stream].put_control(&WatchResponse { header, ..response });
        self.announce(stream);
    }

    pub(super) fn announce(&mut self, stream: u32) {
        if !self.streams[stream].is_announced {
            self.streams[stream].is_announced = true;
            let generation = self.streams.generation(stream);
            self.ready.push(StreamId { index: stream, generation });
        }
    }

    /// The header of answers with events.
    pub(super) fn header(&self, revision: i64, history: &impl History) -> Header {
        Header::new(self.config.cluster_id, self.config.member_id, revision, history.raft_term())
    }
}

impl Member {
    /// Writes events to the member's stream.
    #[inline]
    pub(super) fn put(&mut self, stream: &mut Stream, answer: Answer<'_>, fragment_bytes: usize) {
        self.is_told = true;
        if self.fragment {
            stream.put_events_in_pieces(answer, self.watch_id, fragment_bytes);
        } else {
            stream.put_events(answer, self.watch_id);
        }
    }
}
