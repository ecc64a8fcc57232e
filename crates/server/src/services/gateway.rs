//! The services as the JSON gateway calls them: by path, in encoded messages without frames.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use retcd_api::error::RpcError;
use retcd_gateway::{Answers, Requests};

use super::{Rpc, Services, unknown_method};
use crate::grpc::connection::{MessageSource, Requests as Source};
use crate::grpc::{Body, MessageReader, MessageStream, Metadata};

/// The services behind one gateway call.
pub(crate) struct Backstage<'a>(pub(crate) &'a Arc<Services>);

impl Backstage<'_> {
    fn find(method: &str, metadata: &HeaderMap) -> Result<(Rpc, Metadata), RpcError> {
        let rpc = Rpc::from_path(method).ok_or_else(|| unknown_method(method))?;
        Ok((rpc, Metadata::from_headers(metadata)?))
    }

    /// Opens a stream and counts the call.
    fn open(
        &self,
        method: &str,
        metadata: &HeaderMap,
        open: impl FnOnce(Rpc, &Metadata) -> Result<Body, RpcError>,
    ) -> Result<Box<dyn Answers>, RpcError> {
        let (rpc, metadata) = Self::find(method, metadata)?;
        let started = self.0.begin(rpc, &metadata);
        let body = open(rpc, &metadata);
        self.0.end(rpc, started, body.as_ref().err());
        match body? {
            Body::Stream(stream) => Ok(Box::new(Unframed::new(stream))),
            _ => unreachable!("streaming calls answer with a stream"),
        }
    }
}

impl retcd_gateway::Services for Backstage<'_> {
    async fn unary(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        request: Bytes,
    ) -> Result<Bytes, RpcError> {
        let (rpc, metadata) = Self::find(method, &metadata)?;
        let started = self.0.begin(rpc, &metadata);
        let counters = self.0.node.metrics().grpc.method(rpc);
        counters.received();
        let answer = super::unary(rpc, self.0, &metadata, request).await;
        self.0.end(rpc, started, answer.as_ref().err());
        let answer = answer?;
        counters.sent();
        let mut message = self.0.header(&answer);
        message.extend_from_slice(&answer.body);
        Ok(message.into())
    }

    fn server_stream(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        request: Bytes,
    ) -> Result<Box<dyn Answers>, RpcError> {
        self.open(method, &metadata, |rpc, metadata| {
            super::server_stream(rpc, self.0, metadata, request)
        })
    }

    fn bidi_stream(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        requests: Requests,
    ) -> Result<Box<dyn Answers>, RpcError> {
        let requests = Source::Other(Box::new(JsonRequests(requests)));
        self.open(method, &metadata, |rpc, metadata| {
            super::bidi_stream(rpc, self.0, metadata, requests)
        })
    }
}

struct JsonRequests(Requests);

impl MessageSource for JsonRequests {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        self.0.poll_next(context)
    }
}

/// The answers of a stream, out of their frames.
struct Unframed {
    stream: Box<dyn MessageStream>,
    reader: MessageReader,
}

impl Unframed {
    fn new(stream: Box<dyn MessageStream>) -> Self {
        // What this member writes is neither compressed nor too large for itself.
        Unframed { stream, reader: MessageReader::new(usize::MAX, false) }
    }
}

impl Answers for Unframed {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        loop {
            if let Some(message) = self.reader.next().transpose() {
                return Poll::Ready(Some(message));
            }
            match ready!(self.stream.poll_messages(context)) {
                Some(Ok(frames)) => self.reader.push(frames),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}
