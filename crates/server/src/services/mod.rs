//! The gRPC services: one file each, one table of all methods.
//!
//! A unary method is a function from the encoded request to an [`Answer`], whose body is the encoded response without
//! its header: the state machine builds it from stored bytes and nobody decodes it again. Streaming methods return an
//! object that the connection polls ([`MessageStream`]).

mod auth;
mod client_requests;
mod cluster;
mod election;
pub(crate) mod for_peers;
mod gateway;
mod guard;
mod header;
mod health;
pub(crate) mod http;
mod kv;
mod lease;
mod lock;
mod maintenance;
pub(crate) mod slow;
mod snapshot;
mod waiting_line;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use retcd_api::error::{Code, RpcError};
use retcd_state_machine::{Reader, Response};

pub(crate) use self::header::HeaderKind;
use self::health::Health;
pub(crate) use self::watch::{LocalHub, end_streams, hub_has_work, run_hub};
use crate::config::Config;
use crate::grpc::connection::Requests;
use crate::grpc::{Body, Metadata};
use crate::node::NodeHandle;
use crate::tokens::{Hashing, Tokens};

/// How the messages of a call flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    /// The label of the gRPC metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

macro_rules! rpcs {
    ($($name:ident: $service:literal $method:literal $kind:ident;)*) => {
        /// Every method that a client may call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Rpc { $($name,)* }

        impl Rpc {
            pub(crate) const ALL: &'static [Rpc] = &[$(Rpc::$name,)*];

            /// `/package.Service/Method`.
            pub(crate) fn from_path(path: &str) -> Option<Rpc> {
                match path {
                    $(concat!("/", $service, "/", $method) => Some(Rpc::$name),)*
                    _ => None,
                }
            }

            pub(crate) fn path(self) -> &'static str {
                match self { $(Rpc::$name => concat!("/", $service, "/", $method),)* }
            }

            pub(crate) fn service(self) -> &'static str {
                match self { $(Rpc::$name => $service,)* }
            }

            pub(crate) fn method(self) -> &'static str {
                match self { $(Rpc::$name => $method,)* }
            }

            pub(crate) fn kind(self) -> Kind {
                match self { $(Rpc::$name => Kind::$kind,)* }
            }
        }
    };
}

rpcs! {
    Put: "etcdserverpb.KV" "Put" Unary;
    Range: "etcdserverpb.KV" "Range" Unary;
    Txn: "etcdserverpb.KV" "Txn" Unary;
    DeleteRange: "etcdserverpb.KV" "DeleteRange" Unary;
    Compact: "etcdserverpb.KV" "Compact" Unary;
    RangeStream: "etcdserverpb.KV" "RangeStream" ServerStream;
    Watch: "etcdserverpb.Watch" "Watch" BidiStream;
    LeaseGrant: "etcdserverpb.Lease" "LeaseGrant" Unary;
    LeaseRevoke: "etcdserverpb.Lease" "LeaseRevoke" Unary;
    LeaseKeepAlive: "etcdserverpb.Lease" "LeaseKeepAlive" BidiStream;
    LeaseTimeToLive: "etcdserverpb.Lease" "LeaseTimeToLive" Unary;
    LeaseLeases: "etcdserverpb.Lease" "LeaseLeases" Unary;
    MemberAdd: "etcdserverpb.Cluster" "MemberAdd" Unary;
    MemberRemove: "etcdserverpb.Cluster" "MemberRemove" Unary;
    MemberUpdate: "etcdserverpb.Cluster" "MemberUpdate" Unary;
    MemberList: "etcdserverpb.Cluster" "MemberList" Unary;
    MemberPromote: "etcdserverpb.Cluster" "MemberPromote" Unary;
    Alarm: "etcdserverpb.Maintenance" "Alarm" Unary;
    Status: "etcdserverpb.Maintenance" "Status" Unary;
    Defragment: "etcdserverpb.Maintenance" "Defragment" Unary;
    Hash: "etcdserverpb.Maintenance" "Hash" Unary;
    HashKv: "etcdserverpb.Maintenance" "HashKV" Unary;
    Snapshot: "etcdserverpb.Maintenance" "Snapshot" ServerStream;
    MoveLeader: "etcdserverpb.Maintenance" "MoveLeader" Unary;
    Downgrade: "etcdserverpb.Maintenance" "Downgrade" Unary;
    AuthEnable: "etcdserverpb.Auth" "AuthEnable" Unary;
    AuthDisable: "etcdserverpb.Auth" "AuthDisable" Unary;
    AuthStatus: "etcdserverpb.Auth" "AuthStatus" Unary;
    Authenticate: "etcdserverpb.Auth" "Authenticate" Unary;
    UserAdd: "etcdserverpb.Auth" "UserAdd" Unary;
    UserGet: "etcdserverpb.Auth" "UserGet" Unary;
    UserList: "etcdserverpb.Auth" "UserList" Unary;
    UserDelete: "etcdserverpb.Auth" "UserDelete" Unary;
    UserChangePassword: "etcdserverpb.Auth" "UserChangePassword" Unary;
    UserGrantRole: "etcdserverpb.Auth" "UserGrantRole" Unary;
    UserRevokeRole: "etcdserverpb.Auth" "UserRevokeRole" Unary;
    RoleAdd: "etcdserverpb.Auth" "RoleAdd" Unary;
    RoleGet: "etcdserverpb.Auth" "RoleGet" Unary;
    RoleList: "etcdserverpb.Auth" "RoleList" Unary;
    RoleDelete: "etcdserverpb.Auth" "RoleDelete" Unary;
    RoleGrantPermission: "etcdserverpb.Auth" "RoleGrantPermission" Unary;
    RoleRevokePermission: "etcdserverpb.Auth" "RoleRevokePermission" Unary;
    Lock: "v3lockpb.Lock" "Lock" Unary;
    Unlock: "v3lockpb.Lock" "Unlock" Unary;
    Campaign: "v3electionpb.Election" "Campaign" Unary;
    Proclaim: "v3electionpb.Election" "Proclaim" Unary;
    Leader: "v3electionpb.Election" "Leader" Unary;
    Observe: "v3electionpb.Election" "Observe" ServerStream;
    Resign: "v3electionpb.Election" "Resign" Unary;
    HealthCheck: "grpc.health.v1.Health" "Check" Unary;
    HealthList: "grpc.health.v1.Health" "List" Unary;
    HealthWatch: "grpc.health.v1.Health" "Watch" ServerStream;
}

