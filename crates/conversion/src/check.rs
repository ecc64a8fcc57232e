//! Whether the entries of a database are what the state machine reads.
//!
//! Pages of a bbolt file have no checksums. A database that was damaged on its way must be refused before it takes the
//! place of a good one, while the leader can still send it again.

use prost::Message;
use retcd_api::etcdserverpb::AlarmMember;
use retcd_api::raftpb::ConfState;
use retcd_api::{authpb, leasepb};
use retcd_state_machine::cluster::{Downgrade, Member};
use retcd_state_machine::mvcc::{KeyValue, RecordKey, Revision};
use retcd_state_machine::schema::{self, Bucket, cluster, meta};

use crate::stored;

/// What the entries say of the state as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// The last entry whose effects are in it.
    pub index: u64,
    /// Written by etcd 3.5 and later.
    pub has_term: bool,
    /// Raft's membership as of that entry, or of an earlier one: a restore by etcd leaves that of the old cluster, until
    /// the next change of members. Written by etcd 3.5 and later.
    pub conf_state: Option<ConfState>,
    /// Text such as `3.7.0`; written by etcd 3.6 and later.
    pub storage_version: Option<String>,
    /// Ids of members, and whether each is a learner.
    pub members: Vec<(u64, bool)>,
    /// The newest revision.
    pub revision: Revision,
}

/// Looks at entries, bucket by bucket, in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    found: Found,
}

impl Checker {
    pub(crate) fn found(self) -> Found {
        self.found
    }

    /// # Errors
    /// What is wrong with it.
    pub(crate) fn entry(
        &mut self,
        bucket: Bucket,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), &'static str> {
        match bucket {
            Bucket::Key => self.record(key, value),
            Bucket::Meta => self.meta(key, value),
            Bucket::Lease => valid(leasepb::Lease::decode(value).is_ok(), "is no lease"),
            Bucket::Alarm => valid(AlarmMember::decode(key).is_ok(), "is no alarm"),
            Bucket::AuthUsers => valid(authpb::User::decode(value).is_ok(), "is no user"),
            Bucket::AuthRoles => valid(authpb::Role::decode(value).is_ok(), "is no role"),
            Bucket::Members => {
                let member: Member = serde_json::from_slice(value).map_err(|_| "is no member")?;
                self.found.members.push((member.id, member.is_learner));
                Ok(())
            }
            Bucket::MembersRemoved => valid(is_hex(key), "is no member id"),
            Bucket::Cluster if key == cluster::DOWNGRADE => {
                valid(serde_json::from_slice::<Downgrade>(value).is_ok(), "is no downgrade")
            }
            Bucket::Cluster | Bucket::Auth => Ok(()),
        }
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let (revision, is_tombstone) = RecordKey::decode(key).ok_or("is under no revision")?;
        valid(revision > self.found.revision, "is of the same revision as the one before it")?;
        self.found.revision = revision;
        valid(u32::try_from(revision.sub).is_ok(), "has too large a sub revision")?;
        let kv = KeyValue::decode(value).ok_or("is no key-value message")?;
        // A restore that moves the revision on leaves an empty record at the new one.
        let is_mark = value.is_empty();
        valid(is_tombstone || is_mark || kv.mod_revision == revision.main, "names another revision")
    }

    fn meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if key == meta::CONSISTENT_INDEX {
            self.found.index = stored::number(value).ok_or("is no index")?;
        } else if key == meta::TERM {
            stored::number(value).ok_or("is no term")?;
            self.found.has_term = true;
        } else if key == meta::CONF_STATE {
            let parsed = schema::parse_conf_state(value).map_err(|_| "is no Raft membership")?;
            self.found.conf_state = Some(parsed);
        } else if key == meta::STORAGE_VERSION {
            self.found.storage_version = Some(String::from_utf8_lossy(value).into_owned());
        } else if key == meta::SCHEDULED_COMPACT_REVISION || key == meta::FINISHED_COMPACT_REVISION
        {
            RecordKey::decode(value).ok_or("is no revision")?;
        }
        Ok(())
    }
}

fn valid(is_valid: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if is_valid { Ok(()) } else { Err(otherwise) }
}

fn is_hex(key: &[u8]) -> bool {
    std::str::from_utf8(key).is_ok_and(|text| u64::from_str_radix(text, 16).is_ok())
}
