//! KV: the way of a put begins here, the way of a range begins and ends here.
//!
//! A write is checked, copied once into the entry that goes into the log, and waits for its answer. A read runs here,
//! on the client's thread, against the shared state.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_state_machine::auth::{Action, Identity};
use retcd_state_machine::mvcc::{self, Chunk};
use retcd_state_machine::{ReadError, Response, check};

use super::{Answer, HeaderKind, Services, decode, guard};
use crate::grpc::{Credentials, FRAME_PREFIX_BYTES, MessageStream, Metadata, frame_prefix};
use crate::node::{Request, read_error};

pub(super) async fn put(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::PutRequest = decode(message.clone())?;
    guard::quota(services, check::charge::put(&request)).await?;
    check::put(&request).map_err(|rejection| RpcError::from(&rejection))?;
    drop(request);
    let caller = guard::caller(services, metadata).await?;
    services.node.propose(Request::Put, &message, caller.as_ref())?.await.map(Answer::from)
}

pub(super) async fn delete_range(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::DeleteRangeRequest = decode(message.clone())?;
    check::delete_range(&request).map_err(|rejection| RpcError::from(&rejection))?;
    drop(request);
    let caller = guard::caller(services, metadata).await?;
    services.node.propose(Request::DeleteRange, &message, caller.as_ref())?.await.map(Answer::from)
}

pub(super) async fn range(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::RangeRequest = decode(message)?;
    check::range(&request).map_err(|rejection| RpcError::from(&rejection))?;
    if !request.serializable {
        services.node.read_barrier().await?;
    }
    let caller = guard::permit(services, metadata, reading(&request)).await?;
    let started = Instant::now();
    let range = services.reader.range(&request);
    services.node.metrics().range_took(range.is_ok(), started.elapsed());
    guard::is_current(services, caller.as_ref())?;
    read(range)
}

pub(super) fn reading(request: &pb::RangeRequest) -> Action<'_> {
    Action::Read { key: &request.key, range_end: &request.range_end }
}

pub(super) async fn txn(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::TxnRequest = decode(message.clone())?;
    guard::quota(services, check::charge::txn(&request)).await?;
    check::txn(&request, services.config.max_txn_ops)
        .map_err(|rejection| RpcError::from(&rejection))?;
    if check::is_read_only(&request) {
        if !check::is_serializable(&request) {
            services.node.read_barrier().await?;
        }
        let caller = guard::permit(services, metadata, Action::Txn(&request)).await?;
        let response = services.reader.txn_read_only(&request);
        guard::is_current(services, caller.as_ref())?;
        return read(response);
    }
    drop(request);
    let caller = guard::caller(services, metadata).await?;
    services.node.propose(Request::Txn, &message, caller.as_ref())?.await.map(Answer::from)
}

pub(super) async fn compact(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    guard::administrator(services, metadata).await?;
    let request: pb::CompactionRequest = decode(message.clone())?;
    let pending = services.node.propose(Request::Compaction, &message, None)?;
    let answer = pending.await.map(Answer::from);
    if request.physical {
        // A compaction that was refused waits too: the work of the one before may still be under way.
        services.node.compacted_physically(services.reader.compacted_revision()).await?;
    }
    answer
}

/// A read's result as an answer. A local fault stops the member.
pub(super) fn read(result: Result<Response, ReadError>) -> Result<Answer, RpcError> {
    result.map(Answer::from).map_err(read_error)
}

/// `RangeStreamResponse` holds a `RangeResponse` in field 1.
const RANGE_RESPONSE: u8 = 1 << 3 | 2;

/// `RangeStream`: the chunks of one pinned revision, each read when the client has room for it.
pub(super) struct RangeStream {
    services: Arc<Services>,
    opened: Opened,
}

enum Opened {
    /// A linearizable stream waits until this member is fresh enough; and whose it is must be known.
    Waiting(pb::RangeRequest, Permission),
    Reading(mvcc::RangeStream, Option<Identity>),
    Done,
}

type Permission =
    std::pin::Pin<Box<dyn Future<Output = Result<Option<Identity>, RpcError>> + Send>>;

/// Waits until the stream may read.
async fn permission(
    services: Arc<Services>,
    credentials: Credentials,
    request: pb::RangeRequest,
) -> Result<Option<Identity>, RpcError> {
    if !request.serializable {
        services.node.read_barrier().await?;
    }
    guard::permit_with(&services, &credentials, reading(&request)).await
}

impl RangeStream {
    pub(super) fn open(
        services: &Arc<Services>,
        metadata: &Metadata,
        message: Bytes,
    ) -> Result<Self, RpcError> {
        let request: pb::RangeRequest = decode(message)?;
        check::range_stream(&request).map_err(|rejection| RpcError::from(&rejection))?;
        let permission = permission(services.clone(), metadata.credentials(), request.clone());
        let opened = Opened::Waiting(request, Box::pin(permission));
        Ok(RangeStream { services: services.clone(), opened })
    }

    fn frame(&self, chunk: Chunk) -> Bytes {
        let header = if chunk.is_last {
            HeaderKind::Full { revision: chunk.response.revision }
        } else {
            HeaderKind::None
        };
        let header = self.services.headers.encode(header, self.services.node.term());
        let body = chunk.response.body;
        let inner = header.len() + body.len();
        let outer = 1 + encoded_len_varint(inner as u64) + inner;
        let mut frame = Vec::with_capacity(FRAME_PREFIX_BYTES + outer);
        frame.extend_from_slice(&frame_prefix(outer));
        frame.push(RANGE_RESPONSE);
        encode_varint(inner as u64, &mut frame);
        frame.extend_from_slice(&header);
        frame.extend_from_slice(&body);
        frame.into()
    }
}

impl MessageStream for RangeStream {
    fn poll_messages(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        loop {
            match &mut self.opened {
                Opened::Waiting(request, permission) => {
                    let result = match std::task::ready!(permission.as_mut().poll(context)) {
                        Ok(caller) => {
                            let chunk_bytes = self.services.config.max_request_bytes;
                            let stream = self.services.reader.range_stream(request, chunk_bytes);
                            stream.map(|stream| (stream, caller)).map_err(read_error)
                        }
                        Err(error) => Err(error),
                    };
                    match result {
                        Ok((stream, caller)) => self.opened = Opened::Reading(stream, caller),
                        Err(error) => {
                            self.opened = Opened::Done;
                            return Poll::Ready(Some(Err(error)));
                        }
                    }
                }
                Opened::Reading(stream, caller) => {
                    let next = match stream.next() {
                        None => {
                            let caller = caller.take();
                            guard::is_current(&self.services, caller.as_ref()).err().map(Err)
                        }
                        Some(Ok(chunk)) => Some(Ok(self.frame(chunk))),
                        Some(Err(error)) => Some(Err(read_error(error))),
                    };
                    return Poll::Ready(next);
                }
                Opened::Done => return Poll::Ready(None),
            }
        }
    }
}

/// The encoded message of a request that the server itself makes.
pub(super) fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}
