//! Single messages by POST, while no stream is up: the first votes of a start, answers to a member that is not known
//! yet.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use prost::Message as _;
use retcd_net::url::Url;
use tokio::time::timeout;

use bytes::Bytes;

use super::connection::{self, Connection, RequestBody};
use super::network::{Peer, Shared};
use super::wire::headers::Mismatch;

/// POSTs on their way to one peer at the same time.
pub(crate) const WORKERS: usize = 4;

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Request(#[from] connection::Error),
    #[error("the member was removed from the cluster")]
    Removed,
    #[error("{0}")]
    Mismatch(Mismatch),
    #[error("unexpected http status {status} while posting to {url:?}: {text}")]
    Status { status: StatusCode, url: String, text: String },
}

/// Sends what waits for the pipeline, until the peer is removed or the transport stops.
pub(crate) async fn run_worker(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut connection = None;
    loop {
        let Some(message) = peer.outbox.pop_for_pipeline() else {
            peer.outbox.pipeline_news.notified().await;
            continue;
        };
        let is_own = message.from == shared.identity.member;
        let body: Bytes = message.encode_to_vec().into();
        let bytes = body.len() as u64;
        match post(&shared, &peer, &mut connection, body, is_own).await {
            Ok(()) => {
                peer.status.activate();
                peer.metrics.sent_bytes.add(bytes);
            }
            Err(error) => {
                connection = None;
                peer.status.deactivate("pipeline", "write", &error);
                peer.metrics.send_failures.increment();
                shared.note_loss(&peer);
                if matches!(error, Error::Removed) {
                    shared.inbox().local_removed();
                }
            }
        }
    }
}

async fn post(
    shared: &Shared,
    peer: &Peer,
    connection: &mut Option<(Url, Connection)>,
    body: Bytes,
    is_own: bool,
) -> Result<(), Error> {
    let url = peer.urls.pick();
    if connection.as_ref().is_some_and(|(at, connection)| *at != url || !connection.is_usable()) {
        *connection = None;
    }
    let was_open = connection.is_some();
    let result = try_post(shared, connection, &url, body.clone(), is_own).await;
    let result = match result {
        // The peer had closed a connection that was idle; that says nothing about a new one. What may have arrived is
        // never sent again: a proposal must not be made twice.
        Err(Error::Request(error)) if was_open && error.is_unsent() => {
            *connection = None;
            try_post(shared, connection, &url, body, is_own).await
        }
        other => other,
    };
    if result.is_err() {
        peer.urls.avoid(&url);
    }
    result
}

async fn try_post(
    shared: &Shared,
    connection: &mut Option<(Url, Connection)>,
    url: &Url,
    body: Bytes,
    is_own: bool,
) -> Result<(), Error> {
    let settings = &shared.settings;
    // A message that is not taken in this time is lost.
    let limit = settings.read_timeout;
    let answer = async {
        let stall = settings.write_timeout;
        let (_, connection) = match connection {
            Some(open) => open,
            None => connection.insert((url.clone(), dial(shared, url, stall).await?)),
        };
        connection.call(post_request(shared, "/raft", PROTOBUF, connection::full_body(body))).await
    };
    let answer = timeout(limit, answer).await;
    let answer = answer.unwrap_or(Err(connection::Error::Timeout(limit)))?;
    check_answer(url, &answer, is_own)
}

pub(crate) const PROTOBUF: HeaderValue = HeaderValue::from_static("application/protobuf");

pub(crate) async fn dial(
    shared: &Shared,
    url: &Url,
    stall: Duration,
) -> Result<Connection, connection::Error> {
    let limit = shared.settings.dial_timeout;
    let opened = timeout(limit, Connection::open(&shared.settings.dialer, url, stall)).await;
    let opened = opened.map_err(|_| connection::Error::Timeout(limit))?;
    opened.map_err(|source| connection::Error::Dial { url: url.to_string(), source })
}

/// A POST from this member.
pub(crate) fn post_request(
    shared: &Shared,
    path: &'static str,
    content_type: HeaderValue,
    body: RequestBody,
) -> Request<RequestBody> {
    let mut headers: HeaderMap = shared.identity.headers();
    headers.insert(CONTENT_TYPE, content_type);
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    *request.headers_mut() = headers;
    request
}

/// Whether a peer has taken a message. A refusal of a removed member's message concerns this member only if the message
/// is its own, and not one that it forwarded.
pub(crate) fn check_answer(url: &Url, answer: &Response<Bytes>, is_own: bool) -> Result<(), Error> {
    let text = String::from_utf8_lossy(answer.body());
    match answer.status() {
        StatusCode::NO_CONTENT => Ok(()),
        // The other reason for this status is a message that was meant for another member.
        StatusCode::FORBIDDEN if is_own && !text.contains("mismatch") => Err(Error::Removed),
        status => {
            let reason = Mismatch::from_text(&text);
            let reason = reason.filter(|_| status == StatusCode::PRECONDITION_FAILED);
            Err(reason.map_or_else(|| unexpected(status, url, &text), Error::Mismatch))
        }
    }
}

fn unexpected(status: StatusCode, url: &Url, text: &str) -> Error {
    Error::Status {
        status,
        url: url.to_string(),
        text: text.trim_end().chars().take(200).collect(),
    }
}
