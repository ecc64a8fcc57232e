//! Maintenance.Snapshot: the database as a file, to be saved by the client.
//!
//! The file comes in blobs of 32 KiB and is followed by one with the SHA-256 of all of it, which `etcdctl snapshot save`
//! writes behind the file. What is sent is the state at the start of the call; its length is known from the first message
//! on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use prost::Message;
use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb as pb;
use sha2::{Digest, Sha256};

use super::{Services, decode};
use crate::grpc::{FRAME_PREFIX_BYTES, MessageStream, frame_prefix};
use crate::peer::Chunks;
use crate::snapshot::Export;

/// Bytes of the file in one message.
const BLOB_BYTES: usize = 32 << 10;
/// What the prefix and the other fields of a message need at most.
const FRAME_BYTES: usize = FRAME_PREFIX_BYTES + 64;

/// The answers of one call.
pub(super) struct Snapshot {
    stage: Stage,
}

enum Stage {
    Opening(Pin<Box<dyn Future<Output = Result<Export, RpcError>> + Send>>),
    Sending(Sending),
    Done,
}

impl Snapshot {
    pub(super) fn open(services: &Arc<Services>, message: Bytes) -> Result<Self, RpcError> {
        let pb::SnapshotRequest {} = decode(message)?;
        let exporter = services.node.exporter();
        Ok(Snapshot { stage: Stage::Opening(Box::pin(async move { exporter.for_client().await })) })
    }
}

impl MessageStream for Snapshot {
    fn poll_messages(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        loop {
            let result = match &mut self.stage {
                Stage::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Ok(export) => {
                        self.stage = Stage::Sending(Sending::start(export));
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Stage::Sending(sending) => ready!(sending.poll_messages(context)),
                Stage::Done => return Poll::Ready(None),
            };
            if !matches!(&self.stage, Stage::Sending(sending) if sending.bytes_left > 0)
                || result.is_err()
            {
                self.stage = Stage::Done;
            }
            return Poll::Ready(Some(result));
        }
    }
}

struct Sending {
    chunks: Chunks,
    /// Pieces that do not fill a blob yet.
    buffer: BytesMut,
    /// Of the file, and not in any message yet.
    bytes_left: u64,
    hash: Sha256,
    version: String,
    bytes: u64,
    started: Instant,
}

impl Sending {
    fn start(export: Export) -> Self {
        let Export { bytes, chunks, storage_version, .. } = export;
        tracing::info!(total_bytes = bytes, storage_version, "sending database snapshot to client");
        Sending {
            chunks,
            buffer: BytesMut::new(),
            bytes_left: bytes,
            hash: Sha256::new(),
            version: storage_version,
            bytes,
            started: Instant::now(),
        }
    }

    /// The messages of the next pieces; with the last blob comes the digest.
    fn poll_messages(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, RpcError>> {
        loop {
            let mut frames = BytesMut::new();
            while self.buffer.len() >= BLOB_BYTES || self.is_whole() {
                let len = self.buffer.len().min(BLOB_BYTES);
                let blob = self.buffer.split_to(len).freeze();
                self.hash.update(&blob);
                self.bytes_left -= len as u64;
                self.push(blob, &mut frames);
                if self.bytes_left == 0 {
                    let digest = std::mem::take(&mut self.hash).finalize();
                    self.push(Bytes::copy_from_slice(&digest), &mut frames);
                    let took = self.started.elapsed();
                    tracing::info!(
                        total_bytes = self.bytes,
                        storage_version = self.version,
                        ?took,
                        "successfully sent database snapshot to client"
                    );
                    return Poll::Ready(Ok(frames.freeze()));
                }
            }
            if !frames.is_empty() {
                return Poll::Ready(Ok(frames.freeze()));
            }
            match ready!(self.chunks.poll_next(context)) {
                Ok(Some(piece)) => self.buffer.extend_from_slice(&piece),
                Ok(None) => {
                    return Poll::Ready(Err(broken("the database is shorter than measured")));
                }
                Err(error) => return Poll::Ready(Err(broken(&error.to_string()))),
            }
        }
    }

    /// Whether the end of the file is in the buffer.
    fn is_whole(&self) -> bool {
        self.bytes_left > 0 && self.buffer.len() as u64 == self.bytes_left
    }

    fn push(&self, blob: Bytes, frames: &mut BytesMut) {
        let response = pb::SnapshotResponse {
            header: None,
            remaining_bytes: self.bytes_left,
            blob,
            version: self.version.clone(),
        };
        let len = response.encoded_len();
        frames.reserve(FRAME_BYTES + len);
        frames.extend_from_slice(&frame_prefix(len));
        response.encode(frames).expect("a buffer grows");
    }
}

fn broken(reason: &str) -> RpcError {
    RpcError::other(Code::Unknown, reason.to_owned())
}
