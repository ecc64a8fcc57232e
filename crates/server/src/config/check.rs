//! From given values to a [`Config`]: replacements, derived values, and every check that etcd makes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use retcd_net::{Url, UrlList};

use super::error::Error;
use super::flags::Flag;
use super::gates::{FeatureGates, Gate};
use super::notice::Notice;
use super::settings::Settings;
use super::{
    Allowed, AutoCompaction, Config, Discovery, DistributedTracing, InitialCluster, Keepalive,
    Registry, RegistryEndpoint, User, duration, tls,
};
use crate::logging;
use crate::logging::rotation::Rotation;
use crate::tokens::AuthToken;

const MAX_ELECTION_MS: u64 = 50_000;
const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;
const SUGGESTED_QUOTA_BYTES: u64 = 8 << 30;
const SUGGESTED_REQUEST_BYTES: u64 = 10 << 20;
const DEFAULT_BCRYPT_COST: u32 = 10;
const MIN_RAFT_TIMEOUT: Duration = Duration::from_secs(5);
const MIN_WATCH_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Who spoke. The file and the words differ in when the defaults of URLs fall away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Words,
    File,
}

pub(super) fn check(
    mut settings: Settings,
    origin: Origin,
    default_host: &dyn Fn() -> Option<IpAddr>,
) -> Result<Config, Error> {
    let log = log_settings(&settings)?;
    check_bootstrap_sources(&settings)?;
    if settings.duration("compact-hash-check-time").is_zero() {
        return Err(Error::NotPositive { flag: "compact-hash-check-time", set: "0s".to_owned() });
    }
    let name = settings.text("name");
    let urls = Urls::read(&mut settings, origin, default_host)?;
    let discovery = discovery(&settings);
    let initial_cluster = match discovery {
        Some(_) => InitialCluster::single(&name, urls.advertise_peer.clone()),
        None => initial_cluster(&settings, &name, &urls.advertise_peer)?,
    };
    let initial_cluster_token = match &discovery {
        Some(Discovery::Registry(registry)) => registry.token.clone(),
        Some(Discovery::Dns { .. }) | None => settings.text("initial-cluster-token"),
    };
    let (client_security, mut peer_security) = tls::read(&mut settings)?;
    if let (Some(Discovery::Dns { domain, .. }), true) =
        (&discovery, peer_security.tls.trusted_ca_file.as_os_str().is_empty())
    {
        // Without authorities of one's own the domain vouches for its members, as in etcd.
        peer_security.tls.server_name = Some(domain.clone());
    }
    let (heartbeat_interval, election_timeout) = intervals(&settings)?;
    let feature_gates = FeatureGates::parse(&settings.text("feature-gates"))?;
    let has_checkpoints = feature_gates.is_enabled(Gate::LeaseCheckpoint);
    if has_checkpoints && !feature_gates.is_enabled(Gate::LeaseCheckpointPersist) {
        settings.notices.push(Notice::CheckpointWithoutPersistence);
    }
    let auto_compaction = auto_compaction(&settings)?;
    let auth_token = AuthToken::parse(&settings.text("auth-token"))?;
    let extensive_metrics = match settings.text("metrics").as_str() {
        "basic" => false,
        "extensive" => true,
        other => return Err(Error::MetricsLevel(other.to_owned())),
    };
    let tracing = distributed_tracing(&settings)?;
    let bcrypt_cost = bcrypt_cost(&mut settings);
    let raft_read_timeout = raft_timeout(&mut settings, "raft-read-timeout");
    let raft_write_timeout = raft_timeout(&mut settings, "raft-write-timeout");
    let quota_backend_bytes = quota(&mut settings);
    let max_request_bytes = max_request_bytes(&mut settings)?;
    notice_flags_without_meaning(&mut settings);
    let data_dir = data_dir(&mut settings, &name);

    let mut config = Config {
        data_dir,
        wal_dir: Some(settings.text("wal-dir")).filter(|dir| !dir.is_empty()).map(PathBuf::from),
        unsafe_no_fsync: settings.bool("unsafe-no-fsync"),
        memory_mlock: settings.bool("memory-mlock"),
        listen_peer_urls: urls.listen_peer,
        listen_client_urls: urls.listen_client,
        listen_client_http_urls: urls.listen_client_http,
        listen_metrics_urls: urls.listen_metrics,
        initial_advertise_peer_urls: urls.advertise_peer,
        advertise_client_urls: urls.advertise_client,
        socket_options: retcd_net::listener::Options {
            reuse_port: settings.bool("socket-reuse-port"),
            reuse_address: settings.bool("socket-reuse-address"),
        },
        initial_cluster,
        initial_cluster_token,
        is_new_cluster: settings.text("initial-cluster-state") == "new",
        force_new_cluster: settings.bool("force-new-cluster"),
        discovery,
        strict_reconfig_check: settings.bool("strict-reconfig-check"),
        max_learners: not_negative(&settings, "max-learners")?,
        downgrade_check_time: unless_zero(settings.duration("downgrade-check-time")),
        corrupt_check_time: unless_zero(settings.duration("corrupt-check-time")),
        compact_hash_check_time: settings.duration("compact-hash-check-time"),
        heartbeat_interval,
        election_timeout,
        initial_election_tick_advance: settings.bool("initial-election-tick-advance"),
        pre_vote: settings.bool("pre-vote"),
        raft_read_timeout,
        raft_write_timeout,
        snapshot_count: or(settings.uint("snapshot-count"), 10_000),
        snapshot_catchup_entries: or(settings.uint("snapshot-catchup-entries"), 5_000),
        max_snapshots: settings.uint("max-snapshots"),
        max_wals: settings.uint("max-wals"),
        quota_backend_bytes,
        backend_batch_interval: or_millis(settings.duration("backend-batch-interval"), 1_000),
        backend_batch_limit: or(not_negative(&settings, "backend-batch-limit")?, 10_000),
        bootstrap_defrag_threshold_bytes: Some(
            settings.uint("bootstrap-defrag-threshold-megabytes").saturating_mul(1 << 20),
        )
        .filter(|bytes| *bytes > 0),
        auto_compaction,
        compaction_batch_limit: or(not_negative(&settings, "compaction-batch-limit")?, 1_000),
        compaction_sleep_interval: or_millis(settings.duration("compaction-sleep-interval"), 10),
        max_txn_ops: size(&settings, "max-txn-ops")?,
        max_request_bytes,
        max_concurrent_streams: u32::try_from(settings.uint("max-concurrent-streams"))
            .map_err(|_| Error::TooLarge("max-concurrent-streams"))?,
        keepalive: Keepalive {
            min_time: settings.duration("grpc-keepalive-min-time"),
            interval: unless_zero(settings.duration("grpc-keepalive-interval")),
            timeout: unless_zero(settings.duration("grpc-keepalive-timeout")),
        },
        watch_progress_notify_interval: or_millis(
            settings.duration("watch-progress-notify-interval"),
            600_000,
        )
        .max(MIN_WATCH_PROGRESS_INTERVAL),
        enable_grpc_gateway: settings.bool("enable-grpc-gateway"),
        cors: Allowed::new(settings.list("cors")),
        host_whitelist: Allowed::new(settings.list("host-whitelist")),
        enable_pprof: settings.bool("enable-pprof") || settings.text("log-level") == "debug",
        bcrypt_cost,
        auth_token,
        auth_token_ttl: auth_token_ttl(&settings),
        feature_gates,
        extensive_metrics,
        log,
        tracing,
        warning_apply_duration: settings.duration("warning-apply-duration"),
        warning_unary_request_duration: or_millis(
            settings.duration("warning-unary-request-duration"),
            300,
        ),
        value_cache_bytes: settings.uint("experimental-value-cache-bytes"),
        client_threads: settings.uint("experimental-client-threads"),
        client_security,
        peer_security,
        self_signed_years: u32::try_from(settings.uint("self-signed-cert-validity"))
            .map_err(|_| Error::TooLarge("self-signed-cert-validity"))?,
        name,
        notices: settings.notices,
    };
    tls::check_urls(&mut config)?;
    Ok(config)
}

