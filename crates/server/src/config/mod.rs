//! How a member is told what to do.
//!
//! Three sources say the same things: the command line, `ETCD_*` variables and a file. [`flags`] is the one
//! table behind all of them. A source puts texts under the names of the table (`settings`), and `check` makes
//! a [`Config`] of them in which every value has its type and nothing contradicts itself:
//!
//! ```text
//! command_line ─┐
//! environment  ─┼─► settings ─► check ─► Config
//! file         ─┘
//! ```
//!
//! The command line wins over the environment, but a flag in both is an error; with a file nothing else
//! is read. What this server cannot do yet is refused, never ignored.

mod allowed;
mod check;
mod command_line;
pub mod duration;
mod environment;
mod error;
mod file;
pub mod flags;
pub mod gates;
pub mod help;
mod machine;
mod notice;
mod report;
mod settings;
mod tls;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use allowed::Allowed;
pub use error::Error;
pub use gates::{FeatureGates, Gate};
pub use notice::Notice;
pub use retcd_net::InitialCluster;
use retcd_net::UrlList;
pub use tls::{Security, UrlKind};
pub use value::{Kind, Value};

use crate::logging;
use crate::tokens::AuthToken;
use settings::{Refusal, Settings};

/// Everything a member is told. Zero values that stand for defaults are replaced.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each one is a flag of its own")]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// None: `<data_dir>/member/wal`.
    pub wal_dir: Option<PathBuf>,
    pub unsafe_no_fsync: bool,
    /// Keep in RAM what is in use.
    pub memory_mlock: bool,

    pub listen_peer_urls: UrlList,
    /// gRPC, and HTTP unless there are URLs for that alone.
    pub listen_client_urls: UrlList,
    pub listen_client_http_urls: UrlList,
    pub listen_metrics_urls: UrlList,
    pub initial_advertise_peer_urls: UrlList,
    pub advertise_client_urls: UrlList,
    pub socket_options: retcd_net::listener::Options,
    /// TLS on URLs for clients and metrics.
    pub client_security: Security,
    pub peer_security: Security,
    /// Life of certificates that are made here.
    pub self_signed_years: u32,

    /// Matters only before there is a WAL, as the next two; see [`Config::check_first_start`].
    pub initial_cluster: InitialCluster,
    pub initial_cluster_token: String,
    /// Otherwise the member joins a running one.
    pub is_new_cluster: bool,
    pub force_new_cluster: bool,
    /// How the members of a new cluster are found; none: `initial_cluster` lists them. Otherwise that holds this member only.
    pub discovery: Option<Discovery>,
    pub strict_reconfig_check: bool,
    pub max_learners: u64,
    /// How often the leader looks whether a downgrade has finished; none: never.
    pub downgrade_check_time: Option<Duration>,
    /// How often the leader compares all data of the members.
    pub corrupt_check_time: Option<Duration>,
    /// How often the leader compares the hashes of compactions, if the gate for it is open.
    pub compact_hash_check_time: Duration,

    /// One tick of Raft.
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub initial_election_tick_advance: bool,
    pub pre_vote: bool,
    /// How long another member may be silent, and may take no data.
    pub raft_read_timeout: Duration,
    pub raft_write_timeout: Duration,
    /// Applied entries between Raft snapshots on disk.
    pub snapshot_count: u64,
    /// Entries kept in memory behind a snapshot, for slow followers.
    pub snapshot_catchup_entries: u64,
    /// Files to keep; 0 keeps all.
    pub max_snapshots: u64,
    pub max_wals: u64,

    /// Limit of the backend's size; none: no limit.
    pub quota_backend_bytes: Option<u64>,
    /// Longer than etcd's 100 ms by default: the WAL is the durability, and no request waits for the backend.
    pub backend_batch_interval: Duration,
    pub backend_batch_limit: u64,
    /// Defragment at start when this much can be freed, in bytes; none: never.
    pub bootstrap_defrag_threshold_bytes: Option<u64>,
    pub auto_compaction: AutoCompaction,
    pub compaction_batch_limit: u64,
    pub compaction_sleep_interval: Duration,

    pub max_txn_ops: usize,
    /// Largest proposal; a gRPC message may be [`Config::max_receive_bytes`] long.
    pub max_request_bytes: usize,
    pub max_concurrent_streams: u32,
    pub keepalive: Keepalive,
    pub watch_progress_notify_interval: Duration,
    pub enable_grpc_gateway: bool,
    /// Origins whose pages may read answers.
    pub cors: Allowed,
    /// Names under which this member is asked over plain HTTP.
    pub host_whitelist: Allowed,
    /// Profiles over HTTP; on with log level debug too.
    pub enable_pprof: bool,

    /// 4 to 31.
    pub bcrypt_cost: u32,
    /// What clients show to say who they are.
    pub auth_token: AuthToken,
    /// Life of a simple token; using it renews it.
    pub auth_token_ttl: Duration,

    pub feature_gates: FeatureGates,
    /// Latency histograms per gRPC method (`--metrics=extensive`).
    pub extensive_metrics: bool,
    pub log: logging::Settings,
    /// None: no spans are kept.
    pub tracing: Option<DistributedTracing>,
    pub warning_apply_duration: Duration,
    pub warning_unary_request_duration: Duration,

    /// RAM for current values; see [`Config::value_cache_bytes`].
    value_cache_bytes: u64,
    /// See [`Config::client_threads`].
    client_threads: u64,

    /// What was noticed while reading; [`Config::log_notices`].
    pub notices: Vec<Notice>,
}

