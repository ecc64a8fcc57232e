//! The table against a list of its own, and the text of a scrape.

use super::registry::exponential;
use super::*;
use crate::services::Rpc;

/// Name, type, labels, and buckets as start/factor/count or as a list; written down from etcd v3.7.1.
const EXPECTED: &str = "\
etcd_cluster_version gauge cluster_version -
etcd_debugging_auth_revision gauge - -
etcd_debugging_disk_backend_commit_rebalance_duration_seconds histogram - 0.001/2/14
etcd_debugging_disk_backend_commit_spill_duration_seconds histogram - 0.001/2/14
etcd_debugging_disk_backend_commit_write_duration_seconds histogram - 0.001/2/14
etcd_debugging_lease_granted_total counter - -
etcd_debugging_lease_renewed_total counter - -
etcd_debugging_lease_revoked_total counter - -
etcd_debugging_lease_ttl_total histogram - 1/2/24
etcd_debugging_mvcc_compact_revision gauge - -
etcd_debugging_mvcc_current_revision gauge - -
etcd_debugging_mvcc_db_compaction_keys_total counter - -
etcd_debugging_mvcc_db_compaction_last gauge - -
etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds histogram - 1/2/13
etcd_debugging_mvcc_db_compaction_total_duration_milliseconds histogram - 100/2/14
etcd_debugging_mvcc_events_total counter - -
etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds histogram - 0.5/2/14
etcd_debugging_mvcc_keys_total gauge - -
etcd_debugging_mvcc_pending_events_total gauge - -
etcd_debugging_mvcc_slow_watcher_total gauge - -
etcd_debugging_mvcc_total_put_size_in_bytes gauge - -
etcd_debugging_mvcc_watch_stream_total gauge - -
etcd_debugging_mvcc_watcher_total gauge - -
etcd_debugging_server_alarms gauge server_id,alarm_type -
etcd_debugging_server_lease_expired_total counter - -
etcd_debugging_server_watch_send_loop_control_stream_duration_seconds histogram - 0.001/2/14
etcd_debugging_server_watch_send_loop_progress_duration_seconds histogram - 0.001/2/14
etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds histogram - 0.001/2/14
etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds histogram - 0.001/2/14
etcd_debugging_snap_save_marshalling_duration_seconds histogram - 0.001/2/14
etcd_debugging_snap_save_total_duration_seconds histogram - 0.001/2/14
etcd_debugging_store_expires_total counter - -
etcd_debugging_store_reads_failed_total counter action -
etcd_debugging_store_reads_total counter action -
etcd_debugging_store_watch_requests_total counter - -
etcd_debugging_store_watchers gauge - -
etcd_debugging_store_writes_failed_total counter action -
etcd_debugging_store_writes_total counter action -
etcd_disk_backend_commit_duration_seconds histogram - 0.001/2/14
etcd_disk_backend_defrag_duration_seconds histogram - .1/2/13
etcd_disk_backend_snapshot_duration_seconds histogram - .01/2/17
etcd_disk_defrag_inflight gauge - -
etcd_disk_wal_fsync_duration_seconds histogram - 0.001/2/14
etcd_disk_wal_write_bytes_total gauge - -
etcd_disk_wal_write_duration_seconds histogram - 0.001/2/14
etcd_grpc_proxy_cache_hits_total gauge - -
etcd_grpc_proxy_cache_keys_total gauge - -
etcd_grpc_proxy_cache_misses_total gauge - -
etcd_grpc_proxy_events_coalescing_total counter - -
etcd_grpc_proxy_watchers_coalescing_total gauge - -
etcd_mvcc_db_open_read_transactions gauge - -
etcd_mvcc_db_total_size_in_bytes gauge - -
etcd_mvcc_db_total_size_in_use_in_bytes gauge - -
etcd_mvcc_delete_total counter - -
etcd_mvcc_hash_duration_seconds histogram - .01/2/15
etcd_mvcc_hash_rev_duration_seconds histogram - .01/2/15
etcd_mvcc_put_total counter - -
etcd_mvcc_range_total counter - -
etcd_mvcc_txn_total counter - -
etcd_network_active_peers gauge Local,Remote -
etcd_network_client_grpc_received_bytes_total counter - -
etcd_network_client_grpc_sent_bytes_total counter - -
etcd_network_disconnected_peers_total counter Local,Remote -
etcd_network_known_peers gauge Local,Remote -
etcd_network_peer_received_bytes_total counter From -
etcd_network_peer_received_failures_total counter From -
etcd_network_peer_round_trip_time_seconds histogram To 0.0001/2/16
etcd_network_peer_sent_bytes_total counter To -
etcd_network_peer_sent_failures_total counter To -
etcd_network_server_stream_failures_total counter Type,API -
etcd_network_snapshot_receive_failures counter From -
etcd_network_snapshot_receive_inflights_total gauge From -
etcd_network_snapshot_receive_success counter From -
etcd_network_snapshot_receive_total_duration_seconds histogram From 0.1/2/10
etcd_network_snapshot_send_failures counter To -
etcd_network_snapshot_send_inflights_total gauge To -
etcd_network_snapshot_send_success counter To -
etcd_network_snapshot_send_total_duration_seconds histogram To 0.1/2/10
etcd_server_apply_duration_seconds histogram version,op,success 0.0001/2/20
etcd_server_client_requests_total counter type,client_api_version -
etcd_server_feature_enabled gauge name,stage -
etcd_server_go_version gauge server_go_version -
etcd_server_has_leader gauge - -
etcd_server_health_failures counter - -
etcd_server_health_success counter - -
etcd_server_healthcheck gauge type,name -
etcd_server_healthchecks_total counter type,name,status -
etcd_server_heartbeat_send_failures_total counter - -
etcd_server_id gauge server_id -
etcd_server_is_leader gauge - -
etcd_server_is_learner gauge - -
etcd_server_leader_changes_seen_total counter - -
etcd_server_learner_promote_failures counter Reason -
etcd_server_learner_promote_successes counter - -
etcd_server_proposals_applied_total gauge - -
etcd_server_proposals_committed_total gauge - -
etcd_server_proposals_failed_total counter - -
etcd_server_proposals_pending gauge - -
etcd_server_quota_backend_bytes gauge - -
etcd_server_range_duration_seconds histogram success 0.0001/2/20
etcd_server_read_indexes_failed_total counter - -
etcd_server_request_duration_seconds histogram type,success 0.001/2/14
etcd_server_slow_apply_total counter - -
etcd_server_slow_read_indexes_total counter - -
etcd_server_snapshot_apply_in_progress_total gauge - -
etcd_server_version gauge server_version -
etcd_snap_db_fsync_duration_seconds histogram - 0.001/2/14
etcd_snap_db_save_total_duration_seconds histogram - 0.1/2/10
etcd_snap_fsync_duration_seconds histogram - 0.001/2/14
os_fd_limit gauge - -
os_fd_used gauge - -
grpc_server_started_total counter grpc_type,grpc_service,grpc_method -
grpc_server_handled_total counter grpc_type,grpc_service,grpc_method,grpc_code -
grpc_server_msg_received_total counter grpc_type,grpc_service,grpc_method -
grpc_server_msg_sent_total counter grpc_type,grpc_service,grpc_method -
grpc_server_handling_seconds histogram grpc_type,grpc_service,grpc_method .005/.01/.025/.05/.1/.25/.5/1/2.5/5/10
process_cpu_seconds_total counter - -
process_open_fds gauge - -
process_max_fds gauge - -
process_resident_memory_bytes gauge - -
process_virtual_memory_bytes gauge - -
process_virtual_memory_max_bytes gauge - -
process_start_time_seconds gauge - -
process_network_receive_bytes_total counter - -
process_network_transmit_bytes_total counter - -
promhttp_metric_handler_requests_total counter code -
promhttp_metric_handler_requests_in_flight gauge - -
";

