//! A channel that follows the endpoints of a service.
//!
//! A background task watches the endpoints and tells the pool of connections, so a change arrives within a watch round
//! trip; calls that are under way on a removed endpoint are finished. Without any endpoint calls wait for one. With
//! endpoints that cannot be reached, all of them, calls fail with `Unavailable`.
//!
//! While the cluster is away the last known endpoints stay. What has changed meanwhile is learnt when it is back.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Endpoint as Destination;
use tower_service::Service;

use super::pool::{Picker, Pool, Target};
use super::{Endpoint, EndpointWatch, Endpoints, Error, Update};
use crate::dial::{Address, Dialer};
use crate::{Client, Tls};

/// Pause after an error that ended the watch, such as a permission that was taken away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long one attempt to connect may take, unless told otherwise.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Which endpoint gets the next call; gRPC's names for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Each in turn, of those that are connected.
    #[default]
    RoundRobin,
    /// The first that can be reached, in the order of the keys, until its connection is lost or it is removed.
    PickFirst,
}

/// Says how an endpoint is to be reached, if at all.
type Connect = Box<dyn FnMut(&Endpoint) -> Option<Destination> + Send>;

/// Finds a service by name; made by [`Resolver::new`].
///
/// ```no_run
/// # async fn example(client: retcd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use retcd_client::Tls;
/// use retcd_client::naming::{Policy, Resolver};
///
/// let service = Resolver::new(&client, "etcd:///my-service")
///     .policy(Policy::PickFirst)
///     .tls(Tls::new().ca_file("ca.crt"))
///     .only(|endpoint| endpoint.metadata["zone"] == "a")
///     .resolve()
///     .await?;
/// # let _ = service;
/// # Ok(())
/// # }
/// ```
#[must_use = "a resolver does nothing until it resolves"]
pub struct Resolver {
    client: Client,
    service: String,
    policy: Policy,
    tls: Option<std::sync::Arc<Tls>>,
    connect: Connect,
}

/// A channel to the endpoints of a service. They are followed until this is dropped.
#[derive(Debug)]
pub struct BalancedChannel {
    channel: ServiceChannel,
    endpoints: watch::Receiver<BTreeMap<String, Endpoint>>,
    following: JoinHandle<()>,
}

/// What client stubs are made from. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct ServiceChannel {
    picker: Picker,
}

/// Connects to the service `etcd:///<name>`, round robin; a bare name will do as well.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use retcd_api::etcdserverpb::{StatusRequest, maintenance_client::MaintenanceClient};
/// use retcd_client::naming::resolve;
/// use retcd_client::{Client, Config};
///
/// let client = Client::new(&Config::default())?;
/// let service = resolve(&client, "etcd:///my-service").await?;
/// let mut stub = MaintenanceClient::new(service.channel());
/// stub.status(StatusRequest {}).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of the first look. Later ones are survived with the endpoints known by then.
pub async fn resolve(client: &Client, target: &str) -> Result<BalancedChannel, Error> {
    Resolver::new(client, target).resolve().await
}

/// As [`resolve`], where `connect` says how an endpoint is to be reached: at another address, with time limits, or not
/// at all (`None`), because its metadata speaks against it.
pub async fn resolve_with(
    client: &Client,
    target: &str,
    connect: impl FnMut(&Endpoint) -> Option<Destination> + Send + 'static,
) -> Result<BalancedChannel, Error> {
    let connect = Box::new(connect);
    Resolver { connect, ..Resolver::new(client, target) }.resolve().await
}

impl Resolver {
    /// Begins to resolve `etcd:///<name>`, or a bare name.
    pub fn new(client: &Client, target: &str) -> Self {
        Resolver {
            client: client.clone(),
            service: service_name(target).to_owned(),
            policy: Policy::default(),
            tls: None,
            connect: Box::new(|endpoint| destination(&endpoint.addr)),
        }
    }

    /// Which endpoint gets the next call.
    pub fn policy(self, policy: Policy) -> Self {
        Resolver { policy, ..self }
    }

    /// Encrypts the connections to the endpoints whose address does not say `http://`.
    pub fn tls(self, tls: Tls) -> Self {
        Resolver { tls: Some(std::sync::Arc::new(tls)), ..self }
    }

    /// Uses only some of the endpoints.
    pub fn only(mut self, mut is_wanted: impl FnMut(&Endpoint) -> bool + Send + 'static) -> Self {
        let mut connect = self.connect;
        self.connect =
            Box::new(move |endpoint| if is_wanted(endpoint) { connect(endpoint) } else { None });
        self
    }

