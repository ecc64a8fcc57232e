//! From the text of an endpoint to a connection: TCP or a unix socket, with TLS or without.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::{Error, Tls};

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    place: Place,
    encryption: Encryption,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Tcp(Authority),
    Unix(PathBuf),
}

/// What the scheme of an endpoint says about TLS; the same as in etcd's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    /// `http:`
    Never,
    /// No scheme, or `unix:`: when the client has been told about certificates.
    IfConfigured,
    /// `https:`, `unixs:`
    Always,
}

/// A byte stream in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
pub(crate) type Io = Box<dyn Duplex>;

/// Dials one address, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    address: Address,
    tls: Option<Arc<Tls>>,
    timeout: Duration,
}

impl Address {
    /// Reads `host:port`, `http://host:port`, `https://host:port`, `unix:path` or `unixs:path`.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`] for anything else.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadEndpoint(format!("endpoint {text:?} is not an address"));
        let trimmed = text.trim();
        let unix = |path: &str, encryption| {
            let path = path.strip_prefix("//").unwrap_or(path);
            let place = Place::Unix(PathBuf::from(path));
            if path.is_empty() { Err(bad()) } else { Ok(Address { place, encryption }) }
        };
        if let Some(path) = trimmed.strip_prefix("unix:") {
            return unix(path, Encryption::IfConfigured);
        }
        if let Some(path) = trimmed.strip_prefix("unixs:") {
            return unix(path, Encryption::Always);
        }
        let (encryption, rest) = if let Some(rest) = trimmed.strip_prefix("http://") {
            (Encryption::Never, rest)
        } else if let Some(rest) = trimmed.strip_prefix("https://") {
            (Encryption::Always, rest)
        } else {
            (Encryption::IfConfigured, trimmed)
        };
        let authority: Authority = rest.trim_end_matches('/').parse().map_err(|_| bad())?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(bad());
        }
        Ok(Address { place: Place::Tcp(authority), encryption })
    }

    fn is_encrypted(&self, tls: Option<&Arc<Tls>>) -> bool {
        match self.encryption {
            Encryption::Never => false,
            Encryption::IfConfigured => tls.is_some(),
            Encryption::Always => true,
        }
    }

    /// The host that a certificate has to name.
    fn host(&self) -> &str {
        match &self.place {
            Place::Tcp(authority) => authority.host(),
            Place::Unix(_) => "localhost",
        }
    }
}

impl Dialer {
    /// Prepares to dial `address`, encrypted by `tls` if the address wants or allows it.
    ///
    /// # Errors
    /// [`Error::BadTls`] when encryption is needed and cannot work.
    pub(crate) fn new(
        address: Address,
        tls: Option<&Arc<Tls>>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let tls = if address.is_encrypted(tls) {
            let tls = tls.cloned().unwrap_or_else(system_trust);
            tls.for_host(address.host())?;
            Some(tls)
        } else {
            None
        };
        Ok(Dialer { address, tls, timeout })
    }

    /// Whether the other one leads to the same place in the same way.
    pub(crate) fn is_same(&self, other: &Dialer) -> bool {
        let is_same_tls = match (&self.tls, &other.tls) {
            (Some(tls), Some(other)) => Arc::ptr_eq(tls, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.address == other.address && is_same_tls
    }

    /// What requests over this connection are addressed to, as HTTP sees it.
    pub(crate) fn origin(&self) -> Uri {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let authority = match &self.address.place {
            Place::Tcp(authority) => authority.as_str(),
            Place::Unix(_) => "localhost",
        };
        format!("{scheme}://{authority}/").parse().expect("an authority makes a URI")
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// How long it may take to connect.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Connects, within the time limit.
    pub(crate) async fn dial(&self) -> std::io::Result<Io> {
        match tokio::time::timeout(self.timeout, self.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "i/o timeout")),
        }
    }

    async fn connect(&self) -> std::io::Result<Io> {
        match &self.address.place {
            Place::Tcp(authority) => {
                let host = authority.host().trim_start_matches('[').trim_end_matches(']');
                let standard = if self.tls.is_some() { 443 } else { 80 };
                let port = authority.port_u16().unwrap_or(standard);
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                self.encrypt(stream).await
            }
            Place::Unix(path) => self.encrypt(UnixStream::connect(path).await?).await,
        }
    }

    async fn encrypt(&self, stream: impl Duplex + 'static) -> std::io::Result<Io> {
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let (config, name) = tls.for_host(self.address.host()).map_err(std::io::Error::other)?;
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
    }
}

/// What `https:` means to a client that has been told nothing about certificates.
fn system_trust() -> Arc<Tls> {
    static SYSTEM: OnceLock<Arc<Tls>> = OnceLock::new();
    SYSTEM.get_or_init(Arc::default).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_need_an_address() {
        for bad in ["", "ftp://127.0.0.1:1", "http://[::1", "unix:", "http://", "a b:1", "u@h:1"] {
            assert!(Address::parse(bad).is_err(), "{bad:?} must be refused");
        }
        for good in [
            "127.0.0.1:2379",
            "localhost:2379",
            "http://[::1]:2379",
            "https://127.0.0.1:1/",
            " 127.0.0.1:2379",
            "unix:///run/etcd.sock",
            "unixs:relative.sock",
        ] {
            assert!(Address::parse(good).is_ok(), "{good:?} must be accepted");
        }
    }

    #[test]
    fn the_scheme_decides_on_encryption() {
        let tls = Arc::new(Tls::new().insecure_skip_verify());
        let origin = |text: &str, tls| {
            let address = Address::parse(text).unwrap();
            Dialer::new(address, tls, Duration::from_secs(1)).unwrap().origin().to_string()
        };
        assert_eq!(origin("h:1", None), "http://h:1/");
        assert_eq!(origin("h:1", Some(&tls)), "https://h:1/");
        assert_eq!(origin("http://h:1", Some(&tls)), "http://h:1/");
        assert_eq!(origin("unix:/s", None), "http://localhost/");
        assert_eq!(origin("unixs:/s", Some(&tls)), "https://localhost/");
    }
}
