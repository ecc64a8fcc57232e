//! All watch streams of one runtime thread.

use std::time::Duration;

use bytes::Bytes;
use retcd_api::etcdserverpb::WatchRequest;

use super::History;
use crate::backend::Failure;

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
#[derive(Debug)]
pub struct Hub;

impl Hub {
    /// A hub that has delivered everything up to `current_revision`.
    pub fn new(_config: Config, _current_revision: i64) -> Self {
        todo!()
    }

    /// Opens a stream. `progress_interval` is the distance of its periodic progress answers, jitter included; it is
    /// raised to 100 ms. `now` is any monotonic time, the same clock as in [`Hub::notify_progress`].
    pub fn open_stream(&mut self, _progress_interval: Duration, _now: Duration) -> StreamId {
        todo!()
    }

    /// Ends a stream and all its watchers; unread output is dropped. A closed or unknown id is ignored.
    pub fn close_stream(&mut self, _stream: StreamId) {
        todo!()
    }

    /// Handles one request of the client: create, cancel or progress. The permission to watch the range was checked.
    pub fn request(
        &mut self,
        _stream: StreamId,
        _request: WatchRequest,
        _history: &impl History,
    ) -> Result<(), Failure> {
        todo!()
    }

    /// Answers a create request that must not become a watcher: created and canceled, watch id -1, with `reason`.
    pub fn refuse(&mut self, _stream: StreamId, _reason: &str, _history: &impl History) {
        todo!()
    }

    /// Whether the server should read the next request of this stream: its output is below the limit.
    pub fn accepts_requests(&self, _stream: StreamId) -> bool {
        todo!()
    }

    /// Delivers what the store has written since the last call to all watchers that are up to date.
    pub fn advance(&mut self, _history: &impl History) -> Result<(), Failure> {
        todo!()
    }

    /// Delivers history to watchers that are behind: about `budget` records read and events written.
    /// Returns whether there is more to do right now.
    pub fn catch_up(&mut self, _history: &impl History, _budget: usize) -> Result<bool, Failure> {
        todo!()
    }

    /// Whether [`Hub::catch_up`] has work. Becomes true by requests, `advance` and `take_output`.
    pub fn is_behind(&self) -> bool {
        todo!()
    }

    /// Sends the periodic progress answers that are due at `now`.
    pub fn notify_progress(
        &mut self,
        _now: Duration,
        _history: &impl History,
    ) -> Result<(), Failure> {
        todo!()
    }

    /// When [`Hub::notify_progress`] has work next.
    pub fn next_progress(&self) -> Option<Duration> {
        todo!()
    }

    /// Takes at most `max_bytes` of a stream's output: gRPC-framed `WatchResponse` messages, cut anywhere.
    /// `None` when there is none.
    pub fn take_output(&mut self, _stream: StreamId, _max_bytes: usize) -> Option<Bytes> {
        todo!()
    }

    /// The streams that got output since the last call, each once.
    pub fn ready_streams(&mut self) -> impl Iterator<Item = StreamId> + '_ {
        std::iter::empty()
    }

    pub fn counters(&self) -> Counters {
        todo!()
    }
}
