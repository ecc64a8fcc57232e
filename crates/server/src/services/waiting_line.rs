//! The line that locks and elections share.
//!
//! Whoever wants `name` puts a key under `name/`, called after its lease, and the key that was created first has it. A key
//! that goes (unlocked, resigned, lease over, cancelled) lets the one behind it move up:
//!
//! ```text
//!  name/6f1  created at 7      has it
//!  name/2a0  created at 9      watches name/6f1
//!  name/c44  created at 12     watches name/2a0
//! ```
//!
//! Each watches only the key just before its own, so that one leaving wakes one waiting; and its own, which may go first.
//! In between, a waiting call is an entry in the watch hub of its thread and nothing else.
//!
//! Invariants
//! - A call that goes away while it waits takes its key along, also when the entry that makes the key is still on its way.
//! - A key is removed only as the one that was made: a newer one under the same name, with its own create revision, stays.
//! - What these services write is an ordinary transaction; members of etcd apply the same ones.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use prost::Message;
use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use retcd_api::etcdserverpb::request_op::Request as Op;
use retcd_api::etcdserverpb::response_op::Response as OpResponse;
use retcd_api::etcdserverpb::watch_create_request::FilterType;
use retcd_api::mvccpb::KeyValue;
use retcd_state_machine::auth::{Action, Identity};
use retcd_state_machine::{Response, check};

use super::kv::encoded;
use super::watch::Subscription;
use super::{Services, guard, lease};
use crate::grpc::Metadata;
use crate::node::mailbox::{Outcome, Pending};
use crate::node::{NodeHandle, Request, read_error};

/// The life of a lease that the server grants for a call without one. Nobody renews it.
const SESSION_TTL_SECS: i64 = 60;

/// An error as these services tell it. In etcd they are clients of their own server, and a client's errors have a text but
/// no code that would survive.
pub(super) fn without_code(error: RpcError) -> RpcError {
    match error {
        RpcError::Other(_, text) => RpcError::Other(Code::Unknown, text),
        known => RpcError::other(Code::Unknown, known.message().to_owned()),
    }
}

/// The lease that a call names, or a new one for 0.
pub(super) async fn lease_or_new(
    services: &Services,
    metadata: &Metadata,
    lease: i64,
) -> Result<i64, RpcError> {
    if lease != 0 {
        return Ok(lease);
    }
    let request = pb::LeaseGrantRequest { ttl: SESSION_TTL_SECS, id: 0 };
    let answer = lease::grant(services, metadata, encoded(&request)).await?;
    Ok(own_message::<pb::LeaseGrantResponse>(&answer.body).id)
}

/// All keys under one name.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// The name and a slash.
    pub(super) prefix: Bytes,
}

impl Line {
    pub(super) fn of(name: &[u8]) -> Self {
        Line { prefix: [name, b"/"].concat().into() }
    }

    /// Where the keys with the prefix end: `0` comes after the slash.
    pub(super) fn end(&self) -> Bytes {
        let (_, name) = self.prefix.split_last().expect("a prefix ends with a slash");
        [name, b"0"].concat().into()
    }

    /// The key of a lease, whose id is written as Go does: in hex, with a minus sign when it is negative.
    fn key(&self, lease: i64) -> Bytes {
        let sign = if lease < 0 { "-" } else { "" };
        let lease = format!("{sign}{:x}", lease.unsigned_abs());
        [&self.prefix[..], lease.as_bytes()].concat().into()
    }

    /// Finds the key that was created first.
    pub(super) fn first(&self) -> pb::RangeRequest {
        self.one(SortOrder::Ascend)
    }

    /// Finds the key that was created last before `create_revision`.
    fn last_before(&self, create_revision: i64) -> pb::RangeRequest {
        pb::RangeRequest {
            max_create_revision: create_revision - 1,
            keys_only: true,
            ..self.one(SortOrder::Descend)
        }
    }

    fn one(&self, order: SortOrder) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.prefix.clone(),
            range_end: self.end(),
            limit: 1,
            sort_order: order.into(),
            sort_target: SortTarget::Create.into(),
            ..Default::default()
        }
    }
}

