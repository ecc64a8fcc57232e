//! The peer port: which request goes where, and Raft's own requests.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message as _;
use retcd_api::ETCD_VERSION;
use retcd_api::raftpb::Message;
use retcd_net::listener::{Listener, Socket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::connection::WriteGuard;
use super::inbox::StreamKind;
use super::network::{Refusal, Shared};
use super::probe;
use super::requests;
use super::snapshot_stream::{self, ReceiveError};
use super::wire::frame::MESSAGE_BYTES_MAX;
use super::wire::headers::{self, CLUSTER_ID, RAFT_TO, SERVER_VERSION};
use super::writer::StreamBody;
use crate::config::UrlKind;
use crate::doors::Entry;

/// How long a connection may be idle between two requests, and a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// A message's body may not stand still for longer.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, out of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const TEXT: &str = "text/plain; charset=utf-8";

/// Accepts and serves connections until the transport stops.
pub(crate) async fn accept(shared: Arc<Shared>, listener: Listener, entry: Entry) {
    let stop = shared.stopped().clone();
    let spawner = shared.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok(socket) => {
                let (shared, entry) = (shared.clone(), entry.clone());
                let task = async move { admit(shared, socket, &entry).await };
                spawner.spawn(&stop, task);
            }
            Err(error) => {
                tracing::warn!(%error, url = %listener.url(), "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn admit(shared: Arc<Shared>, socket: Socket, entry: &Entry) {
    let remote = socket.remote_addr();
    let Ok(stream) = socket.into_stream() else { return };
    let Some(stream) = entry.admit(stream, remote, UrlKind::Peer).await else { return };
    let remote = remote.map_or_else(|| "unix".to_owned(), |at| at.to_string());
    serve(shared, stream, remote).await;
}

/// Serves a connection until it breaks. Streams end with it, or when the transport stops.
pub(crate) async fn serve<IO>(shared: Arc<Shared>, io: IO, remote: String)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let remote: Arc<str> = remote.into();
    let service = service_fn(|request| {
        let (shared, remote) = (shared.clone(), remote.clone());
        async move { Ok::<_, Infallible>(answer(&shared, request, &remote).await) }
    });
    let io = TokioIo::new(WriteGuard::new(io, shared.settings.write_timeout));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(io, service);
    if let Err(error) = connection.await {
        tracing::debug!(remote_address = &*remote, %error, "a peer's connection ended");
    }
}

async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    remote: &str,
) -> Response<Answer> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/raft" => {
            let answer = match refuse(shared, &head.method, &Method::POST, &head.headers) {
                Some(refusal) => refusal,
                None => message(shared, &head.headers, body, remote).await,
            };
            with_cluster_id(shared, answer)
        }
        "/raft/snapshot" => {
            let answer = match refuse(shared, &head.method, &Method::POST, &head.headers) {
                Some(refusal) => refusal,
                None => snapshot(shared, &head.headers, body, remote).await,
            };
            with_cluster_id(shared, answer)
        }
        "/raft/probing" => probe::answer(),
        path if path.starts_with("/raft/stream/") => {
            let answer = match check(shared, &head.method, &Method::GET, &head.headers) {
                Some(refusal) => refusal,
                None => stream(shared, path, &head.headers),
            };
            let mut answer = with_cluster_id(shared, answer);
            answer.headers_mut().insert(SERVER_VERSION, HeaderValue::from_static(ETCD_VERSION));
            answer
        }
        _ => requests::answer(shared, &head, body).await,
    }
}

/// The refusal of a request that has the wrong method or comes from somewhere else.
fn check(
    shared: &Shared,
    method: &Method,
    expected: &Method,
    headers: &HeaderMap,
) -> Option<Response<Answer>> {
    if method != expected {
        return Some(wrong_method(expected));
    }
    let mismatch = headers::check(headers, shared.identity.cluster).err()?;
    tracing::warn!(
        local_member_id = %format!("{:x}", shared.identity.member),
        local_member_cluster_id = %format!("{:x}", shared.identity.cluster),
        remote_peer_cluster_id = headers::text(headers, &CLUSTER_ID).unwrap_or_default(),
        remote_peer_server_version = headers::text(headers, &SERVER_VERSION).unwrap_or_default(),
        error = %mismatch,
        "refused a request of another member"
    );
    Some(error(StatusCode::PRECONDITION_FAILED, &mismatch.to_string()))
}

/// The same for requests that bring a message; their senders are remembered.
fn refuse(
    shared: &Arc<Shared>,
    method: &Method,
    expected: &Method,
    headers: &HeaderMap,
) -> Option<Response<Answer>> {
    let refusal = check(shared, method, expected, headers);
    if refusal.is_none()
        && let Some((id, urls)) = headers::sender(headers)
    {
        shared.add_remote(id, &urls);
    }
    refusal
}

