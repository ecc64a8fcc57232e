//! A member, and what the tests of locks and elections ask it.

use std::time::Instant;

use retcd_api::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest, ResponseHeader};
use retcd_api::mvccpb::KeyValue;
use retcd_client::{Client, Config, prefix_range};
use retcd_testkit::{Member, SOON, server_binary};
use tonic::transport::{Channel, Endpoint};

pub(crate) struct Fixture {
    pub(crate) client: Client,
    pub(crate) member: Member,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        let member = Member::start(&server_binary(), &[]);
        let config = Config { endpoints: vec![member.endpoint()], ..Config::default() };
        let client = Client::new(&config).expect("the endpoint is well formed");
        client.put(put("other", "1")).await.expect("the member serves");
        Fixture { client, member }
    }

    /// A connection of its own, as another process would have.
    pub(crate) async fn connect(&self) -> Channel {
        let endpoint = format!("http://{}", self.member.endpoint());
        Endpoint::from_shared(endpoint).expect("a URL").connect().await.expect("it listens")
    }

    /// A lease that lives longer than any test.
    pub(crate) async fn lease(&self) -> i64 {
        self.client.lease_grant(600, 0).await.expect("the member grants").id
    }

    /// The keys that begin with `prefix`, oldest first.
    pub(crate) async fn queue(&self, prefix: &str) -> Vec<KeyValue> {
        let (key, range_end) = prefix_range(prefix.into());
        let request =
            RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
        let mut kvs = self.client.range(request).await.expect("the member serves").kvs;
        kvs.sort_by_key(|kv| kv.create_revision);
        kvs
    }

    /// Waits until so many keys begin with `prefix`.
    pub(crate) async fn queue_of(&self, prefix: &str, len: usize) -> Vec<KeyValue> {
        self.queue_when(prefix, |queue| queue.len() == len).await
    }

    /// Waits until the keys that begin with `prefix` are as they should be.
    pub(crate) async fn queue_when(
        &self,
        prefix: &str,
        is_right: impl Fn(&[KeyValue]) -> bool,
    ) -> Vec<KeyValue> {
        let deadline = Instant::now() + SOON;
        loop {
            let queue = self.queue(prefix).await;
            if is_right(&queue) {
                return queue;
            }
            assert!(Instant::now() < deadline, "{prefix} never came right, now {queue:?}");
        }
    }

    /// A write that has nothing to do with the queue. Returns its revision.
    pub(crate) async fn write(&self) -> i64 {
        revision(self.client.put(put("other", "2")).await.expect("the member serves").header)
    }

    /// Compacts all history.
    pub(crate) async fn compact(&self) {
        let request = CompactionRequest { revision: self.write().await, physical: true };
        self.client.compact(request).await.expect("the current revision can be compacted");
    }
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

pub(crate) fn revision(header: Option<ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

/// What must happen soon.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it happens soon")
}

#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, text: &str) {
    let status = result.expect_err("the request is refused");
    assert_eq!((status.code(), status.message()), (tonic::Code::Unknown, text));
}

/// Whether the server under test is this workspace's. Where etcd is known to do worse, nothing is compared.
pub(crate) fn is_ours() -> bool {
    std::env::var_os("ETCD_SERVER").is_none()
}