/// Only one of the ways to find the other members, and a whole one. Checked before the refusal of those that
/// do not exist yet, so that a contradiction is named as such.
fn check_bootstrap_sources(settings: &Settings) -> Result<(), Error> {
    let endpoints = settings.list("discovery-endpoints");
    let ways = [
        settings.is_given("initial-cluster") && !settings.text("initial-cluster").is_empty(),
        !settings.text("discovery-srv").is_empty(),
        !endpoints.is_empty(),
    ];
    if ways.iter().filter(|way| **way).count() > 1 {
        return Err(Error::ConflictingBootstrapFlags);
    }
    if settings.text("discovery-token").is_empty() != endpoints.is_empty() {
        return Err(Error::DiscoveryHalfSet);
    }
    let fallback = settings.text("discovery-fallback");
    if fallback != "exit" {
        return Err(Error::DiscoveryFallback(fallback));
    }
    match settings.text("initial-cluster-state").as_str() {
        "new" | "existing" => Ok(()),
        other => Err(Error::ClusterState(other.to_owned())),
    }
}

/// How the members of a new cluster are found, unless they are listed.
fn discovery(settings: &Settings) -> Option<Discovery> {
    let domain = settings.text("discovery-srv");
    if !domain.is_empty() {
        let service_name = settings.text("discovery-srv-name");
        return Some(Discovery::Dns { domain, service_name });
    }
    let endpoints = settings.list("discovery-endpoints");
    if endpoints.is_empty() {
        return None;
    }
    let tls = retcd_net::tls::Settings {
        cert_file: settings.text("discovery-cert").into(),
        key_file: settings.text("discovery-key").into(),
        trusted_ca_file: settings.text("discovery-cacert").into(),
        ..retcd_net::tls::Settings::default()
    };
    let is_blind = settings.bool("discovery-insecure-skip-tls-verify");
    let names_files = tls != retcd_net::tls::Settings::default();
    // An endpoint's scheme decides, and all the flags together about one without.
    let is_encrypted = names_files || is_blind || !settings.bool("discovery-insecure-transport");
    let endpoint = |endpoint: &String| match endpoint.split_once("://") {
        Some((scheme, authority)) => {
            RegistryEndpoint { authority: authority.to_owned(), is_encrypted: scheme == "https" }
        }
        None => RegistryEndpoint { authority: endpoint.clone(), is_encrypted },
    };
    Some(Discovery::Registry(Box::new(Registry {
        token: settings.text("discovery-token"),
        endpoints: endpoints.iter().map(endpoint).collect(),
        tls,
        is_blind,
        dial_timeout: settings.duration("discovery-dial-timeout"),
        request_timeout: settings.duration("discovery-request-timeout"),
        keepalive_time: settings.duration("discovery-keepalive-time"),
        keepalive_timeout: settings.duration("discovery-keepalive-timeout"),
        user: discovery_user(settings),
    })))
}

