//! A tonic channel that follows the endpoints of a service.
//!
//! A background task watches the endpoints and tells tonic's balancer, which picks one at random for each call. So a
//! change arrives within a watch round trip; calls that are under way on a removed endpoint are finished. Without
//! any endpoint calls wait for one. An endpoint that is down but still registered fails its share of the calls,
//! which is what a short lease is for.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint as Destination};

use super::{Endpoint, EndpointWatch, Endpoints, Error, Update};
use crate::Client;

/// Changes that may wait for the balancer; more make the watch wait, which loses nothing.
const CHANGES_MAX: usize = 16;
/// Pause after an error that ended the watch, such as a permission that was taken away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A channel to all endpoints of a service. The endpoints are followed until this is dropped.
#[derive(Debug)]
pub struct BalancedChannel {
    channel: Channel,
    endpoints: watch::Receiver<BTreeMap<String, Endpoint>>,
    following: JoinHandle<()>,
}

/// Connects to the service `etcd:///<name>`; a bare name will do as well.
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
    resolve_with(client, target, |endpoint| destination(&endpoint.addr)).await
}

/// As [`resolve`], where `connect` says how an endpoint is to be reached: by TLS, with time limits, or not at all
/// (`None`), because its metadata speaks against it.
pub async fn resolve_with(
    client: &Client,
    target: &str,
    connect: impl FnMut(&Endpoint) -> Option<Destination> + Send + 'static,
) -> Result<BalancedChannel, Error> {
    let updates = Endpoints::new(client, service_name(target))?.watch().await?;
    let (channel, changes) = Channel::balance_channel(CHANGES_MAX);
    let (known, endpoints) = watch::channel(BTreeMap::new());
    let follower = Follower { updates, connect, changes, known };
    let following = tokio::spawn(follower.run());
    Ok(BalancedChannel { channel, endpoints, following })
}

impl BalancedChannel {
    /// A channel for a client stub. Clones share the connections; it knows no further changes once this is dropped.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The endpoints that the channel uses, by key. Tells of changes, too.
    pub fn endpoints(&self) -> watch::Receiver<BTreeMap<String, Endpoint>> {
        self.endpoints.clone()
    }
}

impl Drop for BalancedChannel {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// Carries updates from the watch to the balancer.
struct Follower<F> {
    updates: EndpointWatch,
    connect: F,
    changes: mpsc::Sender<Change<String, Destination>>,
    known: watch::Sender<BTreeMap<String, Endpoint>>,
}

impl<F: FnMut(&Endpoint) -> Option<Destination>> Follower<F> {
    async fn run(mut self) {
        loop {
            match self.updates.next().await {
                Ok(updates) => {
                    for update in updates {
                        self.follow(update).await;
                    }
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn follow(&mut self, update: Update) {
        let reachable = match update {
            Update::Add { key, endpoint, .. } => {
                let destination = (self.connect)(&endpoint);
                (key, destination.map(|destination| (endpoint, destination)))
            }
            Update::Delete { key } => (key, None),
        };
        // Sending fails only when no channel is left; then nobody cares.
        match reachable {
            (key, Some((endpoint, destination))) => {
                let _ = self.changes.send(Change::Insert(key.clone(), destination)).await;
                self.known.send_modify(|known| {
                    known.insert(key, endpoint);
                });
            }
            (key, None) => {
                let _ = self.changes.send(Change::Remove(key.clone())).await;
                self.known.send_if_modified(|known| known.remove(&key).is_some());
            }
        }
    }
}

/// The service in `etcd:///service`, as Go's resolver reads it.
fn service_name(target: &str) -> &str {
    let path = target.strip_prefix("etcd:").unwrap_or(target);
    path.trim_start_matches('/')
}

/// `None` for an address that is none.
fn destination(addr: &str) -> Option<Destination> {
    let has_scheme = addr.contains("://") || addr.starts_with("unix:");
    let uri = if has_scheme { addr.to_owned() } else { format!("http://{addr}") };
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
        assert!(destination("not an address").is_none());
    }
}
