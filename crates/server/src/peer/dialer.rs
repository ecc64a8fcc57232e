//! How other members are reached: over TCP or a unix socket, encrypted where their URL says so.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use retcd_net::listener::Stream;
use retcd_net::tls::{self, Connector};
use retcd_net::url::Url;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: tls::Settings,
    /// The address of this machine that others see.
    local: Option<IpAddr>,
    /// Made at once if files are named, as they must be good; otherwise for the first https URL, since the authorities
    /// of the system are many.
    connector: OnceLock<Connector>,
}

impl Dialer {
    /// With `local`, others see connections come from this address.
    ///
    /// # Errors
    /// Files that are missing or hold something else.
    pub(crate) fn new(settings: tls::Settings, local: Option<IpAddr>) -> Result<Self, tls::Error> {
        let names_files = !settings.is_empty() || !settings.trusted_ca_file.as_os_str().is_empty();
        let dialer =
            Self { shared: Arc::new(Shared { settings, local, connector: OnceLock::new() }) };
        if names_files {
            dialer.connector()?;
        }
        Ok(dialer)
    }

    fn connector(&self) -> Result<&Connector, tls::Error> {
        let Shared { settings, connector, .. } = &*self.shared;
        if connector.get().is_none() {
            // Members speak HTTP/1.1 and ask for nothing else, as etcd's do.
            let made = Connector::new(settings, &[], false)?;
            return Ok(connector.get_or_init(|| made));
        }
        Ok(connector.get().expect("it was just there"))
    }

    /// Connects. The time that it may take is the caller's to limit.
    pub(crate) async fn dial(&self, url: &Url) -> io::Result<Stream> {
        let stream = plain(url, self.shared.local).await?;
        if !url.is_tls() {
            return Ok(stream);
        }
        let connector = self.connector().map_err(io::Error::other)?;
        // Go's name for the host behind a unix socket is its path; certificates name none.
        connector.connect(stream, url.host().unwrap_or("localhost")).await
    }
}

async fn plain(url: &Url, local: Option<IpAddr>) -> io::Result<Stream> {
    if let Some(path) = url.socket_path() {
        return Ok(Stream::Unix(UnixStream::connect(path).await?));
    }
    let (Some(host), Some(port)) = (url.host(), url.port()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a URL without host and port"));
    };
    let stream = match local {
        Some(local) => connect_from(local, host, port).await?,
        None => TcpStream::connect((host, port)).await?,
    };
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

async fn connect_from(local: IpAddr, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last_error = None;
    for address in tokio::net::lookup_host((host, port)).await? {
        let connected = async {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.bind(SocketAddr::new(local, 0))?;
            socket.connect(address).await
        };
        match connected.await {
            Ok(stream) => return Ok(stream),
            Err(error) => last_error = Some(error),
        }
    }
    Err(last_error.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
impl Dialer {
    /// For plain URLs.
    pub(crate) fn plain() -> Self {
        Self::new(tls::Settings::default(), None).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn others_see_the_address_that_was_chosen() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let local = IpAddr::from([127, 0, 0, 2]);
        let dialer = Dialer::new(tls::Settings::default(), Some(local)).unwrap();
        let (dialled, accepted) = tokio::join!(dialer.dial(&url), listener.accept());
        assert_eq!(accepted.unwrap().1.ip(), local);
        drop(dialled.unwrap());
    }
}
