//! What can be said about a request without looking at the state: checked before it is proposed.

use retcd_api::etcdserverpb as pb;

use crate::rejection::Rejection;

/// Static checks of a range request.
pub fn range(request: &pb::RangeRequest) -> Result<(), Rejection> {
    let _ = request;
    unimplemented!()
}

/// Static checks of a streamed range request.
pub fn range_stream(request: &pb::RangeRequest) -> Result<(), Rejection> {
    let _ = request;
    unimplemented!()
}

/// Static checks of a put request.
pub fn put(request: &pb::PutRequest) -> Result<(), Rejection> {
    let _ = request;
    unimplemented!()
}

/// Static checks of a delete request.
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), Rejection> {
    let _ = request;
    unimplemented!()
}

/// Static checks of a transaction and of all that is nested in it.
pub fn txn(request: &pb::TxnRequest, ops_max: usize) -> Result<(), Rejection> {
    let _ = (request, ops_max);
    unimplemented!()
}

/// Whether the transaction need not go through the log: both branches hold only ranges.
pub fn is_read_only(request: &pb::TxnRequest) -> bool {
    let _ = request;
    unimplemented!()
}

/// Whether a read-only transaction may be answered from local state: every range in it is serializable.
pub fn is_serializable(request: &pb::TxnRequest) -> bool {
    let _ = request;
    unimplemented!()
}

/// Bytes that a request is taken to add to the backend, compared with the quota. 0 always fits.
pub mod charge {
    use super::pb;

    /// What a lease grant is taken to add.
    pub const LEASE_GRANT: u64 = 64;

    pub fn put(request: &pb::PutRequest) -> u64 {
        let _ = request;
        unimplemented!()
    }

    /// The larger of the two branches, nested transactions included.
    pub fn txn(request: &pb::TxnRequest) -> u64 {
        let _ = request;
        unimplemented!()
    }
}
