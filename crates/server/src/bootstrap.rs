//! From configuration and data dir to a member that can start: a new cluster, or a restart.
//!
//! The log decides. Without one this is a new cluster of one member, whose ids follow from its peer URLs and the cluster
//! token; its first entry adds the member itself, so that replay needs no special case. With one, the ids come from the
//! log and the `--initial-*` flags are ignored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use retcd_api::{etcdserverpb, raftpb, walpb};
use retcd_consensus::{FirstMember, InitialState};
use retcd_state_machine::backend::Failure;
use retcd_state_machine::cluster::Member;
use retcd_state_machine::{Reader, StateMachine};
use retcd_storage::data_dir::DataDir;
use retcd_storage::fs::{Fs, RealFs};
use retcd_storage::snapshot::Snapshots;
use retcd_storage::wal::{self, EntryRef, Wal};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use crate::config::Config;
use crate::node::Ids;

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
}

/// A member before its threads run.
pub(crate) struct Boot {
    pub(crate) ids: Ids,
    pub(crate) wal: Wal,
    pub(crate) machine: StateMachine,
    pub(crate) raft: retcd_consensus::Node,
    pub(crate) snapshots: Snapshots,
    pub(crate) snapshot_index: u64,
    pub(crate) is_new: bool,
}

/// Opens or creates the log, and puts the Raft node together with what the state machine holds already.
pub(crate) fn boot(
    config: &Config,
    data_dir: &DataDir,
    machine: StateMachine,
) -> Result<Boot, Error> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let dir = data_dir.layout().wal_dir();
    let snapshots = Snapshots::new(fs.clone(), &data_dir.layout().snap_dir());
    let options = wal::Options::default();
    if !wal::exists(fs.as_ref(), &dir) {
        config.check_first_start()?;
    }
    let first = first_member(config);
    let new_ids = Ids { member: first.id, cluster: cluster_id(&[first.id]) };

    let (wal, mut initial, ids, snapshot_index, is_new) = if wal::exists(fs.as_ref(), &dir) {
        let (from, mut wal, replayed) = open_wal(fs, &dir, &snapshots, options)?;
        let metadata = etcdserverpb::Metadata::decode(replayed.metadata)
            .map_err(|source| Error::Metadata { dir: dir.clone(), source })?;
        let ids = Ids { member: metadata.node_id, cluster: metadata.cluster_id };
        if from.index == 0 && replayed.entries.is_empty() {
            // The start before this one ended between the creation of the log and its first entries.
            if ids != new_ids {
                return Err(Error::OtherMember {
                    dir,
                    found_member: ids.member,
                    found_cluster: ids.cluster,
                    member: new_ids.member,
                    cluster: new_ids.cluster,
                });
            }
            let initial = first_entries(&mut wal, &first)?;
            (wal, initial, ids, 0, true)
        } else {
            let initial = InitialState {
                hard_state: replayed.hard_state,
                conf_state: machine
                    .conf_state()
                    .or_else(|| from.conf_state.clone())
                    .unwrap_or_default(),
                snapshot_index: from.index,
                snapshot_term: from.term,
                entries: replayed.entries,
                applied: 0,
            };
            (wal, initial, ids, from.index, false)
        }
    } else {
        let metadata =
            etcdserverpb::Metadata { node_id: new_ids.member, cluster_id: new_ids.cluster };
        let mut wal = Wal::create(fs, &dir, &metadata.encode_to_vec(), options)?;
        let initial = first_entries(&mut wal, &first)?;
        (wal, initial, new_ids, 0, true)
    };
    initial.applied = machine.applied_index();
    let mut raft_config =
        retcd_consensus::Config::new(ids.member, ids.member ^ u64::from(std::process::id()));
    raft_config.election_ticks = config.election_ticks();
    raft_config.pre_vote = config.pre_vote;
    let raft = retcd_consensus::Node::new(&raft_config, initial)?;
    Ok(Boot { ids, wal, machine, raft, snapshots, snapshot_index, is_new })
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

