//! What a browser, a probe or Prometheus asks on the HTTP side of the client port.
//!
//! Paths, methods, statuses and bodies are etcd's: `/version`, `/health`, `/livez` and `/readyz` with a path
//! per check, `/metrics`, `/debug/vars` and `/debug/pprof/`; the description of the gateway (`/openapi.json`) is ours.
//! [`handle`] knows nothing of sockets; whoever reads requests calls it, behind the rules of [`access`]. A listener for
//! metrics only ([`Scope::Metrics`]) serves health and metrics, and no rules.
//!
//! A probe must not be slower than the member: the checks run one after the other, and the reads behind them
//! carry their own time limit.

pub(crate) mod access;
mod debug;
mod profiles;

use std::io::Write;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};

pub(crate) use self::debug::RaftVars;
use crate::config::help::ETCD_VERSION;
use crate::metrics::Metrics;

const TEXT: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// gRPC and HTTP.
    Client,
    /// `--listen-client-urls` when there are URLs for HTTP alone.
    Grpc,
    /// `--listen-client-http-urls`.
    Http,
    /// `--listen-metrics-urls`.
    Metrics,
}

/// An alarm, as `/health` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alarm {
    NoSpace,
    Corrupt,
    Unknown,
}

impl Alarm {
    fn name(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The member, as far as these answers depend on it.
pub(crate) trait HealthSource {
    fn has_leader(&self) -> bool;

    /// Active alarms of all members, in the order in which `Alarm` lists them.
    fn alarms(&self) -> Vec<Alarm>;

    fn is_learner(&self) -> bool;

    /// Reads one key here, as root and whatever auth says. Ends within the request timeout.
    ///
    /// # Errors
    /// The text that a client would see.
    async fn serializable_read(&self) -> Result<(), String>;

    /// The same through the leader.
    async fn linearizable_read(&self) -> Result<(), String>;

    /// None until the cluster has decided.
    fn cluster_version(&self) -> Option<String>;

    fn storage_version(&self) -> Option<String>;

    fn raft_vars(&self) -> RaftVars;

    /// Whether whoever may ask for health may ask for profiles.
    fn serves_profiles(&self) -> bool;

    fn metrics(&self) -> &Metrics;

    /// The text of a scrape: [`Metrics::render`].
    fn render_metrics(&self) -> String;
}

/// Answers a request for anything but gRPC and the JSON gateway.
pub(crate) async fn handle<B>(
    scope: Scope,
    request: &Request<B>,
    source: &impl HealthSource,
) -> Response<Bytes> {
    let path = request.uri().path();
    if path == "/metrics" {
        return metrics(request.headers(), source);
    }
    let checks = checks_of(path);
    let is_for_clients = scope != Scope::Metrics;
    let profile = path.strip_prefix(profiles::PREFIX).filter(|_| source.serves_profiles());
    let is_known = match path {
        "/health" => true,
        "/version" | "/openapi.json" | "/debug/vars" => is_for_clients,
        _ => checks.is_some() || is_for_clients && profile.is_some(),
    };
    if !is_known {
        return error(StatusCode::NOT_FOUND, "404 page not found");
    }
    if request.method() != Method::GET {
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let query = Query(request.uri().query().unwrap_or_default());
    match checks {
        Some((kind, checks)) => {
            let is_root = path[1..] == *kind.name();
            probe(kind, checks, is_root, &query, source).await
        }
        None => match (path, profile) {
            (_, Some(name)) => profiles::answer(name, &query).await,
            ("/health", _) => health(&query, source).await,
            ("/openapi.json", _) => {
                respond(StatusCode::OK, "application/json", retcd_gateway::openapi())
            }
            ("/debug/vars", _) => {
                let vars = debug::vars(&source.raft_vars());
                respond(StatusCode::OK, "application/json; charset=utf-8", vars)
            }
            _ => version(source),
        },
    }
}

fn version(source: &impl HealthSource) -> Response<Bytes> {
    let cluster = source.cluster_version().unwrap_or_else(|| "not_decided".to_owned());
    let storage = source.storage_version().unwrap_or_else(|| "unknown".to_owned());
    let body = format!(
        r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#
    );
    respond(StatusCode::OK, "application/json", body)
}

async fn health(query: &Query<'_>, source: &impl HealthSource) -> Response<Bytes> {
    let reason = why_unhealthy(query, source).await;
    let metrics = source.metrics();
    let Some(reason) = reason else {
        metrics.server_health_success.increment();
        return respond(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#.to_owned());
    };
    metrics.server_health_failures.increment();
    tracing::warn!(reason, "serving /health false");
    let body = serde_json::json!({ "health": "false", "reason": reason });
    error(StatusCode::SERVICE_UNAVAILABLE, &body.to_string())
}

async fn why_unhealthy(query: &Query<'_>, source: &impl HealthSource) -> Option<String> {
    let is_excluded = |alarm: &Alarm| query.values("exclude").any(|name| name == alarm.name());
    if let Some(alarm) = source.alarms().into_iter().find(|alarm| !is_excluded(alarm)) {
        return Some(format!("ALARM {}", alarm.name()));
    }
    let serializable = query.values("serializable").next().as_deref() == Some("true");
    if !serializable && !source.has_leader() {
        return Some("RAFT NO LEADER".to_owned());
    }
    let read = if serializable {
        source.serializable_read().await
    } else {
        source.linearizable_read().await
    };
    read.err().map(|error| format!("RANGE ERROR:{error}"))
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Livez,
    Readyz,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Livez => "livez",
            Self::Readyz => "readyz",
        }
    }

    fn checks(self) -> &'static [Check] {
        match self {
            Self::Livez => &[Check::SerializableRead],
            Self::Readyz => &[
                Check::DataCorruption,
                Check::SerializableRead,
                Check::LinearizableRead,
                Check::NonLearner,
            ],
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, source: &impl HealthSource) -> Result<(), String> {
        match self {
            Self::DataCorruption if source.alarms().contains(&Alarm::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Self::NonLearner if source.is_learner() => Err("not supported for learner".to_owned()),
            Self::DataCorruption | Self::NonLearner => Ok(()),
            Self::SerializableRead => source.serializable_read().await,
            Self::LinearizableRead => source.linearizable_read().await,
        }
    }
}

/// The checks behind `/livez`, `/readyz` or one of their sub paths.
fn checks_of(path: &str) -> Option<(Kind, &'static [Check])> {
    [Kind::Livez, Kind::Readyz].into_iter().find_map(|kind| {
        let rest = path.strip_prefix('/')?.strip_prefix(kind.name())?;
        if rest.is_empty() {
            return Some((kind, kind.checks()));
        }
        let name = rest.strip_prefix('/')?;
        let index = kind.checks().iter().position(|check| check.name() == name)?;
        Some((kind, &kind.checks()[index..=index]))
    })
}

async fn probe(
    kind: Kind,
    checks: &[Check],
    is_root: bool,
    query: &Query<'_>,
    source: &impl HealthSource,
) -> Response<Bytes> {
    let is_excluded =
        |check: Check| is_root && query.values("exclude").any(|name| name == check.name());
    let mut report = Vec::new();
    let mut failed = false;
    for check in checks.iter().copied().filter(|check| !is_excluded(*check)) {
        let result = check.run(source).await;
        count(kind, check, result.is_ok(), source.metrics());
        match result {
            Ok(()) => report.push(format!("[+]{} ok\n", check.name())),
            Err(error) => {
                report.push(format!("[-]{} failed: {error}\n", check.name()));
                failed = true;
            }
        }
    }
    let report = report.concat();
    if failed {
        tracing::error!(path = kind.name(), reason = report, "Health check error");
        return error(StatusCode::SERVICE_UNAVAILABLE, &report);
    }
    let details = if query.values("verbose").next().is_some() { report.as_str() } else { "" };
    let mut response = respond(StatusCode::OK, TEXT, format!("{details}ok\n"));
    forbid_sniffing(response.headers_mut());
    response
}

fn count(kind: Kind, check: Check, ok: bool, metrics: &Metrics) {
    let (kind, check) = (kind.name(), check.name());
    metrics.server_healthcheck.with([kind, check]).set_bool(ok);
    let status = if ok { "success" } else { "error" };
    metrics.server_healthchecks_total.with([kind, check, status]).increment();
}

fn metrics(headers: &HeaderMap, source: &impl HealthSource) -> Response<Bytes> {
    let metrics = source.metrics();
    metrics.promhttp_metric_handler_requests_in_flight.increment();
    let text = source.render_metrics();
    metrics.promhttp_metric_handler_requests_in_flight.decrement();
    metrics.promhttp_metric_handler_requests_total.with(["200"]).increment();
    if !accepts_gzip(headers) {
        return respond(StatusCode::OK, EXPOSITION, text);
    }
    let mut response = respond(StatusCode::OK, EXPOSITION, gzip(text.as_bytes()));
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

/// As the Prometheus library decides: the word counts, its quality does not, unless it is zero.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let names = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    names.flat_map(|value| value.split(',')).any(|encoding| {
        let (name, quality) = encoding.split_once(';').unwrap_or((encoding, "q=1"));
        let quality = quality.trim().strip_prefix("q=").and_then(|q| q.parse().ok());
        name.trim() == "gzip" && quality.unwrap_or(1.0) > 0.0
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}

/// As Go's `http.Error`: the text, a newline, and a browser is told not to guess.
pub(crate) fn error(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = respond(status, TEXT, format!("{text}\n"));
    forbid_sniffing(response.headers_mut());
    response
}

fn forbid_sniffing(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The query of a URL.
struct Query<'a>(&'a str);

impl Query<'_> {
    /// The values of a parameter, in their order; a parameter without `=` has the empty one.
    fn values(&self, name: &str) -> impl Iterator<Item = String> {
        self.0.split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key) == name).then(|| decoded(value))
        })
    }
}

