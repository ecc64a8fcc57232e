//! Whole databases between members: the message that Raft sends, and behind it the database file.
//!
//! ```text
//! POST /raft/snapshot        length: u64 | raftpb.Message (MsgSnap) | the bbolt file, to the end of the body
//! ```
//!
//! Neither side holds more than a few pieces: they pass through a bounded queue ([`Chunks`](super::Chunks)) between the connection and
//! whoever reads or writes the file. Raft steps the message only when the file is durable at the receiver.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::HeaderValue;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use retcd_api::raftpb::{Message, MessageType};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Later;
use super::chunks::{ChunkSender, Chunks, chunks};
use super::connection;
use super::network::{Peer, Refusal, Shared};
use super::pipeline::{self, Error};
use super::wire::frame::{self, Item, SNAPSHOT_HEAD_BYTES_MAX};
use crate::logging;

/// Neither side may stand still for longer: its disk may be busy.
const STALL: Duration = Duration::from_secs(30);
/// How long the receiver may take to make the file durable after its last byte.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the database comes from that goes with a snapshot message.
pub(crate) trait SnapshotSource: Send + Sync + 'static {
    /// Opens the database for a member that needs it. `message` is Raft's; what is sent is what comes back.
    fn open(&self, message: Message) -> Later<io::Result<OutgoingSnapshot>>;
}

/// A database on its way to another member.
pub(crate) struct OutgoingSnapshot {
    /// With index, term and members of exactly what the database holds.
    pub(crate) message: Message,
    /// The length of the file.
    pub(crate) bytes: u64,
    /// Ends early with an error when the database cannot be read; the peer takes nothing then.
    pub(crate) chunks: Chunks,
}

/// Where a database goes that another member sends.
pub(crate) trait SnapshotReceiver: Send + Sync + 'static {
    /// Makes the database durable. Afterwards the message is given to Raft by [`Inbox::step`](super::Inbox::step).
    ///
    /// # Errors
    /// The disk's, or the error among the chunks; the file is worth nothing then.
    fn receive(&self, snapshot: IncomingSnapshot) -> Later<io::Result<()>>;
}

/// A database that another member sends.
pub(crate) struct IncomingSnapshot {
    pub(crate) message: Message,
    pub(crate) chunks: Chunks,
}

/// Index of the state that a snapshot message carries.
fn snapshot_index(message: &Message) -> u64 {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    metadata.map_or(0, |metadata| metadata.index)
}

