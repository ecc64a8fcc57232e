//! What the reader of the log should know about the configuration.
//!
//! The configuration is read before there is a logger, so these remarks are collected and logged afterwards.

use std::path::PathBuf;
use std::time::Duration;

use super::duration;
use super::tls::UrlKind;
use crate::logging;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    FileLoaded(PathBuf),
    VariableUsed {
        name: String,
        value: String,
    },
    VariableUnknown(String),
    /// `ETCD_VERSION` would print the version and end every start.
    VersionVariable(String),
    Deprecated(&'static str),
    OldName {
        old: &'static str,
        new: String,
    },
    Ignored(&'static str),
    WithoutMeaning {
        flag: &'static str,
        reason: &'static str,
    },
    DefaultName(String),
    DefaultDataDir(PathBuf),
    DefaultHost(String),
    LargeQuota {
        bytes: u64,
        suggested: u64,
    },
    LargeRequests {
        bytes: u64,
        suggested: u64,
    },
    BcryptCost {
        set: u64,
        used: u32,
    },
    CheckpointWithoutPersistence,
    /// A certificate was given, but the URL is plain.
    UnusedCertificate {
        kind: UrlKind,
        url: String,
    },
    UnusedCertAuth {
        kind: UrlKind,
        url: String,
    },
    /// A certificate was given, so none is made.
    UnusedAutoTls(UrlKind),
    /// Cipher suites that etcd has and this server does not.
    SuitesNotOffered(Vec<String>),
    /// A timeout of connections between members that was too short.
    RaisedTimeout {
        flag: &'static str,
        used: Duration,
    },
}

impl Notice {
    pub fn log(&self) {
        match self {
            Self::FileLoaded(path) => tracing::info!(
                path = %path.display(),
                "loaded server configuration, other configuration command line flags and environment \
                 variables will be ignored if provided"
            ),
            Self::VariableUsed { name, value } => tracing::info!(
                variable_name = name,
                variable_value = value,
                "recognized and used environment variable"
            ),
            Self::VariableUnknown(name) => {
                tracing::warn!(environment_variable = name, "unrecognized environment variable");
            }
            Self::VersionVariable(value) => tracing::warn!(
                key = "ETCD_VERSION",
                value,
                "cannot set special environment variable"
            ),
            Self::Deprecated(text) => tracing::warn!(reason = text, "deprecated flag is set"),
            Self::OldName { old, new } => {
                tracing::warn!(flag = old, use_instead = new, "flag has an old name");
            }
            Self::Ignored(flag) => tracing::warn!(flag, "flag is no longer supported - ignoring"),
            Self::WithoutMeaning { flag, reason } => {
                tracing::warn!(flag, reason, "flag has no meaning for this server - ignoring");
            }
            Self::DefaultName(name) => tracing::warn!(
                name,
                "it isn't recommended to use default name, please set a value for --name. Note that \
                 etcd might run into issue when multiple members have the same default name"
            ),
            Self::DefaultDataDir(path) => tracing::warn!(
                data_dir = %path.display(),
                "'data-dir' was empty; using default"
            ),
            Self::DefaultHost(host) => {
                tracing::info!(host, "detected default host for advertise");
            }
            Self::LargeQuota { bytes, suggested } => tracing::warn!(
                quota_size_bytes = bytes,
                quota_maximum_size_bytes = suggested,
                "quota exceeds the maximum value"
            ),
            Self::LargeRequests { bytes, suggested } => tracing::warn!(
                max_request_bytes = bytes,
                recommended_request_bytes = suggested,
                "exceeded recommended request limit"
            ),
            Self::CheckpointWithoutPersistence => tracing::warn!(
                "Detected that checkpointing is enabled without persistence. Consider enabling feature \
                 gate LeaseCheckpointPersist"
            ),
            Self::UnusedCertificate { kind: UrlKind::Client, url } => tracing::warn!(
                client_url = url,
                "scheme is http or unix while key and cert files are present; ignoring key and cert files"
            ),
            Self::UnusedCertificate { kind: UrlKind::Peer, url } => tracing::warn!(
                peer_url = url,
                "scheme is HTTP while key and cert files are present; ignoring key and cert files"
            ),
            Self::UnusedCertAuth { kind: UrlKind::Client, url } => tracing::warn!(
                client_url = url,
                "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL"
            ),
            Self::UnusedCertAuth { kind: UrlKind::Peer, url } => tracing::warn!(
                peer_url = url,
                "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL"
            ),
            Self::UnusedAutoTls(UrlKind::Client) => {
                tracing::warn!("ignoring client auto TLS since certs given");
            }
            Self::UnusedAutoTls(UrlKind::Peer) => {
                tracing::warn!("ignoring peer auto TLS since certs given");
            }
            Self::SuitesNotOffered(names) => tracing::warn!(
                cipher_suites = %logging::strings(names),
                "cipher suites are not offered by this server - ignoring"
            ),
            Self::RaisedTimeout { flag, used } => {
                let used = duration::display(*used);
                tracing::info!("{flag} increased to minimum value: {used}");
            }
            Self::BcryptCost { set, used } => tracing::warn!(
                given_cost = set,
                default_cost = used,
                "bcrypt cost is out of range, using the default"
            ),
        }
    }
}
