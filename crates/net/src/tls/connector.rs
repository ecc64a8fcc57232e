//! Encrypts connections that were dialled.

use std::io;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;

use super::identity::{self, Identity};
use super::verify::{Allowed, Authorities, Servers};
use super::{Error, HANDSHAKE_LIMIT, Settings, words};
use crate::Stream;

/// The way to https URLs.
#[derive(Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// What we show when we are asked.
    identity: Option<Arc<Identity>>,
    server_name: Option<String>,
}

impl Connector {
    /// `protocols` are asked for by ALPN; none at all if empty. With `is_blind` whoever answers is believed.
    ///
    /// # Errors
    /// Files that are missing or hold something else, and settings that contradict each other.
    pub fn new(settings: &Settings, protocols: &[&str], is_blind: bool) -> Result<Self, Error> {
        let provider = settings.provider();
        let identity = if settings.is_empty() {
            None
        } else {
            let (own, as_client) = identity::of_settings(settings, &provider)?;
            Some(as_client.unwrap_or(own))
        };
        let is_blind = is_blind || settings.is_self_signed;
        let authorities = if is_blind { None } else { Some(Authorities::load(settings)?) };
        let servers = Servers::new(authorities, Allowed::new(settings)?, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&settings.versions())
            .map_err(|error| Error::Unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers));
        let mut config = match &identity {
            Some(identity) => builder.with_client_cert_resolver(identity.clone()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), identity, server_name: settings.server_name.clone() })
    }

    /// Encrypts a connection to `host`, which must be who it says.
    ///
    /// # Errors
    /// Own files that cannot be read, and whatever goes wrong on the way, in Go's words.
    pub async fn connect(&self, stream: Stream, host: &str) -> io::Result<Stream> {
        if let Some(identity) = &self.identity {
            identity.refresh().map_err(io::Error::other)?;
        }
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let connecting = TlsConnector::from(self.config.clone()).connect(name, stream);
        match timeout(HANDSHAKE_LIMIT, connecting).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
            Ok(Err(error)) => Err(io::Error::new(error.kind(), words::handshake(&error))),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timeout")),
        }
    }
}
