//! The client: configuration, and the one way that every call takes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use prost::Message;
use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};

use crate::balancer::{Balancer, Connection};
use crate::channel::Channel;
use crate::error::Failure;
use crate::hub::Hubs;
use crate::identity::{Credentials, Identity, User, is_about_token};
use crate::ordering::Order;
use crate::{Error, Tls, unary};

/// How to reach a cluster. The defaults are those of etcdctl. [`Builder`] knows further settings.
///
/// ```
/// let config = retcd_client::Config { endpoints: vec!["10.0.0.1:2379".into()], ..Default::default() };
/// assert_eq!(config.dial_timeout, std::time::Duration::from_secs(2));
/// ```
#[derive(Clone)]
pub struct Config {
    /// `host:port`, `http://host:port`, `https://host:port`, `unix:path` or `unixs:path`.
    pub endpoints: Vec<String>,
    /// How long one attempt to connect may take.
    pub dial_timeout: Duration,
    /// After this much silence on a busy connection the server is pinged (at least 10 s, as in gRPC).
    pub keepalive_time: Duration,
    /// How long the server may take to answer the ping.
    pub keepalive_timeout: Duration,
    /// Larger requests are refused here; 0 means 2 MiB.
    pub request_bytes_max: usize,
    /// Larger answers are refused here; 0 means 2 GiB - 1.
    pub response_bytes_max: usize,
    /// Sent with each request, as `token`.
    pub token: Option<String>,
}

/// Tokens are as good as passwords, so they are not shown.
impl std::fmt::Debug for Config {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Config")
            .field("endpoints", &self.endpoints)
            .field("dial_timeout", &self.dial_timeout)
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            dial_timeout: Duration::from_secs(2),
            keepalive_time: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(6),
            request_bytes_max: 0,
            response_bytes_max: 0,
            token: None,
        }
    }
}

const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;

/// Answers of `Unavailable` that one call takes before it gives up; as in etcd's client.
const ANSWERS_MAX: usize = 100;
/// Pause before a call is repeated, plus or minus a tenth, so that clients do not march in step.
pub(crate) const BACKOFF: Duration = Duration::from_millis(25);
/// Pause once every endpoint has refused the connection.
const UNCONNECTED_BACKOFF: Duration = Duration::from_millis(250);

/// What may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Doing it twice is the same as doing it once.
    Repeatable,
    /// Only while the request certainly has not left: it might have been applied.
    Once,
}

/// Repeats of a call whose caller's rights have changed meanwhile. A token that is old for good fails soon.
const REPEATS_MAX: usize = 10;
/// Logins that one call makes before it believes that its token is refused for good.
const LOGINS_MAX: usize = 3;

/// A connection to a cluster. Clones share it.
///
/// ```no_run
/// # async fn example() -> Result<(), retcd_client::Error> {
/// use retcd_client::{Client, Get, Put};
///
/// let client = Client::builder(["10.0.0.1:2379", "10.0.0.2:2379"]).build()?;
/// client.put(Put::new("k", "v")).await?;
/// assert_eq!(client.range(Get::key("k")).await?.kvs[0].value, "v");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    balancer: Arc<Balancer>,
    identity: Arc<Identity>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) needs_leader: bool,
    request_bytes_max: usize,
    pub(crate) response_bytes_max: usize,
    /// What all keys begin with, without the caller noticing.
    pub(crate) namespace: Bytes,
    /// Set when reads must never go back in time.
    pub(crate) order: Option<Arc<Order>>,
    /// The streams that watches share. Those of another identity are others.
    pub(crate) hubs: Arc<Hubs>,
}

/// A client under construction.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), retcd_client::Error> {
/// use std::time::Duration;
/// use retcd_client::{Client, Tls};
///
/// let client = Client::builder(["https://10.0.0.1:2379"])
///     .tls(Tls::new().insecure_skip_verify())
///     .credentials("root", "secret")
///     .timeout(Duration::from_secs(5))
///     .build()?;
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct Builder {
    config: Config,
    tls: Option<Tls>,
    credentials: Option<Credentials>,
    timeout: Option<Duration>,
    needs_leader: bool,
}

impl From<Config> for Builder {
    fn from(config: Config) -> Self {
        Builder { config, tls: None, credentials: None, timeout: None, needs_leader: false }
    }
}

