//! The ports of a member: which are taken, for whom, and how connections come in.
//!
//! A plain connection is in when it is accepted. An encrypted one has its handshake first, in its own task, and is logged
//! in etcd's words if it fails. http and https URLs may have the same address: then the client's first byte decides.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use retcd_net::listener::{self, Bound, Stream};
use retcd_net::tls::{self, Acceptor, Reason, Rejected, create_self_signed};
use retcd_net::{Url, UrlList};

use crate::config::{Config, Gate, Security, UrlKind};
use crate::http::Scope;
use crate::logging;
use crate::peer::Dialer;

/// Why a member cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Listen(#[from] listener::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("failed to get {0} self-signed certs: {1}")]
    SelfSigned(&'static str, #[source] tls::SelfSignedError),
}

/// What clients speak, the most wanted first.
const CLIENT_PROTOCOLS: &[&str] = &["h2", "http/1.1"];

/// What members speak.
const PEER_PROTOCOLS: &[&str] = &["http/1.1"];

/// All ports of a member, and its way to those of others.
pub(crate) struct Doors {
    pub(crate) clients: Vec<Door>,
    pub(crate) peers: Vec<(Bound, Entry)>,
    pub(crate) dialer: Dialer,
}

/// A port that is taken, and what is behind it.
pub(crate) struct Door {
    pub(crate) bound: Bound,
    pub(crate) scope: Scope,
    pub(crate) entry: Entry,
}

/// How connections come in.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Plain,
    Encrypted(Arc<Acceptor>),
    Either(Arc<Acceptor>),
}

impl Entry {
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain | Self::Either(_))
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Encrypted(_) | Self::Either(_))
    }

    /// Lets a connection in. None: it was not, and the log says why.
    pub(crate) async fn admit(
        &self,
        stream: Stream,
        remote: Option<SocketAddr>,
        kind: UrlKind,
    ) -> Option<Stream> {
        let acceptor = match self {
            Self::Plain => return Some(stream),
            Self::Encrypted(acceptor) => acceptor,
            Self::Either(acceptor) => match stream.begins_with_handshake().await {
                Ok(true) => acceptor,
                Ok(false) => return Some(stream),
                Err(_) => return None,
            },
        };
        let admitted = acceptor.accept(stream, remote).await;
        admitted.inspect_err(|rejected| log_rejection(rejected, remote, kind)).ok()
    }
}

/// Takes all ports.
pub(crate) fn open(config: &Config) -> Result<Doors, Error> {
    let settings = in_use(config, UrlKind::Peer, &config.listen_peer_urls)?;
    let acceptor = || Acceptor::new(&settings, PEER_PROTOCOLS, true).map(Arc::new);
    let acceptor = config.listen_peer_urls.iter().any(Url::is_tls).then(acceptor).transpose()?;
    Ok(Doors {
        peers: bind(&config.listen_peer_urls, config, acceptor.as_ref())?,
        dialer: Dialer::new(settings, local_address(config))?,
        clients: open_for_clients(config)?,
    })
}

/// The address that other members see, with the gate `SetMemberLocalAddr`: the first one that they are told and that can
/// be theirs to see.
fn local_address(config: &Config) -> Option<IpAddr> {
    if !config.feature_gates.is_enabled(Gate::SetMemberLocalAddr) {
        return None;
    }
    let advertised = &config.initial_advertise_peer_urls;
    let addresses = advertised.iter().filter_map(|url| url.host()?.parse::<IpAddr>().ok());
    let found = addresses.into_iter().find(|ip| !ip.is_loopback() && !ip.is_unspecified());
    if let Some(ip) = found {
        tracing::info!(local_addr = %ip, "setting member local address");
    } else {
        let advertise_peer_urls = logging::strings(&advertised.to_strings()).to_string();
        tracing::warn!(
            advertise_peer_urls,
            "unable to set a member local address due to lack of suitable local addresses"
        );
    }
    found
}

