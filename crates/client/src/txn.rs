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
    /// A transaction without conditions, which does nothing.
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

    /// Adds a read.
    #[must_use]
    pub fn range(self, request: impl Into<RangeRequest>) -> Self {
        self.operation(Request::RequestRange(request.into()))
    }

    /// Adds a write. A transaction writes each key at most once.
    #[must_use]
    pub fn put(self, request: impl Into<PutRequest>) -> Self {
        self.operation(Request::RequestPut(request.into()))
    }

    /// Adds a deletion.
    #[must_use]
    pub fn delete_range(self, request: impl Into<DeleteRangeRequest>) -> Self {
        self.operation(Request::RequestDeleteRange(request.into()))
    }

    /// Adds a transaction, whose conditions are looked at when its turn comes.
    #[must_use]
    pub fn txn(self, request: impl Into<TxnRequest>) -> Self {
        self.operation(Request::RequestTxn(request.into()))
    }

    fn operation(mut self, request: Request) -> Self {
        let branch =
            if self.in_failure { &mut self.request.failure } else { &mut self.request.success };
        branch.push(RequestOp { request: Some(request) });
        self
    }

    /// The request, for [`Client::txn`](crate::Client::txn).
    pub fn into_request(self) -> TxnRequest {
        self.request
    }
}

impl From<Txn> for TxnRequest {
    fn from(txn: Txn) -> Self {
        txn.into_request()
    }
}

/// Begins a condition on a key.
///
/// ```
/// use retcd_client::{Delete, Txn, key};
///
/// // Only if nobody has changed it since we have read it at revision 7.
/// let txn = Txn::new().when(key("job").mod_revision_is(7)).delete_range(Delete::key("job"));
/// ```
pub fn key(key: impl Into<Bytes>) -> Condition {
    Condition { key: key.into(), range_end: Bytes::new() }
}

/// Begins a condition that all keys with a prefix must meet.
pub fn keys_with_prefix(prefix: impl Into<Bytes>) -> Condition {
    let (key, range_end) = crate::prefix_range(prefix.into().into());
    Condition { key: key.into(), range_end: range_end.into() }
}

/// A condition under construction; made by [`key()`] and [`keys_with_prefix`].
#[derive(Debug, Clone)]
pub struct Condition {
    key: Bytes,
    range_end: Bytes,
}

impl Condition {
    /// There is no such key.
    pub fn is_absent(self) -> Compare {
        self.compare(CompareResult::Equal, TargetUnion::CreateRevision(0))
    }

    /// There is such a key.
    pub fn exists(self) -> Compare {
        self.compare(CompareResult::NotEqual, TargetUnion::CreateRevision(0))
    }

    /// It was last written at this revision; 0 for a key that does not exist.
    pub fn mod_revision_is(self, revision: i64) -> Compare {
        self.compare(CompareResult::Equal, TargetUnion::ModRevision(revision))
    }

    /// It has come into being at this revision; 0 for a key that does not exist.
    pub fn create_revision_is(self, revision: i64) -> Compare {
        self.compare(CompareResult::Equal, TargetUnion::CreateRevision(revision))
    }

    /// It has been written this often since it came into being.
    pub fn version_is(self, version: i64) -> Compare {
        self.compare(CompareResult::Equal, TargetUnion::Version(version))
    }

    /// It has this value. `false` for a key that does not exist.
    pub fn value_is(self, value: impl Into<Bytes>) -> Compare {
        self.compare(CompareResult::Equal, TargetUnion::Value(value.into()))
    }

    /// It is under this lease; 0 for none.
    pub fn lease_is(self, lease: i64) -> Compare {
        self.compare(CompareResult::Equal, TargetUnion::Lease(lease))
    }

    /// Any other comparison: `operand` says with what, and of what.
    pub fn compare(self, result: CompareResult, operand: TargetUnion) -> Compare {
        Compare { range_end: self.range_end, ..compare(self.key, result, operand) }
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
