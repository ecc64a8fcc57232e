//! The services as the JSON gateway calls them: by path, in encoded messages without frames.

use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use retcd_api::error::RpcError;
use retcd_gateway::{Answers, Requests};

use super::{Rpc, Services, unknown_method};
use crate::calls::{Call, Counted, SharedCall, carry_out};
use crate::grpc::connection::{MessageSource, Requests as Source};
use crate::grpc::{Body, MessageReader, MessageStream, Metadata};
use crate::traces::Tracer;

/// The services behind one gateway call.
pub(crate) struct Backstage<'a> {
    pub(crate) services: &'a Arc<Services>,
    pub(crate) tracer: Option<&'a Arc<Tracer>>,
}

/// A call that has begun.
struct Begun<S: Deref<Target = Services>> {
    rpc: Rpc,
    metadata: Metadata,
    call: Call<S>,
}

impl Backstage<'_> {
    /// Finds the method and counts the call. `services`: the same as this one's, by reference or shared.
    fn begin<S: Deref<Target = Services>>(
        &self,
        services: S,
        method: &str,
        headers: HeaderMap,
    ) -> Result<Begun<S>, RpcError> {
        let rpc = Rpc::from_path(method).ok_or_else(|| unknown_method(method))?;
        let traced = self.tracer.and_then(|tracer| tracer.begin(rpc.path(), &headers));
        // Whatever certificate the connection has, it says nothing here: see `services::http`.
        let metadata = Metadata::new(headers, None)?;
        let call = Call::begin(services, rpc, &metadata, traced);
        Ok(Begun { rpc, metadata, call })
    }
}

/// The answers of a stream that was opened, or not.
fn opened(opened: Result<Body, RpcError>, call: SharedCall) -> Result<Box<dyn Answers>, RpcError> {
    match opened {
        Ok(body) => Ok(Box::new(Unframed::new(Counted::new(body.into_stream(), call)))),
        Err(error) => {
            call.lock().end(Some(&error));
            Err(error)
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
        let services = self.services;
        let Begun { metadata, mut call, .. } = self.begin(&**services, method, metadata)?;
        call.received(&request);
        let answer = carry_out(&mut call, &metadata, request, None).await;
        call.end(answer.as_ref().err());
        let answer = answer?;
        let mut message = services.header(&answer);
        message.extend_from_slice(&answer.body);
        call.sent(message.len());
        Ok(message.into())
    }

    fn server_stream(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        request: Bytes,
    ) -> Result<Box<dyn Answers>, RpcError> {
        let Begun { rpc, metadata, call } = self.begin(self.services.clone(), method, metadata)?;
        let call = call.shared();
        call.lock().received(&request);
        opened(super::server_stream(rpc, self.services, &metadata, request), call)
    }

    fn bidi_stream(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        requests: Requests,
    ) -> Result<Box<dyn Answers>, RpcError> {
        let Begun { rpc, metadata, call } = self.begin(self.services.clone(), method, metadata)?;
        let call = call.shared();
        let requests = Source::Other(Box::new(JsonRequests { requests, call: call.clone() }));
        opened(super::bidi_stream(rpc, self.services, &metadata, requests), call)
    }
}

struct JsonRequests {
    requests: Requests,
    call: SharedCall,
}

impl MessageSource for JsonRequests {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        let request = ready!(self.requests.poll_next(context));
        if let Some(Ok(message)) = &request {
            self.call.lock().received(message);
        }
        Poll::Ready(request)
    }
}

/// The answers of a stream, out of their frames.
struct Unframed {
    stream: Counted,
    reader: MessageReader,
}

impl Unframed {
    fn new(stream: Counted) -> Self {
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
