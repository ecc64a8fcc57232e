//! Encrypts connections that were accepted.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio_rustls::rustls::server::{Acceptor as HelloReader, NoServerSessionStorage};
use tokio_rustls::server::TlsStream;

use super::identity::{self, Identity};
use super::settings::is_none;
use super::verify::{Allowed, Authorities, Clients};
use super::x509::{Certificate, Names, revoked_serials};
use super::{Error, HANDSHAKE_LIMIT, Settings, remote, words};
use crate::Stream;

/// The way into https URLs.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    identity: Arc<Identity>,
    revoked: Option<Revoked>,
    checks_origin: bool,
}

/// Why a connection was not let in.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Rejected {
    pub reason: Reason,
    /// What the client called us; empty if it did not.
    pub server_name: String,
    /// Of the client's certificate, once that was verified.
    pub names: Option<Names>,
}

#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// Our own certificate cannot be read.
    #[error(transparent)]
    Identity(#[from] Error),
    /// The client has left in the middle of it.
    #[error("EOF")]
    Eof,
    #[error("{0}")]
    Handshake(String),
    /// The client's certificate was verified, but is revoked or not made out to it.
    #[error("{0}")]
    Certificate(String),
}

impl Acceptor {
    /// `protocols` are offered by ALPN, the most wanted first. `checks_origin`: a certificate that names hosts must name the
    /// one that it comes from.
    ///
    /// # Errors
    /// Files that are missing or hold something else, and settings that contradict each other.
    pub fn new(
        settings: &Settings,
        protocols: &[&str],
        checks_origin: bool,
    ) -> Result<Self, Error> {
        let provider = settings.provider();
        let (own, _) = identity::of_settings(settings, &provider)?;
        let allowed = Allowed::new(settings)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&settings.versions())
            .map_err(|error| Error::Unusable(error.to_string()))?;
        let builder = if settings.wants_client_certificates() {
            let clients = Clients::new(Authorities::load(settings)?, allowed, &provider)?;
            builder.with_client_cert_verifier(Arc::new(clients))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(own.clone());
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
            identity: own,
            revoked: (!is_none(&settings.crl_file)).then(|| Revoked::new(&settings.crl_file)),
            checks_origin: checks_origin && !settings.skips_client_san_verification,
        })
    }

    /// Lets a client in. `remote` is its address; a unix socket has none.
    ///
    /// # Errors
    /// [`Rejected`] is for the log: the client has been told already, or left.
    pub async fn accept(
        &self,
        stream: Stream,
        remote: Option<SocketAddr>,
    ) -> Result<Stream, Rejected> {
        let mut server_name = String::new();
        let handshake = timeout(HANDSHAKE_LIMIT, self.handshake(stream, &mut server_name)).await;
        let handshake =
            handshake.unwrap_or_else(|_| Err(Reason::Handshake("i/o timeout".to_owned())));
        let rejected = |reason, server_name, names| Rejected { reason, server_name, names };
        let stream = match handshake {
            Ok(stream) => stream,
            Err(reason) => return Err(rejected(reason, server_name, None)),
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        if let Some(own) = chain.first() {
            let names = Certificate::read(own).map(|read| read.names).unwrap_or_default();
            if let Err(reason) = self.check(chain, &names, remote).await {
                return Err(rejected(reason, server_name, Some(names)));
            }
        }
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    async fn handshake(
        &self,
        stream: Stream,
        server_name: &mut String,
    ) -> Result<TlsStream<Stream>, Reason> {
        self.identity.refresh()?;
        let hello = LazyConfigAcceptor::new(HelloReader::default(), stream).await;
        let hello = hello.map_err(|error| failed(&error))?;
        let asked_for = hello.client_hello();
        server_name.push_str(asked_for.server_name().unwrap_or_default());
        hello.into_stream(self.config.clone()).await.map_err(|error| failed(&error))
    }

    /// What is asked of a certificate beyond that it was verified.
    async fn check(
        &self,
        chain: &[CertificateDer<'_>],
        names: &Names,
        remote: Option<SocketAddr>,
    ) -> Result<(), Reason> {
        if let (true, Some(remote)) = (self.checks_origin, remote) {
            remote::check(names, remote.ip()).await.map_err(Reason::Certificate)?;
        }
        match &self.revoked {
            Some(revoked) => {
                revoked.check(chain).map_err(|reason| Reason::Certificate(reason.to_string()))
            }
            None => Ok(()),
        }
    }
}

fn failed(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Reason::Eof,
        _ => Reason::Handshake(words::handshake(error)),
    }
}

/// A revocation list, in DER or PEM.
#[derive(Debug)]
struct Revoked {
    path: PathBuf,
    /// What was read last, and the serial numbers in it.
    current: Mutex<(Vec<u8>, HashSet<Vec<u8>>)>,
}

impl Revoked {
    fn new(path: &std::path::Path) -> Self {
        Self { path: path.to_owned(), current: Mutex::default() }
    }

    /// A list that cannot be read may have named anybody.
    fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let text = identity::read(&self.path)?;
        let mut current = self.current.lock();
        if current.0 != text || text.is_empty() {
            let serials =
                serials(&text).ok_or_else(|| Error::NoRevocationList(self.path.clone()))?;
            *current = (text, serials);
        }
        for certificate in chain.iter().filter_map(|der| Certificate::read(der)) {
            if current.1.contains(&certificate.serial) {
                return Err(Error::Revoked(hex(&certificate.serial)));
            }
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn serials(text: &[u8]) -> Option<HashSet<Vec<u8>>> {
    let owned = |der: &[u8]| {
        let serials = revoked_serials(der)?;
        Some(serials.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>())
    };
    if !text.starts_with(b"-----BEGIN") {
        return owned(text).map(HashSet::from_iter);
    }
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    let lists = lists.ok().filter(|lists| !lists.is_empty())?;
    let all: Option<Vec<Vec<Vec<u8>>>> = lists.iter().map(|list| owned(list)).collect();
    Some(all?.into_iter().flatten().collect())
}
