//! The line that a member begins its log with: how it is set up, under etcd's names.

use std::time::Duration;

use retcd_api::ETCD_VERSION;

use super::help::{GIT_SHA, GO_VERSION, go_arch, go_os};
use super::{AutoCompaction, Config, Discovery, machine};
use crate::logging::FieldList;

impl Config {
    /// Logs what the member is started with. `is_initialized`: it has a log already, so what is said of the initial
    /// cluster has no meaning any more.
    pub(crate) fn log_start(&self, is_initialized: bool) {
        let mut fields = FieldList::default();
        self.list_program(&mut fields, is_initialized);
        self.list_urls(&mut fields, is_initialized);
        self.list_limits(&mut fields);
        self.list_discovery(&mut fields);
        fields.add("max-learners", self.max_learners);
        fields.text("v2-deprecation", "write-only");
        tracing::info!(fields = %fields, "starting an etcd server");
    }

    fn list_program(&self, fields: &mut FieldList, is_initialized: bool) {
        let wal_dir = self.wal_dir.as_ref().map(|dir| dir.display().to_string());
        let wal_dir = wal_dir.unwrap_or_default();
        fields.text("etcd-version", ETCD_VERSION);
        fields.text("git-sha", GIT_SHA);
        fields.text("go-version", GO_VERSION);
        fields.text("go-os", go_os());
        fields.text("go-arch", go_arch());
        fields.text("retcd-version", env!("CARGO_PKG_VERSION"));
        fields.add("max-cpu-set", self.client_threads());
        fields.add("max-cpu-available", machine::cores());
        fields.add("member-initialized", is_initialized);
        fields.text("name", &self.name);
        fields.text("data-dir", &self.data_dir.display().to_string());
        fields.text("wal-dir", &wal_dir);
        fields.text("wal-dir-dedicated", &wal_dir);
        fields.text("member-dir", &self.member_dir().display().to_string());
        fields.add("force-new-cluster", self.force_new_cluster);
        fields.duration("heartbeat-interval", self.heartbeat_interval);
        fields.duration("election-timeout", self.election_timeout);
        fields.add("initial-election-tick-advance", self.initial_election_tick_advance);
        fields.add("snapshot-count", self.snapshot_count);
        fields.add("max-wals", self.max_wals);
        fields.add("max-snapshots", self.max_snapshots);
        fields.add("snapshot-catchup-entries", self.snapshot_catchup_entries);
    }

    fn list_urls(&self, fields: &mut FieldList, is_initialized: bool) {
        for (name, urls) in [
            ("initial-advertise-peer-urls", &self.initial_advertise_peer_urls),
            ("listen-peer-urls", &self.listen_peer_urls),
            ("advertise-client-urls", &self.advertise_client_urls),
            ("listen-client-urls", &self.listen_client_urls),
            ("listen-metrics-urls", &self.listen_metrics_urls),
        ] {
            fields.list(name, &urls.to_strings());
        }
        fields.text("local-address", "");
        fields.list("cors", &self.cors.names());
        fields.list("host-whitelist", &self.host_whitelist.names());
        let initial_cluster =
            if is_initialized { String::new() } else { self.initial_cluster.to_string() };
        fields.text("initial-cluster", &initial_cluster);
        fields.text("initial-cluster-state", if self.is_new_cluster { "new" } else { "existing" });
        fields.text("initial-cluster-token", &self.initial_cluster_token);
    }

    fn list_limits(&self, fields: &mut FieldList) {
        let (mode, retention) = match self.auto_compaction {
            AutoCompaction::Off => ("periodic", Duration::ZERO),
            AutoCompaction::Periodic(age) => ("periodic", age),
            // A count, printed as the duration of so many nanoseconds.
            AutoCompaction::Revision(count) => {
                ("revision", Duration::from_nanos(count.unsigned_abs()))
            }
        };
        let gates: Vec<String> = self
            .feature_gates
            .iter()
            .filter(|(row, on)| *on != row.default)
            .map(|(row, on)| format!("{}={on}", row.name))
            .collect();
        match self.quota_backend_bytes {
            Some(bytes) => fields.add("quota-backend-bytes", bytes),
            None => fields.add("quota-backend-bytes", -1),
        }
        fields.add("max-request-bytes", self.max_request_bytes);
        fields.add("max-concurrent-streams", self.max_concurrent_streams);
        fields.add("pre-vote", self.pre_vote);
        fields.text("feature-gates", &gates.join(","));
        fields.text("auto-compaction-mode", mode);
        fields.duration("auto-compaction-retention", retention);
        fields.duration("auto-compaction-interval", retention);
    }

    fn list_discovery(&self, fields: &mut FieldList) {
        match &self.discovery {
            Some(Discovery::Registry(registry)) => {
                fields.text("discovery-token", &registry.token);
                let endpoints = registry.endpoints.iter().map(|endpoint| &*endpoint.authority);
                fields.text("discovery-endpoints", &endpoints.collect::<Vec<_>>().join(","));
                fields.duration("discovery-dial-timeout", registry.dial_timeout);
                fields.duration("discovery-request-timeout", registry.request_timeout);
            }
            Some(Discovery::Dns { domain, service_name }) => {
                fields.text("discovery-srv", domain);
                fields.text("discovery-srv-name", service_name);
            }
            None => {}
        }
    }
}
