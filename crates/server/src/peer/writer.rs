//! The body of an answer that never ends: a stream, as its writer sees it.
//!
//! The connection asks for more when its socket takes more; then all that waits, up to a limit, is encoded into one
//! piece. So a slow peer holds back its own queue and nothing else, and a fast one gets large writes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use prost::Message as _;
use retcd_api::raftpb::Message;
use tokio::time::{Instant, Sleep};

use super::inbox::StreamKind;
use super::network::{Peer, Shared};
use super::outbox::Ticket;
use super::wire::{append, frame};

/// How often an idle stream shows that it lives: three times before its reader gives it up.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(1_666);
/// Messages in one piece.
const BATCH_MESSAGES_MAX: usize = 256;

/// A stream to a peer that reads it.
pub(crate) struct StreamBody {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    encoder: Encoder,
    ticket: Ticket,
    /// Taken from the queue and not encoded yet; empty between two polls.
    messages: Vec<Message>,
    heartbeat: Pin<Box<Sleep>>,
}

enum Encoder {
    Append(append::Encoder),
    Message,
}

impl Encoder {
    fn encode(&mut self, message: &Message, buffer: &mut BytesMut) {
        match self {
            Self::Append(encoder) => encoder.encode(message, buffer),
            Self::Message => frame::encode(message, buffer),
        }
    }

    fn encode_link_heartbeat(&self, buffer: &mut BytesMut) {
        match self {
            Self::Append(_) => append::Encoder::encode_link_heartbeat(buffer),
            Self::Message => frame::encode_link_heartbeat(buffer),
        }
    }

    fn kind(&self) -> StreamKind {
        match self {
            Self::Append(_) => StreamKind::Append,
            Self::Message => StreamKind::Message,
        }
    }
}

impl StreamBody {
    /// The peer has opened a stream: from now on its messages go here.
    pub(crate) fn attach(shared: Arc<Shared>, peer: Arc<Peer>, kind: StreamKind) -> Self {
        let (ticket, replaces) = peer.outbox.stream(kind).attach();
        if replaces {
            log(&shared, &peer, kind, "closed TCP streaming connection with remote peer");
            shared.note_loss(&peer);
        }
        peer.status.activate();
        tracing::info!(
            stream_writer_type = kind.name(),
            local_member_id = %format!("{:x}", shared.identity.member),
            remote_peer_id = %format!("{:x}", peer.id),
            "established TCP streaming connection with remote peer"
        );
        let encoder = match kind {
            StreamKind::Append => Encoder::Append(append::Encoder::default()),
            StreamKind::Message => Encoder::Message,
        };
        let heartbeat = Box::pin(tokio::time::sleep(HEARTBEAT_INTERVAL));
        Self { shared, peer, encoder, ticket, messages: Vec::new(), heartbeat }
    }

    fn encode_batch(&mut self) -> Bytes {
        let bytes = self.messages.iter().map(Message::encoded_len).sum::<usize>();
        let mut buffer = BytesMut::with_capacity(bytes + 32 * self.messages.len());
        for message in self.messages.drain(..) {
            self.encoder.encode(&message, &mut buffer);
        }
        buffer.freeze()
    }

    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let queue = self.peer.outbox.stream(self.encoder.kind());
        match queue.poll_take(context, self.ticket, BATCH_MESSAGES_MAX, &mut self.messages) {
            Poll::Ready(false) => return Poll::Ready(None),
            Poll::Ready(true) => return Poll::Ready(Some(self.encode_batch())),
            Poll::Pending => {}
        }
        std::task::ready!(self.heartbeat.as_mut().poll(context));
        let mut buffer = BytesMut::with_capacity(16);
        self.encoder.encode_link_heartbeat(&mut buffer);
        Poll::Ready(Some(buffer.freeze()))
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = std::task::ready!(self.poll_bytes(context));
        let bytes = bytes.inspect(|bytes| {
            self.peer.metrics.sent_bytes.add(bytes.len() as u64);
            self.heartbeat.as_mut().reset(Instant::now() + HEARTBEAT_INTERVAL);
        });
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Drop for StreamBody {
    /// The connection has ended. What it had taken may be lost, and so is what waited.
    fn drop(&mut self) {
        let kind = self.encoder.kind();
        if self.peer.outbox.stream(kind).detach(self.ticket) {
            log(&self.shared, &self.peer, kind, "lost TCP streaming connection with remote peer");
            self.peer.metrics.send_failures.increment();
            self.peer.status.deactivate(kind.name(), "write", &"the connection has ended");
            self.shared.note_loss(&self.peer);
        }
    }
}

fn log(shared: &Shared, peer: &Peer, kind: StreamKind, text: &str) {
    tracing::warn!(
        stream_writer_type = kind.name(),
        local_member_id = %format!("{:x}", shared.identity.member),
        remote_peer_id = %format!("{:x}", peer.id),
        "{text}"
    );
}
