//! [`Importer`]: a database that another member sends, made durable in the form that is used here.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use retcd_api::raftpb::{ConfState, SnapshotMetadata};
use retcd_conversion::BboltFile;
use retcd_state_machine::schema::{self, Bucket, meta};
use retcd_storage::backend::{LmdbBackend, Loader, Options};
use retcd_storage::data_dir::Layout;

use super::Error;
use super::received::{Received, Temporary};
use crate::peer::{Chunks, IncomingSnapshot, Later, SnapshotReceiver};

/// Receives databases, and hands them over when Raft has taken their snapshot. Clones share the directory.
#[derive(Debug, Clone)]
pub(crate) struct Importer {
    received: Arc<Received>,
}

impl Importer {
    pub(crate) fn new(layout: &Layout) -> Self {
        Importer { received: Arc::new(Received::new(layout)) }
    }

    /// Puts the received database of the snapshot at `index` in the place of the member's own, durably, and opens it.
    /// Older received ones are removed. Whoever still reads the own one may go on.
    ///
    /// # Errors
    /// It was not received, or is damaged: the own one stays in its place. I/O.
    pub(crate) fn take(&self, index: u64) -> Result<LmdbBackend, Error> {
        let backend = self.received.take(index)?;
        self.purge(index);
        Ok(backend)
    }

    /// Removes what was received of snapshots up to `index`, which are of no use any more. What cannot be removed is no
    /// reason to stop.
    pub(crate) fn purge(&self, index: u64) {
        if let Err(error) = self.received.purge(index) {
            tracing::warn!(%error, "could not remove received databases");
        }
    }

    /// The work of [`receive`](SnapshotReceiver::receive). Blocks until the database is durable.
    pub(super) fn receive_blocking(&self, snapshot: IncomingSnapshot) -> Result<(), Error> {
        let IncomingSnapshot { message, chunks } = snapshot;
        let metadata = message.snapshot.and_then(|snapshot| snapshot.metadata);
        let metadata = metadata.filter(|metadata| metadata.index > 0).ok_or(Error::NoIndex)?;
        // Never synced, and gone when this returns: what is kept is the converted one.
        let as_it_comes = self.received.temporary("snap.db");
        let file = save(&as_it_comes, chunks)?;
        convert(&self.received, file, &metadata)
    }
}

impl SnapshotReceiver for Importer {
    fn receive(&self, snapshot: IncomingSnapshot) -> Later<std::io::Result<()>> {
        let importer = self.clone();
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || importer.receive_blocking(snapshot));
            work.await.map_err(std::io::Error::other)?.map_err(std::io::Error::from)
        })
    }
}

fn save(temporary: &Temporary, mut chunks: Chunks) -> Result<File, Error> {
    let mut file = temporary.create()?;
    while let Some(piece) = chunks.blocking_next().map_err(Error::BreaksOff)? {
        file.write_all(&piece).map_err(Error::io("write", temporary.path()))?;
    }
    Ok(file)
}

/// Makes a database file of ours out of a whole bbolt file, durable under its name when it returns.
pub(super) fn convert(
    received: &Received,
    file: File,
    snapshot: &SnapshotMetadata,
) -> Result<(), Error> {
    let database = BboltFile::of(file)?;
    let temporary = received.temporary("snap.lmdb");
    let mut loader = Loader::create(temporary.path(), Options::default())?;
    let found = retcd_conversion::load(&database, &mut loader)?;
    if found.index < snapshot.index {
        return Err(Error::Old { found: found.index, announced: snapshot.index });
    }
    // Databases of etcd before 3.5 do not say this.
    if !found.has_term {
        loader.put(Bucket::Meta, meta::TERM, &snapshot.term.to_be_bytes())?;
    }
    // Nor this, and after a restore etcd's says who was there before.
    let is_said = |_: &&ConfState| found.conf_state.is_none() || found.index == snapshot.index;
    if let Some(conf_state) = snapshot.conf_state.as_ref().filter(is_said) {
        loader.put(Bucket::Meta, meta::CONF_STATE, &schema::conf_state_json(conf_state))?;
    }
    loader.finish()?;
    temporary.rename(&received.converted_path(snapshot.index))
}
