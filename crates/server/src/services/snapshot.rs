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
use retcd_state_machine::auth::Action;
use sha2::{Digest, Sha256};

use super::{Services, decode, guard};
use crate::grpc::{FRAME_PREFIX_BYTES, MessageStream, Metadata, frame_prefix};
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
    pub(super) fn open(
        services: &Arc<Services>,
        metadata: &Metadata,
        message: Bytes,
    ) -> Result<Self, RpcError> {
        let pb::SnapshotRequest {} = decode(message)?;
        let (services, credentials) = (services.clone(), metadata.credentials());
        let opening = async move {
            guard::permit_with(&services, &credentials, Action::Administer).await?;
            services.node.exporter().for_client().await
        };
        Ok(Snapshot { stage: Stage::Opening(Box::pin(opening)) })
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

#[cfg(test)]
mod tests {
    use retcd_api::raftpb::ConfState;
    use retcd_state_machine::DurableState;

    use super::*;
    use crate::grpc::MessageReader;
    use crate::peer::{ChunkSender, chunks};

    fn stream(bytes: u64) -> (ChunkSender, Snapshot) {
        let (sender, chunks) = chunks();
        let state = DurableState { index: 1, term: 1, conf_state: ConfState::default() };
        let storage_version = "3.7.0".to_owned();
        let export = Export { state, membership: Vec::new(), storage_version, bytes, chunks };
        (sender, Snapshot { stage: Stage::Sending(Sending::start(export)) })
    }

    fn poll(stream: &mut Snapshot) -> Poll<Option<Result<Bytes, RpcError>>> {
        stream.poll_messages(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn blobs_have_etcds_size_and_the_digest_comes_last() {
        // Three pages more than two blobs, in pieces that fit neither.
        let file: Vec<u8> = (0..=250).cycle().take(2 * BLOB_BYTES + 3 * 4096).collect();
        let (sender, mut stream) = stream(file.len() as u64);
        let mut reader = MessageReader::new(BLOB_BYTES + 100, false);
        let mut responses = Vec::new();
        for piece in file.chunks(10_000) {
            sender.blocking_send(piece.to_vec().into()).unwrap();
            while let Poll::Ready(messages) = poll(&mut stream) {
                let Some(messages) = messages.transpose().unwrap() else { break };
                reader.push(messages);
                while let Some(message) = reader.next().unwrap() {
                    responses.push(pb::SnapshotResponse::decode(message).unwrap());
                }
            }
        }
        assert!(matches!(poll(&mut stream), Poll::Ready(None)));

        let shape: Vec<_> = responses
            .iter()
            .map(|response| (response.blob.len(), response.remaining_bytes))
            .collect();
        let rest = 3 * 4096;
        let expected = [(BLOB_BYTES, BLOB_BYTES + rest), (BLOB_BYTES, rest), (rest, 0), (32, 0)];
        assert_eq!(shape, expected.map(|(blob, left)| (blob, left as u64)));
        assert!(responses.iter().all(|response| response.version == "3.7.0"));
        let sent = responses.iter().flat_map(|response| response.blob.clone()).collect::<Vec<_>>();
        let (sent, digest) = sent.split_at(file.len());
        assert_eq!(sent, file);
        assert_eq!(digest, &Sha256::digest(&file)[..]);
    }

    #[test]
    fn a_database_that_breaks_off_ends_the_call_with_an_error() {
        let (sender, mut broken) = stream(100_000);
        sender.blocking_send(vec![0; 50_000].into()).unwrap();
        sender.blocking_fail(std::io::Error::other("no disk"));
        assert!(matches!(poll(&mut broken), Poll::Ready(Some(Ok(_)))), "a whole blob");
        let Poll::Ready(Some(Err(error))) = poll(&mut broken) else { panic!("no error") };
        assert_eq!((error.code(), error.message()), (Code::Unknown, "no disk"));
        assert!(matches!(poll(&mut broken), Poll::Ready(None)));

        let (sender, mut short) = stream(100_000);
        sender.blocking_finish().unwrap();
        assert!(matches!(poll(&mut short), Poll::Ready(Some(Err(_)))));
    }
}
