//! How other members are reached: over TCP or a unix socket, encrypted where their URL says so.

use std::io;
use std::sync::{Arc, OnceLock};

use retcd_net::listener::Stream;
use retcd_net::tls::{self, Connector};
use retcd_net::url::Url;
use tokio::net::{TcpStream, UnixStream};

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: tls::Settings,
    /// Made at once if files are named, as they must be good; otherwise for the first https URL, since the authorities
    /// of the system are many.
    connector: OnceLock<Connector>,
}

impl Dialer {
    /// # Errors
    /// Files that are missing or hold something else.
    pub(crate) fn new(settings: tls::Settings) -> Result<Self, tls::Error> {
        let names_files = !settings.is_empty() || !settings.trusted_ca_file.as_os_str().is_empty();
        let dialer = Self { shared: Arc::new(Shared { settings, connector: OnceLock::new() }) };
        if names_files {
            dialer.connector()?;
        }
        Ok(dialer)
    }

    fn connector(&self) -> Result<&Connector, tls::Error> {
        let Shared { settings, connector } = &*self.shared;
        if connector.get().is_none() {
            // Members speak HTTP/1.1 and ask for nothing else, as etcd's do.
            let made = Connector::new(settings, &[], false)?;
            return Ok(connector.get_or_init(|| made));
        }
        Ok(connector.get().expect("it was just there"))
    }

    /// Connects. The time that it may take is the caller's to limit.
    pub(crate) async fn dial(&self, url: &Url) -> io::Result<Stream> {
        let stream = plain(url).await?;
        if !url.is_tls() {
            return Ok(stream);
        }
        let connector = self.connector().map_err(io::Error::other)?;
        // Go's name for the host behind a unix socket is its path; certificates name none.
        connector.connect(stream, url.host().unwrap_or("localhost")).await
    }
}

async fn plain(url: &Url) -> io::Result<Stream> {
    if let Some(path) = url.socket_path() {
        return Ok(Stream::Unix(UnixStream::connect(path).await?));
    }
    let (Some(host), Some(port)) = (url.host(), url.port()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a URL without host and port"));
    };
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

#[cfg(test)]
impl Dialer {
    /// For plain URLs.
    pub(crate) fn plain() -> Self {
        Self::new(tls::Settings::default()).unwrap()
    }
}
