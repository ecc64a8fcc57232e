//! The way out: what waits for one peer, by channel.
//!
//! ```text
//!   MsgSnap ─► snapshot sender        MsgApp ─► append stream, if it is up
//!                                     others and the rest ─► message stream, if it is up ─► else pipeline
//! ```
//!
//! [`Outbox::push`] runs on whatever thread Raft runs on: it takes one short lock and wakes nobody. Afterwards the
//! network's bell rings once, and on the background runtime [`Outbox::ring`] wakes those who send.
//!
//! What overflows, or was queued for a stream that broke, is dropped and noted; the bell reports it to Raft.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use retcd_api::raftpb::{Message, MessageType};
use tokio::sync::Notify;

use super::inbox::StreamKind;

/// Messages that may wait for a stream: what a busy leader sends in a few heartbeats' time.
const STREAM_MESSAGES_MAX: usize = 4096;
/// Bytes that may wait for one channel. A peer this far behind is better served by Raft's own flow control.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Messages that may wait for the pipeline: it bridges the time in which the streams are dialled.
const PIPELINE_MESSAGES_MAX: usize = 64;
/// What a message costs besides its payloads.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// The queues to one peer.
#[derive(Debug)]
pub(crate) struct Outbox {
    append: StreamQueue,
    message: StreamQueue,
    pipeline: Mutex<Queue>,
    /// The snapshot that waits to be sent; Raft asks for one at a time.
    snapshot: Mutex<Option<Message>>,
    /// Wakes a worker of the pipeline.
    pub(crate) pipeline_news: Notify,
    /// Wakes the snapshot sender.
    pub(crate) snapshot_news: Notify,
    /// Messages were lost and Raft does not know yet.
    is_lossy: AtomicBool,
    /// Messages that overflowed since the bell last rang.
    overflowed: AtomicU64,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            append: StreamQueue::default(),
            message: StreamQueue::default(),
            pipeline: Mutex::default(),
            snapshot: Mutex::default(),
            pipeline_news: Notify::new(),
            snapshot_news: Notify::new(),
            is_lossy: AtomicBool::new(false),
            overflowed: AtomicU64::new(0),
        }
    }

    /// Queues a message for the best channel that is up.
    pub(crate) fn push(&self, message: Message) {
        let kind = message.r#type();
        if kind == MessageType::MsgSnap {
            *self.snapshot.lock() = Some(message);
            return;
        }
        let is_queued = if kind == MessageType::MsgApp && self.append.has_reader() {
            self.append.push(message)
        } else if self.message.has_reader() {
            self.message.push(message)
        } else {
            self.pipeline.lock().push(message, PIPELINE_MESSAGES_MAX)
        };
        if !is_queued {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            self.note_loss();
        }
    }

    /// Wakes all that have something to do. On the background runtime.
    pub(crate) fn ring(&self) -> News {
        self.append.wake();
        self.message.wake();
        for _ in 0..self.pipeline.lock().messages.len() {
            self.pipeline_news.notify_one();
        }
        if self.snapshot.lock().is_some() {
            self.snapshot_news.notify_one();
        }
        News {
            is_lossy: self.is_lossy.swap(false, Ordering::Relaxed),
            overflowed: self.overflowed.swap(0, Ordering::Relaxed),
        }
    }

    /// The next message for the pipeline.
    pub(crate) fn pop_for_pipeline(&self) -> Option<Message> {
        self.pipeline.lock().pop()
    }

    pub(crate) fn take_snapshot(&self) -> Option<Message> {
        self.snapshot.lock().take()
    }

    pub(crate) fn stream(&self, kind: StreamKind) -> &StreamQueue {
        match kind {
            StreamKind::Append => &self.append,
            StreamKind::Message => &self.message,
        }
    }

    /// Whether the peer reads a stream of this kind.
    pub(crate) fn has_stream(&self, kind: StreamKind) -> bool {
        self.stream(kind).has_reader()
    }

    /// Messages that were given to a channel did not arrive.
    pub(crate) fn note_loss(&self) {
        self.is_lossy.store(true, Ordering::Relaxed);
    }

    /// What waits, on all channels but the snapshot's.
    pub(crate) fn waiting(&self) -> Waiting {
        let mut waiting = self.pipeline.lock().waiting();
        for kind in StreamKind::BOTH {
            waiting += self.stream(kind).state.lock().queue.waiting();
        }
        waiting
    }

    /// Ends both streams and forgets what waits.
    pub(crate) fn close(&self) {
        for kind in StreamKind::BOTH {
            self.stream(kind).state.lock().end();
        }
        self.pipeline.lock().clear();
        *self.snapshot.lock() = None;
    }
}

