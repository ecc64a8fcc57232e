//! Lease: grants and revokes go through the log, keep-alives do not.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_state_machine::auth::Action;
use retcd_state_machine::check;
use retcd_state_machine::lease::{KeepAliveError, MAX_TTL_SECS};

use super::kv::encoded;
use super::{Answer, HeaderKind, Services, decode, guard};
use crate::grpc::connection::Requests;
use crate::grpc::{Credentials, MessageStream, Metadata, frame_prefix};
use crate::node::Request;
use crate::node::mailbox::Pending;
use crate::peer::LeaseError;
use crate::peer::client::{self, Client};

pub(super) async fn grant(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let mut request: pb::LeaseGrantRequest = decode(message)?;
    guard::quota(services, check::charge::LEASE_GRANT).await?;
    if request.ttl > MAX_TTL_SECS {
        return Err(RpcError::LeaseTtlTooLarge);
    }
    let caller = guard::somebody(services, metadata).await?;
    let is_chosen_here = request.id == 0;
    loop {
        if is_chosen_here {
            request.id = services.node.new_lease_id();
        }
        let pending =
            services.node.propose(Request::LeaseGrant, &encoded(&request), caller.as_ref())?;
        let outcome = pending.await;
        match outcome {
            // The id was chosen by this member, so the client can do nothing about it: choose again.
            Err(RpcError::LeaseExist) if is_chosen_here => {}
            outcome => return outcome.map(Answer::from),
        }
    }
}

pub(super) async fn revoke(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    decode::<pb::LeaseRevokeRequest>(message.clone())?;
    let caller = guard::somebody(services, metadata).await?;
    services.node.propose(Request::LeaseRevoke, &message, caller.as_ref())?.await.map(Answer::from)
}

pub(super) async fn time_to_live(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::LeaseTimeToLiveRequest = decode(message)?;
    let auth_revision = services.reader.auth_revision();
    guard::somebody(services, metadata).await?;
    if request.keys {
        guard::permit(services, metadata, Action::ReadLease(request.id)).await?;
    }
    let (response, revision) = if services.node.is_leader() {
        services.node.read_barrier().await?;
        look_up(services, request.id, request.keys)
    } else {
        let response = ask_leader_for_time(services, &request).await?;
        (response, services.reader.revision())
    };
    if request.keys
        && services.reader.auth_is_enabled()
        && auth_revision != services.reader.auth_revision()
    {
        return Err(RpcError::AuthOldRevision);
    }
    Ok(Answer::message(HeaderKind::Full { revision }, &response))
}

/// What this member knows of a lease, and at which revision. Only the leader knows the remaining time.
pub(super) fn look_up(
    services: &Services,
    id: i64,
    keys: bool,
) -> (pb::LeaseTimeToLiveResponse, i64) {
    let mut response = pb::LeaseTimeToLiveResponse { id, ttl: -1, ..Default::default() };
    let revision = services.reader.revision();
    let lessor = services.reader.lessor();
    if let Some(lease) = lessor.time_to_live(id, services.node.now()) {
        response.ttl = lease.remaining_secs.unwrap_or(lease.granted_ttl_secs);
        response.granted_ttl = lease.granted_ttl_secs;
        if keys {
            let keys = lessor.keys(id).into_iter().flatten();
            response.keys = keys.map(Bytes::copy_from_slice).collect();
        }
    }
    (response, revision)
}

async fn ask_leader_for_time(
    services: &Services,
    request: &pb::LeaseTimeToLiveRequest,
) -> Result<pb::LeaseTimeToLiveResponse, RpcError> {
    let node = &services.node;
    let give_up = node.now() + services.config.request_timeout();
    while node.now() < give_up {
        for url in node.leader_urls() {
            let limit = give_up.saturating_sub(node.now());
            let client = Client { dialer: node.network().dialer(), url: &url, limit };
            match client.lease_time_to_live(request.id, request.keys).await {
                Ok(answer) => return Ok(pb::LeaseTimeToLiveResponse { header: None, ..answer }),
                Err(client::Error::Lease(LeaseError::NotFound)) => {
                    let unknown = pb::LeaseTimeToLiveResponse {
                        id: request.id,
                        ttl: -1,
                        ..Default::default()
                    };
                    return Ok(unknown);
                }
                Err(error) => tracing::debug!(%error, "could not ask the leader about a lease"),
            }
        }
        if node.is_leader() {
            node.read_barrier().await?;
            return Ok(look_up(services, request.id, request.keys).0);
        }
        tokio::time::sleep(FORWARD_PAUSE).await;
    }
    Err(if node.leader().is_none() { RpcError::NoLeader } else { RpcError::Timeout })
}

