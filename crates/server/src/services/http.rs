//! What is not gRPC on the client port: the JSON gateway, and operators' tools, to whom this member is what `http.rs` asks
//! about.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use retcd_api::CLUSTER_VERSION;
use retcd_api::etcdserverpb::{AlarmType, RangeRequest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Services;
use super::gateway::Backstage;
use crate::grpc::Body;
use crate::grpc::connection::{Client, Settings};
use crate::http::{self as operators, Alarm, HealthSource, RaftVars, Scope, access};
use crate::metrics::{Metrics, Sources};
use crate::node::read_error;

/// Where a request that turns its connection into a WebSocket leaves the call that is to be made there.
pub(crate) type UpgradeSlot = Mutex<Option<retcd_gateway::Upgrade>>;

/// What a refused client may still send until it hears so.
const DRAINED_BYTES_MAX: usize = 64 << 10;
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// Answers a request that is not gRPC.
pub(crate) async fn answer<B>(
    request: Request<B>,
    client: &Client,
    settings: &Settings,
    services: &Arc<Services>,
    upgrade: &UpgradeSlot,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
{
    if settings.scope == Scope::Metrics {
        return operators::handle(settings.scope, &request, &**services).await.map(Body::Plain);
    }
    let config = &services.config;
    // Over TLS every name is one that a certificate vouches for.
    if !settings.is_encrypted
        && let Some(refusal) = access::refuse_host(&request, &config.host_whitelist)
    {
        return refusal.map(Body::Plain);
    }
    if let Some(refusal) = refuse_common_name(&request, client, services) {
        drain(request.into_body()).await;
        return refusal.map(Body::Plain);
    }
    let mut allowed = HeaderMap::new();
    access::allow_origin(request.headers(), &config.cors, &mut allowed);
    let mut response = if request.method() == Method::OPTIONS {
        // A browser asks what it may ask, of any path.
        Response::new(Body::Empty)
    } else if config.enable_grpc_gateway && retcd_gateway::serves(request.uri().path()) {
        gateway(request, settings, services, upgrade).await
    } else {
        operators::handle(settings.scope, &request, &**services).await.map(Body::Plain)
    };
    response.headers_mut().extend(allowed);
    response
}

/// The gateway makes all calls by itself, so a name in a certificate is nobody's there. Who believes to be known by it is
/// told, since the call would be one of somebody else, or of nobody.
fn refuse_common_name<B>(
    request: &Request<B>,
    client: &Client,
    services: &Services,
) -> Option<Response<Bytes>> {
    let is_named = client.common_name.as_ref().is_some_and(|name| !name.is_empty());
    if !is_named
        || !services.config.enable_grpc_gateway
        || !services.reader.auth_is_enabled()
        || !request.uri().path().starts_with("/v3/")
    {
        return None;
    }
    let text = "CommonName of client sending a request against gateway will be ignored and not used as expected";
    Some(operators::error(StatusCode::BAD_REQUEST, text))
}

/// Takes what a refused client is still sending, within bounds: over HTTP/2 some clients take an answer that overtakes
/// their request for a broken stream.
async fn drain<B>(mut body: B)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let all = async {
        let mut left = DRAINED_BYTES_MAX;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    let _ = tokio::time::timeout(DRAIN_PATIENCE, all).await;
}

async fn gateway<B>(
    request: Request<B>,
    settings: &Settings,
    services: &Arc<Services>,
    upgrade: &UpgradeSlot,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
{
    if retcd_gateway::is_upgrade(&request) {
        let response = match retcd_gateway::Upgrade::new(&request) {
            Ok(granted) => {
                let response = granted.response();
                *upgrade.lock() = Some(granted);
                response
            }
            Err(status) => retcd_gateway::refuse_upgrade(status),
        };
        return response.map(Body::Plain);
    }
    let backstage = Backstage { services, tracer: settings.tracer.as_ref() };
    let response = retcd_gateway::handle(request, &backstage, limits(settings)).await;
    response.map(|body| match body {
        retcd_gateway::Body::Whole(body) => Body::Plain(body),
        retcd_gateway::Body::Lines(lines) => Body::Lines(lines),
    })
}

/// Makes the call of a connection that has become a WebSocket.
pub(crate) async fn websocket(
    upgrade: retcd_gateway::Upgrade,
    io: impl AsyncRead + AsyncWrite + Unpin,
    services: &Arc<Services>,
    settings: &Settings,
) {
    let backstage = Backstage { services, tracer: settings.tracer.as_ref() };
    upgrade.serve(io, &backstage, limits(settings)).await;
}

fn limits(settings: &Settings) -> retcd_gateway::Limits {
    retcd_gateway::Limits { message_bytes_max: settings.message_bytes_max }
}

impl HealthSource for Services {
    fn has_leader(&self) -> bool {
        self.node.leader().is_some()
    }

    fn alarms(&self) -> Vec<Alarm> {
        let alarms = self.reader.alarms();
        let kind = |alarm: &retcd_api::etcdserverpb::AlarmMember| match alarm.alarm() {
            AlarmType::Nospace => Alarm::NoSpace,
            AlarmType::Corrupt => Alarm::Corrupt,
            AlarmType::None => Alarm::Unknown,
        };
        alarms.iter().map(kind).collect()
    }

    fn is_learner(&self) -> bool {
        self.node.status().is_learner
    }

    async fn serializable_read(&self) -> Result<(), String> {
        self.probe()
    }

    async fn linearizable_read(&self) -> Result<(), String> {
        self.node.read_barrier().await.map_err(|error| error.to_string())?;
        self.probe()
    }

    fn cluster_version(&self) -> Option<String> {
        self.reader.cluster_version()
    }

    fn storage_version(&self) -> Option<String> {
        self.reader.cluster_version().map(|_| CLUSTER_VERSION.to_owned())
    }

    fn raft_vars(&self) -> RaftVars {
        let status = self.node.status();
        RaftVars {
            id: self.node.member_id(),
            term: status.term,
            commit: status.committed,
            applied: self.reader.applied_index(),
            leader: status.leader,
            is_learner: status.is_learner,
        }
    }

    fn serves_profiles(&self) -> bool {
        self.config.enable_pprof
    }

    fn metrics(&self) -> &Metrics {
        self.node.metrics()
    }

    fn render_metrics(&self) -> String {
        self.node.metrics().render(self)
    }
}

impl Services {
    /// Reads one key, which need not exist.
    fn probe(&self) -> Result<(), String> {
        let request =
            RangeRequest { key: Bytes::from_static(b"a"), limit: 1, ..Default::default() };
        let read = self.reader.range(&request);
        read.map(drop).map_err(|error| read_error(error).to_string())
    }
}

impl Sources for Services {
    /// Sets what is cheaper to ask for than to keep.
    fn sample(&self, metrics: &Metrics) {
        let status = self.node.status();
        let size = self.reader.size();
        metrics.server_has_leader.set_bool(status.leader.is_some());
        metrics.server_is_leader.set_bool(self.node.is_leader());
        metrics.server_is_learner.set_bool(status.is_learner);
        metrics.server_id.with([&format!("{:x}", self.node.member_id())]).set(1.0);
        metrics.server_proposals_committed_total.set_count(status.committed);
        metrics.server_proposals_applied_total.set_count(self.reader.applied_index());
        metrics.server_proposals_pending.set_count(self.node.proposals_waiting() as u64);
        metrics
            .server_quota_backend_bytes
            .set_count(self.config.quota_backend_bytes.unwrap_or_default());
        metrics.mvcc_current_revision.set_count(self.reader.revision().cast_unsigned());
        metrics
            .mvcc_compact_revision
            .set_count(self.reader.compacted_revision().max(0).cast_unsigned());
        metrics.auth_revision.set_count(self.reader.auth_revision());
        let census = self.reader.census();
        metrics.mvcc_keys_total.set_count(census.live_versions);
        metrics.mvcc_versions.with(["live"]).set_count(census.live_versions);
        metrics.mvcc_versions.with(["historic"]).set_count(census.historic_versions);
        metrics.mvcc_version_bytes.with(["live"]).set_count(census.live_bytes);
        metrics.mvcc_version_bytes.with(["historic"]).set_count(census.historic_bytes);
        metrics.mvcc_db_total_size_in_bytes.set_count(size.total_bytes);
        metrics.mvcc_db_total_size_in_use_in_bytes.set_count(size.in_use_bytes);
        if let Some(version) = self.reader.cluster_version() {
            let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
            metrics.cluster_version.clear();
            metrics.cluster_version.with([minor]).set(1.0);
        }
        metrics.server_alarms.clear();
        for alarm in self.reader.alarms() {
            metrics
                .server_alarms
                .with([&format!("{:x}", alarm.member_id), alarm.alarm().as_str_name()])
                .set(1.0);
        }
        let tally = self.reader.tally();
        metrics.mvcc_put_total.copy_from(tally.puts);
        metrics.mvcc_delete_total.copy_from(tally.deletes);
        metrics.mvcc_txn_total.copy_from(tally.txns + metrics.requests.read_only_txns());
        metrics.mvcc_total_put_size_in_bytes.set_count(tally.put_bytes);
        metrics.mvcc_cached_value_bytes.set_count(self.reader.cached_bytes() as u64);
        let compacted = self.reader.compacted_revision().max(0);
        let history = self.reader.revision() - compacted;
        metrics.mvcc_history_revisions.set_count(history.max(0).cast_unsigned());
        let watch = self.node.watch_counters();
        let waiting = self.node.proposals_waiting() as u64;
        metrics.queue_depth.with(["proposals"]).set_count(waiting);
        metrics.queue_depth.with(["watch_events"]).set_count(watch.pending_events as u64);
        let peers = self.node.network().waiting();
        metrics.queue_depth.with(["peer_messages"]).set_count(peers.messages as u64);
        metrics.queue_bytes.with(["peer_messages"]).set_count(peers.bytes as u64);
        metrics.queue_bytes.with(["backend"]).set_count(self.reader.pending_bytes() as u64);
        let next = self.reader.revision() + 1;
        let lag = watch.next_revision.map_or(0, |slowest| next - slowest);
        metrics.watch_lag_revisions.set_count(lag.max(0).cast_unsigned());
        metrics.mvcc_watch_stream_total.set_count(watch.streams as u64);
        metrics.mvcc_watcher_total.set_count(watch.watchers as u64);
        metrics.mvcc_slow_watcher_total.set_count(watch.slow_watchers as u64);
        metrics.mvcc_pending_events_total.set_count(watch.pending_events as u64);
        metrics.mvcc_events_total.copy_from(watch.events_sent);
    }
}
