//! How long requests took, by their kind: `etcd_server_request_duration_seconds`.
//!
//! The handles are looked up once: a put must not pay for a map of texts.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use retcd_api::error::{Code, RpcError};

use super::registry::Histogram;
use super::{Metrics, label_of};
use crate::services::Rpc;

/// The kinds of requests that etcd tells apart: what goes through the log, under its name there, and the two reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Call(Rpc),
    ReadonlyTxn,
}

impl RequestKind {
    /// None for calls that etcd does not time.
    fn label(self) -> Option<&'static str> {
        let label = match self {
            Self::ReadonlyTxn => "ReadonlyTxn",
            Self::Call(rpc) => match rpc {
                Rpc::Range => "Range",
                Rpc::Put => "Put",
                Rpc::Txn => "Txn",
                Rpc::DeleteRange => "DeleteRange",
                Rpc::Compact => "Compaction",
                Rpc::LeaseGrant => "LeaseGrant",
                Rpc::LeaseRevoke => "LeaseRevoke",
                Rpc::Alarm => "Alarm",
                Rpc::Authenticate => "Authenticate",
                Rpc::AuthEnable => "AuthEnable",
                Rpc::AuthDisable => "AuthDisable",
                Rpc::AuthStatus => "AuthStatus",
                Rpc::UserAdd => "AuthUserAdd",
                Rpc::UserGet => "AuthUserGet",
                Rpc::UserList => "AuthUserList",
                Rpc::UserDelete => "AuthUserDelete",
                Rpc::UserChangePassword => "AuthUserChangePassword",
                Rpc::UserGrantRole => "AuthUserGrantRole",
                Rpc::UserRevokeRole => "AuthUserRevokeRole",
                Rpc::RoleAdd => "AuthRoleAdd",
                Rpc::RoleGet => "AuthRoleGet",
                Rpc::RoleList => "AuthRoleList",
                Rpc::RoleDelete => "AuthRoleDelete",
                Rpc::RoleGrantPermission => "AuthRoleGrantPermission",
                Rpc::RoleRevokePermission => "AuthRoleRevokePermission",
                _ => return None,
            },
        };
        Some(label)
    }

    /// Its place in the table of handles.
    fn index(self) -> usize {
        match self {
            Self::Call(rpc) => rpc as usize,
            Self::ReadonlyTxn => Rpc::ALL.len(),
        }
    }
}

/// The handles, by kind and success.
#[derive(Debug)]
pub struct Requests {
    handles: Vec<[OnceLock<Arc<Histogram>>; 2]>,
    /// Of `etcd_server_range_duration_seconds`, by success.
    ranges: [OnceLock<Arc<Histogram>>; 2],
}

impl Requests {
    /// Transactions without a write that were answered.
    pub(crate) fn read_only_txns(&self) -> u64 {
        let handle = &self.handles[RequestKind::ReadonlyTxn.index()][1];
        handle.get().map_or(0, |histogram| histogram.count())
    }

    pub(super) fn new() -> Self {
        let handles = (0..=Rpc::ALL.len()).map(|_| Default::default()).collect();
        Self { handles, ranges: Default::default() }
    }
}

impl Metrics {
    /// Notes a range that was read here, or could not be.
    pub(crate) fn range_took(&self, is_success: bool, took: Duration) {
        self.mvcc_range_total.increment();
        let handle = &self.requests.ranges[usize::from(is_success)];
        let made = || self.server_range_duration_seconds.with([label_of(is_success)]);
        handle.get_or_init(made).observe_duration(took);
    }

    /// Notes a request that has ended.
    pub(crate) fn request_took(&self, kind: RequestKind, is_success: bool, took: Duration) {
        let handle = &self.requests.handles[kind.index()][usize::from(is_success)];
        if let Some(histogram) = handle.get() {
            histogram.observe_duration(took);
        } else if let Some(label) = kind.label() {
            let histogram =
                self.server_request_duration_seconds.with([label, label_of(is_success)]);
            handle.get_or_init(|| histogram).observe_duration(took);
        }
    }
}

impl Metrics {
    /// Notes what a call's end means beyond its duration.
    pub(crate) fn call_ended(&self, kind: RequestKind, error: Option<&RpcError>, took: Duration) {
        if kind == RequestKind::Call(Rpc::Defragment) {
            self.disk_defrag_inflight.set(0.0);
        }
        match (kind, error) {
            (RequestKind::Call(Rpc::Hash), None) => {
                self.mvcc_hash_duration_seconds.observe_duration(took);
            }
            (RequestKind::Call(Rpc::HashKv), None) => {
                self.mvcc_hash_rev_duration_seconds.observe_duration(took);
            }
            (RequestKind::Call(Rpc::Defragment), None) => {
                self.disk_backend_defrag_duration_seconds.observe_duration(took);
            }
            (RequestKind::Call(Rpc::MemberPromote), None) => {
                self.server_learner_promote_successes.increment();
            }
            (RequestKind::Call(Rpc::MemberPromote), Some(error)) => {
                self.server_learner_promote_failures.with([error.message()]).increment();
            }
            (RequestKind::Call(Rpc::Range) | RequestKind::ReadonlyTxn, Some(error))
                if is_lost(error) =>
            {
                self.server_read_indexes_failed_total.increment();
            }
            (RequestKind::Call(rpc), Some(error)) if goes_through_log(rpc) && is_lost(error) => {
                self.server_proposals_failed_total.increment();
            }
            _ => {}
        }
    }
}

