//! The client: configuration, and the one way that every call takes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use retcd_api::error::{Code, RpcError};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::Error;
use crate::channel::Balancer;
use crate::error::Failure;

/// How to reach a cluster. The defaults are those of etcdctl.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port`, `http://host:port` or `unix:path`.
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
const BACKOFF: Duration = Duration::from_millis(25);
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

/// A connection to a cluster. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    balancer: Arc<Balancer>,
    token: Option<MetadataValue<Ascii>>,
    pub(crate) timeout: Option<Duration>,
    needs_leader: bool,
    request_bytes_max: usize,
    pub(crate) response_bytes_max: usize,
}

impl Client {
    /// Makes a client. Connections are made by the first calls; must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::NoEndpoints`], [`Error::BadEndpoint`], or `InvalidAuthToken` for a token that no header can carry.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let token = config.token.as_deref().map(MetadataValue::try_from).transpose();
        Ok(Client {
            balancer: Arc::new(Balancer::new(config)?),
            token: token.map_err(|_| Error::Rpc(RpcError::InvalidAuthToken))?,
            timeout: None,
            needs_leader: false,
            request_bytes_max: or_default(config.request_bytes_max, REQUEST_BYTES_MAX),
            response_bytes_max: or_default(config.response_bytes_max, RESPONSE_BYTES_MAX),
        })
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
        let token =
            MetadataValue::try_from(token).map_err(|_| Error::Rpc(RpcError::InvalidAuthToken))?;
        Ok(Client { token: Some(token), ..self.clone() })
    }

    /// The same client, whose calls take as long as they take.
    #[must_use]
    pub fn without_timeout(&self) -> Self {
        Client { timeout: None, ..self.clone() }
    }

    /// The same client, whose requests are refused by members that know no leader.
    #[must_use]
    pub fn needing_leader(&self) -> Self {
        Client { needs_leader: true, ..self.clone() }
    }

    /// Sends `request` until there is an answer, or none can be expected. `send` makes one attempt.
    pub(crate) async fn call<Req, Resp, Attempt>(
        &self,
        retry: Retry,
        request: Req,
        send: impl Fn(Channel, Request<Req>) -> Attempt,
    ) -> Result<Resp, Error>
    where
        Req: Message + Clone,
        Attempt: Future<Output = Result<Response<Resp>, Status>>,
    {
        self.check_size(&request)?;
        self.attempt(retry, |channel| send(channel, self.request(request.clone()))).await
    }

    /// Makes attempts until one succeeds, the retry rule says stop, or the time is over.
    pub(crate) async fn attempt<Resp, Attempt>(
        &self,
        retry: Retry,
        mut send: impl FnMut(Channel) -> Attempt,
    ) -> Result<Resp, Error>
    where
        Attempt: Future<Output = Result<Response<Resp>, Status>>,
    {
        let mut last_attempt = None;
        let attempts = async {
            let (mut refused, mut answers) = (0, 0);
            loop {
                let connection = self.balancer.pick();
                let failure = match send(connection.channel()).await {
                    Ok(response) => {
                        connection.mark(true);
                        return Ok(response.into_inner());
                    }
                    Err(status) => Failure::from(status),
                };
                connection.mark(!matches!(failure, Failure::Unconnected(_)));
                if let Failure::Unconnected(text) = failure {
                    refused += 1;
                    last_attempt = Some(text);
                    if refused % self.balancer.len() == 0 {
                        tokio::time::sleep(UNCONNECTED_BACKOFF).await;
                    }
                } else if retry == Retry::Repeatable
                    && is_unavailable(&failure)
                    && answers < ANSWERS_MAX
                {
                    answers += 1;
                    tokio::time::sleep(jittered(BACKOFF)).await;
                } else {
                    return Err(failure.into());
                }
            }
        };
        match within(self.timeout, attempts).await {
            Some(Err(Error::DeadlineExceeded { .. })) | None => {
                Err(Error::DeadlineExceeded { last_attempt })
            }
            Some(result) => result,
        }
    }

    /// Wraps a message with the metadata that every request carries.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.stream_request(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }

    /// As [`Self::request`], without the deadline: streams outlive the call that opens them.
    pub(crate) fn stream_request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("client-api-version", MetadataValue::from_static(retcd_api::API_VERSION));
        if self.needs_leader {
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        if let Some(token) = &self.token {
            metadata.insert("token", token.clone());
        }
        request
    }

    fn check_size(&self, request: &impl Message) -> Result<(), Error> {
        let (size, max) = (request.encoded_len(), self.request_bytes_max);
        if size <= max {
            return Ok(());
        }
        let text = format!("trying to send message larger than max ({size} vs. {max})");
        Err(Error::Rpc(RpcError::other(Code::ResourceExhausted, text)))
    }
}

fn is_unavailable(failure: &Failure) -> bool {
    match failure {
        Failure::Lost(_) => true,
        Failure::Answered(error) => error.code() == Code::Unavailable,
        Failure::Unconnected(_) | Failure::TimedOut => false,
    }
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
fn jittered(pause: Duration) -> Duration {
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
    async fn requests_carry_version_token_and_leader_demand() {
        let config = Config { token: Some("secret.1".to_owned()), ..Config::default() };
        let client = Client::new(&config).unwrap();
        let plain = client.request(());
        assert_eq!(plain.metadata().get("client-api-version").unwrap(), "3.7");
        assert_eq!(plain.metadata().get("token").unwrap(), "secret.1");
        assert!(plain.metadata().get("hasleader").is_none());
        assert_eq!(
            client.needing_leader().request(()).metadata().get("hasleader").unwrap(),
            "true"
        );
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