async fn message(
    shared: &Shared,
    headers: &HeaderMap,
    body: Incoming,
    remote: &str,
) -> Response<Answer> {
    let failures = &shared.metrics.network_peer_received_failures_total;
    let max = usize::try_from(MESSAGE_BYTES_MAX).unwrap_or(usize::MAX);
    let bytes = match read(body, max).await {
        Ok(bytes) => bytes,
        Err(reason) => {
            tracing::warn!(%reason, remote_address = remote, "failed to read Raft message");
            failures.with([remote]).increment();
            return error(StatusCode::BAD_REQUEST, "error reading raft message");
        }
    };
    let message = match Message::decode(&*bytes) {
        Ok(message) => message,
        Err(reason) => {
            tracing::warn!(%reason, remote_address = remote, "failed to unmarshal Raft message");
            failures.with([remote]).increment();
            return error(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
        }
    };
    let received = &shared.metrics.network_peer_received_bytes_total;
    received.with([&format!("{:x}", message.from)]).add(bytes.len() as u64);
    match shared.step(message) {
        Ok(()) => {
            shared.inbox().stepped();
            taken()
        }
        Err(refusal) => forbidden(refusal, headers),
    }
}

fn taken() -> Response<Answer> {
    respond(StatusCode::NO_CONTENT, "", Bytes::new())
}

/// Tells the sender why its message was not taken. One that hears of a removed member takes itself for removed and stops;
/// so who only forwarded the message hears nothing.
fn forbidden(refusal: Refusal, headers: &HeaderMap) -> Response<Answer> {
    let is_forwarded = |writer| headers::sender(headers).is_some_and(|(id, _)| id != writer);
    match refusal {
        Refusal::Removed(writer) if is_forwarded(writer) => taken(),
        Refusal::Removed(_) | Refusal::Mismatch => {
            let reason = format!(r#"{{"message":"{refusal}"}}"#);
            respond(StatusCode::FORBIDDEN, "application/json", reason)
        }
    }
}

async fn snapshot(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    body: Incoming,
    remote: &str,
) -> Response<Answer> {
    match snapshot_stream::receive(shared, body).await {
        Ok(()) => taken(),
        Err(ReceiveError::Refused(refusal)) => forbidden(refusal, headers),
        Err(reason @ ReceiveError::Save(_)) => {
            error(StatusCode::INTERNAL_SERVER_ERROR, &reason.to_string())
        }
        Err(reason @ (ReceiveError::Decode(_) | ReceiveError::WrongType)) => {
            tracing::warn!(%reason, remote_address = remote, "refused a snapshot");
            shared.metrics.network_peer_received_failures_total.with([remote]).increment();
            error(StatusCode::BAD_REQUEST, &reason.to_string())
        }
    }
}

/// Opens a stream to the member that asks for it.
fn stream(shared: &Arc<Shared>, path: &str, headers: &HeaderMap) -> Response<Answer> {
    let named = path.rsplit_once('/').unwrap_or_default();
    let Some(kind) = StreamKind::BOTH.into_iter().find(|kind| kind.path() == named.0) else {
        return error(StatusCode::NOT_FOUND, "invalid path");
    };
    let Some(from) = headers::parse_id(named.1) else {
        return error(StatusCode::NOT_FOUND, "invalid from");
    };
    let local_member_id = format!("{:x}", shared.identity.member);
    let remote_peer_id_from = format!("{from:x}");
    if shared.inbox().is_removed(from) {
        tracing::warn!(
            local_member_id,
            remote_peer_id_from,
            "rejected stream from remote peer because it was removed"
        );
        return error(StatusCode::GONE, "removed member");
    }
    let Some(peer) = shared.member(from) else {
        shared.add_remote(from, &headers::peer_urls(headers));
        tracing::warn!(
            local_member_id,
            remote_peer_id_from,
            cluster_id = %format!("{:x}", shared.identity.cluster),
            "failed to find remote peer in cluster"
        );
        return error(StatusCode::NOT_FOUND, "error sender not found");
    };
    let asked = headers::text(headers, &RAFT_TO).unwrap_or_default();
    if asked != local_member_id {
        tracing::warn!(
            local_member_id,
            remote_peer_id_from,
            remote_peer_id_header = asked,
            "ignored streaming request; ID mismatch"
        );
        return error(StatusCode::PRECONDITION_FAILED, "to field mismatch");
    }
    Response::new(Answer::Stream(StreamBody::attach(shared.clone(), peer, kind)))
}

/// The body of an answer.
pub(crate) enum Answer {
    Plain(Option<Bytes>),
    Stream(StreamBody),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Plain(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Plain(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the body is too long")]
    TooLong,
    #[error("{0}")]
    Broken(String),
}

/// Reads a whole body of at most `max` bytes.
pub(crate) async fn read(mut body: Incoming, max: usize) -> Result<Bytes, ReadError> {
    let mut bytes = BytesMut::new();
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = timeout(BODY_TIMEOUT, frame).await;
        let frame = frame.map_err(|_| ReadError::Broken("the sender stands still".to_owned()))?;
        let Some(frame) = frame else { return Ok(bytes.freeze()) };
        let frame = frame.map_err(|error| ReadError::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(ReadError::TooLong);
        }
        bytes.extend_from_slice(&data);
    }
}

fn with_cluster_id(shared: &Shared, mut answer: Response<Answer>) -> Response<Answer> {
    answer.headers_mut().insert(CLUSTER_ID, headers::id_value(shared.identity.cluster));
    answer
}

/// An answer with a body; without a content type when that is empty.
pub(crate) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Answer> {
    let body = Some(body.into()).filter(|bytes| !bytes.is_empty());
    let mut answer = Response::new(Answer::Plain(body));
    *answer.status_mut() = status;
    if !content_type.is_empty() {
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    answer
}

/// As Go's `http.Error` writes it.
pub(crate) fn error(status: StatusCode, text: &str) -> Response<Answer> {
    let mut answer = respond(status, TEXT, format!("{text}\n"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

pub(crate) fn not_found() -> Response<Answer> {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

pub(crate) fn wrong_method(expected: &Method) -> Response<Answer> {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let allowed = if *expected == Method::GET { "GET" } else { "POST" };
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}