/// `name:password` in one flag, or in two.
fn discovery_user(settings: &Settings) -> Option<User> {
    let (user, password) = (settings.text("discovery-user"), settings.text("discovery-password"));
    if user.is_empty() {
        return None;
    }
    let (name, password) = match user.split_once(':') {
        Some((name, in_user)) if password.is_empty() => (name.to_owned(), in_user.to_owned()),
        _ => (user, password),
    };
    Some(User { name, password })
}

struct Urls {
    listen_peer: UrlList,
    listen_client: UrlList,
    listen_client_http: UrlList,
    listen_metrics: UrlList,
    advertise_peer: UrlList,
    advertise_client: UrlList,
}

impl Urls {
    fn read(
        settings: &mut Settings,
        origin: Origin,
        default_host: &dyn Fn() -> Option<IpAddr>,
    ) -> Result<Self, Error> {
        // The default address would be wrong for clients elsewhere, so it must be said.
        let is_silent = !settings.is_given("advertise-client-urls");
        if origin == Origin::Words && settings.is_given("listen-client-urls") && is_silent {
            return Err(Error::UnsetAdvertiseClientUrls);
        }
        let mut urls = Self {
            listen_peer: own(settings, "listen-peer-urls")?,
            listen_client: own(settings, "listen-client-urls")?,
            listen_client_http: own(settings, "listen-client-http-urls")?,
            listen_metrics: own(settings, "listen-metrics-urls")?,
            advertise_peer: advertised(settings, "initial-advertise-peer-urls")?,
            advertise_client: advertised(settings, "advertise-client-urls")?,
        };
        let lists = [
            ("listen-peer-urls", &urls.listen_peer),
            ("listen-client-urls", &urls.listen_client),
            ("initial-advertise-peer-urls", &urls.advertise_peer),
            ("advertise-client-urls", &urls.advertise_client),
        ];
        if let Some((flag, _)) = lists.into_iter().find(|(_, list)| list.is_empty()) {
            return Err(Error::NoUrl(flag));
        }
        urls.replace_default_hosts(settings, default_host)?;
        Ok(urls)
    }

