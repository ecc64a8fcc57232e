//! Keys and values.

use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::Retry;
use crate::error::Failure;
use crate::{Client, Error, txn};

impl Client {
    /// Reads keys.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.call(Retry::Repeatable, request, |channel, request| async move {
            self.kv(channel).range(request).await
        })
        .await
    }

    /// Reads keys in pieces, so that neither side holds all of them at once. New in etcd 3.7.
    pub async fn range_stream(&self, request: RangeRequest) -> Result<RangeStream, Error> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let replies = self
            .call(Retry::Repeatable, request, |channel, request| async move {
                self.kv(channel).range_stream(request).await
            })
            .await?;
        Ok(RangeStream { replies, deadline })
    }

    /// Writes a key.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        self.call(Retry::Once, request, |channel, request| async move {
            self.kv(channel).put(request).await
        })
        .await
    }

    /// Deletes keys.
    pub async fn delete_range(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Error> {
        self.call(Retry::Once, request, |channel, request| async move {
            self.kv(channel).delete_range(request).await
        })
        .await
    }

    /// Runs a transaction.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let retry = if txn::is_read_only(&request) { Retry::Repeatable } else { Retry::Once };
        self.call(
            retry,
            request,
            |channel, request| async move { self.kv(channel).txn(request).await },
        )
        .await
    }

    /// Forgets the history below a revision.
    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Error> {
        self.call(Retry::Once, request, |channel, request| async move {
            self.kv(channel).compact(request).await
        })
        .await
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
            Ok(piece) => Ok(piece.and_then(|piece| piece.range_response)),
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
