//! Why a member does not start: the configuration says something impossible.

use std::path::PathBuf;

use super::gates;
use crate::logging::rotation;
use crate::tokens;

/// Texts agree with etcd's where etcd finds the same fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // The command line cannot be read: exit code 2, usage follows.
    #[error("bad flag syntax: {0}")]
    FlagSyntax(String),
    #[error("flag provided but not defined: -{0}")]
    UnknownFlag(String),
    #[error("flag needs an argument: -{0}")]
    MissingArgument(&'static str),
    #[error("invalid value {value:?} for flag -{flag}: {reason}")]
    FlagValue { flag: &'static str, value: String, reason: String },
    #[error("invalid boolean value {value:?} for -{flag}: {reason}")]
    BooleanFlagValue { flag: &'static str, value: String, reason: String },

    // The rest: exit code 1.
    #[error("{0:?} is not a valid flag")]
    LeftoverWord(String),
    #[error("invalid value {value:?} for {variable}: {reason}")]
    VariableValue { variable: String, value: String, reason: String },
    #[error(
        "conflicting environment variable {0} is shadowed by corresponding command-line flag \
         (either unset environment variable or disable flag)"
    )]
    ShadowedVariable(String),
    #[error("open {}: {source}", path.display())]
    FileUnreadable { path: PathBuf, source: std::io::Error },
    #[error("error converting YAML to JSON: {}: {reason}", path.display())]
    FileSyntax { path: PathBuf, reason: String },
    #[error("invalid {0}")]
    FileSection(String),
    #[error("invalid value {value} for {key} in the configuration file: {reason}")]
    FileValue { key: String, value: String, reason: String },

    #[error("--{flag}: {what} is not available yet")]
    NotAvailable { flag: &'static str, what: &'static str },
    #[error("--{flag}={value:?} is not supported: {reason}")]
    Gone { flag: &'static str, value: String, reason: &'static str },
    #[error(transparent)]
    Gates(#[from] gates::Error),
    #[error("{0}")]
    Url(#[from] retcd_net::url::Error),
    #[error("--{flag} {urls:?} must be \"host:port\" ({source})")]
    AdvertisedUrl { flag: &'static str, urls: String, source: retcd_net::url::Error },
    #[error(transparent)]
    TlsVersion(#[from] retcd_net::tls::VersionError),
    #[error("min version ({min}) is greater than max version ({max})")]
    TlsVersions { min: String, max: String },
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    Tls13Suites,
    #[error(transparent)]
    CipherSuite(#[from] retcd_net::tls::SuiteError),
    #[error(
        "TLS key/cert (--cert-file, --key-file) must be provided for client url {0} with HTTPS scheme"
    )]
    NoClientCertificate(String),
    #[error(
        "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
    )]
    NoMetricsCertificate,
    #[error("cannot listen on TLS for {0}: KeyFile and CertFile are not presented")]
    NoPeerCertificate(String),
    #[error(
        "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {0}"
    )]
    GrpcAndHttpUrl(String),
    #[error("--{0} must hold at least one URL")]
    NoUrl(&'static str),
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    UnsetAdvertiseClientUrls,
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
    )]
    ConflictingBootstrapFlags,
    #[error("both --discovery-token and --discovery-endpoints must be set")]
    DiscoveryHalfSet,
    #[error("unexpected clusterState {0:?}")]
    ClusterState(String),
    #[error("v2 proxy is deprecated, and --discovery-fallback can't be configured as {0:?}")]
    DiscoveryFallback(String),
    #[error("--{flag} must be >0 (set to {set})")]
    NotPositive { flag: &'static str, set: String },
    #[error("--{0} must not be negative")]
    Negative(&'static str),
    #[error("--{0} is too large")]
    TooLarge(&'static str),
    #[error(
        "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
    )]
    ElectionTooShort { election_ms: u64, heartbeat_ms: u64 },
    #[error("--election-timeout[{0}ms] is too long, and should be set less than 50000ms")]
    ElectionTooLong(u64),
    #[error("undefined auto-compaction-mode")]
    NoCompactionMode,
    #[error("unknown auto-compaction-mode {0:?}")]
    CompactionMode(String),
    #[error("error parsing CompactionRetention: invalid value {0:?}")]
    CompactionRetention(String),
    #[error("--logger=capnslog is removed in v3.5")]
    Capnslog,
    #[error("unknown logger option {0:?}")]
    Logger(String),
    #[error("unknown level: {0:?}")]
    LogLevel(String),
    #[error("unknown log format: {0}, supported values json, console")]
    LogFormat(String),
    #[error("multi logoutput for \"default\" is not supported yet")]
    SeveralLogOutputs,
    #[error(
        "running with systemd/journal but other '--log-outputs' values ({0}) are configured with 'default'; \
         override 'default' value with something else"
    )]
    JournalAndOthers(String),
    #[error("--log-outputs requires a single file path when --log-rotate-config-json is defined")]
    RotationWithoutFile,
    #[error(transparent)]
    LogRotation(#[from] rotation::Error),
    #[error("distributed tracing configurition is not valid: (tracing sampling rate must be {0})")]
    TracingSamplingRate(&'static str),
    #[error(transparent)]
    AuthToken(#[from] tokens::Error),
    #[error("unknown metrics level {0:?}, supported values basic, extensive")]
    MetricsLevel(String),
    #[error(transparent)]
    InitialCluster(#[from] retcd_net::initial_cluster::Error),
}

impl Error {
    /// Whether the words of the command line could not even be read; the usage belongs below the message.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::FlagSyntax(_)
                | Self::UnknownFlag(_)
                | Self::MissingArgument(_)
                | Self::FlagValue { .. }
                | Self::BooleanFlagValue { .. }
        )
    }

    pub fn exit_code(&self) -> u8 {
        if self.is_usage() { 2 } else { 1 }
    }
}