/// Sends the snapshots for one peer, one after the other, until it is removed or the transport stops.
pub(crate) async fn run_sender(shared: Arc<Shared>, peer: Arc<Peer>) {
    loop {
        let Some(message) = peer.outbox.take_snapshot() else {
            peer.outbox.snapshot_news.notified().await;
            continue;
        };
        let id = format!("{:x}", peer.id);
        let in_flight = shared.metrics.network_snapshot_send_inflights_total.with([&id]);
        in_flight.increment();
        let sent = send(&shared, &peer, &id, message).await;
        in_flight.decrement();
        if let Err(error) = &sent {
            peer.status.deactivate("sendMsgSnap", "post", error);
            peer.metrics.send_failures.increment();
            shared.metrics.network_snapshot_send_failures.with([&id]).increment();
            if matches!(error, SendError::Post(Error::Removed)) {
                shared.inbox().local_removed();
            }
            shared.inbox().report_unreachable(peer.id);
        }
        shared.inbox().report_snapshot(peer.id, sent.is_ok());
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("open the database: {0}")]
    Open(#[source] io::Error),
    #[error(transparent)]
    Post(#[from] Error),
}

async fn send(shared: &Shared, peer: &Peer, id: &str, message: Message) -> Result<(), SendError> {
    let started = Instant::now();
    let opened = shared.callbacks().snapshot_source.open(message).await;
    let snapshot = opened.map_err(SendError::Open)?;
    let (index, bytes) = (snapshot_index(&snapshot.message), snapshot.bytes);
    let size = logging::size(bytes);
    tracing::info!(
        snapshot_index = index,
        remote_peer_id = id,
        bytes,
        size,
        "sending database snapshot"
    );
    if let Err(error) = post(shared, peer, snapshot).await {
        tracing::warn!(
            snapshot_index = index,
            remote_peer_id = id,
            bytes,
            size,
            %error,
            "failed to send database snapshot"
        );
        return Err(error.into());
    }
    peer.status.activate();
    peer.metrics.sent_bytes.add(bytes);
    shared.metrics.network_snapshot_send_success.with([id]).increment();
    let durations = &shared.metrics.network_snapshot_send_total_duration_seconds;
    durations.with([id]).observe_duration(started.elapsed());
    tracing::info!(
        snapshot_index = index,
        remote_peer_id = id,
        bytes,
        size,
        "sent database snapshot"
    );
    Ok(())
}

async fn post(shared: &Shared, peer: &Peer, snapshot: OutgoingSnapshot) -> Result<(), Error> {
    const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
    let url = peer.urls.pick();
    let mut head = BytesMut::new();
    frame::encode(&snapshot.message, &mut head);
    let sent = CancellationToken::new();
    let body =
        SnapshotBody { head: Some(head.freeze()), chunks: snapshot.chunks, sent: sent.clone() };
    let answer = async {
        let mut connection = pipeline::dial(shared, &url, STALL).await?;
        let request = pipeline::post_request(shared, "/raft/snapshot", OCTETS, Box::pin(body));
        connection.call(request).await
    };
    let too_late = async {
        sent.cancelled().await;
        tokio::time::sleep(ANSWER_TIMEOUT).await;
    };
    let answer = tokio::select! {
        answer = answer => answer,
        () = too_late => Err(connection::Error::Timeout(ANSWER_TIMEOUT)),
    };
    let result =
        answer.map_err(Error::from).and_then(|answer| pipeline::check_answer(&url, &answer, true));
    result.inspect_err(|_| peer.urls.avoid(&url))
}

/// The body of a snapshot request.
struct SnapshotBody {
    head: Option<Bytes>,
    chunks: Chunks,
    /// Triggered at the end.
    sent: CancellationToken,
}

impl Body for SnapshotBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(head) = self.head.take() {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        let chunk = std::task::ready!(self.chunks.poll_next(context));
        if matches!(chunk, Ok(None)) {
            self.sent.cancel();
        }
        Poll::Ready(chunk.transpose().map(|chunk| chunk.map(Frame::data)))
    }
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("failed to decode raft message ({0})")]
    Decode(String),
    #[error("wrong raft message type")]
    WrongType,
    #[error("failed to save KV snapshot ({0})")]
    Save(#[source] io::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Takes a snapshot from the body of a request.
///
/// It runs as a task of its own: a connection that breaks drops what serves its request, but what writes the file has
/// to end in order.
pub(crate) async fn receive(shared: &Arc<Shared>, body: Incoming) -> Result<(), ReceiveError> {
    let (result, received) = oneshot::channel();
    let stop = shared.stopped().clone();
    let task = {
        let shared = shared.clone();
        async move {
            // Nobody waits for the result when the connection has gone.
            let _ = result.send(take(&shared, PieceReader { body }).await);
        }
    };
    shared.spawn(&stop, task);
    let stopping = |_| Err(ReceiveError::Save(io::Error::other("the member stops")));
    received.await.unwrap_or_else(stopping)
}

async fn take(shared: &Shared, mut body: PieceReader) -> Result<(), ReceiveError> {
    let started = Instant::now();
    let (message, rest) = read_head(&mut body).await.inspect_err(|_| {
        shared
            .metrics
            .network_snapshot_receive_failures
            .with(["UNKNOWN_SNAPSHOT_SENDER"])
            .increment();
    })?;
    let from = format!("{:x}", message.from);
    let in_flight = shared.metrics.network_snapshot_receive_inflights_total.with([&from]);
    in_flight.increment();
    let received = save_and_step(shared, message, rest, &mut body).await;
    in_flight.decrement();
    let metrics = &shared.metrics;
    match &received {
        Ok(()) => {
            metrics.network_snapshot_receive_success.with([&from]).increment();
            let durations = &metrics.network_snapshot_receive_total_duration_seconds;
            durations.with([&from]).observe_duration(started.elapsed());
        }
        Err(_) => metrics.network_snapshot_receive_failures.with([&from]).increment(),
    }
    received
}

/// Reads the message in front of the database. Returns it with what came of the database already.
async fn read_head(body: &mut PieceReader) -> Result<(Message, Bytes), ReceiveError> {
    let failed = |error: &dyn std::fmt::Display| ReceiveError::Decode(error.to_string());
    let mut buffer = BytesMut::new();
    loop {
        match frame::decode(&mut buffer, SNAPSHOT_HEAD_BYTES_MAX).map_err(|error| failed(&error))? {
            Some(Item::Message(message)) if message.r#type() == MessageType::MsgSnap => {
                return Ok((message, buffer.freeze()));
            }
            Some(_) => return Err(ReceiveError::WrongType),
            None => {}
        }
        match body.next().await {
            Some(Ok(piece)) => buffer.extend_from_slice(&piece),
            Some(Err(error)) => return Err(failed(&error)),
            None => return Err(failed(&frame::Error::Truncated)),
        }
    }
}

async fn save_and_step(
    shared: &Shared,
    message: Message,
    rest: Bytes,
    body: &mut PieceReader,
) -> Result<(), ReceiveError> {
    let started = Instant::now();
    let local_member_id = format!("{:x}", shared.identity.member);
    let remote_snapshot_sender_id = format!("{:x}", message.from);
    let index = snapshot_index(&message);
    tracing::info!(
        local_member_id,
        remote_snapshot_sender_id,
        incoming_snapshot_index = index,
        "receiving database snapshot"
    );
    let (sender, chunks) = chunks();
    let incoming = IncomingSnapshot { message: message.clone(), chunks };
    let saved = shared.callbacks().snapshot_receiver.receive(incoming);
    let (bytes, saved) = tokio::join!(forward(rest, body, sender), saved);
    if let Err(error) = saved {
        tracing::warn!(
            local_member_id,
            remote_snapshot_sender_id,
            incoming_snapshot_index = index,
            %error,
            "failed to save incoming database snapshot"
        );
        return Err(ReceiveError::Save(error));
    }
    shared.metrics.network_peer_received_bytes_total.with([&remote_snapshot_sender_id]).add(bytes);
    tracing::info!(
        local_member_id,
        remote_snapshot_sender_id,
        incoming_snapshot_index = index,
        incoming_snapshot_size_bytes = bytes,
        incoming_snapshot_size = logging::size(bytes),
        download_took = %logging::took(started.elapsed()),
        "received and saved database snapshot"
    );
    shared.step(message)?;
    shared.inbox().stepped();
    Ok(())
}

/// Passes the pieces of the body on. Returns their bytes.
async fn forward(rest: Bytes, body: &mut PieceReader, sender: ChunkSender) -> u64 {
    let mut bytes = 0;
    let mut piece = Some(Ok(rest));
    loop {
        match piece {
            Some(Ok(data)) => {
                bytes += data.len() as u64;
                // The receiver may have given up; its own result says why.
                if !data.is_empty() && sender.send(data).await.is_err() {
                    return bytes;
                }
            }
            Some(Err(error)) => {
                sender.fail(error).await;
                return bytes;
            }
            None => {
                let _ = sender.finish().await;
                return bytes;
            }
        }
        piece = body.next().await;
    }
}

/// Reads a body piece by piece, none of which may be late.
struct PieceReader {
    body: Incoming,
}

impl PieceReader {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let body = &mut self.body;
            let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
            match timeout(STALL, frame).await {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Ok(Some(Err(error))) => return Some(Err(io::Error::other(error))),
                Err(_) => {
                    let text = "the sender of the snapshot stands still";
                    return Some(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
                }
            }
        }
    }
}