/// What the services work with.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) node: NodeHandle,
    pub(crate) reader: Reader,
    pub(crate) headers: header::Headers,
    pub(crate) tokens: Tokens,
    hashing: Hashing,
    health: Health,
}

/// A response: the body is the encoded message without field 1, where the header goes.
pub(crate) struct Answer {
    pub(crate) header: HeaderKind,
    pub(crate) body: Bytes,
}

impl Answer {
    /// An answer whose header carries a revision.
    pub(crate) fn at(revision: i64, body: impl Into<Bytes>) -> Self {
        Answer { header: HeaderKind::Full { revision }, body: body.into() }
    }

    /// An answer with this message. Its field `header` must be unset.
    pub(crate) fn message(header: HeaderKind, message: &impl Message) -> Self {
        Answer { header, body: message.encode_to_vec().into() }
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Answer::at(response.revision, response.body)
    }
}

impl Services {
    pub(crate) fn new(
        config: Arc<Config>,
        node: NodeHandle,
        reader: Reader,
        tokens: Tokens,
    ) -> Self {
        let headers = header::Headers::new(node.cluster_id(), node.member_id());
        let hashing = Hashing::new(config.bcrypt_cost);
        Services { config, node, reader, headers, tokens, hashing, health: Health::default() }
    }

    /// The header of an answer, as field 1 of its message. Empty when the response has none.
    pub(crate) fn header(&self, answer: &Answer) -> Vec<u8> {
        self.headers.encode(answer.header, self.node.term())
    }

    /// Counts a call in.
    pub(crate) fn begin(&self, rpc: Rpc, metadata: &Metadata) -> Instant {
        let metrics = self.node.metrics();
        let counters = metrics.grpc.method(rpc);
        counters.start();
        client_requests::count(metrics, rpc.kind() == Kind::Unary, metadata.client_api_version());
        Instant::now()
    }

    /// Counts a call out.
    pub(crate) fn end(&self, rpc: Rpc, started: Instant, error: Option<&RpcError>) {
        let code = error.map_or(Code::Ok, RpcError::code);
        self.node.metrics().grpc.method(rpc).finish(code as usize, started.elapsed());
    }
}

/// Reads a request. What is not the message that it should be is the client's error.
fn decode<M: Message + Default>(message: Bytes) -> Result<M, RpcError> {
    M::decode(message).map_err(|error| RpcError::malformed(&error))
}

