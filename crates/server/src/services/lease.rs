//! Lease: grants and revokes go through the log, keep-alives do not.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_state_machine::check;
use retcd_state_machine::lease::{KeepAliveError, MAX_TTL_SECS};

use super::kv::encoded;
use super::{Answer, HeaderKind, Services, decode, guard};
use crate::grpc::connection::Requests;
use crate::grpc::{MessageStream, frame_prefix};
use crate::node::Request;
use crate::node::mailbox::Pending;

pub(super) async fn grant(services: &Services, message: Bytes) -> Result<Answer, RpcError> {
    let mut request: pb::LeaseGrantRequest = decode(message)?;
    guard::quota(services, check::charge::LEASE_GRANT).await?;
    if request.ttl > MAX_TTL_SECS {
        return Err(RpcError::LeaseTtlTooLarge);
    }
    let is_chosen_here = request.id == 0;
    loop {
        if is_chosen_here {
            request.id = services.node.new_lease_id();
        }
        let outcome = services.node.propose(Request::LeaseGrant, &encoded(&request))?.await;
        match outcome {
            // The id was chosen by this member, so the client can do nothing about it: choose again.
            Err(RpcError::LeaseExist) if is_chosen_here => {}
            outcome => return outcome.map(Answer::from),
        }
    }
}

pub(super) async fn revoke(services: &Services, message: Bytes) -> Result<Answer, RpcError> {
    decode::<pb::LeaseRevokeRequest>(message.clone())?;
    services.node.propose(Request::LeaseRevoke, &message)?.await.map(Answer::from)
}

pub(super) async fn time_to_live(services: &Services, message: Bytes) -> Result<Answer, RpcError> {
    let request: pb::LeaseTimeToLiveRequest = decode(message)?;
    services.node.read_barrier().await?;
    let mut response =
        pb::LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() };
    let revision = services.reader.revision();
    let lessor = services.reader.lessor();
    if let Some(lease) = lessor.time_to_live(request.id, services.node.now()) {
        response.ttl = lease.remaining_secs.unwrap_or(lease.granted_ttl_secs);
        response.granted_ttl = lease.granted_ttl_secs;
        if request.keys {
            let keys = lessor.keys(request.id).into_iter().flatten();
            response.keys = keys.map(Bytes::copy_from_slice).collect();
        }
    }
    drop(lessor);
    Ok(Answer::message(HeaderKind::Full { revision }, &response))
}

pub(super) fn leases(services: &Services) -> Answer {
    let leases =
        services.reader.lessor().leases().into_iter().map(|id| pb::LeaseStatus { id }).collect();
    let header = HeaderKind::Full { revision: services.reader.revision() };
    Answer::message(header, &pb::LeaseLeasesResponse { header: None, leases })
}

/// How often a keep-alive of an expired lease looks whether its revoke has come through.
const REVOKE_POLL: Duration = Duration::from_millis(50);

/// The keep-alive stream: one answer per request, in order.
///
/// A renewal is a short look into shared memory, so the connection's own poll does the work. Two things may make an
/// answer wait: the revoke of a lease past its time, and the log entry that clears a stored remainder.
pub(super) struct KeepAlive {
    services: Arc<Services>,
    requests: Requests,
    waiting: Option<Waiting>,
    end: End,
}

/// How a stream ends once the answers before have gone.
enum End {
    NotYet,
    Well,
    With(RpcError),
}

/// The answer that is on its way, and what it waits for.
struct Waiting {
    response: pb::LeaseKeepAliveResponse,
    what: What,
}

enum What {
    /// The lease is past its time: when this ends, look again.
    Revoke(Pin<Box<tokio::time::Sleep>>),
    /// The stored remainder must be gone before the client hears of the renewal, or a new leader could cut it short.
    CheckpointCleared(Pending),
}

impl KeepAlive {
    pub(super) fn open(services: &Arc<Services>, requests: Requests) -> Self {
        KeepAlive { services: services.clone(), requests, waiting: None, end: End::NotYet }
    }