/// Writes the first entries of a new cluster, durably.
fn first_entries(wal: &mut Wal, first: &Member) -> Result<InitialState, Error> {
    let member = FirstMember { id: first.id, context: first.to_json().into() };
    let initial = InitialState::bootstrap(vec![member]);
    wal.append(Some(&initial.hard_state), initial.entries.iter().map(EntryRef::from))?;
    wal.flush(true)?;
    Ok(initial)
}

/// This member as the first one of a new cluster.
fn first_member(config: &Config) -> Member {
    let mut peer_urls = config.initial_advertise_peer_urls.to_strings();
    peer_urls.sort();
    Member {
        id: member_id(&peer_urls, &config.initial_cluster_token),
        name: config.name.clone(),
        peer_urls,
        ..Member::default()
    }
}

/// A member's id: from its sorted peer URLs and the cluster token.
fn member_id(sorted_peer_urls: &[String], token: &str) -> u64 {
    let mut hash = Sha1::new();
    for url in sorted_peer_urls {
        hash.update(url);
    }
    hash.update(token);
    first_eight_bytes(hash)
}

/// The cluster's id: from the ids of its first members, ascending.
fn cluster_id(sorted_member_ids: &[u64]) -> u64 {
    let mut hash = Sha1::new();
    for id in sorted_member_ids {
        hash.update(id.to_be_bytes());
    }
    first_eight_bytes(hash)
}

fn first_eight_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(*digest.first_chunk().expect("SHA-1 has twenty bytes"))
}

/// The membership in the shape of etcd's old store, as it stands in `.snap` files for peers and other tools.
pub(crate) fn membership_json(reader: &Reader) -> Vec<u8> {
    let members = reader
        .members()
        .into_iter()
        .map(|member| (format!("{:x}", member.id), member_node(&member)));
    let removed = reader.removed_members().into_iter().map(|id| {
        let id = format!("{id:x}");
        let node = leaf(&format!("/0/removed_members/{id}"), "");
        (id, node)
    });
    let mut cluster = vec![
        ("members".to_owned(), directory("/0/members", members)),
        ("removed_members".to_owned(), directory("/0/removed_members", removed)),
    ];
    if let Some(version) = reader.cluster_version() {
        cluster.push(("version".to_owned(), leaf("/0/version", &version)));
    }
    let root = [("0".to_owned(), directory("/0", cluster)), ("1".to_owned(), directory("/1", []))];
    let events = json!({
        "Queue": {"Events": null, "Size": 0, "Front": 0, "Back": 0, "Capacity": 1000},
        "StartIndex": 0,
        "LastIndex": 0,
    });
    let store = json!({
        "Root": directory("/", root),
        "WatcherHub": {"EventHistory": events},
        "CurrentIndex": 0,
        "Stats": {},
        "CurrentVersion": 2,
    });
    store.to_string().into_bytes()
}

fn member_node(member: &Member) -> Value {
    let path = format!("/0/members/{:x}", member.id);
    let mut raft = json!({"peerURLs": member.peer_urls});
    if member.is_learner {
        raft["isLearner"] = true.into();
    }
    let mut attributes = json!({});
    if !member.name.is_empty() {
        attributes["name"] = member.name.clone().into();
    }
    if !member.client_urls.is_empty() {
        attributes["clientURLs"] = member.client_urls.clone().into();
    }
    let children = [("attributes", attributes), ("raftAttributes", raft)];
    let children = children.map(|(name, json)| {
        let node = leaf(&format!("{path}/{name}"), &json.to_string());
        (name.to_owned(), node)
    });
    directory(&path, children)
}

fn leaf(path: &str, value: &str) -> Value {
    node(path, value, Value::Null)
}

fn directory(path: &str, children: impl IntoIterator<Item = (String, Value)>) -> Value {
    node(path, "", Value::Object(children.into_iter().collect()))
}

#[allow(clippy::needless_pass_by_value, reason = "the macro takes the children over")]
fn node(path: &str, value: &str, children: Value) -> Value {
    json!({
        "Path": path,
        "CreatedIndex": 0,
        "ModifiedIndex": 0,
        "ExpireTime": "0001-01-01T00:00:00Z",
        "Value": value,
        "Children": children,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids as etcd gives them to a member with default flags.
    #[test]
    fn ids_are_those_of_etcd() {
        let id = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(format!("{id:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[id])), "cdf818194e3a8c32");
    }
}
