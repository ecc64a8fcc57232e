//! What the log says of a call that took too long: who asked for what, and how much of it there was.
//!
//! Values are left out: they are large, and none of the log's readers' business.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::compare::TargetUnion;
use retcd_api::etcdserverpb::request_op::Request as Op;

use super::{Answer, Rpc};
use crate::logging;

/// Logs a call. `remote`: the client, unless it came through a Unix socket or the gateway.
pub(crate) fn warn(
    rpc: Rpc,
    took: Duration,
    remote: Option<SocketAddr>,
    request: &Bytes,
    outcome: &Result<Answer, RpcError>,
) {
    let stats = Stats::of(rpc, request, outcome.as_ref().ok()).unwrap_or_default();
    let started = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
    let code = outcome.as_ref().map_or_else(RpcError::code, |_| Code::Ok);
    tracing::warn!(
        "start time" = %logging::time(started),
        "time spent" = %logging::took(took),
        remote = %remote.map_or_else(|| "@".to_owned(), |remote| remote.to_string()),
        "response type" = rpc.path(),
        "response code" = %code,
        "request count" = stats.request_count,
        "request size" = stats.request_bytes,
        "response count" = stats.response_count,
        "response size" = stats.response_bytes,
        "request content" = stats.content,
        "request stats"
    );
}

/// Counts and bytes; -1 where a call has none. Bytes of answers are those without the header.
#[derive(Debug, PartialEq, Eq)]
struct Stats {
    request_count: i64,
    request_bytes: i64,
    response_count: i64,
    response_bytes: i64,
    content: String,
}

impl Default for Stats {
    fn default() -> Self {
        Stats {
            request_count: -1,
            request_bytes: -1,
            response_count: -1,
            response_bytes: -1,
            content: String::new(),
        }
    }
}

impl Stats {
    /// None for calls without keys, and for messages that are none.
    fn of(rpc: Rpc, request: &Bytes, answer: Option<&Answer>) -> Option<Self> {
        let answer = answer.map(|answer| answer.body.clone()).unwrap_or_default();
        let (request_count, response_count, content) = match rpc {
            Rpc::Range => {
                let request = pb::RangeRequest::decode(request.clone()).ok()?;
                let found = Found::decode(answer.clone()).unwrap_or_default();
                (0, found.count, range(&request))
            }
            Rpc::Put => (1, 0, put(&pb::PutRequest::decode(request.clone()).ok()?)),
            Rpc::DeleteRange => {
                let request = pb::DeleteRangeRequest::decode(request.clone()).ok()?;
                let gone = Gone::decode(answer.clone()).unwrap_or_default();
                (0, gone.deleted, delete_range(&request))
            }
            Rpc::Txn => {
                let request = pb::TxnRequest::decode(request.clone()).ok()?;
                let branch = Branch::decode(answer.clone()).unwrap_or_default();
                let taken = if branch.succeeded { &request.success } else { &request.failure };
                (count(taken.len()), 0, txn(&request))
            }
            _ => return None,
        };
        Some(Stats {
            request_count,
            request_bytes: count(request.len()),
            response_count,
            response_bytes: count(answer.len()),
            content,
        })
    }
}

/// The one field of a `RangeResponse` that is told; the keys, of which there may be very many, are passed over.
#[derive(prost::Message)]
struct Found {
    #[prost(int64, tag = "4")]
    count: i64,
}

/// Of a `DeleteRangeResponse`.
#[derive(prost::Message)]
struct Gone {
    #[prost(int64, tag = "2")]
    deleted: i64,
}

/// Of a `TxnResponse`.
#[derive(prost::Message)]
struct Branch {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn range(request: &pb::RangeRequest) -> String {
    Fields::default()
        .bytes("key", &request.key)
        .bytes("range_end", &request.range_end)
        .number("limit", request.limit)
        .number("revision", request.revision)
        .word("sort_order", request.sort_order != 0, request.sort_order().as_str_name())
        .word("sort_target", request.sort_target != 0, request.sort_target().as_str_name())
        .flag("serializable", request.serializable)
        .flag("keys_only", request.keys_only)
        .flag("count_only", request.count_only)
        .number("min_mod_revision", request.min_mod_revision)
        .number("max_mod_revision", request.max_mod_revision)
        .number("min_create_revision", request.min_create_revision)
        .number("max_create_revision", request.max_create_revision)
        .text
}

fn put(request: &pb::PutRequest) -> String {
    Fields::default()
        .bytes("key", &request.key)
        .number("value_size", count(request.value.len()))
        .number("lease", request.lease)
        .flag("prev_kv", request.prev_kv)
        .flag("ignore_value", request.ignore_value)
        .flag("ignore_lease", request.ignore_lease)
        .text
}

fn delete_range(request: &pb::DeleteRangeRequest) -> String {
    Fields::default()
        .bytes("key", &request.key)
        .bytes("range_end", &request.range_end)
        .flag("prev_kv", request.prev_kv)
        .text
}

fn txn(request: &pb::TxnRequest) -> String {
    let join = |parts: Vec<String>| parts.join(" ");
    format!(
        "compare:<{}> success:<{}> failure:<{}>",
        join(request.compare.iter().map(compare).collect()),
        join(request.success.iter().map(op).collect()),
        join(request.failure.iter().map(op).collect()),
    )
}

fn compare(compare: &pb::Compare) -> String {
    let fields = Fields::default()
        .word("result", compare.result != 0, compare.result().as_str_name())
        .word("target", compare.target != 0, compare.target().as_str_name())
        .bytes("key", &compare.key)
        .bytes("range_end", &compare.range_end);
    let fields = match &compare.target_union {
        Some(TargetUnion::Version(version)) => fields.number("version", *version),
        Some(TargetUnion::CreateRevision(revision)) => fields.number("create_revision", *revision),
        Some(TargetUnion::ModRevision(revision)) => fields.number("mod_revision", *revision),
        Some(TargetUnion::Lease(lease)) => fields.number("lease", *lease),
        Some(TargetUnion::Value(value)) => fields.number("value_size", count(value.len())),
        None => fields,
    };
    fields.text
}

fn op(op: &pb::RequestOp) -> String {
    match &op.request {
        Some(Op::RequestRange(request)) => format!("request_range:<{}>", range(request)),
        Some(Op::RequestPut(request)) => format!("request_put:<{}>", put(request)),
        Some(Op::RequestDeleteRange(request)) => {
            format!("request_delete_range:<{}>", delete_range(request))
        }
        Some(Op::RequestTxn(request)) => format!("request_txn:<{}>", txn(request)),
        None => String::new(),
    }
}

/// The fields of a message that are set, as protobuf prints them: `key:"a" limit:10`.
#[derive(Default)]
struct Fields {
    text: String,
}

impl Fields {
    fn bytes(self, name: &str, value: &[u8]) -> Self {
        self.add(!value.is_empty(), name, format_args!("\"{}\"", value.escape_ascii()))
    }

