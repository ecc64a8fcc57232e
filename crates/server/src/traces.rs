//! Spans for a collector of distributed traces: `--enable-distributed-tracing`.
//!
//! A call that is sampled carries a [`Traced`]; all others carry nothing, and with tracing off nobody asks. Whether a
//! call is sampled is its caller's decision, when the metadata `traceparent` tells one, and otherwise that of
//! `--distributed-tracing-sampling-rate`, as in etcd. Spans that have ended wait in a bounded queue until
//! [`Exporter`] sends them; when the collector does not keep up or is not there, they are dropped and counted, and no
//! call ever waits.
//!
//! `context` has ids and the sampling decision, `attributes` what a span says of its request, `otlp` the messages,
//! `exporter` the connection to the collector.

mod attributes;
mod context;
mod exporter;
mod otlp;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::attributes::{Attribute, describe};
use self::context::{Context, SpanId, random_id};
pub(crate) use self::exporter::Exporter;
use crate::config::DistributedTracing;
use crate::metrics::Metrics;
use crate::metrics::timeline::Passage;
use crate::services::Rpc;

/// Spans that wait for the exporter, as many as OpenTelemetry's own libraries keep.
const QUEUE_MAX: usize = 2048;
/// With so many the exporter does not wait for its next round.
const BATCH: usize = 512;

/// Where spans begin and end up.
pub(crate) struct Tracer {
    settings: DistributedTracing,
    queue: Mutex<Vec<Ended>>,
    is_worth_sending: Notify,
    metrics: Arc<Metrics>,
}

/// What happens between two moments, and what ended within it.
#[derive(Debug)]
struct Span {
    context: Context,
    parent: Option<SpanId>,
    id: SpanId,
    name: &'static str,
    kind: otlp::SpanKind,
    started: u64,
    attributes: Vec<Attribute>,
    children: Vec<Ended>,
}

/// A call that is sampled: its span, and the one of the request that it carries.
pub(crate) struct Traced {
    tracer: Arc<Tracer>,
    span: Span,
    request: Option<Span>,
    /// What the request has sent into the log.
    proposed: Vec<u64>,
}

/// A span that will not change any more.
#[derive(Debug, Clone)]
struct Ended {
    trace: context::TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    name: &'static str,
    kind: otlp::SpanKind,
    start: u64,
    end: u64,
    attributes: Vec<Attribute>,
    error: Option<String>,
}

impl Tracer {
    pub(crate) fn new(settings: DistributedTracing, metrics: Arc<Metrics>) -> Self {
        let queue = Mutex::new(Vec::new());
        metrics.timeline.turn_on();
        Self { settings, queue, is_worth_sending: Notify::new(), metrics }
    }

    /// Begins the span of a call that came in with these headers, if it is to be kept.
    ///
    /// `path` is `/package.Service/Method`.
    pub(crate) fn begin(
        self: &Arc<Self>,
        path: &'static str,
        headers: &HeaderMap,
    ) -> Option<Box<Traced>> {
        let (context, parent) = Context::of_call(headers, self.settings.samples_per_million)?;
        let name = path.strip_prefix('/').unwrap_or(path);
        let (service, method) = name.split_once('/').unwrap_or((name, ""));
        let attributes = vec![
            Attribute::text("rpc.system", "grpc"),
            Attribute::text("rpc.service", service),
            Attribute::text("rpc.method", method),
        ];
        let span = Span {
            context,
            parent,
            id: random_id(),
            name,
            kind: otlp::SpanKind::Server,
            started: now(),
            attributes,
            children: Vec::new(),
        };
        Some(Box::new(Traced { tracer: self.clone(), span, request: None, proposed: Vec::new() }))
    }

    fn keep(&self, spans: Vec<Ended>) {
        let mut queue = self.queue.lock();
        let room = QUEUE_MAX.saturating_sub(queue.len());
        self.count_dropped(spans.len().saturating_sub(room));
        queue.extend(spans.into_iter().take(room));
        if queue.len() >= BATCH {
            self.is_worth_sending.notify_one();
        }
    }

    fn count_dropped(&self, spans: usize) {
        self.metrics.traces_dropped_spans_total.add(spans as u64);
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Traced {
    /// The call has brought a request. One before it, on a stream, has had its answer or will get none.
    pub(crate) fn received(&mut self, rpc: Rpc, message: &Bytes) {
        self.answered(None);
        if let Some((name, attributes)) = describe(rpc, message) {
            self.request = Some(self.span.child(name, attributes));
        }
    }

    /// The request goes through the log under this id.
    pub(crate) fn proposed(&mut self, id: u64) {
        self.proposed.push(id);
    }

    /// The request has been answered.
    pub(crate) fn answered(&mut self, error: Option<&str>) {
        if let Some(request) = self.request.take() {
            for id in self.proposed.drain(..) {
                for Passage { hop, start, end } in self.tracer.metrics.timeline.of(id) {
                    let mut part = request.child(hop.name(), Vec::new());
                    part.started = start;
                    self.span.children.push(part.into_ended(end, None));
                }
            }
            self.span.children.push(request.into_ended(now(), error.map(str::to_owned)));
        }
    }

    /// The call has ended: its spans go to the exporter.
    pub(crate) fn end(mut self, code: i64, error: Option<&str>) {
        self.answered(error);
        let mut span = self.span;
        span.attributes.push(Attribute::number("rpc.grpc.status_code", code));
        let mut spans = std::mem::take(&mut span.children);
        spans.push(span.into_ended(now(), error.map(str::to_owned)));
        self.tracer.keep(spans);
    }
}

impl Span {
    fn child(&self, name: &'static str, attributes: Vec<Attribute>) -> Span {
        Span {
            context: self.context,
            parent: Some(self.id),
            id: random_id(),
            name,
            kind: otlp::SpanKind::Internal,
            started: now(),
            attributes,
            children: Vec::new(),
        }
    }

    fn into_ended(self, ended: u64, error: Option<String>) -> Ended {
        Ended {
            trace: self.context.trace,
            id: self.id,
            parent: self.parent,
            name: self.name,
            kind: self.kind,
            start: self.started,
            end: ended,
            attributes: self.attributes,
            error,
        }
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
