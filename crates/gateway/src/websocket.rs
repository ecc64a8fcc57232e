//! A call over WebSocket, for browsers: they cannot send a request body that stays open.
//!
//! Each message of the client is a piece of the request body, each line of the answer a message back. What the path
//! leads to is answered as over HTTP, be it a stream, a single answer or an error, and then the connection is closed.
//! Browsers cannot set headers either: the token comes in `Sec-WebSocket-Protocol: Bearer, TOKEN`, which is answered
//! with `Bearer`, or in a cookie named `token`. All of this is how etcd's gateway does it; the frame that says good bye
//! is ours.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::call::{self, Limits, Services};
use crate::frames::{self, CloseCode, FrameReader, Incoming};
use crate::reply::{Body, Lines};
use crate::requests::json_bytes_max;

/// The key is hashed with this, to prove that the server knows what it agrees to (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A client that sends faster than the call reads waits behind this many messages.
const MESSAGES_WAITING_MAX: usize = 1;

/// A request to speak WebSocket that can be granted.
#[derive(Debug)]
pub struct Upgrade {
    /// What the call sees: the path, and the token if there is one.
    request: Request<()>,
    accept: HeaderValue,
    is_bearer: bool,
}

/// Whether the client asks for WebSocket.
pub fn is_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && has_token(request.headers(), &CONNECTION, "upgrade")
        && has_token(request.headers(), &UPGRADE, "websocket")
}

impl Upgrade {
    /// # Errors
    /// What a request that is no proper handshake is [refused](refuse) with.
    pub fn new<B>(request: &Request<B>) -> Result<Self, StatusCode> {
        let headers = request.headers();
        if request.method() != Method::GET {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
        let is_key = BASE64_STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
        if !is_key || !has_token(headers, &SEC_WEBSOCKET_VERSION, "13") {
            return Err(StatusCode::BAD_REQUEST);
        }
        let mut call = Request::new(());
        *call.method_mut() = Method::POST;
        *call.uri_mut() = request.uri().clone();
        if let Some(token) = token(headers) {
            call.headers_mut().insert(AUTHORIZATION, token);
        }
        let protocol = headers.get(SEC_WEBSOCKET_PROTOCOL);
        let is_bearer = protocol.is_some_and(|value| value.as_bytes().starts_with(b"Bearer"));
        Ok(Self { request: call, accept: accept(key), is_bearer })
    }

    /// The answer after which [`serve`](Self::serve) takes over.
    pub fn response(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        if self.is_bearer {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
        }
        response
    }

    /// Makes the call and carries its messages, until it ends or the client goes.
    pub async fn serve<IO>(self, io: IO, services: &(impl Services + Sync), limits: Limits)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        let request = self.request.map(|()| Messages { receiver, needs_newline: false });
        let mut socket = Socket { io, frames: FrameReader::new(json_bytes_max(limits)) };
        let mut answer = Answer::Opening(Box::pin(call::handle(request, services, limits)));
        // An error means that the client has gone: then there is nobody to tell.
        let _ = carry(&mut socket, &mut answer, sender).await;
    }
}

/// The answer to what looks like a handshake and is none.
pub fn refuse(status: StatusCode) -> Response<Bytes> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut response = Response::new(Bytes::from(format!("{reason}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// Moves messages in both directions. While one direction waits, the other goes on, but for the time in which the
/// client does not read what is written to it.
async fn carry<IO, F>(
    socket: &mut Socket<IO>,
    answer: &mut Answer<F>,
    sender: mpsc::Sender<Bytes>,
) -> std::io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<Body>>,
{
    // A message that the call has no room for yet. No other is read before.
    let mut held: Option<Bytes> = None;
    loop {
        tokio::select! {
            message = std::future::poll_fn(|context| answer.poll_message(context)) => match message {
                Some(message) => socket.write(&frames::text(&message)).await?,
                None => return socket.write(&frames::close(CloseCode::Normal)).await,
            },
            permit = sender.reserve(), if held.is_some() => {
                let message = held.take().expect("only then a permit is asked for");
                // A call that reads no more is not told any more; what the client says then means nothing.
                if let Ok(permit) = permit {
                    permit.send(message);
                }
            },
            incoming = socket.read(), if held.is_none() => match incoming? {
                Ok(Incoming::Message(message)) => held = Some(message),
                Ok(Incoming::Ping(payload)) => socket.write(&frames::pong(&payload)).await?,
                Ok(Incoming::Pong) => {}
                Ok(Incoming::Close) => {
                    return socket.write(&frames::close(CloseCode::Normal)).await;
                }
                Err(code) => return socket.write(&frames::close(code)).await,
            },
        }
    }
}

/// The connection behind the handshake.
struct Socket<IO> {
    io: IO,
    frames: FrameReader,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Socket<IO> {
    /// The next thing that the client has sent. Loses nothing when it is dropped while it waits.
    async fn read(&mut self) -> std::io::Result<Result<Incoming, CloseCode>> {
        loop {
            match self.frames.next() {
                Ok(Some(incoming)) => return Ok(Ok(incoming)),
                Err(code) => return Ok(Err(code)),
                Ok(None) => {}
            }
            if self.io.read_buf(self.frames.buffer()).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn write(&mut self, frame: &[u8]) -> std::io::Result<()> {
        self.io.write_all(frame).await?;
        self.io.flush().await
    }
}

/// The call, from its beginning to its last message.
enum Answer<F> {
    Opening(Pin<Box<F>>),
    Lines(Box<Lines>),
    Over,
}

impl<F: Future<Output = Response<Body>>> Answer<F> {
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match self {
                Answer::Opening(response) => {
                    match ready!(response.as_mut().poll(context)).into_body() {
                        Body::Whole(message) => {
                            *self = Answer::Over;
                            return Poll::Ready(Some(message));
                        }
                        Body::Lines(lines) => *self = Answer::Lines(lines),
                    }
                }
                Answer::Lines(lines) => {
                    let line = ready!(lines.poll_line(context));
                    // The end of a message needs no mark of its own.
                    return Poll::Ready(line.map(|line| line.slice(..line.len() - 1)));
                }
                Answer::Over => return Poll::Ready(None),
            }
        }
    }
}

/// The client's messages as a request body: a newline stands between two of them.
struct Messages {
    receiver: mpsc::Receiver<Bytes>,
    needs_newline: bool,
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if std::mem::take(&mut self.needs_newline) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"\n")))));
        }
        let message = ready!(self.receiver.poll_recv(context));
        self.needs_newline = message.is_some();
        Poll::Ready(message.map(|message| Ok(Frame::data(message))))
    }
}

/// Whether one of the words of a header is this one.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// The token as a header, from wherever a browser can put it.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let cookie = text(COOKIE).and_then(|cookies| {
        cookies.split(';').find_map(|cookie| cookie.trim().strip_prefix("token="))
    });
    let protocol = || text(SEC_WEBSOCKET_PROTOCOL)?.split_once("Bearer,").map(|(_, token)| token);
    match cookie.or_else(protocol) {
        Some(token) => HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok(),
        // Programs that are no browser may say it in the usual way.
        None => headers.get(AUTHORIZATION).cloned(),
    }
}

fn accept(key: &[u8]) -> HeaderValue {
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::from_str(&BASE64_STANDARD.encode(hash)).expect("base64 is ASCII")
}

#[cfg(test)]
mod tests;
