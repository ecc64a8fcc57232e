//! Every error that a client can see: its gRPC code and its exact text.
//!
//! Clients recognise errors by the text and decide about a retry by the code, so both are contract. The first
//! part of the table is what etcd's client libraries look up; the rest reaches clients with the code given here.
//! Two codes differ from what etcd's own table of names suggests: "too many requests" and "not enough started
//! members" arrive as `Unknown`, since that is what etcd puts on the wire.

use std::borrow::Cow;
use std::fmt;

/// A gRPC status code, with its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl fmt::Display for Code {
    /// Go's spelling, as in `rpc error: code = NotFound desc = ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Code::Ok => f.write_str("OK"),
            other => fmt::Debug::fmt(other, f),
        }
    }
}

macro_rules! errors {
    ($($name:ident => $code:ident, $text:literal;)*) => {
        /// An error as a client sees it.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum RpcError {
            $(#[doc = concat!("`", $text, "`")] $name,)*
            /// An error whose text is not fixed.
            Other(Code, Cow<'static, str>),
        }

        impl RpcError {
            /// All errors with a fixed text.
            pub const ALL: &'static [RpcError] = &[$(RpcError::$name,)*];

            pub fn code(&self) -> Code {
                match self {
                    $(RpcError::$name => Code::$code,)*
                    RpcError::Other(code, _) => *code,
                }
            }

            pub fn message(&self) -> &str {
                match self {
                    $(RpcError::$name => $text,)*
                    RpcError::Other(_, text) => text,
                }
            }
        }
    };
}

errors! {
    EmptyKey => InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound => InvalidArgument, "etcdserver: key not found";
    ValueProvided => InvalidArgument, "etcdserver: value is provided";
    LeaseProvided => InvalidArgument, "etcdserver: lease is provided";
    TooManyOps => InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey => InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion => InvalidArgument, "etcdserver: invalid client api version";
    InvalidSortOption => InvalidArgument, "etcdserver: invalid sort option";
    Compacted => OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRev => OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NoSpace => ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    LeaseNotFound => NotFound, "etcdserver: requested lease not found";
    LeaseExist => FailedPrecondition, "etcdserver: lease already exists";
    LeaseTtlTooLarge => OutOfRange, "etcdserver: too large lease TTL";
    WatchCanceled => Canceled, "etcdserver: watch canceled";
    MemberExist => FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExist => FailedPrecondition, "etcdserver: Peer URLs already exists";
    MemberNotEnoughStarted => Unknown, "etcdserver: re-configuration failed due to not enough started members";
    MemberBadUrls => InvalidArgument, "etcdserver: given member URLs are invalid";
    MemberNotFound => NotFound, "etcdserver: member not found";
    MemberNotLearner => FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady => FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners => FailedPrecondition, "etcdserver: too many learner members in cluster";
    ClusterIdMismatch => FailedPrecondition, "etcdserver: cluster ID mismatch";
    RequestTooLarge => InvalidArgument, "etcdserver: request is too large";
    RequestTooManyRequests => Unknown, "etcdserver: too many requests";
    RootUserNotExist => FailedPrecondition, "etcdserver: root user does not exist";
    RootRoleNotExist => FailedPrecondition, "etcdserver: root user does not have root role";
    UserAlreadyExist => FailedPrecondition, "etcdserver: user name already exists";
    UserEmpty => InvalidArgument, "etcdserver: user name is empty";
    UserNotFound => FailedPrecondition, "etcdserver: user name not found";
    RoleAlreadyExist => FailedPrecondition, "etcdserver: role name already exists";
    RoleNotFound => FailedPrecondition, "etcdserver: role name not found";
    RoleEmpty => InvalidArgument, "etcdserver: role name is empty";
    AuthFailed => InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven => InvalidArgument, "etcdserver: permission not given";
    PermissionDenied => PermissionDenied, "etcdserver: permission denied";
    RoleNotGranted => FailedPrecondition, "etcdserver: role is not granted to the user";
    PermissionNotGranted => FailedPrecondition, "etcdserver: permission is not granted to the role";
    AuthNotEnabled => FailedPrecondition, "etcdserver: authentication is not enabled";
    InvalidAuthToken => Unauthenticated, "etcdserver: invalid auth token";
    InvalidAuthMgmt => InvalidArgument, "etcdserver: invalid auth management";
    AuthOldRevision => InvalidArgument, "etcdserver: revision of auth store is old";
    NoLeader => Unavailable, "etcdserver: no leader";
    NotLeader => FailedPrecondition, "etcdserver: not leader";
    LeaderChanged => Unavailable, "etcdserver: leader changed";
    NotCapable => FailedPrecondition, "etcdserver: not capable";
    Stopped => Unavailable, "etcdserver: server stopped";
    Timeout => Unavailable, "etcdserver: request timed out";
    TimeoutDueToLeaderFail => Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost => Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex => Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy => Unavailable, "etcdserver: unhealthy cluster";
    Corrupt => DataLoss, "etcdserver: corrupt cluster";
    NotSupportedForLearner => FailedPrecondition, "etcdserver: rpc not supported for learner";
    BadLeaderTransferee => FailedPrecondition, "etcdserver: bad leader transferee";
    WrongDowngradeVersionFormat => InvalidArgument, "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTargetVersion => InvalidArgument, "etcdserver: invalid downgrade target version";
    ClusterVersionUnavailable => FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess => FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade => FailedPrecondition, "etcdserver: no inflight downgrade job";
    Canceled => Canceled, "etcdserver: request canceled";
    DeadlineExceeded => DeadlineExceeded, "etcdserver: context deadline exceeded";
    NotPrimaryLessor => Unknown, "not a primary lessor";
    LeaderTransferTimeout => Unknown, "etcdserver: request timed out, leader transfer took too long";
    UnknownMethod => Unknown, "etcdserver: unknown method";
    NoPasswordUser => Unknown, "auth: authentication failed, password was given for no password user";
    VerifyOnlyKey => Unknown, "auth: token signing attempted with verify-only key";
    PasswordTooLong => Unknown, "bcrypt: password length exceeds 72 bytes";
    ProposalDropped => Unknown, "raft proposal dropped";
    RaftStopped => Unknown, "raft: stopped";
    LeaderFieldMissing => Unknown, "\"leader\" field must be provided";
    ElectionNotLeader => Unknown, "election: not leader";
    ElectionNoLeader => Unknown, "election: no leader";
    SessionExpired => Unknown, "mutex: session is expired";
    ContextCanceled => Canceled, "context canceled";
    ContextDeadlineExceeded => DeadlineExceeded, "context deadline exceeded";
    StreamCustomSort => Unimplemented, "RangeStream does not support custom sort orders";
    StreamRevisionFilter => Unimplemented, "RangeStream does not support revision filters";
}

impl RpcError {
    pub fn other(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        RpcError::Other(code, text.into())
    }

    /// A request whose bytes are not the message that they should be.
    pub fn malformed(error: &prost::DecodeError) -> Self {
        RpcError::other(Code::Internal, format!("grpc: error unmarshalling request: {error}"))
    }

    /// The error with this text, if it is one of the fixed ones.
    pub fn from_message(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|error| error.message() == text).cloned()
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for RpcError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unique_and_found_again() {
        for error in RpcError::ALL {
            assert_eq!(RpcError::from_message(error.message()).as_ref(), Some(error));
        }
        assert_eq!(RpcError::from_message("no such text"), None);
    }
}