/// A key in a line, for the call that waits there. It is removed on drop, unless it was [kept](Self::keep).
pub(super) struct Place<'a> {
    services: &'a Services,
    metadata: &'a Metadata,
    /// Who the caller was when it came.
    caller: Option<Identity>,
    line: Line,
    key: Bytes,
    pub(super) create_revision: i64,
    /// The revision of the transaction that made or found the key.
    pub(super) entered_at: i64,
    /// No key was created before this one.
    pub(super) is_first: bool,
    /// The value, if the key was there before.
    pub(super) found_value: Option<Bytes>,
    is_left_alone: bool,
}

/// What became of a key that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Turn {
    Come,
    /// The key went away: its lease is over, or somebody deleted it.
    Lost,
}

/// What one revision says about a place.
struct View {
    revision: i64,
    is_in_line: bool,
    before: Option<KeyValue>,
}

impl<'a> Place<'a> {
    /// Makes the key of `lease`, or finds the one that is there.
    pub(super) async fn enter(
        services: &'a Services,
        metadata: &'a Metadata,
        line: Line,
        lease: i64,
        value: Bytes,
    ) -> Result<Self, RpcError> {
        let key = line.key(lease);
        let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let own = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let request = pb::TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![op(Op::RequestPut(put)), op(Op::RequestRange(line.first()))],
            failure: vec![op(Op::RequestRange(own)), op(Op::RequestRange(line.first()))],
        };
        guard::quota(services, check::charge::txn(&request)).await?;
        let caller = guard::caller(services, metadata).await?;
        let pending = services.node.propose(Request::Txn, &encoded(&request), caller.as_ref())?;
        let entering =
            Entering { services, key: key.clone(), caller: caller.clone(), pending: Some(pending) };
        let Response { revision: entered_at, body } = entering.await?;
        let txn: pb::TxnResponse = own_message(&body);
        let [own, first] = txn.responses.try_into().expect("both branches have two operations");
        let found = first_kv(own);
        let create_revision = found.as_ref().map_or(entered_at, |kv| kv.create_revision);
        let is_first = first_kv(first).is_none_or(|kv| kv.create_revision == create_revision);
        Ok(Place {
            services,
            metadata,
            caller,
            line,
            key,
            create_revision,
            entered_at,
            is_first,
            found_value: found.map(|kv| kv.value),
            is_left_alone: false,
        })
    }

    pub(super) fn key(&self) -> &Bytes {
        &self.key
    }

    /// Leaves the key where it is, for whoever holds it from now on.
    pub(super) fn keep(mut self) -> Bytes {
        self.is_left_alone = true;
        std::mem::take(&mut self.key)
    }

    /// Waits until no older key is left.
    pub(super) async fn wait(&mut self) -> Result<Turn, RpcError> {
        loop {
            let view = self.view().await?;
            if !view.is_in_line {
                self.is_left_alone = true;
                return Ok(Turn::Lost);
            }
            let Some(before) = view.before else { return Ok(Turn::Come) };
            // Whatever comes, a look tells more than the event: others may have left meanwhile.
            let mut news = Subscription::open(
                [&before.key, &self.key].map(|key| deletion_of(key, view.revision + 1)),
            );
            poll_fn(|context| news.poll_next(context)).await?;
        }
    }

    /// The revision at which the key still stands, as of now in the whole cluster. `None` when it is lost.
    pub(super) async fn confirm(&mut self) -> Result<Option<i64>, RpcError> {
        self.services.node.read_barrier().await?;
        let view = self.view().await?;
        self.is_left_alone |= !view.is_in_line;
        Ok(view.is_in_line.then_some(view.revision))
    }

    /// Looks at this member's state, which is never older than the place itself.
    async fn view(&self) -> Result<View, RpcError> {
        let own = pb::RangeRequest {
            key: self.key.clone(),
            min_create_revision: self.create_revision,
            max_create_revision: self.create_revision,
            keys_only: true,
            ..Default::default()
        };
        let before = self.line.last_before(self.create_revision);
        let request = pb::TxnRequest {
            success: vec![op(Op::RequestRange(own)), op(Op::RequestRange(before))],
            ..Default::default()
        };
        guard::permit(self.services, self.metadata, Action::Txn(&request)).await?;
        let response = self.services.reader.txn_read_only(&request).map_err(read_error)?;
        let txn: pb::TxnResponse = own_message(&response.body);
        let [own, before] = txn.responses.try_into().expect("there are two operations");
        Ok(View {
            revision: response.revision,
            is_in_line: first_kv(own).is_some(),
            before: first_kv(before),
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_left_alone {
            let node = &self.services.node;
            remove(node, &self.key, self.create_revision, self.caller.as_ref());
        }
    }
}

/// The transaction that makes a key, on its way. When the call goes away now, the key must go as soon as it is known
/// whether this transaction made it.
struct Entering<'a> {
    services: &'a Services,
    key: Bytes,
    caller: Option<Identity>,
    /// `None` once answered.
    pending: Option<Pending>,
}

