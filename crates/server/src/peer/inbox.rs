//! The way in: streams that this member opens at a peer, and what reads them.
//!
//! A reader dials, decodes, steps, and dials again when the stream breaks. Its first attempts after a loss follow each
//! other closely: a port that refuses then says that the peer's process is gone, and Raft may hold its election at once
//! instead of waiting for a timeout. An attempt that finds the port merely silent says nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, Request, StatusCode};
use retcd_api::raftpb::Message;
use tokio::time::timeout;

use super::connection::{self, Connection, Streaming};
use super::network::Peer;
use super::network::Shared;
use super::wire::append;
use super::wire::frame::{self, Item, MESSAGE_BYTES_MAX};
use super::wire::headers::{self, Mismatch, RAFT_TO};

/// What the transport tells the member. Called on the background runtime, with none of the transport's locks held; a
/// call must not wait.
pub(crate) trait Inbox: Send + Sync + 'static {
    /// A message for Raft, addressed to this member by a member that was not removed.
    fn step(&self, message: Message);

    /// The messages that came together have all been stepped: the time to see what Raft made of them.
    fn stepped(&self) {}

    /// Messages to this member were lost.
    fn report_unreachable(&self, id: u64);

    /// A snapshot has arrived whole at the member, or it has not.
    fn report_snapshot(&self, id: u64, delivered: bool);

    /// Whether the member was removed from the cluster, for good.
    fn is_removed(&self, id: u64) -> bool;

    /// The member's process ended: its streams broke and its port refuses. Told once per loss; a hint, not a proof.
    fn peer_died(&self, id: u64);

    /// Another member says that this one was removed from the cluster. May be told more than once.
    fn local_removed(&self);
}

/// The two streams between a writer and a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// A leader's appends.
    Append,
    /// Everything else.
    Message,
}

impl StreamKind {
    pub(crate) const BOTH: [Self; 2] = [Self::Append, Self::Message];

    /// The path without the id of the dialler.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Append => "/raft/stream/msgapp",
            Self::Message => "/raft/stream/message",
        }
    }

    /// As etcd's logs call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Append => "stream MsgApp v2",
            Self::Message => "stream Message",
        }
    }
}

/// Pause between two attempts at a peer that is not there.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);
/// Pauses before the first attempts after a stream broke.
const PAUSES_AFTER_LOSS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
];
/// A stream that broke sooner than this was no proof of a healthy peer: no close attempts after it.
const STEADY: Duration = Duration::from_secs(1);

/// A buffer that one large message has blown up is not kept.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// Why a stream could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("dial: {0}")]
    Dial(#[source] io::Error),
    #[error(transparent)]
    Request(#[from] connection::Error),
    #[error("the member was removed from the cluster")]
    Removed,
    #[error("the peer does not know this member")]
    Unknown,
    #[error("{0}")]
    Mismatch(Mismatch),
    #[error("unexpected status {0}")]
    Status(StatusCode),
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("the peer ended the stream")]
    Ended,
    #[error(transparent)]
    Frame(#[from] frame::Error),
}

impl Error {
    fn is_refused(&self) -> bool {
        matches!(self, Self::Dial(error) if connection::is_refused(error))
    }
}

/// Keeps one stream from a peer open until the peer is removed or the transport stops.
pub(crate) async fn read_stream(shared: Arc<Shared>, peer: Arc<Peer>, kind: StreamKind) {
    let reader = Reader { shared: &shared, peer: &peer, kind };
    let mut pauses = [].iter();
    let mut last_failure = None;
    let mut refused_in_a_row = 0;
    loop {
        match reader.open().await {
            Ok(stream) => {
                refused_in_a_row = 0;
                last_failure = None;
                let was_steady = reader.serve(stream).await;
                pauses = if was_steady { PAUSES_AFTER_LOSS.iter() } else { [].iter() };
            }
            Err(error) => {
                // A cause that lasts is told once, not ten times a second.
                let failure = Some(std::mem::discriminant(&error));
                reader.note_failure(&error, failure != last_failure);
                last_failure = failure;
                refused_in_a_row = if error.is_refused() { refused_in_a_row + 1 } else { 0 };
                if refused_in_a_row >= peer.urls.len() {
                    reader.note_refusal();
                    pauses = [].iter();
                } else if refused_in_a_row > 0 {
                    // The peer may live at another of its URLs.
                    continue;
                }
            }
        }
        tokio::time::sleep(pauses.next().copied().unwrap_or(REDIAL_PAUSE)).await;
    }
}

struct Reader<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    kind: StreamKind,
}

