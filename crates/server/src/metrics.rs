//! Every metric of the server, under etcd's names.
//!
//! One row per metric: field, type, labels and buckets, name, help. Names, types, labels and buckets are
//! etcd v3.7.1's, so that its dashboards and alerts work; metrics of the v2 store and of the proxy exist only
//! because etcd's tests look for all names. The parts of a member keep an `Arc<Metrics>` and count where things
//! happen. What is cheaper to ask for than to keep (sizes, revisions, queue lengths) is set at a scrape, through
//! [`Sources`].
//!
//! `registry` has the atomics and the text format, `grpc` the counters per method, `process` what `/proc` knows.

mod applied;
mod grpc;
mod process;
pub mod registry;
mod requests;
pub(crate) mod timeline;

use crate::config::FeatureGates;
use crate::config::help::ETCD_VERSION;
pub use applied::Commits;
pub(crate) use applied::{Hop, request_id};
pub use grpc::{Grpc, Method};
use registry::{
    Counter, CounterVec, Family, Gauge, GaugeVec, Histogram, HistogramVec, by, exp, exp_by, one,
};
pub use requests::Requests;
pub(crate) use requests::{RequestKind, is_read_only_txn};
pub use timeline::Timeline;

/// Sets the gauges whose values are asked for at a scrape.
pub trait Sources {
    fn sample(&self, metrics: &Metrics);
}

macro_rules! metrics {
    ($($field:ident: $type:ty = $init:expr, $name:literal, $help:literal;)*) => {
        /// All metrics; see the module.
        #[derive(Debug)]
        pub struct Metrics {
            /// `grpc_server_*`, by method.
            pub grpc: Grpc,
            /// The hops of sampled calls.
            pub timeline: Timeline,
            /// Handles of what the commit thread tells.
            pub commits: Commits,
            /// Handles of `etcd_server_request_duration_seconds`.
            pub requests: Requests,
            $(#[doc = concat!("`", $name, "`: ", $help)] pub $field: $type,)*
        }

        impl Metrics {
            fn empty(extensive: bool) -> Self {
                Self { grpc: Grpc::new(extensive), requests: Requests::new(), commits: Commits::default(), timeline: Timeline::default(), $($field: $init,)* }
            }

            /// Name, help and samples of the rows of the table.
            fn rows(&self) -> Vec<Row<'_>> {
                vec![$(($name, $help, &self.$field),)*]
            }
        }
    };
}

