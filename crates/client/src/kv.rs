//! Keys and values.

use bytes::Bytes;
use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::channel::Channel;
use crate::client::Retry;
use crate::error::Failure;
use crate::namespace::{Enter, Leave};
use crate::{Client, Error, txn};

impl Client {
    /// Reads keys: a [`Get`](crate::Get) or a `RangeRequest`. Repeated when the answer is lost.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_client::Get;
    ///
    /// let reply = client.range(Get::prefix("service/").limit(10)).await?;
    /// for kv in &reply.kvs {
    ///     println!("{:?} since revision {}", kv.key, kv.create_revision);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn range(&self, request: impl Into<RangeRequest>) -> Result<RangeResponse, Error> {
        let mut request = request.into();
        request.enter(&self.namespace)?;
        let read = || self.unary(Retry::Repeatable, "/etcdserverpb.KV/Range", &request);
        let mut reply = self.in_order(read, |reply: &RangeResponse| reply.header.as_ref()).await?;
        reply.leave(&self.namespace);
        Ok(reply)
    }

    /// Reads keys in pieces, so that neither side holds all of them at once. New in etcd 3.7.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_client::Get;
    ///
    /// let mut pieces = client.range_stream(Get::all()).await?;
    /// while let Some(piece) = pieces.next().await? {
    ///     println!("{} more keys", piece.kvs.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn range_stream(
        &self,
        request: impl Into<RangeRequest>,
    ) -> Result<RangeStream, Error> {
        let mut request = request.into();
        request.enter(&self.namespace)?;
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let replies = self
            .streaming(Retry::Repeatable, request, |channel, request| async move {
                self.kv(channel).range_stream(request).await
            })
            .await?;
        Ok(RangeStream { replies, deadline, namespace: self.namespace.clone() })
    }

    /// Writes a key: a [`Put`](crate::Put) or a `PutRequest`. Never sent again once it may have arrived.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) {
    /// use retcd_client::Put;
    ///
    /// match client.put(Put::new("k", "v")).await {
    ///     Ok(_) => println!("written"),
    ///     Err(error) if error.may_have_happened() => println!("maybe written: {error}"),
    ///     Err(error) => println!("certainly not written: {error}"),
    /// }
    /// # }
    /// ```
    pub async fn put(&self, request: impl Into<PutRequest>) -> Result<PutResponse, Error> {
        let mut request = request.into();
        request.enter(&self.namespace)?;
        let mut reply: PutResponse =
            self.unary(Retry::Once, "/etcdserverpb.KV/Put", &request).await?;
        self.note_written(reply.header.as_ref());
        reply.leave(&self.namespace);
        Ok(reply)
    }

    /// Deletes keys: a [`Delete`](crate::Delete) or a `DeleteRangeRequest`. Never sent again once it may have arrived.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_client::Delete;
    ///
    /// let reply = client.delete_range(Delete::prefix("service/").prev_kv()).await?;
    /// println!("{} keys are gone, the first was {:?}", reply.deleted, reply.prev_kvs.first());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_range(
        &self,
        request: impl Into<DeleteRangeRequest>,
    ) -> Result<DeleteRangeResponse, Error> {
        let mut request = request.into();
        request.enter(&self.namespace)?;
        let mut reply: DeleteRangeResponse =
            self.unary(Retry::Once, "/etcdserverpb.KV/DeleteRange", &request).await?;
        self.note_written(reply.header.as_ref());
        reply.leave(&self.namespace);
        Ok(reply)
    }

    /// Runs a transaction: a [`Txn`](crate::Txn) or a `TxnRequest`. One that may write is never sent again once it may
    /// have arrived; one that only reads is.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_client::{Get, Put, Txn, key};
    ///
    /// let txn = Txn::new().when(key("leader").is_absent()).put(Put::new("leader", "me"));
    /// let reply = client.txn(txn.otherwise().range(Get::key("leader"))).await?;
    /// println!("{}", if reply.succeeded { "elected" } else { "too late" });
    /// # Ok(())
    /// # }
    /// ```
    pub async fn txn(&self, request: impl Into<TxnRequest>) -> Result<TxnResponse, Error> {
        let mut request = request.into();
        request.enter(&self.namespace)?;
        let is_read_only = txn::is_read_only(&request);
        let retry = if is_read_only { Retry::Repeatable } else { Retry::Once };
        let send = || self.unary(retry, "/etcdserverpb.KV/Txn", &request);
        let mut reply = if is_read_only {
            self.in_order(send, |reply: &TxnResponse| reply.header.as_ref()).await?
        } else {
            let reply = send().await?;
            self.note_written(reply.header.as_ref());
            reply
        };
        reply.leave(&self.namespace);
        Ok(reply)
    }

    /// Forgets the history below a revision: a [`Compact`](crate::Compact) or a `CompactionRequest`.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// client.compact(retcd_client::Compact::at(1000)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn compact(
        &self,
        request: impl Into<CompactionRequest>,
    ) -> Result<CompactionResponse, Error> {
        self.unary(Retry::Once, "/etcdserverpb.KV/Compact", &request.into()).await
    }

    fn kv(&self, channel: Channel) -> KvClient<Channel> {
        KvClient::new(channel).max_decoding_message_size(self.response_bytes_max)
    }
}

