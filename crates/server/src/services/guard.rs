//! What a call must pass before any service looks at it.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;

use super::{Rpc, Services};
use crate::grpc::{Body, MessageStream, Metadata};
use crate::node::NodeHandle;

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
