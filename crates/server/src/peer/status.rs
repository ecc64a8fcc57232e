//! Whether a peer can be reached, and since when.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::meters::StatusMetrics;

/// What is known about the connections with one peer.
#[derive(Debug)]
pub(crate) struct Status {
    peer: u64,
    metrics: Arc<StatusMetrics>,
    active_since: Mutex<Option<Instant>>,
    /// Streams from the peer that are up.
    streams: AtomicUsize,
    /// Streams were up and nobody was told that the peer has gone since.
    may_have_died: Mutex<bool>,
}

impl Status {
    pub(crate) fn new(peer: u64, metrics: Arc<StatusMetrics>) -> Self {
        Self {
            peer,
            metrics,
            active_since: Mutex::default(),
            streams: AtomicUsize::new(0),
            may_have_died: Mutex::default(),
        }
    }

    pub(crate) fn active_since(&self) -> Option<Instant> {
        *self.active_since.lock()
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active_since().is_some()
    }

    /// Something went to the peer or came from it.
    pub(crate) fn activate(&self) {
        let mut since = self.active_since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            self.metrics.active.increment();
            tracing::info!(peer_id = %format!("{:x}", self.peer), "peer became active");
        }
    }

    /// Something did not: `action` on the channel `source` failed.
    pub(crate) fn deactivate(&self, source: &str, action: &str, error: &dyn Display) {
        let peer_id = format!("{:x}", self.peer);
        let mut since = self.active_since.lock();
        if since.take().is_some() {
            self.metrics.active.decrement();
            self.metrics.disconnected.increment();
            tracing::warn!(
                peer_id,
                error = %format!("failed to {action} {peer_id} on {source} ({error})"),
                "peer became inactive (message send to peer failed)"
            );
        } else {
            tracing::debug!(peer_id, source, action, %error, "peer deactivated again");
        }
    }

    /// A stream from the peer is up.
    pub(crate) fn stream_came(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        *self.may_have_died.lock() = true;
    }

    /// Streams from the peer that are up.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// A stream from the peer broke.
    pub(crate) fn stream_went(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// The peer's port refuses. True when that means that it died just now: its streams were up and all are gone.
    pub(crate) fn take_death(&self) -> bool {
        self.streams() == 0 && std::mem::take(&mut *self.may_have_died.lock())
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if self.is_active() {
            self.metrics.active.decrement();
        }
    }
}
