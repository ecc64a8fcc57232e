//! What a call can fail with, in the words that etcd's own client uses.

use std::error::Error as _;

use retcd_api::error::{Code, RpcError};
use tonic::Status;

/// Why a call failed.
///
/// The text of each error is the one that etcd's Go client prints, because programs and people look for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A server answered with this error.
    #[error("{}", in_go_words(.0))]
    Rpc(RpcError),
    /// The deadline of the call passed. `last_attempt` says why no attempt had succeeded by then, if that is known. A
    /// write may have been carried out.
    #[error("context deadline exceeded")]
    DeadlineExceeded {
        /// Why the last attempt before that had failed, for instance that nobody listens.
        last_attempt: Option<String>,
    },
    /// The connection broke after the request had been sent, so nobody knows whether it was carried out. A write that
    /// ends like this is not sent again by itself: see [`Self::may_have_happened`].
    #[error("rpc error: code = Unavailable desc = {0}")]
    ConnectionLost(String),
    /// A server did not want to create a watch, for this reason.
    #[error("{0}")]
    WatchRefused(String),
    /// Certificates or keys that cannot be read or used.
    #[error("{0}")]
    BadTls(String),
    /// Every member was found to lag behind what this client has seen already ([`Client::ordered`]).
    ///
    /// [`Client::ordered`]: crate::Client::ordered
    #[error(
        "etcdclient: no cluster members have a revision higher than the previously received revision"
    )]
    NoGreaterRevision,
    /// An endpoint that is not an address.
    #[error("{0}")]
    BadEndpoint(String),
    /// There is no endpoint to talk to.
    #[error("etcdclient: no available endpoints")]
    NoEndpoints,
}

impl Error {
    /// The answer of the server, if there was one.
    pub fn rpc(&self) -> Option<&RpcError> {
        match self {
            Error::Rpc(error) => Some(error),
            Error::DeadlineExceeded { .. }
            | Error::ConnectionLost(_)
            | Error::WatchRefused(_)
            | Error::BadEndpoint(_)
            | Error::BadTls(_)
            | Error::NoGreaterRevision
            | Error::NoEndpoints => None,
        }
    }

    /// Whether a stream should be opened again after this error. A lost leader is final for streams that asked for
    /// one: whoever asked wants to know.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Error::Rpc(error) => {
                let is_passing = matches!(error.code(), Code::Unavailable | Code::Internal);
                is_passing && *error != RpcError::NoLeader
            }
            Error::ConnectionLost(_) => true,
            Error::DeadlineExceeded { .. }
            | Error::WatchRefused(_)
            | Error::BadEndpoint(_)
            | Error::BadTls(_)
            | Error::NoGreaterRevision
            | Error::NoEndpoints => false,
        }
    }

    /// Whether a write that ended with this error may have been carried out nevertheless, now or a little later.
    ///
    /// The library never repeats such a write by itself. Whoever does should make it harmless to repeat first, for
    /// instance by a transaction that compares the mod revision. `false` is certain: nothing has happened, and
    /// nothing will.
    ///
    /// ```
    /// use retcd_client::Error;
    ///
    /// assert!(Error::ConnectionLost("connection reset".into()).may_have_happened());
    /// assert!(!Error::NoEndpoints.may_have_happened());
    /// ```
    pub fn may_have_happened(&self) -> bool {
        match self {
            Error::ConnectionLost(_) | Error::DeadlineExceeded { .. } => true,
            // A server that says "unavailable" has often proposed the request before it noticed; one that gives up
            // waiting says so with its own time-outs.
            Error::Rpc(error) => matches!(
                error.code(),
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Canceled
                    | Code::Unknown
                    | Code::Internal
                    | Code::Aborted
                    | Code::DataLoss
            ),
            Error::WatchRefused(_)
            | Error::BadEndpoint(_)
            | Error::BadTls(_)
            | Error::NoGreaterRevision
            | Error::NoEndpoints => false,
        }
    }
}

/// Errors that etcd's clients know by their text show only that text; all others show their code, too.
fn in_go_words(error: &RpcError) -> String {
    if is_known_to_clients(error) {
        error.message().to_owned()
    } else {
        format!("rpc error: code = {} desc = {}", error.code(), error.message())
    }
}

/// Whether etcd's client libraries look this error up. The others are texts of the server's inner parts.
fn is_known_to_clients(error: &RpcError) -> bool {
    !matches!(
        error,
        RpcError::Other(..)
            | RpcError::InvalidClientApiVersion
            | RpcError::WatchCanceled
            | RpcError::PermissionNotGiven
            | RpcError::TimeoutWaitAppliedIndex
            | RpcError::Canceled
            | RpcError::DeadlineExceeded
            | RpcError::NotPrimaryLessor
            | RpcError::LeaderTransferTimeout
            | RpcError::UnknownMethod
            | RpcError::NoPasswordUser
            | RpcError::VerifyOnlyKey
            | RpcError::PasswordTooLong
            | RpcError::ProposalDropped
            | RpcError::RaftStopped
            | RpcError::LeaderFieldMissing
            | RpcError::ElectionNotLeader
            | RpcError::ElectionNoLeader
            | RpcError::SessionExpired
            | RpcError::ContextCanceled
            | RpcError::ContextDeadlineExceeded
            | RpcError::StreamCustomSort
            | RpcError::StreamRevisionFilter
    )
}

