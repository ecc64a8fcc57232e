//! A list of members that another etcd cluster keeps: etcd's v3 discovery.
//!
//! Somebody has put the size of the cluster to be under a token. The members put themselves beside it:
//!
//! ```text
//!   /_etcd/registry/<token>/_config/size      3
//!   /_etcd/registry/<token>/members/<id>      name=url,name=url
//! ```
//!
//! The first ones of them, in the order of their creation, are the cluster; who comes later is refused. A member that
//! finds itself in the list goes on where it was interrupted.
//!
//! The list is asked for again and again until it is complete: it is short, and complete within moments or after an
//! operator's next step. A registry that does not answer is waited for, at growing intervals, as etcd does.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use retcd_api::etcdserverpb as pb;
use retcd_api::mvccpb::KeyValue;
use retcd_net::Stream;
use retcd_net::tls::{self, Connector};
use retcd_net::url::split_host_port;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{InitialCluster, Registry, RegistryEndpoint};
use crate::grpc::frame_prefix;

/// Between two looks at a list that is not complete.
const POLL: Duration = Duration::from_millis(500);
/// The n-th attempt in a row that fails is followed by a pause of 2ⁿ seconds, up to this n.
const PAUSE_EXPONENT_MAX: u32 = 8;

/// Why a member is not in the list. What may pass is not among these: it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("discovery: size key not found")]
    NoSize,
    #[error("discovery: size key is bad")]
    BadSize,
    #[error("discovery: cluster is full")]
    Full,
    #[error("discovery: invalid peer URL")]
    InvalidUrl,
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// Why a call to the registry failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no answer in time")]
    Silence,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("{0:?} is no address: {1}")]
    Address(String, http::Error),
    #[error("HTTP status {0}")]
    Status(http::StatusCode),
    #[error("gRPC status {code}: {message}")]
    Refused { code: String, message: String },
    #[error("the answer cannot be read")]
    Unreadable,
}

/// Puts a member into the list, and waits until that is complete. Returns all members in the form of
/// `--initial-cluster`; `own` is this member in the same form.
pub(crate) async fn join(registry: &Registry, id: u64, own: &str) -> Result<String, Error> {
    let mut service = Service::new(registry)?;
    let prefix = format!("/_etcd/registry/{}", registry.token);
    let own_key = format!("{prefix}/members/{id:x}");

    let size = size(service.get(&format!("{prefix}/_config/size")).await)?;
    let find = async |service: &mut Service<'_>| {
        let listed = service.list(&format!("{prefix}/members/")).await;
        let listed: Vec<Listed> = listed.iter().filter_map(Listed::read).collect();
        // The list is in the order of creation. A member among the first ones is in, whoever else came.
        let is_in = listed.iter().take(size).any(|member| member.key == own_key);
        if is_in || listed.len() < size { Ok(listed) } else { Err(Error::Full) }
    };
    find(&mut service).await?;
    service.put(&own_key, own).await;
    tracing::info!(key = own_key, member = own, "registered this member for discovery");
    loop {
        let listed = find(&mut service).await?;
        if listed.len() >= size {
            let members: Vec<&str> =
                listed.iter().take(size).map(|member| &*member.members).collect();
            let members = members.join(",");
            tracing::info!(members, "found all members by discovery");
            return InitialCluster::parse(&members).map(|_| members).map_err(|_| Error::InvalidUrl);
        }
        tracing::info!(size, found = listed.len(), "waiting for members to register for discovery");
        tokio::time::sleep(POLL).await;
    }
}

/// How many members the cluster is to have.
fn size(found: Option<Bytes>) -> Result<usize, Error> {
    let text = found.ok_or(Error::NoSize)?;
    let text = std::str::from_utf8(&text).map_err(|_| Error::BadSize)?;
    text.parse().ok().filter(|size| *size > 0).ok_or(Error::BadSize)
}

/// An entry of the list.
struct Listed {
    key: String,
    /// `name=url,name=url`
    members: String,
}

impl Listed {
    /// None for what is no member.
    fn read(pair: &KeyValue) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let listed = Listed { key: text(&pair.key), members: text(&pair.value) };
        if listed.members.contains('=') {
            return Some(listed);
        }
        tracing::warn!(key = listed.key, "invalid peer info returned from discovery service");
        None
    }
}

/// The etcd cluster that keeps the list.
struct Service<'a> {
    registry: &'a Registry,
    /// For endpoints with TLS, if there are any.
    connector: Option<Connector>,
    connection: Option<Connection>,
    /// The endpoint of the next connection, counted up with every failure.
    turn: usize,
    /// Failures in a row.
    failures: u32,
}

impl<'a> Service<'a> {
    fn new(registry: &'a Registry) -> Result<Self, tls::Error> {
        let Registry { endpoints, tls, is_blind, .. } = registry;
        let is_encrypted = endpoints.iter().any(|endpoint| endpoint.is_encrypted);
        let connector = || Connector::new(tls, &["h2"], *is_blind);
        let connector = is_encrypted.then(connector).transpose()?;
        Ok(Service { registry, connector, connection: None, turn: 0, failures: 0 })
    }

    async fn get(&mut self, key: &str) -> Option<Bytes> {
        let request =
            pb::RangeRequest { key: key.to_owned().into(), ..pb::RangeRequest::default() };
        let answer: pb::RangeResponse = self.call_until_answered("KV/Range", &request).await;
        answer.kvs.into_iter().next().map(|pair| pair.value)
    }

