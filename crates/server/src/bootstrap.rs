//! From configuration and data dir to a member that can start: a new cluster, a running one, or a restart.
//!
//! The log decides. With one, the ids come from it and the `--initial-*` flags are ignored. Without one there are two ways:
//! - **new**: the ids follow from the peer URLs and the cluster token, alike on all members; the first entries add the
//!   members, so that replay needs no special case;
//! - **existing**: a running cluster has added this member before. Its members are asked who belongs to it; the own id is
//!   found by the own peer URLs, and everything else comes from the leader.
//!
//! `--force-new-cluster` restarts from a log alone: what was not committed is cut off, and entries are added that remove
//! all others.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use retcd_api::raftpb::{ConfChange, ConfChangeType, ConfState, Entry, EntryType};
use retcd_api::{etcdserverpb, raftpb, walpb};
use retcd_consensus::{FirstMember, InitialState};
use retcd_net::Url;
use retcd_state_machine::StateMachine;
use retcd_state_machine::backend::Failure;
use retcd_state_machine::cluster::{self, Member};
use retcd_storage::data_dir::DataDir;
use retcd_storage::fs::{Fs, RealFs};
use retcd_storage::snapshot::Snapshots;
use retcd_storage::wal::{self, EntryRef, Wal};
use tokio::runtime::Runtime;

use crate::config::{Config, Discovery, InitialCluster};
use crate::discovery;
use crate::node::Ids;
use crate::peer::Dialer;
use crate::peer::client::{Client, Membership};

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Wal(#[from] wal::Error),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error(transparent)]
    Snapshot(#[from] retcd_storage::snapshot::Error),
    #[error(
        "the log in {} was written by member {found_member:x} of cluster {found_cluster:x}, but its first entries are missing and \
         this configuration makes member {member:x} of cluster {cluster:x}",
        dir.display()
    )]
    OtherMember { dir: PathBuf, found_member: u64, found_cluster: u64, member: u64, cluster: u64 },
    #[error("the log in {} does not tell which member wrote it: {source}", dir.display())]
    Metadata { dir: PathBuf, source: prost::DecodeError },
    #[error(transparent)]
    Raft(#[from] retcd_consensus::Error),
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    #[error(transparent)]
    InitialCluster(#[from] retcd_net::initial_cluster::Error),
    #[error(transparent)]
    Discovery(#[from] discovery::Error),
    #[error("member {0:x} has already been bootstrapped")]
    AlreadyBootstrapped(u64),
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
    )]
    NoAnswer,
    #[error("error validating peerURLs {urls}: {reason}")]
    OtherCluster { urls: String, reason: String },
}

/// A member before its threads run.
pub(crate) struct Boot {
    pub(crate) ids: Ids,
    pub(crate) wal: Wal,
    pub(crate) machine: StateMachine,
    pub(crate) raft: retcd_consensus::Node,
    pub(crate) snapshots: Snapshots,
    /// Of the newest snapshot that the log confirms.
    pub(crate) snapshot_index: u64,
    pub(crate) is_new: bool,
    /// Members of the cluster, where the log does not tell of them yet.
    pub(crate) peers: Vec<Member>,
}

/// The log, and what Raft begins with.
struct Start {
    ids: Ids,
    wal: Wal,
    initial: InitialState,
    /// The newest that the log confirms; the default for none.
    snapshot: walpb::Snapshot,
    is_new: bool,
    peers: Vec<Member>,
}

/// How questions get to other members before this one runs.
pub(crate) struct Outside<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) dialer: &'a Dialer,
}

