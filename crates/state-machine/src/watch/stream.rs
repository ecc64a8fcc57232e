//! One watch stream: its watchers by id, and the bytes that wait for its client.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use retcd_api::etcdserverpb::WatchResponse;

use super::encode::{Answer, put_control};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) watchers: BTreeMap<i64, u32>,
    /// Watchers that wait for room in the buffer.
    pub(super) parked: BTreeSet<u32>,
    /// Whether the server was told, or will be, that there is output.
    pub(super) is_announced: bool,
    pub(super) progress_interval: Duration,
    pub(super) progress_due: Duration,
    output: BytesMut,
    buffer_bytes: usize,
    /// Events in `output`. Falls to 0 when it is taken completely, not before.
    pending_events: usize,
    next_watch_id: i64,
}

impl Stream {
    pub(super) fn new(
        buffer_bytes: usize,
        progress_interval: Duration,
        progress_due: Duration,
    ) -> Self {
        Stream {
            watchers: BTreeMap::new(),
            parked: BTreeSet::new(),
            is_announced: false,
            progress_interval,
            progress_due,
            output: BytesMut::new(),
            buffer_bytes,
            pending_events: 0,
            next_watch_id: 0,
        }
    }

    /// The lowest id not used before by this choice, and not in use by the client's own.
    pub(super) fn choose_watch_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_watch_id) {
            self.next_watch_id += 1;
        }
        self.next_watch_id += 1;
        self.next_watch_id - 1
    }

    pub(super) fn is_full(&self) -> bool {
        self.output.len() >= self.buffer_bytes
    }

    /// Whether enough was read that parked watchers should go on. Later than the first byte of room, so that a slow
    /// reader does not make the hub read history for every few bytes.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() <= self.buffer_bytes / 2
    }

    #[inline]
    pub(super) fn put_events(&mut self, answer: Answer<'_>, watch_id: i64, fragment_bytes: usize) {
        answer.put(&mut self.output, watch_id, fragment_bytes);
        self.pending_events += answer.spans.len();
    }

    pub(super) fn put_control(&mut self, response: &WatchResponse) {
        put_control(&mut self.output, response);
    }

    pub(super) fn pending_events(&self) -> usize {
        self.pending_events
    }

    /// Takes at most `max_bytes`. Nothing of the buffer stays behind when it is taken completely: an idle stream
    /// costs no memory for the bursts it has seen.
    pub(super) fn take_output(&mut self, max_bytes: usize) -> Option<Bytes> {
        if self.output.is_empty() || max_bytes == 0 {
            return None;
        }
        if self.output.len() > max_bytes {
            return Some(self.output.split_to(max_bytes).freeze());
        }
        self.pending_events = 0;
        Some(std::mem::take(&mut self.output).freeze())
    }
}
