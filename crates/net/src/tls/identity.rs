//! The certificate that we show, out of files that may be renewed at any time.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error as RustlsError, SignatureScheme};

use super::settings::is_none;
use super::{Error, Settings};

/// A chain of certificates and the key of its first one.
pub(super) struct Identity {
    cert_file: PathBuf,
    key_file: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Mutex<Current>,
}

/// What was read last.
struct Current {
    cert: Vec<u8>,
    key: Vec<u8>,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    pub(super) fn load(
        cert_file: &Path,
        key_file: &Path,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let (cert, key) = (read(cert_file)?, read(key_file)?);
        let certified = certify(cert_file, &cert, key_file, &key, provider)?;
        Ok(Self {
            cert_file: cert_file.to_owned(),
            key_file: key_file.to_owned(),
            provider: provider.clone(),
            current: Mutex::new(Current { cert, key, certified }),
        })
    }

    /// Takes up files that have changed. With an error the next connection must not be made.
    pub(super) fn refresh(&self) -> Result<(), Error> {
        let (cert, key) = (read(&self.cert_file)?, read(&self.key_file)?);
        let mut current = self.current.lock();
        if current.cert != cert || current.key != key {
            let certified = certify(&self.cert_file, &cert, &self.key_file, &key, &self.provider)?;
            *current = Current { cert, key, certified };
        }
        Ok(())
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        self.current.lock().certified.clone()
    }
}

fn certify(
    cert_file: &Path,
    cert: &[u8],
    key_file: &Path,
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(cert_file, cert)?;
    if chain.is_empty() {
        return Err(Error::NoPem("certificate"));
    }
    // What stands in the file is not repeated: it is a secret.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Error::NoPem("key"))?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        RustlsError::InconsistentKeys(_) => Error::Mismatch,
        RustlsError::General(reason) => {
            Error::Unreadable { what: "private key", path: key_file.to_owned(), reason }
        }
        other => {
            let reason = other.to_string();
            Error::Unreadable { what: "certificate", path: cert_file.to_owned(), reason }
        }
    })?;
    Ok(Arc::new(certified))
}

/// All certificates of a PEM file.
pub(super) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| {
        Error::Unreadable { what: "certificate", path: path.to_owned(), reason: error.to_string() }
    })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Open { path: path.to_owned(), source })
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Keys are nobody's business.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("cert_file", &self.cert_file).finish_non_exhaustive()
    }
}

/// What the settings show to clients, and what to others if that is something else.
pub(super) fn of_settings(
    settings: &Settings,
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<Identity>, Option<Arc<Identity>>), Error> {
    let Settings { cert_file, key_file, client_cert_file, client_key_file, .. } = settings;
    let shown = |path: &Path| path.display().to_string();
    if is_none(cert_file) || is_none(key_file) {
        return Err(Error::HalfIdentity { key: shown(key_file), cert: shown(cert_file) });
    }
    let own = Arc::new(Identity::load(cert_file, key_file, provider)?);
    let (key, cert) = (shown(client_key_file), shown(client_cert_file));
    match (is_none(client_cert_file), is_none(client_key_file)) {
        (true, true) => Ok((own, None)),
        (false, false) => {
            let as_client = Identity::load(client_cert_file, client_key_file, provider)?;
            Ok((own, Some(Arc::new(as_client))))
        }
        _ => Err(Error::HalfClientIdentity { key, cert }),
    }
}
