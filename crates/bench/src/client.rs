//! gRPC over the bare h2 crate.
//!
//! The client shares its processors with the server it measures, so every microsecond here is one that the
//! server does not get. There is no retry, no balancing and no deadline: one connection, one request, one answer.
//! Encoding and framing memory belongs to the [`Channel`] and is used again once the request is on its way.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{Request, StatusCode, Uri, Version};
use prost::Message;
use tokio::net::TcpStream;

/// What a stream may have in flight: more than any answer here, so that the window never limits the server.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 20;
/// The flag byte and the length before every gRPC message.
const PREFIX_BYTES: usize = 5;

/// The calls that workloads make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    Status,
}

impl Method {
    const PATHS: [(Method, &'static str); 10] = [
        (Method::Range, "/etcdserverpb.KV/Range"),
        (Method::Put, "/etcdserverpb.KV/Put"),
        (Method::DeleteRange, "/etcdserverpb.KV/DeleteRange"),
        (Method::Txn, "/etcdserverpb.KV/Txn"),
        (Method::Compact, "/etcdserverpb.KV/Compact"),
        (Method::Watch, "/etcdserverpb.Watch/Watch"),
        (Method::LeaseGrant, "/etcdserverpb.Lease/LeaseGrant"),
        (Method::LeaseRevoke, "/etcdserverpb.Lease/LeaseRevoke"),
        (Method::LeaseKeepAlive, "/etcdserverpb.Lease/LeaseKeepAlive"),
        (Method::Status, "/etcdserverpb.Maintenance/Status"),
    ];
}

/// Why a call has no answer, or not the one that the workload expects.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("the server answered with status {code}: {message}")]
    Status { code: u32, message: String },
    #[error("the answer is not what was asked for: {0}")]
    Unexpected(String),
    #[error("cannot connect to {endpoint}")]
    Connect { endpoint: String, source: std::io::Error },
    #[error("the connection failed")]
    Transport(#[from] h2::Error),
    #[error("the server answered with HTTP status {0}")]
    Http(StatusCode),
    #[error("the server ended the stream")]
    Ended,
    #[error("a message that cannot be decoded")]
    Decode(#[from] prost::DecodeError),
    #[error("a compressed message, which was not asked for")]
    Compressed,
    #[error("{0:?} is not an address of the form host:port")]
    Address(String),
}

impl CallError {
    /// Whether the next call on the same connection may succeed: the server is there and said no.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, CallError::Status { .. } | CallError::Unexpected(_))
    }
}

/// A connection as one client uses it. Clones share the connection, not the buffers.
#[derive(Clone)]
pub(crate) struct Channel {
    sender: SendRequest<Bytes>,
    uris: Arc<[Uri]>,
    buffer: BytesMut,
}

impl Channel {
    /// Connects to `host:port` (a leading `http://` is accepted) and leaves the connection to a task.
    pub(crate) async fn connect(endpoint: &str) -> Result<Channel, CallError> {
        let address = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
        let uris: Result<Arc<[Uri]>, _> = Method::PATHS
            .iter()
            .map(|(_, path)| format!("http://{address}{path}").parse())
            .collect();
        let uris = uris.map_err(|_| CallError::Address(address.to_owned()))?;
        let refused = |source| CallError::Connect { endpoint: address.to_owned(), source };
        let socket = TcpStream::connect(address).await.map_err(refused)?;
        // Without this every call waits for the peer's delayed acknowledgement, 40 ms.
        socket.set_nodelay(true).map_err(refused)?;
        let (sender, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(socket)
            .await?;
        // A failed connection fails the calls on it, which report it.
        tokio::spawn(connection);
        Ok(Channel { sender, uris, buffer: BytesMut::new() })
    }

    /// One request, one answer, encoded.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        message: &impl Message,
    ) -> Result<Bytes, CallError> {
        let (response, mut send) = self.open(method).await?;
        send.send_data(frame(&mut self.buffer, message), true)?;
        let mut body = body_of(response).await?;
        let mut messages = Messages::default();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            messages.push(chunk);
        }
        let trailers = body.trailers().await?;
        check_status(trailers.as_ref().ok_or(CallError::Ended)?)?;
        messages.pop()?.ok_or(CallError::Ended)
    }

    /// One request, one answer.
    pub(crate) async fn ask<A: Message + Default>(
        &mut self,
        method: Method,
        message: &impl Message,
    ) -> Result<A, CallError> {
        Ok(A::decode(self.call(method, message).await?)?)
    }

    /// A stream in both directions.
    pub(crate) async fn stream(&mut self, method: Method) -> Result<Stream, CallError> {
        let (response, send) = self.open(method).await?;
        Ok(Stream {
            send,
            receive: Receive::Opening(response),
            messages: Messages::default(),
            buffer: BytesMut::new(),
        })
    }

    async fn open(
        &mut self,
        method: Method,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), CallError> {
        poll_fn(|context| self.sender.poll_ready(context)).await?;
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = Version::HTTP_2;
        request.uri_mut().clone_from(&self.uris[method as usize]);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        Ok(self.sender.send_request(request, false)?)
    }
}

enum Receive {
    /// Servers send their headers with the first message, so they must not be waited for earlier.
    Opening(ResponseFuture),
    Open(RecvStream),
}

/// An open stream of requests and answers.
pub(crate) struct Stream {
    send: SendStream<Bytes>,
    receive: Receive,
    messages: Messages,
    buffer: BytesMut,
}

impl Stream {
    pub(crate) fn send(&mut self, message: &impl Message) -> Result<(), CallError> {
        Ok(self.send.send_data(frame(&mut self.buffer, message), false)?)
    }