    /// A member that listens everywhere but advertises the default would tell others `localhost`: it
    /// advertises the address of its default route instead.
    fn replace_default_hosts(
        &mut self,
        settings: &mut Settings,
        default_host: &dyn Fn() -> Option<IpAddr>,
    ) -> Result<(), Error> {
        let pairs = [
            ("initial-advertise-peer-urls", &self.listen_peer, &mut self.advertise_peer),
            ("advertise-client-urls", &self.listen_client, &mut self.advertise_client),
        ];
        for (flag, listen, advertise) in pairs {
            let is_default = advertise.to_string() == Flag::named(flag).default;
            let listen = listen.first().expect("the lists are not empty");
            if !is_default || listen.host() != Some("0.0.0.0") {
                continue;
            }
            if let Some(host) = default_host() {
                *advertise = UrlList::from_iter([listen.with_host(host)?]);
                settings.notices.push(Notice::DefaultHost(host.to_string()));
            }
        }
        Ok(())
    }
}

/// URLs to listen on.
fn own(settings: &Settings, flag: &'static str) -> Result<UrlList, Error> {
    let urls = settings.urls(flag);
    urls.iter().try_for_each(Url::check_bindable)?;
    Ok(urls)
}

/// URLs to tell others.
fn advertised(settings: &Settings, flag: &'static str) -> Result<UrlList, Error> {
    let urls = settings.urls(flag);
    urls.iter().try_for_each(Url::check_advertisable).map_err(|source| Error::AdvertisedUrl {
        flag,
        urls: urls.to_string(),
        source,
    })?;
    Ok(urls)
}

/// The default is built from the name and the advertised URLs, but only for a name of one's own, as in etcd.
fn initial_cluster(
    settings: &Settings,
    name: &str,
    advertised: &UrlList,
) -> Result<InitialCluster, Error> {
    let text = settings.text("initial-cluster");
    let is_default = text == Flag::named("initial-cluster").default;
    if text.is_empty() || is_default && name != Flag::named("name").default {
        return Ok(InitialCluster::single(name, advertised.clone()));
    }
    Ok(InitialCluster::parse(&text)?)
}

fn intervals(settings: &Settings) -> Result<(Duration, Duration), Error> {
    let heartbeat_ms = settings.uint("heartbeat-interval");
    let election_ms = settings.uint("election-timeout");
    for (flag, ms) in [("heartbeat-interval", heartbeat_ms), ("election-timeout", election_ms)] {
        if ms == 0 {
            return Err(Error::NotPositive { flag, set: "0ms".to_owned() });
        }
    }
    if heartbeat_ms.saturating_mul(5) > election_ms {
        return Err(Error::ElectionTooShort { election_ms, heartbeat_ms });
    }
    if election_ms > MAX_ELECTION_MS {
        return Err(Error::ElectionTooLong(election_ms));
    }
    Ok((Duration::from_millis(heartbeat_ms), Duration::from_millis(election_ms)))
}

