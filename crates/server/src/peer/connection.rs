//! One HTTP/1.1 connection to a peer, driven by whoever uses it: no task of its own that could outlive its owner.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use retcd_net::listener::Stream;
use retcd_net::url::Url;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::dialer::Dialer;

/// Answers other than streams are small.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("dial {url}: {source}")]
    Dial { url: String, source: io::Error },
    #[error("{}", innermost(.0))]
    Http(#[from] hyper::Error),
    #[error("the answer is over the limit of {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    #[error("no answer in {0:?}")]
    Timeout(Duration),
}

impl Error {
    /// Whether nothing of the request has left: the connection had ended before. Only then it may be sent again without
    /// the danger that the peer takes it twice.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_canceled() || error.is_closed())
    }
}

/// What lies behind an error of HTTP, such as the word of the other side's TLS.
fn innermost(error: &hyper::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Whether nobody listens there.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    // A unix socket's file is gone after an orderly stop.
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

pub(crate) type RequestBody = Pin<Box<dyn Body<Data = Bytes, Error = io::Error> + Send>>;

pub(crate) fn empty_body() -> RequestBody {
    full_body(Bytes::new())
}

pub(crate) fn full_body(bytes: Bytes) -> RequestBody {
    Box::pin(Full(Some(bytes).filter(|bytes| !bytes.is_empty())))
}

/// A body that is there.
struct Full(Option<Bytes>);

impl Body for Full {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A connection that carries one request after the other.
pub(crate) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driver: Driver,
    host: HeaderValue,
}

impl Connection {
    /// Connects. The time that it may take is the caller's to limit; `stall` limits each wait for the peer to take data.
    pub(crate) async fn open(dialer: &Dialer, url: &Url, stall: Duration) -> io::Result<Self> {
        let io = TokioIo::new(WriteGuard::new(dialer.dial(url).await?, stall));
        let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
        let host = url.host().map_or_else(|| "localhost".to_owned(), |host| authority(host, url));
        let host = HeaderValue::from_str(&host).map_err(io::Error::other)?;
        Ok(Self { sender, driver: Driver(Some(Box::pin(connection))), host })
    }

    /// Whether the connection can carry another request, as far as this side knows.
    pub(crate) fn is_usable(&self) -> bool {
        self.driver.0.is_some() && !self.sender.is_closed()
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn call(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Bytes>, Error> {
        let (head, mut body) = self.send(request).await?.into_parts();
        let bytes = read_to_end(&mut self.driver, &mut body).await?;
        Ok(Response::from_parts(head, bytes))
    }

    /// Sends the only request of this connection; the answer's body is read piece by piece.
    pub(crate) async fn into_stream(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<Streaming, Error> {
        let (head, body) = self.send(request).await?.into_parts();
        Ok(Streaming { driver: self.driver, _sender: self.sender, head, body })
    }

    async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Error> {
        request.headers_mut().insert(header::HOST, self.host.clone());
        let driver = &mut self.driver;
        driver.run(|context| self.sender.poll_ready(context)).await?;
        let mut answer = std::pin::pin!(self.sender.send_request(request));
        Ok(driver.run(|context| answer.as_mut().poll(context)).await?)
    }
}

fn authority(host: &str, url: &Url) -> String {
    let port = url.port().unwrap_or_default();
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

type HyperConnection = http1::Connection<TokioIo<WriteGuard<Stream>>, RequestBody>;

/// What moves the bytes. It has to be polled along with everything that waits for them.
struct Driver(Option<Pin<Box<HyperConnection>>>);

impl Driver {
    fn poll(&mut self, context: &mut Context<'_>) {
        if let Some(connection) = &mut self.0
            && connection.as_mut().poll(context).is_ready()
        {
            // Its error reaches those who wait for an answer or a body. Dropping it wakes whoever still does.
            self.0 = None;
        }
    }

    /// Waits for something that the connection brings.
    async fn run<T>(&mut self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        std::future::poll_fn(|context| {
            self.poll(context);
            poll(context)
        })
        .await
    }
}

async fn read_to_end(driver: &mut Driver, body: &mut Incoming) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = next_piece(driver, body).await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(Error::TooLong);
        }
    }
    Ok(bytes.freeze())
}

async fn next_piece(driver: &mut Driver, body: &mut Incoming) -> Option<Result<Bytes, Error>> {
    loop {
        let mut body = Pin::new(&mut *body);
        let frame = driver.run(|context| body.as_mut().poll_frame(context)).await?;
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => return Some(Ok(data)),
            Ok(Err(_trailers)) => {}
            Err(error) => return Some(Err(error.into())),
        }
    }
}

/// An answer whose body is still coming.
pub(crate) struct Streaming {
    driver: Driver,
    /// Without it the connection would count as given up.
    _sender: http1::SendRequest<RequestBody>,
    head: Parts,
    body: Incoming,
}

impl Streaming {
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The next piece of the body. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        next_piece(&mut self.driver, &mut self.body).await
    }

    pub(crate) async fn into_text(mut self) -> Result<String, Error> {
        let bytes = read_to_end(&mut self.driver, &mut self.body).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A socket on which a write that makes no progress fails after a while, so that a peer that has vanished without a
/// word does not hold its messages for the minutes that TCP would wait.
#[derive(Debug)]
pub(crate) struct WriteGuard<S> {
    socket: S,
    limit: Duration,
    /// Runs while the socket takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteGuard<S> {
    pub(crate) fn new(socket: S, limit: Duration) -> Self {
        Self { socket, limit, stalled: None }
    }

    fn watch(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no data")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, data);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, parts);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const STALL: Duration = Duration::from_secs(5);

    fn get() -> Request<RequestBody> {
        Request::new(empty_body())
    }

    /// Reads one request and gives the answer.
    async fn serve_one(listener: &TcpListener, answer: &str) -> TcpStream {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(socket.read_u8().await.unwrap());
        }
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_request_over_a_closed_connection_is_known_to_be_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let mut connection = Connection::open(&Dialer::plain(), &url, STALL).await.unwrap();
        let answer = "HTTP/1.1 204 No Content\r\n\r\n";
        let (first, socket) = tokio::join!(connection.call(get()), serve_one(&listener, answer));
        assert_eq!(first.unwrap().status(), StatusCode::NO_CONTENT);
        assert!(connection.is_usable());
        drop(socket);
        // Until the reactor has seen the end.
        let address = listener.local_addr().unwrap();
        let (other, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        drop((other.unwrap(), accepted.unwrap()));
        let error = connection.call(get()).await.unwrap_err();
        assert!(error.is_unsent(), "{error}");
        assert!(!connection.is_usable());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_request_whose_answer_breaks_off_may_have_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let mut connection = Connection::open(&Dialer::plain(), &url, STALL).await.unwrap();
        let peer = async { drop(serve_one(&listener, "").await) };
        let (answer, ()) = tokio::join!(connection.call(get()), peer);
        let error = answer.unwrap_err();
        assert!(!error.is_unsent(), "{error}");
    }
}