/// Opens or creates the log, and puts the Raft node together with what the state machine holds already.
///
/// `open` opens the state machine, which must be at the given snapshot or behind it in the log. `outside` is for questions
/// to other members.
pub(crate) fn boot(
    config: &Config,
    data_dir: &DataDir,
    open: impl FnOnce(&walpb::Snapshot) -> Result<StateMachine, Failure>,
    outside: &Outside<'_>,
) -> Result<Boot, Error> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let dir = data_dir.layout().wal_dir();
    let snapshots = Snapshots::new(fs.clone(), &data_dir.layout().snap_dir());
    let is_initialized = wal::exists(fs.as_ref(), &dir);
    config.log_start(is_initialized);
    let start = if is_initialized {
        restart(config, fs, &dir, &snapshots, outside)?
    } else {
        let config = outside.runtime.block_on(with_members(config))?;
        first_start(&config, fs, &dir, outside)?
    };
    let Start { ids, wal, mut initial, snapshot, is_new, peers } = start;
    let machine = open(&snapshot)?;
    initial.applied = machine.applied_index();
    if let Some(conf_state) = machine.conf_state() {
        initial.conf_state = conf_state;
    }
    let snapshot_index = snapshot.index;
    let mut raft_config =
        retcd_consensus::Config::new(ids.member, ids.member ^ u64::from(std::process::id()));
    raft_config.election_ticks = config.election_ticks();
    raft_config.pre_vote = config.pre_vote;
    let raft = retcd_consensus::Node::new(&raft_config, initial)?;
    Ok(Boot { ids, wal, machine, raft, snapshots, snapshot_index, is_new, peers })
}

/// The configuration with all members of the initial cluster in it: listed by a flag, or found.
async fn with_members(config: &Config) -> Result<Cow<'_, Config>, Error> {
    let found = match &config.discovery {
        None => {
            config.check_first_start()?;
            return Ok(Cow::Borrowed(config));
        }
        Some(Discovery::Registry(_)) if !config.is_new_cluster => {
            return Err(discovery::Error::ExistingCluster.into());
        }
        Some(Discovery::Registry(registry)) => {
            config.check_first_start()?;
            let own = FirstMembers::of(config).ids.member;
            let own_text = config.initial_cluster.to_string();
            let joined = discovery::registry::join(registry, own, &own_text).await;
            joined.map_err(discovery::Error::from)?
        }
        Some(Discovery::Dns { domain, service_name }) => {
            let advertised = &config.initial_advertise_peer_urls;
            let found = discovery::dns::find(domain, service_name, &config.name, advertised).await;
            found.map_err(discovery::Error::from)?
        }
    };
    let mut config = config.clone();
    config.initial_cluster = InitialCluster::parse(&found)?;
    check_own_urls(&config)?;
    Ok(Cow::Owned(config))
}

/// What was found of this member has to be what it advertises; names of hosts stand for their addresses.
fn check_own_urls(config: &Config) -> Result<(), Error> {
    let advertised = config.initial_advertise_peer_urls.to_strings();
    let found = config.initial_cluster.members().find(|(name, _)| *name == config.name);
    let is_same = found.is_some_and(|(_, urls)| are_same_urls(&urls.to_strings(), &advertised));
    if is_same {
        return Ok(());
    }
    Err(Error::InitialCluster(retcd_net::initial_cluster::Error::UrlNotInCluster {
        advertised: config.initial_advertise_peer_urls.to_string(),
        cluster: config.initial_cluster.to_string(),
    }))
}

/// Creates the log of a new member.
fn first_start(
    config: &Config,
    fs: Arc<dyn Fs>,
    dir: &Path,
    outside: &Outside<'_>,
) -> Result<Start, Error> {
    let create = |ids: Ids| {
        let metadata = etcdserverpb::Metadata { node_id: ids.member, cluster_id: ids.cluster };
        Wal::create(fs, dir, &metadata.encode_to_vec(), wal::Options::default())
    };
    if config.is_new_cluster {
        let first = FirstMembers::of(config);
        outside.runtime.block_on(first.check_not_bootstrapped(config, outside.dialer))?;
        let mut wal = create(first.ids)?;
        let initial = first.write(&mut wal)?;
        let (ids, peers) = (first.ids, first.members);
        return Ok(Start {
            ids,
            wal,
            initial,
            snapshot: walpb::Snapshot::default(),
            is_new: true,
            peers,
        });
    }
    let (ids, peers) = outside.runtime.block_on(find_running_cluster(config, outside.dialer))?;
    let wal = create(ids)?;
    let initial = InitialState::default();
    Ok(Start { ids, wal, initial, snapshot: walpb::Snapshot::default(), is_new: true, peers })
}

