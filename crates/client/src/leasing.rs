//! A cache of keys that is never stale, as in etcd's Go package `leasing`, with its protocol and keys.
//!
//! Who reads a key may own it: the key `<prefix><key>`, the leasing key, exists under the lease of the owner. The owner
//! answers reads from memory, because everybody else must have the leasing key deleted before they write:
//!
//! ```text
//!   other: txn( leasing key absent? write : leasing key = "REVOKE" )      refused
//!   owner: sees "REVOKE", forgets the value, deletes the leasing key
//!   other: sees the deletion, tries again                                 written
//! ```
//!
//! Invariants
//! - a value is in the cache only while its leasing key, as created at a known revision, is certain to exist: the
//!   lease's deadline is counted here from before the last renewal was sent, so it passes here first;
//! - every write of the owner is conditional on that very leasing key, so one that is late, or whose answer was lost,
//!   cannot change a value that was cached anew: the leasing key it names is gone by then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use retcd_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use retcd_api::etcdserverpb::response_op::Response;
use retcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
    request_op::Request,
};
use retcd_api::mvccpb::KeyValue;
use retcd_api::mvccpb::event::EventType;
use tokio::time::Instant;

use crate::concurrency::Session;
use crate::{Client, Condition, Delete, Error, Get, Put, Txn, Watch, key, namespace};

/// What others write to a leasing key that they want gone.
const REVOKE: &str = "REVOKE";
/// How long a key is not owned again after somebody wanted to write it, so that writers get their turn; as in Go.
const SHUNNED: Duration = Duration::from_secs(2);
/// Pause before the deletion of a leasing key is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Reads and writes keys, and keeps what it has read until somebody else wants to write it. Clones share the cache.
///
/// Worth its while for keys that are read often and written seldom. All writers of the keys must use such a cache with
/// the same prefix, here or in Go; the others would not know whom to ask.
///
/// ```no_run
/// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
/// use retcd_client::{Leasing, Put};
///
/// let config = Leasing::start(&client, "leasing/", 60).await?;
/// config.put(Put::new("color", "red")).await?;
/// config.get("color").await?;
/// // Answered from memory, and still not older than the last write of anybody.
/// assert_eq!(config.get("color").await?.kvs[0].value, "red");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Leasing {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    prefix: Bytes,
    ttl: i64,
    /// Replaced when it has ended.
    session: tokio::sync::Mutex<Session>,
    /// Guards nothing else and is never held across a call.
    entries: Mutex<HashMap<Bytes, Entry>>,
}

#[derive(Debug)]
enum Entry {
    Owned(Owned),
    /// Somebody wanted to write the key.
    Shunned(Instant),
}

/// A key that is ours.
#[derive(Debug)]
struct Owned {
    session: Session,
    /// When the leasing key was created.
    created: i64,
    kv: Option<KeyValue>,
    /// Of the answer that brought `kv`.
    header: ResponseHeader,
    /// Writes of ours that are under way. What the key is meanwhile only the server knows.
    writers: usize,
}

impl Leasing {
    /// Begins a cache, whose leasing keys begin with `prefix` and live under a lease of `ttl` seconds: so long others
    /// wait for us at most, should we be gone.
    pub async fn start(client: &Client, prefix: impl Into<Bytes>, ttl: i64) -> Result<Self, Error> {
        let session = Session::with_ttl(client, ttl).await?;
        let shared = Shared {
            client: client.clone(),
            prefix: prefix.into(),
            ttl,
            session: tokio::sync::Mutex::new(session),
            entries: Mutex::default(),
        };
        Ok(Leasing { shared: Arc::new(shared) })
    }

    /// Reads one key: from memory if it is ours, else from the cluster, and then it is ours if nobody minds. The header
    /// is that of the answer that brought the value.
    pub async fn get(&self, name: impl Into<Bytes>) -> Result<RangeResponse, Error> {
        let name = name.into();
        match self.shared.cached(&name) {
            Found::Value(reply) => Ok(reply),
            Found::Busy => self.shared.client.range(Get::key(name)).await,
            Found::Nothing => self.acquire(name).await,
        }
    }

    /// Reads keys. Only the plain read of one key is answered from memory.
    pub async fn range(&self, request: impl Into<RangeRequest>) -> Result<RangeResponse, Error> {
        let request = request.into();
        let plain = RangeRequest { key: request.key.clone(), ..Default::default() };
        if request == plain {
            self.get(request.key).await
        } else {
            self.shared.client.range(request).await
        }
    }