impl Builder {
    /// Encrypts connections. Endpoints that begin with `http://` stay without encryption; those with `https://` are
    /// encrypted even without this, and then trust the system's authorities.
    pub fn tls(self, tls: Tls) -> Self {
        Builder { tls: Some(tls), ..self }
    }

    /// Logs in as a user before the first call, and again whenever the cluster wants a new token. A cluster that does
    /// not ask who we are is fine, too.
    pub fn credentials(self, name: impl Into<String>, password: impl Into<String>) -> Self {
        let credentials = Credentials { name: name.into(), password: password.into() };
        Builder { credentials: Some(credentials), ..self }
    }

    /// Sends this token with each request, instead of logging in.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.config.token = Some(token.into());
        self
    }

    /// How long each call may take. Without one, calls try forever.
    pub fn timeout(self, timeout: Duration) -> Self {
        Builder { timeout: Some(timeout), ..self }
    }

    /// How long one attempt to connect may take; 2 s unless told otherwise.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.config.dial_timeout = timeout;
        self
    }

    /// After this much silence on a busy connection the server is pinged (at least 10 s, as in gRPC), and it has
    /// `timeout` to answer before the connection is given up.
    pub fn keep_alive(mut self, time: Duration, timeout: Duration) -> Self {
        self.config.keepalive_time = time;
        self.config.keepalive_timeout = timeout;
        self
    }

    /// Larger requests and answers are refused here, in bytes; 0 means 2 MiB and 2 GiB - 1.
    pub fn size_limits(mut self, request_bytes_max: usize, response_bytes_max: usize) -> Self {
        self.config.request_bytes_max = request_bytes_max;
        self.config.response_bytes_max = response_bytes_max;
        self
    }

    /// Requests are refused by members that know no leader, and streams end when the leader is lost.
    pub fn require_leader(self) -> Self {
        Builder { needs_leader: true, ..self }
    }

    /// Makes the client. Connections are made by the first calls, which must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::NoEndpoints`], [`Error::BadEndpoint`], [`Error::BadTls`], or `InvalidAuthToken` for a token that no
    /// header can carry.
    pub fn build(self) -> Result<Client, Error> {
        let tls = self.tls.map(Arc::new);
        let identity = match (self.credentials, &self.config.token) {
            (Some(credentials), _) => Identity::with_credentials(credentials),
            (None, Some(token)) => Identity::with_token(token)?,
            (None, None) => Identity::Nobody,
        };
        Ok(Client {
            balancer: Arc::new(Balancer::new(&self.config, tls.as_ref())?),
            identity: Arc::new(identity),
            timeout: self.timeout,
            needs_leader: self.needs_leader,
            request_bytes_max: or_default(self.config.request_bytes_max, REQUEST_BYTES_MAX)
                .min(unary::SIZE_MAX),
            response_bytes_max: or_default(self.config.response_bytes_max, RESPONSE_BYTES_MAX),
            namespace: Bytes::new(),
            order: None,
            hubs: Arc::default(),
        })
    }
}

impl Client {
    /// Makes a client without TLS and users; [`Self::builder`] can do more.
    ///
    /// # Errors
    /// [`Error::NoEndpoints`], [`Error::BadEndpoint`], or `InvalidAuthToken` for a token that no header can carry.
    pub fn new(config: &Config) -> Result<Self, Error> {
        Builder::from(config.clone()).build()
    }

    /// Begins to make a client for these endpoints: `host:port`, `http://host:port`, `https://host:port`,
    /// `unix:path` or `unixs:path`.
    pub fn builder(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Builder::from(Config { endpoints, ..Config::default() })
    }

