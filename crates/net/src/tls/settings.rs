//! What the flags say about TLS, for one kind of URL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CipherSuite, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion,
};

/// Files and rules. An empty path is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// What accepted connections are shown; what others are shown too, unless there are files for that.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub client_cert_file: PathBuf,
    pub client_key_file: PathBuf,
    /// Authorities for the other side's certificates.
    pub trusted_ca_file: PathBuf,
    /// Whether clients must show a certificate; they must, too, when authorities are given.
    pub client_cert_auth: bool,
    pub crl_file: PathBuf,
    /// One of these must be the other side's common name, or one of those must be a host that its certificate names.
    pub allowed_cns: Vec<String>,
    pub allowed_hostnames: Vec<String>,
    /// Do not compare the hosts that a client's certificate names with its address.
    pub skips_client_san_verification: bool,
    /// The files are a [self-signed certificate](super::create_self_signed): the other side's is not verified either.
    pub is_self_signed: bool,
    /// Expect this name in the certificates of whom we dial, whatever they are called.
    pub server_name: Option<String>,
    pub version_min: Version,
    /// None: the newest.
    pub version_max: Option<Version>,
    /// Go's names, for TLS 1.2; empty for all. Those of TLS 1.3 are not configurable.
    pub cipher_suites: Vec<String>,
}

impl Settings {
    /// Whether there is nothing to show: https URLs cannot be served.
    pub fn is_empty(&self) -> bool {
        is_none(&self.cert_file) && is_none(&self.key_file)
    }

    /// Whether accepted connections must show a certificate.
    pub fn wants_client_certificates(&self) -> bool {
        !is_none(&self.trusted_ca_file) || self.client_cert_auth
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = ring::default_provider();
        if !self.cipher_suites.is_empty() {
            let wanted: Vec<_> = self.cipher_suites.iter().filter_map(|name| suite(name)).collect();
            provider
                .cipher_suites
                .retain(|suite| is_of_tls13(suite.suite()) || wanted.contains(&suite.suite()));
        }
        Arc::new(provider)
    }

    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let max = self.version_max.unwrap_or(Version::Tls13);
        let all = [(Version::Tls12, &TLS12), (Version::Tls13, &TLS13)];
        let is_wanted = |version| self.version_min <= version && version <= max;
        all.into_iter().filter(|(version, _)| is_wanted(*version)).map(|(_, is)| is).collect()
    }
}

pub(super) fn is_none(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// As etcd logs it.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
            self.cert_file.display(),
            self.key_file.display(),
            self.client_cert_file.display(),
            self.client_key_file.display(),
            self.trusted_ca_file.display(),
            self.client_cert_auth,
            self.crl_file.display()
        )
    }
}

/// A version of the protocol that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Version {
    #[default]
    Tls12,
    Tls13,
}

/// A version that is none of those.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unexpected TLS version {0:?} (must be one of: TLS1.2, TLS1.3)")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        match text {
            "TLS1.2" => Ok(Self::Tls12),
            "TLS1.3" => Ok(Self::Tls13),
            other => Err(VersionError(other.to_owned())),
        }
    }
}

/// A name that is not one of Go's cipher suites.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unexpected TLS cipher suite {0:?}")]
pub struct SuiteError(String);

/// Suites that Go knows and that are not offered here: they have no forward secrecy, or a cipher that is broken or hard
/// to implement safely.
const NOT_OFFERED: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// Checks names of cipher suites. Returns those that are known but not offered.
///
/// # Errors
/// The first name that Go does not know.
pub fn check_suites(names: &[String]) -> Result<Vec<&str>, SuiteError> {
    let mut missing = Vec::new();
    for name in names {
        match suite(name) {
            Some(_) => {}
            None if NOT_OFFERED.contains(&&**name) => missing.push(&**name),
            None => return Err(SuiteError(name.clone())),
        }
    }
    Ok(missing)
}

fn suite(name: &str) -> Option<CipherSuite> {
    use CipherSuite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    Some(match name {
        "TLS_AES_128_GCM_SHA256" => TLS13_AES_128_GCM_SHA256,
        "TLS_AES_256_GCM_SHA384" => TLS13_AES_256_GCM_SHA384,
        "TLS_CHACHA20_POLY1305_SHA256" => TLS13_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        // The short names are those of older releases.
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"
        | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => {
            TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        }
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => {
            TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        }
        _ => return None,
    })
}

fn is_of_tls13(suite: CipherSuite) -> bool {
    let of_tls13 =
        |offered: &&SupportedCipherSuite| offered.version().version == ProtocolVersion::TLSv1_3;
    ring::ALL_CIPHER_SUITES.iter().filter(of_tls13).any(|offered| offered.suite() == suite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn versions_have_gos_names() {
        assert_eq!("TLS1.2".parse(), Ok(Version::Tls12));
        assert_eq!("TLS1.3".parse(), Ok(Version::Tls13));
        for text in ["", "TLS1.1", "tls1.2"] {
            let error = text.parse::<Version>().unwrap_err().to_string();
            let expected =
                format!("unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn versions_bound_what_is_spoken() {
        let spoken = |version_min, version_max| {
            let settings = Settings { version_min, version_max, ..Settings::default() };
            settings.versions().iter().map(|version| version.version).collect::<Vec<_>>()
        };
        let (old, new) = (ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3);
        assert_eq!(spoken(Version::Tls12, None), [old, new]);
        assert_eq!(spoken(Version::Tls13, None), [new]);
        assert_eq!(spoken(Version::Tls12, Some(Version::Tls12)), [old]);
    }

    #[test]
    fn suites_have_gos_names() {
        let offered = names(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_AES_128_GCM_SHA256"]);
        assert_eq!(check_suites(&offered), Ok(Vec::new()));
        let known = names(&["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        assert_eq!(check_suites(&known), Ok(vec!["TLS_RSA_WITH_AES_128_CBC_SHA"]));
        let error = check_suites(&names(&["not_existing"])).unwrap_err();
        assert_eq!(error.to_string(), "unexpected TLS cipher suite \"not_existing\"");
    }

    #[test]
    fn suites_bound_what_is_offered_for_tls12_only() {
        let offered = |cipher_suites| {
            let settings = Settings { cipher_suites, ..Settings::default() };
            let provider = settings.provider();
            provider.cipher_suites.iter().map(SupportedCipherSuite::suite).collect::<Vec<_>>()
        };
        assert_eq!(offered(Vec::new()).len(), ring::DEFAULT_CIPHER_SUITES.len());
        let one = offered(names(&["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]));
        assert_eq!(one.iter().filter(|suite| !is_of_tls13(**suite)).count(), 1);
        assert_eq!(one.iter().filter(|suite| is_of_tls13(**suite)).count(), 3);
    }
}