    fn number(self, name: &str, value: i64) -> Self {
        self.add(value != 0, name, value)
    }

    fn flag(self, name: &str, is_set: bool) -> Self {
        self.add(is_set, name, is_set)
    }

    fn word(self, name: &str, is_set: bool, word: &str) -> Self {
        self.add(is_set, name, word)
    }

    fn add(mut self, is_set: bool, name: &str, value: impl fmt::Display) -> Self {
        if is_set {
            let gap = if self.text.is_empty() { "" } else { " " };
            let _ = write!(self.text, "{gap}{name}:{value}");
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_of(key: &str, value: &str) -> pb::PutRequest {
        pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_put_is_shown_without_its_value() {
        let request = pb::PutRequest { lease: 7, prev_kv: true, ..put_of("a\0\"", "secret") };
        let bytes = Bytes::from(request.encode_to_vec());
        let stats = Stats::of(Rpc::Put, &bytes, None).unwrap();
        assert_eq!(stats.content, "key:\"a\\x00\\\"\" value_size:6 lease:7 prev_kv:true");
        assert_eq!((stats.request_count, stats.response_count), (1, 0));
        assert_eq!(stats.request_bytes, count(bytes.len()));
    }

    #[test]
    fn a_range_counts_what_it_found() {
        let request = pb::RangeRequest {
            key: "a".into(),
            range_end: "b".into(),
            limit: 3,
            sort_order: pb::range_request::SortOrder::Descend.into(),
            serializable: true,
            ..Default::default()
        };
        let kvs = vec![retcd_api::mvccpb::KeyValue::default(); 3];
        let found = pb::RangeResponse { count: 12, kvs, ..Default::default() };
        let answer = Answer::at(5, found.encode_to_vec());
        let bytes = request.encode_to_vec().into();
        let stats = Stats::of(Rpc::Range, &bytes, Some(&answer)).unwrap();
        assert_eq!(
            stats.content,
            "key:\"a\" range_end:\"b\" limit:3 sort_order:DESCEND serializable:true"
        );
        assert_eq!((stats.response_count, stats.response_bytes), (12, count(answer.body.len())));
    }

    #[test]
    fn a_txn_counts_the_branch_that_was_taken() {
        let ops = |len: usize| -> Vec<pb::RequestOp> {
            let op = |n| Op::RequestPut(put_of(&format!("k{n}"), "v"));
            (0..len).map(|n| pb::RequestOp { request: Some(op(n)) }).collect()
        };
        let request = pb::TxnRequest {
            compare: vec![pb::Compare {
                target: pb::compare::CompareTarget::Value.into(),
                key: "c".into(),
                target_union: Some(TargetUnion::Value("secret".into())),
                ..Default::default()
            }],
            success: ops(2),
            failure: ops(1),
        };
        let bytes = request.encode_to_vec().into();
        let stats = Stats::of(Rpc::Txn, &bytes, None).unwrap();
        assert_eq!(
            stats.content,
            "compare:<target:VALUE key:\"c\" value_size:6> \
             success:<request_put:<key:\"k0\" value_size:1> request_put:<key:\"k1\" value_size:1>> \
             failure:<request_put:<key:\"k0\" value_size:1>>"
        );
        assert_eq!(stats.request_count, 1);
        let done = pb::TxnResponse { succeeded: true, ..Default::default() };
        let answer = Answer::at(5, done.encode_to_vec());
        assert_eq!(Stats::of(Rpc::Txn, &bytes, Some(&answer)).unwrap().request_count, 2);
    }

    #[test]
    fn a_deletion_counts_what_is_gone() {
        let request = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
        let prev_kvs = vec![retcd_api::mvccpb::KeyValue::default(); 3];
        let gone = pb::DeleteRangeResponse { deleted: 3, prev_kvs, ..Default::default() };
        let answer = Answer::at(5, gone.encode_to_vec());
        let bytes = request.encode_to_vec().into();
        let stats = Stats::of(Rpc::DeleteRange, &bytes, Some(&answer)).unwrap();
        assert_eq!((stats.response_count, &*stats.content), (3, "key:\"a\""));
    }

    #[test]
    fn calls_without_keys_have_no_numbers() {
        assert_eq!(Stats::of(Rpc::Status, &Bytes::new(), None), None);
        assert_eq!(Stats::of(Rpc::Put, &Bytes::from_static(b"\xff"), None), None);
    }
}
