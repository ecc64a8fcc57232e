//! The client's side of a connection: the socket, and what was read of it and is not used yet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::{Decoder, Part};
use super::head::{self, Head, Refusal};

/// What is read at once, into the stack of the thread.
const READ_BYTES: usize = 16 << 10;
/// What is read of a body that nobody wants any more, so that the connection can go on.
const DISCARDED_BYTES_MAX: usize = 256 << 10;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

pub(super) struct Wire<IO> {
    io: IO,
    /// Holds no memory when it is empty.
    buffer: BytesMut,
    /// How far `buffer` was searched for the end of a head.
    looked_at: usize,
    /// The request that is being answered.
    body: Decoder,
    /// What the client waits for before it sends the body.
    interim: &'static [u8],
    discarded: usize,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    /// `read`: what was read already.
    pub(super) fn new(io: IO, read: Bytes) -> Self {
        Wire {
            io,
            buffer: read.into(),
            looked_at: 0,
            body: Decoder::NONE,
            interim: &[],
            discarded: 0,
        }
    }

    pub(super) fn into_parts(self) -> (IO, Bytes) {
        (self.io, self.buffer.freeze())
    }

    /// Whether a request has begun to come.
    pub(super) fn has_input(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next head, if it is here. Its body is the one that is read from now on.
    pub(super) fn take_head(&mut self) -> Result<Option<Head>, Refusal> {
        let Some(head) = head::take(&mut self.buffer, &mut self.looked_at)? else {
            return Ok(None);
        };
        self.free();
        self.body = head.body;
        self.interim = if head.awaits_continue { CONTINUE } else { &[] };
        self.discarded = 0;
        Ok(Some(head))
    }

    /// Whether the whole body of the request was read.
    pub(super) fn is_body_over(&self) -> bool {
        self.body.is_over()
    }

    /// Whether a client that waits before it sends its body has not been told to.
    pub(super) fn is_body_held(&self) -> bool {
        self.interim.len() == CONTINUE.len() && !self.body.is_over()
    }

    /// The answer has begun: from now on there is no room for another in front of it.
    pub(super) fn begin_answer(&mut self) {
        if self.is_body_held() {
            self.interim = &[];
        }
    }

    /// The next piece of the body.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match self.body.take(&mut self.buffer) {
                Ok(Part::Data(data)) => {
                    self.free();
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Part::End) => {
                    self.free();
                    return Poll::Ready(None);
                }
                Ok(Part::Nothing) => {}
                Err(_) => return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into()))),
            }
            while !self.interim.is_empty() {
                let written = ready!(Pin::new(&mut self.io).poll_write(context, self.interim))?;
                self.interim = &self.interim[written..];
                if self.interim.is_empty() {
                    ready!(Pin::new(&mut self.io).poll_flush(context))?;
                }
            }
            if ready!(self.poll_fill(context))? == 0 {
                self.body = Decoder::Broken;
                return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
            }
        }
    }

    /// Reads and forgets what is left of the body. Whether it came to its end.
    pub(super) fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        while self.discarded < DISCARDED_BYTES_MAX {
            match ready!(self.poll_body(context)) {
                Some(Ok(data)) => self.discarded += data.len(),
                Some(Err(_)) => return Poll::Ready(false),
                None => return Poll::Ready(true),
            }
        }
        Poll::Ready(false)
    }

    /// Ready when the client has gone. `is_body_wanted`: the call reads the body by itself.
    ///
    /// A client that sends its next request early, or a body that nobody reads to its end, hides that it has gone until
    /// something is written to it.
    pub(super) fn poll_gone(
        &mut self,
        context: &mut Context<'_>,
        is_body_wanted: bool,
    ) -> Poll<()> {
        if !self.body.is_over() {
            if is_body_wanted || self.is_body_held() || self.discarded >= DISCARDED_BYTES_MAX {
                return Poll::Pending;
            }
            if !ready!(self.poll_discard(context)) {
                let is_gone = self.body == Decoder::Broken;
                return if is_gone { Poll::Ready(()) } else { Poll::Pending };
            }
        }
        if self.has_input() {
            return Poll::Pending;
        }
        match ready!(self.poll_fill(context)) {
            Ok(0) | Err(_) => Poll::Ready(()),
            Ok(_) => Poll::Pending,
        }
    }

    /// Reads what has come. 0: the client sends no more.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [std::mem::MaybeUninit::uninit(); READ_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(context, &mut space))?;
        self.buffer.extend_from_slice(space.filled());
        Poll::Ready(Ok(space.filled().len()))
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, data)
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    /// Forgets what has come and what comes. Ready when nothing more will.
    pub(super) fn poll_ignore(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            self.buffer.clear();
            if !matches!(ready!(self.poll_fill(context)), Ok(1..)) {
                return Poll::Ready(());
            }
        }
    }

    fn free(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

/// The body of a request, read from the connection as the call asks for it.
pub(crate) struct RequestBody<IO>(pub(super) Arc<Mutex<Wire<IO>>>);

impl<IO: AsyncRead + AsyncWrite + Unpin> http_body::Body for RequestBody<IO> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let data = ready!(self.0.lock().poll_body(context));
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_body_over()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