impl Future for Entering<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let pending = self.pending.as_mut().expect("not polled after it was ready");
        let outcome = ready!(Pin::new(pending).poll(context));
        self.pending = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        // Without a runtime the thread is ending, and the member with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (node, caller) = (self.services.node.clone(), self.caller.take());
        let key = std::mem::take(&mut self.key);
        // Ends by itself: a pending call is answered within the request timeout.
        runtime.spawn(async move {
            let Ok(response) = pending.await else { return };
            if own_message::<pb::TxnResponse>(&response.body).succeeded {
                remove(&node, &key, response.revision, caller.as_ref());
            }
        });
    }
}

/// Removes a key whose call is gone, as the caller that it had. A queue that takes no more is that of a member that stops or is overloaded; the key
/// then goes with its lease.
fn remove(node: &NodeHandle, key: &Bytes, create_revision: i64, caller: Option<&Identity>) {
    let _ = node.propose_unattended(Request::Txn, &removal(key, create_revision), caller);
}

/// Deletes a key, if it is still the one created then.
pub(super) fn removal(key: &Bytes, create_revision: i64) -> pb::TxnRequest {
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    if_created_at(key, create_revision, Op::RequestDeleteRange(delete))
}

/// Does something, if the key is still the one created then.
pub(super) fn if_created_at(key: &Bytes, create_revision: i64, then: Op) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: vec![created_at(key, create_revision)],
        success: vec![op(then)],
        failure: Vec::new(),
    }
}

fn created_at(key: &Bytes, create_revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(create_revision)),
        ..Default::default()
    }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn deletion_of(key: &Bytes, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.clone(),
        start_revision,
        filters: vec![FilterType::Noput.into()],
        ..Default::default()
    }
}

/// The first key that a range in a transaction found; a put found none.
fn first_kv(response: pb::ResponseOp) -> Option<KeyValue> {
    match response.response {
        Some(OpResponse::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    }
}

/// Decodes what this member's own state machine has encoded.
pub(super) fn own_message<M: Message + Default>(body: &[u8]) -> M {
    M::decode(body).expect("the state machine encodes whole messages")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_go_prints_leases() {
        let line = Line::of(b"m");
        assert_eq!(line.key(0x6f1), "m/6f1");
        assert_eq!(line.key(-9), "m/-9");
        assert_eq!(line.key(i64::MIN), "m/-8000000000000000");
        assert_eq!(Line::of(b"").key(1), "/1");
    }

    #[test]
    fn a_line_holds_the_keys_below_its_name_and_no_others() {
        let line = Line::of(b"a/b");
        let range = line.prefix.clone()..line.end();
        for (key, is_inside) in
            [("a/b/1", true), ("a/b/c/1", true), ("a/b", false), ("a/b0", false), ("a/1", false)]
        {
            assert_eq!(range.contains(&Bytes::from_static(key.as_bytes())), is_inside, "{key}");
        }
    }
}