impl Reader<'_> {
    async fn open(&self) -> Result<Streaming, Error> {
        let url = self.peer.urls.pick();
        let limit = self.shared.settings.dial_timeout;
        let opened = timeout(limit, self.open_at(&url)).await;
        let opened = opened.unwrap_or(Err(Error::Silent(limit)));
        if opened.is_err() {
            self.peer.urls.avoid(&url);
        }
        opened
    }

    async fn open_at(&self, url: &retcd_net::url::Url) -> Result<Streaming, Error> {
        let stall = self.shared.settings.write_timeout;
        let dialer = &self.shared.settings.dialer;
        let connection = Connection::open(dialer, url, stall).await.map_err(Error::Dial)?;
        let mut request = Request::new(connection::empty_body());
        *request.method_mut() = Method::GET;
        let path = format!("{}/{:x}", self.kind.path(), self.shared.identity.member);
        *request.uri_mut() = path.parse().expect("a path of plain characters");
        *request.headers_mut() = self.shared.identity.headers();
        request.headers_mut().insert(RAFT_TO, headers::id_value(self.peer.id));
        let answer = connection.into_stream(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::GONE => Err(Error::Removed),
            StatusCode::NOT_FOUND => Err(Error::Unknown),
            StatusCode::PRECONDITION_FAILED => {
                let text = answer.into_text().await?;
                let reason = Mismatch::from_text(&text);
                Err(reason.map_or(Error::Status(StatusCode::PRECONDITION_FAILED), Error::Mismatch))
            }
            other => Err(Error::Status(other)),
        }
    }

    /// Reads a stream to its end. Returns whether it has lasted.
    async fn serve(&self, stream: Streaming) -> bool {
        let since = tokio::time::Instant::now();
        self.peer.status.activate();
        self.peer.status.stream_came();
        tracing::info!(
            stream_reader_type = self.kind.name(),
            local_member_id = %format!("{:x}", self.shared.identity.member),
            remote_peer_id = %format!("{:x}", self.peer.id),
            "established TCP streaming connection with remote peer"
        );
        let error = match self.kind {
            StreamKind::Append => {
                let mut decoder = append::Decoder::new(self.shared.identity.member, self.peer.id);
                self.read(stream, move |buffer| decoder.decode(buffer)).await
            }
            StreamKind::Message => {
                self.read(stream, |buffer| frame::decode(buffer, MESSAGE_BYTES_MAX)).await
            }
        };
        self.peer.status.stream_went();
        tracing::warn!(
            stream_reader_type = self.kind.name(),
            local_member_id = %format!("{:x}", self.shared.identity.member),
            remote_peer_id = %format!("{:x}", self.peer.id),
            %error,
            "lost TCP streaming connection with remote peer"
        );
        if !matches!(error, Error::Ended) {
            self.peer.metrics.receive_failures.increment();
            self.peer.status.deactivate(self.kind.name(), "read", &error);
        }
        since.elapsed() >= STEADY
    }

    /// Steps what comes until the stream ends, and says why it did.
    async fn read(
        &self,
        mut stream: Streaming,
        mut decode: impl FnMut(&mut BytesMut) -> Result<Option<Item>, frame::Error>,
    ) -> Error {
        let limit = self.shared.settings.read_timeout;
        let mut buffer = BytesMut::new();
        loop {
            let piece = match timeout(limit, stream.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => return error.into(),
                Ok(None) if buffer.is_empty() => return Error::Ended,
                Ok(None) => return frame::Error::Truncated.into(),
                Err(_) => return Error::Silent(limit),
            };
            self.peer.metrics.received_bytes.add(piece.len() as u64);
            buffer.extend_from_slice(&piece);
            let mut has_stepped = false;
            let result = loop {
                match decode(&mut buffer) {
                    Ok(Some(Item::LinkHeartbeat)) => {}
                    Ok(Some(Item::Message(message))) => {
                        has_stepped |= self.shared.step(message).is_ok();
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            if has_stepped {
                self.shared.inbox().stepped();
            }
            if buffer.is_empty() && buffer.capacity() > BUFFER_BYTES_KEPT {
                buffer = BytesMut::new();
            }
            if let Err(error) = result {
                return error.into();
            }
        }
    }

    fn note_failure(&self, error: &Error, is_news: bool) {
        let local_member_id = format!("{:x}", self.shared.identity.member);
        let remote_peer_id = format!("{:x}", self.peer.id);
        match error {
            Error::Removed => self.shared.inbox().local_removed(),
            Error::Mismatch(Mismatch::Version) if is_news => {
                tracing::warn!(
                    local_member_id,
                    remote_peer_id,
                    %error,
                    "request sent was ignored by remote peer due to server version incompatibility"
                );
            }
            Error::Mismatch(Mismatch::ClusterId) if is_news => {
                tracing::warn!(
                    local_member_id,
                    remote_peer_id,
                    local_member_cluster_id = %format!("{:x}", self.shared.identity.cluster),
                    %error,
                    "request sent was ignored by remote peer due to cluster ID mismatch"
                );
            }
            _ => {}
        }
        self.peer.status.deactivate(self.kind.name(), "dial", error);
    }

    /// All URLs of the peer refuse connections.
    fn note_refusal(&self) {
        if self.peer.status.take_death() {
            tracing::info!(
                remote_peer_id = %format!("{:x}", self.peer.id),
                "remote peer closed its streams and refuses connections"
            );
            self.shared.inbox().peer_died(self.peer.id);
        }
    }
}