    /// The same client, whose calls each take at most `timeout`. Without one they try forever.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Client { timeout: Some(timeout), ..self.clone() }
    }

    /// The same client, whose requests carry `token`.
    ///
    /// # Errors
    /// `InvalidAuthToken` for a token that no header can carry.
    pub fn with_token(&self, token: &str) -> Result<Self, Error> {
        let identity = Arc::new(Identity::with_token(token)?);
        Ok(Client { identity, hubs: Arc::default(), ..self.clone() })
    }

    /// The same client, which acts as another user. See [`Builder::credentials`].
    #[must_use]
    pub fn with_credentials(&self, name: impl Into<String>, password: impl Into<String>) -> Self {
        let credentials = Credentials { name: name.into(), password: password.into() };
        let identity = Arc::new(Identity::with_credentials(credentials));
        Client { identity, hubs: Arc::default(), ..self.clone() }
    }

    /// The same client, whose calls take as long as they take.
    #[must_use]
    pub fn without_timeout(&self) -> Self {
        Client { timeout: None, ..self.clone() }
    }

    /// The same client, whose requests are refused by members that know no leader, and whose watches end with
    /// `NoLeader` when the leader is lost.
    #[must_use]
    pub fn needing_leader(&self) -> Self {
        Client { needs_leader: true, ..self.clone() }
    }

    pub(crate) fn endpoint_count(&self) -> usize {
        self.balancer.len()
    }

    /// Calls the method at `path` until there is an answer, or none can be expected.
    pub(crate) async fn unary<Resp: Message + Default>(
        &self,
        retry: Retry,
        path: &'static str,
        request: &impl Message,
    ) -> Result<Resp, Error> {
        let frame = unary::frame(request, self.checked_size(request)?);
        let size_max = self.response_bytes_max;
        let send = |channel: Channel| {
            let request = unary::request(path, self.headers(self.timeout), frame.clone());
            async move { unary::send(&channel, request, size_max).await.map(Response::new) }
        };
        self.attempt(retry, send).await
    }

    /// As [`Self::unary`], for calls whose answer is a stream: `send` makes one attempt.
    pub(crate) async fn streaming<Req, Resp, Attempt>(
        &self,
        retry: Retry,
        request: Req,
        send: impl Fn(Channel, Request<Req>) -> Attempt,
    ) -> Result<Resp, Error>
    where
        Req: Message + Clone,
        Attempt: Future<Output = Result<Response<Resp>, Status>>,
    {
        self.checked_size(&request)?;
        let headers = || self.headers(self.timeout);
        self.attempt(retry, |channel| send(channel, with_headers(request.clone(), headers()))).await
    }

    /// Makes attempts until one succeeds, the retry rule says stop, or the time is over.
    pub(crate) async fn attempt<Resp, Bad, Attempt>(
        &self,
        retry: Retry,
        mut send: impl FnMut(Channel) -> Attempt,
    ) -> Result<Resp, Error>
    where
        Bad: Into<Failure>,
        Attempt: Future<Output = Result<Response<Resp>, Bad>>,
    {
        let mut progress = Progress::default();
        let answered = {
            // Pinned here and not moved: futures of calls take kilobytes.
            let work = pin!(async {
                match self.identity.user() {
                    // Somebody's rights have changed under the request, which was not carried out. Who is known by a
                    // certificate has no other token to get.
                    None => {
                        let mut repeats = 0;
                        loop {
                            match self.attempts(retry, &mut send, &mut progress).await {
                                Err(Error::Rpc(RpcError::AuthOldRevision))
                                    if repeats < REPEATS_MAX =>
                                {
                                    repeats += 1;
                                }
                                answered => break answered,
                            }
                        }
                    }
                    // Boxed, so that calls of nobody in particular do not carry the room for a login around.
                    Some(user) => {
                        Box::pin(self.attempts_as(user, retry, &mut send, &mut progress)).await
                    }
                }
            });
            within(self.timeout, work).await
        };
        match answered {
            None => Err(progress.time_is_over()),
            Some(result) => result,
        }
    }

    /// Makes attempts as a user, with another token when the cluster wants one.
    async fn attempts_as<'a, Resp, Bad, Attempt>(
        &'a self,
        user: &User,
        retry: Retry,
        send: &mut impl FnMut(Channel) -> Attempt,
        progress: &mut Progress<'a>,
    ) -> Result<Resp, Error>
    where
        Bad: Into<Failure>,
        Attempt: Future<Output = Result<Response<Resp>, Bad>>,
    {
        if user.logins() == 0 {
            self.log_in(user, 0, progress).await?;
        }
        let mut logins = 0;
        loop {
            let seen = user.logins();
            match self.attempts(retry, send, progress).await {
                Err(error) if is_about_token(&error) && logins < LOGINS_MAX => {
                    logins += 1;
                    self.log_in(user, seen, progress).await?;
                }
                answered => return answered,
            }
        }
    }

    /// Gets another token, unless somebody has done so since there were `seen` logins.
    async fn log_in<'a>(
        &'a self,
        user: &User,
        seen: u64,
        progress: &mut Progress<'a>,
    ) -> Result<(), Error> {
        let _turn = user.turn.lock().await;
        if user.logins() != seen {
            return Ok(());
        }
        let Credentials { name, password } = user.credentials.clone();
        let message = AuthenticateRequest { name, password };
        let frame = unary::frame(&message, self.checked_size(&message)?);
        let size_max = self.response_bytes_max;
        let mut send = |channel: Channel| {
            let path = "/etcdserverpb.Auth/Authenticate";
            let request = unary::request(path, headers_of_nobody(), frame.clone());
            async move { unary::send(&channel, request, size_max).await.map(Response::new) }
        };
        let reply: Result<AuthenticateResponse, Error> =
            self.attempts(Retry::Repeatable, &mut send, progress).await;
        match reply {
            Ok(reply) => user.logged_in(Some(&reply.token)),
            Err(Error::Rpc(RpcError::AuthNotEnabled)) => user.logged_in(None),
            Err(error) => Err(error),
        }
    }

    /// Whether tokens are got by logging in, so that there can be another one.
    pub(crate) fn is_user(&self) -> bool {
        self.identity.user().is_some()
    }

    /// Gets a new token for a stream that is about to be opened, as etcd's client does: servers check it only then.
    pub(crate) async fn renew_token(&self) -> Result<(), Error> {
        let Some(user) = self.identity.user() else {
            return Ok(());
        };
        let mut progress = Progress::default();
        let login = within(self.timeout, self.log_in(user, user.logins(), &mut progress)).await;
        login.unwrap_or_else(|| Err(progress.time_is_over()))
    }

    async fn attempts<'a, Resp, Bad, Attempt>(
        &'a self,
        retry: Retry,
        send: &mut impl FnMut(Channel) -> Attempt,
        progress: &mut Progress<'a>,
    ) -> Result<Resp, Error>
    where
        Bad: Into<Failure>,
        Attempt: Future<Output = Result<Response<Resp>, Bad>>,
    {
        let (mut refused, mut answers) = (0, 0);
        loop {
            let connection = self.balancer.pick();
            progress.asked = Some(connection);
            let answered = send(connection.channel()).await;
            progress.asked = None;
            let failure = match answered {
                Ok(response) => {
                    connection.mark(true);
                    return Ok(response.into_inner());
                }
                Err(bad) => bad.into(),
            };
            connection.mark(failure.is_fault_of_request());
            match failure {
                Failure::Unconnected(_) => {
                    refused += 1;
                    progress.last_attempt = Some(failure.to_string());
                    if refused % self.balancer.len() == 0 {
                        tokio::time::sleep(UNCONNECTED_BACKOFF).await;
                    }
                }
                Failure::Unsent(_) => {
                    progress.last_attempt = Some(failure.to_string());
                    tokio::time::sleep(jittered(BACKOFF)).await;
                }
                failure => {
                    let is_repeatable = retry == Retry::Repeatable && is_unavailable(&failure);
                    if !is_repeatable || answers == ANSWERS_MAX {
                        return Err(failure.into());
                    }
                    answers += 1;
                    tokio::time::sleep(jittered(BACKOFF)).await;
                }
            }
        }
    }

    /// Wraps what goes into a stream. There is no deadline: streams outlive the call that opens them.
    pub(crate) fn stream_request<T>(&self, messages: T) -> Request<T> {
        with_headers(messages, self.headers(None))
    }

    /// What every request says besides its message.
    fn headers(&self, timeout: Option<Duration>) -> HeaderMap {
        let mut headers = headers_of_nobody();
        if self.needs_leader {
            headers.insert("hasleader", HeaderValue::from_static("true"));
        }
        if let Some(token) = self.identity.token() {
            headers.insert("token", token);
        }
        if let Some(timeout) = timeout {
            headers.insert("grpc-timeout", unary::timeout(timeout));
        }
        headers
    }

    /// The size of a request that is not too large.
    fn checked_size(&self, request: &impl Message) -> Result<usize, Error> {
        let (size, max) = (request.encoded_len(), self.request_bytes_max);
        if size <= max {
            return Ok(size);
        }
        let text = format!("trying to send message larger than max ({size} vs. {max})");
        Err(Error::Rpc(RpcError::other(Code::ResourceExhausted, text)))
    }
}