metrics! {
    cluster_version: GaugeVec<1> = by(["cluster_version"]), "etcd_cluster_version", "Value 1 for the present cluster version (X.Y).";
    auth_revision: Gauge = one(), "etcd_debugging_auth_revision", "Revision of the auth store.";
    disk_backend_commit_rebalance_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "B-tree rebalance part of a backend commit.";
    disk_backend_commit_spill_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_debugging_disk_backend_commit_spill_duration_seconds", "Page spill part of a backend commit.";
    disk_backend_commit_write_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_debugging_disk_backend_commit_write_duration_seconds", "Disk write part of a backend commit.";
    lease_granted_total: Counter = one(), "etcd_debugging_lease_granted_total", "Leases granted.";
    lease_renewed_total: Counter = one(), "etcd_debugging_lease_renewed_total", "Lease renewals handled as leader.";
    lease_revoked_total: Counter = one(), "etcd_debugging_lease_revoked_total", "Leases revoked.";
    lease_ttl_total: Histogram = exp(1.0, 2.0, 24), "etcd_debugging_lease_ttl_total", "TTLs (seconds) of granted leases.";
    mvcc_compact_revision: Gauge = one(), "etcd_debugging_mvcc_compact_revision", "Last compacted revision.";
    mvcc_current_revision: Gauge = one(), "etcd_debugging_mvcc_current_revision", "Present store revision.";
    mvcc_db_compaction_keys_total: Counter = one(), "etcd_debugging_mvcc_db_compaction_keys_total", "Backend entries removed by compaction.";
    mvcc_db_compaction_last: Gauge = one(), "etcd_debugging_mvcc_db_compaction_last", "Unix time of the last finished compaction, 0 after start.";
    mvcc_db_compaction_pause_duration_milliseconds: Histogram = exp(1.0, 2.0, 13), "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Time one compaction batch held the backend.";
    mvcc_db_compaction_total_duration_milliseconds: Histogram = exp(100.0, 2.0, 14), "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Whole backend compaction time.";
    mvcc_events_total: Counter = one(), "etcd_debugging_mvcc_events_total", "Watch events sent.";
    mvcc_index_compaction_pause_duration_milliseconds: Histogram = exp(0.5, 2.0, 14), "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Index part of a compaction.";
    mvcc_keys_total: Gauge = one(), "etcd_debugging_mvcc_keys_total", "Live keys in the index.";
    mvcc_pending_events_total: Gauge = one(), "etcd_debugging_mvcc_pending_events_total", "Events queued for watch streams.";
    mvcc_slow_watcher_total: Gauge = one(), "etcd_debugging_mvcc_slow_watcher_total", "Watchers that lag behind the current revision.";
    mvcc_total_put_size_in_bytes: Gauge = one(), "etcd_debugging_mvcc_total_put_size_in_bytes", "Key+value bytes of puts (gauge, only added to).";
    mvcc_watch_stream_total: Gauge = one(), "etcd_debugging_mvcc_watch_stream_total", "Open watch streams.";
    mvcc_watcher_total: Gauge = one(), "etcd_debugging_mvcc_watcher_total", "Watchers on all streams.";
    server_alarms: GaugeVec<2> = by(["server_id", "alarm_type"]), "etcd_debugging_server_alarms", "1 per active alarm and member (member id in hex, alarm name).";
    server_lease_expired_total: Counter = one(), "etcd_debugging_server_lease_expired_total", "Leases that ran out.";
    server_watch_send_loop_control_stream_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "Time to send one watch control answer.";
    server_watch_send_loop_progress_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_debugging_server_watch_send_loop_progress_duration_seconds", "Time of one progress round.";
    server_watch_send_loop_watch_stream_duration_per_event_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "Send time divided by the events in the answer.";
    server_watch_send_loop_watch_stream_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "Time to send one event answer.";
    snap_save_marshalling_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_debugging_snap_save_marshalling_duration_seconds", "Encoding part of writing a .snap file.";
    snap_save_total_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_debugging_snap_save_total_duration_seconds", "Whole time of writing a .snap file.";
    store_expires_total: Counter = one(), "etcd_debugging_store_expires_total", "Legacy v2 store: expired keys.";
    store_reads_failed_total: CounterVec<1> = by(["action"]), "etcd_debugging_store_reads_failed_total", "Legacy v2 store: failed reads.";
    store_reads_total: CounterVec<1> = by(["action"]), "etcd_debugging_store_reads_total", "Legacy v2 store: reads.";
    store_watch_requests_total: Counter = one(), "etcd_debugging_store_watch_requests_total", "Legacy v2 store: watch requests.";
    store_watchers: Gauge = one(), "etcd_debugging_store_watchers", "Legacy v2 store: watchers.";
    store_writes_failed_total: CounterVec<1> = by(["action"]), "etcd_debugging_store_writes_failed_total", "Legacy v2 store: failed writes.";
    store_writes_total: CounterVec<1> = by(["action"]), "etcd_debugging_store_writes_total", "Legacy v2 store: writes.";
    disk_backend_commit_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_disk_backend_commit_duration_seconds", "Backend commit time.";
    disk_backend_defrag_duration_seconds: Histogram = exp(0.1, 2.0, 13), "etcd_disk_backend_defrag_duration_seconds", "Defragmentation time.";
    disk_backend_snapshot_duration_seconds: Histogram = exp(0.01, 2.0, 17), "etcd_disk_backend_snapshot_duration_seconds", "Time to stream a backend snapshot.";
    disk_defrag_inflight: Gauge = one(), "etcd_disk_defrag_inflight", "1 while defragmenting.";
    disk_wal_fsync_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_disk_wal_fsync_duration_seconds", "WAL fsync time.";
    disk_wal_write_bytes_total: Gauge = one(), "etcd_disk_wal_write_bytes_total", "Bytes written to the WAL.";
    disk_wal_write_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_disk_wal_write_duration_seconds", "Time of one WAL record write.";
    grpc_proxy_cache_hits_total: Gauge = one(), "etcd_grpc_proxy_cache_hits_total", "Proxy only: cache hits.";
    grpc_proxy_cache_keys_total: Gauge = one(), "etcd_grpc_proxy_cache_keys_total", "Proxy only: cached ranges.";
    grpc_proxy_cache_misses_total: Gauge = one(), "etcd_grpc_proxy_cache_misses_total", "Proxy only: cache misses.";
    grpc_proxy_events_coalescing_total: Counter = one(), "etcd_grpc_proxy_events_coalescing_total", "Proxy only: events fanned out.";
    grpc_proxy_watchers_coalescing_total: Gauge = one(), "etcd_grpc_proxy_watchers_coalescing_total", "Proxy only: merged watchers.";
    mvcc_db_open_read_transactions: Gauge = one(), "etcd_mvcc_db_open_read_transactions", "Backend read transactions open now.";
    mvcc_db_total_size_in_bytes: Gauge = one(), "etcd_mvcc_db_total_size_in_bytes", "Backend file size.";
    mvcc_db_total_size_in_use_in_bytes: Gauge = one(), "etcd_mvcc_db_total_size_in_use_in_bytes", "Backend size less free pages.";
    mvcc_delete_total: Counter = one(), "etcd_mvcc_delete_total", "Deletes of keys.";
    mvcc_hash_duration_seconds: Histogram = exp(0.01, 2.0, 15), "etcd_mvcc_hash_duration_seconds", "Time of a whole-backend hash.";
    mvcc_hash_rev_duration_seconds: Histogram = exp(0.01, 2.0, 15), "etcd_mvcc_hash_rev_duration_seconds", "Time of a hash at a revision.";
    mvcc_put_total: Counter = one(), "etcd_mvcc_put_total", "Puts.";
    mvcc_range_total: Counter = one(), "etcd_mvcc_range_total", "Ranges.";
    mvcc_txn_total: Counter = one(), "etcd_mvcc_txn_total", "Store transactions (read or write) with more than one op.";
    network_active_peers: GaugeVec<2> = by(["Local", "Remote"]), "etcd_network_active_peers", "Peer connections that are up.";
    network_client_grpc_received_bytes_total: Counter = one(), "etcd_network_client_grpc_received_bytes_total", "Bytes of gRPC requests from clients.";
    network_client_grpc_sent_bytes_total: Counter = one(), "etcd_network_client_grpc_sent_bytes_total", "Bytes of gRPC answers to clients.";
    network_disconnected_peers_total: CounterVec<2> = by(["Local", "Remote"]), "etcd_network_disconnected_peers_total", "Peer disconnects.";
    network_known_peers: GaugeVec<2> = by(["Local", "Remote"]), "etcd_network_known_peers", "1 per member that is known, this one included.";
    network_peer_received_bytes_total: CounterVec<1> = by(["From"]), "etcd_network_peer_received_bytes_total", "Bytes from a peer.";
    network_peer_received_failures_total: CounterVec<1> = by(["From"]), "etcd_network_peer_received_failures_total", "Failed receives from a peer.";
    network_peer_round_trip_time_seconds: HistogramVec<1> = exp_by(["To"], 0.0001, 2.0, 16), "etcd_network_peer_round_trip_time_seconds", "Probe round trip to a peer.";
    network_peer_sent_bytes_total: CounterVec<1> = by(["To"]), "etcd_network_peer_sent_bytes_total", "Bytes to a peer.";
    network_peer_sent_failures_total: CounterVec<1> = by(["To"]), "etcd_network_peer_sent_failures_total", "Failed sends to a peer.";
    network_server_stream_failures_total: CounterVec<2> = by(["Type", "API"]), "etcd_network_server_stream_failures_total", "Broken client streams (Type send/receive, API watch/lease-keepalive).";
    network_snapshot_receive_failures: CounterVec<1> = by(["From"]), "etcd_network_snapshot_receive_failures", "Failed snapshot receives.";
    network_snapshot_receive_inflights_total: GaugeVec<1> = by(["From"]), "etcd_network_snapshot_receive_inflights_total", "Snapshots being received.";
    network_snapshot_receive_success: CounterVec<1> = by(["From"]), "etcd_network_snapshot_receive_success", "Snapshots received.";
    network_snapshot_receive_total_duration_seconds: HistogramVec<1> = exp_by(["From"], 0.1, 2.0, 10), "etcd_network_snapshot_receive_total_duration_seconds", "Time to receive a snapshot.";
    network_snapshot_send_failures: CounterVec<1> = by(["To"]), "etcd_network_snapshot_send_failures", "Failed snapshot sends.";
    network_snapshot_send_inflights_total: GaugeVec<1> = by(["To"]), "etcd_network_snapshot_send_inflights_total", "Snapshots being sent.";
    network_snapshot_send_success: CounterVec<1> = by(["To"]), "etcd_network_snapshot_send_success", "Snapshots sent.";
    network_snapshot_send_total_duration_seconds: HistogramVec<1> = exp_by(["To"], 0.1, 2.0, 10), "etcd_network_snapshot_send_total_duration_seconds", "Time to send a snapshot.";
    server_apply_duration_seconds: HistogramVec<3> = exp_by(["version", "op", "success"], 0.0001, 2.0, 20), "etcd_server_apply_duration_seconds", "Apply time (version v3, op = request kind such as Put/Txn, success true/false).";
    server_client_requests_total: CounterVec<2> = by(["type", "client_api_version"]), "etcd_server_client_requests_total", "Requests per kind (type unary/stream) and client-api-version metadata (unknown when absent).";
    server_feature_enabled: GaugeVec<2> = by(["name", "stage"]), "etcd_server_feature_enabled", "1 or 0 per feature gate (stage ALPHA/BETA).";
    server_go_version: GaugeVec<1> = by(["server_go_version"]), "etcd_server_go_version", "Value 1 for the Go toolchain version.";
    server_has_leader: Gauge = one(), "etcd_server_has_leader", "1 when a leader is known.";
    server_health_failures: Counter = one(), "etcd_server_health_failures", "Failed /health answers.";
    server_health_success: Counter = one(), "etcd_server_health_success", "Good /health answers.";
    server_healthcheck: GaugeVec<2> = by(["type", "name"]), "etcd_server_healthcheck", "Last result 1/0 per check (type livez/readyz).";
    server_healthchecks_total: CounterVec<3> = by(["type", "name", "status"]), "etcd_server_healthchecks_total", "Check runs per result (status success/error).";
    server_heartbeat_send_failures_total: Counter = one(), "etcd_server_heartbeat_send_failures_total", "Leader heartbeats sent late.";
    server_id: GaugeVec<1> = by(["server_id"]), "etcd_server_id", "Value 1 for the member id in hex.";
    server_is_leader: Gauge = one(), "etcd_server_is_leader", "1 on the leader.";
    server_is_learner: Gauge = one(), "etcd_server_is_learner", "1 on a learner.";
    server_leader_changes_seen_total: Counter = one(), "etcd_server_leader_changes_seen_total", "Leader changes seen.";
    server_learner_promote_failures: CounterVec<1> = by(["Reason"]), "etcd_server_learner_promote_failures", "Failed promotions (Reason = error text).";
    server_learner_promote_successes: Counter = one(), "etcd_server_learner_promote_successes", "Successful promotions.";
    server_proposals_applied_total: Gauge = one(), "etcd_server_proposals_applied_total", "Applied index.";
    server_proposals_committed_total: Gauge = one(), "etcd_server_proposals_committed_total", "Commit index.";
    server_proposals_failed_total: Counter = one(), "etcd_server_proposals_failed_total", "Failed proposals.";
    server_proposals_pending: Gauge = one(), "etcd_server_proposals_pending", "Proposals waiting.";
    server_quota_backend_bytes: Gauge = one(), "etcd_server_quota_backend_bytes", "Effective backend quota.";
    server_range_duration_seconds: HistogramVec<1> = exp_by(["success"], 0.0001, 2.0, 20), "etcd_server_range_duration_seconds", "Time of range execution.";
    server_read_indexes_failed_total: Counter = one(), "etcd_server_read_indexes_failed_total", "Failed read-index requests.";
    server_request_duration_seconds: HistogramVec<2> = exp_by(["type", "success"], 0.001, 2.0, 14), "etcd_server_request_duration_seconds", "Whole request time per kind (type = Put, Range, Txn, ReadonlyTxn, LeaseGrant, ...).";
    server_slow_apply_total: Counter = one(), "etcd_server_slow_apply_total", "Applies over the warning limit.";
    server_slow_read_indexes_total: Counter = one(), "etcd_server_slow_read_indexes_total", "Late or timed-out read-index answers.";
    server_snapshot_apply_in_progress_total: Gauge = one(), "etcd_server_snapshot_apply_in_progress_total", "1 while applying a received snapshot.";
    server_version: GaugeVec<1> = by(["server_version"]), "etcd_server_version", "Value 1 for the server version.";
    commit_hop_duration_seconds: HistogramVec<1> = exp_by(["hop"], 0.00001, 2.0, 20), "retcd_commit_hop_duration_seconds", "Time that a batch of writes spent at a hop of its way: queue (its oldest request), log (write and sync), apply.";
    commit_batch_requests: Histogram = exp(1.0, 2.0, 14), "retcd_commit_batch_requests", "Requests that went into the log together.";
    mvcc_cached_value_bytes: Gauge = one(), "retcd_mvcc_cached_value_bytes", "Current values that are held in memory.";
    mvcc_versions: GaugeVec<1> = by(["state"]), "retcd_mvcc_versions", "Stored versions of keys: live are the newest ones of keys that exist, historic all others and tombstones, until they are compacted.";
    mvcc_version_bytes: GaugeVec<1> = by(["state"]), "retcd_mvcc_version_bytes", "Encoded bytes of these versions.";
    watch_lag_revisions: Gauge = one(), "retcd_watch_lag_revisions", "Revisions that were not written to the stream of the watcher that is furthest behind.";
    mvcc_history_revisions: Gauge = one(), "retcd_mvcc_history_revisions", "Revisions that can still be read: those after the last compaction.";
    queue_depth: GaugeVec<1> = by(["queue"]), "retcd_queue_depth", "What waits now: proposals for the log, watch events for their streams, messages for other members.";
    queue_bytes: GaugeVec<1> = by(["queue"]), "retcd_queue_bytes", "Bytes that wait now: backend is what was applied and is not in the database file yet, peer_messages what is on its way to other members.";
    traces_dropped_spans_total: Counter = one(), "retcd_traces_dropped_spans_total", "Spans that were not kept: the trace collector is slow or away.";
    snap_db_fsync_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_snap_db_fsync_duration_seconds", "Fsync of a received .snap.db.";
    snap_db_save_total_duration_seconds: Histogram = exp(0.1, 2.0, 10), "etcd_snap_db_save_total_duration_seconds", "Time to save a received .snap.db.";
    snap_fsync_duration_seconds: Histogram = exp(0.001, 2.0, 14), "etcd_snap_fsync_duration_seconds", "Fsync of a .snap file.";
    os_fd_limit: Gauge = one(), "os_fd_limit", "Open file limit.";
    os_fd_used: Gauge = one(), "os_fd_used", "Open files (sampled every 10 min).";
    promhttp_metric_handler_requests_total: CounterVec<1> = by(["code"]), "promhttp_metric_handler_requests_total", "Scrapes by HTTP status.";
    promhttp_metric_handler_requests_in_flight: Gauge = one(), "promhttp_metric_handler_requests_in_flight", "Scrapes now.";
}

