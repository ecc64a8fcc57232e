//! Open sockets for clients and peers.
//!
//! The way is [`bind`] → [`Bound`] → [`Listener`] → [`Socket`] → [`Stream`]. `bind` needs no runtime, so a
//! member takes all its ports before it starts anything, and fails with the name of the one that is taken.
//! A [`Socket`] belongs to no runtime either: one task may accept and hand connections to other runtimes,
//! where [`Socket::into_stream`] registers them.
//!
//! As Go's listeners do, every TCP listener sets `SO_REUSEADDR` (a restart must not wait for old connections
//! to time out), and one on `0.0.0.0` or `[::]` takes both IP versions. Every connection gets `TCP_NODELAY`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsStream;

use crate::tls::{self, Names};
use crate::url::Url;

/// How many connections may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Socket options of `--socket-reuse-port` and `--socket-reuse-address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Several listeners may share the port (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// `SO_REUSEADDR`, which is on anyway; kept because the flag exists.
    pub reuse_address: bool,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {url}: {source}")]
    Bind { url: Url, source: io::Error },
    #[error("listen on {0}: another process listens on this socket")]
    SocketInUse(Url),
    #[error(transparent)]
    Url(#[from] crate::url::Error),
}

/// Takes the address of `url`.
///
/// # Errors
/// [`Error`] names the URL, also when the port is taken or the address is not one of this machine.
pub fn bind(url: &Url, options: Options) -> Result<Bound, Error> {
    url.check_bindable()?;
    let failed = |source| Error::Bind { url: url.clone(), source };
    let socket = match url.socket_path() {
        Some(path) => {
            remove_dead_socket(path, url)?;
            let listener = StdUnixListener::bind(path).map_err(failed)?;
            BoundSocket::Unix(listener, SocketFile(path.to_owned()))
        }
        None => BoundSocket::Tcp(bind_tcp(url, options).map_err(failed)?),
    };
    socket.set_nonblocking().map_err(failed)?;
    Ok(Bound { url: url.clone(), socket })
}

fn bind_tcp(url: &Url, options: Options) -> io::Result<std::net::TcpListener> {
    let port = url.port().expect("a URL without a socket path has a port");
    let mut last = None;
    for ip in candidates(url.host().expect("a URL without a socket path has a host")) {
        match bind_address(SocketAddr::new(ip, port), options) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            // This machine lacks the address or the whole IP version: the other one may do.
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("there is at least one candidate"))
}

/// The addresses to try. `localhost` is not looked up: it means the loopback addresses on every sane machine.
fn candidates(host: &str) -> Vec<IpAddr> {
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => vec![Ipv6Addr::UNSPECIFIED.into(), ip.into()],
        Ok(ip) => vec![ip],
        Err(_) => loopback.to_vec(),
    }
}

fn bind_address(address: SocketAddr, options: Options) -> io::Result<std::net::TcpListener> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket file outlives a killed process. It is removed when nobody answers there.
fn remove_dead_socket(path: &Path, url: &Url) -> Result<(), Error> {
    match StdUnixStream::connect(path) {
        Ok(_) => Err(Error::SocketInUse(url.clone())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| Error::Bind { url: url.clone(), source })
        }
        // Nothing there, or something that `bind` itself will complain about.
        Err(_) => Ok(()),
    }
}

/// Removes the socket file with its listener.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody can be told, and a file that stays is removed at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An address that is taken: connections queue in the kernel until a [`Listener`] accepts them.
#[derive(Debug)]
pub struct Bound {
    url: Url,
    socket: BoundSocket,
}

#[derive(Debug)]
enum BoundSocket {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener, SocketFile),
}

impl BoundSocket {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            Self::Unix(listener, _) => listener.set_nonblocking(true),
        }
    }
}

impl Bound {
    /// The URL as it was asked for.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The address that was taken, with the real port when port 0 was asked for; none for a socket path.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            BoundSocket::Tcp(listener) => listener.local_addr().ok(),
            BoundSocket::Unix(..) => None,
        }
    }

    /// Registers with the runtime of the caller.
    ///
    /// # Errors
    /// The reactor's.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO enabled.
    pub fn into_listener(self) -> io::Result<Listener> {
        let inner = match self.socket {
            BoundSocket::Tcp(listener) => Acceptor::Tcp(TcpListener::from_std(listener)?),
            BoundSocket::Unix(listener, file) => {
                Acceptor::Unix(UnixListener::from_std(listener)?, file)
            }
        };
        Ok(Listener { url: self.url, inner })
    }
}

/// Accepts connections. A unix socket's file goes away with it.
#[derive(Debug)]
pub struct Listener {
    url: Url,
    inner: Acceptor,
}

#[derive(Debug)]
enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "removes the file when dropped")] SocketFile),
}

impl Listener {
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Waits for a connection. Cancel-safe.
    ///
    /// # Errors
    /// What stays for a while, such as too many open files: the caller pauses and tries again. Connections
    /// that broke before they were accepted are skipped.
    pub async fn accept(&self) -> io::Result<Socket> {
        loop {
            match self.accept_one().await {
                Err(error) if concerns_one_connection(&error) => {}
                result => return result,
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Socket> {
        // Back to the standard library's types: the connection may be served by another runtime.
        match &self.inner {
            Acceptor::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream.into_std()?, remote))
            }
            Acceptor::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Socket::Unix(stream.into_std()?))
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, InvalidInput,
    };
    // Setting an option on a connection that the client has already reset gives EINVAL on some kernels.
    let kinds = [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, InvalidInput];
    kinds.contains(&error.kind())
}

