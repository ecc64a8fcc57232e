//! The task of one connection.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::head::{self, Ending, Head};
use super::wire::{RequestBody, Wire};

/// How long a client may take to send a head, from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the rest of an unwanted body is waited for, and the client's end of a connection that was closed.
const LINGER: Duration = Duration::from_secs(1);
/// Data above this is not copied behind what is written before it.
const JOINED_BYTES_MAX: usize = 16 << 10;
/// Pieces of an answer that are there at once are written together, up to this size.
pub(super) const WRITTEN_BYTES: usize = 64 << 10;

/// Serves requests until one of both sides closes the connection, which ends the call that runs.
///
/// `read`: what was read already. After `stop` no request is taken, and the running one is the last. An answer with the
/// status 101 ends HTTP: then the connection is the caller's again, with what was read of it already.
pub(crate) async fn serve<IO, S, F, B>(
    io: IO,
    read: Bytes,
    service: S,
    stop: &CancellationToken,
) -> Option<(IO, Bytes)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Fn(Request<RequestBody<IO>>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = Infallible> + Unpin,
{
    let connection = Connection { wire: Arc::new(Mutex::new(Wire::new(io, read))) };
    let end = connection.run(service, stop).await;
    // An error means that the client has gone: then there is nobody to tell.
    match end.unwrap_or(End::Gone) {
        End::Gone => None,
        End::Closed => {
            let _ = connection.shut_down().await;
            None
        }
        End::Hangup => {
            connection.hang_up().await;
            None
        }
        End::Upgraded => {
            let wire = Arc::try_unwrap(connection.wire).ok()?;
            Some(wire.into_inner().into_parts())
        }
    }
}

/// How serving a connection ended.
enum End {
    /// The client has left or broken it.
    Gone,
    /// Both sides have said what they had to.
    Closed,
    /// The client may still be sending.
    Hangup,
    Upgraded,
}

struct Connection<IO> {
    wire: Arc<Mutex<Wire<IO>>>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    async fn run<S, F, B>(&self, service: S, stop: &CancellationToken) -> io::Result<End>
    where
        S: Fn(Request<RequestBody<IO>>) -> F,
        F: Future<Output = Response<B>>,
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        loop {
            let head = match self.next_head(stop).await? {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(End::Closed),
                Err(refusal) => {
                    let mut out = Vec::new();
                    head::write_refusal(&mut out, &refusal);
                    self.write(&out).await?;
                    return Ok(End::Hangup);
                }
            };
            let Head { request, is_persistent, .. } = head;
            let asked = Asked {
                version: request.version(),
                is_head: request.method() == Method::HEAD,
                is_persistent,
            };
            let request = request.map(|()| RequestBody(self.wire.clone()));
            // A box, which is gone when the call is answered: a watch should not pay for what led to it.
            let response = self.unless_gone(Box::pin(service(request))).await?;
            if let Some(end) = self.answer(&asked, response, stop).await? {
                return Ok(end);
            }
        }
    }

    /// The next request. `None`: there is none and will be none.
    async fn next_head(
        &self,
        stop: &CancellationToken,
    ) -> io::Result<Result<Option<Head>, head::Refusal>> {
        assert_eq!(Arc::strong_count(&self.wire), 1, "a body is dropped with its call");
        let mut deadline = None;
        loop {
            match self.wire.lock().take_head() {
                Ok(None) => {}
                outcome => return Ok(outcome),
            }
            let is_idle = !self.wire.lock().has_input();
            let fill = std::future::poll_fn(|context| self.wire.lock().poll_fill(context));
            let read = if is_idle {
                match stop.run_until_cancelled(fill).await {
                    Some(read) => read?,
                    None => return Ok(Ok(None)),
                }
            } else {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + HEAD_TIMEOUT);
                let read = stop.run_until_cancelled(timeout_at(deadline, fill)).await;
                let Some(Ok(read)) = read else { return Ok(Ok(None)) };
                read?
            };
            if read == 0 {
                return Ok(Ok(None));
            }
        }
    }

    /// Writes an answer. Returns how the connection ends, if it does.
    async fn answer<B>(
        &self,
        asked: &Asked,
        response: Response<B>,
        stop: &CancellationToken,
    ) -> io::Result<Option<End>>
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        let (parts, body) = response.into_parts();
        let is_upgrade = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let ending = asked.ending(is_upgrade, &body);
        let goes_on = asked.is_persistent
            && ending != Ending::Close
            && !stop.is_cancelled()
            && !self.wire.lock().is_body_held();
        self.wire.lock().begin_answer();
        let connection = match (is_upgrade, goes_on, asked.version) {
            (false, false, _) => Some("close"),
            (false, true, Version::HTTP_10) => Some("keep-alive"),
            _ => None,
        };
        let mut out = Vec::with_capacity(512);
        head::write(&mut out, asked.version, &parts, ending, connection);
        drop(parts);
        if is_upgrade {
            self.write(&out).await?;
            return Ok(Some(End::Upgraded));
        }
        if asked.is_head {
            self.write(&out).await?;
        } else {
            self.write_body(out, body, ending).await?;
        }
        let is_over = self.wire.lock().is_body_over();
        if is_over {
            return Ok((!goes_on).then_some(End::Closed));
        }
        if goes_on && self.discard_rest().await { Ok(None) } else { Ok(Some(End::Hangup)) }
    }

    /// Writes a body behind what is to be written before it. Waits for more only when everything is written.
    async fn write_body<B>(&self, mut out: Vec<u8>, mut body: B, ending: Ending) -> io::Result<()>
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        loop {
            let has_output = !out.is_empty();
            let next =
                std::future::poll_fn(|context| self.poll_next(&mut body, has_output, context));
            match next.await? {
                Next::Data(data) => {
                    let is_chunk = ending == Ending::Chunked;
                    if is_chunk {
                        let _ = write!(out, "{:x}\r\n", data.len());
                    }
                    if data.len() > JOINED_BYTES_MAX {
                        self.write(&out).await?;
                        self.write(&data).await?;
                        out.clear();
                    } else {
                        out.extend_from_slice(&data);
                    }
                    if is_chunk {
                        out.extend_from_slice(b"\r\n");
                    }
                    if out.len() >= WRITTEN_BYTES {
                        self.write(&out).await?;
                        out.clear();
                    }
                }
                Next::Later => {
                    self.write(&out).await?;
                    out = Vec::new();
                }
                Next::End => {
                    if ending == Ending::Chunked {
                        out.extend_from_slice(b"0\r\n\r\n");
                    }
                    return self.write(&out).await;
                }
            }
        }
    }

    fn poll_next<B>(
        &self,
        body: &mut B,
        has_output: bool,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Next>>
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        loop {
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Ok(Next::Data(data))),
                    // An empty chunk would be the end, and trailers say nothing here.
                    _ => {}
                },
                Poll::Ready(None) => return Poll::Ready(Ok(Next::End)),
                Poll::Pending if has_output => return Poll::Ready(Ok(Next::Later)),
                Poll::Pending => return self.poll_gone(context).map(Err),
            }
        }
    }

    /// Waits for a call, or for its client to go.
    async fn unless_gone<T>(&self, mut call: Pin<Box<impl Future<Output = T>>>) -> io::Result<T> {
        std::future::poll_fn(|context| match call.as_mut().poll(context) {
            Poll::Ready(outcome) => Poll::Ready(Ok(outcome)),
            Poll::Pending => self.poll_gone(context).map(Err),
        })
        .await
    }

    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<io::Error> {
        let is_body_wanted = Arc::strong_count(&self.wire) > 1;
        ready!(self.wire.lock().poll_gone(context, is_body_wanted));
        Poll::Ready(io::ErrorKind::ConnectionAborted.into())
    }

    /// Reads the body to its end, so that the next request can follow. Whether that worked.
    async fn discard_rest(&self) -> bool {
        let rest = std::future::poll_fn(|context| self.wire.lock().poll_discard(context));
        timeout(LINGER, rest).await.unwrap_or(false)
    }

    async fn write(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let write = std::future::poll_fn(|context| self.wire.lock().poll_write(context, data));
            match write.await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => data = &data[written..],
            }
        }
        std::future::poll_fn(|context| self.wire.lock().poll_flush(context)).await
    }

    async fn shut_down(&self) -> io::Result<()> {
        std::future::poll_fn(|context| self.wire.lock().poll_shutdown(context)).await
    }

    /// Closes a connection whose client may still be sending: what it sends into a closed one would make its system throw
    /// away the answer.
    async fn hang_up(&self) {
        if self.shut_down().await.is_ok() {
            let ignore = std::future::poll_fn(|context| self.wire.lock().poll_ignore(context));
            let _ = timeout(LINGER, pin!(ignore)).await;
        }
    }
}

/// What an answer must know of its request.
struct Asked {
    version: Version,
    is_head: bool,
    is_persistent: bool,
}

impl Asked {
    fn ending(&self, is_upgrade: bool, body: &impl Body) -> Ending {
        match body.size_hint().exact() {
            _ if is_upgrade => Ending::NoBody,
            Some(length) => Ending::Length(length),
            None if self.version == Version::HTTP_10 => Ending::Close,
            None => Ending::Chunked,
        }
    }
}

/// What the body of an answer has.
enum Next {
    Data(Bytes),
    /// Nothing yet.
    Later,
    End,
}
