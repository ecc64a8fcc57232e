//! `grpc.health.v1`: the member as a whole, under the empty service name.
//!
//! It serves while it lives. Only with the feature gate `StopGRPCServiceOnDefrag` it says otherwise while it defragments,
//! for clients that then turn to other members; calls that come all the same are answered as ever.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use prost::Message;
use retcd_api::error::{Code, RpcError};
use retcd_api::health::health_check_response::ServingStatus;
use retcd_api::health::{HealthCheckRequest, HealthCheckResponse, HealthListResponse};
use tokio::sync::watch;

use super::{Answer, HeaderKind};
use crate::grpc::{MessageStream, frame_prefix};

/// The member's status, as the number of reasons not to ask it.
#[derive(Debug, Default)]
pub(crate) struct Health {
    reasons: watch::Sender<usize>,
}

impl Health {
    /// Says that others should be asked, until the guard is dropped.
    pub(super) fn turn_away(&self) -> TurnedAway<'_> {
        self.change(|reasons| *reasons += 1);
        TurnedAway(self)
    }

    fn change(&self, change: impl FnOnce(&mut usize)) {
        let before = self.status();
        self.reasons.send_modify(change);
        let status = self.status();
        if status != before {
            let status = status.as_str_name();
            tracing::info!(service = "", status, "grpc service status changed");
        }
    }

    fn status(&self) -> ServingStatus {
        status_of(*self.reasons.borrow())
    }

    pub(super) fn check(&self, request: &HealthCheckRequest) -> Result<Answer, RpcError> {
        if request.service.is_empty() {
            Ok(Answer::message(HeaderKind::None, &response(self.status())))
        } else {
            Err(RpcError::other(Code::NotFound, "unknown service"))
        }
    }

    pub(super) fn list(&self) -> Answer {
        let statuses = [(String::new(), response(self.status()))].into();
        Answer::message(HeaderKind::None, &HealthListResponse { statuses })
    }

    /// Opens a stream of the present status and all that follow.
    pub(super) fn watch(&self, request: &HealthCheckRequest) -> Watch {
        let is_known = request.service.is_empty();
        let reasons = is_known.then(|| self.reasons.subscribe());
        Watch { next: Box::pin(async move { reasons }), told: None }
    }
}

pub(super) struct TurnedAway<'a>(&'a Health);

impl Drop for TurnedAway<'_> {
    fn drop(&mut self) {
        self.0.change(|reasons| *reasons -= 1);
    }
}

fn status_of(reasons: usize) -> ServingStatus {
    if reasons == 0 { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// The statuses of a service, as they come.
pub(super) struct Watch {
    /// The number of reasons when it has changed, or is to be told for the first time; none: the service is not known.
    next: Pin<Box<dyn Future<Output = Option<watch::Receiver<usize>>> + Send>>,
    told: Option<ServingStatus>,
}

impl MessageStream for Watch {
    fn poll_messages(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        loop {
            let mut reasons = ready!(self.next.as_mut().poll(context));
            let status = reasons.as_mut().map_or(ServingStatus::ServiceUnknown, |reasons| {
                status_of(*reasons.borrow_and_update())
            });
            self.next = Box::pin(async move {
                let has_changed = match &mut reasons {
                    Some(receiver) => receiver.changed().await.is_ok(),
                    None => false,
                };
                // A member that ends ends its streams itself.
                if has_changed { reasons } else { std::future::pending().await }
            });
            if self.told.replace(status) != Some(status) {
                let message = response(status).encode_to_vec();
                let framed = [&frame_prefix(message.len())[..], &message].concat();
                return Poll::Ready(Some(Ok(framed.into())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status that a watch tells now, if it has something to tell.
    fn told(watch: &mut Watch) -> Option<ServingStatus> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Some(Ok(framed))) = watch.poll_messages(&mut context) else { return None };
        let message = HealthCheckResponse::decode(&framed[frame_prefix(0).len()..]).unwrap();
        Some(message.status())
    }

    #[test]
    fn a_watch_tells_each_status_once() {
        let health = Health::default();
        let mut watch = health.watch(&HealthCheckRequest::default());
        assert_eq!((told(&mut watch), told(&mut watch)), (Some(ServingStatus::Serving), None));
        let first = health.turn_away();
        let second = health.turn_away();
        assert_eq!((told(&mut watch), told(&mut watch)), (Some(ServingStatus::NotServing), None));
        drop(first);
        assert_eq!(told(&mut watch), None);
        drop(second);
        assert_eq!((told(&mut watch), told(&mut watch)), (Some(ServingStatus::Serving), None));
    }

    #[test]
    fn only_the_member_as_a_whole_has_a_status() {
        let health = Health::default();
        let request = HealthCheckRequest { service: "etcdserverpb.KV".to_owned() };
        assert_eq!(health.check(&request).err().map(|error| error.code()), Some(Code::NotFound));
        let mut watch = health.watch(&request);
        assert_eq!(told(&mut watch), Some(ServingStatus::ServiceUnknown));
        assert_eq!(told(&mut watch), None);
    }
}