/// When history is compacted without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep what is younger.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(i64),
}

/// Who tells the members of a new cluster.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// Another etcd cluster.
    Registry(Box<Registry>),
    /// SRV records of a domain.
    Dns { domain: String, service_name: String },
}

/// An etcd cluster that keeps lists of members of other clusters.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Names the list, and stands for the cluster's token.
    pub token: String,
    /// At least one.
    pub endpoints: Vec<RegistryEndpoint>,
    /// For endpoints with TLS.
    pub tls: retcd_net::tls::Settings,
    /// Believe whoever answers there.
    pub is_blind: bool,
    pub dial_timeout: Duration,
    pub request_timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    pub user: Option<User>,
}

/// A member of such a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryEndpoint {
    /// `host:port`
    pub authority: String,
    pub is_encrypted: bool,
}

/// Who logs in somewhere.
#[derive(Clone)]
pub struct User {
    pub name: String,
    pub password: String,
}

/// Without the password.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where spans go, under which name, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributedTracing {
    /// `host:port` of a collector that speaks OTLP over gRPC, in plain text.
    pub address: String,
    pub service_name: String,
    pub instance_id: Option<String>,
    /// Of a million calls that come without a decision of their caller. 0 leaves it all to the callers.
    pub samples_per_million: u32,
}

/// HTTP/2 pings on client connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Clients that ping more often are disconnected.
    pub min_time: Duration,
    /// How often the server pings; none: never.
    pub interval: Option<Duration>,
    /// How long it waits for the answer; none: forever.
    pub timeout: Option<Duration>,
}

impl Config {
    /// Messages from clients may be longer than a proposal by this much: room for what wraps it.
    const RECEIVE_OVERHEAD: usize = 512 * 1024;

    /// Limit of one gRPC message from a client.
    pub fn max_receive_bytes(&self) -> usize {
        self.max_request_bytes + Self::RECEIVE_OVERHEAD
    }

    /// How long a request may take inside of the server.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Ticks without a leader before an election; at least 5.
    pub fn election_ticks(&self) -> usize {
        let ticks = self.election_timeout.as_millis() / self.heartbeat_interval.as_millis();
        usize::try_from(ticks).expect("the election timeout is below 50 s and a tick at least 1 ms")
    }

    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// How much RAM current values may take: half of what this process may use unless told otherwise.
    pub fn value_cache_bytes(&self) -> u64 {
        match self.value_cache_bytes {
            0 => machine::memory_bytes() / 2,
            bytes => bytes,
        }
    }

