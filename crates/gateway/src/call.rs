//! One HTTP request: found, called, answered.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response};
use retcd_api::error::{Code, RpcError};
use tokio::time::{Instant, sleep_until};

use crate::reply::{self, Body, Lines};
use crate::requests::Requests;
use crate::routes;

/// Headers that begin so are gRPC metadata under the rest of their name.
const METADATA_PREFIX: &str = "grpc-metadata-";
const TIMEOUT: &str = "grpc-timeout";
/// W3C's name of the span that a request belongs to. etcd's gateway leaves it out.
const TRACEPARENT: &str = "traceparent";

/// The gRPC services behind the gateway.
///
/// `method` is `/package.Service/Method`; `metadata` is what a gRPC client would send beside its messages, among it
/// `authorization`.
pub trait Services {
    /// Calls a unary method with the encoded request. Dropping the future cancels the call.
    fn unary(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        request: Bytes,
    ) -> impl Future<Output = Result<Bytes, RpcError>> + Send;

    /// Opens a call of one request and many answers.
    fn server_stream(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        request: Bytes,
    ) -> Result<Box<dyn Answers>, RpcError>;

    /// Opens a call of many requests and many answers.
    fn bidi_stream(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        requests: Requests,
    ) -> Result<Box<dyn Answers>, RpcError>;
}

/// The answers of a streaming call. Dropping them cancels it.
pub trait Answers: Send {
    /// The next encoded message. `None` ends the call well, an error ends it with that status.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>>;
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest encoded request.
    pub message_bytes_max: usize,
}

/// Whether a path is for the gateway, be there a route or not.
pub fn serves(path: &str) -> bool {
    routes::is_below_prefix(path)
}

/// Answers a request whose path the gateway [`serves`].
pub async fn handle<B>(
    request: Request<B>,
    services: &(impl Services + Sync),
    limits: Limits,
) -> Response<Body>
where
    B: http_body::Body<Data: Buf + Send> + Unpin + Send + 'static,
{
    let (head, body) = request.into_parts();
    answer(&head, body, services, limits).await.unwrap_or_else(|error| reply::error(&error))
}

async fn answer<B>(
    head: &Parts,
    body: B,
    services: &(impl Services + Sync),
    limits: Limits,
) -> Result<Response<Body>, RpcError>
where
    B: http_body::Body<Data: Buf + Send> + Unpin + Send + 'static,
{
    let not_found = || RpcError::other(Code::NotFound, "Not Found");
    let (path, method) = routes::find(head.uri.path()).ok_or_else(not_found)?;
    if head.method != Method::POST {
        return Err(RpcError::other(Code::Unimplemented, "Method Not Allowed"));
    }
    let deadline = deadline(&head.headers)?;
    let metadata = metadata(&head.headers);
    let requests = Requests::new(body, method, limits.message_bytes_max);
    if !method.is_server_streaming() {
        let call = async {
            let request = requests.only().await?;
            let answer = services.unary(path, metadata, request).await?;
            reply::whole(method, &answer)
        };
        return before(deadline, call).await;
    }
    let answers = if method.is_client_streaming() {
        services.bidi_stream(path, metadata, requests)?
    } else {
        let request = before(deadline, requests.only()).await?;
        services.server_stream(path, metadata, request)?
    };
    Ok(reply::lines(Lines::open(answers, method, deadline.map(sleep_until)).await?))
}

/// Waits for the outcome of a call, at most until its deadline.
async fn before<T>(
    deadline: Option<Instant>,
    call: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    let Some(deadline) = deadline else { return call.await };
    let outcome = tokio::time::timeout_at(deadline, call).await;
    outcome.unwrap_or(Err(RpcError::ContextDeadlineExceeded))
}

/// What the services see of the headers: the token, the span, and what says of itself that it is metadata.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix(METADATA_PREFIX) {
            Some(name) => HeaderName::from_bytes(name.as_bytes()).ok(),
            None => (name == AUTHORIZATION || name == TRACEPARENT).then(|| name.clone()),
        };
        if let Some(name) = name {
            metadata.append(name, value.clone());
        }
    }
    metadata
}

/// The moment that `Grpc-Timeout` names, if it is there.
fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, RpcError> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(timeout).ok_or_else(|| {
        let value = String::from_utf8_lossy(value.as_bytes());
        RpcError::other(Code::InvalidArgument, format!("invalid grpc-timeout: {value}"))
    })?;
    // What is too far away to be told is no limit.
    Ok(Instant::now().checked_add(timeout))
}

/// gRPC's way to write a time: at most 8 digits and one letter for the unit.
fn timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(count * 3600)),
        'M' => Some(Duration::from_secs(count * 60)),
        'S' => Some(Duration::from_secs(count)),
        'm' => Some(Duration::from_millis(count)),
        'u' => Some(Duration::from_micros(count)),
        'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
