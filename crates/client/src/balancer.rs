//! Which endpoint gets the next request.
//!
//! Requests go round robin over the endpoints that have not just failed; when all have, the one that failed longest ago
//! is tried.
//!
//! An endpoint fails by refusing the connection, by losing a request, by answering that it is of no use (no leader,
//! stopping), or by not answering in time. It is avoided for [`AVOIDED_MIN`], and for twice as long after each further
//! failure, so a dead member costs one failed attempt now and then, not one per request.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::channel::Channel;
use crate::dial::{Address, Dialer};
use crate::{Config, Error, Tls};

/// How long an endpoint is avoided after it has failed once; the first back-off step of gRPC.
const AVOIDED_MIN: Duration = Duration::from_secs(1);
/// How long it is avoided at most.
const AVOIDED_MAX: Duration = Duration::from_secs(32);

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
    /// Whether there are failures to look at. Calls that succeed on endpoints that have not failed take no lock.
    has_failed: AtomicBool,
    /// Guards nothing else and is never held across a call.
    failures: Mutex<Failures>,
}

/// How an endpoint has failed since its last success.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    last: Option<Instant>,
}

impl Balancer {
    /// Prepares the channels. Nothing is dialled yet.
    pub(crate) fn new(config: &Config, tls: Option<&Arc<Tls>>) -> Result<Self, Error> {
        if config.endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let connections = config
            .endpoints
            .iter()
            .map(|text| Connection::new(text, config, tls))
            .collect::<Result<_, _>>()?;
        Ok(Balancer { connections, turn: AtomicUsize::new(0) })
    }

    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// The endpoint whose turn it is.
    pub(crate) fn pick(&self) -> &Connection {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let connection = &self.connections[first % self.len()];
        if !connection.has_failed.load(Ordering::Relaxed) {
            return connection;
        }
        let mut in_turn =
            (0..self.len()).map(|step| &self.connections[first.wrapping_add(step) % self.len()]);
        let now = Instant::now();
        in_turn.clone().find(|connection| connection.avoided(now).is_none()).unwrap_or_else(|| {
            let oldest = in_turn.by_ref().min_by_key(|connection| connection.avoided(now));
            oldest.expect("there is at least one endpoint")
        })
    }
}

impl Connection {
    fn new(text: &str, config: &Config, tls: Option<&Arc<Tls>>) -> Result<Self, Error> {
        let dialer = Dialer::new(Address::parse(text)?, tls, config.dial_timeout)?;
        let ping_interval = config.keepalive_time.max(KEEPALIVE_TIME_MIN);
        let channel = Channel::new(dialer, ping_interval, config.keepalive_timeout);
        Ok(Connection { channel, has_failed: AtomicBool::new(false), failures: Mutex::default() })
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Notes whether the endpoint was of use.
    pub(crate) fn mark(&self, is_useful: bool) {
        if is_useful && !self.has_failed.load(Ordering::Relaxed) {
            return;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if is_useful {
            *failures = Failures::default();
        } else {
            failures.count += 1;
            failures.last = Some(Instant::now());
        }
        self.has_failed.store(!is_useful, Ordering::Relaxed);
    }

    /// When the endpoint failed, if that is a reason to avoid it now.
    fn avoided(&self, now: Instant) -> Option<Instant> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let doublings = failures.count.saturating_sub(1).min(5);
        let avoided = (AVOIDED_MIN * (1 << doublings)).min(AVOIDED_MAX);
        failures.last.filter(|at| now.duration_since(*at) < avoided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(endpoints: &[&str]) -> Balancer {
        let endpoints = endpoints.iter().map(ToString::to_string).collect();
        Balancer::new(&Config { endpoints, ..Config::default() }, None).unwrap()
    }

    fn position(balancer: &Balancer, connection: &Connection) -> usize {
        balancer.connections.iter().position(|other| std::ptr::eq(other, connection)).unwrap()
    }

    #[test]
    fn requests_go_round_robin() {
        let balancer = balancer(&["127.0.0.1:1", "http://127.0.0.1:2", "localhost:3"]);
        let picked: Vec<usize> = (0..4).map(|_| position(&balancer, balancer.pick())).collect();
        assert_eq!(picked, [0, 1, 2, 0]);
    }

    #[test]
    fn failed_endpoints_are_avoided_until_all_have_failed() {
        let balancer = balancer(&["127.0.0.1:1", "127.0.0.1:2"]);
        // Six failures in a row, so that the time of avoidance is long even for a slow machine.
        let fail =
            |position: usize| (0..6).for_each(|_| balancer.connections[position].mark(false));
        fail(0);
        for _ in 0..4 {
            assert_eq!(position(&balancer, balancer.pick()), 1);
        }
        fail(1);
        for _ in 0..4 {
            let picked = position(&balancer, balancer.pick());
            assert_eq!(picked, 0, "the one that failed first comes first");
        }
        balancer.connections[1].mark(true);
        assert_eq!(position(&balancer, balancer.pick()), 1);
    }

    #[test]
    fn avoidance_grows_with_each_failure_up_to_a_limit() {
        let balancer = balancer(&["127.0.0.1:1"]);
        let connection = &balancer.connections[0];
        connection.mark(false);
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(connection.avoided(after(2)), None);
        connection.mark(false);
        connection.mark(false);
        assert!(connection.avoided(after(2)).is_some());
        (0..100).for_each(|_| connection.mark(false));
        assert_eq!(connection.avoided(after(33)), None);
    }
}