/// Renews a lease as its leader; returns its time to live in seconds. The caller has waited for the read barrier: see
/// [`KeepAlive`].
pub(super) async fn renew(services: &Services, id: i64) -> Result<i64, KeepAliveError> {
    let renewed = services.reader.lessor().keep_alive(id, services.node.now())?;
    if renewed.needs_checkpoint_clear {
        // The stored remainder must be gone before the client hears of the renewal, or a new leader could cut it short.
        let checkpoint = pb::LeaseCheckpoint { id, remaining_ttl: 0 };
        let request = pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
        let cleared =
            match services.node.propose(Request::LeaseCheckpoint, &encoded(&request), None) {
                Ok(pending) => pending.await,
                Err(error) => Err(error),
            };
        cleared.map_err(|_| KeepAliveError::NotPrimary)?;
    }
    services.node.metrics().lease_renewed_total.increment();
    Ok(renewed.ttl_secs)
}

/// Has the leader renew a lease, for a follower's client. 0 is: there is no such lease.
async fn renew_at_leader(services: Arc<Services>, id: i64) -> Result<i64, RpcError> {
    let node = &services.node;
    let give_up = node.now() + services.config.request_timeout();
    while node.now() < give_up {
        for url in node.leader_urls() {
            let limit = give_up.saturating_sub(node.now());
            let client = Client { dialer: node.network().dialer(), url: &url, limit };
            match client.renew_lease(id).await {
                Ok(ttl) => return Ok(ttl),
                Err(client::Error::Lease(LeaseError::NotFound)) => return Ok(0),
                Err(error) => tracing::debug!(%error, "could not renew a lease at the leader"),
            }
        }
        if node.is_leader() {
            node.read_barrier().await?;
            match renew(&services, id).await {
                Ok(ttl) => return Ok(ttl),
                Err(KeepAliveError::NotFound(_)) => return Ok(0),
                Err(KeepAliveError::Expired(_) | KeepAliveError::NotPrimary) => {}
            }
        }
        tokio::time::sleep(FORWARD_PAUSE).await;
    }
    Err(if node.leader().is_none() { RpcError::NoLeader } else { RpcError::Timeout })
}

pub(super) async fn leases(services: &Services, metadata: &Metadata) -> Result<Answer, RpcError> {
    guard::somebody(services, metadata).await?;
    let caller = guard::permit(services, metadata, Action::ReadAllLeases).await?;
    let leases =
        services.reader.lessor().leases().into_iter().map(|id| pb::LeaseStatus { id }).collect();
    let header = HeaderKind::Full { revision: services.reader.revision() };
    guard::is_current(services, caller.as_ref())?;
    Ok(Answer::message(header, &pb::LeaseLeasesResponse { header: None, leases }))
}

/// Between two attempts at a leader that does not answer.
const FORWARD_PAUSE: Duration = Duration::from_millis(50);
/// How often a keep-alive of an expired lease looks whether its revoke has come through.
const REVOKE_POLL: Duration = Duration::from_millis(50);

/// The keep-alive stream: one answer per request, in order.
///
/// A renewal is a promise, so the leader must be sure that it leads, and that it has applied every revoke that a leader
/// before it may have put into the log: the read barrier says so, which is free for the only voter. The rest is a short
/// look into shared memory, so the connection's own poll does the work. Two more things may make an answer wait: the
/// revoke of a lease past its time, and the log entry that clears a stored remainder.
pub(super) struct KeepAlive {
    services: Arc<Services>,
    credentials: Credentials,
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
    /// Whether the caller may renew the lease.
    Permission(Pin<Box<dyn Future<Output = Result<Leads, RpcError>> + Send>>),
    /// The leader is not sure yet.
    Barrier(Pin<Box<dyn Future<Output = Result<(), RpcError>> + Send>>),
    /// The lease is past its time: when this ends, look again.
    Revoke(Pin<Box<tokio::time::Sleep>>),
    /// The stored remainder must be gone before the client hears of the renewal, or a new leader could cut it short.
    CheckpointCleared(Pending),
    /// The leader renews the lease.
    Leader(Pin<Box<dyn Future<Output = Result<i64, RpcError>> + Send>>),
}

