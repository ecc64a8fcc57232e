//! The requests of a call, read from the body as they come.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;
use retcd_api::error::{Code, RpcError};
use retcd_api::json::Method;

use crate::call::Limits;
use crate::values::Values;

/// The most bytes of JSON that one byte of a message takes: base64 makes four characters of three bytes, and each of
/// them may be written as an escape of six.
const JSON_BYTES_PER_MESSAGE_BYTE: usize = 8;
/// What names and structure may take above that.
const JSON_OVERHEAD_BYTES: usize = 64 << 10;

/// A body of JSON values as encoded requests.
pub struct Requests {
    body: Box<dyn Chunks>,
    is_ended: bool,
    values: Values,
    method: &'static Method,
    message_bytes_max: usize,
}

/// The bytes of a body, whatever its type.
trait Chunks: Send {
    /// `None` at the end, an error when the client has gone.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, ()>>>;
}

impl<B: Body<Data: Send> + Unpin + Send> Chunks for B {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, ()>>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut *self).poll_frame(context)) else {
                return Poll::Ready(None);
            };
            let Ok(frame) = frame else { return Poll::Ready(Some(Err(()))) };
            // Trailers say nothing here.
            if let Ok(mut data) = frame.into_data() {
                return Poll::Ready(Some(Ok(data.copy_to_bytes(data.remaining()))));
            }
        }
    }
}

impl Requests {
    pub(crate) fn new<B>(body: B, method: &'static Method, message_bytes_max: usize) -> Self
    where
        B: Body<Data: Send> + Unpin + Send + 'static,
    {
        Requests {
            body: Box::new(body),
            is_ended: false,
            values: Values::default(),
            method,
            message_bytes_max,
        }
    }

    /// The next request, encoded; `None` when the client will send no more.
    ///
    /// After an error the rest of the body means nothing.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        loop {
            if let Some(json) = self.values.next() {
                return Poll::Ready(Some(self.encode(&json)));
            }
            if self.is_ended {
                return Poll::Ready(None);
            }
            let limits = Limits { message_bytes_max: self.message_bytes_max };
            if self.values.len() > json_bytes_max(limits) {
                return Poll::Ready(Some(Err(self.too_large(self.values.len()))));
            }
            match ready!(self.body.poll_chunk(context)) {
                Some(Ok(chunk)) => self.values.push(&chunk),
                Some(Err(())) => return Poll::Ready(Some(Err(RpcError::ContextCanceled))),
                None => {
                    self.is_ended = true;
                    let last = self.values.finish().map_err(|_| invalid("unexpected EOF"));
                    return Poll::Ready(last.transpose().map(|json| self.encode(&json?)));
                }
            }
        }
    }

    /// The one request of a call that has no more. An empty body is an empty message; what follows the first value is
    /// not looked at.
    pub(crate) async fn only(mut self) -> Result<Bytes, RpcError> {
        let request = std::future::poll_fn(|context| self.poll_next(context)).await;
        request.unwrap_or_else(|| Ok(Bytes::new()))
    }

    fn encode(&self, json: &[u8]) -> Result<Bytes, RpcError> {
        let message = self.method.request(json).map_err(|error| invalid(error.to_string()))?;
        if message.len() > self.message_bytes_max {
            return Err(self.too_large(message.len()));
        }
        Ok(message.into())
    }

    /// The text of the gRPC transport, which is where etcd's gateway meets this limit.
    fn too_large(&self, bytes: usize) -> RpcError {
        let max = self.message_bytes_max;
        RpcError::other(
            Code::ResourceExhausted,
            format!("grpc: received message larger than max ({bytes} vs. {max})"),
        )
    }
}

/// As long as the JSON of a request of the largest size can get.
pub(crate) fn json_bytes_max(limits: Limits) -> usize {
    let Limits { message_bytes_max } = limits;
    message_bytes_max
        .saturating_mul(JSON_BYTES_PER_MESSAGE_BYTE)
        .saturating_add(JSON_OVERHEAD_BYTES)
}

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> RpcError {
    RpcError::other(Code::InvalidArgument, text)
}