/// A bare number means hours or revisions, by the mode.
fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, Error> {
    let retention = settings.text("auto-compaction-retention");
    let wrong = || Error::CompactionRetention(retention.clone());
    let number = retention.parse::<u32>().ok();
    match (settings.text("auto-compaction-mode").as_str(), number) {
        ("periodic" | "revision", Some(0)) => Ok(AutoCompaction::Off),
        ("periodic", Some(hours)) => {
            Ok(AutoCompaction::Periodic(Duration::from_secs(3600) * hours))
        }
        ("periodic", None) => match duration::parse(&retention).ok_or_else(wrong)? {
            Duration::ZERO => Ok(AutoCompaction::Off),
            period => Ok(AutoCompaction::Periodic(period)),
        },
        ("revision", _) => match retention.parse::<i64>() {
            Ok(revisions) if revisions > 0 => Ok(AutoCompaction::Revision(revisions)),
            _ => Err(wrong()),
        },
        ("", _) => Err(Error::NoCompactionMode),
        (other, _) => Err(Error::CompactionMode(other.to_owned())),
    }
}

fn log_settings(settings: &Settings) -> Result<logging::Settings, Error> {
    match settings.text("logger").as_str() {
        "zap" => {}
        "capnslog" => return Err(Error::Capnslog),
        other => return Err(Error::Logger(other.to_owned())),
    }
    let (level, format) = (settings.text("log-level"), settings.text("log-format"));
    let mut outputs = settings.list("log-outputs");
    outputs.sort();
    outputs.dedup();
    if outputs.is_empty() {
        outputs.push("default".to_owned());
    }
    if outputs.len() > 1 && outputs.iter().any(|output| output == "default") {
        return Err(Error::SeveralLogOutputs);
    }
    let rotation = log_rotation(settings, &outputs)?;
    if outputs.len() > 1 && outputs.iter().any(|output| output == "systemd/journal") {
        return Err(Error::JournalAndOthers(format!("{outputs:?}").replace(',', "")));
    }
    let output = |name: &String| match (logging::Output::from_name(name), &rotation) {
        (logging::Output::File(path), Some(rotation)) => {
            logging::Output::Rotated(path, rotation.clone())
        }
        (output, _) => output,
    };
    Ok(logging::Settings {
        level: logging::Level::from_name(&level).ok_or(Error::LogLevel(level))?,
        format: logging::Format::from_name(&format).ok_or(Error::LogFormat(format))?,
        outputs: outputs.iter().map(output).collect(),
    })
}

/// Two standard outputs pass, with nothing to rotate, as in etcd.
fn log_rotation(settings: &Settings, outputs: &[String]) -> Result<Option<Rotation>, Error> {
    if !settings.bool("enable-log-rotation") {
        return Ok(None);
    }
    let is_file = |output: &&String| !["default", "stderr", "stdout"].contains(&output.as_str());
    match (outputs.iter().filter(is_file).count(), outputs.len()) {
        (1, _) | (0, 2..) => {
            Ok(Some(Rotation::from_json(&settings.text("log-rotation-config-json"))?))
        }
        _ => Err(Error::RotationWithoutFile),
    }
}

fn raft_timeout(settings: &mut Settings, flag: &'static str) -> Duration {
    let timeout = settings.duration(flag);
    if timeout < MIN_RAFT_TIMEOUT {
        settings.notices.push(Notice::RaisedTimeout { flag, used: MIN_RAFT_TIMEOUT });
    }
    timeout.max(MIN_RAFT_TIMEOUT)
}

