//! Connections to the endpoints of a service, and which one gets the next call.
//!
//! ```text
//!   endpoints ──▶ Pool ──▶ Ready connections ──▶ ServiceChannel::call picks one
//! ```
//!
//! Connections are made ahead of calls and watched: a socket that closes takes its connection out of the list at once,
//! and another one is made. So calls only go where there is somebody, and a dead endpoint costs at most the calls that
//! were under way on it.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tonic::transport::{Channel, Endpoint as Destination};
use tower_service::Service;

use super::Policy;
use crate::dial::{Dialer, Io};

/// Pause before an endpoint is dialled again; doubled after each failure.
const REDIAL_MIN: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(10);

/// How to get to an endpoint.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) dialer: Dialer,
    pub(super) destination: Destination,
}

/// The connections that calls can use now.
#[derive(Debug, Clone, Default)]
pub(super) struct Ready {
    pub(super) channels: Vec<Channel>,
    /// Why there are none, when all endpoints have been tried.
    pub(super) failure: Option<String>,
}

/// Keeps connections. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    targets: watch::Sender<BTreeMap<String, Target>>,
    ready: watch::Receiver<Ready>,
    keeping: JoinHandle<()>,
}

impl Pool {
    pub(super) fn start(policy: Policy) -> Self {
        let (targets, wanted) = watch::channel(BTreeMap::new());
        let (publisher, ready) = watch::channel(Ready::default());
        let keeping = match policy {
            Policy::RoundRobin => tokio::spawn(keep_all(wanted, publisher)),
            Policy::PickFirst => tokio::spawn(keep_one(wanted, publisher)),
        };
        Pool { targets, ready, keeping }
    }

    /// Adds or replaces an endpoint.
    pub(super) fn insert(&self, key: String, target: Target) {
        self.targets.send_modify(|targets| {
            targets.insert(key, target);
        });
    }

    pub(super) fn remove(&self, key: &str) {
        self.targets.send_if_modified(|targets| targets.remove(key).is_some());
    }

