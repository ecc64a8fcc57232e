//! The handle of the transport: who the peers are, and how messages get on their way.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use retcd_api::raftpb::Message;
use retcd_net::url::Url;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dialer::Dialer;
use super::inbox::{self, Inbox, StreamKind};
use super::meters::{PeerMetrics, StatusMetrics};
use super::outbox::{Outbox, Waiting};
use super::pipeline;
use super::probe;
use super::requests::PeerRequests;
use super::snapshot_stream::{self, SnapshotReceiver, SnapshotSource};
use super::status::Status;
use super::wire::headers::Identity;
use crate::doors::Entry;
use crate::logging;
use crate::metrics::Metrics;

/// Senders that are not members as far as this member knows. It lags behind then, and there are a few of them at most.
const REMOTES_MAX: usize = 32;

/// Why a Raft message is not taken, in etcd's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// With the id of who wrote it; another member may have sent it on.
    #[error("cannot process message from removed member")]
    Removed(u64),
    #[error("cannot process message to mismatch member")]
    Mismatch,
}

/// What the transport is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) member_id: u64,
    pub(crate) cluster_id: u64,
    /// Where other members reach this one.
    pub(crate) peer_urls: Vec<String>,
    pub(crate) dialer: Dialer,
    /// etcd takes a second and an election timeout.
    pub(crate) dial_timeout: Duration,
    /// How long nothing may come before a peer's stream, or an answer, is given up: at least three heartbeats of its.
    pub(crate) read_timeout: Duration,
    /// How long a peer may take nothing of what is sent.
    pub(crate) write_timeout: Duration,
}

/// The member, as the transport sees it.
#[derive(Clone)]
pub(crate) struct Callbacks {
    pub(crate) inbox: Arc<dyn Inbox>,
    pub(crate) requests: Arc<dyn PeerRequests>,
    pub(crate) snapshot_source: Arc<dyn SnapshotSource>,
    pub(crate) snapshot_receiver: Arc<dyn SnapshotReceiver>,
}

/// The transport. Cheap to clone; any thread may use it.
///
/// It exists before the node does, so that the node can hold it: peers may be added at once, but nothing moves before
/// [`Network::start`].
#[derive(Clone)]
pub(crate) struct Network {
    shared: Arc<Shared>,
}

/// What the tasks of the transport share.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<Metrics>,
    peers: RwLock<Peers>,
    /// Rung once for a batch of messages.
    bell: Notify,
    running: OnceLock<Running>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Set at the start.
struct Running {
    callbacks: Callbacks,
    runtime: Handle,
}

#[derive(Default)]
struct Peers {
    members: BTreeMap<u64, Arc<Peer>>,
    /// Senders that this member does not know as members; they get answers by POST only.
    remotes: BTreeMap<u64, Arc<Peer>>,
}

impl Peers {
    fn get(&self, id: u64) -> Option<&Arc<Peer>> {
        self.members.get(&id).or_else(|| self.remotes.get(&id))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.members.values().chain(self.remotes.values())
    }
}

/// Another member.
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) urls: UrlPicker,
    pub(crate) outbox: Outbox,
    pub(crate) status: Status,
    pub(crate) metrics: PeerMetrics,
    stop: CancellationToken,
}

impl Network {
    pub(crate) fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let identity = Identity::new(settings.member_id, settings.cluster_id, &settings.peer_urls);
        let shared = Shared {
            identity,
            settings,
            metrics,
            peers: RwLock::default(),
            bell: Notify::new(),
            running: OnceLock::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        // As in etcd, a member knows itself.
        shared.known(shared.identity.member, true);
        Self { shared: Arc::new(shared) }
    }

    /// Starts everything that dials and sends, on the runtime of the caller.
    ///
    /// # Panics
    /// When called twice or outside of a tokio runtime.
    pub(crate) fn start(&self, callbacks: Callbacks) {
        let running = Running { callbacks, runtime: Handle::current() };
        // Under the lock, so that a peer is started here or by `add_peer`, never by both.
        let peers = self.shared.peers.write();
        assert!(self.shared.running.set(running).is_ok(), "the transport was started before");
        for peer in peers.members.values() {
            self.shared.start_member(peer);
        }
        drop(peers);
        self.shared.spawn(&self.shared.stop, ring_bells(self.shared.clone()));
    }

