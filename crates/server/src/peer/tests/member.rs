//! A member of which only the transport is real: it remembers what it is told.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_api::raftpb::{Entry, Message, MessageType};
use retcd_net::listener::{self, Options};
use retcd_net::url::Url;
use retcd_state_machine::cluster::Member as ClusterMember;
use retcd_state_machine::mvcc::HashKv;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::config::FeatureGates;
use crate::doors;
use crate::metrics::{Metrics, Sources};
use crate::peer::Dialer;
use crate::peer::{
    Callbacks, Inbox, IncomingSnapshot, Later, LeaseError, Network, OutgoingSnapshot, PeerRequests,
    Settings, SnapshotReceiver, SnapshotSource, Versions, chunks,
};

pub(super) const CLUSTER: u64 = 0x00c0_ffee;
const DEADLINE: Duration = Duration::from_secs(20);
/// Without any timeout between members having passed: the shortest is 5 s.
pub(super) const AT_ONCE: Duration = Duration::from_secs(4);

/// A running transport.
pub(super) struct Member {
    pub(super) id: u64,
    pub(super) url: String,
    pub(super) network: Network,
    pub(super) told: Arc<Told>,
    pub(super) metrics: Arc<Metrics>,
    accepting: JoinHandle<()>,
}

/// Answers a message at once, as Raft might.
pub(super) type Reply = Box<dyn Fn(&Message) -> Vec<Message> + Send + Sync>;

/// What the transport has told the member, and what the member answers.
#[derive(Default)]
pub(super) struct Told {
    state: Mutex<State>,
    changed: Notify,
    reply: OnceLock<(Network, Reply)>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) messages: Vec<Message>,
    /// Batches that were stepped.
    pub(super) batches: usize,
    pub(super) unreachable: Vec<u64>,
    pub(super) snapshot_reports: Vec<(u64, bool)>,
    pub(super) died: Vec<u64>,
    pub(super) local_removals: usize,
    pub(super) removed: BTreeSet<u64>,
    pub(super) received_database: Vec<u8>,
    /// What the snapshot source sends: pieces, then perhaps an error.
    pub(super) database: Vec<Bytes>,
    pub(super) breaks_database: bool,
    pub(super) refuses_database: bool,
}

impl Told {
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_waiters();
        result
    }

    pub(super) fn callbacks(self: &Arc<Self>) -> Callbacks {
        Callbacks {
            inbox: self.clone(),
            requests: self.clone(),
            snapshot_source: self.clone(),
            snapshot_receiver: Arc::new(Receiver(self.clone())),
        }
    }

    /// Waits until `condition` gives something.
    pub(super) async fn until<T>(&self, what: &str, condition: impl Fn(&State) -> Option<T>) -> T {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(result) = condition(&self.state.lock()) {
                    return result;
                }
                changed.await;
            }
        };
        let result = tokio::time::timeout(DEADLINE, wait).await;
        result.unwrap_or_else(|_| panic!("waited in vain: {what}"))
    }

    /// Waits for a message of this type and index, and returns it.
    pub(super) async fn message(&self, kind: MessageType, index: u64) -> Message {
        let wanted = |message: &&Message| message.r#type() == kind && message.index == index;
        self.until(&format!("{kind:?} at {index}"), |state| {
            state.messages.iter().find(wanted).cloned()
        })
        .await
    }
}

impl Inbox for Told {
    fn step(&self, message: Message) {
        if let Some((network, reply)) = self.reply.get() {
            network.send(reply(&message));
        }
        self.with(|state| state.messages.push(message));
    }

    fn stepped(&self) {
        self.with(|state| state.batches += 1);
    }

    fn report_unreachable(&self, id: u64) {
        self.with(|state| state.unreachable.push(id));
    }

    fn report_snapshot(&self, id: u64, delivered: bool) {
        self.with(|state| state.snapshot_reports.push((id, delivered)));
    }

    fn is_removed(&self, id: u64) -> bool {
        self.state.lock().removed.contains(&id)
    }

    fn peer_died(&self, id: u64) {
        self.with(|state| state.died.push(id));
    }

    fn local_removed(&self) {
        self.with(|state| state.local_removals += 1);
    }
}

impl SnapshotSource for Told {
    fn open(&self, message: Message) -> Later<io::Result<OutgoingSnapshot>> {
        let (database, breaks) = self.with(|state| (state.database.clone(), state.breaks_database));
        let (sender, chunks) = chunks();
        let bytes = database.iter().map(|piece| piece.len() as u64).sum();
        tokio::spawn(async move {
            for piece in database {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
            if breaks {
                sender.fail(io::Error::other("the database broke")).await;
            } else {
                let _ = sender.finish().await;
            }
        });
        Box::pin(async move { Ok(OutgoingSnapshot { message, bytes, chunks }) })
    }
}

/// Collects the database; the trait wants a future of its own.
pub(super) struct Receiver(Arc<Told>);

impl SnapshotReceiver for Receiver {
    fn receive(&self, snapshot: IncomingSnapshot) -> Later<io::Result<()>> {
        let told = self.0.clone();
        Box::pin(async move {
            let IncomingSnapshot { mut chunks, .. } = snapshot;
            if told.with(|state| state.refuses_database) {
                return Err(io::Error::other("no space"));
            }
            let mut database = Vec::new();
            while let Some(piece) = chunks.next().await? {
                database.extend_from_slice(&piece);
            }
            told.with(|state| state.received_database = database);
            Ok(())
        })
    }
}

impl PeerRequests for Told {
    fn members(&self) -> Vec<ClusterMember> {
        vec![
            ClusterMember {
                id: 10_276_657_743_932_975_437,
                peer_urls: vec!["http://h1:2380".to_owned()],
                name: "n1".to_owned(),
                client_urls: vec!["http://h1:2379".to_owned()],
                ..ClusterMember::default()
            },
            ClusterMember {
                id: 2,
                peer_urls: vec!["http://h2:2380".to_owned()],
                is_learner: true,
                ..ClusterMember::default()
            },
        ]
    }

