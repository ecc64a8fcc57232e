//! `etcd gateway`: a port for clients that passes each connection on to one of the members.
//!
//! It understands nothing of what passes, so TLS goes through it as everything else does. Members take turns, by the
//! weights and priorities of SRV records where those name them. One that cannot be reached gets no connections until a
//! look after `--retry-delay` finds it again.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use retcd_net::Stream;
use retcd_net::dns::Service;
use retcd_net::tls::{self, Connector};
use retcd_net::url::split_host_port;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::discovery::dns;
use crate::logging::{self, in_go_words};
use crate::signal;

/// A member that has not answered by then is not there.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// For a retry delay of zero, as in etcd.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(300);
/// Pause after an accept that failed, out of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What `etcd gateway start` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port`
    pub listen_addr: String,
    /// `host:port`, or URLs of which that part is taken. For when no domain names any.
    pub endpoints: Vec<String>,
    /// A domain whose SRV records name the members; empty: none.
    pub discovery_srv: String,
    pub discovery_srv_name: String,
    /// Take the records as they are. Otherwise only those count whose members prove by TLS who they are.
    pub insecure_discovery: bool,
    /// Authorities for their certificates; empty: the system's.
    pub trusted_ca_file: PathBuf,
    pub retry_delay: Duration,
}

/// Why the gateway does not run, in etcd's words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("error parsing endpoint {0:?}")]
    Endpoint(String),
    #[error("failed to validate listen address: {0}")]
    ListenAddress(String),
    #[error("failed to resolve listen host: {0}")]
    ListenHost(String),
    #[error("failed to resolve endpoint host: {0}")]
    EndpointHost(String),
    #[error(
        "SRV or endpoint ({host}:{port}->{ip}:{port}) should not resolve to the gateway listen addr ({listen_addr})"
    )]
    Loop { host: String, port: u16, ip: IpAddr, listen_addr: String },
    #[error("no endpoints found")]
    NoEndpoints,
    #[error(transparent)]
    Discovery(#[from] dns::Error),
    #[error("listen tcp {0}: bind: {words}", words = in_go_words(.1))]
    Bind(String, #[source] io::Error),
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
}

/// Runs until the process ends.
pub fn run(settings: &Settings) -> Result<Infallible, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        let endpoints = endpoints(settings).await?;
        let listener = listen(&settings.listen_addr, &endpoints).await?;
        signal::notify_supervisor();
        Ok(Arc::new(Proxy::new(endpoints, settings.retry_delay)).run(listener).await)
    })
}

/// Where connections can go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    host: String,
    port: u16,
    /// The lowest one of those that are reachable is used.
    priority: u16,
    /// Share of the connections among equals; nothing for zero, unless all have that.
    weight: u16,
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, Error> {
        let authority = match text.split_once("://") {
            Some((_, rest)) => rest.split(['/', '?', '#']).next().unwrap_or_default(),
            None => text,
        };
        let parts = split_host_port(authority);
        let parts = parts.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        let (host, port) = parts.ok_or_else(|| Error::Endpoint(authority.to_owned()))?;
        Ok(Self { host, port, priority: 0, weight: 0 })
    }

    fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Those of the domain, or else those that are listed.
async fn endpoints(settings: &Settings) -> Result<Vec<Endpoint>, Error> {
    let discovered =
        if settings.discovery_srv.is_empty() { Vec::new() } else { discover(settings).await? };
    if discovered.is_empty() {
        return settings.endpoints.iter().map(|text| Endpoint::parse(text)).collect();
    }
    Ok(discovered)
}

async fn discover(settings: &Settings) -> Result<Vec<Endpoint>, Error> {
    let srv_server = &settings.discovery_srv;
    let mut records = dns::find_clients(srv_server, &settings.discovery_srv_name).await?;
    let urls: Vec<String> = records.iter().map(dns::ClientRecord::url).collect();
    let endpoints = logging::strings(&urls).to_string();
    tracing::info!(srv_server, endpoints, "discovered cluster from SRV");
    if !settings.insecure_discovery {
        tracing::info!(srv_server, endpoints, "validating discovered SRV endpoints");
        records = verified(records, settings).await?;
    }
    let endpoint = |record: dns::ClientRecord| {
        let Service { host, port, priority, weight } = record.service;
        Endpoint { host, port, priority, weight }
    };
    Ok(records.into_iter().map(endpoint).collect())
}