    /// Threads that serve clients: one per core, but from four cores up one core is left for consensus and disk.
    pub fn client_threads(&self) -> usize {
        match usize::try_from(self.client_threads).unwrap_or(usize::MAX) {
            0 => match machine::cores() {
                cores @ 0..4 => cores.max(1),
                cores => cores - 1,
            },
            threads => threads,
        }
    }

    /// Checks what only matters before there is a WAL: the member stands in the initial cluster, with the
    /// URLs that it advertises.
    ///
    /// # Errors
    /// In etcd's words.
    pub fn check_first_start(&self) -> Result<(), Error> {
        Ok(self.initial_cluster.check(&self.name, &self.initial_advertise_peer_urls)?)
    }

    /// Logs what was noticed while reading.
    pub fn log_notices(&self) {
        for notice in &self.notices {
            notice.log();
        }
    }
}

/// What a start of the program means.
#[derive(Debug)]
pub enum Command {
    Run(Box<Config>),
    /// Print to standard output and succeed: help or version.
    Print(String),
}

/// Where the configuration comes from; a test passes its own.
pub struct Sources<'a> {
    /// Without the name of the program.
    pub arguments: Vec<String>,
    pub variables: BTreeMap<String, String>,
    pub read_file: &'a dyn Fn(&Path) -> std::io::Result<String>,
    /// The address of this machine for others, to be advertised when it listens everywhere.
    pub default_host: &'a dyn Fn() -> Option<IpAddr>,
}

impl Sources<'_> {
    /// Those of this process.
    pub fn of_process() -> Self {
        let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
        Self {
            arguments: std::env::args_os().skip(1).map(text).collect(),
            variables: std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect(),
            read_file: &|path| std::fs::read_to_string(path),
            default_host: &machine::default_host,
        }
    }
}

/// Reads the sources and checks what they say.
///
/// # Errors
/// [`Error`] knows the exit code.
pub fn load(sources: &Sources<'_>) -> Result<Command, Error> {
    let words = command_line::read(sources.arguments.iter().cloned())?;
    if words.wants_help {
        return Ok(Command::Print(help::help()));
    }
    let mut settings = Settings::default();
    for (known, value) in &words.given {
        settings.set(*known, value).map_err(|refusal| wrong_flag(*known, value, refusal))?;
    }
    if settings.bool("version") {
        return Ok(Command::Print(help::version()));
    }
    if let Some(path) = file_path(&settings, sources) {
        settings = Settings::default();
        let text = (sources.read_file)(&path)
            .map_err(|source| Error::FileUnreadable { path: path.clone(), source })?;
        file::read(&path, &text, &mut settings)?;
        settings.notices.push(Notice::FileLoaded(path));
        return check::check(settings, check::Origin::File, sources.default_host).map(run);
    }
    let shadowing: BTreeSet<String> =
        words.given.iter().map(|(known, _)| known.variable()).collect();
    environment::read(&sources.variables, &shadowing, &mut settings)?;
    check::check(settings, check::Origin::Words, sources.default_host).map(run)
}

fn run(config: Config) -> Command {
    Command::Run(Box::new(config))
}

fn file_path(settings: &Settings, sources: &Sources<'_>) -> Option<PathBuf> {
    let flag = settings.text("config-file");
    let path = if flag.is_empty() { sources.variables.get("ETCD_CONFIG_FILE")? } else { &flag };
    (!path.is_empty()).then(|| PathBuf::from(path))
}

fn wrong_flag(known: flags::Known, value: &str, refusal: Refusal) -> Error {
    let (flag, value) = (known.name(), value.to_owned());
    match refusal {
        Refusal::Gone(error) => error,
        Refusal::Text(reason) if known.kind() == Kind::Bool => {
            Error::BooleanFlagValue { flag, value, reason }
        }
        Refusal::Text(reason) => Error::FlagValue { flag, value, reason },
    }
}

#[cfg(test)]
mod tests;
