//! Round trips to a peer, and how far the clocks are apart.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Method, Request, Response, StatusCode};
use retcd_net::url::Url;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::connection::{self, Connection};
use super::door::{self, Answer};
use super::network::{Peer, Shared};
use super::pipeline;
use super::timestamp;

const PATH: &str = "/raft/probing";
/// Shorter than the time after which an idle connection is given up.
const INTERVAL: Duration = Duration::from_secs(4);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Clocks that differ by more are worth a word.
const DRIFT_MAX: Duration = Duration::from_secs(1);
/// A condition that lasts is told this often.
const WARNING_INTERVAL: Duration = Duration::from_secs(30);
/// The name under which etcd's logs speak of it.
const NAME: &str = "ROUND_TRIPPER_RAFT_MESSAGE";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sign {
    #[serde(rename = "OK")]
    ok: bool,
    now: String,
}

/// Answers a probe.
pub(crate) fn answer() -> Response<Answer> {
    let sign = Sign { ok: true, now: timestamp::format(SystemTime::now()) };
    let mut body = serde_json::to_string(&sign).expect("plain data has a JSON form");
    body.push('\n');
    door::respond(StatusCode::OK, "text/plain; charset=utf-8", body)
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Request(#[from] connection::Error),
    #[error("unexpected status {0}")]
    Status(StatusCode),
    #[error("unreadable answer")]
    Unreadable,
}

struct Seen {
    round_trip: Duration,
    /// Theirs and ours, at about the same moment.
    drift: Duration,
}

/// Probes a peer until it is removed or the transport stops.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The peer has its own start to make.
    interval.tick().await;
    let mut connection = None;
    let mut last_warning = None;
    loop {
        interval.tick().await;
        let url = peer.urls.pick();
        let seen = timeout(TIMEOUT, probe(&shared, &url, &mut connection)).await;
        let seen = seen.unwrap_or(Err(connection::Error::Timeout(TIMEOUT).into()));
        if seen.is_err() {
            connection = None;
        }
        let may_warn = last_warning.is_none_or(|at: Instant| at.elapsed() >= WARNING_INTERVAL);
        let has_warned = note(&peer, seen, may_warn);
        if has_warned {
            last_warning = Some(Instant::now());
        }
    }
}

async fn probe(
    shared: &Shared,
    url: &Url,
    connection: &mut Option<(Url, Connection)>,
) -> Result<Seen, Error> {
    if connection.as_ref().is_some_and(|(at, connection)| at != url || !connection.is_usable()) {
        *connection = None;
    }
    let (_, connection) = match connection {
        Some(open) => open,
        None => connection.insert((url.clone(), pipeline::dial(shared, url, TIMEOUT).await?)),
    };
    let mut request = Request::new(connection::empty_body());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = http::Uri::from_static(PATH);
    let (sent_at, started) = (SystemTime::now(), Instant::now());
    let answer = connection.call(request).await?;
    let round_trip = started.elapsed();
    if answer.status() != StatusCode::OK {
        return Err(Error::Status(answer.status()));
    }
    let sign: Sign = serde_json::from_slice(answer.body()).map_err(|_| Error::Unreadable)?;
    let theirs = timestamp::parse(&sign.now).filter(|_| sign.ok).ok_or(Error::Unreadable)?;
    let ours = sent_at + round_trip / 2;
    let drift = theirs.duration_since(ours).unwrap_or_else(|behind| behind.duration());
    Ok(Seen { round_trip, drift })
}

/// Counts a probe. Returns whether it gave reason for a warning that was written.
fn note(peer: &Peer, seen: Result<Seen, Error>, may_warn: bool) -> bool {
    let remote_peer_id = format!("{:x}", peer.id);
    match seen {
        Ok(Seen { round_trip, drift }) => {
            peer.metrics.round_trip.observe_duration(round_trip);
            let warns = may_warn && drift > DRIFT_MAX;
            if warns {
                tracing::warn!(
                    round_tripper_name = NAME,
                    remote_peer_id,
                    clock_drift = ?drift,
                    rtt = ?round_trip,
                    "prober found high clock drift"
                );
            }
            warns
        }
        Err(error) => {
            if may_warn {
                tracing::warn!(
                    round_tripper_name = NAME,
                    remote_peer_id,
                    rtt = "0s",
                    %error,
                    "prober detected unhealthy status"
                );
            }
            may_warn
        }
    }
}