/// An accepted connection that belongs to no runtime yet.
#[derive(Debug)]
pub enum Socket {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(StdUnixStream),
}

impl Socket {
    /// Who connected; none over a unix socket.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, remote) => Some(*remote),
            Self::Unix(_) => None,
        }
    }

    /// Registers with the runtime of the caller.
    ///
    /// # Errors
    /// The reactor's.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO enabled.
    pub fn into_stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream, _) => Stream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// A connection, whatever it runs over.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Over one of the others. In a box, as it is large and plain connections should not pay for it.
    Tls(Box<TlsStream<Stream>>),
}

/// The first byte of a TLS handshake, and of nothing else that is spoken here.
const TLS_HANDSHAKE: u8 = 0x16;

impl Stream {
    /// Whether a client over TCP begins with a TLS handshake. Waits for its first byte, and leaves that where it is.
    ///
    /// # Errors
    /// The socket's.
    pub async fn begins_with_handshake(&self) -> io::Result<bool> {
        let Self::Tcp(stream) = self else { return Ok(false) };
        let mut first = [0];
        Ok(stream.peek(&mut first).await? == 1 && first == [TLS_HANDSHAKE])
    }

    /// What the other side's verified certificate says about it; none without one.
    pub fn peer_names(&self) -> Option<Names> {
        let Self::Tls(stream) = self else { return None };
        Names::of_chain(stream.get_ref().1.peer_certificates()?)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf).map_err(tls::in_go_words),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf).map_err(tls::in_go_words),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => {
                Pin::new(stream).poll_write_vectored(cx, bufs).map_err(tls::in_go_words)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx).map_err(tls::in_go_words),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as StdTcpStream;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn bound(text: &str) -> Bound {
        bind(&Url::parse(text).unwrap(), Options::default()).unwrap()
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(future)
    }

    /// Reads one byte from the accepted side and sends it back.
    async fn echo(listener: &Listener) -> Stream {
        let mut stream = listener.accept().await.unwrap().into_stream().unwrap();
        let byte = stream.read_u8().await.unwrap();
        stream.write_u8(byte).await.unwrap();
        stream
    }

    #[test]
    fn tcp_connections_are_served_with_nodelay() {
        let taken = bound("http://localhost:0");
        let address = taken.local_addr().unwrap();
        assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);
        block_on(async {
            let listener = taken.into_listener().unwrap();
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_u8(7).await.unwrap();
            let Stream::Tcp(served) = echo(&listener).await else { panic!("not a TCP stream") };
            assert!(served.nodelay().unwrap());
            assert_eq!(client.read_u8().await.unwrap(), 7);
        });
    }

    #[test]
    fn a_handshake_is_told_by_its_first_byte() {
        let taken = bound("http://127.0.0.1:0");
        let address = taken.local_addr().unwrap();
        block_on(async {
            let listener = taken.into_listener().unwrap();
            for (first, is_handshake) in [(TLS_HANDSHAKE, true), (b'G', false)] {
                let mut client = TcpStream::connect(address).await.unwrap();
                client.write_u8(first).await.unwrap();
                let mut served = listener.accept().await.unwrap().into_stream().unwrap();
                assert_eq!(served.begins_with_handshake().await.unwrap(), is_handshake);
                assert_eq!(served.read_u8().await.unwrap(), first, "it is still there");
            }
        });
    }

    #[test]
    fn a_wildcard_takes_both_ip_versions() {
        let taken = bound("http://0.0.0.0:0");
        let port = taken.local_addr().unwrap().port();
        StdTcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if taken.local_addr().unwrap().is_ipv6() {
            StdTcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = bound("http://127.0.0.1:0");
        let url = format!("http://127.0.0.1:{}", taken.local_addr().unwrap().port());
        let error = bind(&Url::parse(&url).unwrap(), Options::default()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("listen on {url}: ")), "{error}");
        let Error::Bind { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_can_be_shared_when_all_ask_for_it() {
        let options = Options { reuse_port: true, ..Options::default() };
        let first = bind(&Url::parse("http://127.0.0.1:0").unwrap(), options).unwrap();
        let url = format!("http://127.0.0.1:{}", first.local_addr().unwrap().port());
        bind(&Url::parse(&url).unwrap(), options).unwrap();
    }

    #[test]
    fn localhost_does_not_move_to_ipv6_when_its_port_is_taken() {
        let taken = bound("http://127.0.0.1:0");
        let url = format!("http://localhost:{}", taken.local_addr().unwrap().port());
        let result = bind(&Url::parse(&url).unwrap(), Options::default());
        assert!(matches!(result, Err(Error::Bind { .. })));
    }

    #[test]
    fn names_are_refused() {
        let url = Url::parse("http://example.com:2379").unwrap();
        assert!(matches!(bind(&url, Options::default()), Err(Error::Url(_))));
    }

    #[test]
    fn unix_sockets_replace_dead_files_and_clean_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.sock");
        let url = Url::parse(&format!("unix://{}", path.display())).unwrap();

        // What a killed process leaves behind: a file without a listener.
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());

        let taken = bind(&url, Options::default()).unwrap();
        assert!(matches!(bind(&url, Options::default()), Err(Error::SocketInUse(_))));
        block_on(async {
            let listener = taken.into_listener().unwrap();
            // The probe of the second bind above is still in the queue; it ended at once.
            drop(listener.accept().await.unwrap());
            let mut client = UnixStream::connect(&path).await.unwrap();
            client.write_u8(9).await.unwrap();
            echo(&listener).await;
            assert_eq!(client.read_u8().await.unwrap(), 9);
        });
        assert!(!path.exists());
    }
}