/// How far a call has come, for those who have to explain why it did not come further.
#[derive(Default)]
struct Progress<'a> {
    /// Why the attempts so far have failed.
    last_attempt: Option<String>,
    /// Who has been asked and has not answered yet.
    asked: Option<&'a Connection>,
}

impl Progress<'_> {
    /// The error of a call whose time is over. An endpoint that has not answered by now is not worth trying next.
    fn time_is_over(self) -> Error {
        if let Some(connection) = self.asked {
            connection.mark(false);
        }
        Error::DeadlineExceeded { last_attempt: self.last_attempt }
    }
}

fn is_unavailable(failure: &Failure) -> bool {
    match failure {
        Failure::Lost(_) => true,
        Failure::Answered(error) => error.code() == Code::Unavailable,
        Failure::Unconnected(_) | Failure::Unsent(_) => false,
    }
}

/// What requests say that need no knowledge of the client.
fn headers_of_nobody() -> HeaderMap {
    // Room for those of the transport, too.
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert("client-api-version", HeaderValue::from_static(retcd_api::API_VERSION));
    headers
}

fn with_headers<T>(message: T, headers: HeaderMap) -> Request<T> {
    Request::from_parts(MetadataMap::from_headers(headers), Extensions::new(), message)
}

/// Waits for `work`, or until `timeout` is over: then `None`.
pub(crate) async fn within<T>(
    timeout: Option<Duration>,
    work: impl Future<Output = T>,
) -> Option<T> {
    match timeout {
        Some(timeout) => tokio::time::timeout_at(Instant::now() + timeout, work).await.ok(),
        None => Some(work.await),
    }
}

