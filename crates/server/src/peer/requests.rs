//! What members ask of each other besides Raft: who belongs to the cluster, which versions run, leases that only the
//! leader counts, promotions that only the leader decides, hashes to compare.
//!
//! The parsing, statuses and bodies are here; what is true is the member's to say, through [`PeerRequests`].

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use prost::Message as _;
use retcd_api::ETCD_VERSION;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_api::leasepb;
use retcd_state_machine::cluster::Member;
use retcd_state_machine::mvcc::HashKv;
use serde::{Deserialize, Serialize};

use super::Later;
use super::door::{self, Answer};
use super::network::Shared;
use super::wire::headers::{self, CLUSTER_ID, Mismatch};

/// What the member answers to other members.
pub(crate) trait PeerRequests: Send + Sync + 'static {
    /// The members as this one knows them, ascending by id.
    fn members(&self) -> Vec<Member>;

    fn versions(&self) -> Versions;

    /// Makes a learner a voter, for a caller with this auth token. Returns the members afterwards.
    fn promote(&self, id: u64, token: Option<String>) -> Later<Result<Vec<Member>, RpcError>>;

    /// Renews a lease. Returns its time to live in seconds.
    fn renew_lease(&self, id: i64) -> Later<Result<i64, LeaseError>>;

    /// The remaining time of a lease, and its keys if `keys`. The answer's header is not used.
    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Later<Result<pb::LeaseTimeToLiveResponse, LeaseError>>;

    /// The hash at a revision that was compacted or is current; 0 for the current one.
    fn hash_kv(&self, revision: i64) -> Later<Result<HashKv, RpcError>>;

    /// Whether a downgrade goes on, by a linearizable read.
    fn downgrade_enabled(&self) -> Later<Result<bool, RpcError>>;
}

/// Versions that the cluster has agreed on, if it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) cluster: Option<String>,
    pub(crate) storage: Option<String>,
}

/// Why a leader does not answer for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeaseError {
    #[error("lease not found")]
    NotFound,
    #[error("not a primary lessor")]
    NotPrimary,
    #[error("waiting for node to catch up its applied index has timed out")]
    ApplyTimeout,
}

/// Lease requests carry an id and a flag.
pub(crate) const LEASE_REQUEST_BYTES_MAX: usize = 64 << 10;
/// A hash request is a small JSON object.
const HASH_REQUEST_BYTES_MAX: usize = 64 << 10;

const PROMOTE: &str = "/members/promote/";

/// Answers a request that is not Raft's.
pub(crate) async fn answer(
    shared: &Shared,
    head: &Parts,
    body: hyper::body::Incoming,
) -> Response<Answer> {
    let path = head.uri.path();
    let Some(method) = method_of(path) else { return door::not_found() };
    if head.method != method {
        return door::wrong_method(&method);
    }
    match path {
        "/members" => members(shared),
        "/version" => version(shared),
        "/leases" => renew_lease(shared, body).await,
        "/leases/internal" => lease_time_to_live(shared, body).await,
        "/members/hashkv" => hash_kv(shared, head, body).await,
        "/downgrade/enabled" => downgrade_enabled(shared).await,
        _ => promote(shared, head, &path[PROMOTE.len()..]).await,
    }
}

fn method_of(path: &str) -> Option<Method> {
    match path {
        "/members" | "/version" | "/members/hashkv" | "/downgrade/enabled" => Some(Method::GET),
        "/leases" | "/leases/internal" => Some(Method::POST),
        _ if path.starts_with(PROMOTE) => Some(Method::POST),
        _ => None,
    }
}

fn members(shared: &Shared) -> Response<Answer> {
    with_cluster_id(shared, json_line(&shared.callbacks().requests.members()))
}

fn version(shared: &Shared) -> Response<Answer> {
    let Versions { cluster, storage } = shared.callbacks().requests.versions();
    let body = VersionAnswer {
        etcdserver: ETCD_VERSION.to_owned(),
        etcdcluster: cluster.unwrap_or_else(|| "not_decided".to_owned()),
        storage: storage.unwrap_or_else(|| "unknown".to_owned()),
    };
    door::respond(StatusCode::OK, "application/json", json(&body))
}

/// The answer to `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionAnswer {
    pub(crate) etcdserver: String,
    /// `not_decided` before the cluster has one.
    #[serde(default)]
    pub(crate) etcdcluster: String,
    /// Members before 3.6 do not say.
    #[serde(default)]
    pub(crate) storage: String,
}

async fn promote(shared: &Shared, head: &Parts, id: &str) -> Response<Answer> {
    let answer = match id.parse() {
        Ok(number) => {
            let token = headers::text(&head.headers, &AUTHORIZATION).map(str::to_owned);
            match shared.callbacks().requests.promote(number, token).await {
                Ok(members) => json_line(&members),
                Err(error) => promotion_refused(number, &error),
            }
        }
        Err(_) => door::error(StatusCode::NOT_FOUND, &format!("member {id} not found in cluster")),
    };
    with_cluster_id(shared, answer)
}

/// Texts by which a member that has forwarded the call knows the reason.
pub(crate) const PROMOTE_UNKNOWN: &str = "membership: ID not found";
pub(crate) const PROMOTE_VOTER: &str = "membership: can only promote a learner member";

