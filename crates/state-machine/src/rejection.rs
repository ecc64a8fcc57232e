//! Every deterministic "no".

use retcd_api::error::{Code, RpcError};

/// Why the state machine refused a request.
///
/// Every member that applies the same entry must reach the same rejection, so nothing local (disk, memory, time) may
/// appear here; [`Rejection::QuotaExceeded`] is the one exception, which etcd makes too. Texts are for logs; clients
/// see the text of the [`RpcError`] it turns into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the key is empty")]
    EmptyKey,
    #[error("the key does not exist, or an operation of the transaction is not set")]
    KeyNotFound,
    #[error("a value is given together with ignore_value")]
    ValueProvided,
    #[error("a lease is given together with ignore_lease")]
    LeaseProvided,
    #[error("the transaction has more than {limit} operations")]
    TooManyOps { limit: usize },
    #[error("the transaction writes a key twice")]
    DuplicateKey,
    #[error("the sort order or target is not a known one")]
    InvalidSortOption,
    #[error("a range stream has no sort order but ascending keys")]
    StreamCustomSort,
    #[error("a range stream has no revision filters")]
    StreamRevisionFilter,
    #[error("revision {requested} is older than the compaction at {compacted}")]
    Compacted { requested: i64, compacted: i64 },
    #[error("revision {requested} is above the current revision {current}")]
    FutureRevision { requested: i64, current: i64 },
    #[error("lease {0:016x} does not exist")]
    LeaseNotFound(i64),
    #[error("lease {0:016x} exists already")]
    LeaseExists(i64),
    #[error("a lease of {0} seconds is too long")]
    LeaseTtlTooLarge(i64),
    #[error("the NOSPACE alarm is active")]
    NoSpace,
    /// The write was done, and it took the backend over this member's quota: the alarm is to be raised.
    #[error("the write was done but exceeds the quota")]
    QuotaExceeded,
    #[error("the CORRUPT alarm is active")]
    Corrupt,
    #[error("member {0:x} does not exist")]
    MemberNotFound(u64),
    #[error("member {0:x} exists already")]
    MemberExists(u64),
    #[error("a peer url is used by another member")]
    PeerUrlExists,
    #[error("member {0:x} is not a learner")]
    MemberNotLearner(u64),
    #[error("the limit of {limit} learners is reached")]
    TooManyLearners { limit: usize },
    #[error("there is no user root")]
    RootUserNotFound,
    #[error("the user root does not have the role root")]
    RootRoleNotGranted,
    /// In a request about users, or nobody asks at all while authentication is on.
    #[error("the name of the user is empty")]
    UserNameEmpty,
    #[error("user {0:?} exists already")]
    UserExists(String),
    #[error("user {0:?} does not exist")]
    UserNotFound(String),
    #[error("the name of the role is empty")]
    RoleNameEmpty,
    #[error("role {0:?} exists already")]
    RoleExists(String),
    #[error("role {0:?} does not exist")]
    RoleNotFound(String),
    #[error("the role is not granted to the user")]
    RoleNotGranted,
    #[error("no permission is given")]
    PermissionNotGiven,
    #[error("the permission is not granted to the role")]
    PermissionNotGranted,
    #[error("permission denied")]
    PermissionDenied,
    #[error("authentication is off")]
    AuthNotEnabled,
    #[error("there is no such user with this password")]
    AuthFailed,
    #[error("the user has no password")]
    NoPassword,
    #[error("it would lock the administrators out, or names an impossible range")]
    InvalidAuthManagement,
    #[error("auth revision {given} is older than the current one, {current}")]
    OldAuthRevision { given: u64, current: u64 },
    /// A request kind that this release does not serve. Its entry still counts as applied.
    #[error("{0} is not built yet")]
    NotBuilt(&'static str),
}

impl From<&Rejection> for RpcError {
    fn from(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::EmptyKey => RpcError::EmptyKey,
            Rejection::KeyNotFound => RpcError::KeyNotFound,
            Rejection::ValueProvided => RpcError::ValueProvided,
            Rejection::LeaseProvided => RpcError::LeaseProvided,
            Rejection::TooManyOps { .. } => RpcError::TooManyOps,
            Rejection::DuplicateKey => RpcError::DuplicateKey,
            Rejection::InvalidSortOption => RpcError::InvalidSortOption,
            Rejection::StreamCustomSort => RpcError::StreamCustomSort,
            Rejection::StreamRevisionFilter => RpcError::StreamRevisionFilter,
            Rejection::Compacted { .. } => RpcError::Compacted,
            Rejection::FutureRevision { .. } => RpcError::FutureRev,
            Rejection::LeaseNotFound(_) => RpcError::LeaseNotFound,
            Rejection::LeaseExists(_) => RpcError::LeaseExist,
            Rejection::LeaseTtlTooLarge(_) => RpcError::LeaseTtlTooLarge,
            Rejection::NoSpace | Rejection::QuotaExceeded => RpcError::NoSpace,
            Rejection::Corrupt => RpcError::Corrupt,
            Rejection::MemberNotFound(_) => RpcError::MemberNotFound,
            Rejection::MemberExists(_) => RpcError::MemberExist,
            Rejection::PeerUrlExists => RpcError::PeerUrlExist,
            Rejection::MemberNotLearner(_) => RpcError::MemberNotLearner,
            Rejection::TooManyLearners { .. } => RpcError::TooManyLearners,
            Rejection::RootUserNotFound => RpcError::RootUserNotExist,
            Rejection::RootRoleNotGranted => RpcError::RootRoleNotExist,
            Rejection::UserNameEmpty => RpcError::UserEmpty,
            Rejection::UserExists(_) => RpcError::UserAlreadyExist,
            Rejection::UserNotFound(_) => RpcError::UserNotFound,
            Rejection::RoleNameEmpty => RpcError::RoleEmpty,
            Rejection::RoleExists(_) => RpcError::RoleAlreadyExist,
            Rejection::RoleNotFound(_) => RpcError::RoleNotFound,
            Rejection::RoleNotGranted => RpcError::RoleNotGranted,
            Rejection::PermissionNotGiven => RpcError::PermissionNotGiven,
            Rejection::PermissionNotGranted => RpcError::PermissionNotGranted,
            Rejection::PermissionDenied => RpcError::PermissionDenied,
            Rejection::AuthNotEnabled => RpcError::AuthNotEnabled,
            Rejection::AuthFailed => RpcError::AuthFailed,
            Rejection::NoPassword => RpcError::other(
                Code::Unknown,
                "auth: authentication failed, password was given for no password user",
            ),
            Rejection::InvalidAuthManagement => RpcError::InvalidAuthMgmt,
            Rejection::OldAuthRevision { .. } => RpcError::AuthOldRevision,
            Rejection::NotBuilt(_) => RpcError::other(Code::Unimplemented, rejection.to_string()),
        }
    }
}
