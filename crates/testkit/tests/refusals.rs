//! Requests that a member refuses: each with etcd's code and text, and nothing changed.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use retcd_client::{Client, Config, Error, Txn};
use retcd_testkit::{Member, server_binary};

struct Fixture {
    client: Client,
    member: Member,
}

impl Fixture {
    /// A member with one key, at revision 2.
    async fn start() -> Self {
        let member = Member::start(&server_binary(), &[]);
        let config = Config {
            endpoints: vec![member.endpoint()],
            request_bytes_max: 64 << 20,
            ..Config::default()
        };
        let client = Client::new(&config)
            .expect("the endpoint is well formed")
            .with_timeout(Duration::from_secs(10));
        client.put(put("key", "value")).await.expect("the member serves");
        Fixture { client, member }
    }

    /// The key as it was, and no new revision.
    async fn assert_unchanged(&self) {
        let range =
            self.client.range(RangeRequest { key: "key".into(), ..Default::default() }).await;
        let range = range.expect("the member serves");
        assert_eq!(range.header.expect("every answer has a header").revision, 2);
        assert_eq!(range.kvs[0].value, "value");
    }
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn range(revision: i64) -> RangeRequest {
    RangeRequest { key: "key".into(), revision, ..Default::default() }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>, expected: &RpcError) {
    let error = result.expect_err("the request is refused");
    let refusal = error.rpc().unwrap_or_else(|| panic!("{error} is no answer"));
    assert_eq!((refusal.code(), refusal.message()), (expected.code(), expected.message()));
}

#[tokio::test]
async fn requests_are_refused_with_etcds_errors() {
    let fixture = Fixture::start().await;
    let client = &fixture.client;
    assert_refused(client.put(put("", "v")).await, &RpcError::EmptyKey);
    assert_refused(client.range(RangeRequest::default()).await, &RpcError::EmptyKey);
    assert_refused(client.delete_range(DeleteRangeRequest::default()).await, &RpcError::EmptyKey);
    assert_refused(
        client.put(PutRequest { lease: 7, ..put("key", "v") }).await,
        &RpcError::LeaseNotFound,
    );
    assert_refused(
        client.put(PutRequest { ignore_value: true, ..put("key", "v") }).await,
        &RpcError::ValueProvided,
    );
    assert_refused(
        client.put(PutRequest { ignore_value: true, ..put("none", "") }).await,
        &RpcError::KeyNotFound,
    );
    let provided = PutRequest { ignore_lease: true, lease: 7, ..put("key", "v") };
    assert_refused(client.put(provided).await, &RpcError::LeaseProvided);
    assert_refused(client.range(range(3)).await, &RpcError::FutureRev);
    let future = CompactionRequest { revision: 3, physical: false };
    assert_refused(client.compact(future).await, &RpcError::FutureRev);
    assert_refused(client.lease_revoke(7).await, &RpcError::LeaseNotFound);
    assert_refused(client.lease_grant(9_000_000_001, 0).await, &RpcError::LeaseTtlTooLarge);
    assert_refused(client.hash_kv(3).await, &RpcError::FutureRev);
    let twice = Txn::new().put(put("a", "1")).put(put("a", "2"));
    assert_refused(client.txn(twice.into_request()).await, &RpcError::DuplicateKey);
    let many = (0..129).fold(Txn::new(), |txn, _| txn.range(range(0)));
    assert_refused(client.txn(many.into_request()).await, &RpcError::TooManyOps);
    let sorted = RangeRequest { sort_order: 7, ..range(0) };
    assert_refused(client.range(sorted).await, &RpcError::InvalidSortOption);
    fixture.assert_unchanged().await;

    let compaction = CompactionRequest { revision: 2, physical: true };
    client.compact(compaction).await.expect("the current revision can be compacted");
    assert_refused(client.compact(compaction).await, &RpcError::Compacted);
    assert_refused(client.range(range(1)).await, &RpcError::Compacted);
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn a_large_request_is_refused_by_the_server_a_larger_one_by_the_transport() {
    let fixture = Fixture::start().await;
    let large = |bytes: usize| PutRequest { value: vec![b'v'; bytes].into(), ..put("key", "") };
    assert_refused(fixture.client.put(large(1_572_864)).await, &RpcError::RequestTooLarge);
    let error = fixture.client.put(large(3 << 20)).await.expect_err("the transport has a limit");
    let refusal = error.rpc().expect("an answer").clone();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(refusal.message().starts_with("grpc: received message larger than max ("), "{refusal}");
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused() {
    let fixture = Fixture::start().await;
    for path in [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.Lease/LeaseGrant",
    ] {
        // Field 1 announces more bytes than there are.
        let status =
            call(&fixture.member, path, &[0x0a, 0x7f, b'k']).await.expect_err("no message");
        assert_eq!(status.code(), tonic::Code::Internal, "{path}: {status}");
    }
    let status = call(&fixture.member, "/etcdserverpb.KV/Nope", &[]).await.expect_err("no method");
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    assert_eq!(status.message(), "unknown method Nope for service etcdserverpb.KV");
    let status = call(&fixture.member, "/no.Such/Put", &[]).await.expect_err("no service");
    assert_eq!(status.message(), "unknown service no.Such");
    fixture.assert_unchanged().await;
}

/// A unary call with bytes as they are.
async fn call(
    member: &Member,
    path: &'static str,
    message: &'static [u8],
) -> Result<Bytes, tonic::Status> {
    let endpoint = format!("http://{}", member.endpoint());
    let channel = tonic::transport::Endpoint::from_shared(endpoint)
        .expect("a URL")
        .connect()
        .await
        .expect("it listens");
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("the channel is open");
    let request = tonic::Request::new(Bytes::from_static(message));
    let path = http::uri::PathAndQuery::from_static(path);
    grpc.unary(request, path, Raw).await.map(tonic::Response::into_inner)
}

/// Bytes in, bytes out.
#[derive(Clone, Copy)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(
        &mut self,
        item: Bytes,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), tonic::Status> {
        buffer.put(item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(
        &mut self,
        buffer: &mut tonic::codec::DecodeBuf<'_>,
    ) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