    /// Sends messages to their members; those without a known one are dropped, as are those that find a queue full.
    ///
    /// Never waits and never calls back, so any lock may be held meanwhile.
    pub(crate) fn send(&self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let peers = self.shared.peers.read();
        for message in messages.into_iter().filter(|message| message.to != 0) {
            let Some(peer) = peers.get(message.to) else {
                tracing::debug!(
                    kind = message.r#type().as_str_name(),
                    unknown_target_peer_id = %format!("{:x}", message.to),
                    "ignored message send request; unknown remote peer target"
                );
                continue;
            };
            peer.outbox.push(message);
        }
        drop(peers);
        self.shared.bell.notify_one();
    }

    /// Opens the ways to a new member. Nothing happens for a known one.
    pub(crate) fn add_peer(&self, id: u64, urls: &[String]) {
        let shared = &self.shared;
        let mut peers = shared.peers.write();
        if id == shared.identity.member || peers.members.contains_key(&id) {
            return;
        }
        let Some(peer) = shared.new_peer(id, urls) else { return };
        if let Some(remote) = peers.remotes.remove(&id) {
            remote.end();
        }
        if shared.running.get().is_some() {
            shared.start_member(&peer);
        }
        peers.members.insert(id, peer);
        drop(peers);
        shared.known(id, true);
        tracing::info!(
            local_member_id = %format!("{:x}", shared.identity.member),
            remote_peer_id = %format!("{id:x}"),
            remote_peer_urls = %logging::strings(urls),
            "added remote peer"
        );
    }

    /// Closes the ways to a member that was removed.
    pub(crate) fn remove_peer(&self, id: u64) {
        let mut peers = self.shared.peers.write();
        let removed = [peers.members.remove(&id), peers.remotes.remove(&id)];
        drop(peers);
        let [member, _] = &removed;
        let was_member = member.is_some();
        removed.into_iter().flatten().for_each(|peer| peer.end());
        if was_member {
            self.shared.known(id, false);
            tracing::info!(
                local_member_id = %format!("{:x}", self.shared.identity.member),
                removed_remote_peer_id = %format!("{id:x}"),
                "removed remote peer"
            );
        }
    }

    /// Sets the URLs of a known member; streams that are up stay so.
    pub(crate) fn update_peer(&self, id: u64, urls: &[String]) {
        let Some(peer) = self.shared.member(id) else { return };
        let parsed = parse_urls(id, urls);
        if parsed.is_empty() {
            return;
        }
        peer.urls.update(parsed);
        tracing::info!(
            local_member_id = %format!("{:x}", self.shared.identity.member),
            updated_remote_peer_id = %format!("{id:x}"),
            updated_remote_peer_urls = %logging::strings(urls),
            "updated remote peer"
        );
    }

    /// What waits for all others together.
    pub(crate) fn waiting(&self) -> Waiting {
        let mut waiting = Waiting::default();
        for peer in self.shared.peers.read().all() {
            waiting += peer.outbox.waiting();
        }
        waiting
    }

    /// Since when messages pass between this member and the other; none when they do not, or it is unknown.
    pub(crate) fn active_since(&self, id: u64) -> Option<Instant> {
        self.shared.member(id)?.status.active_since()
    }

    /// How many other members have been connected for at least `lasting`.
    pub(crate) fn connected_count(&self, lasting: Duration) -> usize {
        let peers = self.shared.peers.read();
        let since = peers.members.values().filter_map(|peer| peer.status.active_since());
        since.filter(|since| since.elapsed() >= lasting).count()
    }

    /// The one of these members that has been connected for the longest time.
    pub(crate) fn longest_connected(&self, candidates: &[u64]) -> Option<u64> {
        let since = candidates.iter().filter_map(|id| Some((self.active_since(*id)?, *id)));
        since.min().map(|(_, id)| id)
    }

    /// Whether the member reads both streams of this one: everything sent to it goes the fast way.
    pub(crate) fn has_streams_to(&self, id: u64) -> bool {
        let peer = self.shared.member(id);
        peer.is_some_and(|peer| StreamKind::BOTH.iter().all(|kind| peer.outbox.has_stream(*kind)))
    }