/// Those of the records whose members prove that they belong to the domain.
async fn verified(
    records: Vec<dns::ClientRecord>,
    settings: &Settings,
) -> Result<Vec<dns::ClientRecord>, Error> {
    let srv_server = &settings.discovery_srv;
    let tls = tls::Settings {
        trusted_ca_file: settings.trusted_ca_file.clone(),
        server_name: Some(srv_server.clone()),
        ..tls::Settings::default()
    };
    let connector = Connector::new(&tls, &[], false)?;
    let (mut good, mut errors) = (Vec::new(), Vec::new());
    for record in records {
        match verify(&record, &connector).await {
            Ok(()) => good.push(record),
            Err(reason) => errors.push(format!("{:?} {reason}", record.url())),
        }
    }
    let urls: Vec<String> = good.iter().map(dns::ClientRecord::url).collect();
    let endpoints = logging::strings(&urls).to_string();
    if errors.is_empty() {
        tracing::info!(srv_server, endpoints, "using validated discovered SRV endpoints");
    } else {
        let error = errors.join(",");
        tracing::warn!(srv_server, endpoints, error, "failed to validate discovered endpoints");
    }
    Ok(good)
}

async fn verify(record: &dns::ClientRecord, connector: &Connector) -> Result<(), String> {
    if !record.is_encrypted {
        return Err("is insecure".to_owned());
    }
    let Service { host, port, .. } = &record.service;
    let dial = async {
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        connector.connect(Stream::Tcp(stream), host).await
    };
    let dialled = timeout(DIAL_LIMIT, dial).await;
    let dialled = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    dialled.map(drop).map_err(|error| format!("failed to dial ({error})"))
}

/// Takes the port, unless an endpoint leads back to it.
async fn listen(address: &str, endpoints: &[Endpoint]) -> Result<TcpListener, Error> {
    let parts = split_host_port(address);
    let parts = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let (host, port) = parts.ok_or_else(|| Error::ListenAddress(address.to_owned()))?;
    let own = resolve(host, port).await.ok_or_else(|| Error::ListenHost(host.to_owned()))?;
    for Endpoint { host, port, .. } in endpoints {
        let found = resolve(host, *port).await;
        let found = found.ok_or_else(|| Error::EndpointHost(host.clone()))?;
        if let Some(same) = found.iter().find(|address| own.contains(address)) {
            let (ip, listen_addr) = (same.ip(), address.to_owned());
            return Err(Error::Loop { host: host.clone(), port: *port, ip, listen_addr });
        }
    }
    if endpoints.is_empty() {
        return Err(Error::NoEndpoints);
    }
    let listener = TcpListener::bind(&*own).await;
    listener.map_err(|source| Error::Bind(address.to_owned(), source))
}

/// None when the host has no address.
async fn resolve(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let found: Vec<_> = tokio::net::lookup_host((host, port)).await.ok()?.collect();
    Some(found).filter(|found| !found.is_empty())
}

struct Proxy {
    remotes: Vec<Remote>,
    /// Counts connections.
    turn: AtomicUsize,
    retry_delay: Duration,
}

struct Remote {
    endpoint: Endpoint,
    address: String,
    is_active: AtomicBool,
}

