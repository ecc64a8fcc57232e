//! TLS: whom to trust, and who we are.
//!
//! Files are read again for each connection, so renewed certificates are taken up without a restart, as in etcd's
//! own client. What cannot be read is an error when the client is built, and later a failed dial.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore,
    SignatureScheme,
};

use crate::Error;

/// How connections are encrypted, and how both sides prove who they are.
///
/// Without anything set, servers need a certificate from an authority that the system trusts, and we show none.
///
/// ```
/// use retcd_client::Tls;
///
/// let tls = Tls::new()
///     .ca_file("/etc/etcd/ca.crt")
///     .identity_files("/etc/etcd/client.crt", "/etc/etcd/client.key")
///     .server_name("etcd.example.com");
/// # let _ = tls;
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tls {
    ca: Option<Pem>,
    identity: Option<(Pem, Pem)>,
    server_name: Option<String>,
    is_blind: bool,
}

/// Text with certificates or keys.
#[derive(Clone)]
enum Pem {
    File(PathBuf),
    Text(Vec<u8>),
}

/// Keys are nobody's business, so texts are not shown.
impl std::fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pem::File(path) => formatter.debug_tuple("File").field(path).finish(),
            Pem::Text(_) => formatter.write_str("Text(..)"),
        }
    }
}

impl Tls {
    /// Trust the system's authorities, and show no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trust the authorities in this PEM file instead of the system's. etcdctl's `--cacert`.
    #[must_use]
    pub fn ca_file(self, path: impl Into<PathBuf>) -> Self {
        Tls { ca: Some(Pem::File(path.into())), ..self }
    }

    /// Trust the authorities in this PEM text instead of the system's.
    #[must_use]
    pub fn ca_pem(self, text: impl Into<Vec<u8>>) -> Self {
        Tls { ca: Some(Pem::Text(text.into())), ..self }
    }

    /// Show this certificate, chain first to last, and prove it with this key; both PEM files. etcdctl's `--cert` and
    /// `--key`.
    #[must_use]
    pub fn identity_files(self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Tls { identity: Some((Pem::File(cert.into()), Pem::File(key.into()))), ..self }
    }

    /// As [`Self::identity_files`], with the PEM texts themselves.
    #[must_use]
    pub fn identity_pem(self, cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Tls { identity: Some((Pem::Text(cert.into()), Pem::Text(key.into()))), ..self }
    }

    /// Expect this name in the server's certificate, whatever the endpoint is called.
    #[must_use]
    pub fn server_name(self, name: impl Into<String>) -> Self {
        Tls { server_name: Some(name.into()), ..self }
    }

    /// Believe any server certificate: encrypted, but to whoever answers. etcdctl's `--insecure-skip-tls-verify`.
    #[must_use]
    pub fn insecure_skip_verify(self) -> Self {
        Tls { is_blind: true, ..self }
    }

    /// What a connection to `host` needs. Reads the files.
    ///
    /// # Errors
    /// [`Error::BadTls`]: files that cannot be read or hold something else, or a host that no certificate can name.
    pub(crate) fn for_host(
        &self,
        host: &str,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), Error> {
        let name = self.server_name.as_deref().unwrap_or(host);
        // Addresses of IPv6 stand in brackets in URLs only.
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|error| bad("server name", error))?;
        Ok((Arc::new(self.client_config()?), name))
    }

    fn client_config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("protocol versions", error))?;
        let trust = if self.is_blind { Trust::Anybody } else { self.chains(&provider)? };
        let verifier = Arc::new(Servers { trust, provider });
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder
                .with_client_auth_cert(cert.certificates()?, key.private_key()?)
                .map_err(|error| bad("client certificate", error))?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn chains(&self, provider: &Arc<CryptoProvider>) -> Result<Trust, Error> {
        let given = self.ca.as_ref().map(Pem::certificates).transpose()?.unwrap_or_default();
        let roots = if self.ca.is_none() {
            system_roots().clone()
        } else {
            let mut roots = RootCertStore::empty();
            for certificate in &given {
                roots.add(certificate.clone()).map_err(|error| bad("CA certificate", error))?;
            }
            Arc::new(roots)
        };
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
        Ok(Trust::Chains { given, webpki: webpki.map_err(|error| bad("CA certificate", error))? })
    }
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>, Error> {
        match self {
            Pem::File(path) => std::fs::read(path)
                .map_err(|error| Error::BadTls(format!("open {}: {error}", path.display()))),
            Pem::Text(text) => Ok(text.clone()),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let text = self.read()?;
        let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                Err(Error::BadTls(format!("no certificate in {self:?}")))
            }
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(bad("certificate", error)),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(&self.read()?).map_err(|error| bad("private key", error))
    }
}

/// The authorities that the system trusts. Looked up once: there are hundreds.
fn system_roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    })
}

fn bad(what: &str, error: impl std::fmt::Display) -> Error {
    Error::BadTls(format!("{what}: {error}"))
}

/// Whom we believe. All have to prove that they have the key of their certificate.
#[derive(Debug)]
struct Servers {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    Anybody,
    /// Whoever has a chain to an authority, and one of those that we were given when it answers by itself: many a
    /// self-signed certificate is marked as an authority.
    Chains {
        given: Vec<CertificateDer<'static>>,
        webpki: Arc<WebPkiServerVerifier>,
    },
}

/// The mark is the last thing but the purpose that webpki looks at: the time is good by then.
fn is_about_the_mark(error: &RustlsError) -> bool {
    matches!(error, RustlsError::InvalidCertificate(CertificateError::Other(reason))
        if reason.to_string() == "CaUsedAsEndEntity")
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let Trust::Chains { given, webpki } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(error) if is_about_the_mark(&error) && given.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_files_are_told_by_name() {
        let missing = Tls::new().ca_file("/nowhere/ca.crt").for_host("h").unwrap_err();
        assert!(missing.to_string().starts_with("open /nowhere/ca.crt: "), "{missing}");
        let empty = Tls::new().ca_pem("nothing").for_host("h").unwrap_err();
        assert_eq!(empty.to_string(), "no certificate in Text(..)");
    }

    #[test]
    fn keys_are_not_shown() {
        let tls = Tls::new().identity_pem("cert", "very secret");
        assert!(!format!("{tls:?}").contains("secret"));
    }

    #[test]
    fn hosts_may_be_names_and_addresses() {
        let tls = Tls::new().insecure_skip_verify();
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            assert!(tls.for_host(host).is_ok(), "{host}");
        }
        assert!(tls.for_host("no host").is_err());
        assert!(tls.server_name("a.b").for_host("no host").is_ok(), "the given name counts");
    }
}