/// The request has got no answer from the cluster, which is something else than a refusal.
fn is_lost(error: &RpcError) -> bool {
    matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Canceled)
}

fn goes_through_log(rpc: Rpc) -> bool {
    matches!(
        rpc,
        Rpc::Put | Rpc::Txn | Rpc::DeleteRange | Rpc::Compact | Rpc::LeaseGrant | Rpc::LeaseRevoke
    )
}

/// Transactions in transactions that are followed. Decoding stops earlier.
const DEPTH_MAX: usize = 100;

/// Whether an encoded `TxnRequest` holds nothing but ranges, which makes it a read.
///
/// Only tags and lengths are looked at: the request itself is decoded elsewhere. Bytes that are no request at all are
/// not read-only, whoever decodes them refuses them.
pub(crate) fn is_read_only_txn(message: &[u8]) -> bool {
    is_read_only(message, DEPTH_MAX)
}

fn is_read_only(message: &[u8], depth_left: usize) -> bool {
    const SUCCESS: u64 = 2;
    const FAILURE: u64 = 3;
    const RANGE: u64 = 1;
    const TXN: u64 = 4;
    all_fields(message, |number, request_op| {
        !(number == SUCCESS || number == FAILURE)
            || all_fields(request_op, |number, request| match number {
                RANGE => true,
                TXN => depth_left > 0 && is_read_only(request, depth_left - 1),
                _ => false,
            })
    })
}

/// Whether `holds` is true of every field of a message whose fields are all messages or bytes.
fn all_fields(mut message: &[u8], holds: impl Fn(u64, &[u8]) -> bool) -> bool {
    use prost::encoding::{WireType, decode_key, decode_varint};
    while !message.is_empty() {
        let Ok((number, WireType::LengthDelimited)) = decode_key(&mut message) else {
            return false;
        };
        let length =
            decode_varint(&mut message).ok().and_then(|length| usize::try_from(length).ok());
        let Some((field, rest)) = length.and_then(|length| message.split_at_checked(length)) else {
            return false;
        };
        if !holds(u64::from(number), field) {
            return false;
        }
        message = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use retcd_api::etcdserverpb as pb;
    use retcd_api::etcdserverpb::request_op::Request;

    use super::*;

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    #[test]
    fn a_transaction_of_ranges_is_a_read() {
        let range = || op(Request::RequestRange(pb::RangeRequest::default()));
        let put = || op(Request::RequestPut(pb::PutRequest::default()));
        let txn = |success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>| {
            let key = bytes::Bytes::from_static(b"k");
            let compare = vec![pb::Compare { key, ..Default::default() }];
            pb::TxnRequest { compare, success, failure }
        };
        let nested = |inner| op(Request::RequestTxn(inner));
        let is_read = |txn: pb::TxnRequest| is_read_only_txn(&txn.encode_to_vec());
        assert!(is_read(txn(vec![], vec![])));
        assert!(is_read(txn(vec![range(), range()], vec![range()])));
        assert!(is_read(txn(vec![nested(txn(vec![range()], vec![]))], vec![])));
        assert!(!is_read(txn(vec![range(), put()], vec![])));
        assert!(!is_read(txn(vec![], vec![put()])));
        assert!(!is_read(txn(vec![nested(txn(vec![], vec![put()]))], vec![])));
        let mut deep = txn(vec![], vec![]);
        for _ in 0..2 * DEPTH_MAX {
            deep = txn(vec![nested(deep)], vec![]);
        }
        assert!(!is_read(deep));
        let delete = op(Request::RequestDeleteRange(pb::DeleteRangeRequest::default()));
        assert!(!is_read(txn(vec![delete], vec![])));
        assert!(!is_read_only_txn(b"\x12\xff"));
        assert!(!is_read_only_txn(b"\x08\x01"));
    }

    #[test]
    fn requests_are_timed_by_kind_and_outcome() {
        let metrics = Metrics::new(false, &crate::config::FeatureGates::default());
        for _ in 0..2 {
            metrics.request_took(RequestKind::Call(Rpc::Put), true, Duration::from_millis(3));
        }
        metrics.request_took(RequestKind::Call(Rpc::Put), false, Duration::from_millis(3));
        metrics.request_took(RequestKind::ReadonlyTxn, true, Duration::from_millis(3));
        metrics.request_took(RequestKind::Call(Rpc::Status), true, Duration::from_millis(3));
        let family = &metrics.server_request_duration_seconds;
        assert_eq!(family.with(["Put", "true"]).count(), 2);
        assert_eq!(family.with(["Put", "false"]).count(), 1);
        assert_eq!(family.with(["ReadonlyTxn", "true"]).count(), 1);
    }
}