/// Carries out a unary call.
///
/// Rare and large ones are boxed: every call has room for the largest of the others, and that room is moved around when
/// HTTP/2 makes a task of the call.
pub(crate) async fn unary(
    rpc: Rpc,
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    guard::leader(services, metadata)?;
    guard::learner(services, rpc, &message)?;
    match rpc {
        Rpc::Put => kv::put(services, metadata, message).await,
        Rpc::Range => kv::range(services, metadata, message).await,
        Rpc::Txn => kv::txn(services, metadata, message).await,
        Rpc::DeleteRange => kv::delete_range(services, metadata, message).await,
        Rpc::Compact => Box::pin(kv::compact(services, metadata, message)).await,
        Rpc::LeaseGrant => lease::grant(services, metadata, message).await,
        Rpc::LeaseRevoke => lease::revoke(services, metadata, message).await,
        Rpc::LeaseTimeToLive => Box::pin(lease::time_to_live(services, metadata, message)).await,
        Rpc::LeaseLeases => Box::pin(lease::leases(services, metadata)).await,
        Rpc::MemberAdd => Box::pin(cluster::member_add(services, metadata, message)).await,
        Rpc::MemberRemove => Box::pin(cluster::member_remove(services, metadata, message)).await,
        Rpc::MemberUpdate => Box::pin(cluster::member_update(services, metadata, message)).await,
        Rpc::MemberList => Box::pin(cluster::member_list(services, metadata, message)).await,
        Rpc::MemberPromote => Box::pin(cluster::member_promote(services, metadata, message)).await,
        Rpc::Alarm => Box::pin(maintenance::alarm(services, metadata, message)).await,
        Rpc::Status => maintenance::status(services, metadata).await,
        Rpc::Hash => Box::pin(maintenance::hash(services, metadata)).await,
        Rpc::HashKv => Box::pin(maintenance::hash_kv(services, metadata, message)).await,
        Rpc::MoveLeader => Box::pin(maintenance::move_leader(services, metadata, message)).await,
        Rpc::Downgrade => Box::pin(maintenance::downgrade(services, metadata, message)).await,
        Rpc::Defragment => Box::pin(maintenance::defragment(services, metadata)).await,
        Rpc::HealthCheck => services.health.check(&decode(message)?),
        Rpc::HealthList => Ok(services.health.list()),
        Rpc::Lock => Box::pin(lock::lock(services, metadata, message)).await,
        Rpc::Unlock => Box::pin(lock::unlock(services, metadata, message)).await,
        Rpc::Campaign => Box::pin(election::campaign(services, metadata, message)).await,
        Rpc::Proclaim => Box::pin(election::proclaim(services, metadata, message)).await,
        Rpc::Leader => Box::pin(election::leader(services, metadata, message)).await,
        Rpc::Resign => Box::pin(election::resign(services, metadata, message)).await,
        Rpc::AuthEnable
        | Rpc::AuthDisable
        | Rpc::AuthStatus
        | Rpc::Authenticate
        | Rpc::UserAdd
        | Rpc::UserGet
        | Rpc::UserList
        | Rpc::UserDelete
        | Rpc::UserChangePassword
        | Rpc::UserGrantRole
        | Rpc::UserRevokeRole
        | Rpc::RoleAdd
        | Rpc::RoleGet
        | Rpc::RoleList
        | Rpc::RoleDelete
        | Rpc::RoleGrantPermission
        | Rpc::RoleRevokePermission => {
            Box::pin(auth::unary(rpc, services, metadata, message)).await
        }
        Rpc::RangeStream
        | Rpc::Watch
        | Rpc::LeaseKeepAlive
        | Rpc::Snapshot
        | Rpc::Observe
        | Rpc::HealthWatch => {
            unreachable!("streaming calls go another way")
        }
    }
}

pub(crate) fn server_stream(
    rpc: Rpc,
    services: &Arc<Services>,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Body, RpcError> {
    guard::leader(services, metadata)?;
    guard::learner_stream(services, rpc)?;
    let body = match rpc {
        Rpc::RangeStream => {
            Ok(Body::Stream(Box::new(kv::RangeStream::open(services, metadata, message)?)))
        }
        Rpc::HealthWatch => Ok(Body::Stream(Box::new(services.health.watch(&decode(message)?)))),
        Rpc::Observe => {
            Ok(Body::Stream(Box::new(election::Observe::open(services, metadata, message)?)))
        }
        Rpc::Snapshot => {
            Ok(Body::Stream(Box::new(snapshot::Snapshot::open(services, metadata, message)?)))
        }
        _ => Err(not_available(rpc)),
    }?;
    Ok(guard::WhileLed::wrap(body, services, metadata))
}

pub(crate) fn bidi_stream(
    rpc: Rpc,
    services: &Arc<Services>,
    metadata: &Metadata,
    requests: Requests,
) -> Result<Body, RpcError> {
    guard::leader(services, metadata)?;
    guard::learner_stream(services, rpc)?;
    let body = match rpc {
        Rpc::Watch => Ok(Body::Stream(Box::new(watch::Stream::open(services, metadata, requests)))),
        Rpc::LeaseKeepAlive => {
            Ok(Body::Stream(Box::new(lease::KeepAlive::open(services, metadata, requests))))
        }
        _ => Err(not_available(rpc)),
    }?;
    Ok(guard::WhileLed::wrap(body, services, metadata))
}

fn not_available(rpc: Rpc) -> RpcError {
    RpcError::other(
        Code::Unimplemented,
        format!("{}/{} is not available in this release", rpc.service(), rpc.method()),
    )
}

/// The error for a path that is not in the table.
pub(crate) fn unknown_method(path: &str) -> RpcError {
    let text = match path.trim_start_matches('/').rsplit_once('/') {
        Some((service, method)) if Rpc::ALL.iter().any(|rpc| rpc.service() == service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    };
    RpcError::other(Code::Unimplemented, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_path() {
        for rpc in Rpc::ALL {
            assert_eq!(Rpc::from_path(&format!("/{}/{}", rpc.service(), rpc.method())), Some(*rpc));
        }
    }

    #[test]
    fn an_unknown_path_names_what_is_unknown() {
        assert_eq!(
            unknown_method("/etcdserverpb.KV/Nope").message(),
            "unknown method Nope for service etcdserverpb.KV"
        );
        assert_eq!(unknown_method("/no.Such/Put").message(), "unknown service no.Such");
    }
}
