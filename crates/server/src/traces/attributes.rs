//! What a span says about its request: names and values are etcd's.

use bytes::Bytes;
use prost::Message;
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::request_op::Request;

use crate::metrics::is_read_only_txn;
use crate::services::Rpc;

/// A name and a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attribute {
    pub(super) name: &'static str,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Bool(bool),
}

impl Attribute {
    pub(super) fn text(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, value: Value::Text(text.into()) }
    }

    pub(super) fn number(name: &'static str, number: i64) -> Self {
        Self { name, value: Value::Number(number) }
    }

    pub(super) fn bool(name: &'static str, value: bool) -> Self {
        Self { name, value: Value::Bool(value) }
    }

    fn bytes(name: &'static str, bytes: &[u8]) -> Self {
        Self::text(name, String::from_utf8_lossy(bytes))
    }

    fn count<T>(name: &'static str, list: &[T]) -> Self {
        Self::number(name, i64::try_from(list.len()).unwrap_or(i64::MAX))
    }
}

/// The span that etcd makes of a request, if it makes one, by its name and what it says. Decodes the request: only for
/// sampled calls.
pub(super) fn describe(rpc: Rpc, message: &Bytes) -> Option<(&'static str, Vec<Attribute>)> {
    let described = match rpc {
        Rpc::Range => ("range", range(&decode(message)?)),
        Rpc::RangeStream => ("range_streaming", range(&decode(message)?)),
        Rpc::Put => {
            let put: pb::PutRequest = decode(message)?;
            ("put", vec![Attribute::bytes("key", &put.key)])
        }
        Rpc::DeleteRange => {
            let delete: pb::DeleteRangeRequest = decode(message)?;
            let ends = [("range_begin", &delete.key), ("range_end", &delete.range_end)];
            ("delete_range", ends.map(|(name, key)| Attribute::bytes(name, key)).into())
        }
        Rpc::Txn => ("txn", txn(&decode(message)?, message)),
        Rpc::Compact => {
            let compact: pb::CompactionRequest = decode(message)?;
            let physical = Attribute::bool("is_physical", compact.physical);
            ("compact", vec![physical, Attribute::number("rev", compact.revision)])
        }
        Rpc::LeaseGrant => {
            let grant: pb::LeaseGrantRequest = decode(message)?;
            let id = Attribute::number("id", grant.id);
            ("lease_grant", vec![id, Attribute::number("ttl", grant.ttl)])
        }
        Rpc::LeaseRevoke => {
            let revoke: pb::LeaseRevokeRequest = decode(message)?;
            ("lease_revoke", vec![Attribute::number("id", revoke.id)])
        }
        Rpc::LeaseKeepAlive => {
            let renew: pb::LeaseKeepAliveRequest = decode(message)?;
            ("lease_renew", vec![Attribute::number("id", renew.id)])
        }
        Rpc::Watch => ("watch", watch(&decode(message)?)?),
        _ => return None,
    };
    Some(described)
}

fn decode<M: Message + Default>(message: &Bytes) -> Option<M> {
    M::decode(message.clone()).ok()
}

fn range(range: &pb::RangeRequest) -> Vec<Attribute> {
    vec![
        Attribute::bytes("range_begin", &range.key),
        Attribute::bytes("range_end", &range.range_end),
        Attribute::number("rev", range.revision),
        Attribute::number("limit", range.limit),
        Attribute::bool("count_only", range.count_only),
        Attribute::bool("keys_only", range.keys_only),
    ]
}

fn txn(txn: &pb::TxnRequest, message: &[u8]) -> Vec<Attribute> {
    let compared = txn.compare.first().map(|compare| &compare.key[..]).unwrap_or_default();
    let (key, kind, lease) = match txn.success.first().and_then(|op| op.request.as_ref()) {
        Some(Request::RequestRange(range)) => (&range.key[..], "range", 0),
        Some(Request::RequestPut(put)) => (&put.key[..], "put", put.lease),
        Some(Request::RequestDeleteRange(delete)) => (&delete.key[..], "delete_range", 0),
        Some(Request::RequestTxn(_)) => (&b""[..], "txn", 0),
        None => (&b""[..], "", 0),
    };
    vec![
        Attribute::bytes("compare_first_key", compared),
        Attribute::bytes("success_first_key", key),
        Attribute::text("success_first_type", kind),
        Attribute::number("success_first_lease", lease),
        Attribute::count("compare_len", &txn.compare),
        Attribute::count("success_len", &txn.success),
        Attribute::count("failure_len", &txn.failure),
        Attribute::bool("read_only", is_read_only_txn(message)),
    ]
}

/// Only the creation of a watcher is told.
fn watch(request: &pb::WatchRequest) -> Option<Vec<Attribute>> {
    let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = &request.request_union
    else {
        return None;
    };
    Some(vec![
        Attribute::bytes("key", &create.key),
        Attribute::bytes("range_end", &create.range_end),
        Attribute::number("start_rev", create.start_revision),
        Attribute::bool("progress_notify", create.progress_notify),
        Attribute::bool("prev_kv", create.prev_kv),
        Attribute::bool("fragment", create.fragment),
    ])
}
