//! A part of the key space that looks like all of it.
//!
//! A client that was made by [`Client::namespaced`] puts a prefix before each key on the way out and takes it off on
//! the way in. As everything goes through the client, the recipes and the naming live in the namespace, too.

use bytes::{Bytes, BytesMut};
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, LeaseTimeToLiveResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse, request_op::Request,
    response_op::Response,
};
use retcd_api::mvccpb::{Event, KeyValue};

use crate::{Client, Error, prefix_end};

impl Client {
    /// The same client, for which the keys that begin with `prefix` are all keys there are, and begin after it.
    /// Within a namespace there can be further ones.
    ///
    /// Keys, watches, transactions, leases' lists of keys and the lock and election services are covered; what is not
    /// about keys (members, users, compaction) is not.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_client::{Get, Put};
    ///
    /// let app = client.namespaced("app/");
    /// app.put(Put::new("color", "red")).await?;
    /// assert_eq!(client.range(Get::key("app/color")).await?.kvs[0].value, "red");
    /// assert_eq!(app.range(Get::all()).await?.kvs[0].key, "color");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn namespaced(&self, prefix: impl AsRef<[u8]>) -> Self {
        let mut client = self.clone();
        client.namespace = joined(&self.namespace, prefix.as_ref());
        client
    }

    pub(crate) fn without_namespace(&self) -> Self {
        let mut client = self.clone();
        client.namespace = Bytes::new();
        client
    }
}

/// A request that names keys.
pub(crate) trait Enter {
    /// Names the keys as the server knows them.
    ///
    /// # Errors
    /// `EmptyKey`, which the server could not notice any more.
    fn enter(&mut self, namespace: &Bytes) -> Result<(), Error>;
}

/// An answer that names keys.
pub(crate) trait Leave {
    /// Names the keys as the caller knows them.
    fn leave(&mut self, namespace: &Bytes);
}

impl Enter for RangeRequest {
    fn enter(&mut self, namespace: &Bytes) -> Result<(), Error> {
        enter_range(namespace, &mut self.key, &mut self.range_end)
    }
}

impl Enter for PutRequest {
    fn enter(&mut self, namespace: &Bytes) -> Result<(), Error> {
        enter_range(namespace, &mut self.key, &mut Bytes::new())
    }
}

impl Enter for DeleteRangeRequest {
    fn enter(&mut self, namespace: &Bytes) -> Result<(), Error> {
        enter_range(namespace, &mut self.key, &mut self.range_end)
    }
}

impl Enter for TxnRequest {
    fn enter(&mut self, namespace: &Bytes) -> Result<(), Error> {
        if namespace.is_empty() {
            return Ok(());
        }
        for condition in &mut self.compare {
            enter_range(namespace, &mut condition.key, &mut condition.range_end)?;
        }
        for operation in self.success.iter_mut().chain(&mut self.failure) {
            match &mut operation.request {
                Some(Request::RequestRange(request)) => request.enter(namespace)?,
                Some(Request::RequestPut(request)) => request.enter(namespace)?,
                Some(Request::RequestDeleteRange(request)) => request.enter(namespace)?,
                Some(Request::RequestTxn(request)) => request.enter(namespace)?,
                None => {}
            }
        }
        Ok(())
    }
}

impl Leave for RangeResponse {
    fn leave(&mut self, namespace: &Bytes) {
        strip_kvs(namespace, &mut self.kvs);
    }
}

impl Leave for PutResponse {
    fn leave(&mut self, namespace: &Bytes) {
        strip_kvs(namespace, &mut self.prev_kv);
    }
}

impl Leave for DeleteRangeResponse {
    fn leave(&mut self, namespace: &Bytes) {
        strip_kvs(namespace, &mut self.prev_kvs);
    }
}

impl Leave for TxnResponse {
    fn leave(&mut self, namespace: &Bytes) {
        for response in &mut self.responses {
            match &mut response.response {
                Some(Response::ResponseRange(reply)) => reply.leave(namespace),
                Some(Response::ResponsePut(reply)) => reply.leave(namespace),
                Some(Response::ResponseDeleteRange(reply)) => reply.leave(namespace),
                Some(Response::ResponseTxn(reply)) => reply.leave(namespace),
                None => {}
            }
        }
    }
}