    /// Writes one key, after everybody who has it in a cache has forgotten it.
    pub async fn put(&self, request: impl Into<PutRequest>) -> Result<PutResponse, Error> {
        let request = request.into();
        let name = request.key.clone();
        let reply = self.write(&name, Request::RequestPut(request)).await?;
        match reply.responses.into_iter().next().and_then(|operation| operation.response) {
            Some(Response::ResponsePut(put)) => Ok(PutResponse { header: reply.header, ..put }),
            _ => Err(unexpected()),
        }
    }

    /// Deletes keys, after everybody who has them in a cache has forgotten them.
    pub async fn delete_range(
        &self,
        request: impl Into<DeleteRangeRequest>,
    ) -> Result<DeleteRangeResponse, Error> {
        let request = request.into();
        let is_single = request.range_end.is_empty();
        let name = request.key.clone();
        let operation = Request::RequestDeleteRange(request);
        let reply = if is_single {
            self.write(&name, operation).await?
        } else {
            let success = vec![RequestOp { request: Some(operation) }];
            self.txn(TxnRequest { success, ..Default::default() }).await?
        };
        match reply.responses.into_iter().next().and_then(|operation| operation.response) {
            Some(Response::ResponseDeleteRange(delete)) => {
                Ok(DeleteRangeResponse { header: reply.header, ..delete })
            }
            _ => Err(unexpected()),
        }
    }

    /// Runs a transaction, after everybody who has a key in a cache that it might write, us included, has forgotten
    /// it.
    pub async fn txn(&self, request: impl Into<TxnRequest>) -> Result<TxnResponse, Error> {
        let request = request.into();
        let written = written_ranges(&request);
        if written.is_empty() {
            return self.shared.client.txn(request).await;
        }
        let leasing: Vec<(Bytes, Bytes)> =
            written.into_iter().map(|range| self.shared.leasing_range(range)).collect();
        loop {
            let mut txn = Txn::new();
            for (begin, end) in &leasing {
                txn = txn.when(none_within(begin, end));
            }
            txn = txn.txn(request.clone()).otherwise();
            for (begin, end) in &leasing {
                txn = txn.range(Get::range(begin.clone(), end.clone()));
            }
            let reply = self.shared.client.txn(txn).await?;
            if reply.succeeded {
                return nested(reply);
            }
            for operation in reply.responses {
                if let Some(Response::ResponseRange(owned)) = operation.response {
                    for kv in owned.kvs {
                        self.shared.revoke(kv.key).await?;
                    }
                }
            }
        }
    }

    /// Gives up all keys and ends the lease.
    pub async fn close(&self) -> Result<(), Error> {
        let session = self.shared.session.lock().await;
        self.shared.lock().clear();
        session.close().await
    }

    /// Reads a key and tries to own it, in one step.
    async fn acquire(&self, name: Bytes) -> Result<RangeResponse, Error> {
        let session = self.shared.session().await?;
        let leasing_key = self.shared.leasing_key(&name);
        let txn = Txn::new()
            .when(key(leasing_key.clone()).is_absent())
            .range(Get::key(name.clone()))
            .put(Put::new(leasing_key, "").lease(session.lease()))
            .otherwise()
            .range(Get::key(name.clone()));
        let reply = match self.shared.client.txn(txn).await {
            Ok(reply) => reply,
            // Whether we own the key now is unknown. The value is not.
            Err(error) if error.may_have_happened() => {
                return self.shared.client.range(Get::key(name)).await;
            }
            Err(error) => return Err(error),
        };
        let (header, is_ours) = (reply.header.unwrap_or_default(), reply.succeeded);
        let read = reply.responses.into_iter().next().and_then(|operation| operation.response);
        let Some(Response::ResponseRange(mut read)) = read else {
            return Err(unexpected());
        };
        read.header = Some(header);
        if is_ours {
            self.own(name, session, &read, header);
        }
        Ok(read)
    }

