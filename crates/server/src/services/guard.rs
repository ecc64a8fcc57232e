//! What a call must pass before any service looks at it.

use retcd_api::error::RpcError;

use super::Services;
use crate::grpc::Metadata;

/// A client that asked for a leader is refused at once when this member knows none.
pub(super) fn leader(services: &Services, metadata: &Metadata) -> Result<(), RpcError> {
    if metadata.requires_leader && services.node.leader().is_none() {
        return Err(RpcError::NoLeader);
    }
    Ok(())
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