impl Remote {
    fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    fn set_active(&self, is_active: bool) {
        self.is_active.store(is_active, Ordering::Relaxed);
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let stream = timeout(DIAL_LIMIT, TcpStream::connect(&self.address)).await;
        let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn failure(&self, error: &io::Error) -> String {
        format!("dial tcp {}: connect: {}", self.address, in_go_words(error))
    }
}

impl Proxy {
    fn new(endpoints: Vec<Endpoint>, retry_delay: Duration) -> Self {
        let remote = |endpoint: Endpoint| {
            let (address, is_active) = (endpoint.address(), AtomicBool::new(true));
            Remote { endpoint, address, is_active }
        };
        let retry_delay = if retry_delay.is_zero() { DEFAULT_RETRY_DELAY } else { retry_delay };
        let remotes = endpoints.into_iter().map(remote).collect();
        Self { remotes, turn: AtomicUsize::new(0), retry_delay }
    }

    async fn run(self: Arc<Self>, listener: TcpListener) -> Infallible {
        let addresses: Vec<&str> = self.remotes.iter().map(|remote| &*remote.address).collect();
        tracing::info!(
            endpoints = %logging::strings(&addresses),
            "ready to proxy client requests"
        );
        let tasks = TaskTracker::new();
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => {
                        let proxy = self.clone();
                        tasks.spawn(async move { proxy.serve(client).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            end = accept => end,
            end = self.watch_inactive() => end,
        }
    }

    /// The next one in turn.
    fn pick(&self) -> Option<&Remote> {
        let active = || self.remotes.iter().filter(|remote| remote.is_active());
        let priority = active().map(|remote| remote.endpoint.priority).min()?;
        let equals: Vec<&Remote> =
            active().filter(|remote| remote.endpoint.priority == priority).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let weight = |remote: &Remote| usize::from(remote.endpoint.weight);
        let total: usize = equals.iter().map(|remote| weight(remote)).sum();
        if total == 0 {
            return Some(equals[turn % equals.len()]);
        }
        let mut place = turn % total;
        equals.into_iter().find(|remote| {
            let is_here = place < weight(remote);
            place = place.saturating_sub(weight(remote));
            is_here
        })
    }

    /// Passes bytes on until both sides have ended, or one has broken. Without a member that can be reached the
    /// connection ends at once.
    async fn serve(&self, mut client: TcpStream) {
        while let Some(remote) = self.pick() {
            match remote.dial().await {
                Ok(mut member) => {
                    let _ = client.set_nodelay(true);
                    // Whoever has broken off knows it, and the other one sees the end.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut member).await;
                    return;
                }
                Err(error) => {
                    remote.set_active(false);
                    tracing::warn!(
                        address = remote.address,
                        interval = %logging::took(self.retry_delay),
                        error = remote.failure(&error),
                        "deactivated endpoint"
                    );
                }
            }
        }
    }

    /// Looks at the unreachable ones at every retry delay.
    async fn watch_inactive(&self) -> Infallible {
        loop {
            tokio::time::sleep(self.retry_delay).await;
            for remote in self.remotes.iter().filter(|remote| !remote.is_active()) {
                match remote.dial().await {
                    Ok(_) => {
                        remote.set_active(true);
                        tracing::info!(address = remote.address, "activated");
                    }
                    Err(error) => tracing::warn!(
                        address = remote.address,
                        interval = %logging::took(self.retry_delay),
                        error = remote.failure(&error),
                        "failed to activate endpoint (stay inactive for another interval)"
                    ),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn endpoint(port: u16, priority: u16, weight: u16) -> Endpoint {
        Endpoint { host: "127.0.0.1".to_owned(), port, priority, weight }
    }

    fn picks(proxy: &Proxy, count: usize) -> Vec<u16> {
        let port = |_| proxy.pick().map_or(0, |remote| remote.endpoint.port);
        (0..count).map(port).collect()
    }

    #[test]
    fn endpoints_are_addresses_or_urls() {
        for (text, host, port) in [
            ("127.0.0.1:2379", "127.0.0.1", 2379),
            ("http://a:1/x?y", "a", 1),
            ("https://[::1]:2", "::1", 2),
            ("unix://localhost:3", "localhost", 3),
        ] {
            let found = Endpoint::parse(text).unwrap();
            assert_eq!((&*found.host, found.port), (host, port), "{text}");
        }
        assert_eq!(Endpoint::parse("[::1]:2").unwrap().address(), "[::1]:2");
        for text in ["", "a", "a:", "a:x", "::1:2", "[::1:2", "a:65536"] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("error parsing endpoint {text:?}"));
        }
    }

    #[test]
    fn the_reachable_take_turns() {
        let proxy = Proxy::new([1, 2, 3].map(|port| endpoint(port, 0, 0)).to_vec(), Duration::ZERO);
        assert_eq!(proxy.retry_delay, DEFAULT_RETRY_DELAY);
        assert_eq!(picks(&proxy, 4), [1, 2, 3, 1]);
        proxy.remotes[1].set_active(false);
        assert_eq!(picks(&proxy, 4), [1, 3, 1, 3]);
        proxy.remotes.iter().for_each(|remote| remote.set_active(false));
        assert!(proxy.pick().is_none());
    }

    #[test]
    fn records_have_priorities_and_weights() {
        let endpoints =
            vec![endpoint(1, 2, 0), endpoint(2, 1, 1), endpoint(3, 1, 0), endpoint(4, 1, 2)];
        let proxy = Proxy::new(endpoints, Duration::from_secs(1));
        assert_eq!(picks(&proxy, 6), [2, 4, 4, 2, 4, 4]);
        proxy.remotes[1].set_active(false);
        proxy.remotes[3].set_active(false);
        assert_eq!(picks(&proxy, 2), [3, 3]);
        proxy.remotes[2].set_active(false);
        assert_eq!(picks(&proxy, 2), [1, 1]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_gateway_does_not_lead_to_itself() {
        let listen = async |address: &str, endpoint: &str| {
            let endpoints = [Endpoint::parse(endpoint).unwrap()];
            listen(address, &endpoints).await.map(drop).unwrap_err().to_string()
        };
        assert_eq!(
            listen("127.0.0.1:4", "localhost:4").await,
            "SRV or endpoint (localhost:4->127.0.0.1:4) should not resolve to the gateway listen addr (127.0.0.1:4)"
        );
        assert_eq!(listen("a", "b:1").await, "failed to validate listen address: a");
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        assert_eq!(
            listen(&address, "127.0.0.1:1").await,
            format!("listen tcp {address}: bind: address already in use")
        );
    }

    /// Answers one connection: its number and what came, when that has ended.
    async fn answer(listener: &TcpListener, name: u8) {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut heard = vec![name];
        socket.read_to_end(&mut heard).await.unwrap();
        socket.write_all(&heard).await.unwrap();
    }

    async fn ask(gateway: SocketAddr) -> Vec<u8> {
        let mut socket = TcpStream::connect(gateway).await.unwrap();
        socket.write_all(b"?").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut heard = Vec::new();
        // A connection that leads nowhere may end with a reset.
        let _ = socket.read_to_end(&mut heard).await;
        heard
    }

    #[tokio::test(flavor = "current_thread")]
    async fn connections_go_to_those_that_answer() {
        let member = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [&gone, &member].map(|listener| listener.local_addr().unwrap());
        drop(gone);
        let endpoints = addresses.map(|address| endpoint(address.port(), 0, 0)).to_vec();
        let proxy = Arc::new(Proxy::new(endpoints, Duration::from_millis(10)));
        let gateway = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = gateway.local_addr().unwrap();
        let running = tokio::spawn(proxy.clone().run(gateway));
        for _ in 0..3 {
            let ((), heard) = tokio::join!(answer(&member, b'1'), ask(address));
            assert_eq!(heard, b"1?");
        }
        assert!(!proxy.remotes[0].is_active());

        let back = TcpListener::bind(addresses[0]).await.unwrap();
        let found = async {
            while !proxy.remotes[0].is_active() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), found).await.expect("it is looked at again");
        drop((back, member));
        let end = async {
            while proxy.remotes.iter().any(Remote::is_active) {
                assert_eq!(ask(address).await, b"");
            }
        };
        timeout(Duration::from_secs(30), end).await.expect("the unreachable get no connections");
        assert_eq!(ask(address).await, b"");
        running.abort();
    }
}