impl KeepAlive {
    pub(super) fn open(services: &Arc<Services>, metadata: &Metadata, requests: Requests) -> Self {
        KeepAlive {
            services: services.clone(),
            credentials: metadata.credentials(),
            requests,
            waiting: None,
            end: End::NotYet,
        }
    }

    /// Looks whether the caller may renew the lease, where that is asked; else renews it.
    fn admit(
        &self,
        response: pb::LeaseKeepAliveResponse,
        output: &mut BytesMut,
    ) -> Result<Option<Waiting>, RpcError> {
        if !self.services.reader.auth_is_enabled() {
            return self.begin(response, output);
        }
        let permission = may_renew(self.services.clone(), self.credentials.clone(), response.id);
        Ok(Some(Waiting { response, what: What::Permission(Box::pin(permission)) }))
    }

    /// Renews the lease that `response` names, or has it renewed: writes the answer, or says what it must wait for.
    fn begin(
        &self,
        response: pb::LeaseKeepAliveResponse,
        output: &mut BytesMut,
    ) -> Result<Option<Waiting>, RpcError> {
        let node = &self.services.node;
        if !node.is_leader() {
            let what = What::Leader(Box::pin(renew_at_leader(self.services.clone(), response.id)));
            return Ok(Some(Waiting { response, what }));
        }
        if node.is_always_fresh() {
            return self.renew(response, output);
        }
        let node = node.clone();
        let what = What::Barrier(Box::pin(async move { node.read_barrier().await }));
        Ok(Some(Waiting { response, what }))
    }

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
                    let node = &self.services.node;
                    let pending =
                        node.propose(Request::LeaseCheckpoint, &encoded(&request), None)?;
                    return Ok(Some(Waiting { response, what: What::CheckpointCleared(pending) }));
                }
                self.services.node.metrics().lease_renewed_total.increment();
            }
            Err(KeepAliveError::NotFound(_)) => response.ttl = 0,
            Err(KeepAliveError::Expired(_)) => {
                let what = What::Revoke(Box::pin(tokio::time::sleep(REVOKE_POLL)));
                return Ok(Some(Waiting { response, what }));
            }
            // It has just become the leader, or ceased to be: whoever leads in a moment renews.
            Err(KeepAliveError::NotPrimary) => {
                let what = What::Revoke(Box::pin(tokio::time::sleep(FORWARD_PAUSE)));
                return Ok(Some(Waiting { response, what }));
            }
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
            What::Permission(permission) => match permission.as_mut().poll(context) {
                Poll::Pending => {
                    self.waiting = Some(waiting);
                    return Poll::Pending;
                }
                Poll::Ready(outcome) => {
                    self.waiting = match outcome? {
                        Leads::Surely => self.renew(waiting.response, output)?,
                        Leads::PerhapsNot => self.begin(waiting.response, output)?,
                    };
                }
            },
            What::Barrier(barrier) => match barrier.as_mut().poll(context) {
                Poll::Pending => {
                    self.waiting = Some(waiting);
                    return Poll::Pending;
                }
                Poll::Ready(outcome) => {
                    outcome?;
                    self.waiting = self.renew(waiting.response, output)?;
                }
            },
            What::Revoke(sleep) => {
                if sleep.as_mut().poll(context).is_pending() {
                    self.waiting = Some(waiting);
                    return Poll::Pending;
                }
                self.waiting = self.begin(waiting.response, output)?;
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
            What::Leader(renewal) => match renewal.as_mut().poll(context) {
                Poll::Pending => {
                    self.waiting = Some(waiting);
                    return Poll::Pending;
                }
                Poll::Ready(ttl) => {
                    waiting.response.ttl = ttl?;
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
            self.waiting = self.admit(response, output)?;
        }
    }
}

/// What is known of this member when a caller may renew a lease.
enum Leads {
    /// It has passed the read barrier as the leader.
    Surely,
    PerhapsNot,
}

/// Who renews a lease decides how long its keys live.
async fn may_renew(
    services: Arc<Services>,
    credentials: Credentials,
    id: i64,
) -> Result<Leads, RpcError> {
    let caller = guard::identify(&services, &credentials).await?;
    guard::is_somebody(&services, caller.as_ref())?;
    let leads = if services.node.is_leader() {
        services.node.read_barrier().await?;
        Leads::Surely
    } else {
        Leads::PerhapsNot
    };
    let permitted = services.reader.permit(caller.as_ref(), Action::ChangeLease(id));
    permitted.map_err(|rejection| RpcError::from(&rejection))?;
    Ok(leads)
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