    /// All pairs below a prefix that ends in a slash, in the order of their creation.
    async fn list(&mut self, prefix: &str) -> Vec<KeyValue> {
        // The byte behind the slash.
        let range_end = format!("{}0", prefix.trim_end_matches('/')).into();
        let key = prefix.to_owned().into();
        let request = pb::RangeRequest { key, range_end, ..pb::RangeRequest::default() };
        let answer: pb::RangeResponse = self.call_until_answered("KV/Range", &request).await;
        let mut pairs = answer.kvs;
        pairs.sort_by_key(|pair| pair.create_revision);
        pairs
    }

    async fn put(&mut self, key: &str, value: &str) {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let request = pb::PutRequest { key, value, ..pb::PutRequest::default() };
        let _: pb::PutResponse = self.call_until_answered("KV/Put", &request).await;
    }

    async fn call_until_answered<A: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> A {
        loop {
            match self.call(method, request).await {
                Ok(answer) => {
                    self.failures = 0;
                    return answer;
                }
                Err(error) => {
                    self.failures = (self.failures + 1).min(PAUSE_EXPONENT_MAX);
                    let pause = Duration::from_secs(1 << self.failures);
                    let endpoint = &*self.endpoint().authority;
                    tracing::warn!(%error, endpoint, ?pause, "retry connecting to discovery service");
                    self.connection = None;
                    self.turn += 1;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn call<A: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, CallError> {
        if self.connection.is_none() {
            let endpoint = self.endpoint();
            let connector = self.connector.as_ref().filter(|_| endpoint.is_encrypted);
            let connecting = Connection::open(&endpoint.authority, connector, self.registry);
            let connection = timeout(self.registry.dial_timeout, connecting).await;
            self.connection = Some(connection.unwrap_or(Err(CallError::Silence))?);
        }
        let connection = self.connection.as_mut().expect("it was just made, or is there");
        let answer = timeout(self.registry.request_timeout, async {
            if let (Some(user), None) = (&self.registry.user, &connection.token) {
                let (name, password) = (user.name.clone(), user.password.clone());
                let request = pb::AuthenticateRequest { name, password };
                let answer: pb::AuthenticateResponse =
                    connection.call("Auth/Authenticate", &request).await?;
                let token = HeaderValue::try_from(answer.token);
                connection.token = Some(token.map_err(|_| CallError::Unreadable)?);
            }
            connection.call(method, request).await
        });
        answer.await.unwrap_or(Err(CallError::Silence))
    }

    fn endpoint(&self) -> &'a RegistryEndpoint {
        &self.registry.endpoints[self.turn % self.registry.endpoints.len()]
    }
}

/// gRPC to one endpoint.
struct Connection {
    /// `host:port`
    authority: String,
    scheme: &'static str,
    sender: SendRequest<Full<Bytes>>,
    /// Of the user that logged in.
    token: Option<HeaderValue>,
}

impl Connection {
    async fn open(
        authority: &str,
        connector: Option<&Connector>,
        registry: &Registry,
    ) -> Result<Self, CallError> {
        let mut stream = Stream::Tcp(TcpStream::connect(authority).await?);
        if let Some(connector) = connector {
            let host = split_host_port(authority).map_or(authority, |(host, _)| host);
            stream = connector.connect(stream, host).await?;
        }
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(registry.keepalive_time))
            .keep_alive_timeout(registry.keepalive_timeout)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await?;
        // Ends with its sender. An error reaches the request that it concerns.
        tokio::spawn(connection);
        let scheme = if connector.is_some() { "https" } else { "http" };
        Ok(Connection { authority: authority.to_owned(), scheme, sender, token: None })
    }

    async fn call<A: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<A, CallError> {
        let message = message.encode_to_vec();
        let body = [&frame_prefix(message.len())[..], &message].concat();
        let uri = format!("{}://{}/etcdserverpb.{method}", self.scheme, self.authority);
        let mut request =
            Request::post(uri).header(CONTENT_TYPE, "application/grpc").header(TE, "trailers");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request
            .body(Full::new(body.into()))
            .map_err(|error| CallError::Address(self.authority.clone(), error))?;
        let response = self.sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(CallError::Status(response.status()));
        }
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        // The status stands behind the message, or in the head when there is none.
        check_status(body.trailers().unwrap_or(&head.headers))?;
        let framed = body.to_bytes();
        let prefix = framed.first_chunk::<5>().ok_or(CallError::Unreadable)?;
        let message = framed.slice(prefix.len()..);
        if *prefix != frame_prefix(message.len()) {
            return Err(CallError::Unreadable);
        }
        A::decode(message).map_err(|_| CallError::Unreadable)
    }
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| {
        let value = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        value.unwrap_or_default().into_owned()
    };
    let code = text("grpc-status");
    if code == "0" {
        Ok(())
    } else {
        Err(CallError::Refused { code, message: text("grpc-message") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_positive_number() {
        let size = |text: &'static str| size(Some(Bytes::from(text)));
        assert_eq!(size("3").unwrap(), 3);
        for bad in ["", "0", "-1", "three", "3 "] {
            assert!(matches!(size(bad), Err(Error::BadSize)), "{bad}");
        }
        assert!(matches!(super::size(None), Err(Error::NoSize)));
    }

    #[test]
    fn what_is_no_member_is_not_listed() {
        let read = |value: &'static str| {
            let pair = KeyValue { key: "/k/1 ".into(), value: value.into(), ..KeyValue::default() };
            Listed::read(&pair).map(|listed| (listed.key, listed.members))
        };
        assert_eq!(read(" a=http://a:1\n"), Some(("/k/1".into(), "a=http://a:1".into())));
        assert_eq!(read("http://a:1"), None);
    }
}