    fn versions(&self) -> Versions {
        Versions { cluster: Some("3.7.0".to_owned()), storage: None }
    }

    fn promote(
        &self,
        id: u64,
        token: Option<String>,
    ) -> Later<Result<Vec<ClusterMember>, RpcError>> {
        let members = self.members();
        Box::pin(async move {
            match id {
                1 => Err(RpcError::MemberNotFound),
                2 => Err(RpcError::MemberNotLearner),
                3 => Err(RpcError::LearnerNotReady),
                4 if token.as_deref() == Some("secret") => Ok(members),
                _ => Err(RpcError::PermissionDenied),
            }
        })
    }

    fn renew_lease(&self, id: i64) -> Later<Result<i64, LeaseError>> {
        Box::pin(async move {
            match id {
                1 => Err(LeaseError::NotFound),
                2 => Err(LeaseError::NotPrimary),
                3 => Err(LeaseError::ApplyTimeout),
                _ => Ok(id * 10),
            }
        })
    }

    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Later<Result<pb::LeaseTimeToLiveResponse, LeaseError>> {
        Box::pin(async move {
            match id {
                1 => Err(LeaseError::NotFound),
                2 => Err(LeaseError::NotPrimary),
                _ => Ok(pb::LeaseTimeToLiveResponse {
                    header: None,
                    id,
                    ttl: 7,
                    granted_ttl: 9,
                    keys: if keys { vec!["k".into()] } else { Vec::new() },
                }),
            }
        })
    }

    fn hash_kv(&self, revision: i64) -> Later<Result<HashKv, RpcError>> {
        Box::pin(async move {
            match revision {
                1 => Err(RpcError::Compacted),
                _ => Ok(HashKv {
                    hash: 123,
                    compact_revision: -1,
                    hash_revision: revision,
                    current_revision: 9,
                }),
            }
        })
    }

    fn downgrade_enabled(&self) -> Later<Result<bool, RpcError>> {
        Box::pin(async { Ok(false) })
    }
}

struct NoSources;

impl Sources for NoSources {
    fn sample(&self, _: &Metrics) {}
}

impl Member {
    /// Starts a member at a free port.
    pub(super) fn start(id: u64, cluster: u64) -> Self {
        Self::start_at(id, cluster, "http://127.0.0.1:0", None)
    }

    /// Starts a member at this URL, which may have port 0.
    pub(super) fn start_at(id: u64, cluster: u64, url: &str, reply: Option<Reply>) -> Self {
        let member = Self::prepare(id, cluster, url);
        if let Some(reply) = reply {
            assert!(member.told.reply.set((member.network.clone(), reply)).is_ok());
        }
        member.network.start(member.told.callbacks());
        member
    }

    /// A member whose transport is not started yet.
    pub(super) fn start_later(id: u64, cluster: u64) -> Self {
        Self::prepare(id, cluster, "http://127.0.0.1:0")
    }

    fn prepare(id: u64, cluster: u64, url: &str) -> Self {
        let bound = listener::bind(&Url::parse(url).unwrap(), Options::default()).unwrap();
        let url = format!("http://{}", bound.local_addr().unwrap());
        let metrics = Arc::new(Metrics::new(false, &FeatureGates::default()));
        let settings = Settings {
            member_id: id,
            cluster_id: cluster,
            peer_urls: vec![url.clone()],
            dialer: Dialer::plain(),
            dial_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
        };
        let network = Network::new(settings, metrics.clone());
        let told = Arc::new(Told::default());
        let listener = bound.into_listener().unwrap();
        let accepting = tokio::spawn({
            let network = network.clone();
            async move { network.serve(listener, doors::Entry::Plain).await }
        });
        Self { id, url, network, told, metrics, accepting }
    }

    /// Ends like a killed process: all connections break, nobody listens.
    pub(super) async fn die(self) {
        self.network.stop().await;
        self.accepting.await.unwrap();
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub(super) fn know(&self, other: &Member) {
        self.network.add_peer(other.id, std::slice::from_ref(&other.url));
    }

    /// Waits until both streams to the other member are up.
    pub(super) async fn streams_to(&self, id: u64) {
        poll_until("streams", || self.network.has_streams_to(id)).await;
    }

    pub(super) fn message(&self, to: u64, kind: MessageType, index: u64) -> Message {
        Message { r#type: kind.into(), from: self.id, to, index, term: 1, ..Message::default() }
    }

    /// A leader's append of one entry.
    pub(super) fn append(&self, to: u64, index: u64, data: &'static str) -> Message {
        let entry = Entry { index: index + 1, term: 1, data: data.into(), ..Entry::default() };
        Message {
            log_term: 1,
            entries: vec![entry],
            ..self.message(to, MessageType::MsgApp, index)
        }
    }

    /// The value of a metric that counts, by the beginning of its line.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]
    pub(super) fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.render(&NoSources);
        let line = text.lines().find_map(|candidate| candidate.strip_prefix(line));
        line.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
    }
}

/// Waits for something that nobody tells about.
pub(super) async fn poll_until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "waited in vain: {what}");
}

/// Runs a test on a runtime like the member's own.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

/// Two members that know each other, with all four streams up.
pub(super) async fn connected_pair() -> (Member, Member) {
    let (a, b) = (Member::start(1, CLUSTER), Member::start(2, CLUSTER));
    a.know(&b);
    b.know(&a);
    a.streams_to(2).await;
    b.streams_to(1).await;
    (a, b)
}