    fn own(&self, name: Bytes, session: Session, read: &RangeResponse, header: ResponseHeader) {
        let created = header.revision;
        let kv = read.kvs.first().cloned();
        let owned = Owned { session: session.clone(), created, kv, header, writers: 0 };
        self.shared.lock().insert(name.clone(), Entry::Owned(owned));
        let shared = self.shared.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shared.until_revoked(&name, created) => shared.rescind(&name, created).await,
                () = session.done() => shared.forget(&name, created),
            }
        });
    }

    /// Writes one key: quickly if it is ours, by asking for it if not.
    async fn write(&self, name: &Bytes, operation: Request) -> Result<TxnResponse, Error> {
        if let Some(mut writing) = Writing::begin(&self.shared, name) {
            let owned = key(self.shared.leasing_key(name)).create_revision_is(writing.created);
            let mut request = Txn::new().when(owned).into_request();
            request.success.push(RequestOp { request: Some(operation.clone()) });
            let read = Request::RequestRange(Get::key(name.clone()).into());
            request.success.push(RequestOp { request: Some(read) });
            let reply = self.shared.client.txn(request).await;
            writing.outcome = match &reply {
                Ok(reply) if reply.succeeded => Outcome::Written(written_kv(reply)),
                Ok(_) => Outcome::Lost,
                Err(error) if error.may_have_happened() => Outcome::Unknown,
                Err(_) => Outcome::Refused,
            };
            drop(writing);
            let reply = reply?;
            if reply.succeeded {
                return Ok(reply);
            }
        }
        let success = vec![RequestOp { request: Some(operation) }];
        self.txn(TxnRequest { success, ..Default::default() }).await
    }
}