/// A lease may hold keys outside of the namespace, which are nobody's business in it.
impl Leave for LeaseTimeToLiveResponse {
    fn leave(&mut self, namespace: &Bytes) {
        self.keys.retain(|key| key.starts_with(namespace));
        for key in &mut self.keys {
            strip(namespace, key);
        }
    }
}

fn enter_range(namespace: &Bytes, key: &mut Bytes, range_end: &mut Bytes) -> Result<(), Error> {
    if namespace.is_empty() {
        return Ok(());
    }
    if key.is_empty() && range_end.is_empty() {
        return Err(Error::Rpc(RpcError::EmptyKey));
    }
    add_to_range(namespace, key, range_end);
    Ok(())
}

/// Moves a range into a namespace. A range without an end ends where the namespace does.
pub(crate) fn add_to_range(namespace: &Bytes, key: &mut Bytes, range_end: &mut Bytes) {
    if namespace.is_empty() {
        return;
    }
    *key = joined(namespace, key);
    if range_end[..] == [0] {
        *range_end = prefix_end(namespace).into();
    } else if !range_end.is_empty() {
        *range_end = joined(namespace, range_end);
    }
}

pub(crate) fn strip_events(namespace: &Bytes, events: &mut [Event]) {
    for event in events {
        strip_kvs(namespace, &mut event.kv);
        strip_kvs(namespace, &mut event.prev_kv);
    }
}

/// Takes the namespace off one key.
pub(crate) fn strip(namespace: &Bytes, key: &mut Bytes) {
    if key.starts_with(namespace) {
        // Shares the memory of the whole key.
        *key = key.slice(namespace.len()..);
    }
}

fn strip_kvs<'a>(namespace: &Bytes, kvs: impl IntoIterator<Item = &'a mut KeyValue>) {
    if namespace.is_empty() {
        return;
    }
    for kv in kvs {
        strip(namespace, &mut kv.key);
    }
}

/// Puts the namespace before one key.
pub(crate) fn joined(namespace: &Bytes, key: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(namespace.len() + key.len());
    whole.extend_from_slice(namespace);
    whole.extend_from_slice(key);
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Delete, Get, Put, Txn, key};

    fn entered(get: Get) -> (Bytes, Bytes) {
        let mut request = RangeRequest::from(get);
        request.enter(&"ns/".into()).unwrap();
        (request.key, request.range_end)
    }

    #[test]
    fn ranges_stay_within_the_namespace() {
        assert_eq!(entered(Get::key("k")), ("ns/k".into(), "".into()));
        assert_eq!(entered(Get::prefix("k")), ("ns/k".into(), "ns/l".into()));
        assert_eq!(entered(Get::from_key("k")), ("ns/k".into(), "ns0".into()));
        // The smallest key there is stands for the beginning.
        assert_eq!(entered(Get::all()), ("ns/\0".into(), "ns0".into()));
        assert_eq!(entered(Get::prefix("\u{ff}")).0, "ns/\u{ff}");
    }

    #[test]
    fn an_empty_key_is_not_the_namespace_itself() {
        let error = PutRequest::from(Put::new("", "v")).enter(&"ns/".into()).unwrap_err();
        assert_eq!(error, Error::Rpc(RpcError::EmptyKey));
    }

    #[test]
    fn transactions_are_moved_in_all_their_parts() {
        let inner = Txn::new().delete_range(Delete::key("c"));
        let txn = Txn::new().when(key("a").is_absent()).put(Put::new("b", "")).otherwise();
        let mut request = txn.txn(inner).into_request();
        request.enter(&"ns/".into()).unwrap();
        assert_eq!(request.compare[0].key, "ns/a");
        let text = format!("{request:?}");
        assert!(text.contains("ns/b") && text.contains("ns/c"), "{text}");
    }

    #[test]
    fn keys_of_leases_outside_are_left_out() {
        let mut reply = LeaseTimeToLiveResponse {
            keys: vec!["ns/a".into(), "other".into()],
            ..Default::default()
        };
        reply.leave(&"ns/".into());
        assert_eq!(reply.keys, ["a"]);
    }
}