    /// Looks the service up and begins to follow it.
    ///
    /// # Errors
    /// Those of the first look. Later ones are survived with the endpoints known by then.
    pub async fn resolve(self) -> Result<BalancedChannel, Error> {
        let updates = Endpoints::new(&self.client, &self.service)?.watch().await?;
        let pool = Pool::start(self.policy);
        let channel = ServiceChannel { picker: pool.picker() };
        let (known, endpoints) = watch::channel(BTreeMap::new());
        let (connect, tls) = (self.connect, self.tls);
        let follower = Follower { updates, connect, tls, pool, known };
        let following = tokio::spawn(follower.run());
        Ok(BalancedChannel { channel, endpoints, following })
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Resolver")
            .field("service", &self.service)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl BalancedChannel {
    /// A channel for a client stub. It learns of no further changes once this is dropped.
    pub fn channel(&self) -> ServiceChannel {
        self.channel.clone()
    }

    /// The endpoints that are used, by key. Tells of changes, too.
    pub fn endpoints(&self) -> watch::Receiver<BTreeMap<String, Endpoint>> {
        self.endpoints.clone()
    }
}

impl Drop for BalancedChannel {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// Calls may be made before there is anybody to answer: they wait.
impl Service<http::Request<Body>> for ServiceChannel {
    type Response = http::Response<Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut picker = self.picker.clone();
        Box::pin(async move {
            let mut channel = picker.pick().await.map_err(Status::unavailable)?;
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            Ok(channel.call(request).await?)
        })
    }
}

/// Carries updates from the watch to the pool.
struct Follower {
    updates: EndpointWatch,
    connect: Connect,
    tls: Option<std::sync::Arc<Tls>>,
    pool: Pool,
    known: watch::Sender<BTreeMap<String, Endpoint>>,
}

impl Follower {
    async fn run(mut self) {
        loop {
            match self.updates.next().await {
                Ok(updates) => updates.into_iter().for_each(|update| self.follow(update)),
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    fn follow(&mut self, update: Update) {
        let (key, endpoint) = match update {
            Update::Add { key, endpoint, .. } => (key, Some(endpoint)),
            Update::Delete { key } => (key, None),
        };
        let target = endpoint.as_ref().and_then(|endpoint| self.target(endpoint));
        if let (Some(endpoint), Some(target)) = (endpoint, target) {
            self.pool.insert(key.clone(), target);
            self.known.send_modify(|known| {
                known.insert(key, endpoint);
            });
        } else {
            self.pool.remove(&key);
            self.known.send_if_modified(|known| known.remove(&key).is_some());
        }
    }

    /// How to reach an endpoint; `None` for one that is not wanted, or whose address is none.
    fn target(&mut self, endpoint: &Endpoint) -> Option<Target> {
        let destination = (self.connect)(endpoint)?;
        // Where to connect is what `connect` has said, unless that is no socket of TCP.
        let uri = destination.uri();
        let address = if endpoint.addr.starts_with("unix") {
            Address::parse(&endpoint.addr)
        } else if endpoint.addr.contains("://") {
            Address::parse(&format!("{}://{}", uri.scheme_str()?, uri.authority()?))
        } else {
            Address::parse(uri.authority()?.as_str())
        };
        let timeout = destination.get_connect_timeout().unwrap_or(DIAL_TIMEOUT);
        let dialer = Dialer::new(address.ok()?, self.tls.as_ref(), timeout).ok()?;
        let destination = destination.origin(dialer.origin());
        Some(Target { dialer, destination })
    }
}

/// The service in `etcd:///service`, as Go's resolver reads it.
fn service_name(target: &str) -> &str {
    let path = target.strip_prefix("etcd:").unwrap_or(target);
    path.trim_start_matches('/')
}

/// `None` for an address that is none.
fn destination(addr: &str) -> Option<Destination> {
    let uri = if addr.starts_with("unix") {
        "http://localhost".to_owned()
    } else if addr.contains("://") {
        addr.to_owned()
    } else {
        format!("http://{addr}")
    };
    Destination::from_shared(uri).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_services() {
        for target in ["etcd:///my/service", "etcd:my/service", "my/service"] {
            assert_eq!(service_name(target), "my/service");
        }
        assert_eq!(service_name("etcd:///"), "");
    }

    #[test]
    fn addresses_need_no_scheme() {
        assert_eq!(destination("1.2.3.4:80").unwrap().uri(), "http://1.2.3.4:80/");
        assert_eq!(destination("https://host:443").unwrap().uri(), "https://host:443/");
        assert!(destination("unix:/run/service.sock").is_some());
        assert!(destination("not an address").is_none());
    }
}