/// Goes on from the log.
fn restart(
    config: &Config,
    fs: Arc<dyn Fs>,
    dir: &Path,
    snapshots: &Snapshots,
    outside: &Outside<'_>,
) -> Result<Start, Error> {
    let (from, mut wal, replayed) = open_wal(fs, dir, snapshots, wal::Options::default())?;
    let metadata = etcdserverpb::Metadata::decode(replayed.metadata)
        .map_err(|source| Error::Metadata { dir: dir.to_owned(), source })?;
    let ids = Ids { member: metadata.node_id, cluster: metadata.cluster_id };
    if from.index == 0 && replayed.entries.is_empty() {
        // The start before this one ended between the creation of the log and its first entries.
        return restart_empty(config, dir, ids, wal, outside);
    }
    let mut initial = InitialState {
        hard_state: replayed.hard_state,
        conf_state: from.conf_state.clone().unwrap_or_default(),
        snapshot_index: from.index,
        snapshot_term: from.term,
        entries: replayed.entries,
        applied: 0,
    };
    if config.force_new_cluster {
        force_alone(&mut wal, &mut initial, ids.member)?;
    }
    Ok(Start { ids, wal, initial, snapshot: from, is_new: false, peers: Vec::new() })
}

fn restart_empty(
    config: &Config,
    dir: &Path,
    found: Ids,
    mut wal: Wal,
    outside: &Outside<'_>,
) -> Result<Start, Error> {
    let config = &*outside.runtime.block_on(with_members(config))?;
    let first = FirstMembers::of(config);
    let (ids, peers) = if config.is_new_cluster {
        (first.ids, first.members.clone())
    } else {
        outside.runtime.block_on(find_running_cluster(config, outside.dialer))?
    };
    if ids != found {
        return Err(Error::OtherMember {
            dir: dir.to_owned(),
            found_member: found.member,
            found_cluster: found.cluster,
            member: ids.member,
            cluster: ids.cluster,
        });
    }
    let initial =
        if config.is_new_cluster { first.write(&mut wal)? } else { InitialState::default() };
    Ok(Start { ids, wal, initial, snapshot: walpb::Snapshot::default(), is_new: true, peers })
}

