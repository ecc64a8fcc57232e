//! Waiting in line: what locks and elections have in common.
//!
//! A line is a prefix. Whoever wants to be first puts a key below it, named after a lease of its own, and is first
//! once no key with a lower create revision is left. The layout is that of etcd's concurrency package, so programs
//! that use it and this tool may stand in the same line.
//!
//! A place is worth something only while its lease lives: whoever is told to be first has just read its own key, and
//! learns from the session that keeps the lease when that stops being true.
//!
//! The client library has the same recipe; this one differs where etcdctl shows it: names may be any bytes, the replies
//! that are printed are kept whole, and a place can be left with another token than it was taken with.

use retcd_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use retcd_api::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, ResponseHeader,
    WatchCreateRequest, response_op::Response,
};
use retcd_api::mvccpb::event::EventType;
use retcd_client::{Client, Error, Txn, compare, prefix_end};

/// A place in a line.
pub(crate) struct Place {
    prefix: Vec<u8>,
    pub(crate) key: Vec<u8>,
    /// The create revision of the key.
    revision: i64,
}

impl Place {
    /// Goes to the end of the line `name`.
    pub(crate) async fn take(
        client: &Client,
        name: &[u8],
        value: &[u8],
        lease: i64,
    ) -> Result<Self, Error> {
        let prefix = [name, b"/"].concat();
        let key = [prefix.as_slice(), format!("{lease:x}").as_bytes()].concat();
        let put = PutRequest {
            key: key.clone().into(),
            value: value.to_vec().into(),
            lease,
            ..Default::default()
        };
        let is_absent = compare(key.clone(), CompareResult::Equal, TargetUnion::CreateRevision(0));
        let own = RangeRequest { key: key.clone().into(), ..Default::default() };
        let txn = Txn::new().when(is_absent).put(put).otherwise().range(own);
        let reply = client.txn(txn.into_request()).await?;
        // The key can only be there when the answer to an earlier attempt was lost.
        let found = reply.responses.first().and_then(|op| match &op.response {
            Some(Response::ResponseRange(found)) => found.kvs.first(),
            _ => None,
        });
        let of_header = reply.header.map_or(0, |header| header.revision);
        let revision = found.map_or(of_header, |kv| kv.create_revision);
        Ok(Place { prefix, key, revision })
    }

    /// Waits until everybody who came before is gone. Says nothing about whether this place is still there.
    pub(crate) async fn until_first(&self, client: &Client) -> Result<(), Error> {
        loop {
            let before = RangeRequest {
                key: self.prefix.clone().into(),
                range_end: prefix_end(&self.prefix).into(),
                limit: 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                max_create_revision: self.revision - 1,
                ..Default::default()
            };
            let reply = client.range(before).await?;
            let Some(kv) = reply.kvs.first() else {
                return Ok(());
            };
            let seen_at = reply.header.map_or(0, |header| header.revision);
            until_deleted(client, &kv.key, seen_at).await?;
        }
    }

    /// The key, if it is still the one that was put.
    pub(crate) async fn read(&self, client: &Client) -> Result<Option<RangeResponse>, Error> {
        let reply = client
            .range(RangeRequest { key: self.key.clone().into(), ..Default::default() })
            .await?;
        let is_own = reply.kvs.first().is_some_and(|kv| kv.create_revision == self.revision);
        Ok(is_own.then_some(reply))
    }

    /// Gives the place up, and the lease with it. Somebody else's key of the same name is left alone.
    pub(crate) async fn leave(&self, client: &Client, lease: i64) -> Result<(), Error> {
        let target = TargetUnion::CreateRevision(self.revision);
        let is_own = compare(self.key.clone(), CompareResult::Equal, target);
        let delete = DeleteRangeRequest { key: self.key.clone().into(), ..Default::default() };
        client.txn(Txn::new().when(is_own).delete_range(delete).into_request()).await?;
        // Without its key the lease holds nothing, and would end by itself.
        let _ = client.lease_revoke(lease).await;
        Ok(())
    }
}

/// Waits until `key` is deleted, after `revision`. Returns early when the history has a gap: then look again.
async fn until_deleted(client: &Client, key: &[u8], revision: i64) -> Result<(), Error> {
    let mut watcher = client.watcher();
    watcher
        .create(WatchCreateRequest {
            key: key.to_vec().into(),
            start_revision: revision + 1,
            ..Default::default()
        })
        .await;
    loop {
        let reply = watcher.next().await?;
        if let Some(reason) = retcd_client::cancellation(&reply) {
            return if reply.compact_revision != 0 { Ok(()) } else { Err(reason) };
        }
        if reply.events.iter().any(|event| event.r#type() == EventType::Delete) {
            return Ok(());
        }
    }
}

/// The revision of a reply.
pub(crate) fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}
