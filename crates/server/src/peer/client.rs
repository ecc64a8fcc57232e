//! Questions to another member's peer port that are not Raft's: the other side of [`requests`](super::requests).
//!
//! They are rare, so each has a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use prost::Message as _;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_api::leasepb;
use retcd_net::url::Url;
use retcd_state_machine::cluster::Member;
use tokio::time::timeout;

use super::connection::{self, Connection};
use super::dialer::Dialer;
use super::pipeline::PROTOBUF;
use super::requests::{
    HashAnswer, HashRequest, LeaseError, PROMOTE_UNKNOWN, PROMOTE_VOTER, VersionAnswer,
};
use super::wire::headers::{self, CLUSTER_ID};

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Request(#[from] connection::Error),
    #[error("{url}: unexpected status {status}: {text}")]
    Status { url: String, status: StatusCode, text: String },
    #[error("{url}: the answer cannot be read: {text}")]
    Unreadable { url: String, text: String },
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// The members of a cluster, as one of them knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) cluster_id: u64,
    pub(crate) members: Vec<Member>,
}

/// Asks one member at one of its peer URLs. The whole exchange may take `limit`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) dialer: &'a Dialer,
    pub(crate) url: &'a Url,
    pub(crate) limit: Duration,
}

impl Client<'_> {
    /// `GET /members`.
    pub(crate) async fn members(&self) -> Result<Membership, Error> {
        let answer = self.call(Method::GET, "/members", None, Bytes::new()).await?;
        let answer = self.expect_ok(answer)?;
        let cluster_id = headers::text(answer.headers(), &CLUSTER_ID).and_then(headers::parse_id);
        let cluster_id = cluster_id.ok_or_else(|| self.unreadable(&"no cluster id"))?;
        Ok(Membership { cluster_id, members: self.parse(&answer)? })
    }

    /// `GET /version`.
    pub(crate) async fn version(&self) -> Result<VersionAnswer, Error> {
        let answer = self.call(Method::GET, "/version", None, Bytes::new()).await?;
        self.parse(&self.expect_ok(answer)?)
    }

    /// `GET /downgrade/enabled`.
    pub(crate) async fn downgrade_enabled(&self) -> Result<bool, Error> {
        let answer = self.call(Method::GET, "/downgrade/enabled", None, Bytes::new()).await?;
        let answer = self.expect_ok(answer)?;
        match &**answer.body() {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(self.unreadable(&"neither true nor false")),
        }
    }

    /// `POST /members/promote/<id>`, with the caller's auth token.
    ///
    /// # Errors
    /// [`Error::Rpc`] when the leader has decided against it.
    pub(crate) async fn promote(&self, id: u64, token: Option<&str>) -> Result<Vec<Member>, Error> {
        let token = token.map(|token| (AUTHORIZATION, HeaderValue::from_str(token)));
        let token = match token {
            Some((_, Err(_))) => return Err(RpcError::InvalidAuthToken.into()),
            Some((name, Ok(value))) => Some((name, value)),
            None => None,
        };
        let path = format!("/members/promote/{id}");
        let answer = self.call(Method::POST, &path, token, Bytes::new()).await?;
        let text = String::from_utf8_lossy(answer.body());
        let text = text.trim_end();
        match answer.status() {
            StatusCode::NOT_FOUND if text == PROMOTE_UNKNOWN => {
                Err(RpcError::MemberNotFound.into())
            }
            StatusCode::PRECONDITION_FAILED if text == PROMOTE_VOTER => {
                Err(RpcError::MemberNotLearner.into())
            }
            StatusCode::PRECONDITION_FAILED if text == RpcError::LearnerNotReady.message() => {
                Err(RpcError::LearnerNotReady.into())
            }
            _ => self.parse(&self.expect_ok(answer)?),
        }
    }

    /// `POST /leases`: renews a lease at the leader. Returns its time to live in seconds.
    ///
    /// # Errors
    /// [`Error::Lease`] when the leader says so.
    pub(crate) async fn renew_lease(&self, id: i64) -> Result<i64, Error> {
        let request = pb::LeaseKeepAliveRequest { id }.encode_to_vec();
        let answer = self.post_lease("/leases", request).await?;
        let answer = pb::LeaseKeepAliveResponse::decode(answer);
        answer.map(|answer| answer.ttl).map_err(|error| self.unreadable(&error))
    }

    /// `POST /leases/internal`: the remaining time of a lease, and its keys if `keys`, from the leader.
    ///
    /// # Errors
    /// [`Error::Lease`] when the leader says so.
    pub(crate) async fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        let request = leasepb::LeaseInternalRequest {
            lease_time_to_live_request: Some(pb::LeaseTimeToLiveRequest { id, keys }),
        };
        let answer = self.post_lease("/leases/internal", request.encode_to_vec()).await?;
        let answer = leasepb::LeaseInternalResponse::decode(answer);
        let answer = answer.map_err(|error| self.unreadable(&error))?;
        let answer = answer.lease_time_to_live_response;
        answer.ok_or_else(|| self.unreadable(&"an empty answer"))
    }

    /// `GET /members/hashkv`, for members of the cluster `cluster_id` only.
    ///
    /// # Errors
    /// [`Error::Rpc`] when the revision is compacted or in the future, or the member is of another cluster.
    pub(crate) async fn hash_kv(
        &self,
        cluster_id: u64,
        revision: i64,
    ) -> Result<HashAnswer, Error> {
        let question = serde_json::to_vec(&HashRequest { revision });
        let question = question.expect("plain data has a JSON form");
        let header = Some((CLUSTER_ID, headers::id_value(cluster_id)));
        let answer = self.call(Method::GET, "/members/hashkv", header, question.into()).await?;
        let text = String::from_utf8_lossy(answer.body());
        // Between members the prefix is left out that clients see.
        let says =
            |error: &RpcError| text.contains(error.message().trim_start_matches("etcdserver: "));
        let reasons: &[RpcError] = match answer.status() {
            StatusCode::BAD_REQUEST => &[RpcError::Compacted, RpcError::FutureRev],
            StatusCode::PRECONDITION_FAILED => &[RpcError::ClusterIdMismatch],
            _ => &[],
        };
        match reasons.iter().find(|error| says(error)) {
            Some(error) => Err(error.clone().into()),
            None => self.parse(&self.expect_ok(answer)?),
        }
    }

    async fn post_lease(&self, path: &str, request: Vec<u8>) -> Result<Bytes, Error> {
        let header = Some((CONTENT_TYPE, PROTOBUF));
        let answer = self.call(Method::POST, path, header, request.into()).await?;
        let text = String::from_utf8_lossy(answer.body());
        let reasons = [LeaseError::NotFound, LeaseError::NotPrimary, LeaseError::ApplyTimeout];
        let reason = reasons.into_iter().find(|reason| reason.to_string() == text.trim_end());
        match reason.filter(|_| answer.status() != StatusCode::OK) {
            Some(reason) => Err(reason.into()),
            None => self.expect_ok(answer).map(Response::into_body),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        header: Option<(http::HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<Response<Bytes>, Error> {
        let mut request = Request::new(connection::full_body(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a path of plain characters");
        request.headers_mut().extend(header.map(|(name, value)| (Some(name), value)));
        let dial = |source| connection::Error::Dial { url: self.url.to_string(), source };
        let exchange = async {
            let connection = Connection::open(self.dialer, self.url, self.limit).await;
            let mut connection = connection.map_err(dial)?;
            connection.call(request).await
        };
        let answer = timeout(self.limit, exchange).await;
        Ok(answer.unwrap_or(Err(connection::Error::Timeout(self.limit)))?)
    }

    fn expect_ok(&self, answer: Response<Bytes>) -> Result<Response<Bytes>, Error> {
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(answer.body());
        Err(Error::Status {
            url: self.url.to_string(),
            status: answer.status(),
            text: text.trim_end().chars().take(200).collect(),
        })
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, answer: &Response<Bytes>) -> Result<T, Error> {
        serde_json::from_slice(answer.body()).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Unreadable { url: self.url.to_string(), text: error.to_string() }
    }
}
