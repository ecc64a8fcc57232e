//! Which endpoint gets the next request.
//!
//! Each endpoint has a channel that connects on first use and reconnects by itself. Requests go round robin over
//! the endpoints that were not found dead in the last [`DEAD_TIME`]; when all were, the one that failed longest ago
//! is tried. So a cluster with a dead member costs one failed dial a second, not one per request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};

use crate::{Config, Error};

/// How long an endpoint that refused a connection is avoided; the first back-off step of gRPC.
const DEAD_TIME: Duration = Duration::from_secs(1);

/// gRPC servers end connections that ping more often ("too many pings"), so clients never go below this.
const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(10);

/// The connections of one client.
#[derive(Debug)]
pub(crate) struct Balancer {
    connections: Vec<Connection>,
    turn: AtomicUsize,
}

/// One endpoint and its channel.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    /// When the last dial failed; `None` after a success. Guards nothing else and is never held across a call.
    failed_at: Mutex<Option<Instant>>,
}

impl Balancer {
    /// Prepares the channels. Nothing is dialled yet; must run inside a tokio runtime.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        if config.endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let connections = config
            .endpoints
            .iter()
            .map(|text| Connection::new(text, config))
            .collect::<Result<_, _>>()?;
        Ok(Balancer { connections, turn: AtomicUsize::new(0) })
    }

    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// The endpoint whose turn it is.
    pub(crate) fn pick(&self) -> &Connection {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn =
            (0..self.len()).map(|step| &self.connections[first.wrapping_add(step) % self.len()]);
        let now = Instant::now();
        in_turn
            .min_by_key(|connection| connection.rank(now))
            .expect("there is at least one endpoint")
    }
}

impl Connection {
    fn new(text: &str, config: &Config) -> Result<Self, Error> {
        let endpoint = endpoint(text)?
            .connect_timeout(config.dial_timeout)
            .http2_keep_alive_interval(config.keepalive_time.max(KEEPALIVE_TIME_MIN))
            .keep_alive_timeout(config.keepalive_timeout);
        Ok(Connection { channel: endpoint.connect_lazy(), failed_at: Mutex::new(None) })
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Notes whether the endpoint could be reached.
    pub(crate) fn mark(&self, reached: bool) {
        let failed_at = if reached { None } else { Some(Instant::now()) };
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = failed_at;
    }

    /// Orders connections: usable ones first (and equal), then the dead ones by the time of their failure.
    fn rank(&self, now: Instant) -> Option<Instant> {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.filter(|at| now.duration_since(*at) < DEAD_TIME)
    }
}

/// Reads `host:port`, `http://host:port` or `unix:path`.
fn endpoint(text: &str) -> Result<Endpoint, Error> {
    let text = text.trim();
    if text.starts_with("https://") || text.starts_with("unixs:") {
        return Err(Error::BadEndpoint(format!(
            "endpoint {text:?}: TLS is not supported by this build yet"
        )));
    }
    let has_scheme = text.contains("://") || text.starts_with("unix:");
    let uri = if has_scheme { text.to_owned() } else { format!("http://{text}") };
    let known = uri.starts_with("http://") || uri.starts_with("unix:");
    match Endpoint::from_shared(uri) {
        Ok(endpoint) if known && !text.is_empty() => Ok(endpoint),
        _ => Err(Error::BadEndpoint(format!("endpoint {text:?} is not an address"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(endpoints: &[&str]) -> Balancer {
        let endpoints = endpoints.iter().map(ToString::to_string).collect();
        Balancer::new(&Config { endpoints, ..Config::default() }).unwrap()
    }

    fn position(balancer: &Balancer, connection: &Connection) -> usize {
        balancer.connections.iter().position(|other| std::ptr::eq(other, connection)).unwrap()
    }

    #[tokio::test]
    async fn requests_go_round_robin() {
        let balancer = balancer(&["127.0.0.1:1", "http://127.0.0.1:2", "localhost:3"]);
        let picked: Vec<usize> = (0..4).map(|_| position(&balancer, balancer.pick())).collect();
        assert_eq!(picked, [0, 1, 2, 0]);
    }

    #[tokio::test]
    async fn dead_endpoints_are_avoided_until_all_are_dead() {
        let balancer = balancer(&["127.0.0.1:1", "127.0.0.1:2"]);
        balancer.connections[0].mark(false);
        for _ in 0..4 {
            assert_eq!(position(&balancer, balancer.pick()), 1);
        }
        balancer.connections[1].mark(false);
        for _ in 0..4 {
            assert_eq!(
                position(&balancer, balancer.pick()),
                0,
                "the one that failed first comes first"
            );
        }
        balancer.connections[1].mark(true);
        assert_eq!(position(&balancer, balancer.pick()), 1);
    }

    #[test]
    fn endpoints_need_an_address() {
        for bad in ["", "ftp://127.0.0.1:1", "http://[::1", "https://127.0.0.1:1"] {
            assert!(endpoint(bad).is_err(), "{bad:?} must be refused");
        }
        for good in [
            "127.0.0.1:2379",
            "localhost:2379",
            "http://[::1]:2379",
            " 127.0.0.1:2379",
            "unix:///run/etcd.sock",
        ] {
            assert!(endpoint(good).is_ok(), "{good:?} must be accepted");
        }
    }
}