    /// The next message.
    ///
    /// # Errors
    /// [`CallError::Status`] when the server refuses, [`CallError::Ended`] when it ends the stream in good order:
    /// no workload expects that.
    pub(crate) async fn next(&mut self) -> Result<Bytes, CallError> {
        loop {
            if let Some(message) = self.messages.pop()? {
                return Ok(message);
            }
            let body = match &mut self.receive {
                Receive::Opening(response) => {
                    self.receive = Receive::Open(body_of(response).await?);
                    continue;
                }
                Receive::Open(body) => body,
            };
            let Some(chunk) = body.data().await else {
                if let Some(trailers) = body.trailers().await? {
                    check_status(&trailers)?;
                }
                return Err(CallError::Ended);
            };
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            self.messages.push(chunk);
        }
    }
}

async fn body_of(
    response: impl Future<Output = Result<http::Response<RecvStream>, h2::Error>>,
) -> Result<RecvStream, CallError> {
    let (head, body) = response.await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(CallError::Http(head.status));
    }
    // An answer without messages carries its status here.
    if head.headers.contains_key("grpc-status") {
        check_status(&head.headers)?;
    }
    Ok(body)
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    let status = headers.get("grpc-status").ok_or(CallError::Ended)?;
    if status == "0" {
        return Ok(());
    }
    let code = status.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let message = headers
        .get("grpc-message")
        .map(|text| percent_decoded(text.as_bytes()))
        .unwrap_or_default();
    Err(CallError::Status { code, message })
}

fn percent_decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(decoded) =
            escaped.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            out.push(decoded);
            rest = &tail[2..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes into `buffer`, whose memory is taken up again when the last frame cut from it has been sent.
pub(crate) fn frame(buffer: &mut BytesMut, message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    buffer.reserve(PREFIX_BYTES + len);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(len).expect("no request here comes near 4 GiB"));
    message.encode(buffer).expect("the buffer has room for the encoded length");
    buffer.split().freeze()
}

/// Cuts DATA chunks into gRPC messages. A chunk may hold several messages, or a part of one.
#[derive(Default)]
pub(crate) struct Messages {
    /// What is left of the only chunk, while messages do not cross chunks: no byte is copied then.
    chunk: Bytes,
    /// Everything unread, once a message has crossed a chunk.
    joined: BytesMut,
}

impl Messages {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.joined.is_empty() && self.chunk.is_empty() {
            self.chunk = chunk;
            return;
        }
        if !self.chunk.is_empty() {
            // The prefix tells the size of the whole message: reserve it once, not with every chunk.
            self.joined.reserve(
                message_len(&self.chunk).unwrap_or(0).max(self.chunk.len()) + PREFIX_BYTES,
            );
            self.joined.extend_from_slice(&self.chunk);
            self.chunk.clear();
        }
        self.joined.extend_from_slice(&chunk);
    }

    pub(crate) fn pop(&mut self) -> Result<Option<Bytes>, CallError> {
        let unread = if self.joined.is_empty() { &self.chunk[..] } else { &self.joined[..] };
        let Some(len) = message_len(unread) else { return Ok(None) };
        if unread[0] != 0 {
            return Err(CallError::Compressed);
        }
        if unread.len() < PREFIX_BYTES + len {
            return Ok(None);
        }
        if self.joined.is_empty() {
            self.chunk.advance(PREFIX_BYTES);
            Ok(Some(self.chunk.split_to(len)))
        } else {
            self.joined.advance(PREFIX_BYTES);
            Ok(Some(self.joined.split_to(len).freeze()))
        }
    }
}

fn message_len(unread: &[u8]) -> Option<usize> {
    let prefix = unread.first_chunk::<PREFIX_BYTES>()?;
    Some(u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize)
}

#[cfg(test)]
mod tests {
    use retcd_api::etcdserverpb::PutRequest;

    use super::*;

    fn framed(messages: &[&str]) -> Bytes {
        let mut buffer = BytesMut::new();
        let mut out = BytesMut::new();
        for message in messages {
            let put = PutRequest {
                value: Bytes::copy_from_slice(message.as_bytes()),
                ..PutRequest::default()
            };
            out.extend_from_slice(&frame(&mut buffer, &put));
        }
        out.freeze()
    }

    fn values(chunks: &[Bytes]) -> Vec<String> {
        let mut messages = Messages::default();
        let mut out = Vec::new();
        for chunk in chunks {
            messages.push(chunk.clone());
            while let Some(message) = messages.pop().unwrap() {
                let put = PutRequest::decode(message).unwrap();
                out.push(String::from_utf8(put.value.to_vec()).unwrap());
            }
        }
        out
    }

    #[test]
    fn messages_are_the_same_however_they_were_cut() {
        let whole = framed(&["one", "", "three, which is longer"]);
        let expected = values(std::slice::from_ref(&whole));
        assert_eq!(expected, ["one", "", "three, which is longer"]);
        for size in 1..whole.len() {
            let chunks: Vec<_> = whole.chunks(size).map(Bytes::copy_from_slice).collect();
            assert_eq!(values(&chunks), expected, "in chunks of {size}");
        }
    }

    #[test]
    fn a_compressed_message_is_an_error() {
        let mut messages = Messages::default();
        messages.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert!(matches!(messages.pop(), Err(CallError::Compressed)));
    }

    #[test]
    fn status_texts_are_percent_decoded() {
        assert_eq!(percent_decoded(b"a%20b%C3%A9"), "a b\u{e9}");
        assert_eq!(percent_decoded(b"100%"), "100%");
        assert_eq!(percent_decoded(b"%zz"), "%zz");
    }

    #[test]
    fn every_method_stands_at_its_own_place() {
        for (place, (method, _)) in Method::PATHS.iter().enumerate() {
            assert_eq!(*method as usize, place);
        }
    }
}
