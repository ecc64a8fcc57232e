//! The counters of one peer, looked up once.

use std::sync::Arc;

use crate::metrics::Metrics;
use crate::metrics::registry::{Counter, Gauge, Histogram};

#[derive(Debug)]
pub(crate) struct StatusMetrics {
    pub(crate) active: Arc<Gauge>,
    pub(crate) disconnected: Arc<Counter>,
}

impl StatusMetrics {
    pub(crate) fn new(metrics: &Metrics, local: u64, peer: u64) -> Self {
        let (local, peer) = (format!("{local:x}"), format!("{peer:x}"));
        Self {
            active: metrics.network_active_peers.with([&local, &peer]),
            disconnected: metrics.network_disconnected_peers_total.with([&local, &peer]),
        }
    }
}

#[derive(Debug)]
pub(crate) struct PeerMetrics {
    pub(crate) sent_bytes: Arc<Counter>,
    pub(crate) send_failures: Arc<Counter>,
    pub(crate) received_bytes: Arc<Counter>,
    pub(crate) receive_failures: Arc<Counter>,
    pub(crate) round_trip: Arc<Histogram>,
}

impl PeerMetrics {
    pub(crate) fn new(metrics: &Metrics, peer: u64) -> Self {
        let peer = format!("{peer:x}");
        Self {
            sent_bytes: metrics.network_peer_sent_bytes_total.with([&peer]),
            send_failures: metrics.network_peer_sent_failures_total.with([&peer]),
            received_bytes: metrics.network_peer_received_bytes_total.with([&peer]),
            receive_failures: metrics.network_peer_received_failures_total.with([&peer]),
            round_trip: metrics.network_peer_round_trip_time_seconds.with([&peer]),
        }
    }
}