/// The pieces of a streamed range.
#[derive(Debug)]
pub struct RangeStream {
    replies: Streaming<RangeStreamResponse>,
    /// The time limit of the call, which covers all pieces.
    deadline: Option<Instant>,
    namespace: Bytes,
}

impl RangeStream {
    /// The next piece, `None` after the last.
    pub async fn next(&mut self) -> Result<Option<RangeResponse>, Error> {
        let message = self.replies.message();
        let message = match self.deadline {
            Some(deadline) => timeout_at(deadline, message)
                .await
                .map_err(|_| Error::DeadlineExceeded { last_attempt: None })?,
            None => message.await,
        };
        match message {
            Ok(piece) => Ok(piece.and_then(|piece| piece.range_response).map(|mut piece| {
                piece.leave(&self.namespace);
                piece
            })),
            Err(status) => Err(Failure::from(status).into()),
        }
    }

    /// All pieces as one answer.
    ///
    /// # Errors
    /// A stream that ends before the piece with the header was cut off.
    pub async fn collect(mut self) -> Result<RangeResponse, Error> {
        let mut whole = RangeResponse::default();
        while let Some(piece) = self.next().await? {
            append(&mut whole, piece);
        }
        if whole.header.is_none() {
            let text = "range stream ended without its last piece";
            return Err(Error::Rpc(RpcError::other(Code::Internal, text)));
        }
        Ok(whole)
    }
}

/// Joins a piece to the ones before it. Header, `more` and `count` come with the last piece only.
fn append(whole: &mut RangeResponse, piece: RangeResponse) {
    whole.kvs.extend(piece.kvs);
    if piece.header.is_some() {
        whole.header = piece.header;
        whole.more = piece.more;
        whole.count = piece.count;
    }
}

/// The `range_end` of all keys that start with `prefix`: its successor of the same length, or `\0` (no end) when
/// there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end;
        }
        end.pop();
    }
    vec![0]
}

/// `key` and `range_end` of all keys that start with `prefix`; an empty prefix means every key.
pub fn prefix_range(prefix: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    if prefix.is_empty() {
        return from_key_range(prefix);
    }
    let end = prefix_end(&prefix);
    (prefix, end)
}

/// `key` and `range_end` of all keys at or after `key`; an empty key means every key.
pub fn from_key_range(key: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let key = if key.is_empty() { vec![0] } else { key };
    (key, vec![0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use retcd_api::etcdserverpb::ResponseHeader;
    use retcd_api::mvccpb::KeyValue;

    #[test]
    fn prefix_ends_skip_bytes_that_cannot_grow() {
        assert_eq!(prefix_end(b"foo"), b"fop");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff\xff"), [0]);
        assert_eq!(prefix_range(vec![]), (vec![0], vec![0]));
        assert_eq!(from_key_range(b"k".to_vec()), (b"k".to_vec(), vec![0]));
    }

    #[test]
    fn pieces_become_one_answer() {
        let piece = |key: &'static str, header| RangeResponse {
            kvs: vec![KeyValue { key: key.into(), ..Default::default() }],
            header,
            more: true,
            count: if header.is_some() { 7 } else { 0 },
        };
        let mut whole = RangeResponse::default();
        append(&mut whole, piece("a", None));
        assert!(!whole.more, "only the last piece knows");
        append(&mut whole, piece("b", Some(ResponseHeader::default())));
        assert_eq!((whole.kvs.len(), whole.more, whole.count), (2, true, 7));
    }
}
