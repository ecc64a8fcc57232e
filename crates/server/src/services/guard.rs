//! What a call must pass before any service looks at it.

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_state_machine::auth::{Action, Identity};
use sha2::{Digest, Sha256};

use super::{Rpc, Services};
use crate::grpc::{Body, Credentials, MessageStream, Metadata};
use crate::node::NodeHandle;
use crate::tokens::Tokens;

/// A client that asked for a leader is refused at once when this member knows none.
pub(super) fn leader(services: &Services, metadata: &Metadata) -> Result<(), RpcError> {
    if metadata.requires_leader && services.node.leader().is_none() {
        return Err(RpcError::NoLeader);
    }
    Ok(())
}

/// A learner serves only what it can answer by itself.
pub(super) fn learner(services: &Services, rpc: Rpc, message: &Bytes) -> Result<(), RpcError> {
    if !services.node.is_learner() {
        return Ok(());
    }
    let is_served = match rpc {
        Rpc::Status => true,
        Rpc::Range => {
            pb::RangeRequest::decode(message.clone()).is_ok_and(|range| range.serializable)
        }
        _ => false,
    };
    if is_served { Ok(()) } else { Err(RpcError::NotSupportedForLearner) }
}

/// A learner streams nothing but its database.
pub(super) fn learner_stream(services: &Services, rpc: Rpc) -> Result<(), RpcError> {
    if rpc == Rpc::Snapshot || !services.node.is_learner() {
        return Ok(());
    }
    Err(RpcError::NotSupportedForLearner)
}

/// Ends a stream whose client asked for a leader when there has been none for a while.
pub(super) struct WhileLed {
    stream: Box<dyn MessageStream>,
    node: NodeHandle,
    look: tokio::time::Interval,
}

/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl WhileLed {
    /// Leaves streams alone whose clients did not ask for a leader.
    pub(super) fn wrap(body: Body, services: &Services, metadata: &Metadata) -> Body {
        match body {
            Body::Stream(stream) if metadata.requires_leader => {
                let node = services.node.clone();
                let mut look = tokio::time::interval(LOOK_INTERVAL);
                look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                Body::Stream(Box::new(WhileLed { stream, node, look }))
            }
            body => body,
        }
    }
}

impl MessageStream for WhileLed {
    fn poll_messages(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        while self.look.poll_tick(context).is_ready() {
            if self.node.has_lost_leader() {
                return Poll::Ready(Some(Err(RpcError::NoLeader)));
            }
        }
        self.stream.poll_messages(context)
    }
}

/// Refuses a write when the backend's quota is used up, and raises the NOSPACE alarm for this member.
///
/// `charge`: the bytes that the request is counted with; a request without a put counts nothing and always passes.
pub(super) async fn quota(services: &Services, charge: u64) -> Result<(), RpcError> {
    if charge == 0 || services.reader.fits_quota(charge) {
        return Ok(());
    }
    services.node.raise_no_space_alarm().await;
    Err(RpcError::NoSpace)
}

/// Who calls. `None` while authentication is off, and for those who do not say: what they may do is decided where it is
/// asked.
///
/// # Errors
/// A token that is nobody's.
pub(super) async fn caller(
    services: &Services,
    metadata: &Metadata,
) -> Result<Option<Identity>, RpcError> {
    if !services.reader.auth_is_enabled() {
        return Ok(None);
    }
    // A box: calls should not carry room for this while authentication is off.
    Box::pin(async { identify(services, &metadata.credentials()).await }).await
}

/// Lets a caller pass who may do that on this member as it is now. Returns who it is, for [`is_current`].
pub(super) async fn permit(
    services: &Services,
    metadata: &Metadata,
    action: Action<'_>,
) -> Result<Option<Identity>, RpcError> {
    if !services.reader.auth_is_enabled() {
        return Ok(None);
    }
    Box::pin(async { permit_with(services, &metadata.credentials(), action).await }).await
}

/// The same, for a stream.
pub(super) async fn permit_with(
    services: &Services,
    credentials: &Credentials,
    action: Action<'_>,
) -> Result<Option<Identity>, RpcError> {
    if !services.reader.auth_is_enabled() {
        return Ok(None);
    }
    let caller = identify(services, credentials).await?;
    services
        .reader
        .permit(caller.as_ref(), action)
        .map_err(|rejection| RpcError::from(&rejection))?;
    Ok(caller)
}

/// Whether what a read was permitted by still held when it was done.
pub(super) fn is_current(services: &Services, caller: Option<&Identity>) -> Result<(), RpcError> {
    match caller {
        Some(caller) if caller.revision != services.reader.auth_revision() => {
            Err(RpcError::AuthOldRevision)
        }
        _ => Ok(()),
    }
}

pub(super) async fn administrator(
    services: &Services,
    metadata: &Metadata,
) -> Result<(), RpcError> {
    permit(services, metadata, Action::Administer).await.map(drop)
}

/// Lets everybody pass who says who they are.
pub(super) async fn somebody(
    services: &Services,
    metadata: &Metadata,
) -> Result<Option<Identity>, RpcError> {
    let caller = caller(services, metadata).await?;
    is_somebody(services, caller.as_ref())?;
    Ok(caller)
}

pub(super) fn is_somebody(services: &Services, caller: Option<&Identity>) -> Result<(), RpcError> {
    if caller.is_none() && services.reader.auth_is_enabled() {
        return Err(RpcError::UserEmpty);
    }
    Ok(())
}

/// Finds out who it is.
pub(super) async fn identify(
    services: &Services,
    credentials: &Credentials,
) -> Result<Option<Identity>, RpcError> {
    let token = match credentials {
        Credentials::Nothing => return Ok(None),
        Credentials::CommonName(name) => {
            let revision = services.reader.auth_revision();
            return Ok(Some(Identity { user: name.as_ref().to_owned(), revision }));
        }
        Credentials::Token(token) => token,
    };
    let found = match &services.tokens {
        Tokens::None => None,
        Tokens::Simple => simple_token(services, token).await,
        Tokens::Signed(signer) => signer.verify(token, SystemTime::now()),
    };
    if found.is_none() {
        // Enough to find the same token again in other lines, and nothing to log in with.
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let head = digest[..6].iter().fold(0_u64, |head, byte| head << 8 | u64::from(*byte));
        let fingerprint = format!("{head:012x}");
        tracing::warn!(token_fingerprint = fingerprint, "invalid auth token");
    }
    found.map(Some).ok_or(RpcError::InvalidAuthToken)
}

/// Between two looks whether the entry that gave a token out has been applied here.
const TOKEN_POLL: Duration = Duration::from_millis(2);

/// How long a token is waited for once its index is applied: its entry is the next one, or was the one before.
const TOKEN_GRACE: Duration = Duration::from_millis(500);

/// Looks a token up. One that was given out a moment ago may not be known here yet: its number says when it will be. What
/// stays unknown for as long as a request may take is from another history.
async fn simple_token(services: &Services, token: &str) -> Option<Identity> {
    let (_, index) = token.split_once('.')?;
    let index: u64 = index.parse().ok()?;
    let mut give_up = services.node.now() + services.config.request_timeout();
    let mut pause = TOKEN_POLL;
    loop {
        let (now, applied) = (services.node.now(), services.reader.applied_index());
        if applied >= index {
            let found = services.reader.token_user(token, now);
            if found.is_some() || applied > index {
                return found;
            }
            give_up = give_up.min(now + TOKEN_GRACE);
        }
        if now >= give_up {
            return None;
        }
        tokio::time::sleep(pause.min(give_up.saturating_sub(now))).await;
        pause *= 2;
    }
}