fn promotion_refused(id: u64, error: &RpcError) -> Response<Answer> {
    tracing::warn!(member_id = %format!("{id:x}"), %error, "failed to promote a member");
    match error {
        RpcError::MemberNotFound => door::error(StatusCode::NOT_FOUND, PROMOTE_UNKNOWN),
        RpcError::MemberNotLearner => door::error(StatusCode::PRECONDITION_FAILED, PROMOTE_VOTER),
        RpcError::LearnerNotReady => door::error(StatusCode::PRECONDITION_FAILED, error.message()),
        _ => door::respond(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            r#"{"message":"Internal Server Error"}"#,
        ),
    }
}

async fn renew_lease(shared: &Shared, body: hyper::body::Incoming) -> Response<Answer> {
    let request: pb::LeaseKeepAliveRequest = match lease_request(body).await {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    match shared.callbacks().requests.renew_lease(request.id).await {
        Ok(ttl) => {
            let answer = pb::LeaseKeepAliveResponse { header: None, id: request.id, ttl };
            door::respond(StatusCode::OK, "application/protobuf", answer.encode_to_vec())
        }
        Err(error) => lease_refused(error, StatusCode::BAD_REQUEST),
    }
}

async fn lease_time_to_live(shared: &Shared, body: hyper::body::Incoming) -> Response<Answer> {
    let request: leasepb::LeaseInternalRequest = match lease_request(body).await {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let Some(request) = request.lease_time_to_live_request else {
        return door::error(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    let requests = &shared.callbacks().requests;
    match requests.lease_time_to_live(request.id, request.keys).await {
        Ok(answer) => {
            // Members before 3.7 read a header that is there.
            let header = Some(pb::ResponseHeader::default());
            let answer = pb::LeaseTimeToLiveResponse { header, ..answer };
            let answer =
                leasepb::LeaseInternalResponse { lease_time_to_live_response: Some(answer) };
            door::respond(StatusCode::OK, "application/protobuf", answer.encode_to_vec())
        }
        Err(error) => lease_refused(error, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn lease_request<M: prost::Message + Default>(
    body: hyper::body::Incoming,
) -> Result<M, Response<Answer>> {
    let bytes = match door::read(body, LEASE_REQUEST_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(door::ReadError::TooLong) => {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(door::error(status, "request body too large"));
        }
        Err(door::ReadError::Broken(_)) => {
            return Err(door::error(StatusCode::BAD_REQUEST, "error reading body"));
        }
    };
    M::decode(bytes)
        .map_err(|_| door::error(StatusCode::BAD_REQUEST, "error unmarshalling request"))
}

fn lease_refused(error: LeaseError, not_primary: StatusCode) -> Response<Answer> {
    let status = match error {
        LeaseError::NotFound => StatusCode::NOT_FOUND,
        LeaseError::NotPrimary => not_primary,
        LeaseError::ApplyTimeout => StatusCode::REQUEST_TIMEOUT,
    };
    door::error(status, &error.to_string())
}

/// The question for a hash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HashRequest {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) revision: i64,
}

/// The answer, in the JSON form of etcd's Go struct: numbers are numbers, zeros are absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HashAnswer {
    #[serde(default)]
    pub(crate) header: HashHeader,
    #[serde(default, skip_serializing_if = "is_zero_hash")]
    pub(crate) hash: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) compact_revision: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) hash_revision: i64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HashHeader {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) revision: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero_hash(number: &u32) -> bool {
    *number == 0
}

async fn hash_kv(shared: &Shared, head: &Parts, body: hyper::body::Incoming) -> Response<Answer> {
    let cluster = format!("{:x}", shared.identity.cluster);
    let asked = headers::text(&head.headers, &CLUSTER_ID).unwrap_or_default();
    if !asked.is_empty() && asked != cluster {
        return door::error(StatusCode::PRECONDITION_FAILED, &Mismatch::ClusterId.to_string());
    }
    let Ok(bytes) = door::read(body, HASH_REQUEST_BYTES_MAX).await else {
        return door::error(StatusCode::BAD_REQUEST, "error reading body");
    };
    let Ok(request) = serde_json::from_slice::<HashRequest>(&bytes) else {
        return door::error(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    match shared.callbacks().requests.hash_kv(request.revision).await {
        Ok(hash) => {
            let answer = HashAnswer {
                header: HashHeader { revision: hash.current_revision },
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.hash_revision,
            };
            let answer = door::respond(StatusCode::OK, "application/json", json(&answer));
            with_cluster_id(shared, answer)
        }
        Err(error) => {
            tracing::warn!(requested_revision = request.revision, %error, "failed to get hashKV");
            // Between members the store's own words are used, without the prefix that clients see.
            let text = error.message();
            door::error(StatusCode::BAD_REQUEST, text.strip_prefix("etcdserver: ").unwrap_or(text))
        }
    }
}

async fn downgrade_enabled(shared: &Shared) -> Response<Answer> {
    let answer = match shared.callbacks().requests.downgrade_enabled().await {
        Ok(enabled) => door::respond(StatusCode::OK, "text/plain", enabled.to_string()),
        Err(error) => {
            let text = format!("failed linearized read: {}", error.message());
            door::error(StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
    };
    with_cluster_id(shared, answer)
}

fn with_cluster_id(shared: &Shared, mut answer: Response<Answer>) -> Response<Answer> {
    answer.headers_mut().insert(CLUSTER_ID, headers::id_value(shared.identity.cluster));
    answer
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("plain data has a JSON form").into()
}

/// As Go's encoder writes it to a response: with a newline.
fn json_line(value: &impl Serialize) -> Response<Answer> {
    let mut line = serde_json::to_vec(value).expect("plain data has a JSON form");
    line.push(b'\n');
    door::respond(StatusCode::OK, "application/json", line)
}
