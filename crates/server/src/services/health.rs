//! `grpc.health.v1`: the member as a whole, under the empty service name.

use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message;
use retcd_api::error::{Code, RpcError};
use retcd_api::health::health_check_response::ServingStatus;
use retcd_api::health::{HealthCheckRequest, HealthCheckResponse, HealthListResponse};

use super::{Answer, HeaderKind};
use crate::grpc::{MessageStream, frame_prefix};

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

pub(super) fn check(request: &HealthCheckRequest) -> Result<Answer, RpcError> {
    if request.service.is_empty() {
        Ok(Answer::message(HeaderKind::None, &response(ServingStatus::Serving)))
    } else {
        Err(RpcError::other(Code::NotFound, "unknown service"))
    }
}

pub(super) fn list() -> Answer {
    let statuses = [(String::new(), response(ServingStatus::Serving))].into();
    Answer::message(HeaderKind::None, &HealthListResponse { statuses })
}

/// Tells the present status; it does not change while the member serves.
pub(super) struct Watch {
    first: Option<HealthCheckResponse>,
}

impl Watch {
    pub(super) fn open(request: &HealthCheckRequest) -> Self {
        let status = if request.service.is_empty() {
            ServingStatus::Serving
        } else {
            ServingStatus::ServiceUnknown
        };
        Watch { first: Some(response(status)) }
    }
}

impl MessageStream for Watch {
    fn poll_messages(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        match self.first.take() {
            Some(status) => {
                let message = status.encode_to_vec();
                let framed = [&frame_prefix(message.len())[..], &message].concat();
                Poll::Ready(Some(Ok(framed.into())))
            }
            None => Poll::Pending,
        }
    }
}