/// How one attempt ended badly, as far as the retry rule cares.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failure {
    /// No connection: the request has not left.
    #[error("connection error: desc = \"transport: Error while dialing: {0}\"")]
    Unconnected(String),
    /// There was a connection, but it closed before the request was put on it.
    #[error("{0}")]
    Unsent(String),
    /// The connection broke, or the stream was reset, while the request was under way.
    #[error("error reading from server: {0}")]
    Lost(String),
    /// The server said no.
    #[error("{0}")]
    Answered(RpcError),
}

impl Failure {
    pub(crate) fn unconnected(error: &(dyn std::error::Error + 'static)) -> Self {
        Failure::Unconnected(innermost(error))
    }

    pub(crate) fn lost(error: &(dyn std::error::Error + 'static)) -> Self {
        Failure::Lost(innermost(error))
    }

    /// Whether the endpoint has done its part: it is the request that does not deserve a better answer.
    pub(crate) fn is_fault_of_request(&self) -> bool {
        match self {
            Failure::Answered(error) => error.code() != Code::Unavailable,
            // Not the endpoint's doing: it said goodbye before.
            Failure::Unsent(_) => true,
            Failure::Unconnected(_) | Failure::Lost(_) => false,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let Some(cause) = status.source() else {
            return Failure::Answered(rpc_error(&status));
        };
        match cause.downcast_ref::<Failure>() {
            Some(failure) => failure.clone(),
            // The response broke off: that is the transport's own error, whatever it is.
            None => Failure::lost(cause),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Answered(error) => Error::Rpc(error),
            Failure::Unconnected(_) | Failure::Unsent(_) | Failure::Lost(_) => {
                Error::ConnectionLost(failure.to_string())
            }
        }
    }
}

/// Reads an answer. Like etcd's clients this trusts the text first: proxies and old servers differ in codes.
pub(crate) fn rpc_error(status: &Status) -> RpcError {
    let text = status.message();
    // The transport's own limit on answers speaks differently from gRPC's.
    if let Some(sizes) = text.strip_prefix("Error, decoded message length too large: found ") {
        let numbers: Vec<&str> =
            sizes.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
        if let [found, limit] = numbers[..] {
            let text = format!("grpc: received message larger than max ({found} vs. {limit})");
            return RpcError::other(Code::ResourceExhausted, text);
        }
    }
    RpcError::from_message(text)
        .unwrap_or_else(|| RpcError::other(code(status.code()), text.to_owned()))
}

fn code(code: tonic::Code) -> Code {
    match code {
        tonic::Code::Ok => Code::Ok,
        tonic::Code::Cancelled => Code::Canceled,
        tonic::Code::Unknown => Code::Unknown,
        tonic::Code::InvalidArgument => Code::InvalidArgument,
        tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::AlreadyExists => Code::AlreadyExists,
        tonic::Code::PermissionDenied => Code::PermissionDenied,
        tonic::Code::ResourceExhausted => Code::ResourceExhausted,
        tonic::Code::FailedPrecondition => Code::FailedPrecondition,
        tonic::Code::Aborted => Code::Aborted,
        tonic::Code::OutOfRange => Code::OutOfRange,
        tonic::Code::Unimplemented => Code::Unimplemented,
        tonic::Code::Internal => Code::Internal,
        tonic::Code::Unavailable => Code::Unavailable,
        tonic::Code::DataLoss => Code::DataLoss,
        tonic::Code::Unauthenticated => Code::Unauthenticated,
    }
}

/// The error at the bottom, which names the cause ("connection refused") where the upper ones only say "transport".
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_show_their_code_only_when_clients_do_not_know_them() {
        let known = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
        assert_eq!(
            Error::from(Failure::from(known)).to_string(),
            "etcdserver: mvcc: required revision has been compacted"
        );
        let unknown = Status::unimplemented("unknown method X for service Y");
        assert_eq!(
            Error::from(Failure::from(unknown)).to_string(),
            "rpc error: code = Unimplemented desc = unknown method X for service Y"
        );
        let inner = Error::Rpc(RpcError::NotPrimaryLessor);
        assert_eq!(inner.to_string(), "rpc error: code = Unknown desc = not a primary lessor");
    }

    #[test]
    fn too_large_answers_speak_like_grpc() {
        let status = Status::out_of_range(
            "Error, decoded message length too large: found 100 bytes, the limit is: 10 bytes",
        );
        assert_eq!(
            rpc_error(&status),
            RpcError::other(
                Code::ResourceExhausted,
                "grpc: received message larger than max (100 vs. 10)"
            )
        );
    }

    #[test]
    fn a_lost_leader_ends_streams_and_a_lost_server_does_not() {
        assert!(!Error::Rpc(RpcError::NoLeader).is_passing());
        assert!(Error::Rpc(RpcError::Stopped).is_passing());
        assert!(Error::ConnectionLost(String::new()).is_passing());
        assert!(!Error::Rpc(RpcError::PermissionDenied).is_passing());
    }
}
