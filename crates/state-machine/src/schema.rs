//! The database schema: every bucket and what stands in it, on one screen.
//!
//! Names and layouts are etcd's, so that snapshots can be written for it and read from it by plain loops.
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `key` | [`RecordKey`](crate::mvcc::RecordKey) | `mvccpb.KeyValue`; a tombstone holds only the key |
//! | `meta` | [`meta`] names | see there |
//! | `lease` | lease id, 8 bytes big endian | `leasepb.Lease` |
//! | `alarm` | `etcdserverpb.AlarmMember` | empty |
//! | `auth` | `authEnabled`, `authRevision` | one byte; 8 bytes big endian |
//! | `authUsers` | user name | `authpb.User` |
//! | `authRoles` | role name | `authpb.Role` |
//! | `members` | member id, hex text | JSON of the member |
//! | `members_removed` | member id, hex text | `removed` |
//! | `cluster` | `clusterVersion`, `downgrade` | text; JSON |

use retcd_api::raftpb::ConfState;
use serde::{Deserialize, Serialize};

use crate::backend::Failure;

/// A bucket of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    Alarm,
    Auth,
    AuthRoles,
    AuthUsers,
    Cluster,
    Key,
    Lease,
    Members,
    MembersRemoved,
    Meta,
}

impl Bucket {
    /// All buckets, in the order of their names.
    pub const ALL: [Bucket; 10] = [
        Bucket::Alarm,
        Bucket::Auth,
        Bucket::AuthRoles,
        Bucket::AuthUsers,
        Bucket::Cluster,
        Bucket::Key,
        Bucket::Lease,
        Bucket::Members,
        Bucket::MembersRemoved,
        Bucket::Meta,
    ];

    /// The name as it stands in a database file.
    pub fn name(self) -> &'static str {
        match self {
            Bucket::Alarm => "alarm",
            Bucket::Auth => "auth",
            Bucket::AuthRoles => "authRoles",
            Bucket::AuthUsers => "authUsers",
            Bucket::Cluster => "cluster",
            Bucket::Key => "key",
            Bucket::Lease => "lease",
            Bucket::Members => "members",
            Bucket::MembersRemoved => "members_removed",
            Bucket::Meta => "meta",
        }
    }
}

/// The keys of bucket `meta`.
pub mod meta {
    /// Raft index of the last entry whose effects are in this file: 8 bytes, big endian.
    pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    /// Raft term of that entry: 8 bytes, big endian.
    pub const TERM: &[u8] = b"term";
    /// JSON `{"voters":[N],"learners":[N],"auto_leave":false}`: [`conf_state_json`](super::conf_state_json).
    pub const CONF_STATE: &[u8] = b"confState";
    /// Revision of the last accepted compaction: 17 bytes as a record key, sub 0.
    pub const SCHEDULED_COMPACT_REVISION: &[u8] = b"scheduledCompactRev";
    /// Revision of the last compaction whose old records are gone: 17 bytes as a record key, sub 0.
    pub const FINISHED_COMPACT_REVISION: &[u8] = b"finishedCompactRev";
    /// Text such as `3.7.0`.
    pub const STORAGE_VERSION: &[u8] = b"storageVersion";
}

/// The keys of bucket `auth`.
pub mod auth {
    /// One byte: 1 when it is asked who may do what.
    pub const ENABLED: &[u8] = b"authEnabled";
    /// How often that has changed: 8 bytes, big endian.
    pub const REVISION: &[u8] = b"authRevision";
}

/// The keys of bucket `cluster`.
pub mod cluster {
    pub const VERSION: &[u8] = b"clusterVersion";
    pub const DOWNGRADE: &[u8] = b"downgrade";
}

/// Raft's membership in etcd's JSON. Joint configurations do not occur: changes are made one member at a time.
#[derive(Serialize, Deserialize)]
struct StoredConfState {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    #[serde(default)]
    auto_leave: bool,
}

/// As it stands under [`meta::CONF_STATE`].
pub fn conf_state_json(state: &ConfState) -> Vec<u8> {
    let stored = StoredConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        auto_leave: state.auto_leave,
    };
    serde_json::to_vec(&stored).expect("numbers have a JSON form")
}

/// # Errors
/// It is not that JSON.
pub fn parse_conf_state(json: &[u8]) -> Result<ConfState, Failure> {
    let stored: StoredConfState = serde_json::from_slice(json)
        .map_err(|error| Failure::because("the stored Raft membership", error))?;
    Ok(ConfState {
        voters: stored.voters,
        learners: stored.learners,
        auto_leave: stored.auto_leave,
        ..ConfState::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_raft_membership_is_etcds_json() {
        let state = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
        let json = conf_state_json(&state);
        assert_eq!(json, br#"{"voters":[1,2],"learners":[3],"auto_leave":false}"#);
        assert_eq!(parse_conf_state(&json).unwrap(), state);
        let single = ConfState { voters: vec![u64::MAX], ..ConfState::default() };
        assert_eq!(parse_conf_state(&conf_state_json(&single)).unwrap(), single);
        assert_eq!(parse_conf_state(br#"{"voters":[1]}"#).unwrap().voters, [1]);
    }
}
