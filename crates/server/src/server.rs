//! The member as a whole: what starts in which order, and stops in the reverse.
//!
//! Start: bind the ports (a taken one must fail before anything is touched), lock the data dir, read the state, put the
//! node together, start its threads, open the ways to the other members, publish the member once somebody leads, accept
//! clients.
//!
//! Stop: hand over the leadership, accept no more, end the streams, wait for the running calls, close the queue, let the
//! commit thread carry out what it holds, leave the other members, write the backend, give the locks back.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use retcd_api::error::RpcError;
use retcd_api::{membershippb, walpb};
use retcd_net::Url;
use retcd_net::listener::{self, Bound, Stream};
use retcd_state_machine::StateMachine;
use retcd_state_machine::backend::Failure;
use retcd_storage::data_dir::{DataDir, Layout};
use tokio::runtime::{Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::background::{self, Retention};
use crate::bootstrap::{self, Boot, Outside};
use crate::config::{AutoCompaction, Config, Gate, UrlKind};
use crate::doors::{self, Door, Entry};
use crate::grpc::connection::{self, Client};
use crate::http::Scope;
use crate::logging;
use crate::memory_lock;
use crate::metrics::Metrics;
use crate::node::commit_loop::{self, CommitLoop};
use crate::node::mailbox::Mailbox;
use crate::node::peers::NodeInbox;
use crate::node::storage_loop::{self, Pace, StorageLoop};
use crate::node::{self, Limits, NodeHandle, Request, lone};
use crate::peer::{self, Callbacks, Dialer, Network};
use crate::services::for_peers::ForPeers;
use crate::services::{self, LocalHub, Services};
use crate::signal;
use crate::snapshot::{self, Importer};
use crate::tokens::{self, Tokens};
use crate::traces::{Exporter, Tracer};

/// Why a member does not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Doors(#[from] doors::Error),
    #[error(transparent)]
    DataDir(#[from] retcd_storage::data_dir::Error),
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::Error),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error(transparent)]
    Backend(#[from] retcd_storage::backend::Error),
    #[error("start a thread: {0}")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Memory(#[from] memory_lock::Error),
    #[error(transparent)]
    Inconsistent(#[from] background::Inconsistent),
    #[error(transparent)]
    Tokens(#[from] tokens::Error),
}

/// How long running calls may take to end after a stop was asked for.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Distance between two checkpoints of a long lease's remaining time.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// How long the member waits for a leader before it serves without one.
const READY_PATIENCE: Duration = Duration::from_secs(5);
/// How long a removed member lives on.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(500);
/// How long the first election waits for other members.
const PEERS_PATIENCE: Duration = Duration::from_secs(5);
const PEERS_POLL: Duration = Duration::from_millis(10);
/// How often calls that wait for an answer are looked at for their deadline.
const DEADLINE_SWEEP: Duration = Duration::from_millis(500);

/// Runs a member until SIGTERM or SIGINT, then stops it in order.
pub fn run(config: Config) -> Result<(), Error> {
    let config = Arc::new(config);
    let doors = doors::open(&config)?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Thread)?;
    if config.memory_mlock {
        memory_lock::lock()?;
    }
    let member = Member::start(config, doors.dialer, &runtime)?;
    let end = runtime.block_on(member.serve(doors.clients, doors.peers))?;
    drop(runtime);
    member.stop();
    match end {
        End::Signal(signal) => signal::end_by(signal),
        End::Removed => {}
    }
    Ok(())
}

/// Why a member stops.
#[derive(Debug, Clone, Copy)]
enum End {
    Signal(signal::Signal),
    /// It was removed from the cluster.
    Removed,
}

/// The steps of a stop.
#[derive(Debug, Clone, Default)]
struct Stops {
    /// Accept no more, finish what runs, end streams.
    streams: CancellationToken,
    /// All connections are gone, or had their time: the client threads end.
    threads: CancellationToken,
}

/// A member whose threads run.
struct Member {
    config: Arc<Config>,
    services: Arc<Services>,
    /// Whether it compares its data with the others' before it serves.
    checks_at_start: bool,
    /// Where the spans of calls go.
    tracer: Option<Arc<Tracer>>,
    stops: Stops,
    importer: Importer,
    commit: Arc<Mutex<CommitLoop>>,
    commit_thread: JoinHandle<()>,
    storage_thread: JoinHandle<()>,
    /// The number of the runtime that does everything but serve clients.
    background: u16,
}

impl Member {
    /// `dialer` and `runtime` are for questions to other members.
    fn start(config: Arc<Config>, dialer: Dialer, runtime: &Runtime) -> Result<Self, Error> {
        let tokens = Tokens::load(&config.auth_token)?;
        let data_dir = DataDir::open(Layout::new(&config.data_dir, config.wal_dir.clone()))?;
        let mut backend = None;
        let open = |snapshot: &walpb::Snapshot| {
            let opened = Arc::new(snapshot::recover(data_dir.layout(), snapshot)?);
            if let Some(bytes) = config.bootstrap_defrag_threshold_bytes {
                storage_loop::defragment_at_start(&opened, bytes)?;
            }
            let machine = StateMachine::open(opened.clone(), state_machine_config(&config))?;
            // What the scan has touched of the file need not count as this process's memory.
            opened.trim_resident()?;
            backend = Some(opened);
            Ok(machine)
        };
        let outside = Outside { runtime, dialer: &dialer };
        let boot = bootstrap::boot(&config, &data_dir, open, &outside)?;
        let backend = backend.expect("the state machine was opened");
        let Boot { ids, wal, machine, raft, snapshots, snapshot_index, is_new, peers } = boot;
        tracing::info!(
            cluster_id = %format!("{:x}", ids.cluster),
            local_member_id = %format!("{:x}", ids.member),
            commit_index = raft.commit_index(),
            "{}",
            if is_new { "starting local member" } else { "restarting local member" }
        );

        let reader = machine.reader();
        let background = u16::try_from(config.client_threads()).unwrap_or(u16::MAX - 1);
        let mailboxes = (0..=background).map(|_| Mailbox::default()).collect();
        let (storage, storage_requests) = storage_loop::channel();
        let metrics = Arc::new(Metrics::new(config.extensive_metrics, &config.feature_gates));
        let tracer = config.tracing.clone();
        let tracer = tracer.map(|settings| Arc::new(Tracer::new(settings, metrics.clone())));
        let limits = Limits {
            request_bytes_max: config.max_request_bytes,
            request_timeout: config.request_timeout(),
            election_timeout: config.election_timeout,
            revokes_under_overload: config.feature_gates.is_enabled(Gate::PriorityRequest),
        };
        let network = Network::new(
            peer::Settings {
                member_id: ids.member,
                cluster_id: ids.cluster,
                peer_urls: config.initial_advertise_peer_urls.to_strings(),
                dialer,
                dial_timeout: Duration::from_secs(1) + config.election_timeout,
                read_timeout: config.raft_read_timeout,
                write_timeout: config.raft_write_timeout,
            },
            metrics.clone(),
        );
        let node = NodeHandle::new(
            ids,
            limits,
            reader.clone(),
            raft,
            mailboxes,
            storage,
            network,
            metrics,
        );
        node.meet(&peers);
        node.meet_known();

        let settings = commit_loop::Settings {
            catch_up_entries: config.snapshot_catchup_entries,
            election_timeout: config.election_timeout,
            apply_warning: config.warning_apply_duration,
            is_unsynced: config.unsafe_no_fsync,
        };
        let commit = CommitLoop::new(&node, machine, wal, snapshots.clone(), settings);
        let commit = Arc::new(Mutex::new(commit));
        let pace = Pace {
            flush_interval: config.backend_batch_interval,
            compaction_records: usize::try_from(config.compaction_batch_limit)
                .unwrap_or(usize::MAX),
            compaction_pause: config.compaction_sleep_interval,
            snapshot_entries: config.snapshot_count,
            wal_files_max: usize::try_from(config.max_wals).unwrap_or(usize::MAX),
            snapshots_max: usize::try_from(config.max_snapshots).unwrap_or(usize::MAX),
        };
        let importer = Importer::new(data_dir.layout());
        let storing = StorageLoop::new(
            node.clone(),
            backend,
            snapshots,
            storage_requests,
            pace,
            snapshot_index,
            data_dir,
        );
        let checks_at_start = !is_new && config.feature_gates.is_enabled(Gate::InitialCorruptCheck);
        let services = Arc::new(Services::new(config.clone(), node, reader, tokens));
        Ok(Member {
            config,
            services,
            checks_at_start,
            tracer,
            stops: Stops::default(),
            importer,
            commit: commit.clone(),
            commit_thread: spawn_or_die("commit", move || commit_loop::run(&commit))?,
            storage_thread: spawn_or_die("storage", move || storing.run())?,
            background,
        })
    }

    /// Joins the others, publishes, serves. Returns why it ended, when all clients are gone.
    async fn serve(&self, doors: Vec<Door>, peers: Vec<(Bound, Entry)>) -> Result<End, Error> {
        let mut signals = signal::Signals::new().map_err(Error::Thread)?;
        node::enter_runtime(self.background);
        let node = &self.services.node;
        if self.checks_at_start {
            let limit = self.config.request_timeout();
            background::check_before_start(node, &self.services.reader, limit).await?;
        }
        let tasks = TaskTracker::new();
        self.start_network(peers, &tasks)?;
        self.start_background(&tasks);
        let mut ready = std::pin::pin!(self.lead_and_publish());
        let is_ready = tokio::select! {
            () = &mut ready => true,
            // Without a quorum there is no end to wait for: clients get errors that say so.
            () = tokio::time::sleep(READY_PATIENCE) => {
                tracing::warn!("timed out waiting for the ready notification");
                false
            }
            end = self.end(&mut signals) => {
                self.stops.streams.cancel();
                node.network().stop().await;
                return Ok(end);
            }
        };

        let connections = TaskTracker::new();
        let threads = self.start_client_threads()?;
        let handles: Arc<[Handle]> = threads.iter().map(|(handle, _)| handle.clone()).collect();
        for Door { bound, scope, entry } in doors {
            log_serving(bound.url(), scope, &entry);
            let listener = bound.into_listener().map_err(Error::Thread)?;
            let connections = self.connections(scope, entry, &handles, &connections);
            tasks.spawn(self.until_stop(accept(listener, connections)));
        }
        if is_ready {
            tracing::info!("ready to serve client requests");
            signal::notify_supervisor();
        }
        let end = tokio::select! {
            end = self.end(&mut signals) => end,
            end = async {
                if !is_ready {
                    ready.await;
                    tracing::info!("ready to serve client requests");
                    signal::notify_supervisor();
                }
                std::future::pending::<End>().await
            } => end,
        };

        tracing::info!(name = self.config.name, data_dir = %self.config.data_dir.display(), "closing etcd server");
        node.hand_over().await;
        self.stops.streams.cancel();
        tasks.close();
        tasks.wait().await;
        connections.close();
        let _ = tokio::time::timeout(STOP_PATIENCE, connections.wait()).await;
        node.network().stop().await;
        self.stops.threads.cancel();
        for (_, thread) in threads {
            let _ = thread.join();
        }
        Ok(end)
    }

    /// What ends a member that runs.
    async fn end(&self, signals: &mut signal::Signals) -> End {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal = signal.name(), "received signal; shutting down");
                End::Signal(signal)
            }
            () = self.services.node.removal().cancelled() => {
                // Whoever asked for the removal gets the answer, and the others hear of the commit.
                tokio::time::sleep(REMOVAL_PATIENCE).await;
                End::Removed
            }
        }
    }

    fn start_network(&self, peers: Vec<(Bound, Entry)>, tasks: &TaskTracker) -> Result<(), Error> {
        let network = self.services.node.network();
        network.start(self.callbacks());
        for (bound, entry) in peers {
            tracing::info!(address = %bound.url(), "serving peer traffic");
            let listener = bound.into_listener().map_err(Error::Thread)?;
            let network = network.clone();
            tasks.spawn(self.until_stop(async move { network.serve(listener, entry).await }));
        }
        Ok(())
    }

    /// The member as the network sees it.
    fn callbacks(&self) -> Callbacks {
        Callbacks {
            inbox: Arc::new(NodeInbox { node: self.services.node.clone() }),
            requests: Arc::new(ForPeers { services: self.services.clone() }),
            snapshot_source: Arc::new(self.services.node.exporter()),
            snapshot_receiver: Arc::new(self.importer.clone()),
        }
    }

    /// Everything that the member does by itself.
    fn start_background(&self, tasks: &TaskTracker) {
        let node = &self.services.node;
        tasks.spawn(self.until_stop(deliver(node.clone(), self.background)));
        tasks.spawn(self.until_stop(tick(node.clone(), self.config.heartbeat_interval)));
        if self.config.initial_election_tick_advance {
            tasks.spawn(self.until_stop(advance_ticks(node.clone(), self.config.election_ticks())));
        }
        let reader = self.services.reader.clone();
        let writes_checkpoints = self.config.feature_gates.is_enabled(Gate::LeaseCheckpoint);
        tasks.spawn(background::expire_leases(
            node.clone(),
            reader.clone(),
            writes_checkpoints,
            self.stops.streams.clone(),
        ));
        tasks.spawn(self.until_stop(background::monitor_versions(node.clone(), reader.clone())));
        if let Some(period) = self.config.downgrade_check_time {
            let monitor = background::monitor_downgrade(node.clone(), reader.clone(), period);
            tasks.spawn(self.until_stop(monitor));
        }
        let limit = self.config.request_timeout();
        if let Some(period) = self.config.corrupt_check_time {
            let check = background::check_data(node.clone(), reader.clone(), period, limit);
            tasks.spawn(self.until_stop(check));
        }
        if self.config.feature_gates.is_enabled(Gate::CompactHashCheck) {
            let period = self.config.compact_hash_check_time;
            let check = background::check_compactions(node.clone(), reader.clone(), period, limit);
            tasks.spawn(self.until_stop(check));
        }
        if let Some(tracer) = &self.tracer {
            tasks.spawn(Exporter::new(tracer.clone()).run(self.stops.streams.clone()));
        }
        if let Some(retention) = retention(self.config.auto_compaction) {
            let compactor = background::Compactor::new(retention);
            tasks.spawn(compactor.run(node.clone(), reader, self.stops.streams.clone()));
        }
    }

    fn until_stop<F: Future<Output = ()>>(&self, task: F) -> impl Future<Output = ()> + use<F> {
        let stop = self.stops.streams.clone();
        async move { stop.run_until_cancelled(task).await.unwrap_or_default() }
    }

    /// Wins the election if only this member takes part in it, and tells the cluster how it is called and reached.
    async fn lead_and_publish(&self) {
        let node = &self.services.node;
        while node.leader().is_none() {
            if node.is_sole_voter() {
                node.campaign();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let attributes = membershippb::Attributes {
            name: self.config.name.clone(),
            client_urls: self.config.advertise_client_urls.to_strings(),
        };
        let publish = membershippb::ClusterMemberAttrSetRequest {
            member_id: node.member_id(),
            member_attributes: Some(attributes),
        };
        // A member that was just added must know of it before it says more about itself.
        while self.services.reader.member(node.member_id()).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.propose_until_done(Request::ClusterMemberAttrSet, &publish.encode_to_vec()).await;
        tracing::info!(
            local_member_id = %format!("{:x}", node.member_id()),
            local_member_attributes = %format!(
                "{{Name:{} ClientURLs:[{}]}}",
                self.config.name,
                self.config.advertise_client_urls.to_strings().join(" ")
            ),
            cluster_id = %format!("{:x}", node.cluster_id()),
            publish_timeout = %logging::took(self.config.request_timeout()),
            "published local member to cluster through raft"
        );
        if node.is_sole_voter() && self.services.reader.cluster_version().is_none() {
            background::set_own_version(node).await;
        }
    }

    async fn propose_until_done(&self, request: Request, message: &[u8]) {
        loop {
            let outcome = match self.services.node.propose(request, message, None) {
                Ok(pending) => pending.await.map(drop),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) | Err(RpcError::Stopped) => return,
                Err(error) => {
                    tracing::warn!(%error, ?request, "a request of the member itself failed, trying again");
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn start_client_threads(&self) -> Result<Vec<(Handle, JoinHandle<()>)>, Error> {
        (0..self.background)
            .map(|number| {
                let (services, stops) = (self.services.clone(), self.stops.clone());
                let commit = self.commit.clone();
                let (sender, receiver) = std::sync::mpsc::channel();
                let thread = std::thread::Builder::new()
                    .name(format!("client-{number}"))
                    .spawn(move || client_thread(&services, &commit, number, &stops, &sender))
                    .map_err(Error::Thread)?;
                let handle = receiver.recv().map_err(|_| {
                    Error::Thread(io::Error::other("a client thread ended at once"))
                })?;
                Ok((handle, thread))
            })
            .collect()
    }

    fn connections(
        &self,
        scope: Scope,
        entry: Entry,
        handles: &Arc<[Handle]>,
        connections: &TaskTracker,
    ) -> Connections {
        let settings = connection::Settings {
            streams_max: self.config.max_concurrent_streams,
            keepalive_interval: self.config.keepalive.interval,
            keepalive_timeout: self.config.keepalive.timeout,
            scope,
            is_encrypted: false,
            message_bytes_max: self.config.max_receive_bytes(),
            tracer: self.tracer.clone(),
        };
        let encrypted = connection::Settings { is_encrypted: true, ..settings.clone() };
        Connections {
            services: self.services.clone(),
            entry,
            plain: Arc::new(settings),
            encrypted: Arc::new(encrypted),
            handles: handles.clone(),
            tracker: connections.clone(),
            stop: self.stops.streams.clone(),
            next: 0,
        }
    }

    /// Ends the node's threads: what was accepted is carried out and written.
    fn stop(self) {
        self.services.node.close();
        let _ = self.commit_thread.join();
        self.services.node.stop_storage();
        let _ = self.storage_thread.join();
        tracing::info!(name = self.config.name, data_dir = %self.config.data_dir.display(), "closed etcd server");
    }
}

/// What an accept loop hands to every connection.
struct Connections {
    services: Arc<Services>,
    entry: Entry,
    plain: Arc<connection::Settings>,
    encrypted: Arc<connection::Settings>,
    handles: Arc<[Handle]>,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// The client thread that gets the next connection.
    next: usize,
}

/// Accepts connections and deals them out to the client threads.
async fn accept(listener: listener::Listener, mut connections: Connections) {
    loop {
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(error) => {
                // Out of file descriptors, most likely: let some be closed.
                tracing::warn!(%error, url = %listener.url(), "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let handle = &connections.handles[connections.next];
        connections.next = (connections.next + 1) % connections.handles.len();
        let (services, stop) = (connections.services.clone(), connections.stop.clone());
        let remote = socket.remote_addr();
        if let Entry::Plain = connections.entry {
            let settings = connections.plain.clone();
            let client = Client { remote, common_name: None };
            let serve = async move {
                if let Ok(stream) = socket.into_stream() {
                    connection::serve(stream, client, services, settings, stop).await;
                }
            };
            connections.tracker.spawn_on(serve, handle);
            continue;
        }
        let entry = connections.entry.clone();
        let (plain, encrypted) = (connections.plain.clone(), connections.encrypted.clone());
        let serve = async move {
            let Ok(stream) = socket.into_stream() else { return };
            // A box, which is gone when the connection is served.
            let admitted = Box::pin(entry.admit(stream, remote, UrlKind::Client));
            let Some(Some(stream)) = stop.run_until_cancelled(admitted).await else { return };
            let settings = if matches!(stream, Stream::Tls(_)) { encrypted } else { plain };
            let asks_name = services.config.client_security.tls.client_cert_auth;
            let names = if asks_name { stream.peer_names() } else { None };
            let common_name = names.map(|names| names.common_name.into());
            let client = Client { remote, common_name };
            connection::serve(stream, client, services, settings, stop).await;
        };
        connections.tracker.spawn_on(serve, handle);
    }
}

/// What etcd says of a port for clients; of those for metrics it says nothing.
fn log_serving(url: &Url, scope: Scope, entry: &Entry) {
    let traffic = match scope {
        Scope::Client => "grpc+http",
        Scope::Grpc => "grpc",
        Scope::Http => "http",
        Scope::Metrics => return,
    };
    let address = url.as_str();
    if entry.is_plain() {
        let message = "serving client traffic insecurely; this is strongly discouraged!";
        tracing::info!(traffic, address, "{message}");
    }
    if entry.is_encrypted() {
        tracing::info!(traffic, address, "serving client traffic securely");
    }
}

/// One runtime for clients: their connections live and die here.
fn client_thread(
    services: &Arc<Services>,
    commit: &Arc<Mutex<CommitLoop>>,
    number: u16,
    stops: &Stops,
    started: &std::sync::mpsc::Sender<Handle>,
) {
    node::enter_runtime(number);
    LocalHub::install(services, number);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => node::fatal(&error),
    };
    runtime.block_on(async {
        tokio::spawn(deliver(services.node.clone(), number));
        tokio::spawn(services::run_hub());
        tokio::spawn(lone::run(services.node.clone(), commit.clone()));
        let _ = started.send(Handle::current());
        stops.streams.cancelled().await;
        services::end_streams();
        // The last answers of this thread still have to be delivered and sent.
        stops.threads.cancelled().await;
    });
}

/// Hands the answers of the commit thread to the calls of this thread, and lets the slow ones time out.
async fn deliver(node: NodeHandle, number: u16) {
    let mailboxes = node.mailboxes().clone();
    let mailbox = &mailboxes[usize::from(number)];
    let mut scratch = Vec::new();
    let mut sweep = tokio::time::interval(DEADLINE_SWEEP);
    loop {
        tokio::select! {
            biased;
            delivery = std::future::poll_fn(|context| mailbox.poll_deliver(context, &mut scratch)) => {
                if delivery.has_events {
                    services::hub_has_work();
                }
            }
            _ = sweep.tick() => node.expire_waiting(),
        }
    }
}

async fn tick(node: NodeHandle, interval: Duration) {
    let mut interval = tokio::time::interval(interval);
    loop {
        interval.tick().await;
        node.tick();
    }
}

/// Before the first election: waits for the others to be there, so that it is not held in vain.
async fn advance_ticks(node: NodeHandle, election_ticks: usize) {
    let begun = Instant::now();
    while begun.elapsed() < PEERS_PATIENCE {
        tokio::time::sleep(PEERS_POLL).await;
        if node.leader().is_some() {
            return;
        }
        if node.is_sole_voter() || node.connected_count(Duration::ZERO) > node.members_known() / 2 {
            node.advance_ticks(election_ticks.saturating_sub(1));
            return;
        }
    }
}

/// Starts a thread of the node. A member without it cannot go on, so its failure ends the process.
fn spawn_or_die(
    name: &str,
    run: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            if let Err(failure) = run() {
                node::fatal(&failure);
            }
        })
        .map_err(Error::Thread)
}

fn state_machine_config(config: &Config) -> retcd_state_machine::Config {
    let minimum_ttl =
        config.heartbeat_interval * u32::try_from(config.election_ticks()).unwrap_or(u32::MAX) * 3
            / 2;
    let cache_bytes = usize::try_from(config.value_cache_bytes()).unwrap_or(usize::MAX);
    retcd_state_machine::Config {
        quota_bytes: config.quota_backend_bytes,
        cache_bytes,
        // Whoever wants little memory for values wants little for history too; watchers that lag read from the disk.
        history_bytes: (cache_bytes / 16).clamp(4 << 20, 32 << 20),
        lease: retcd_state_machine::lease::Config {
            min_ttl_secs: i64::try_from(minimum_ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX),
            checkpoint_interval: CHECKPOINT_INTERVAL,
            revoke_retry: config.request_timeout(),
        },
        learners_max: usize::try_from(config.max_learners).unwrap_or(usize::MAX),
        token_life: config.auth_token_ttl,
    }
}

fn retention(compaction: AutoCompaction) -> Option<Retention> {
    match compaction {
        AutoCompaction::Off => None,
        AutoCompaction::Periodic(period) => Some(Retention::Periodic(period)),
        AutoCompaction::Revision(keep) => Some(Retention::Revisions(keep)),
    }
}