/// The same of our own metrics.
const OWN: &str = "\
retcd_commit_batch_requests histogram - 1/2/14
retcd_commit_hop_duration_seconds histogram hop 0.00001/2/20
retcd_mvcc_cached_value_bytes gauge - -
retcd_mvcc_history_revisions gauge - -
retcd_mvcc_version_bytes gauge state -
retcd_mvcc_versions gauge state -
retcd_queue_bytes gauge queue -
retcd_queue_depth gauge queue -
retcd_traces_dropped_spans_total counter - -
retcd_watch_lag_revisions gauge - -
";

struct NoSources;

impl Sources for NoSources {
    fn sample(&self, _: &Metrics) {}
}

fn bounds(text: &str) -> Vec<f64> {
    let numbers: Vec<f64> = match text {
        "-" => Vec::new(),
        text => text.split('/').map(|number| number.parse().unwrap()).collect(),
    };
    match numbers[..] {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small count"
        )]
        [start, factor, count] => exponential(start, factor, count as usize),
        _ => numbers,
    }
}

#[test]
fn names_types_labels_and_buckets_are_etcd_s() {
    let metrics = Metrics::new(true, &FeatureGates::default());
    let process = process::Process::read();
    let grpc = metrics.grpc.rows();
    let families = families(metrics.rows(), &grpc, process.rows());
    let mut expected: Vec<&str> = EXPECTED.lines().chain(OWN.lines()).collect();
    expected.sort_by_key(|line| line.split(' ').next());
    let names: Vec<_> = families.iter().map(|(name, ..)| *name).collect();
    let expected_names: Vec<_> =
        expected.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, expected_names);
    for ((name, help, family), line) in families.into_iter().zip(expected) {
        let [_, type_name, labels, buckets] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let labels: Vec<_> = labels.split(',').filter(|label| *label != "-").collect();
        assert_eq!(family.type_name(), type_name, "{name}");
        assert_eq!(family.labels(), labels, "{name}");
        assert_eq!(family.bounds(), bounds(buckets), "{name}");
        assert!(help.ends_with('.') && !help.contains('\n'), "{name}");
    }
}

