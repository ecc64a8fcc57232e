//! All watch streams of one runtime thread: who is there, and in which state.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use retcd_api::etcdserverpb::{ResponseHeader, WatchResponse};

use super::History;
use super::encode::{Events, Header, Span};
use super::set::{Member, Set};
use super::slab::Slab;
use super::stream::Stream;
use super::watcher::{State, Watcher};
use crate::mvcc::Record;

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
    pub(super) index: u32,
    pub(super) generation: u32,
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
    /// Everything below was written to every watcher's stream; `None` without watchers.
    pub next_revision: Option<i64>,
}

/// Owns the watch streams of one thread. Pure: no clock, no lock, no task.
///
/// The server calls [`Hub::advance`] when the store has moved on, [`Hub::catch_up`] while [`Hub::is_behind`], and
/// [`Hub::notify_progress`] at [`Hub::next_progress`]. After any of them, and after requests, it wakes the bodies of
/// [`Hub::ready_streams`], which call [`Hub::take_output`].
///
/// A [`Failure`](crate::backend::Failure) is one of the store and stops the member; the hub is of no use afterwards.
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
    /// The next revision of every slow watcher, be it behind or parked.
    lagging: BTreeSet<(i64, u32)>,
    pub(super) round: u64,
    /// Records that the next slice of history asks for.
    pub(super) slice_records: usize,
    /// When a stream's periodic progress is due.
    pub(super) progress_due: BTreeSet<(Duration, u32)>,
    pub(super) ready: Vec<StreamId>,
    pub(super) synced_watchers: usize,
    compacted_watchers: usize,
    pub(super) events_sent: u64,
    /// The sum over all streams, so that the counters cost nothing.
    pub(super) pending_events: usize,
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
    pub(super) fallen: Vec<u32>,
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
            lagging: BTreeSet::new(),
            round: 0,
            slice_records: super::catch_up::SLICE_RECORDS_FIRST,
            progress_due: BTreeSet::new(),
            ready: Vec::new(),
            synced_watchers: 0,
            compacted_watchers: 0,
            events_sent: 0,
            pending_events: 0,
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
        self.pending_events -= self.streams.remove(index).pending_events();
    }

    /// Whether the server should read the next request of this stream: its output is below the limit.
    /// A client that sends without reading so blocks only its own stream.
    pub fn accepts_requests(&self, stream: StreamId) -> bool {
        self.find(stream).is_some_and(|index| !self.streams[index].is_full())
    }

    /// Takes at most `max_bytes` of a stream's output: gRPC-framed `WatchResponse` messages, cut anywhere.
    /// `None` when there is none. Parked watchers of the stream may go on afterwards: see [`Hub::is_behind`].
    pub fn take_output(&mut self, stream: StreamId, max_bytes: usize) -> Option<Bytes> {
        let index = self.find(stream)?;
        let stream = &mut self.streams[index];
        let pending = stream.pending_events();
        let output = stream.take_output(max_bytes);
        self.pending_events -= pending - stream.pending_events();
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
            pending_events: self.pending_events,
            next_revision: (watchers > 0).then(|| {
                let slowest = self.lagging.first().map_or(i64::MAX, |(next, _)| *next);
                slowest.min(self.next_revision)
            }),
        }
    }

    /// The table index of a stream that is still open.
    pub(super) fn find(&self, stream: StreamId) -> Option<u32> {
        self.streams.live(stream.index, stream.generation)
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
    /// One that becomes synced has everything below the hub's next revision.
    pub(super) fn set_state(&mut self, watcher: u32, state: State) {
        self.leave_state(watcher);
        let Watcher { stream, interest, seat, .. } = self.watchers[watcher];
        let is_synced = state == State::Synced;
        self.set.member_mut(interest, seat).from =
            if is_synced { self.next_revision } else { i64::MAX };
        match state {
            State::Synced => self.synced_watchers += 1,
            State::Behind { round, next } => {
                self.behind.insert((round, next, watcher));
                self.lagging.insert((next, watcher));
            }
            State::Parked { next } => {
                self.streams[stream].parked.insert(watcher);
                self.lagging.insert((next, watcher));
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
                self.lagging.remove(&(next, watcher));
            }
            State::Parked { next } => {
                self.streams[stream].parked.remove(&watcher);
                self.lagging.remove(&(next, watcher));
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
