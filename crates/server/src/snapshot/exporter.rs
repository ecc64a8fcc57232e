//! [`Exporter`]: a state of the database as a stream of bytes.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use retcd_api::error::{Code, RpcError};
use retcd_api::raftpb::{Message, Snapshot, SnapshotMetadata};
use retcd_bbolt::{Layout, PageSize, Writer};
use retcd_state_machine::DurableState;
use retcd_storage::backend::Pinned;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::exports::Hold;
use super::{Error, Membership};
use crate::metrics::Metrics;
use crate::node::storage_loop::StorageHandle;
use crate::peer::{ChunkSender, Chunks, Later, OutgoingSnapshot, SnapshotSource, chunks};

/// The largest piece that is handed over at once. A few of them wait for whoever takes them.
const PIECE_BYTES_MAX: usize = 128 << 10;

/// Gives away the database: to members that lag, and to clients that save it.
#[derive(Clone)]
pub(crate) struct Exporter {
    storage: StorageHandle,
    metrics: Arc<Metrics>,
}

/// A database on its way out.
pub(crate) struct Export {
    /// Whose effects it holds.
    pub(crate) state: DurableState,
    /// The members in it, as they stand in snapshot messages.
    pub(crate) membership: Vec<u8>,
    /// Text such as `3.7.0`; empty for a database of before 3.6.
    pub(crate) storage_version: String,
    /// The length of the file.
    pub(crate) bytes: u64,
    /// The file, in pieces of up to 128 KiB.
    pub(crate) chunks: Chunks,
}

impl Exporter {
    pub(crate) fn new(storage: StorageHandle, metrics: Arc<Metrics>) -> Self {
        Exporter { storage, metrics }
    }

    /// The state as of now or a little later, for a member. Waits while too many members are being served.
    ///
    /// # Errors
    /// A fault of the disk; nothing to send yet; the member stops.
    pub(crate) async fn for_member(&self) -> Result<Export, RpcError> {
        let permits = self.storage.exports().to_members.clone();
        let permit = permits.acquire_owned().await.map_err(|_| RpcError::Stopped)?;
        self.export(permit, true).await
    }

    /// The state as of now or a little later, for a client.
    ///
    /// A client that reads slowly keeps the pages of its state in use for as long as it takes: see [`Pinned`].
    ///
    /// # Errors
    /// As [`for_member`](Self::for_member), and when too many clients are being served.
    pub(crate) async fn for_client(&self) -> Result<Export, RpcError> {
        let permits = self.storage.exports().to_clients.clone();
        let permit = permits.try_acquire_owned().map_err(|_| {
            RpcError::other(Code::ResourceExhausted, "too many snapshots are being taken")
        })?;
        self.export(permit, false).await
    }

    async fn export(
        &self,
        permit: OwnedSemaphorePermit,
        is_for_member: bool,
    ) -> Result<Export, RpcError> {
        let pinned = self.storage.pin().await?.map_err(|failure| unknown(&failure))?;
        let state =
            retcd_conversion::durable_state(&pinned).map_err(|failure| unknown(&failure))?;
        let state = state.ok_or_else(|| unknown(&Error::Empty))?;
        let hold = is_for_member.then(|| self.storage.exports().hold(state.index));
        let (opened, measured) = oneshot::channel();
        let (sender, chunks) = chunks();
        let task = Task { pinned, sender, metrics: self.metrics.clone(), hold, _permit: permit };
        tokio::task::spawn_blocking(move || task.run(opened));
        let measured = measured.await.map_err(|_| RpcError::Stopped)?;
        let Opened { membership, storage_version, layout } =
            measured.map_err(|error| unknown(&error))?;
        let bytes = layout.size_bytes();
        Ok(Export { state, membership, storage_version, bytes, chunks })
    }
}

/// A fault of this member, with its causes.
fn unknown(error: &dyn std::error::Error) -> RpcError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    RpcError::other(Code::Unknown, text)
}

impl SnapshotSource for Exporter {
    fn open(&self, message: Message) -> Later<io::Result<OutgoingSnapshot>> {
        let exporter = self.clone();
        Box::pin(async move {
            let export =
                exporter.for_member().await.map_err(|error| io::Error::other(error.to_string()))?;
            let Export { state, membership, bytes, chunks, .. } = export;
            let message = with_state(message, state, membership)?;
            Ok(OutgoingSnapshot { message, bytes, chunks })
        })
    }
}

/// Has the message say what the database holds, which is newer than what Raft knew when it made the message.
fn with_state(
    mut message: Message,
    state: DurableState,
    membership: Vec<u8>,
) -> Result<Message, Error> {
    let metadata = message.snapshot.and_then(|snapshot| snapshot.metadata);
    let wanted = metadata.map_or(0, |metadata| metadata.index);
    let DurableState { index, term, conf_state } = state;
    // Raft waits until the member has reached the index that it was told of.
    if index < wanted {
        return Err(Error::Behind { found: index, wanted });
    }
    let metadata = SnapshotMetadata { conf_state: Some(conf_state), index, term };
    message.snapshot = Some(Snapshot { data: membership.into(), metadata: Some(metadata) });
    Ok(message)
}

/// What is known before the first byte.
struct Opened {
    membership: Vec<u8>,
    storage_version: String,
    layout: Layout,
}

/// One export, on a thread of its own.
struct Task {
    pinned: Pinned,
    sender: ChunkSender,
    metrics: Arc<Metrics>,
    /// Of an export to a member.
    hold: Option<Hold>,
    _permit: OwnedSemaphorePermit,
}

impl Task {
    fn run(self, opened: oneshot::Sender<Result<Opened, Error>>) {
        let started = Instant::now();
        let measured = match self.measure() {
            Ok(measured) => measured,
            Err(error) => {
                let _ = opened.send(Err(error));
                return;
            }
        };
        let layout = measured.layout;
        if opened.send(Ok(measured)).is_err() {
            // Whoever asked has gone.
            return;
        }
        match self.stream(layout) {
            Ok(()) => {
                if self.sender.blocking_finish().is_ok() {
                    self.hold.into_iter().for_each(Hold::complete);
                }
                self.metrics
                    .disk_backend_snapshot_duration_seconds
                    .observe_duration(started.elapsed());
            }
            // When nobody takes it any more, this goes nowhere.
            Err(error) => self.sender.blocking_fail(error.into()),
        }
    }

    fn measure(&self) -> Result<Opened, Error> {
        let membership = Membership::read(&self.pinned)?.to_store_json();
        let storage_version = retcd_conversion::storage_version(&self.pinned)?;
        let mut writer = Writer::measuring(PageSize::DEFAULT);
        retcd_conversion::write(&self.pinned, &mut writer)?;
        Ok(Opened { membership, storage_version, layout: writer.finish()? })
    }

    fn stream(&self, layout: Layout) -> Result<(), Error> {
        let mut writer = Writer::streaming(ToChunks(&self.sender), layout)?;
        retcd_conversion::write(&self.pinned, &mut writer)?;
        writer.finish()?;
        Ok(self.pinned.trim_resident()?)
    }
}

struct ToChunks<'a>(&'a ChunkSender);

impl io::Write for ToChunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE_BYTES_MAX)];
        self.0.blocking_send(Bytes::copy_from_slice(piece))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
