//! One call from its beginning to its status: counted, timed, and told as a span where somebody collects traces.
//!
//! gRPC and the JSON gateway use this alike, so a call looks the same whichever way it came. A call that its client
//! gives up is dropped somewhere on its way: then it ends as canceled.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use retcd_api::error::{Code, RpcError};

use crate::grpc::{FRAME_PREFIX_BYTES, MessageStream, Metadata};
use crate::metrics::{Metrics, RequestKind, is_read_only_txn, timeline};
use crate::services::{self, Answer, Kind, Rpc, Services, slow};
use crate::traces::Traced;

/// A call under way. `S` is a reference for the duration of a unary call; a stream owns its part.
pub(crate) struct Call<S: Deref<Target = Services>> {
    services: S,
    rpc: Rpc,
    started: Instant,
    is_read_only_txn: bool,
    is_over: bool,
    traced: Option<Box<Traced>>,
}

/// A call whose requests and answers are handled in different places.
pub(crate) type SharedCall = Arc<Mutex<Call<Arc<Services>>>>;

impl<S: Deref<Target = Services>> Call<S> {
    pub(crate) fn begin(
        services: S,
        rpc: Rpc,
        metadata: &Metadata,
        traced: Option<Box<Traced>>,
    ) -> Self {
        let started = services.begin(rpc, metadata);
        Self { services, rpc, started, is_read_only_txn: false, is_over: false, traced }
    }

    pub(crate) fn shared(self) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(self))
    }

    /// The client has sent a message.
    pub(crate) fn received(&mut self, message: &Bytes) {
        let metrics = self.metrics();
        metrics.grpc.method(self.rpc).received();
        metrics.network_client_grpc_received_bytes_total.add(message.len() as u64);
        if self.rpc == Rpc::Defragment {
            metrics.disk_defrag_inflight.set(1.0);
        }
        self.is_read_only_txn = self.rpc == Rpc::Txn && is_read_only_txn(message);
        if let Some(traced) = &mut self.traced {
            traced.received(self.rpc, message);
        }
    }

    /// A message of this size goes to the client.
    pub(crate) fn sent(&mut self, message_bytes: usize) {
        let metrics = self.metrics();
        metrics.grpc.method(self.rpc).sent();
        metrics.network_client_grpc_sent_bytes_total.add(message_bytes as u64);
        if let Some(traced) = &mut self.traced {
            traced.answered(None);
        }
    }

    /// Whole frames go to the client, a message in each.
    fn sent_frames(&mut self, mut frames: &[u8]) {
        while let Some(&[_, a, b, c, d]) = frames.first_chunk::<FRAME_PREFIX_BYTES>() {
            let bytes = u32::from_be_bytes([a, b, c, d]) as usize;
            self.sent(bytes);
            frames = frames.get(FRAME_PREFIX_BYTES + bytes..).unwrap_or_default();
        }
    }

    /// The call has its status.
    pub(crate) fn end(&mut self, error: Option<&RpcError>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.services.end(self.rpc, self.started, error);
        if self.rpc.kind() == Kind::Unary {
            let kind = if self.is_read_only_txn {
                RequestKind::ReadonlyTxn
            } else {
                RequestKind::Call(self.rpc)
            };
            let took = self.started.elapsed();
            self.metrics().request_took(kind, error.is_none(), took);
            self.metrics().call_ended(kind, error, took);
        } else if let Some(error) = error {
            self.count_broken_stream(error);
        }
        if let Some(traced) = self.traced.take() {
            let code = error.map_or(Code::Ok, RpcError::code);
            traced.end(code as i64, error.map(RpcError::message));
        }
    }

    /// A client that goes, and a member that stops, break nothing.
    fn count_broken_stream(&self, error: &RpcError) {
        let api = match self.rpc {
            Rpc::Watch => "watch",
            Rpc::LeaseKeepAlive => "lease-keepalive",
            _ => return,
        };
        if !matches!(error, RpcError::ContextCanceled | RpcError::Stopped) {
            self.metrics().network_server_stream_failures_total.with(["receive", api]).increment();
        }
    }

    fn metrics(&self) -> &Metrics {
        self.services.node.metrics()
    }
}

impl<S: Deref<Target = Services>> Drop for Call<S> {
    fn drop(&mut self) {
        self.end(Some(&RpcError::ContextCanceled));
    }
}

/// Does what a unary call asks for. A slow one is logged; `remote` is who asked.
pub(crate) async fn carry_out(
    call: &mut Call<&Services>,
    metadata: &Metadata,
    message: Bytes,
    remote: Option<SocketAddr>,
) -> Result<Answer, RpcError> {
    let request = message.clone();
    let outcome = carry_out_traced(call, metadata, message).await;
    let took = call.started.elapsed();
    if took > call.services.config.warning_unary_request_duration {
        slow::warn(call.rpc, took, remote, &request, &outcome);
    }
    outcome
}

/// Of a sampled call it is noted what it sends into the log.
async fn carry_out_traced(
    call: &mut Call<&Services>,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let (rpc, services) = (call.rpc, call.services);
    let Some(traced) = &mut call.traced else {
        return services::unary(rpc, services, metadata, message).await;
    };
    let mut work = Box::pin(services::unary(rpc, services, metadata, message));
    std::future::poll_fn(|context| {
        // What this thread has sent before was for others.
        timeline::take_proposed();
        let outcome = work.as_mut().poll(context);
        if let Some(id) = timeline::take_proposed() {
            traced.proposed(id);
        }
        outcome
    })
    .await
}

/// The answers of a streaming call on their way out.
pub(crate) struct Counted {
    stream: Box<dyn MessageStream>,
    call: SharedCall,
}

impl Counted {
    pub(crate) fn new(stream: Box<dyn MessageStream>, call: SharedCall) -> Self {
        Self { stream, call }
    }
}

impl MessageStream for Counted {
    fn poll_messages(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        let output = ready!(self.stream.poll_messages(context));
        let mut call = self.call.lock();
        match &output {
            Some(Ok(frames)) => call.sent_frames(frames),
            Some(Err(error)) => call.end(Some(error)),
            None => call.end(None),
        }
        drop(call);
        Poll::Ready(output)
    }
}
