//! One client connection: HTTP/2 for gRPC, HTTP/1.1 for the gateway and operators' tools, told apart by the first bytes.
//!
//! A connection that HTTP/1.1 has turned into a WebSocket is served here to its end too, so that it ends with the member
//! as any other. gRPC over HTTP/1.1 is none: as with etcd, such a request is one for a page.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use retcd_api::error::{Code, RpcError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::body::{Body, MessageStream, add_status};
use super::framing::{FRAME_PREFIX_BYTES, MessageReader, frame_prefix};
use super::metadata::Metadata;
use crate::calls::{Call, Counted, SharedCall, carry_out};
use crate::http::Scope;
use crate::http1;
use crate::services::http::UpgradeSlot;
use crate::services::{self, Answer, Kind, Rpc, Services};
use crate::traces::Tracer;

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
    pub(crate) is_encrypted: bool,
    /// The largest message that a client may send.
    pub(crate) message_bytes_max: usize,
    /// Where the spans of calls go; `None` keeps none.
    pub(crate) tracer: Option<Arc<Tracer>>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    /// The address, for the log; a Unix socket has none.
    pub(crate) remote: Option<SocketAddr>,
    /// That of the verified certificate, with `--client-cert-auth`; empty when the certificate has none.
    pub(crate) common_name: Option<Arc<str>>,
}

/// What HTTP/2 clients send first.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take to say which protocol it speaks.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(300);

/// Serves a connection until the client leaves, or `stop` is triggered and the running calls are done.
pub(crate) async fn serve<IO>(
    io: IO,
    client: Client,
    services: Arc<Services>,
    settings: Arc<Settings>,
    stop: CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let sniffed = tokio::time::timeout(FIRST_BYTES_TIMEOUT, sniff(io));
    let Some(Ok(Ok(sniffed))) = stop.run_until_cancelled(sniffed).await else { return };
    // Boxes, so that a connection takes the memory of its own protocol only.
    if sniffed.head[..] == HTTP2_PREFACE[..] {
        Box::pin(serve_http2(sniffed, client, services, settings, &stop)).await;
    } else if settings.scope != Scope::Grpc {
        Box::pin(serve_http1(sniffed, client, services, settings, &stop)).await;
    }
}

async fn serve_http2<IO>(
    io: IO,
    client: Client,
    services: Arc<Services>,
    settings: Arc<Settings>,
    stop: &CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn({
        let settings = settings.clone();
        move |request| {
            let (services, settings) = (services.clone(), settings.clone());
            let client = client.clone();
            async move { Ok::<_, Infallible>(answer(request, &services, &settings, client).await) }
        }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(settings.streams_max)
            .max_pending_accept_reset_streams(None)
            .max_local_error_reset_streams(None)
            .keep_alive_interval(settings.keepalive_interval)
            .keep_alive_timeout(settings.keepalive_timeout.unwrap_or(Duration::MAX))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .serve_connection(TokioIo::new(io), service)
    );
    // A connection that breaks is the client's affair: hyper's error tells nothing that someone must look at.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn serve_http1<IO>(
    Rewound { head, io }: Rewound<IO>,
    client: Client,
    services: Arc<Services>,
    settings: Arc<Settings>,
    stop: &CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upgrade = Mutex::new(None);
    let service =
        |request| services::http::answer(request, &client, &settings, &services, &upgrade);
    let upgraded = http1::serve(io, head, service, stop).await;
    let (Some((io, head)), Some(upgrade)) = (upgraded, upgrade.into_inner()) else { return };
    let io = Rewound { head, io };
    Box::pin(services::http::websocket(upgrade, io, &services, &settings)).await;
}

/// Reads until the first bytes tell HTTP/2 from HTTP/1.
async fn sniff<IO: AsyncRead + Unpin>(mut io: IO) -> std::io::Result<Rewound<IO>> {
    let mut head = [0; HTTP2_PREFACE.len()];
    let mut len = 0;
    while len < head.len() && head[..len] == HTTP2_PREFACE[..len] {
        match io.read(&mut head[len..]).await? {
            0 => break,
            read => len += read,
        }
    }
    Ok(Rewound { head: Bytes::copy_from_slice(&head[..len]), io })
}

/// A connection whose first bytes were read already.
struct Rewound<IO> {
    head: Bytes,
    io: IO,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.head.is_empty() {
            let len = self.head.len().min(buffer.remaining());
            buffer.put_slice(&self.head.split_to(len));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewound<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, data)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }
}

/// HTTP/2 has no upgrades of the kind that the gateway knows.
static NO_UPGRADE: UpgradeSlot = Mutex::new(None);