/// What the bell finds at a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct News {
    /// Messages were lost since the last time.
    pub(crate) is_lossy: bool,
    /// How many of them because a queue was full.
    pub(crate) overflowed: u64,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
}

/// Messages that were not sent yet, and about their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Waiting {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl AddAssign for Waiting {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

impl Queue {
    fn waiting(&self) -> Waiting {
        Waiting { messages: self.messages.len(), bytes: self.bytes }
    }

    /// Returns false when there is no room.
    fn push(&mut self, message: Message, messages_max: usize) -> bool {
        let bytes = cost(&message);
        let is_full = self.messages.len() >= messages_max
            || (!self.messages.is_empty() && self.bytes + bytes > QUEUE_BYTES_MAX);
        if !is_full {
            self.bytes += bytes;
            self.messages.push_back(message);
        }
        !is_full
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= cost(&message);
        Some(message)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// About the bytes that a message takes while it waits.
fn cost(message: &Message) -> usize {
    let entries = message.entries.iter().map(|entry| MESSAGE_OVERHEAD_BYTES / 2 + entry.data.len());
    MESSAGE_OVERHEAD_BYTES + message.context.len() + entries.sum::<usize>()
}

/// The queue of a stream. It takes messages only while a reader is there.
#[derive(Debug, Default)]
pub(crate) struct StreamQueue {
    state: Mutex<StreamState>,
}

#[derive(Debug, Default)]
struct StreamState {
    queue: Queue,
    /// The ticket of the reader that is there.
    reader: Option<Ticket>,
    last_ticket: u64,
    /// Of the body that waits for messages.
    waker: Option<Waker>,
}

/// Which of the readers that came one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl StreamQueue {
    /// A reader has come; it takes the place of one that was there. Returns its ticket and whether it replaced one.
    pub(crate) fn attach(&self) -> (Ticket, bool) {
        let mut state = self.state.lock();
        let replaces = state.reader.is_some();
        state.end();
        state.last_ticket += 1;
        let ticket = Ticket(state.last_ticket);
        state.reader = Some(ticket);
        (ticket, replaces)
    }

    /// The reader has gone. Returns false when another one had taken its place before.
    pub(crate) fn detach(&self, ticket: Ticket) -> bool {
        let mut state = self.state.lock();
        let is_current = state.reader == Some(ticket);
        if is_current {
            state.end();
        }
        is_current
    }

    /// Hands over up to `max` messages. `Ready(false)`: the stream of this ticket is over.
    pub(crate) fn poll_take(
        &self,
        context: &mut Context<'_>,
        ticket: Ticket,
        max: usize,
        messages: &mut Vec<Message>,
    ) -> Poll<bool> {
        let mut state = self.state.lock();
        if state.reader != Some(ticket) {
            return Poll::Ready(false);
        }
        messages.extend(std::iter::from_fn(|| state.queue.pop()).take(max));
        if messages.is_empty() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(true)
    }

    fn has_reader(&self) -> bool {
        self.state.lock().reader.is_some()
    }

    /// Returns false when there is no room, or no reader any more.
    fn push(&self, message: Message) -> bool {
        let mut state = self.state.lock();
        state.reader.is_some() && state.queue.push(message, STREAM_MESSAGES_MAX)
    }

    fn wake(&self) {
        let mut state = self.state.lock();
        if !state.queue.messages.is_empty()
            && let Some(waker) = state.waker.take()
        {
            waker.wake();
        }
    }
}

impl StreamState {
    fn end(&mut self) {
        self.queue.clear();
        self.reader = None;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use retcd_api::raftpb::Entry;

    use super::*;

    fn message(kind: MessageType) -> Message {
        Message { r#type: kind.into(), to: 2, from: 1, ..Message::default() }
    }

    fn taken(outbox: &Outbox, kind: StreamKind, ticket: Ticket) -> Option<usize> {
        let mut messages = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        match outbox.stream(kind).poll_take(&mut context, ticket, usize::MAX, &mut messages) {
            Poll::Ready(false) => None,
            Poll::Ready(true) | Poll::Pending => Some(messages.len()),
        }
    }

    #[test]
    fn messages_take_the_best_channel_that_is_up() {
        let outbox = Outbox::new();
        outbox.push(message(MessageType::MsgApp));
        assert_eq!(outbox.pop_for_pipeline(), Some(message(MessageType::MsgApp)));

        let (others, _) = outbox.stream(StreamKind::Message).attach();
        outbox.push(message(MessageType::MsgApp));
        outbox.push(message(MessageType::MsgHeartbeat));
        assert_eq!(taken(&outbox, StreamKind::Message, others), Some(2));

        let (appends, _) = outbox.stream(StreamKind::Append).attach();
        outbox.push(message(MessageType::MsgApp));
        outbox.push(message(MessageType::MsgHeartbeat));
        let bytes = 2 * MESSAGE_OVERHEAD_BYTES;
        assert_eq!(outbox.waiting(), Waiting { messages: 2, bytes });
        outbox.push(message(MessageType::MsgSnap));
        assert_eq!(taken(&outbox, StreamKind::Append, appends), Some(1));
        assert_eq!(taken(&outbox, StreamKind::Message, others), Some(1));
        assert_eq!(outbox.take_snapshot(), Some(message(MessageType::MsgSnap)));
        assert_eq!(outbox.pop_for_pipeline(), None);
        assert_eq!(outbox.ring(), News { is_lossy: false, overflowed: 0 });
    }

    #[test]
    fn a_full_queue_drops_and_tells() {
        let outbox = Outbox::new();
        for _ in 0..PIPELINE_MESSAGES_MAX + 3 {
            outbox.push(message(MessageType::MsgHeartbeat));
        }
        assert_eq!(outbox.ring(), News { is_lossy: true, overflowed: 3 });
        assert_eq!(outbox.ring(), News { is_lossy: false, overflowed: 0 });
        assert_eq!(std::iter::from_fn(|| outbox.pop_for_pipeline()).count(), PIPELINE_MESSAGES_MAX);
    }

    #[test]
    fn bytes_are_bounded_but_a_single_large_message_passes() {
        let outbox = Outbox::new();
        let (ticket, _) = outbox.stream(StreamKind::Append).attach();
        let mut large = message(MessageType::MsgApp);
        large.entries = vec![Entry { data: vec![0; QUEUE_BYTES_MAX].into(), ..Entry::default() }];
        outbox.push(large);
        outbox.push(message(MessageType::MsgApp));
        assert_eq!(outbox.ring().overflowed, 1);
        assert_eq!(taken(&outbox, StreamKind::Append, ticket), Some(1));
        outbox.push(message(MessageType::MsgApp));
        assert_eq!(outbox.ring().overflowed, 0);
    }

    #[test]
    fn a_new_reader_ends_the_old_one() {
        let outbox = Outbox::new();
        let queue = outbox.stream(StreamKind::Message);
        let (old, replaces) = queue.attach();
        assert!(!replaces);
        outbox.push(message(MessageType::MsgHeartbeat));
        let (new, replaces) = queue.attach();
        assert!(replaces);
        assert_eq!(taken(&outbox, StreamKind::Message, old), None);
        assert_eq!(taken(&outbox, StreamKind::Message, new), Some(0));
        assert!(!queue.detach(old));
        assert!(queue.detach(new));
        assert!(!outbox.has_stream(StreamKind::Message));
    }
}
