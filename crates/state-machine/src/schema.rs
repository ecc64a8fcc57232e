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
    /// JSON `{"voters":[N],"learners":[N],"auto_leave":false}`.
    pub const CONF_STATE: &[u8] = b"confState";
    /// Revision of the last accepted compaction: 17 bytes as a record key, sub 0.
    pub const SCHEDULED_COMPACT_REVISION: &[u8] = b"scheduledCompactRev";
    /// Revision of the last compaction whose old records are gone: 17 bytes as a record key, sub 0.
    pub const FINISHED_COMPACT_REVISION: &[u8] = b"finishedCompactRev";
    /// Text such as `3.7.0`.
    pub const STORAGE_VERSION: &[u8] = b"storageVersion";
}

/// The keys of bucket `cluster`.
pub mod cluster {
    pub const VERSION: &[u8] = b"clusterVersion";
    pub const DOWNGRADE: &[u8] = b"downgrade";
}