/// Takes the ports for clients and for metrics.
fn open_for_clients(config: &Config) -> Result<Vec<Door>, Error> {
    let has_http_urls = !config.listen_client_http_urls.is_empty();
    let lists = [
        (&config.listen_client_urls, if has_http_urls { Scope::Grpc } else { Scope::Client }),
        (&config.listen_client_http_urls, Scope::Http),
        (&config.listen_metrics_urls, Scope::Metrics),
    ];
    let urls = || lists.iter().flat_map(|(urls, _)| urls.iter());
    let own: UrlList = urls().cloned().collect();
    let settings = in_use(config, UrlKind::Client, &own)?;
    let acceptor = |checks_origin| {
        let acceptor = || Acceptor::new(&settings, CLIENT_PROTOCOLS, checks_origin).map(Arc::new);
        urls().any(Url::is_tls).then(acceptor).transpose()
    };
    // As in etcd, a certificate that names hosts must fit on listeners for metrics and need not on those for clients.
    let (for_clients, for_metrics) = (acceptor(false)?, acceptor(true)?);
    let mut doors = Vec::new();
    for (urls, scope) in lists {
        let acceptor = if scope == Scope::Metrics { &for_metrics } else { &for_clients };
        for (bound, entry) in bind(urls, config, acceptor.as_ref())? {
            doors.push(Door { bound, scope, entry });
        }
    }
    Ok(doors)
}

/// One port for all URLs with the same address.
fn bind(
    urls: &UrlList,
    config: &Config,
    acceptor: Option<&Arc<Acceptor>>,
) -> Result<Vec<(Bound, Entry)>, Error> {
    let mut taken: Vec<(Bound, Entry)> = Vec::new();
    for url in urls {
        let wanted = match acceptor.filter(|_| url.is_tls()) {
            Some(acceptor) => Entry::Encrypted(acceptor.clone()),
            None => Entry::Plain,
        };
        match taken.iter_mut().find(|(bound, _)| bound.url().address() == url.address()) {
            Some((_, entry)) => {
                *entry = match (&*entry, wanted) {
                    (Entry::Plain, Entry::Encrypted(acceptor)) => Entry::Either(acceptor),
                    (Entry::Encrypted(acceptor), Entry::Plain) => Entry::Either(acceptor.clone()),
                    (same, _) => same.clone(),
                };
            }
            None => taken.push((listener::bind(url, config.socket_options)?, wanted)),
        }
    }
    Ok(taken)
}

/// The settings that count: those of the flags, or of a certificate that is made now or was made before.
fn in_use(config: &Config, kind: UrlKind, urls: &[Url]) -> Result<tls::Settings, Error> {
    let (name, Security { tls, is_automatic }) = match kind {
        UrlKind::Client => ("client", &config.client_security),
        UrlKind::Peer => ("peer", &config.peer_security),
    };
    let settings = if *is_automatic && tls.is_empty() {
        let dir = config.data_dir.join("fixtures").join(name);
        self_signed(&dir, urls, config.self_signed_years)
            .map_err(|error| Error::SelfSigned(name, error))?
            .into_settings(tls)
    } else {
        tls.clone()
    };
    if !settings.is_empty() {
        tracing::info!(
            tls_info = %settings,
            cipher_suites = %logging::strings(&settings.cipher_suites),
            "starting with {name} TLS"
        );
    }
    Ok(settings)
}

fn self_signed(
    dir: &Path,
    urls: &[Url],
    years: u32,
) -> Result<tls::SelfSigned, tls::SelfSignedError> {
    let made = create_self_signed(dir, urls, years)?;
    if let Some(until) = made.made_until {
        tracing::warn!(
            certificate_validity_bound_not_after = logging::time(until),
            "automatically generate certificates"
        );
        tracing::info!(path = %made.cert_file.display(), "created cert file");
        tracing::info!(path = %made.key_file.display(), "created key file");
    }
    Ok(made)
}

fn log_rejection(rejected: &Rejected, remote: Option<SocketAddr>, kind: UrlKind) {
    // Go's name for a client over a unix socket.
    let remote_addr = remote.map_or_else(|| "@".to_owned(), |remote| remote.to_string());
    let Rejected { reason, server_name, names } = rejected;
    if let Reason::Identity(error) = reason {
        if error.is_not_found() {
            tracing::warn!(%error, "failed to find peer cert files");
        } else {
            tracing::warn!(%error, "failed to create peer certificate");
        }
    }
    let message = match kind {
        UrlKind::Client => "rejected connection on client endpoint",
        UrlKind::Peer => "rejected connection on peer endpoint",
    };
    if matches!(reason, Reason::Eof) {
        tracing::debug!(remote_addr, server_name, error = %reason, "{message}");
        return;
    }
    let Some(names) = names else {
        tracing::warn!(remote_addr, server_name, error = %reason, "{message}");
        return;
    };
    let ips: Vec<String> = names.ip_addresses.iter().map(ToString::to_string).collect();
    tracing::warn!(
        remote_addr,
        server_name,
        ip_addresses = %logging::strings(&ips),
        dns_names = %logging::strings(&names.dns_names),
        error = %reason,
        "{message}"
    );
}
