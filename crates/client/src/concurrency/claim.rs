//! A place in the queue under a prefix.
//!
//! Invariants
//! - a claim that was made is either handed to a caller or released, whatever is dropped meanwhile: the transaction
//!   that makes it runs in a task of its own, to its end;
//! - a session makes no claim while it still releases another one, so a late release cannot hit a new claim;
//! - only the key with this very create revision is deleted, or one under our lease when that is not known.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use retcd_api::etcdserverpb::response_op::Response;
use retcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, TxnResponse,
    WatchCreateRequest,
};
use retcd_api::mvccpb::KeyValue;
use retcd_api::mvccpb::event::EventType;
use tokio::sync::oneshot;

use super::Error;
use super::session::Session;
use crate::{Client, Txn, compare, prefix_end};

/// Pause before a claim or a release is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// A key of ours under a prefix. Released when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    session: Session,
    prefix: Bytes,
    key: Bytes,
    create_revision: i64,
    is_released: bool,
}

/// A claim as it was made.
#[derive(Debug)]
pub(super) struct Staked {
    pub(super) claim: Claim,
    /// Whether the queue begins with it.
    pub(super) is_first: bool,
    /// The value it had, if this session had made the claim before.
    pub(super) earlier_value: Option<Bytes>,
}

/// The prefix of all claims for `name`.
pub(super) fn prefix(name: &str) -> Bytes {
    format!("{name}/").into()
}

/// A prefix below `prefix` that no other claim has: for sessions that may have several.
pub(super) fn unique_prefix(prefix: &str) -> Bytes {
    // Each `RandomState` hashes differently.
    format!("{prefix}/{:x}-", RandomState::new().build_hasher().finish()).into()
}

/// The claims under `prefix`, the first one only.
pub(super) fn first_claim(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix).into(),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

impl Claim {
    /// Queues up under `prefix`, or finds the claim that this session already has there.
    pub(super) async fn stake(
        session: &Session,
        prefix: &Bytes,
        value: Bytes,
    ) -> Result<Staked, Error> {
        session.unchanging().await;
        let (sender, receiver) = oneshot::channel();
        let change = session.begin_change();
        let (session, prefix) = (session.clone(), prefix.clone());
        tokio::spawn(async move {
            let key = claim_key(&prefix, session.lease());
            let staked = Self::stake_until_answered(&session, &prefix, value).await;
            let is_unknown = staked.as_ref().is_err_and(may_have_happened);
            // Nobody waits any more? Then the claim comes back, is dropped, and so released.
            drop(sender.send(staked));
            if is_unknown {
                release_in_background(&session, release_request(&key, has_lease(&session, &key)))
                    .await;
            }
            drop(change);
        });
        receiver.await.map_err(|_| Error::SessionExpired)?
    }

    /// Unlike other writes this one may be repeated when its answer was lost: it then finds the claim it has made.
    async fn stake_until_answered(
        session: &Session,
        prefix: &Bytes,
        value: Bytes,
    ) -> Result<Staked, Error> {
        loop {
            match Self::stake_once(session, prefix, value.clone()).await {
                Err(Error::Client(crate::Error::ConnectionLost(_))) if !session.is_done() => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answered => return answered,
            }
        }
    }

    async fn stake_once(session: &Session, prefix: &Bytes, value: Bytes) -> Result<Staked, Error> {
        let key = claim_key(prefix, session.lease());
        let put =
            PutRequest { key: key.clone(), value, lease: session.lease(), ..Default::default() };
        let own = RangeRequest { key: key.clone(), ..Default::default() };
        let request = Txn::new()
            .when(has_create_revision(&key, 0))
            .put(put)
            .range(first_claim(prefix))
            .otherwise()
            .range(own)
            .range(first_claim(prefix))
            .into_request();
        let reply = session.client().txn(request).await?;
        let earlier = if reply.succeeded { None } else { kv_of(&reply, 0) };
        let made_at = reply.header.as_ref().map_or(0, |header| header.revision);
        let create_revision = earlier.map_or(made_at, |kv| kv.create_revision);
        let first = kv_of(&reply, 1);
        let is_first = first.is_none_or(|kv| kv.create_revision == create_revision);
        let earlier_value = earlier.map(|kv| kv.value.clone());
        let claim = Self::resume(session, prefix.clone(), key, create_revision);
        Ok(Staked { claim, is_first, earlier_value })
    }

    /// A claim that was made earlier, maybe by another process with the same lease.
    pub(super) fn resume(
        session: &Session,
        prefix: Bytes,
        key: Bytes,
        create_revision: i64,
    ) -> Self {
        Claim { session: session.clone(), prefix, key, create_revision, is_released: false }
    }

