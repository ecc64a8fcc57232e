//! How the members are, and how fast their counters grow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use retcd_api::etcdserverpb::StatusResponse;
use retcd_client::{Client, Error};
use tokio::task::JoinSet;

use crate::http;
use crate::session::Session;
use retcd_command_line::Failure;

/// A member that does not answer within this time is shown as such; the frame should not wait for it.
const TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// The endpoints, with what they said last.
pub(super) struct Members {
    asked: Vec<(String, Client)>,
    timeout: Duration,
    /// Names by id.
    pub(super) names: BTreeMap<u64, String>,
    /// In the order of the endpoints.
    pub(super) states: Vec<State>,
}

/// How one endpoint is.
pub(super) struct State {
    pub(super) endpoint: String,
    pub(super) status: Result<StatusResponse, String>,
    pub(super) counters: Option<Counters>,
    /// How much each counter grew per second since the sample before.
    pub(super) rates: Option<Rates>,
}

/// Counters of an endpoint at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters {
    at: Instant,
    puts: f64,
    reads: f64,
    transactions: f64,
    slow: f64,
    syncs: f64,
    sync_seconds: f64,
    pub(super) watchers: f64,
    pub(super) memory_bytes: f64,
}

/// Per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    pub(super) puts: f64,
    pub(super) reads: f64,
    pub(super) transactions: f64,
    /// Slow applies and slow read indexes.
    pub(super) slow: f64,
    /// The mean of a sync to disk, if there was one.
    pub(super) sync: Option<Duration>,
}

impl Members {
    pub(super) fn new(session: &Session, endpoints: &[String]) -> Result<Self, Failure> {
        let timeout = session.command_timeout().min(TIMEOUT_MAX);
        let client_of = |endpoint: &String| {
            let client = session.client_of(endpoint)?.with_timeout(timeout);
            Ok((endpoint.clone(), client))
        };
        let asked: Result<Vec<_>, Error> = endpoints.iter().map(client_of).collect();
        let asked = asked.map_err(|error| Failure::bad_args(error.to_string()))?;
        Ok(Members { asked, timeout, names: BTreeMap::new(), states: Vec::new() })
    }

    /// Asks all endpoints at once.
    pub(super) async fn ask(&mut self) {
        let mut answers = JoinSet::new();
        for (position, (endpoint, client)) in self.asked.iter().enumerate() {
            let (endpoint, client, timeout) = (endpoint.clone(), client.clone(), self.timeout);
            answers.spawn(async move { (position, ask_one(endpoint, &client, timeout).await) });
        }
        let mut found = answers.join_all().await;
        found.sort_by_key(|(position, _)| *position);
        let before = std::mem::take(&mut self.states);
        for (position, (mut state, names)) in found {
            let earlier = before.get(position).and_then(|state| state.counters);
            state.rates = earlier.zip(state.counters).and_then(|(then, now)| rates(&then, &now));
            self.names.extend(names);
            self.states.push(state);
        }
    }

    /// The status of the leader, or of any member when the leader is not among the endpoints.
    pub(super) fn reference(&self) -> Option<&StatusResponse> {
        let all = || self.states.iter().filter_map(|state| state.status.as_ref().ok());
        all().find(|status| is_leader(status)).or_else(|| all().next())
    }
}

pub(super) fn is_leader(status: &StatusResponse) -> bool {
    status.header.is_some_and(|header| header.member_id == status.leader)
}

async fn ask_one(
    endpoint: String,
    client: &Client,
    timeout: Duration,
) -> (State, Vec<(u64, String)>) {
    let (status, page, members) = tokio::join!(
        client.status(),
        http::get(&endpoint, "/metrics", timeout),
        // Any member knows the names; it need not ask the others.
        client.member_list(false),
    );
    let names = members.map(|reply| reply.members).unwrap_or_default();
    let names = names.into_iter().map(|member| (member.id, member.name)).collect();
    let state = State {
        endpoint,
        status: status.map_err(|error| error.to_string()),
        counters: page.ok().map(|page| counters(&page)),
        rates: None,
    };
    (state, names)
}

fn counters(page: &str) -> Counters {
    let sum = |names: &[&str]| names.iter().filter_map(|name| http::metric(page, name)).sum();
    Counters {
        at: Instant::now(),
        puts: sum(&["etcd_mvcc_put_total"]),
        reads: sum(&["etcd_mvcc_range_total"]),
        transactions: sum(&["etcd_mvcc_txn_total"]),
        slow: sum(&["etcd_server_slow_apply_total", "etcd_server_slow_read_indexes_total"]),
        syncs: sum(&["etcd_disk_wal_fsync_duration_seconds_count"]),
        sync_seconds: sum(&["etcd_disk_wal_fsync_duration_seconds_sum"]),
        watchers: sum(&["etcd_debugging_mvcc_watcher_total"]),
        memory_bytes: sum(&["process_resident_memory_bytes"]),
    }
}

/// `None` for samples of the same moment, and when the member began to count anew.
fn rates(then: &Counters, now: &Counters) -> Option<Rates> {
    let seconds = now.at.duration_since(then.at).as_secs_f64();
    let grown = [
        now.puts - then.puts,
        now.reads - then.reads,
        now.transactions - then.transactions,
        now.slow - then.slow,
        now.syncs - then.syncs,
    ];
    if seconds <= 0.0 || grown.iter().any(|count| *count < 0.0) {
        return None;
    }
    let [puts, reads, transactions, slow, syncs] = grown;
    let mean = (now.sync_seconds - then.sync_seconds) / syncs;
    Some(Rates {
        puts: puts / seconds,
        reads: reads / seconds,
        transactions: transactions / seconds,
        slow: slow / seconds,
        sync: Duration::try_from_secs_f64(mean).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences() {
        let page = |puts: u32, syncs: u32| {
            format!(
                "etcd_mvcc_put_total {puts}\netcd_disk_wal_fsync_duration_seconds_sum {}\n\
                 etcd_disk_wal_fsync_duration_seconds_count {syncs}\n",
                f64::from(syncs) * 0.5
            )
        };
        let then = counters(&page(10, 2));
        let later =
            |page: &str| Counters { at: then.at + Duration::from_secs(2), ..counters(page) };
        let grown = rates(&then, &later(&page(16, 4))).unwrap();
        assert!((grown.puts - 3.0).abs() < 1e-9);
        assert_eq!(grown.sync, Some(Duration::from_millis(500)));
        let idle = rates(&then, &later(&page(10, 2))).unwrap();
        assert_eq!((idle.puts, idle.sync), (0.0, None));
        assert_eq!(rates(&then, &later(&page(1, 2))), None, "the member was restarted");
        assert_eq!(rates(&then, &then), None);
    }
}