async fn answer(
    request: Request<Incoming>,
    services: &Arc<Services>,
    settings: &Settings,
    client: Client,
) -> Response<Body> {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    match settings.scope {
        Scope::Client | Scope::Grpc if is_grpc => grpc(request, services, settings, client).await,
        Scope::Grpc => not_grpc(),
        Scope::Client | Scope::Http | Scope::Metrics => {
            // Boxed: gRPC calls should not carry the room for it around.
            let answer = services::http::answer(request, &client, settings, services, &NO_UPGRADE);
            Box::pin(answer).await
        }
    }
}

async fn grpc(
    request: Request<Incoming>,
    services: &Arc<Services>,
    settings: &Settings,
    Client { remote, common_name }: Client,
) -> Response<Body> {
    if request.method() != Method::POST {
        return status_only(&RpcError::other(Code::Internal, "gRPC calls are POST requests"));
    }
    let Some(rpc) = Rpc::from_path(request.uri().path()) else {
        return status_only(&services::unknown_method(request.uri().path()));
    };
    let (head, body) = request.into_parts();
    let traced =
        settings.tracer.as_ref().and_then(|tracer| tracer.begin(rpc.path(), &head.headers));
    let metadata = match Metadata::new(head.headers, common_name) {
        Ok(metadata) => metadata,
        Err(error) => return status_only(&error),
    };
    let reader = MessageReader::new(settings.message_bytes_max, metadata.is_gzip);
    let answer = if rpc.kind() == Kind::Unary {
        let mut call = Call::begin(&**services, rpc, &metadata, traced);
        let answer = unary(&metadata, body, reader, services, &mut call, remote).await;
        call.end(answer.as_ref().err());
        answer
    } else {
        let call = Call::begin(services.clone(), rpc, &metadata, traced).shared();
        let opened = Box::pin(open_stream(rpc, &metadata, body, reader, services, &call)).await;
        if let Err(error) = &opened {
            call.lock().end(Some(error));
        }
        opened.map(|stream| Body::Stream(Box::new(Counted::new(stream, call))))
    };
    match answer {
        Ok(body) => {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
            response
        }
        Err(error) => status_only(&error),
    }
}

async fn open_stream(
    rpc: Rpc,
    metadata: &Metadata,
    body: Incoming,
    reader: MessageReader,
    services: &Arc<Services>,
    call: &SharedCall,
) -> Result<Box<dyn MessageStream>, RpcError> {
    let opened = if rpc.kind() == Kind::BidiStream {
        let requests = Requests::Grpc { body, reader, call: call.clone() };
        services::bidi_stream(rpc, services, metadata, requests)
    } else {
        let message = read_only_message(body, reader).await?;
        call.lock().received(&message);
        services::server_stream(rpc, services, metadata, message)
    };
    opened.map(Body::into_stream)
}

async fn unary(
    metadata: &Metadata,
    body: Incoming,
    reader: MessageReader,
    services: &Services,
    call: &mut Call<&Services>,
    remote: Option<SocketAddr>,
) -> Result<Body, RpcError> {
    let message = read_only_message(body, reader).await?;
    call.received(&message);
    let answer = carry_out(call, metadata, message, remote).await?;
    Ok(whole_message(&answer, services, call))
}

/// Answers above this go out as two pieces, to spare the copy of the large one.
const JOINED_BYTES_MAX: usize = 4096;

fn whole_message(answer: &Answer, services: &Services, call: &mut Call<&Services>) -> Body {
    let header = services.header(answer);
    let message_bytes = header.len() + answer.body.len();
    call.sent(message_bytes);
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
        call: SharedCall,
    },
    /// From another door than gRPC's.
    Other(Box<dyn MessageSource>),
}

/// Encoded requests, wherever they come from.
pub(crate) trait MessageSource: Send {
    /// As [`Requests::poll_next`].
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>>;
}

impl Requests {
    /// The next request; `None` when the client will send no more.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        let (body, reader, call) = match self {
            Requests::Grpc { body, reader, call } => (body, reader, call),
            Requests::Other(source) => return source.poll_next(context),
        };
        loop {
            match reader.next() {
                Ok(Some(message)) => {
                    call.lock().received(&message);
                    return Poll::Ready(Some(Ok(message)));
                }
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

/// To what is no gRPC on a listener for gRPC alone, as the gRPC library of etcd answers it.
fn not_grpc() -> Response<Body> {
    let error = RpcError::other(Code::InvalidArgument, "invalid gRPC request content-type");
    let mut response = status_only(&error);
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// An answer without a message: the status stands in the headers.
fn status_only(error: &RpcError) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    add_status(response.headers_mut(), Some(error));
    response
}
