//! What the flags say about TLS, and what etcd refuses of it before any file is read.

use retcd_net::tls::{Settings as Tls, Version, check_suites};
use retcd_net::{Url, UrlList};

use super::Config;
use super::error::Error;
use super::notice::Notice;
use super::settings::Settings;

/// TLS on one kind of URLs.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// The files and rules that were given.
    pub tls: Tls,
    /// Make a certificate when none is given.
    pub is_automatic: bool,
}

impl Security {
    /// Whether https URLs can be served.
    fn has_certificate(&self) -> bool {
        self.is_automatic || !self.tls.is_empty()
    }
}

/// The rules of the protocol are the same for all URLs.
struct Protocol {
    version_min: Version,
    version_max: Option<Version>,
    cipher_suites: Vec<String>,
}

impl Protocol {
    fn read(settings: &mut Settings) -> Result<Self, Error> {
        let version = |flag| {
            let text = settings.text(flag);
            if text.is_empty() { Ok(None) } else { text.parse::<Version>().map(Some) }
        };
        let version_min = version("tls-min-version")?.unwrap_or_default();
        let version_max = version("tls-max-version")?;
        if version_max.is_some_and(|max| version_min > max) {
            let (min, max) = (settings.text("tls-min-version"), settings.text("tls-max-version"));
            return Err(Error::TlsVersions { min, max });
        }
        let cipher_suites = settings.list("cipher-suites");
        if version_min == Version::Tls13 && !cipher_suites.is_empty() {
            return Err(Error::Tls13Suites);
        }
        let missing: Vec<String> =
            check_suites(&cipher_suites)?.into_iter().map(str::to_owned).collect();
        if !missing.is_empty() {
            settings.notices.push(Notice::SuitesNotOffered(missing));
        }
        Ok(Self { version_min, version_max, cipher_suites })
    }
}

/// Security of client URLs and of peer URLs.
pub(super) fn read(settings: &mut Settings) -> Result<(Security, Security), Error> {
    let protocol = Protocol::read(settings)?;
    let path = |flag| settings.text(flag).into();
    let client = Tls {
        cert_file: path("cert-file"),
        key_file: path("key-file"),
        client_cert_file: path("client-cert-file"),
        client_key_file: path("client-key-file"),
        trusted_ca_file: path("trusted-ca-file"),
        client_cert_auth: settings.bool("client-cert-auth"),
        crl_file: path("client-crl-file"),
        allowed_hostnames: settings.list("client-cert-allowed-hostname"),
        version_min: protocol.version_min,
        version_max: protocol.version_max,
        cipher_suites: protocol.cipher_suites,
        ..Tls::default()
    };
    let peer = Tls {
        cert_file: path("peer-cert-file"),
        key_file: path("peer-key-file"),
        client_cert_file: path("peer-client-cert-file"),
        client_key_file: path("peer-client-key-file"),
        trusted_ca_file: path("peer-trusted-ca-file"),
        client_cert_auth: settings.bool("peer-client-cert-auth"),
        crl_file: path("peer-crl-file"),
        allowed_cns: settings.list("peer-cert-allowed-cn"),
        allowed_hostnames: settings.list("peer-cert-allowed-hostname"),
        skips_client_san_verification: settings.bool("peer-skip-client-san-verification"),
        ..client.clone()
    };
    Ok((
        Security { tls: client, is_automatic: settings.bool("auto-tls") },
        Security { tls: peer, is_automatic: settings.bool("peer-auto-tls") },
    ))
}

/// Checks URLs against certificates: what is refused, and what is remarked.
pub(super) fn check_urls(config: &mut Config) -> Result<(), Error> {
    let (client, peer) = (&config.client_security, &config.peer_security);
    let listens_encrypted = |urls: &UrlList| urls.iter().find(|url| url.is_tls()).cloned();
    if let Some(url) = listens_encrypted(&config.listen_peer_urls)
        && !peer.has_certificate()
    {
        return Err(Error::NoPeerCertificate(url.address().to_owned()));
    }
    for urls in [&config.listen_client_urls, &config.listen_client_http_urls] {
        if let Some(url) = listens_encrypted(urls)
            && !client.has_certificate()
        {
            return Err(Error::NoClientCertificate(url.to_string()));
        }
    }
    let is_for_grpc =
        |url: &&Url| config.listen_client_urls.iter().any(|other| other.address() == url.address());
    if let Some(url) = config.listen_client_http_urls.iter().find(is_for_grpc) {
        return Err(Error::GrpcAndHttpUrl(url.to_string()));
    }
    if listens_encrypted(&config.listen_metrics_urls).is_some() && !client.has_certificate() {
        return Err(Error::NoMetricsCertificate);
    }
    let mut notices = Vec::new();
    let clients = config.listen_client_urls.iter().chain(&config.listen_client_http_urls);
    let clients = clients.map(|url| (UrlKind::Client, client, url));
    let peers = config.listen_peer_urls.iter().map(|url| (UrlKind::Peer, peer, url));
    for (kind, security, url) in peers.chain(clients).filter(|(_, _, url)| !url.is_tls()) {
        if security.has_certificate() {
            notices.push(Notice::UnusedCertificate { kind, url: url.to_string() });
        }
        if security.tls.client_cert_auth {
            notices.push(Notice::UnusedCertAuth { kind, url: url.to_string() });
        }
    }
    for (kind, security) in [(UrlKind::Peer, peer), (UrlKind::Client, client)] {
        if security.is_automatic && !security.tls.is_empty() {
            notices.push(Notice::UnusedAutoTls(kind));
        }
    }
    config.notices.extend(notices);
    Ok(())
}

/// Who connects to a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlKind {
    Client,
    Peer,
}