/// Opens the log behind the newest snapshot that it knows of.
///
/// Almost always that is the newest snapshot file, and the log need not be read from its beginning to know it. When the
/// log does not confirm it (the crash came between the file and the record), all of the log is asked.
fn open_wal(
    fs: Arc<dyn Fs>,
    dir: &Path,
    snapshots: &Snapshots,
    options: wal::Options,
) -> Result<(walpb::Snapshot, Wal, wal::Replayed), Error> {
    let newest = snapshots.newest()?.as_ref().map(to_wal_snapshot);
    if let Some(from) = newest {
        match Wal::open(fs.clone(), dir, &from, options) {
            Ok((wal, replayed)) if replayed.hard_state.commit >= from.index => {
                return Ok((from, wal, replayed));
            }
            Ok(_)
            | Err(wal::Error::SnapshotNotFound { .. } | wal::Error::SnapshotMismatch { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let valid = wal::valid_snapshots(fs.as_ref(), dir)?;
    let from = snapshots.load_newest(&valid)?.as_ref().map(to_wal_snapshot).unwrap_or_default();
    let (wal, replayed) = Wal::open(fs, dir, &from, options)?;
    Ok((from, wal, replayed))
}

fn to_wal_snapshot(snapshot: &raftpb::Snapshot) -> walpb::Snapshot {
    let metadata = snapshot.metadata.clone().unwrap_or_default();
    walpb::Snapshot { index: metadata.index, term: metadata.term, conf_state: metadata.conf_state }
}

/// The members of a new cluster, this one among them.
struct FirstMembers {
    members: Vec<Member>,
    ids: Ids,
}

impl FirstMembers {
    fn of(config: &Config) -> Self {
        let named = config.initial_cluster.members().map(|(name, urls)| (name, urls.to_strings()));
        let members = cluster::first_members(named, &config.initial_cluster_token);
        let own = members.iter().find(|member| member.name == config.name);
        let ids = Ids {
            member: own.map_or(0, |member| member.id),
            cluster: cluster::cluster_id(&members),
        };
        FirstMembers { members, ids }
    }

    /// Writes the first entries, durably. They are the same on all members.
    fn write(&self, wal: &mut Wal) -> Result<InitialState, Error> {
        let first =
            |member: &Member| FirstMember { id: member.id, context: member.to_json().into() };
        let initial = InitialState::bootstrap(self.members.iter().map(first).collect());
        wal.append(Some(&initial.hard_state), initial.entries.iter().map(EntryRef::from))?;
        wal.flush(true)?;
        Ok(initial)
    }

    /// A member that has lost its data dir must not vote again in the cluster that it was part of.
    async fn check_not_bootstrapped(&self, config: &Config, dialer: &Dialer) -> Result<(), Error> {
        let others = config.initial_cluster.members().filter(|(name, _)| *name != config.name);
        let urls = others.flat_map(|(_, urls)| urls.iter());
        // The others of a new cluster are starting too, and do not answer yet: a running one answers at once.
        let Some(running) = ask_members(dialer, urls, Duration::from_millis(300)).await else {
            return Ok(());
        };
        let known = running.members.iter().find(|member| member.id == self.ids.member);
        match known {
            Some(member) if !member.client_urls.is_empty() => {
                Err(Error::AlreadyBootstrapped(member.id))
            }
            _ => Ok(()),
        }
    }
}

/// Asks the other members of `--initial-cluster` which cluster they form, and finds this member in it.
async fn find_running_cluster(
    config: &Config,
    dialer: &Dialer,
) -> Result<(Ids, Vec<Member>), Error> {
    let others = config.initial_cluster.members().filter(|(name, _)| *name != config.name);
    let limit = Duration::from_secs(1) + config.election_timeout;
    let running = ask_members(dialer, others.flat_map(|(_, urls)| urls.iter()), limit).await;
    let Membership { cluster_id, members } = running.ok_or(Error::NoAnswer)?;
    let other = |reason: String| Error::OtherCluster {
        urls: members
            .iter()
            .flat_map(|member| &member.peer_urls)
            .cloned()
            .collect::<Vec<_>>()
            .join(","),
        reason,
    };
    if members.len() != config.initial_cluster.len() {
        return Err(other("member count is unequal".to_owned()));
    }
    let mut own = None;
    for (name, urls) in config.initial_cluster.members() {
        let urls = urls.to_strings();
        let known = members.iter().find(|member| are_same_urls(&member.peer_urls, &urls));
        let known = known.ok_or_else(|| {
            other(format!("unmatched member while checking PeerURLs ({})", urls.join(",")))
        })?;
        if name == config.name {
            own = Some(known.id);
        }
    }
    let member = own.ok_or_else(|| other(format!("couldn't find local name {:?}", config.name)))?;
    Ok((Ids { member, cluster: cluster_id }, members))
}

/// The membership as the first member tells it that answers, none when nobody does.
async fn ask_members<'a>(
    dialer: &Dialer,
    urls: impl Iterator<Item = &'a Url>,
    limit: Duration,
) -> Option<Membership> {
    let mut asked = tokio::task::JoinSet::new();
    for url in urls {
        let (dialer, url) = (dialer.clone(), url.clone());
        let ask = async move { Client { dialer: &dialer, url: &url, limit }.members().await };
        asked.spawn(ask);
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(membership)) => return Some(membership),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a member does not tell who belongs to the cluster");
            }
            Err(_) => {}
        }
    }
    None
}