    /// Accepts connections of other members until the transport stops. To be called after the start.
    pub(crate) async fn serve(&self, listener: retcd_net::listener::Listener, entry: Entry) {
        super::door::accept(self.shared.clone(), listener, entry).await;
    }

    /// How other members are reached.
    pub(crate) fn dialer(&self) -> &Dialer {
        &self.shared.settings.dialer
    }

    /// Serves one connection that somebody else accepted, after the start. `remote` is for logs.
    pub(crate) async fn serve_connection<IO>(&self, io: IO, remote: String)
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let serve = super::door::serve(self.shared.clone(), io, remote);
        self.shared.stop.run_until_cancelled(serve).await.unwrap_or_default();
    }

    /// Ends all connections and tasks, and waits for them.
    pub(crate) async fn stop(&self) {
        self.shared.stop.cancel();
        for peer in self.shared.peers.read().all() {
            peer.outbox.close();
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Shared {
    fn running(&self) -> &Running {
        self.running.get().expect("tasks exist only after the start")
    }

    pub(crate) fn callbacks(&self) -> &Callbacks {
        &self.running().callbacks
    }

    pub(crate) fn inbox(&self) -> &dyn Inbox {
        &*self.callbacks().inbox
    }

    /// Whether the transport was told to stop.
    pub(crate) fn stopped(&self) -> &CancellationToken {
        &self.stop
    }

    pub(crate) fn member(&self, id: u64) -> Option<Arc<Peer>> {
        self.peers.read().members.get(&id).cloned()
    }

    /// Hands a message to Raft.
    ///
    /// A message may say that it is from this member: it went to a former leader, which sent it on.
    pub(crate) fn step(&self, message: Message) -> Result<(), Refusal> {
        let local_member_id = format!("{:x}", self.identity.member);
        if self.inbox().is_removed(message.from) {
            let removed_member_id = format!("{:x}", message.from);
            tracing::warn!(
                local_member_id,
                removed_member_id,
                "rejected Raft message from removed member"
            );
            return Err(Refusal::Removed(message.from));
        }
        if message.to != self.identity.member {
            let mismatch_member_id = format!("{:x}", message.to);
            tracing::warn!(
                local_member_id,
                mismatch_member_id,
                "rejected Raft message to mismatch member"
            );
            return Err(Refusal::Mismatch);
        }
        self.inbox().step(message);
        Ok(())
    }

    /// Messages to a peer were lost: Raft will hear of it.
    pub(crate) fn note_loss(&self, peer: &Peer) {
        peer.outbox.note_loss();
        self.bell.notify_one();
    }

    /// Remembers where a sender can be answered that is no member as far as this member knows.
    pub(crate) fn add_remote(self: &Arc<Self>, id: u64, urls: &[String]) {
        if urls.is_empty() || self.inbox().is_removed(id) {
            return;
        }
        if self.peers.read().get(id).is_some() || id == self.identity.member {
            return;
        }
        let Some(peer) = self.new_peer(id, urls) else { return };
        let mut peers = self.peers.write();
        if peers.get(id).is_some() || peers.remotes.len() >= REMOTES_MAX {
            return;
        }
        self.start_pipeline(&peer);
        peers.remotes.insert(id, peer);
        drop(peers);
        tracing::info!(
            local_member_id = %format!("{:x}", self.identity.member),
            remote_peer_id = %format!("{id:x}"),
            remote_peer_urls = %logging::strings(urls),
            "added new remote peer"
        );
    }

    fn new_peer(&self, id: u64, urls: &[String]) -> Option<Arc<Peer>> {
        let urls = parse_urls(id, urls);
        if urls.is_empty() {
            tracing::error!(remote_peer_id = %format!("{id:x}"), "a peer has no usable URL");
            return None;
        }
        let status = StatusMetrics::new(&self.metrics, self.identity.member, id);
        Some(Arc::new(Peer {
            id,
            urls: UrlPicker::new(urls),
            outbox: Outbox::new(),
            status: Status::new(id, Arc::new(status)),
            metrics: PeerMetrics::new(&self.metrics, id),
            stop: self.stop.child_token(),
        }))
    }

    fn start_member(self: &Arc<Self>, peer: &Arc<Peer>) {
        tracing::info!(remote_peer_id = %format!("{:x}", peer.id), "starting remote peer");
        self.start_pipeline(peer);
        for kind in StreamKind::BOTH {
            self.spawn(&peer.stop, inbox::read_stream(self.clone(), peer.clone(), kind));
        }
        self.spawn(&peer.stop, snapshot_stream::run_sender(self.clone(), peer.clone()));
        self.spawn(&peer.stop, probe::run(self.clone(), peer.clone()));
        tracing::info!(remote_peer_id = %format!("{:x}", peer.id), "started remote peer");
    }

    fn start_pipeline(self: &Arc<Self>, peer: &Arc<Peer>) {
        for _ in 0..pipeline::WORKERS {
            self.spawn(&peer.stop, pipeline::run_worker(self.clone(), peer.clone()));
        }
    }

    /// Runs a task on the background runtime until it ends or `stop` is triggered.
    pub(crate) fn spawn(
        &self,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = stop.clone();
        let task = async move { stop.run_until_cancelled_owned(task).await.unwrap_or_default() };
        self.tasks.spawn_on(task, &self.running().runtime);
    }

    fn known(&self, id: u64, is_known: bool) {
        let labels = [&*format!("{:x}", self.identity.member), &*format!("{id:x}")];
        self.metrics.network_known_peers.with(labels).set_bool(is_known);
    }
}

impl Peer {
    fn end(&self) {
        self.stop.cancel();
        self.outbox.close();
        tracing::info!(remote_peer_id = %format!("{:x}", self.id), "stopped remote peer");
    }
}

/// After each batch of messages wakes those who send them, and tells Raft what was lost.
async fn ring_bells(shared: Arc<Shared>) {
    loop {
        shared.bell.notified().await;
        let mut lossy = Vec::new();
        for peer in shared.peers.read().all() {
            let news = peer.outbox.ring();
            if news.overflowed > 0 {
                peer.metrics.send_failures.add(news.overflowed);
                tracing::warn!(
                    messages = news.overflowed,
                    local_member_id = %format!("{:x}", shared.identity.member),
                    remote_peer_id = %format!("{:x}", peer.id),
                    remote_peer_active = peer.status.is_active(),
                    "dropped internal Raft message since sending buffer is full"
                );
            }
            if news.is_lossy {
                lossy.push(peer.id);
            }
        }
        for id in lossy {
            shared.inbox().report_unreachable(id);
        }
    }
}

fn parse_urls(id: u64, urls: &[String]) -> Vec<Url> {
    let parse = |url: &String| {
        let parsed = Url::parse(url);
        parsed.inspect_err(|error| {
            tracing::warn!(remote_peer_id = %format!("{id:x}"), %error, "ignored a peer URL");
        })
    };
    urls.iter().map(parse).filter_map(Result::ok).collect()
}

/// The URLs of a peer, and which of them is used now.
#[derive(Debug)]
pub(crate) struct UrlPicker {
    state: Mutex<(Vec<Url>, usize)>,
}

impl UrlPicker {
    fn new(urls: Vec<Url>) -> Self {
        assert!(!urls.is_empty(), "a peer without URLs cannot be reached");
        Self { state: Mutex::new((urls, 0)) }
    }

    fn update(&self, urls: Vec<Url>) {
        *self.state.lock() = (urls, 0);
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().0.len()
    }

    pub(crate) fn pick(&self) -> Url {
        let (urls, picked) = &*self.state.lock();
        urls[*picked].clone()
    }

    /// Goes on to the next URL, unless somebody has done so before.
    pub(crate) fn avoid(&self, url: &Url) {
        let (urls, picked) = &mut *self.state.lock();
        if urls[*picked] == *url {
            *picked = (*picked + 1) % urls.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_take_turns() {
        let parse = |text| Url::parse(text).unwrap();
        let (a, b) = (parse("http://a:1"), parse("http://b:1"));
        let picker = UrlPicker::new(vec![a.clone(), b.clone()]);
        assert_eq!(picker.pick(), a);
        picker.avoid(&a);
        // A second failure of the first says nothing about the second.
        picker.avoid(&a);
        assert_eq!(picker.pick(), b);
        picker.avoid(&b);
        assert_eq!(picker.pick(), a);
        picker.update(vec![b.clone()]);
        picker.avoid(&b);
        assert_eq!(picker.pick(), b);
    }
}
