//! Lock: a [line](super::waiting_line) whose first has the lock.

use bytes::Bytes;
use prost::Message;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest};

use super::waiting_line::{Line, Place, Turn, lease_or_new, without_code};
use super::{Answer, HeaderKind, Services, decode, kv};
use crate::grpc::Metadata;

pub(super) async fn lock(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request = decode(message)?;
    acquire(services, metadata, request).await.map_err(without_code)
}

/// Takes the lock. A caller that has it already, by the same lease, is told so at once.
async fn acquire(
    services: &Services,
    metadata: &Metadata,
    request: LockRequest,
) -> Result<Answer, RpcError> {
    let lease = lease_or_new(services, metadata, request.lease).await?;
    let line = Line::of(&request.name);
    let mut place = Place::enter(services, metadata, line, lease, Bytes::new()).await?;
    let revision = if place.is_first { place.entered_at } else { wait(&mut place).await? };
    let response = LockResponse { header: None, key: place.keep() };
    Ok(Answer::message(HeaderKind::Full { revision }, &response))
}

/// The revision at which the lock was seen to be held. It is above that of everybody who held it before.
async fn wait(place: &mut Place<'_>) -> Result<i64, RpcError> {
    match place.wait().await? {
        Turn::Come => place.confirm().await?.ok_or(RpcError::SessionExpired),
        Turn::Lost => Err(RpcError::SessionExpired),
    }
}

/// Deletes the key, whosever it is: the key is all that a caller needs to have.
pub(super) async fn unlock(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: UnlockRequest = decode(message)?;
    let delete = pb::DeleteRangeRequest { key: request.key, ..Default::default() };
    let deleted = kv::delete_range(services, metadata, delete.encode_to_vec().into()).await;
    deleted.map(|answer| Answer { body: Bytes::new(), ..answer }).map_err(without_code)
}
