//! Every flag of the server, in one table.
//!
//! Command line, environment, configuration file, `--help` and docs/configuration.md are all read from
//! [`FLAGS`]. Names, defaults and file keys are etcd v3.7.1's; the last rows are our own. Behind it stand the
//! names that older releases used ([`OLD_NAMES`]) and those that etcd accepts without meaning ([`IGNORED`]).

use Category::{
    Auth, Clustering, Features, Logging, Member, Meta, Monitoring, Own, Security, Tracing, Unsafe,
};

use super::value::Kind::{
    self, Bool, Duration, Gates, Int, List, OneOf, OneOfQuoted, Text, Uint, Uint32, Urls,
};
use super::value::Value;

/// A row of the table.
#[derive(Debug)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// Text that [`Kind::parse`] reads; some zero values stand for another one, as the help tells.
    pub default: &'static str,
    pub kind: Kind,
    pub category: Category,
    /// The key in the configuration file, dots for nesting; empty when it cannot stand there.
    pub file_key: &'static str,
    pub help: &'static str,
}

/// Heading in `--help`, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    Member,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
    Meta,
    Own,
}

#[rustfmt::skip]
/// One row per line: name, default, kind, category, file key, help.
pub static FLAGS: &[Flag] = &[
    flag("name", "default", Text, Member, "name", "label of this member; must match one entry of initial-cluster"),
    flag("data-dir", "", Text, Member, "data-dir", "state directory; empty means \"${name}.etcd\" in the working directory"),
    flag("wal-dir", "", Text, Member, "wal-dir", "separate directory for the WAL; empty means <data-dir>/member/wal"),
    flag("snapshot-count", "10000", Uint, Member, "snapshot-count", "applied entries between raft snapshots written to disk (0 is replaced by 10000)"),
    flag("heartbeat-interval", "100", Uint, Member, "heartbeat-interval", "leader heartbeat period in milliseconds = one raft tick"),
    flag("election-timeout", "1000", Uint, Member, "election-timeout", "follower election timeout in milliseconds; must be >= 5 x heartbeat-interval and <= 50000"),
    flag("initial-election-tick-advance", "true", Bool, Member, "initial-election-tick-advance", "at boot skip ahead in election ticks so that the first election comes sooner"),
    flag("listen-peer-urls", "http://localhost:2380", Urls, Member, "listen-peer-urls", "where to listen for peer traffic (host must be an IP or localhost)"),
    flag("listen-client-urls", "http://localhost:2379", Urls, Member, "listen-client-urls", "where to listen for gRPC clients, and HTTP unless listen-client-http-urls is set"),
    flag("listen-client-http-urls", "", Urls, Member, "listen-client-http-urls", "HTTP-only client listeners; when set, listen-client-urls serve gRPC only"),
    flag("max-snapshots", "5", Uint, Member, "max-snapshots", "how many .snap and .snap.db files to keep, 0 = all; deprecated since 3.6 (warns), removal planned for 3.8"),
    flag("max-wals", "5", Uint, Member, "max-wals", "how many WAL files to keep, 0 = all"),
    flag("memory-mlock", "false", Bool, Member, "memory-mlock", "keep in RAM what is in use, pages of the database once they were read: no swapping. Needs the right to lock any amount (LimitMEMLOCK=infinity or CAP_IPC_LOCK) and RAM for the whole database"),
    flag("quota-backend-bytes", "0", Int, Member, "quota-backend-bytes", "backend size limit; 0 = 2147483648 (2 GiB), negative = no limit, above 8 GiB warns"),
    flag("backend-bbolt-freelist-type", "", Text, Member, "backend-bbolt-freelist-type", "accepted without meaning: the backend has no free list"),
    flag("backend-batch-interval", "0s", Duration, Member, "backend-batch-interval", "longest wait before a backend commit; 0 = 1s"),
    flag("backend-batch-limit", "0", Int, Member, "backend-batch-limit", "accepted without meaning: the backend commits by time and bytes, behind the log"),
    flag("max-txn-ops", "128", Uint, Member, "max-txn-ops", "most compares or operations in one txn branch"),
    flag("max-request-bytes", "1572864", Uint, Member, "max-request-bytes", "largest accepted proposal (1.5 MiB); gRPC receive limit is this + 512 KiB; above 10 MiB warns"),
    flag("max-concurrent-streams", "4294967295", Uint32, Member, "max-concurrent-streams", "HTTP/2 streams one client connection may open"),
    flag("grpc-keepalive-min-time", "5s", Duration, Member, "grpc-keepalive-min-time", "accepted without meaning: clients may ping as often as they like"),
    flag("grpc-keepalive-interval", "2h0m0s", Duration, Member, "grpc-keepalive-interval", "server-to-client ping period, 0 = off"),
    flag("grpc-keepalive-timeout", "20s", Duration, Member, "grpc-keepalive-timeout", "wait for the ping answer before closing, 0 = off"),
    flag("socket-reuse-port", "false", Bool, Member, "socket-options.reuse-port", "set SO_REUSEPORT on listeners"),
    flag("socket-reuse-address", "false", Bool, Member, "socket-options.reuse-address", "set SO_REUSEADDR on listeners"),
    flag("enable-grpc-gateway", "true", Bool, Member, "enable-grpc-gateway", "serve the JSON gateway under /v3/"),
    flag("raft-read-timeout", "5s", Duration, Member, "", "how long nothing may come from another member; lower values are raised to 5s"),
    flag("raft-write-timeout", "5s", Duration, Member, "", "how long another member may take no data; lower values are raised to 5s"),
    flag("feature-gates", "", Gates, Member, "feature-gates", "feature gates to switch, such as FastLeaseKeepAlive=false; unknown names are an error"),
    flag("initial-advertise-peer-urls", "http://localhost:2380", Urls, Clustering, "initial-advertise-peer-urls", "peer URLs told to the other members"),
    flag("initial-cluster", "default=http://localhost:2380", Text, Clustering, "initial-cluster", "bootstrap membership; a name may repeat for several URLs. Default is built from name and initial-advertise-peer-urls; cleared when discovery is used"),
    flag("initial-cluster-state", "new", OneOf(&["new", "existing"]), Clustering, "initial-cluster-state", "new = bootstrap, existing = join; ignored once a WAL exists"),
    flag("initial-cluster-token", "etcd-cluster", Text, Clustering, "initial-cluster-token", "mixed into member (and so cluster) ids"),
    flag("advertise-client-urls", "http://localhost:2379", Urls, Clustering, "advertise-client-urls", "client URLs published in the member list; REQUIRED when listen-client-urls is given on the command line or by env"),
    flag("discovery-token", "", Text, Clustering, "discovery-config.token", "v3 discovery token; must be set together with discovery-endpoints"),
    flag("discovery-endpoints", "", List, Clustering, "discovery-config.client.endpoints", "gRPC endpoints of the discovery cluster"),
    flag("discovery-dial-timeout", "2s", Duration, Clustering, "discovery-config.client.dial-timeout", "dial timeout to discovery"),
    flag("discovery-request-timeout", "5s", Duration, Clustering, "discovery-config.client.request-timeout", "request timeout to discovery"),
    flag("discovery-keepalive-time", "2s", Duration, Clustering, "discovery-config.client.keepalive-time", "ping period to discovery"),
    flag("discovery-keepalive-timeout", "6s", Duration, Clustering, "discovery-config.client.keepalive-timeout", "ping timeout to discovery"),
    flag("discovery-insecure-transport", "true", Bool, Clustering, "discovery-config.client.secure.insecure-transport", "no TLS to discovery"),
    flag("discovery-insecure-skip-tls-verify", "false", Bool, Clustering, "discovery-config.client.secure.insecure-skip-tls-verify", "do not verify the discovery server certificate"),
    flag("discovery-cert", "", Text, Clustering, "discovery-config.client.secure.cert", "client certificate for discovery"),
    flag("discovery-key", "", Text, Clustering, "discovery-config.client.secure.key", "client key for discovery"),
    flag("discovery-cacert", "", Text, Clustering, "discovery-config.client.secure.cacert", "CA bundle for discovery"),
    flag("discovery-user", "", Text, Clustering, "discovery-config.client.auth.username", "user[:password] at discovery"),
    flag("discovery-password", "", Text, Clustering, "discovery-config.client.auth.password", "password at discovery"),
    flag("discovery-fallback", "exit", OneOf(&["exit", "proxy"]), Clustering, "", "only exit works; proxy is refused at start"),
    flag("discovery-srv", "", Text, Clustering, "discovery-srv", "DNS domain whose SRV records give initial-cluster"),
    flag("discovery-srv-name", "", Text, Clustering, "discovery-srv-name", "suffix \"-NAME\" on the queried SRV service names"),
    flag("strict-reconfig-check", "true", Bool, Clustering, "strict-reconfig-check", "refuse member changes that would endanger quorum"),
    flag("pre-vote", "true", Bool, Clustering, "pre-vote", "raft pre-vote phase"),
    flag("auto-compaction-retention", "0", Text, Clustering, "auto-compaction-retention", "0 = off; periodic: duration, a bare integer is hours; revision: number of revisions kept"),
    flag("auto-compaction-mode", "periodic", Text, Clustering, "auto-compaction-mode", "how retention is read"),
    flag("v2-deprecation", "write-only", OneOfQuoted(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), Clustering, "v2-deprecation", "accepted (write-only, write-only-skip-check, write-only-drop-data, gone) but ignored; warns; removal planned for 3.8"),
    flag("cert-file", "", Text, Security, "client-transport-security.cert-file", "server certificate on client URLs"),
    flag("key-file", "", Text, Security, "client-transport-security.key-file", "key of cert-file"),
    flag("client-cert-auth", "false", Bool, Security, "client-transport-security.client-cert-auth", "require client certificates (and use CN as auth user)"),
    flag("client-cert-file", "", Text, Security, "client-transport-security.client-cert-file", "certificate that the server itself uses as a client"),
    flag("client-key-file", "", Text, Security, "client-transport-security.client-key-file", "key of client-cert-file"),
    flag("client-crl-file", "", Text, Security, "", "revoked client certificates"),
    flag("client-cert-allowed-hostname", "", List, Security, "client-transport-security.allowed-hostname", "SAN/host names one of which a client certificate must match"),
    flag("trusted-ca-file", "", Text, Security, "client-transport-security.trusted-ca-file", "CA for client certificates; setting it alone already requires and verifies them"),
    flag("auto-tls", "false", Bool, Security, "client-transport-security.auto-tls", "self-signed certificate for client URLs, on the curve P-384; the other flags for files are ignored then"),
    flag("peer-cert-file", "", Text, Security, "peer-transport-security.cert-file", "certificate for peer URLs (server and client side)"),
    flag("peer-key-file", "", Text, Security, "peer-transport-security.key-file", "key of peer-cert-file"),
    flag("peer-client-cert-auth", "false", Bool, Security, "peer-transport-security.client-cert-auth", "require certificates from peers"),
    flag("peer-client-cert-file", "", Text, Security, "peer-transport-security.client-cert-file", "separate certificate for outgoing peer connections"),
    flag("peer-client-key-file", "", Text, Security, "peer-transport-security.client-key-file", "key of peer-client-cert-file"),
    flag("peer-trusted-ca-file", "", Text, Security, "peer-transport-security.trusted-ca-file", "CA for peer certificates"),
    flag("peer-cert-allowed-cn", "", List, Security, "peer-transport-security.allowed-cn", "CNs one of which a peer certificate must have (not together with peer-cert-allowed-hostname)"),
    flag("peer-cert-allowed-hostname", "", List, Security, "peer-transport-security.allowed-hostname", "SAN/host names one of which a peer certificate must match"),
    flag("peer-auto-tls", "false", Bool, Security, "peer-transport-security.auto-tls", "self-signed certificate for peer URLs, on the curve P-384; the other flags for files are ignored then"),
    flag("self-signed-cert-validity", "1", Uint, Security, "self-signed-cert-validity", "life of the self-signed certificates in years"),
    flag("peer-crl-file", "", Text, Security, "", "revoked peer certificates"),
    flag("cipher-suites", "", List, Security, "cipher-suites", "TLS 1.2 suites by IANA/Go name; refused when the minimum is TLS1.3. Those without forward secrecy, with CBC, RC4 or 3DES are not offered"),
    flag("cors", "*", List, Security, "cors", "allowed CORS origins, empty or * = all"),
    flag("host-whitelist", "*", List, Security, "host-whitelist", "allowed Host values on plain HTTP, empty or * = all"),
    flag("tls-min-version", "TLS1.2", Text, Security, "tls-min-version", "lowest TLS version"),
    flag("tls-max-version", "", Text, Security, "tls-max-version", "highest TLS version, empty = newest"),
    flag("auth-token", "simple", Text, Auth, "auth-token", "simple, or jwt,pub-key=F,priv-key=F,sign-method=M,ttl=D ; empty = no token provider"),
    flag("bcrypt-cost", "10", Uint, Auth, "bcrypt-cost", "bcrypt cost 4..31; outside falls back to 10"),
    flag("auth-token-ttl", "300", Uint, Auth, "auth-token-ttl", "life of simple tokens in seconds, renewed by use"),
    flag("enable-pprof", "false", Bool, Monitoring, "enable-pprof", "serve /debug/pprof/ on client URLs (also on when log-level=debug)"),
    flag("metrics", "basic", Text, Monitoring, "metrics", "extensive adds gRPC latency histograms"),
    flag("listen-metrics-urls", "", Urls, Monitoring, "listen-metrics-urls", "extra listeners for /metrics, /health, /livez, /readyz (https uses the client TLS files)"),
    flag("logger", "zap", Text, Logging, "logger", "only zap"),
    flag("log-outputs", "default", List, Logging, "log-outputs", "default (= stderr; may not be combined with others), stderr, stdout, systemd/journal, or file paths"),
    flag("log-level", "info", Text, Logging, "log-level", "log threshold"),
    flag("log-format", "json", Text, Logging, "log-format", "log encoding"),
    flag("enable-log-rotation", "false", Bool, Logging, "enable-log-rotation", "rotate the log file (log-outputs must hold exactly one path)"),
    flag("log-rotation-config-json", "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}", Text, Logging, "log-rotation-config-json", "when the log file is full (maxsize in MB), how long and how many old ones are kept (maxage in days, maxbackups; 0 = all), and whether they are named by local time and compressed"),
    flag("warning-unary-request-duration", "300ms", Duration, Logging, "warning-unary-request-duration", "log unary requests that take longer (0 is replaced by 300ms)"),
    flag("enable-distributed-tracing", "false", Bool, Tracing, "enable-distributed-tracing", "OpenTelemetry traces on"),
    flag("distributed-tracing-address", "localhost:4317", Text, Tracing, "distributed-tracing-address", "OTLP collector"),
    flag("distributed-tracing-service-name", "etcd", Text, Tracing, "distributed-tracing-service-name", "trace service name"),
    flag("distributed-tracing-instance-id", "", Text, Tracing, "distributed-tracing-instance-id", "trace instance id"),
    flag("distributed-tracing-sampling-rate", "0", Int, Tracing, "distributed-tracing-sampling-rate", "samples per million spans"),
    flag("corrupt-check-time", "0s", Duration, Features, "corrupt-check-time", "period of the cluster-wide hash comparison, 0 = off"),
    flag("compact-hash-check-time", "1m0s", Duration, Features, "compact-hash-check-time", "period of the leader's compaction-hash comparison (gate CompactHashCheck); must be > 0"),
    flag("compaction-batch-limit", "0", Int, Features, "compaction-batch-limit", "revisions looked at per compaction batch; 0 = 1000"),
    flag("compaction-sleep-interval", "0s", Duration, Features, "compaction-sleep-interval", "pause between batches; 0 = 10ms"),
    flag("peer-skip-client-san-verification", "false", Bool, Features, "peer-transport-security.skip-client-san-verification", "do not match the SAN of peer client certificates to their address"),
    flag("watch-progress-notify-interval", "0s", Duration, Features, "watch-progress-notify-interval", "period of progress notifications; 0 = 10m (+ up to 10% jitter), minimum 100ms"),
    flag("warning-apply-duration", "100ms", Duration, Features, "warning-apply-duration", "log applies that take longer"),
    flag("bootstrap-defrag-threshold-megabytes", "0", Uint, Features, "bootstrap-defrag-threshold-megabytes", "defragment at boot when at least this much can be freed, 0 = off"),
    flag("max-learners", "1", Int, Features, "max-learners", "most learners in the cluster"),
    flag("downgrade-check-time", "5s", Duration, Features, "downgrade-check-time", "how often the leader looks whether a downgrade has finished, 0 = never"),
    flag("snapshot-catchup-entries", "5000", Uint, Features, "snapshot-catchup-entries", "entries kept in memory after a snapshot for slow followers (0 is replaced by 5000)"),
    flag("force-new-cluster", "false", Bool, Unsafe, "force-new-cluster", "restart as a one-member cluster from existing data"),
    flag("unsafe-no-fsync", "false", Bool, Unsafe, "unsafe-no-fsync", "never fsync"),
    flag("config-file", "", Text, Meta, "", "YAML/JSON file; when given, ALL other flags and ETCD_ variables are ignored"),
    flag("version", "false", Bool, Meta, "", "print version and exit 0"),
    flag("experimental-value-cache-bytes", "0", Uint, Own, "experimental-value-cache-bytes", "RAM that current values may take; 0 = half of the machine's, 1 = as little as possible"),
    flag("experimental-client-threads", "0", Uint, Own, "experimental-client-threads", "threads that serve clients; 0 = one per core, less one from four cores up"),
];