    pub(super) fn key(&self) -> &Bytes {
        &self.key
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn create_revision(&self) -> i64 {
        self.create_revision
    }

    /// The condition that the claim still exists.
    pub(super) fn exists(&self) -> Compare {
        has_create_revision(&self.key, self.create_revision)
    }

    /// Waits until the queue begins with this claim.
    pub(super) async fn wait_turn(&self) -> Result<(), Error> {
        self.wait_turn_behind(&self.prefix).await
    }

    /// Waits until nobody is left under `prefix` who came before this claim.
    pub(super) async fn wait_turn_behind(&self, prefix: &Bytes) -> Result<(), Error> {
        tokio::select! {
            result = self.wait_for_those_before(prefix) => result?,
            () = self.session.done() => return Err(Error::SessionExpired),
        }
        // The claim itself may have gone meanwhile; then the turn is not ours.
        let check = Txn::new().when(self.exists()).into_request();
        let reply = self.session.client().txn(check).await?;
        if reply.succeeded { Ok(()) } else { Err(Error::SessionExpired) }
    }

    async fn wait_for_those_before(&self, prefix: &Bytes) -> Result<(), Error> {
        let client = self.session.client();
        loop {
            let before = RangeRequest {
                max_create_revision: self.create_revision - 1,
                sort_order: SortOrder::Descend.into(),
                keys_only: true,
                ..first_claim(prefix)
            };
            let reply = client.range(before).await?;
            let Some(before) = reply.kvs.into_iter().next() else {
                return Ok(());
            };
            let revision = reply.header.map_or(0, |header| header.revision);
            wait_deleted(client, before.key, revision + 1).await?;
        }
    }

    /// Replaces the value. `false` when the claim is gone.
    pub(super) async fn set(&self, value: Bytes) -> Result<bool, Error> {
        let put = PutRequest {
            key: self.key.clone(),
            value,
            lease: self.session.lease(),
            ..Default::default()
        };
        let request = Txn::new().when(self.exists()).put(put).into_request();
        Ok(self.session.client().txn(request).await?.succeeded)
    }

    /// Leaves the queue. `false` when the claim was gone already. After an error the release goes on in the
    /// background.
    pub(super) async fn release(mut self) -> Result<bool, Error> {
        let reply = self.session.client().txn(release_request(&self.key, self.exists())).await?;
        self.is_released = true;
        Ok(reply.succeeded)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_released || self.session.is_done() {
            return;
        }
        let change = self.session.begin_change();
        let session = self.session.clone();
        let request = release_request(&self.key, self.exists());
        self.session.runtime().spawn(async move {
            release_in_background(&session, request).await;
            drop(change);
        });
    }
}

fn release_request(key: &Bytes, condition: Compare) -> TxnRequest {
    let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
    Txn::new().when(condition).delete_range(delete).into_request()
}

/// Releases a claim, unless the end of the session does. Unlike other writes this one may be repeated: while it goes
/// on the session makes no other claim that it could hit.
async fn release_in_background(session: &Session, request: TxnRequest) {
    let releasing = async {
        while let Err(error) = session.client().txn(request.clone()).await {
            if !may_have_happened(&error.into()) {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    tokio::select! {
        () = releasing => {}
        () = session.done() => {}
    }
}

/// Whether a request with this error may have been carried out, or may be the next time.
fn may_have_happened(error: &Error) -> bool {
    match error {
        Error::Client(crate::Error::DeadlineExceeded { .. }) => true,
        Error::Client(error) => error.is_passing() || error.rpc() == Some(&RpcError::NoLeader),
        Error::Locked
        | Error::SessionExpired
        | Error::NotLeader
        | Error::NoLeader
        | Error::TooManyClients
        | Error::ForeignItem(_) => false,
    }
}

/// Waits until `key` is deleted at `revision` or later.
pub(super) async fn wait_deleted(client: &Client, key: Bytes, revision: i64) -> Result<(), Error> {
    let request = WatchCreateRequest { key, start_revision: revision, ..Default::default() };
    let mut subscription = client.watch(request).await;
    loop {
        match subscription.next().await {
            Ok(reply) => {
                if reply.events.iter().any(|event| event.r#type() == EventType::Delete) {
                    return Ok(());
                }
            }
            // What happened is forgotten. The caller looks again.
            Err(crate::Error::Rpc(RpcError::Compacted)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// As Go's `%x` prints a lease id: no padding, and a minus sign where Rust would print two's complement.
fn claim_key(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let mut key = prefix.to_vec();
    key.extend_from_slice(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
    key.into()
}

fn has_create_revision(key: &Bytes, revision: i64) -> Compare {
    compare(key.clone(), CompareResult::Equal, TargetUnion::CreateRevision(revision))
}

/// The condition that `key` is under the lease of the session.
fn has_lease(session: &Session, key: &Bytes) -> Compare {
    compare(key.clone(), CompareResult::Equal, TargetUnion::Lease(session.lease()))
}

/// The first key in the answer to the operation at `position`.
fn kv_of(reply: &TxnResponse, position: usize) -> Option<&KeyValue> {
    match reply.responses.get(position)?.response.as_ref()? {
        Response::ResponseRange(range) => range.kvs.first(),
        Response::ResponsePut(_) | Response::ResponseDeleteRange(_) | Response::ResponseTxn(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_go() {
        assert_eq!(claim_key(&prefix("lock"), 0x1a2b), "lock/1a2b");
        assert_eq!(claim_key(&prefix("m"), -9), "m/-9");
        assert_eq!(claim_key(&prefix(""), i64::MIN), "/-8000000000000000");
    }
}
