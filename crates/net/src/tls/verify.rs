//! Whom we believe.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as RustlsError,
    RootCertStore, SignatureScheme,
};

use super::settings::is_none;
use super::x509::{Certificate, Names};
use super::{Error, Settings, identity};

/// The owner of a good certificate is not one of those who are let in. The other side hears of a bad certificate, as
/// from etcd.
const NOT_ALLOWED: CertificateError = CertificateError::NotValidForName;

/// Authorities, as certificates and as what webpki makes of them.
#[derive(Debug)]
pub(super) struct Authorities {
    /// None: the system's.
    given: Option<Vec<CertificateDer<'static>>>,
    roots: Arc<RootCertStore>,
}

impl Authorities {
    /// Those of the file, or the system's if none is named.
    pub(super) fn load(settings: &Settings) -> Result<Self, Error> {
        let path = &settings.trusted_ca_file;
        if is_none(path) {
            return Ok(Self { given: None, roots: system_roots().clone() });
        }
        let given = identity::certificates(path, &identity::read(path)?)?;
        if given.is_empty() {
            return Err(Error::NoAuthority(path.clone()));
        }
        let mut roots = RootCertStore::empty();
        for certificate in &given {
            roots.add(certificate.clone()).map_err(|error| Error::Unreadable {
                what: "certificate",
                path: path.clone(),
                reason: error.to_string(),
            })?;
        }
        Ok(Self { given: Some(given), roots: Arc::new(roots) })
    }

    /// Whether this certificate itself was named: then there is no chain to look for, and it may as well be an authority.
    fn contain(&self, certificate: &CertificateDer<'_>) -> bool {
        self.given.as_ref().is_some_and(|given| given.iter().any(|own| own == certificate))
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

/// Which owners of certificates are let in, once they are verified.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowed {
    common_names: Vec<String>,
    hosts: Vec<String>,
}

impl Allowed {
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        let (cns, hostnames) = (settings.allowed_cns.clone(), settings.allowed_hostnames.clone());
        if !cns.is_empty() && !hostnames.is_empty() {
            return Err(Error::AllowedTwice { cns, hostnames });
        }
        Ok(Self { common_names: cns, hosts: hostnames })
    }

    pub(super) fn is_everybody(&self) -> bool {
        self.common_names.is_empty() && self.hosts.is_empty()
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), RustlsError> {
        if self.is_everybody() {
            return Ok(());
        }
        let names = names_of(certificate);
        let is_allowed = self.common_names.contains(&names.common_name)
            || self.hosts.iter().any(|host| names.include(host));
        if is_allowed { Ok(()) } else { Err(NOT_ALLOWED.into()) }
    }
}

fn names_of(certificate: &CertificateDer<'_>) -> Names {
    Certificate::read(certificate).map(|read| read.names).unwrap_or_default()
}

fn other_host(certificate: &CertificateDer<'_>, host: &ServerName<'_>) -> RustlsError {
    let presented = names_of(certificate).comparable(&host.to_str());
    CertificateError::NotValidForNameContext { expected: host.to_owned(), presented }.into()
}

/// A certificate that was named itself is good for its own time.
fn check_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), RustlsError> {
    let read = Certificate::read(certificate).ok_or(CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if read.valid.contains(&now) { Ok(()) } else { Err(CertificateError::Expired.into()) }
}

/// Verifies those who connect.
pub(super) struct Clients {
    authorities: Authorities,
    chains: Arc<dyn ClientCertVerifier>,
    allowed: Allowed,
}

impl Clients {
    pub(super) fn new(
        authorities: Authorities,
        allowed: Allowed,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let chains = WebPkiClientVerifier::builder_with_provider(
            authorities.roots.clone(),
            provider.clone(),
        );
        let chains = chains.build().map_err(|error| Error::Unusable(error.to_string()))?;
        Ok(Self { authorities, chains, allowed })
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, RustlsError> {
        if self.authorities.contain(end_entity) {
            check_time(end_entity, now)?;
        } else {
            self.chains.verify_client_cert(end_entity, intermediates, now)?;
        }
        self.allowed.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        self.chains.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        self.chains.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Verifies those whom we dial.
pub(super) struct Servers {
    trust: Trust,
    allowed: Allowed,
    provider: Arc<CryptoProvider>,
}

enum Trust {
    /// Whoever answers. With allowed names nobody is believed: an unverified name is worth nothing.
    Anybody,
    Chains(Authorities, Arc<WebPkiServerVerifier>),
}

impl Servers {
    pub(super) fn new(
        authorities: Option<Authorities>,
        allowed: Allowed,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let trust = match authorities {
            None => Trust::Anybody,
            Some(authorities) => {
                let chains = WebPkiServerVerifier::builder_with_provider(
                    authorities.roots.clone(),
                    provider.clone(),
                );
                let chains = chains.build().map_err(|error| Error::Unusable(error.to_string()))?;
                Trust::Chains(authorities, chains)
            }
        };
        Ok(Self { trust, allowed, provider: provider.clone() })
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").field("allowed", &self.allowed).finish_non_exhaustive()
    }
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
        match &self.trust {
            Trust::Anybody if self.allowed.is_everybody() => {}
            Trust::Anybody => return Err(NOT_ALLOWED.into()),
            Trust::Chains(authorities, _) if authorities.contain(end_entity) => {
                check_time(end_entity, now)?;
                if !names_of(end_entity).include(&server_name.to_str()) {
                    return Err(other_host(end_entity, server_name));
                }
                self.allowed.check(end_entity)?;
            }
            Trust::Chains(_, chains) => {
                let verified = chains.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                );
                verified.map_err(|error| match error {
                    RustlsError::InvalidCertificate(
                        CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. },
                    ) => other_host(end_entity, server_name),
                    other => other,
                })?;
                self.allowed.check(end_entity)?;
            }
        }
        Ok(ServerCertVerified::assertion())
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