impl Metrics {
    /// All zero. `extensive` adds latency histograms per gRPC method.
    pub fn new(extensive: bool, gates: &FeatureGates) -> Self {
        let metrics = Self::empty(extensive);
        metrics.server_version.with([ETCD_VERSION]).set(1.0);
        metrics.server_go_version.with(["none"]).set(1.0);
        for (row, on) in gates.iter() {
            metrics.server_feature_enabled.with([row.name, row.stage.name()]).set_bool(on);
        }
        for code in ["200", "500", "503"] {
            metrics.promhttp_metric_handler_requests_total.with([code]);
        }
        metrics
    }

    /// The answer to a scrape: families in the order of their names.
    pub fn render(&self, sources: &dyn Sources) -> String {
        sources.sample(self);
        let process = process::Process::read();
        self.os_fd_used.set(process.open_fds.get());
        self.os_fd_limit.set(process.max_fds.get());
        let grpc = self.grpc.rows();
        let mut text = String::with_capacity(256 * 1024);
        for (name, help, family) in families(self.rows(), &grpc, process.rows()) {
            registry::push_family(&mut text, name, help, family);
        }
        text
    }
}

/// Resident and reserved bytes of this process, and how many files it may open.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, from texts")]
pub(crate) fn memory_and_files() -> (u64, u64, u64) {
    let (resident, reserved, files) = process::Process::read().memory_and_files();
    (resident as u64, reserved as u64, files as u64)
}

/// How a label says yes or no.
fn label_of(is_true: bool) -> &'static str {
    if is_true { "true" } else { "false" }
}

/// A family with its name and help.
type Row<'a> = (&'static str, &'static str, &'a dyn Family);

fn families<'a>(
    mut rows: Vec<Row<'a>>,
    grpc: &'a [(&'static str, &'static str, grpc::Rows<'a>)],
    process: impl IntoIterator<Item = Row<'a>>,
) -> Vec<Row<'a>> {
    rows.extend(grpc.iter().map(|(name, help, rows)| (*name, *help, rows as &dyn Family)));
    rows.extend(process);
    rows.sort_by_key(|(name, ..)| *name);
    rows
}

#[cfg(test)]
mod document;
#[cfg(test)]
mod tests;