fn or_default(value: usize, default: usize) -> usize {
    if value == 0 { default } else { value }
}

/// `pause` plus or minus up to a tenth. Each `RandomState` hashes differently, which is randomness enough here.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let percent = 90 + RandomState::new().build_hasher().finish() % 21;
    pause * u32::try_from(percent).expect("a percentage is small") / 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use retcd_api::etcdserverpb::PutRequest;

    #[test]
    fn jitter_stays_within_a_tenth() {
        for _ in 0..200 {
            let pause = jittered(BACKOFF);
            assert!(pause >= BACKOFF * 9 / 10 && pause <= BACKOFF * 11 / 10, "{pause:?}");
        }
    }

    #[tokio::test]
    async fn requests_carry_version_token_leader_demand_and_deadline() {
        let config = Config { token: Some("secret.1".to_owned()), ..Config::default() };
        let client = Client::new(&config).unwrap();
        let plain = client.headers(None);
        assert_eq!(plain["client-api-version"], "3.7");
        assert_eq!(plain["token"], "secret.1");
        assert!(!plain.contains_key("hasleader") && !plain.contains_key("grpc-timeout"));
        let leader = client.needing_leader().headers(Some(Duration::from_secs(5)));
        assert_eq!(leader["hasleader"], "true");
        assert_eq!(leader["grpc-timeout"], "5000000u");
    }

    #[tokio::test]
    async fn a_call_is_repeated_when_rights_have_changed_meanwhile() {
        let client = Client::new(&Config::default()).unwrap();
        let calls_until = async |changes: usize| {
            let mut calls = 0;
            let result = client
                .attempt(Retry::Once, |_| {
                    calls += 1;
                    let old = Status::invalid_argument(RpcError::AuthOldRevision.message());
                    let answer = if calls > changes { Ok(Response::new(())) } else { Err(old) };
                    std::future::ready(answer)
                })
                .await;
            (calls, result)
        };
        let (calls, result) = calls_until(3).await;
        assert!(calls == 4 && result.is_ok(), "{calls}, {result:?}");
        let (calls, result) = calls_until(usize::MAX).await;
        assert_eq!(calls, 1 + REPEATS_MAX);
        assert!(matches!(result, Err(Error::Rpc(RpcError::AuthOldRevision))), "{result:?}");
    }

    #[tokio::test]
    async fn large_requests_never_leave() {
        let client = Client::new(&Config { request_bytes_max: 10, ..Config::default() }).unwrap();
        let put = PutRequest { value: vec![b'x'; 100].into(), ..Default::default() };
        let error = client.put(put).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max (102 vs. 10)"
        );
    }

    #[tokio::test]
    async fn a_dead_endpoint_ends_in_the_deadline_and_says_why() {
        let config = Config { endpoints: vec!["127.0.0.1:1".to_owned()], ..Config::default() };
        let client = Client::new(&config).unwrap().with_timeout(Duration::from_millis(100));
        let Err(Error::DeadlineExceeded { last_attempt: Some(text) }) =
            client.put(PutRequest::default()).await
        else {
            panic!("nobody listens on port 1");
        };
        assert!(text.contains("onnection refused"), "{text}");
    }
}
