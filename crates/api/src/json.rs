//! The messages as JSON: protobuf's own mapping, in the spelling of etcd's gateway.
//!
//! Out: field names as in the `.proto`, 64-bit numbers as strings, bytes as base64, enums by name; zero and empty fields
//! are left out. In: either spelling of a name, numbers or strings, base64 of either alphabet with or without padding,
//! enums by name or number; null means unset, what is unknown is ignored.
//!
//! The mapping works on encoded messages and takes their description from the `.proto` files, so a new field or method
//! needs nothing here.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MethodDescriptor, SerializeOptions,
};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build wrote the descriptors");
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods.map(|method| (path(&method), Method(method))).collect()
});

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// Why JSON is not the message that it should be, or bytes are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A gRPC method, as far as its messages go.
#[derive(Debug, Clone)]
pub struct Method(MethodDescriptor);

impl Method {
    /// The method at `/package.Service/Method`.
    pub fn from_path(path: &str) -> Option<&'static Self> {
        METHODS.get(path)
    }

    /// All methods that the `.proto` files name, by path, in no order.
    pub fn all() -> impl Iterator<Item = (&'static str, &'static Self)> {
        METHODS.iter().map(|(path, method)| (path.as_str(), method))
    }

    /// The client sends any number of requests.
    pub fn is_client_streaming(&self) -> bool {
        self.0.is_client_streaming()
    }

    /// The server sends any number of responses.
    pub fn is_server_streaming(&self) -> bool {
        self.0.is_server_streaming()
    }

    /// Encodes the request that one JSON value describes.
    ///
    /// # Errors
    /// No JSON, more than one value, or a field with a value of another type.
    pub fn request(&self, json: &[u8]) -> Result<Vec<u8>, Error> {
        let options = DeserializeOptions::new().deny_unknown_fields(false);
        let mut reader = serde_json::Deserializer::from_slice(json);
        let message =
            DynamicMessage::deserialize_with_options(self.0.input(), &mut reader, &options)
                .map_err(|error| Error(error.to_string()))?;
        reader.end().map_err(|error| Error(error.to_string()))?;
        Ok(message.encode_to_vec())
    }

    /// Appends an encoded response as JSON.
    ///
    /// # Errors
    /// The bytes are not that response; `json` may hold a part of it then.
    pub fn response(&self, message: &[u8], json: &mut Vec<u8>) -> Result<(), Error> {
        let message = DynamicMessage::decode(self.0.output(), message)
            .map_err(|error| Error(error.to_string()))?;
        let options = SerializeOptions::new()
            .use_proto_field_name(true)
            .stringify_64_bit_integers(true)
            .skip_default_fields(true);
        message
            .serialize_with_options(&mut serde_json::Serializer::new(json), &options)
            .map_err(|error| Error(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
    use crate::etcdserverpb::{
        Compare, HashResponse, LeaseGrantRequest, MemberAddRequest, PutRequest, RangeRequest,
        RangeResponse, ResponseHeader, StatusResponse, TxnRequest, WatchResponse,
    };
    use crate::mvccpb::{Event, KeyValue, event::EventType};

    fn method(path: &str) -> &'static Method {
        Method::from_path(path).unwrap()
    }

    #[track_caller]
    fn assert_reads<M: Message + Default + PartialEq + std::fmt::Debug>(
        path: &str,
        json: &str,
        expected: &M,
    ) {
        let encoded = method(path).request(json.as_bytes());
        let encoded = encoded.unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(&M::decode(&encoded[..]).unwrap(), expected, "{json}");
    }

    #[track_caller]
    fn assert_writes(path: &str, message: &impl Message, expected: &str) {
        let mut json = Vec::new();
        method(path).response(&message.encode_to_vec(), &mut json).unwrap();
        assert_eq!(String::from_utf8(json).unwrap(), expected);
    }

    const RANGE: &str = "/etcdserverpb.KV/Range";
    const TXN: &str = "/etcdserverpb.KV/Txn";

    #[test]
    fn requests_are_read_in_every_spelling() {
        let range = RangeRequest {
            key: vec![0xfb, 0xff].into(),
            range_end: "bar!".into(),
            limit: 10,
            sort_order: 2,
            ..Default::default()
        };
        for json in [
            r#"{"key":"+/8=","range_end":"YmFyIQ==","limit":"10","sort_order":"DESCEND"}"#,
            r#"{"key":"-_8","rangeEnd":"YmFyIQ","limit":10,"sortOrder":2}"#,
            r#" {"key":"+/8","range_end":"YmFyIQ","limit":10.0,"sort_order":2,"serializable":false} "#,
            r#"{"key":"-_8=","rangeEnd":"YmFyIQ","limit":10,"sortOrder":2,"revision":null,"no":[1]}"#,
        ] {
            assert_reads(RANGE, json, &range);
        }
        assert_reads(RANGE, "{}", &RangeRequest::default());
        assert_reads(RANGE, r#"{"sort_order":"SIDEWAYS"}"#, &RangeRequest::default());
        assert_reads(
            "/etcdserverpb.Lease/LeaseGrant",
            r#"{"ID":"-9223372036854775808","TTL":"60"}"#,
            &LeaseGrantRequest { id: i64::MIN, ttl: 60 },
        );
        assert_reads(
            "/etcdserverpb.Cluster/MemberAdd",
            r#"{"peerURLs":["http://a:1"],"isLearner":true}"#,
            &MemberAddRequest { peer_ur_ls: vec!["http://a:1".into()], is_learner: true },
        );
        assert_reads(
            "/etcdserverpb.KV/Put",
            r#"{"key":"Zm9v","value":""}"#,
            &PutRequest { key: "foo".into(), ..Default::default() },
        );
    }

    #[test]
    fn comparisons_are_read_with_their_target() {
        let compare = |result: CompareResult, target: CompareTarget, union| TxnRequest {
            compare: vec![Compare {
                result: result.into(),
                target: target.into(),
                key: "foo".into(),
                target_union: Some(union),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_reads(
            TXN,
            r#"{"compare":[{"createRevision":"0","target":"CREATE","key":"Zm9v"}]}"#,
            &compare(CompareResult::Equal, CompareTarget::Create, TargetUnion::CreateRevision(0)),
        );
        assert_reads(
            TXN,
            r#"{"compare":[{"version":4,"result":"GREATER","target":"VERSION","key":"Zm9v"}]}"#,
            &compare(CompareResult::Greater, CompareTarget::Version, TargetUnion::Version(4)),
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (path, json) in [
            (RANGE, ""),
            (RANGE, "nonsense"),
            (RANGE, "null"),
            (RANGE, "5"),
            (RANGE, "[]"),
            (RANGE, r#"{"key":"Zm9v""#),
            (RANGE, r#"{"key":"Zm9v"}{}"#),
            (RANGE, r#"{"key":"Zm9v",}"#),
            (RANGE, r#"{"key":"not base64"}"#),
            (RANGE, r#"{"key":5}"#),
            (RANGE, r#"{"key":["Zm9v"]}"#),
            (RANGE, r#"{"limit":"ten"}"#),
            (RANGE, r#"{"limit":1.5}"#),
            (RANGE, r#"{"limit":"9223372036854775808"}"#),
            (RANGE, r#"{"serializable":"true"}"#),
            (RANGE, r#"{"serializable":1}"#),
            (RANGE, r#"{"sort_order":true}"#),
            (TXN, r#"{"compare":{}}"#),
            (TXN, r#"{"compare":[{"version":1,"value":"Zm9v"}]}"#),
        ] {
            assert!(method(path).request(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_not_followed() {
        let mut json = r#"{"success":[{"request_txn":"#.repeat(100_000);
        json.push_str("{}");
        assert!(method(TXN).request(json.as_bytes()).is_err());
    }

    #[test]
    fn responses_are_written_as_the_gateway_writes_them() {
        let header = ResponseHeader {
            cluster_id: u64::MAX,
            member_id: 10_276_657_743_932_975_437,
            revision: 7,
            raft_term: 2,
        };
        let kv = KeyValue {
            key: "foo".into(),
            create_revision: 2,
            mod_revision: 7,
            version: 3,
            value: vec![0xfb, 0xff].into(),
            lease: 0,
        };
        assert_writes(
            RANGE,
            &RangeResponse { header: Some(header), kvs: vec![kv.clone()], more: false, count: 1 },
            r#"{"header":{"cluster_id":"18446744073709551615","member_id":"10276657743932975437","revision":"7","raft_term":"2"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"7","version":"3","value":"+/8="}],"count":"1"}"#,
        );
        let events = [EventType::Put, EventType::Delete].map(|kind| Event {
            r#type: kind.into(),
            kv: Some(KeyValue { key: "foo".into(), ..Default::default() }),
            prev_kv: None,
        });
        assert_writes(
            "/etcdserverpb.Watch/Watch",
            &WatchResponse { watch_id: -1, events: events.into(), ..Default::default() },
            r#"{"watch_id":"-1","events":[{"kv":{"key":"Zm9v"}},{"type":"DELETE","kv":{"key":"Zm9v"}}]}"#,
        );
        assert_writes(
            "/etcdserverpb.Maintenance/Hash",
            &HashResponse { header: Some(ResponseHeader::default()), hash: u32::MAX },
            r#"{"header":{},"hash":4294967295}"#,
        );
        assert_writes(
            "/etcdserverpb.Maintenance/Status",
            &StatusResponse { db_size: 1, raft_index: 2, ..Default::default() },
            r#"{"dbSize":"1","raftIndex":"2"}"#,
        );
    }

    #[test]
    fn bytes_that_are_no_response_are_refused() {
        assert!(method(RANGE).response(&[0x0a, 0xff], &mut Vec::new()).is_err());
    }
}
