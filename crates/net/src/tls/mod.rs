//! TLS: how connections are encrypted, and how both sides prove who they are.
//!
//! [`Settings`] are what the flags say, for client URLs or for peer URLs. An [`Acceptor`] makes accepted connections of
//! them, a [`Connector`] dialled ones; both turn a plain [`Stream`](crate::Stream) into an encrypted one. The rules are
//! etcd's:
//!
//! - Certificate, key and revocation list are read for every new connection and parsed when they have changed, so that
//!   they can be renewed while the member runs. What cannot be read refuses that connection and no other. The file of
//!   authorities is read once.
//! - Client certificates are wanted, and verified, as soon as authorities are given or `client_cert_auth` is set; without
//!   a file the system's authorities count.
//! - A revocation list counts by serial numbers alone, whoever has signed it.
//! - On URLs for members, a certificate that names hosts must name the one that the connection comes from.
//! - With allowed names, one of them must stand in the other side's certificate, on both sides.
//!
//! Sessions are not resumed: every connection shows its certificate anew. A handshake may take [`HANDSHAKE_LIMIT`] and
//! runs in its connection's own task. Nothing here logs; errors have Go's words, as etcd's users know them.

mod acceptor;
mod connector;
mod identity;
mod remote;
mod self_signed;
mod settings;
mod verify;
mod words;
mod x509;

use std::path::PathBuf;
use std::time::Duration;

pub use acceptor::{Acceptor, Reason, Rejected};
pub use connector::Connector;
pub use self_signed::{Error as SelfSignedError, SelfSigned, create_self_signed};
pub use settings::{Settings, SuiteError, Version, VersionError, check_suites};
pub use x509::Names;

/// How long a handshake may take, as in etcd.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Why TLS cannot be used as the settings say.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open {}: {}", path.display(), words::io(source))]
    Open { path: PathBuf, source: std::io::Error },
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")]
    HalfIdentity { key: String, cert: String },
    #[error(
        "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: {cert}]"
    )]
    HalfClientIdentity { key: String, cert: String },
    #[error(
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns={}, hostnames={})",
        quoted(cns),
        quoted(hostnames)
    )]
    AllowedTwice { cns: Vec<String>, hostnames: Vec<String> },
    #[error("tls: failed to find any PEM data in {0} input")]
    NoPem(&'static str),
    #[error("tls: failed to parse {what} in {}: {reason}", path.display())]
    Unreadable { what: &'static str, path: PathBuf, reason: String },
    #[error("tls: private key does not match public key")]
    Mismatch,
    #[error("no certificate in {}", .0.display())]
    NoAuthority(PathBuf),
    #[error("tls: {0}")]
    Unusable(String),
    #[error("{} is no certificate revocation list", .0.display())]
    NoRevocationList(PathBuf),
    #[error("transport: certificate serial {0} revoked")]
    Revoked(String),
}

impl Error {
    /// Whether a file is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// An error of an encrypted connection, such as an alert of the other side.
pub(crate) fn in_go_words(error: std::io::Error) -> std::io::Error {
    match error.get_ref() {
        Some(inner) if inner.is::<tokio_rustls::rustls::Error>() => {
            std::io::Error::new(error.kind(), words::handshake(&error))
        }
        _ => error,
    }
}

/// As Go prints a list of texts.
fn quoted(texts: &[String]) -> String {
    let quoted: Vec<_> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests;