/// What the cache says about a key.
enum Found {
    Value(RangeResponse),
    /// Not to be owned now.
    Busy,
    Nothing,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self, name: &Bytes) -> Found {
        let mut entries = self.lock();
        match entries.get(name) {
            None => Found::Nothing,
            Some(Entry::Owned(owned)) if !owned.session.is_certain() => Found::Busy,
            Some(Entry::Owned(owned)) if owned.writers > 0 => Found::Busy,
            Some(Entry::Owned(owned)) => Found::Value(RangeResponse {
                header: Some(owned.header),
                kvs: owned.kv.iter().cloned().collect(),
                more: false,
                count: i64::from(owned.kv.is_some()),
            }),
            Some(Entry::Shunned(until)) if Instant::now() < *until => Found::Busy,
            Some(Entry::Shunned(_)) => {
                entries.remove(name);
                Found::Nothing
            }
        }
    }

    /// A session that is alive.
    async fn session(&self) -> Result<Session, Error> {
        let mut session = self.session.lock().await;
        if session.is_done() {
            *session = Session::with_ttl(&self.client, self.ttl).await?;
        }
        Ok(session.clone())
    }

    fn leasing_key(&self, name: &[u8]) -> Bytes {
        namespace::joined(&self.prefix, name)
    }

    /// The leasing keys of a range of keys.
    fn leasing_range(&self, (mut begin, mut end): (Bytes, Bytes)) -> (Bytes, Bytes) {
        namespace::add_to_range(&self.prefix, &mut begin, &mut end);
        (begin, end)
    }

    /// Waits until somebody wants the key, or until that cannot be known any more.
    async fn until_revoked(&self, name: &Bytes, created: i64) {
        let watch = Watch::key(self.leasing_key(name)).from_revision(created + 1);
        let mut changes = self.client.watch(watch).await;
        while let Ok(reply) = changes.next().await {
            let is_over = reply.events.iter().any(|event| {
                let is_revoke = event.kv.as_ref().is_some_and(|kv| kv.value == REVOKE);
                event.r#type() == EventType::Delete || is_revoke
            });
            if is_over {
                return;
            }
        }
    }

    /// Forgets a key, and then gives it up, in this order.
    async fn rescind(&self, name: &Bytes, created: i64) {
        self.forget(name, created);
        let leasing_key = self.leasing_key(name);
        let is_this = key(leasing_key.clone()).create_revision_is(created);
        let request =
            Txn::new().when(is_this).delete_range(Delete::key(leasing_key)).into_request();
        // May be repeated: it can only hit this very leasing key.
        while let Err(error) = self.client.txn(request.clone()).await {
            if !error.may_have_happened() {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn forget(&self, name: &Bytes, created: i64) {
        let mut entries = self.lock();
        let is_this = matches!(
            entries.get(name),
            Some(Entry::Owned(owned)) if owned.created == created
        );
        if is_this {
            entries.insert(name.clone(), Entry::Shunned(Instant::now() + SHUNNED));
        }
        entries.retain(|_, entry| match entry {
            Entry::Owned(_) => true,
            Entry::Shunned(until) => Instant::now() < *until,
        });
    }

    /// Asks the owner of a leasing key to give it up, and waits for that.
    async fn revoke(&self, leasing_key: Bytes) -> Result<(), Error> {
        let ask = Put::new(leasing_key.clone(), REVOKE).ignore_lease();
        let txn = Txn::new().when(key(leasing_key.clone()).exists()).put(ask);
        let reply = self.client.txn(txn).await?;
        if !reply.succeeded {
            return Ok(());
        }
        let revision = reply.header.map_or(0, |header| header.revision);
        let watch = Watch::key(leasing_key).from_revision(revision + 1).no_put();
        match self.client.watch(watch).await.next().await {
            // What happened is forgotten. The caller looks again.
            Ok(_) | Err(Error::Rpc(retcd_api::error::RpcError::Compacted)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A write to a key of ours that is under way. The outcome is told to the cache when this is dropped, so an abandoned
/// call is one whose outcome is unknown.
struct Writing {
    shared: Arc<Shared>,
    name: Bytes,
    created: i64,
    outcome: Outcome,
}

enum Outcome {
    Written(Option<(Option<KeyValue>, ResponseHeader)>),
    /// Certainly not written.
    Refused,
    /// The key was not ours any more.
    Lost,
    Unknown,
}

impl Writing {
    /// `None` when the key is not ours.
    fn begin(shared: &Arc<Shared>, name: &Bytes) -> Option<Self> {
        let mut entries = shared.lock();
        let Some(Entry::Owned(owned)) = entries.get_mut(name) else {
            return None;
        };
        owned.writers += 1;
        let (shared, name) = (shared.clone(), name.clone());
        Some(Writing { shared, name, created: owned.created, outcome: Outcome::Unknown })
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let is_known = {
            let mut entries = self.shared.lock();
            let Some(Entry::Owned(owned)) = entries.get_mut(&self.name) else { return };
            if owned.created != self.created {
                return;
            }
            owned.writers -= 1;
            match std::mem::replace(&mut self.outcome, Outcome::Refused) {
                Outcome::Written(Some((kv, header))) => {
                    // Answers of several writes may come in any order.
                    if header.revision > owned.header.revision {
                        (owned.kv, owned.header) = (kv, header);
                    }
                    true
                }
                Outcome::Refused => true,
                Outcome::Written(None) | Outcome::Lost | Outcome::Unknown => false,
            }
        };
        if !is_known {
            self.shared.forget(&self.name, self.created);
            let (shared, name, created) = (self.shared.clone(), self.name.clone(), self.created);
            // Without a runtime there is no client either, and the lease ends by itself.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { shared.rescind(&name, created).await });
            }
        }
    }
}

/// The key after a write of ours, as it was read in the same transaction.
fn written_kv(reply: &TxnResponse) -> Option<(Option<KeyValue>, ResponseHeader)> {
    match reply.responses.get(1)?.response.as_ref()? {
        Response::ResponseRange(read) => Some((read.kvs.first().cloned(), reply.header?)),
        Response::ResponsePut(_) | Response::ResponseDeleteRange(_) | Response::ResponseTxn(_) => {
            None
        }
    }
}

/// The answer to the only transaction within a transaction.
fn nested(reply: TxnResponse) -> Result<TxnResponse, Error> {
    match reply.responses.into_iter().next() {
        Some(ResponseOp { response: Some(Response::ResponseTxn(nested)) }) => {
            Ok(TxnResponse { header: reply.header, ..nested })
        }
        _ => Err(unexpected()),
    }
}

/// The condition that nobody owns any of the keys.
fn none_within(begin: &Bytes, end: &Bytes) -> Compare {
    let condition: Condition = key(begin.clone());
    Compare {
        range_end: end.clone(),
        ..condition.compare(CompareResult::Equal, TargetUnion::CreateRevision(0))
    }
}

/// What a transaction might write, whichever way it goes.
fn written_ranges(request: &TxnRequest) -> Vec<(Bytes, Bytes)> {
    let mut ranges = Vec::new();
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Request::RequestPut(put)) => ranges.push((put.key.clone(), Bytes::new())),
            Some(Request::RequestDeleteRange(delete)) => {
                ranges.push((delete.key.clone(), delete.range_end.clone()));
            }
            Some(Request::RequestTxn(nested)) => ranges.extend(written_ranges(nested)),
            Some(Request::RequestRange(_)) | None => {}
        }
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

fn unexpected() -> Error {
    let text = "the answer does not fit the request".to_owned();
    Error::Rpc(retcd_api::error::RpcError::other(retcd_api::error::Code::Internal, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_branch_may_write() {
        let inner = Txn::new().delete_range(Delete::prefix("c")).otherwise().put(Put::new("d", ""));
        let txn = Txn::new().put(Put::new("b", "")).range(Get::key("r")).otherwise().txn(inner);
        let written = written_ranges(&txn.put(Put::new("b", "")).into_request());
        let expected = [("b", ""), ("c", "d"), ("d", "")];
        assert_eq!(written, expected.map(|(begin, end)| (Bytes::from(begin), Bytes::from(end))));
    }
}
