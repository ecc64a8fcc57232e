//! One client connection: HTTP/2 for gRPC, HTTP/1.1 for operators' tools, told apart by the first bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use retcd_api::error::{Code, RpcError};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::body::{Body, add_status};
use super::framing::{FRAME_PREFIX_BYTES, MessageReader, frame_prefix};
use super::metadata::Metadata;
use crate::http::Scope;
use crate::services::{self, Answer, Kind, Rpc, Services};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// How connections are kept.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) streams_max: u32,
    /// Pings to an idle client; `None` sends none.
    pub(crate) keepalive_interval: Option<Duration>,
    pub(crate) keepalive_timeout: Option<Duration>,
    /// What the listener is for.
    pub(crate) scope: Scope,
    /// The largest message that a client may send.
    pub(crate) message_bytes_max: usize,
}

/// What HTTP/2 clients send first.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take to say which protocol it speaks, and to send the head of an HTTP/1.1 request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Serves a connection until the client leaves, or `stop` is triggered and the running calls are done.
pub(crate) async fn serve<IO>(
    io: IO,
    services: Arc<Services>,
    settings: Arc<Settings>,
    stop: CancellationToken,
) where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(HEAD_TIMEOUT, sniff(io)) => sniffed,
        () = stop.cancelled() => return,
    };
    let Ok(Ok((is_http2, io))) = sniffed else { return };
    let service = service_fn({
        let settings = settings.clone();
        move |request| {
            let (services, settings) = (services.clone(), settings.clone());
            async move { Ok::<_, Infallible>(answer(request, &services, &settings).await) }
        }
    });
    // A connection that breaks is the client's affair: hyper's error tells nothing that someone must look at.
    if is_http2 {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(settings.streams_max)
            .max_pending_accept_reset_streams(None)
            .max_local_error_reset_streams(None)
            .keep_alive_interval(settings.keepalive_interval)
            .keep_alive_timeout(settings.keepalive_timeout.unwrap_or(Duration::MAX))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    } else {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

/// Reads until the first bytes tell HTTP/2 from HTTP/1, and puts them back in front.
async fn sniff<IO>(mut io: IO) -> std::io::Result<(bool, Rewound<TokioIo<IO>>)>
where
    IO: tokio::io::AsyncRead + Unpin,
{
    let mut head = [0; HTTP2_PREFACE.len()];
    let mut len = 0;
    while len < head.len() && head[..len] == HTTP2_PREFACE[..len] {
        match io.read(&mut head[len..]).await? {
            0 => break,
            read => len += read,
        }
    }
    let is_http2 = len == head.len() && head == *HTTP2_PREFACE;
    Ok((is_http2, Rewound { head: Bytes::copy_from_slice(&head[..len]), io: TokioIo::new(io) }))
}

/// A connection whose first bytes were read already.
struct Rewound<IO> {
    head: Bytes,
    io: IO,
}

impl<IO: Read + Unpin> Read for Rewound<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.head.is_empty() {
            let len = self.head.len().min(buffer.remaining());
            let part = self.head.split_to(len);
            buffer.put_slice(&part);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: Write + Unpin> Write for Rewound<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, data)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }
}

async fn answer(
    request: Request<Incoming>,
    services: &Arc<Services>,
    settings: &Settings,
) -> Response<Body> {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc || settings.scope == Scope::Metrics {
        return services::http::answer(request, settings, services).await;
    }
    if request.method() != Method::POST {
        return status_only(&RpcError::other(Code::Internal, "gRPC calls are POST requests"));
    }
    let Some(rpc) = Rpc::from_path(request.uri().path()) else {
        return status_only(&services::unknown_method(request.uri().path()));
    };
    let (head, body) = request.into_parts();
    let metadata = match Metadata::from_headers(&head.headers) {
        Ok(metadata) => metadata,
        Err(error) => return status_only(&error),
    };
    let started = services.begin(rpc, &metadata);
    let reader = MessageReader::new(settings.message_bytes_max, metadata.is_gzip);
    let answer = match rpc.kind() {
        Kind::Unary => unary(rpc, &metadata, body, reader, services).await,
        Kind::ServerStream => match read_only_message(body, reader).await {
            Ok(message) => services::server_stream(rpc, services, &metadata, message),
            Err(error) => Err(error),
        },
        Kind::BidiStream => {
            services::bidi_stream(rpc, services, &metadata, Requests::Grpc { body, reader })
        }
    };
    services.end(rpc, started, answer.as_ref().err());
    match answer {
        Ok(body) => {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
            response
        }
        Err(error) => status_only(&error),
    }
}

async fn unary(
    rpc: Rpc,
    metadata: &Metadata,
    body: Incoming,
    reader: MessageReader,
    services: &Services,
) -> Result<Body, RpcError> {
    let message = read_only_message(body, reader).await?;
    let counters = services.node.metrics().grpc.method(rpc);
    counters.received();
    let answer = services::unary(rpc, services, metadata, message).await?;
    counters.sent();
    Ok(whole_message(&answer, services))
}

/// Answers above this go out as two pieces, to spare the copy of the large one.
const JOINED_BYTES_MAX: usize = 4096;

fn whole_message(answer: &Answer, services: &Services) -> Body {
    let header = services.header(answer);
    let message_bytes = header.len() + answer.body.len();
    let mut head = Vec::with_capacity(
        FRAME_PREFIX_BYTES
            + header.len()
            + if message_bytes <= JOINED_BYTES_MAX { answer.body.len() } else { 0 },
    );
    head.extend_from_slice(&frame_prefix(message_bytes));
    head.extend_from_slice(&header);
    if message_bytes <= JOINED_BYTES_MAX {
        head.extend_from_slice(&answer.body);
        Body::Message { head: head.into(), rest: Bytes::new() }
    } else {
        Body::Message { head: head.into(), rest: answer.body.clone() }
    }
}

/// Reads the one message of a unary or server-streaming call.
async fn read_only_message(
    mut body: Incoming,
    mut reader: MessageReader,
) -> Result<Bytes, RpcError> {
    let mut message = None;
    while !body.is_end_stream() {
        let Some(frame) =
            std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        else {
            break;
        };
        let frame = frame.map_err(|_| RpcError::ContextCanceled)?;
        let Ok(data) = frame.into_data() else { continue };
        reader.push(data);
        if message.is_none() {
            message = reader.next()?;
        }
    }
    reader.finish()?;
    message.ok_or_else(|| RpcError::other(Code::Internal, "the call brought no request message"))
}

/// The requests of a streaming call as they come.
pub(crate) enum Requests {
    Grpc {
        body: Incoming,
        reader: MessageReader,
    },
    /// From another door than gRPC's.
    Other(Box<dyn MessageSource>),
}

/// Encoded requests, wherever they come from.
pub(crate) trait MessageSource: Send {
    /// As [`Requests::poll_next`].
    fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>>;
}

impl Requests {
    /// The next request; `None` when the client will send no more.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        let (body, reader) = match self {
            Requests::Grpc { body, reader } => (body, reader),
            Requests::Other(source) => return source.poll_next(context),
        };
        loop {
            match reader.next() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match std::task::ready!(Pin::new(&mut *body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        reader.push(data);
                    }
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(RpcError::ContextCanceled))),
                None => return Poll::Ready(reader.finish().err().map(Err)),
            }
        }
    }
}

/// An answer without a message: the status stands in the headers.
fn status_only(error: &RpcError) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    add_status(response.headers_mut(), Some(error));
    response
}