    pub(super) fn picker(&self) -> Picker {
        Picker { ready: self.ready.clone(), turn: Arc::default() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// Chooses among the connections, in turns.
#[derive(Debug, Clone)]
pub(super) struct Picker {
    ready: watch::Receiver<Ready>,
    turn: Arc<AtomicUsize>,
}

impl Picker {
    /// The connection for the next call. Waits for one while there is hope.
    ///
    /// # Errors
    /// Why no endpoint can be reached.
    pub(super) async fn pick(&mut self) -> Result<Channel, String> {
        loop {
            {
                let ready = self.ready.borrow_and_update();
                if !ready.channels.is_empty() {
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                    return Ok(ready.channels[turn % ready.channels.len()].clone());
                }
                if let Some(failure) = &ready.failure {
                    return Err(failure.clone());
                }
            }
            if self.ready.changed().await.is_err() {
                return Err("the service is not followed any more".to_owned());
            }
        }
    }
}

/// A connection and the news of its end.
struct Connected {
    channel: Channel,
    closed: oneshot::Receiver<()>,
}

impl Target {
    async fn connect(&self) -> Result<Connected, String> {
        let (sender, closed) = oneshot::channel();
        let alarm = Arc::new(Mutex::new(Some(sender)));
        let connector = Watched { dialer: self.dialer.clone(), alarm };
        match self.destination.connect_with_connector(connector).await {
            Ok(channel) => Ok(Connected { channel, closed }),
            Err(error) => Err(crate::error::innermost(&error)),
        }
    }
}

// ---- round robin: every endpoint is connected to ----

/// What is known of each endpoint.
type Links = Arc<Mutex<BTreeMap<String, Link>>>;

struct Link {
    /// Ended with the link.
    keeping: KeepAlive,
    state: LinkState,
}

struct KeepAlive(AbortHandle);

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
enum LinkState {
    Connecting,
    Ready(Channel),
    Failed(String),
}

async fn keep_all(
    mut wanted: watch::Receiver<BTreeMap<String, Target>>,
    publisher: watch::Sender<Ready>,
) {
    let links = Links::default();
    let publisher = Arc::new(publisher);
    let mut known: BTreeMap<String, Target> = BTreeMap::new();
    loop {
        let targets = wanted.borrow_and_update().clone();
        for (key, target) in &targets {
            let is_new = known.get(key).is_none_or(|other| !other.is_same(target));
            if is_new {
                begin_link(&links, &publisher, key, target.clone());
            }
        }
        lock(&links).retain(|key, _| targets.contains_key(key));
        publish(&links, &publisher);
        known = targets;
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

impl Target {
    /// Whether a connection to one is as good as one to the other.
    fn is_same(&self, other: &Target) -> bool {
        self.dialer.is_same(&other.dialer) && self.destination.uri() == other.destination.uri()
    }
}

fn begin_link(links: &Links, publisher: &Arc<watch::Sender<Ready>>, key: &str, target: Target) {
    let own = (Arc::downgrade(links), publisher.clone(), key.to_owned());
    // Locked until the link is there: its task has news for it.
    let mut links = lock(links);
    let keeping = tokio::spawn(keep_link(own.0, own.1, own.2, target));
    let keeping = KeepAlive(keeping.abort_handle());
    links.insert(key.to_owned(), Link { keeping, state: LinkState::Connecting });
}

/// Connects, again and again, until the link is removed, which ends this task.
async fn keep_link(
    links: std::sync::Weak<Mutex<BTreeMap<String, Link>>>,
    publisher: Arc<watch::Sender<Ready>>,
    key: String,
    target: Target,
) {
    let own_id = tokio::task::try_id();
    let set = |state: LinkState| {
        let Some(links) = links.upgrade() else { return };
        if let Some(link) = lock(&links).get_mut(&key)
            && own_id.is_none_or(|id| id == link.keeping.0.id())
        {
            link.state = state;
        }
        publish(&links, &publisher);
    };
    let mut pause = REDIAL_MIN;
    loop {
        match target.connect().await {
            Ok(connected) => {
                pause = REDIAL_MIN;
                set(LinkState::Ready(connected.channel));
                let _ = connected.closed.await;
                set(LinkState::Connecting);
            }
            Err(failure) => {
                set(LinkState::Failed(failure));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(REDIAL_MAX);
            }
        }
    }
}

/// Tells the pickers. Built and sent under one lock, so that what is newest is told last.
fn publish(links: &Links, publisher: &watch::Sender<Ready>) {
    let links = lock(links);
    let mut ready = Ready::default();
    let mut is_hopeless = !links.is_empty();
    for link in links.values() {
        match &link.state {
            LinkState::Ready(channel) => ready.channels.push(channel.clone()),
            LinkState::Failed(failure) => ready.failure = Some(failure.clone()),
            LinkState::Connecting => is_hopeless = false,
        }
    }
    if !is_hopeless || !ready.channels.is_empty() {
        ready.failure = None;
    }
    publisher.send_replace(ready);
}

fn lock(links: &Links) -> std::sync::MutexGuard<'_, BTreeMap<String, Link>> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- pick first: one endpoint is connected to ----

async fn keep_one(
    mut wanted: watch::Receiver<BTreeMap<String, Target>>,
    publisher: watch::Sender<Ready>,
) {
    let mut pause = REDIAL_MIN;
    loop {
        let targets = wanted.borrow_and_update().clone();
        let mut failure = None;
        let mut was_connected = false;
        for (key, target) in &targets {
            match target.connect().await {
                Err(error) => failure = Some(error),
                Ok(connected) => {
                    let channels = vec![connected.channel];
                    publisher.send_replace(Ready { channels, failure: None });
                    until_useless(connected.closed, &mut wanted, key, target).await;
                    publisher.send_replace(Ready::default());
                    was_connected = true;
                    break;
                }
            }
        }
        if was_connected {
            pause = REDIAL_MIN;
            continue;
        }
        publisher.send_replace(Ready { channels: Vec::new(), failure });
        let changed = if targets.is_empty() {
            wanted.changed().await
        } else {
            tokio::time::timeout(pause, wanted.changed()).await.unwrap_or(Ok(()))
        };
        if changed.is_err() {
            return;
        }
        pause = (pause * 2).min(REDIAL_MAX);
    }
}

/// Waits until a connection is closed, or its endpoint is gone or another one.
async fn until_useless(
    mut closed: oneshot::Receiver<()>,
    wanted: &mut watch::Receiver<BTreeMap<String, Target>>,
    key: &str,
    target: &Target,
) {
    let is_other = |targets: &BTreeMap<String, Target>| {
        targets.get(key).is_none_or(|other| !other.is_same(target))
    };
    tokio::select! {
        _ = &mut closed => {}
        _ = wanted.wait_for(is_other) => {}
    }
}

// ---- noticing that a socket closes ----

type Alarm = Arc<Mutex<Option<oneshot::Sender<()>>>>;

/// A dialer whose sockets tell when they close.
struct Watched {
    dialer: Dialer,
    alarm: Alarm,
}

impl Service<http::Uri> for Watched {
    type Response = TokioIo<WatchedIo>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let (dialer, alarm) = (self.dialer.clone(), self.alarm.clone());
        Box::pin(async move {
            let io = dialer.dial().await?;
            Ok(TokioIo::new(WatchedIo { io, alarm }))
        })
    }
}

struct WatchedIo {
    io: Io,
    alarm: Alarm,
}

impl Drop for WatchedIo {
    fn drop(&mut self) {
        if let Some(alarm) = self.alarm.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = alarm.send(());
        }
    }
}

impl AsyncRead for WatchedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for WatchedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
