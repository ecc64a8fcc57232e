//! Transactions: building them, and knowing which ones only read.

use bytes::Bytes;
use retcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use retcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    request_op::Request,
};

/// A transaction under construction.
///
/// ```
/// use retcd_client::{Txn, compare};
/// use retcd_api::etcdserverpb::{PutRequest, compare::{CompareResult, TargetUnion}};
///
/// let absent = compare("lock", CompareResult::Equal, TargetUnion::Version(0));
/// let put = PutRequest { key: "lock".into(), value: "me".into(), ..Default::default() };
/// let request = Txn::new().when(absent).put(put).into_request();
/// assert_eq!(request.success.len(), 1);
/// ```
#[derive(Debug, Default)]
pub struct Txn {
    request: TxnRequest,
    in_failure: bool,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition; all must hold.
    #[must_use]
    pub fn when(mut self, condition: Compare) -> Self {
        self.request.compare.push(condition);
        self
    }

    /// The operations that follow are done when a condition does not hold.
    #[must_use]
    pub fn otherwise(mut self) -> Self {
        self.in_failure = true;
        self
    }

    #[must_use]
    pub fn range(self, request: RangeRequest) -> Self {
        self.operation(Request::RequestRange(request))
    }

    #[must_use]
    pub fn put(self, request: PutRequest) -> Self {
        self.operation(Request::RequestPut(request))
    }

    #[must_use]
    pub fn delete_range(self, request: DeleteRangeRequest) -> Self {
        self.operation(Request::RequestDeleteRange(request))
    }

    #[must_use]
    pub fn txn(self, request: TxnRequest) -> Self {
        self.operation(Request::RequestTxn(request))
    }

    fn operation(mut self, request: Request) -> Self {
        let branch =
            if self.in_failure { &mut self.request.failure } else { &mut self.request.success };
        branch.push(RequestOp { request: Some(request) });
        self
    }

    pub fn into_request(self) -> TxnRequest {
        self.request
    }
}

/// The condition `key`'s target `result` operand, for instance "version of `key` equals 0". The operand names the
/// target, so the two cannot disagree.
pub fn compare(key: impl Into<Bytes>, result: CompareResult, operand: TargetUnion) -> Compare {
    let target = match operand {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        key: key.into(),
        result: result.into(),
        target: target.into(),
        target_union: Some(operand),
        range_end: Bytes::new(),
    }
}

/// Whether no branch writes, so that the transaction may be repeated.
pub(crate) fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(_)) | None => true,
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
        Some(Request::RequestTxn(nested)) => is_read_only(nested),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_transactions_without_writes_are_repeatable() {
        let read = Txn::new().range(RangeRequest::default()).into_request();
        assert!(is_read_only(&read));
        assert!(is_read_only(&Txn::new().txn(read).into_request()));
        let write = Txn::new().otherwise().put(PutRequest::default()).into_request();
        assert!(!is_read_only(&write));
        assert!(!is_read_only(&Txn::new().txn(write).into_request()));
    }
}