/// Undoes `%41` and `+`; what is no encoding stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = hex.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (next, used) = match (first, byte) {
            (b'%', Some(byte)) => (byte, 2),
            (b'+', _) => (b' ', 0),
            (other, _) => (*other, 0),
        };
        bytes.push(next);
        rest = &after[used..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::config::FeatureGates;
    use crate::metrics::Sources;

    #[expect(clippy::struct_excessive_bools, reason = "each one is an answer of its own")]
    struct Member {
        leader: bool,
        alarms: Vec<Alarm>,
        learner: bool,
        local: Result<(), String>,
        agreed: Result<(), String>,
        decided: bool,
        profiles: bool,
        metrics: Metrics,
    }

    impl Default for Member {
        fn default() -> Self {
            Self {
                leader: true,
                alarms: Vec::new(),
                learner: false,
                local: Ok(()),
                agreed: Ok(()),
                decided: true,
                profiles: false,
                metrics: Metrics::new(false, &FeatureGates::default()),
            }
        }
    }

    impl Sources for Member {
        fn sample(&self, metrics: &Metrics) {
            metrics.server_has_leader.set_bool(self.leader);
        }
    }

    impl HealthSource for Member {
        fn has_leader(&self) -> bool {
            self.leader
        }

        fn alarms(&self) -> Vec<Alarm> {
            self.alarms.clone()
        }

        fn is_learner(&self) -> bool {
            self.learner
        }

        async fn serializable_read(&self) -> Result<(), String> {
            self.local.clone()
        }

        async fn linearizable_read(&self) -> Result<(), String> {
            self.agreed.clone()
        }

        fn cluster_version(&self) -> Option<String> {
            self.decided.then(|| "3.7.0".to_owned())
        }

        fn storage_version(&self) -> Option<String> {
            self.cluster_version()
        }

        fn raft_vars(&self) -> RaftVars {
            RaftVars {
                id: 1,
                term: 1,
                commit: 1,
                applied: 1,
                leader: None,
                is_learner: self.learner,
            }
        }

        fn serves_profiles(&self) -> bool {
            self.profiles
        }

        fn metrics(&self) -> &Metrics {
            &self.metrics
        }

        fn render_metrics(&self) -> String {
            self.metrics.render(self)
        }
    }

    fn send(scope: Scope, request: &Request<()>, member: &Member) -> Response<Bytes> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(handle(scope, request, member))
    }

    fn request(method: Method, uri: &str) -> Request<()> {
        Request::builder().method(method).uri(uri).body(()).unwrap()
    }

    fn get(uri: &str, member: &Member) -> (u16, String) {
        let response = send(Scope::Client, &request(Method::GET, uri), member);
        let body = String::from_utf8(response.body().to_vec()).unwrap();
        (response.status().as_u16(), body)
    }

    fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn version_before_and_after_the_decision() {
        let answer = |member: &Member| get("/version", member).1;
        assert_eq!(
            answer(&Member::default()),
            r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#
        );
        let undecided = Member { decided: false, ..Member::default() };
        assert_eq!(
            answer(&undecided),
            r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#
        );
        let response = send(Scope::Client, &request(Method::GET, "/version"), &undecided);
        assert_eq!(header(&response, "content-type"), Some("application/json"));
    }

    #[test]
    fn health_checks_alarms_then_leader_then_a_read() {
        let healthy = (200, r#"{"health":"true","reason":""}"#.to_owned());
        let sick =
            |reason: &str| (503, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"));
        let mut member = Member::default();
        assert_eq!(get("/health", &member), healthy);
        member.agreed = Err("etcdserver: request timed out".to_owned());
        assert_eq!(get("/health", &member), sick("RANGE ERROR:etcdserver: request timed out"));
        assert_eq!(get("/health?serializable=true", &member), healthy);
        member.leader = false;
        assert_eq!(get("/health", &member), sick("RAFT NO LEADER"));
        assert_eq!(get("/health?serializable=true", &member), healthy);
        member.alarms = vec![Alarm::NoSpace, Alarm::Corrupt];
        assert_eq!(get("/health?serializable=true", &member), sick("ALARM NOSPACE"));
        assert_eq!(
            get("/health?serializable=true&exclude=NOSPACE", &member),
            sick("ALARM CORRUPT")
        );
        assert_eq!(
            get("/health?serializable=true&exclude=NO%53PACE&exclude=CORRUPT", &member),
            healthy
        );
        assert_eq!(member.metrics.server_health_success.get(), 4);
        assert_eq!(member.metrics.server_health_failures.get(), 4);
    }

    #[test]
    fn livez_looks_at_this_member_only() {
        let mut member = Member { leader: false, agreed: Err("x".into()), ..Member::default() };
        assert_eq!(get("/livez", &member), (200, "ok\n".to_owned()));
        assert_eq!(
            get("/livez?verbose", &member),
            (200, "[+]serializable_read ok\nok\n".to_owned())
        );
        assert_eq!(get("/livez/serializable_read", &member), (200, "ok\n".to_owned()));
        member.local = Err("broken".to_owned());
        let failed = (503, "[-]serializable_read failed: broken\n\n".to_owned());
        assert_eq!(get("/livez", &member), failed);
        assert_eq!(get("/livez/serializable_read?exclude=serializable_read", &member), failed);
        assert_eq!(
            get("/livez?exclude=serializable_read&exclude=nope", &member),
            (200, "ok\n".to_owned())
        );
    }

    #[test]
    fn readyz_runs_four_checks() {
        let mut member = Member { alarms: vec![Alarm::NoSpace], ..Member::default() };
        assert_eq!(get("/readyz", &member), (200, "ok\n".to_owned()));
        member.alarms.push(Alarm::Corrupt);
        member.learner = true;
        member.agreed = Err("etcdserver: no leader".to_owned());
        assert_eq!(
            get("/readyz", &member),
            (
                503,
                "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
                 [-]linearizable_read failed: etcdserver: no leader\n\
                 [-]non_learner failed: not supported for learner\n\n"
                    .to_owned()
            )
        );
        for (path, status) in [
            ("/readyz/data_corruption", 503),
            ("/readyz/serializable_read", 200),
            ("/readyz/linearizable_read", 503),
            ("/readyz/non_learner", 503),
            ("/readyz?exclude=data_corruption&exclude=linearizable_read&exclude=non_learner", 200),
        ] {
            assert_eq!(get(path, &member).0, status, "{path}");
        }
        let text = member.render_metrics();
        for line in [
            "etcd_server_healthcheck{name=\"non_learner\",type=\"readyz\"} 0",
            "etcd_server_healthchecks_total{name=\"data_corruption\",status=\"error\",type=\"readyz\"} 2",
            "etcd_server_healthchecks_total{name=\"data_corruption\",status=\"success\",type=\"readyz\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}");
        }
    }

    #[test]
    fn other_paths_and_methods() {
        let member = Member::default();
        for path in
            ["/", "/v2/keys", "/livez/", "/livez/nope", "/livezz", "/readyz/x/y", "/health/"]
        {
            assert_eq!(get(path, &member), (404, "404 page not found\n".to_owned()), "{path}");
        }
        for path in ["/version", "/health", "/livez", "/readyz/non_learner"] {
            let response = send(Scope::Client, &request(Method::POST, path), &member);
            assert_eq!(response.status(), 405, "{path}");
            assert_eq!(header(&response, "allow"), Some("GET"));
            assert_eq!(header(&response, "x-content-type-options"), Some("nosniff"));
            assert_eq!(response.body().as_ref(), b"Method Not Allowed\n");
        }
    }

    #[test]
    fn a_listener_for_metrics_has_nothing_else() {
        let member = Member::default();
        for (path, on_metrics) in
            [("/health", 200), ("/version", 404), ("/openapi.json", 404), ("/debug/vars", 404)]
        {
            let status = |scope| send(scope, &request(Method::GET, path), &member).status();
            assert_eq!(status(Scope::Metrics), on_metrics, "{path}");
            assert_eq!(
                (status(Scope::Client), status(Scope::Http)),
                (200.try_into().unwrap(), 200.try_into().unwrap())
            );
        }
    }

    #[test]
    fn profiles_are_served_when_the_member_says_so() {
        let mut member = Member::default();
        assert_eq!(get("/debug/pprof/cmdline", &member).0, 404);
        member.profiles = true;
        assert_eq!(get("/debug/pprof/cmdline", &member).0, 200);
        assert_eq!(get("/debug/pprof/nope", &member).0, 404);
        let asked = request(Method::GET, "/debug/pprof/cmdline");
        assert_eq!(send(Scope::Metrics, &asked, &member).status(), 404);
    }

    #[test]
    fn metrics_by_any_method_and_packed_on_request() {
        let member = Member::default();
        let plain = send(Scope::Metrics, &request(Method::POST, "/metrics"), &member);
        assert_eq!(header(&plain, "content-type"), Some(EXPOSITION));
        let text = String::from_utf8(plain.body().to_vec()).unwrap();
        assert!(text.contains("\netcd_server_has_leader 1\n"));

        let mut asked = request(Method::GET, "/metrics");
        asked
            .headers_mut()
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("deflate, gzip;q=0.5"));
        let packed = send(Scope::Metrics, &asked, &member);
        assert_eq!(header(&packed, "content-encoding"), Some("gzip"));
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.body().as_ref()).read_to_string(&mut text).unwrap();
        assert!(text.contains("promhttp_metric_handler_requests_total{code=\"200\"} 1\n"));

        asked.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip;q=0"));
        assert_eq!(header(&send(Scope::Metrics, &asked, &member), "content-encoding"), None);
    }
}