const fn flag(
    name: &'static str,
    default: &'static str,
    kind: Kind,
    category: Category,
    file_key: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, default, kind, category, file_key, help }
}

/// Flags whose use is discouraged, with etcd's warning.
pub static DEPRECATED: &[(&str, &str)] = &[
    ("max-snapshots", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
    (
        "v2-deprecation",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. \
         The default value is enforced, ignoring user input.",
    ),
];

/// What an old name says today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The same value under this name.
    Renamed(&'static str),
    /// The boolean sets this feature gate.
    Gate(&'static str),
    /// `true` is log level debug.
    DebugLevel,
    /// Any value is accepted and without effect.
    Nothing,
    /// Only this value can be accepted; for others the text says what has become of the function.
    Only(&'static str, &'static str),
}

#[rustfmt::skip]
/// Names that releases 3.4 to 3.6 used and v3.7 refuses. Accepted with a warning where the meaning is clear.
pub static OLD_NAMES: &[(&str, Meaning)] = &[
    ("experimental-peer-skip-client-san-verification", Meaning::Renamed("peer-skip-client-san-verification")),
    ("experimental-enable-distributed-tracing", Meaning::Renamed("enable-distributed-tracing")),
    ("experimental-distributed-tracing-address", Meaning::Renamed("distributed-tracing-address")),
    ("experimental-distributed-tracing-service-name", Meaning::Renamed("distributed-tracing-service-name")),
    ("experimental-distributed-tracing-instance-id", Meaning::Renamed("distributed-tracing-instance-id")),
    ("experimental-distributed-tracing-sampling-rate", Meaning::Renamed("distributed-tracing-sampling-rate")),
    ("experimental-initial-corrupt-check", Meaning::Gate("InitialCorruptCheck")),
    ("experimental-corrupt-check-time", Meaning::Renamed("corrupt-check-time")),
    ("experimental-compact-hash-check-enabled", Meaning::Gate("CompactHashCheck")),
    ("experimental-compact-hash-check-time", Meaning::Renamed("compact-hash-check-time")),
    ("experimental-enable-lease-checkpoint", Meaning::Gate("LeaseCheckpoint")),
    ("experimental-enable-lease-checkpoint-persist", Meaning::Gate("LeaseCheckpointPersist")),
    ("experimental-compaction-batch-limit", Meaning::Renamed("compaction-batch-limit")),
    ("experimental-compaction-sleep-interval", Meaning::Renamed("compaction-sleep-interval")),
    ("experimental-watch-progress-notify-interval", Meaning::Renamed("watch-progress-notify-interval")),
    ("experimental-downgrade-check-time", Meaning::Renamed("downgrade-check-time")),
    ("experimental-warning-apply-duration", Meaning::Renamed("warning-apply-duration")),
    ("experimental-warning-unary-request-duration", Meaning::Renamed("warning-unary-request-duration")),
    ("experimental-memory-mlock", Meaning::Renamed("memory-mlock")),
    ("experimental-txn-mode-write-with-shared-buffer", Meaning::Gate("TxnModeWriteWithSharedBuffer")),
    ("experimental-stop-grpc-service-on-defrag", Meaning::Gate("StopGRPCServiceOnDefrag")),
    ("experimental-bootstrap-defrag-threshold-megabytes", Meaning::Renamed("bootstrap-defrag-threshold-megabytes")),
    ("experimental-snapshot-catchup-entries", Meaning::Renamed("snapshot-catchup-entries")),
    ("experimental-backend-bbolt-freelist-type", Meaning::Renamed("backend-bbolt-freelist-type")),
    ("log-output", Meaning::Renamed("log-outputs")),
    ("debug", Meaning::DebugLevel),
    ("log-package-levels", Meaning::Nothing),
    ("next-cluster-version-compatible", Meaning::Nothing),
    ("enable-v2", Meaning::Only("false", "the v2 API is gone")),
    ("experimental-enable-v2v3", Meaning::Nothing),
    ("proxy", Meaning::Only("off", "the v2 proxy is gone")),
    ("proxy-failure-wait", Meaning::Nothing),
    ("proxy-refresh-interval", Meaning::Nothing),
    ("proxy-dial-timeout", Meaning::Nothing),
    ("proxy-write-timeout", Meaning::Nothing),
    ("proxy-read-timeout", Meaning::Nothing),
    ("discovery", Meaning::Only("", "v2 discovery is gone, use --discovery-token and --discovery-endpoints")),
    ("discovery-proxy", Meaning::Only("", "v2 discovery is gone, use --discovery-token and --discovery-endpoints")),
];

/// Left from etcd 0.x and 2.x: accepted, with or without a value, and ignored.
pub static IGNORED: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
];

/// A name on the command line, in the environment or in the file.
#[derive(Debug, Clone, Copy)]
pub enum Known {
    Flag(&'static Flag),
    Old(&'static str, Meaning),
    Ignored(&'static str),
}

impl Known {
    /// Finds a name, given without dashes.
    pub fn find(name: &str) -> Option<Self> {
        if let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) {
            return Some(Self::Flag(flag));
        }
        if let Some((name, meaning)) = OLD_NAMES.iter().find(|(old, _)| *old == name) {
            return Some(Self::Old(name, *meaning));
        }
        IGNORED.iter().find(|ignored| **ignored == name).map(|name| Self::Ignored(name))
    }

    pub fn all() -> impl Iterator<Item = Self> {
        let old = OLD_NAMES.iter().map(|(name, meaning)| Self::Old(name, *meaning));
        let ignored = IGNORED.iter().map(|name| Self::Ignored(name));
        FLAGS.iter().map(Self::Flag).chain(old).chain(ignored)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Flag(flag) => flag.name,
            Self::Old(name, _) | Self::Ignored(name) => name,
        }
    }

    /// How the value is read. Booleans may stand on the command line without one.
    pub fn kind(self) -> Kind {
        match self {
            Self::Flag(flag) => flag.kind,
            Self::Old(_, Meaning::Renamed(name)) => Flag::named(name).kind,
            Self::Old(_, Meaning::Gate(_) | Meaning::DebugLevel | Meaning::Only("false", _)) => {
                Bool
            }
            Self::Old("next-cluster-version-compatible", _) | Self::Ignored(_) => Bool,
            Self::Old(_, Meaning::Nothing | Meaning::Only(..)) => Text,
        }
    }

    /// `ETCD_` and the name in capitals.
    pub fn variable(self) -> String {
        format!("ETCD_{}", self.name().to_uppercase().replace('-', "_"))
    }
}

impl Flag {
    /// # Panics
    /// When the table has no such row: a mistake in the program.
    pub fn named(name: &str) -> &'static Self {
        FLAGS.iter().find(|flag| flag.name == name).unwrap_or_else(|| panic!("no flag {name}"))
    }

    pub fn default_value(&self) -> Value {
        self.kind.parse(self.default).expect("a test reads every default of the table")
    }
}

impl Category {
    pub fn title(self) -> &'static str {
        match self {
            Member => "Member",
            Clustering => "Clustering",
            Security => "Security",
            Auth => "Auth",
            Monitoring => "Profiling and Monitoring",
            Logging => "Logging",
            Tracing => "Distributed tracing",
            Features => "Features",
            Unsafe => "Unsafe",
            Meta => "Meta",
            Own => "Only in retcd",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_can_be_read() {
        for flag in FLAGS {
            let value = flag.kind.parse(flag.default);
            assert!(value.is_ok(), "--{}: {value:?}", flag.name);
        }
    }

    #[test]
    fn names_and_file_keys_are_unique() {
        let names: Vec<_> = Known::all().map(Known::name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        let keys: Vec<_> =
            FLAGS.iter().map(|flag| flag.file_key).filter(|key| !key.is_empty()).collect();
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    }

    #[test]
    fn etcd_has_this_many() {
        let own = FLAGS.iter().filter(|flag| flag.category == Own).count();
        assert_eq!((FLAGS.len() - own, OLD_NAMES.len(), IGNORED.len()), (113, 38, 15));
    }

    #[test]
    fn old_names_lead_to_flags_and_gates() {
        for (_, meaning) in OLD_NAMES {
            match meaning {
                Meaning::Renamed(name) => drop(Flag::named(name)),
                Meaning::Gate(name) => {
                    assert!(super::super::gates::Gate::find(name).is_some(), "{name}");
                }
                Meaning::DebugLevel | Meaning::Nothing | Meaning::Only(..) => {}
            }
        }
    }

    #[test]
    fn names_of_variables() {
        let variable = |name| Known::find(name).unwrap().variable();
        assert_eq!(variable("listen-client-urls"), "ETCD_LISTEN_CLIENT_URLS");
        assert_eq!(variable("experimental-client-threads"), "ETCD_EXPERIMENTAL_CLIENT_THREADS");
    }
}