/// Checked only when tracing is on, as in etcd.
fn distributed_tracing(settings: &Settings) -> Result<Option<DistributedTracing>, Error> {
    if !settings.bool("enable-distributed-tracing") {
        return Ok(None);
    }
    let rate = settings.int("distributed-tracing-sampling-rate");
    let samples_per_million =
        u32::try_from(rate).map_err(|_| Error::TracingSamplingRate("positive"))?;
    if samples_per_million > 1_000_000 {
        return Err(Error::TracingSamplingRate("less than 1000000"));
    }
    let instance_id = settings.text("distributed-tracing-instance-id");
    Ok(Some(DistributedTracing {
        address: settings.text("distributed-tracing-address"),
        service_name: settings.text("distributed-tracing-service-name"),
        instance_id: Some(instance_id).filter(|id| !id.is_empty()),
        samples_per_million,
    }))
}

fn quota(settings: &mut Settings) -> Option<u64> {
    match u64::try_from(settings.int("quota-backend-bytes")) {
        Err(_) => None,
        Ok(0) => Some(DEFAULT_QUOTA_BYTES),
        Ok(bytes) => {
            if bytes > SUGGESTED_QUOTA_BYTES {
                let suggested = SUGGESTED_QUOTA_BYTES;
                settings.notices.push(Notice::LargeQuota { bytes, suggested });
            }
            Some(bytes)
        }
    }
}

fn max_request_bytes(settings: &mut Settings) -> Result<usize, Error> {
    let bytes = settings.uint("max-request-bytes");
    if bytes > SUGGESTED_REQUEST_BYTES {
        let suggested = SUGGESTED_REQUEST_BYTES;
        settings.notices.push(Notice::LargeRequests { bytes, suggested });
    }
    // The length of a gRPC message has 32 bits, and a receive limit stands above this one.
    if bytes > u64::from(u32::MAX / 2) {
        return Err(Error::TooLarge("max-request-bytes"));
    }
    size(settings, "max-request-bytes")
}

/// 0 stands for the default, as in etcd.
fn auth_token_ttl(settings: &Settings) -> Duration {
    Duration::from_secs(Some(settings.uint("auth-token-ttl")).filter(|ttl| *ttl > 0).unwrap_or(300))
}

fn bcrypt_cost(settings: &mut Settings) -> u32 {
    let set = settings.uint("bcrypt-cost");
    if let Some(cost) = u32::try_from(set).ok().filter(|cost| (4..=31).contains(cost)) {
        return cost;
    }
    settings.notices.push(Notice::BcryptCost { set, used: DEFAULT_BCRYPT_COST });
    DEFAULT_BCRYPT_COST
}

fn notice_flags_without_meaning(settings: &mut Settings) {
    for (flag, reason) in [
        ("backend-bbolt-freelist-type", "the backend has no free list to choose"),
        ("backend-batch-limit", "the backend commits by time and bytes, behind the log"),
        ("grpc-keepalive-min-time", "clients may ping as often as they like"),
        ("v2-deprecation", "there is no v2 store"),
    ] {
        if settings.asks_for(Flag::named(flag)) {
            settings.notices.push(Notice::WithoutMeaning { flag, reason });
        }
    }
    let name = settings.text("name");
    if name == Flag::named("name").default {
        settings.notices.push(Notice::DefaultName(name));
    }
}

fn data_dir(settings: &mut Settings, name: &str) -> PathBuf {
    let dir = settings.text("data-dir");
    if !dir.is_empty() {
        return PathBuf::from(dir);
    }
    let dir = PathBuf::from(format!("{name}.etcd"));
    settings.notices.push(Notice::DefaultDataDir(dir.clone()));
    dir
}

fn not_negative(settings: &Settings, flag: &'static str) -> Result<u64, Error> {
    u64::try_from(settings.int(flag)).map_err(|_| Error::Negative(flag))
}

fn size(settings: &Settings, flag: &'static str) -> Result<usize, Error> {
    usize::try_from(settings.uint(flag)).map_err(|_| Error::TooLarge(flag))
}

fn or(number: u64, default: u64) -> u64 {
    if number == 0 { default } else { number }
}

fn or_millis(duration: Duration, default_ms: u64) -> Duration {
    if duration.is_zero() { Duration::from_millis(default_ms) } else { duration }
}

fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}