/// Whether two members' URLs are the same, by text or by the addresses that they resolve to.
fn are_same_urls(left: &[String], right: &[String]) -> bool {
    let texts = |urls: &[String]| urls.iter().cloned().collect::<BTreeSet<_>>();
    if texts(left) == texts(right) {
        return true;
    }
    // One address of each, as etcd has it: a name may lead to more than the other member's configuration tells.
    let resolve = |urls: &[String]| {
        let resolved = urls.iter().map(|url| {
            let url = Url::parse(url).ok()?;
            let addresses = format!("{}:{}", url.host()?, url.port()?).to_socket_addrs().ok()?;
            addresses.min_by_key(|address| !address.is_ipv4())
        });
        resolved.collect::<Option<BTreeSet<SocketAddr>>>()
    };
    left.len() == right.len() && resolve(left).is_some_and(|left| resolve(right) == Some(left))
}

/// Makes this member the only one: cuts off what is not committed, and adds committed removals of all others.
fn force_alone(wal: &mut Wal, initial: &mut InitialState, own: u64) -> Result<(), Error> {
    let commit = initial.hard_state.commit;
    let before = initial.entries.len();
    initial.entries.retain(|entry| entry.index <= commit);
    tracing::info!(
        discarded = before - initial.entries.len(),
        commit_index = commit,
        "discarding uncommitted WAL entries and removing all other members"
    );
    let mut changes = Vec::new();
    let (others, is_voter) = members_at(&initial.conf_state, &initial.entries, own);
    if !is_voter {
        let learner = Member { id: own, ..Member::default() };
        changes.push(ConfChange {
            r#type: ConfChangeType::ConfChangeAddNode.into(),
            node_id: own,
            context: learner.to_addition_context(true).into(),
            id: 0,
        });
    }
    changes.extend(others.into_iter().map(|node_id| ConfChange {
        r#type: ConfChangeType::ConfChangeRemoveNode.into(),
        node_id,
        ..ConfChange::default()
    }));
    let term = initial.hard_state.term;
    let entries = changes.iter().zip(commit + 1..).map(|(change, index)| Entry {
        term,
        index,
        r#type: EntryType::EntryConfChange.into(),
        data: change.encode_to_vec().into(),
    });
    let entries: Vec<Entry> = entries.collect();
    initial.hard_state.commit = entries.last().map_or(commit, |entry| entry.index);
    wal.append(Some(&initial.hard_state), entries.iter().map(EntryRef::from))?;
    wal.flush(true)?;
    initial.entries.extend(entries);
    Ok(())
}

/// The other members after `entries`, and whether this one is a voter by then.
fn members_at(snapshot: &ConfState, entries: &[Entry], own: u64) -> (BTreeSet<u64>, bool) {
    let mut voters: BTreeSet<u64> = snapshot.voters.iter().copied().collect();
    let mut learners: BTreeSet<u64> = snapshot.learners.iter().copied().collect();
    for entry in entries.iter().filter(|entry| entry.r#type() == EntryType::EntryConfChange) {
        let Ok(change) = ConfChange::decode(entry.data.clone()) else { continue };
        match change.r#type() {
            ConfChangeType::ConfChangeAddNode => {
                learners.remove(&change.node_id);
                voters.insert(change.node_id);
            }
            ConfChangeType::ConfChangeAddLearnerNode => drop(learners.insert(change.node_id)),
            ConfChangeType::ConfChangeRemoveNode => {
                voters.remove(&change.node_id);
                learners.remove(&change.node_id);
            }
            ConfChangeType::ConfChangeUpdateNode => {}
        }
    }
    let is_voter = voters.remove(&own);
    learners.remove(&own);
    voters.append(&mut learners);
    (voters, is_voter)
}
