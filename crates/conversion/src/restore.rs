//! A snapshot file as the data dir of a member of a new cluster.
//!
//! Keys, leases, alarms, users and roles stay; members are those of the new cluster. The log begins as that of any new
//! cluster, with one entry per member, and all of it is applied already.

use std::sync::Arc;

use prost::Message;
use retcd_api::raftpb::{self, ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState};
use retcd_api::{etcdserverpb, walpb};
use retcd_state_machine::backend::Backend;
use retcd_state_machine::cluster::Member;
use retcd_state_machine::mvcc::{RecordKey, Revision};
use retcd_state_machine::schema::{self, Bucket, cluster, meta};
use retcd_storage::backend::{Loader, Options};
use retcd_storage::data_dir::Layout;
use retcd_storage::fs::{Fs, RealFs};
use retcd_storage::snapshot::Snapshots;
use retcd_storage::wal::{self, EntryRef, Wal};

use crate::adopt::sync_dir;
use crate::{Error, Found, Membership, buckets};

/// The term of the first entries.
const TERM: u64 = 1;

/// The cluster that a data dir is made for.
#[derive(Debug)]
pub struct NewCluster {
    pub id: u64,
    /// All of them, ascending by id; at least one.
    pub members: Vec<Member>,
    /// The member whose data dir it is.
    pub own: u64,
}

/// Makes a data dir out of a database. The directories are missing or empty; the log comes last.
///
/// `bump`: by how much the revision grows, all before it being compacted, so that no client sees revisions go back.
///
/// # Errors
/// The file is damaged; I/O. What was written so far is not removed.
pub fn restore(
    snapshot: &dyn Backend,
    to: &Layout,
    new: &NewCluster,
    bump: Option<u64>,
) -> Result<(), Error> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let snap_dir = to.snap_dir();
    fs.create_dir_all(&snap_dir).map_err(Error::io("create", &snap_dir))?;

    let mut loader = Loader::create(&to.backend_path(), Options::default())?;
    let is_kept = |bucket| !matches!(bucket, Bucket::Members | Bucket::MembersRemoved);
    let found = buckets::load_some(snapshot, &mut loader, &is_kept)?;
    if let Some(bump) = bump {
        move_on(&mut loader, &found, bump)?;
    }
    let first = FirstEntries::of(new);
    for member in &new.members {
        let id = format!("{:x}", member.id);
        loader.put(Bucket::Members, id.as_bytes(), &member.to_json())?;
    }
    loader.put(Bucket::Meta, meta::CONSISTENT_INDEX, &first.commit.to_be_bytes())?;
    loader.put(Bucket::Meta, meta::TERM, &TERM.to_be_bytes())?;
    loader.put(Bucket::Meta, meta::CONF_STATE, &schema::conf_state_json(&first.conf_state))?;
    loader.finish()?;
    sync_dir(&snap_dir)?;
    let version = snapshot.get(Bucket::Cluster, cluster::VERSION)?;
    let version = version.map(|version| String::from_utf8_lossy(&version).into_owned());
    first.write(fs, to, new, version)
}

/// An empty record at the new revision, and a compaction that is still to be carried out up to there: as etcd does it.
fn move_on(loader: &mut Loader, found: &Found, bump: u64) -> Result<(), Error> {
    let main = found.revision.main.saturating_add_unsigned(bump);
    let key = RecordKey::new(Revision::new(main, 0), false);
    loader.put(Bucket::Key, key.as_bytes(), &[])?;
    loader.put(Bucket::Meta, meta::SCHEDULED_COMPACT_REVISION, key.as_bytes())?;
    tracing::info!(
        latest_revision = found.revision.main,
        new_latest_revision = main,
        "moving the revision on; all before it is compacted"
    );
    Ok(())
}

/// What every member of the new cluster has in its log.
struct FirstEntries {
    entries: Vec<Entry>,
    commit: u64,
    conf_state: ConfState,
}

impl FirstEntries {
    fn of(new: &NewCluster) -> Self {
        let entry = |(member, index): (&Member, u64)| {
            let change = ConfChange {
                r#type: ConfChangeType::ConfChangeAddNode.into(),
                node_id: member.id,
                context: member.to_json().into(),
                ..ConfChange::default()
            };
            Entry {
                r#type: EntryType::EntryConfChange.into(),
                term: TERM,
                index,
                data: change.encode_to_vec().into(),
            }
        };
        let entries: Vec<Entry> = new.members.iter().zip(1..).map(entry).collect();
        let voters = new.members.iter().map(|member| member.id).collect();
        FirstEntries {
            commit: entries.len() as u64,
            conf_state: ConfState { voters, ..ConfState::default() },
            entries,
        }
    }

    fn write(
        &self,
        fs: Arc<dyn Fs>,
        to: &Layout,
        new: &NewCluster,
        version: Option<String>,
    ) -> Result<(), Error> {
        let (index, term) = (self.commit, TERM);
        let conf_state = Some(self.conf_state.clone());
        Snapshots::new(fs.clone(), &to.snap_dir()).save(&raftpb::Snapshot {
            data: Membership::of(&new.members, version).to_store_json().into(),
            metadata: Some(raftpb::SnapshotMetadata {
                conf_state: conf_state.clone(),
                index,
                term,
            }),
        })?;
        let metadata = etcdserverpb::Metadata { node_id: new.own, cluster_id: new.id };
        let mut wal =
            Wal::create(fs, &to.wal_dir(), &metadata.encode_to_vec(), wal::Options::default())?;
        let vote = self.conf_state.voters.first().copied().unwrap_or_default();
        let hard_state = HardState { term, vote, commit: self.commit };
        wal.append(Some(&hard_state), self.entries.iter().map(EntryRef::from))?;
        wal.save_snapshot(&walpb::Snapshot { index, term, conf_state })?;
        Ok(())
    }
}
