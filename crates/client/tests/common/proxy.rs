//! A proxy between a client and a server that can lose, hold back and cut.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They arrive.
    Pass,
    /// What the server says is lost.
    EatReplies,
    /// Nothing gets through, in either direction, and nobody is told.
    Silence,
    /// New connections are closed as soon as they are there.
    Refuse,
}

/// Listens on a port of its own until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// How often connections were cut.
    cuts: watch::Sender<usize>,
    /// How many connections there have been.
    connections: watch::Receiver<usize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Forwards to `host:port`.
    pub async fn start(server: &str) -> Self {
        Self::start_with(server, None).await
    }

    /// As [`Self::start`], and speaks TLS with the client.
    pub async fn start_with(server: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Pass);
        let (cuts, cut) = watch::channel(0);
        let (counter, connections) = watch::channel(0);
        let server: Arc<str> = server.into();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                counter.send_modify(|count| *count += 1);
                if *modes.borrow() == Mode::Refuse {
                    continue;
                }
                let mut cut = cut.clone();
                cut.mark_unchanged();
                let serving = serve(client, server.clone(), tls.clone(), modes.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        biased; // Nothing gets through once there was a cut, whatever the mode is by then.
                        _ = cut.changed() => {}
                        () = serving => {}
                    }
                });
            }
        });
        Proxy { address, mode, cuts, connections, accepting }
    }

    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Closes all connections there are now.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        *self.connections.borrow()
    }

    /// Waits until there have been more connections than `count`.
    pub async fn until_more_than(&mut self, count: usize) {
        super::soon("another connection", self.connections.wait_for(|now| *now > count))
            .await
            .unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn serve(
    client: TcpStream,
    server: Arc<str>,
    tls: Option<TlsAcceptor>,
    modes: watch::Receiver<Mode>,
) {
    let Ok(server) = TcpStream::connect(&*server).await else { return };
    match tls {
        None => forward(client, server, modes).await,
        Some(tls) => {
            if let Ok(client) = tls.accept(client).await {
                forward(client, server, modes).await;
            }
        }
    }
}

async fn forward(
    client: impl AsyncRead + AsyncWrite,
    server: TcpStream,
    modes: watch::Receiver<Mode>,
) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = copy(from_client, to_server, modes.clone(), false) => {}
        () = copy(from_server, to_client, modes, true) => {}
    }
}

async fn copy(
    from: impl AsyncRead,
    to: impl AsyncWrite,
    mut modes: watch::Receiver<Mode>,
    is_reply: bool,
) {
    tokio::pin!(from, to);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        // Read before the silence began, maybe; held back all the same.
        if modes.wait_for(|mode| *mode != Mode::Silence).await.is_err() || count == 0 {
            return;
        }
        let is_eaten = is_reply && *modes.borrow() == Mode::EatReplies;
        if !is_eaten && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