    /// Renews the lease that `response` names: writes the answer, or says what it must wait for.
    fn renew(
        &self,
        mut response: pb::LeaseKeepAliveResponse,
        output: &mut BytesMut,
    ) -> Result<Option<Waiting>, RpcError> {
        let renewed =
            self.services.reader.lessor().keep_alive(response.id, self.services.node.now());
        match renewed {
            Ok(renewed) => {
                response.ttl = renewed.ttl_secs;
                if renewed.needs_checkpoint_clear {
                    let checkpoint = pb::LeaseCheckpoint { id: response.id, remaining_ttl: 0 };
                    let request = pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
                    let pending =
                        self.services.node.propose(Request::LeaseCheckpoint, &encoded(&request))?;
                    return Ok(Some(Waiting { response, what: What::CheckpointCleared(pending) }));
                }
                self.services.node.metrics().lease_renewed_total.increment();
            }
            Err(KeepAliveError::NotFound(_)) => response.ttl = 0,
            Err(KeepAliveError::Expired(_)) => {
                let what = What::Revoke(Box::pin(tokio::time::sleep(REVOKE_POLL)));
                return Ok(Some(Waiting { response, what }));
            }
            Err(KeepAliveError::NotPrimary) => return Err(RpcError::NotPrimaryLessor),
        }
        push(&response, output);
        Ok(None)
    }

    /// Goes on with an answer that had to wait. `None` while it still has to.
    fn resume(
        &mut self,
        mut waiting: Waiting,
        context: &mut Context<'_>,
        output: &mut BytesMut,
    ) -> Poll<Result<(), RpcError>> {
        match &mut waiting.what {
            What::Revoke(sleep) => {
                if sleep.as_mut().poll(context).is_pending() {
                    self.waiting = Some(waiting);
                    return Poll::Pending;
                }
                self.waiting = self.renew(waiting.response, output)?;
            }
            What::CheckpointCleared(pending) => match Pin::new(pending).poll(context) {
                Poll::Pending => {
                    self.waiting = Some(waiting);
                    return Poll::Pending;
                }
                Poll::Ready(outcome) => {
                    outcome?;
                    push(&waiting.response, output);
                }
            },
        }
        Poll::Ready(Ok(()))
    }

    /// Answers what can be answered. Ready when the stream is at its end.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        output: &mut BytesMut,
    ) -> Poll<Result<(), RpcError>> {
        loop {
            if let Some(waiting) = self.waiting.take() {
                std::task::ready!(self.resume(waiting, context, output))?;
                continue;
            }
            let Some(message) = std::task::ready!(self.requests.poll_next(context)) else {
                return Poll::Ready(Ok(()));
            };
            let request: pb::LeaseKeepAliveRequest = decode(message?)?;
            // The header tells the revision before the renewal.
            let header = self
                .services
                .headers
                .message(self.services.reader.revision(), self.services.node.term());
            let response =
                pb::LeaseKeepAliveResponse { header: Some(header), id: request.id, ttl: 0 };
            self.waiting = self.renew(response, output)?;
        }
    }
}

fn push(response: &pb::LeaseKeepAliveResponse, output: &mut BytesMut) {
    output.extend_from_slice(&frame_prefix(response.encoded_len()));
    response.encode(output).expect("a growing buffer has room");
}

impl MessageStream for KeepAlive {
    fn poll_messages(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        let mut output = BytesMut::new();
        if matches!(self.end, End::NotYet)
            && let Poll::Ready(result) = self.poll(context, &mut output)
        {
            self.end = result.map_or_else(End::With, |()| End::Well);
        }
        if !output.is_empty() {
            return Poll::Ready(Some(Ok(output.freeze())));
        }
        match std::mem::replace(&mut self.end, End::Well) {
            End::NotYet => {
                self.end = End::NotYet;
                Poll::Pending
            }
            End::Well => Poll::Ready(None),
            End::With(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