#[test]
fn a_scrape_shows_presets_and_samples() {
    struct Revision;
    impl Sources for Revision {
        fn sample(&self, metrics: &Metrics) {
            metrics.mvcc_current_revision.set_count(7);
        }
    }
    let metrics = Metrics::new(false, &FeatureGates::default());
    metrics.server_client_requests_total.with(["unary", "3.7"]).increment();
    let text = metrics.render(&Revision);
    for line in [
        "# TYPE etcd_debugging_mvcc_current_revision gauge",
        "etcd_debugging_mvcc_current_revision 7",
        "etcd_server_client_requests_total{client_api_version=\"3.7\",type=\"unary\"} 1",
        "etcd_server_version{server_version=\"3.7.1\"} 1",
        "etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"} 1",
        "etcd_debugging_lease_ttl_total_bucket{le=\"8.388608e+06\"} 0",
        "promhttp_metric_handler_requests_total{code=\"200\"} 0",
        "grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 0",
        "grpc_server_handled_total{grpc_code=\"Unavailable\",grpc_method=\"Watch\",\
         grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}");
    }
    assert!(!text.contains("etcd_network_peer_sent_bytes_total"));
    assert!(!text.contains("grpc_server_handling_seconds"));
    let heads: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    assert!(heads.is_sorted(), "families stand in the order of their names");
}

#[test]
fn methods_count_on_their_own() {
    let metrics = Metrics::new(true, &FeatureGates::default());
    let put = metrics.grpc.method(Rpc::Put);
    put.start();
    put.received();
    put.sent();
    put.finish(0, std::time::Duration::from_millis(20));
    put.finish(99, std::time::Duration::from_millis(20));
    let text = metrics.render(&NoSources);
    let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    for line in [
        format!("grpc_server_started_total{{{labels}}} 1"),
        format!("grpc_server_msg_received_total{{{labels}}} 1"),
        format!("grpc_server_msg_sent_total{{{labels}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"Unknown\",{labels}}} 1"),
        format!("grpc_server_handling_seconds_bucket{{{labels},le=\"0.025\"}} 2"),
    ] {
        assert!(text.lines().any(|other| other == line), "{line}");
    }
}

#[test]
fn the_process_is_measured() {
    let text = Metrics::new(false, &FeatureGates::default()).render(&NoSources);
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("{name}")).split(' ').nth(1).unwrap().parse().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 100_000.0);
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    assert!(value("process_start_time_seconds") > 1e9);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    assert_eq!(value("os_fd_limit").to_bits(), value("process_max_fds").to_bits());
    assert!(value("process_cpu_seconds_total") >= 0.0);
}
