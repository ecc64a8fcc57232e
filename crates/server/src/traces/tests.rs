use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use prost::Message;
use retcd_api::etcdserverpb as pb;
use tokio_util::sync::CancellationToken;

use super::attributes::Value;
use super::otlp::Any;
use super::*;
use crate::metrics::Hop;
use crate::services::Rpc;

fn tracer(samples_per_million: u32) -> Arc<Tracer> {
    let settings = DistributedTracing {
        address: "127.0.0.1:1".to_owned(),
        service_name: "etcd".to_owned(),
        instance_id: Some("m1".to_owned()),
        samples_per_million,
    };
    let metrics = Metrics::new(false, &crate::config::FeatureGates::default());
    Arc::new(Tracer::new(settings, Arc::new(metrics)))
}

fn sampled_by_caller() -> HeaderMap {
    let value = "00-000102030405060708090a0b0c0d0e0f-1011121314151617-01";
    [(HeaderName::from_static("traceparent"), HeaderValue::from_static(value))]
        .into_iter()
        .collect()
}

#[test]
fn a_call_and_its_parts_become_spans_of_one_trace() {
    let tracer = tracer(0);
    assert!(tracer.begin("/etcdserverpb.KV/Put", &HeaderMap::new()).is_none());
    let mut traced = tracer.begin("/etcdserverpb.KV/Put", &sampled_by_caller()).unwrap();
    let put = pb::PutRequest { key: "k".into(), ..Default::default() };
    traced.received(Rpc::Put, &put.encode_to_vec().into());
    let second = Duration::from_secs(1);
    tracer.metrics.timeline.left(Hop::Log, second, [6, 7, 8].into_iter());
    traced.proposed(7);
    traced.end(5, Some("why"));

    let queue = tracer.queue.lock();
    let request = otlp::export_request(&tracer.settings, &queue);
    let request = otlp::ExportTraceServiceRequest::decode(&request.encode_to_vec()[..]).unwrap();
    let [resource] = &request.resource_spans[..] else { panic!("{request:?}") };
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    let names: Vec<_> = attributes.iter().map(|attribute| &*attribute.key).collect();
    assert_eq!(names, ["service.name", "service.instance.id"]);
    let [log, put, call] = &resource.scope_spans[0].spans[..] else { panic!("{request:?}") };
    assert_eq!((&*log.name, &log.parent_span_id), ("log", &put.span_id));
    assert_eq!(log.end_time_unix_nano - log.start_time_unix_nano, 1_000_000_000);
    assert_eq!((&*call.name, &*put.name), ("etcdserverpb.KV/Put", "put"));
    let trace: Vec<u8> = (0..16).collect();
    assert_eq!((&call.trace_id, &put.trace_id), (&trace, &trace));
    assert_eq!(call.parent_span_id, (16..24).collect::<Vec<u8>>());
    assert_eq!(put.parent_span_id, call.span_id);
    assert_ne!(put.span_id, call.span_id);
    assert!(call.start_time_unix_nano <= put.start_time_unix_nano);
    assert!(put.end_time_unix_nano <= call.end_time_unix_nano);
    assert_eq!((call.kind, put.kind), (2, 1));
    assert_eq!(put.status.as_ref().unwrap().message, "why");
    let last = call.attributes.last().unwrap().value.clone().unwrap().value;
    assert_eq!(last, Some(Any::Number(5)));
}

#[test]
fn what_does_not_fit_into_the_queue_is_dropped_and_counted() {
    let tracer = tracer(1_000_000);
    for _ in 0..QUEUE_MAX + 3 {
        tracer.begin("/etcdserverpb.KV/Put", &HeaderMap::new()).unwrap().end(0, None);
    }
    assert_eq!(tracer.queue.lock().len(), QUEUE_MAX);
    assert_eq!(tracer.metrics.traces_dropped_spans_total.get(), 3);
}

#[test]
fn requests_are_described_in_etcd_s_words() {
    let encoded = |message: &dyn Fn() -> Vec<u8>| Bytes::from(message());
    let put = encoded(&|| {
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(put)),
            }],
            ..Default::default()
        }
        .encode_to_vec()
    });
    let (name, attributes) = describe(Rpc::Txn, &put).unwrap();
    let value = |name: &str| {
        attributes.iter().find(|attribute| attribute.name == name).unwrap().value.clone()
    };
    assert_eq!(name, "txn");
    assert_eq!(value("success_first_key"), Value::Text("k".to_owned()));
    assert_eq!(value("success_first_type"), Value::Text("put".to_owned()));
    assert_eq!(value("success_len"), Value::Number(1));
    assert_eq!(value("read_only"), Value::Bool(false));
    let cancel = encoded(&|| {
        let cancel = pb::WatchCancelRequest { watch_id: 1 };
        let request_union = Some(pb::watch_request::RequestUnion::CancelRequest(cancel));
        pb::WatchRequest { request_union }.encode_to_vec()
    });
    assert!(describe(Rpc::Watch, &cancel).is_none());
    assert!(describe(Rpc::Status, &Bytes::new()).is_none());
    assert!(describe(Rpc::Put, &Bytes::from_static(&[0xff])).is_none());
}

/// A collector that keeps the path and the message of one request.
async fn collector(listener: tokio::net::TcpListener) -> (String, otlp::ExportTraceServiceRequest) {
    use http_body_util::{BodyExt, Full};
    let (stream, _) = listener.accept().await.unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let service =
        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let sender = sender.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                sender.send((path, body)).unwrap();
                let answer = http::Response::builder().header("grpc-status", "0");
                answer.body(Full::<Bytes>::default())
            }
        });
    let connection = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
    tokio::spawn(connection);
    let (path, body) = receiver.recv().await.unwrap();
    (path, otlp::ExportTraceServiceRequest::decode(&body[5..]).unwrap())
}

#[tokio::test]
async fn a_collector_gets_a_large_batch_without_waiting_for_the_next_round() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = tracer(1_000_000).settings.clone();
    settings.address = listener.local_addr().unwrap().to_string();
    let metrics = Metrics::new(false, &crate::config::FeatureGates::default());
    let tracer = Arc::new(Tracer::new(settings, Arc::new(metrics)));
    for _ in 0..BATCH {
        tracer.begin("/etcdserverpb.KV/Range", &HeaderMap::new()).unwrap().end(0, None);
    }
    let stop = CancellationToken::new();
    let exporter = tokio::spawn(Exporter::new(tracer).run(stop.clone()));
    let collected = tokio::time::timeout(Duration::from_secs(60), collector(listener)).await;
    let (path, request) = collected.unwrap();
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let spans = &request.resource_spans[0].scope_spans[0].spans;
    assert_eq!((spans.len(), &*spans[0].name), (BATCH, "etcdserverpb.KV/Range"));
    stop.cancel();
    exporter.await.unwrap();
}

#[tokio::test]
async fn spans_of_an_absent_collector_wait_within_bounds() {
    let tracer = tracer(1_000_000);
    for _ in 0..QUEUE_MAX {
        tracer.begin("/etcdserverpb.KV/Put", &HeaderMap::new()).unwrap().end(0, None);
    }
    let stop = CancellationToken::new();
    stop.cancel();
    // Nobody listens on this port; the exporter must come back and keep what it could not send.
    let run = Exporter::new(tracer.clone()).run(stop);
    tokio::time::timeout(Duration::from_secs(60), run).await.unwrap();
    assert_eq!(tracer.queue.lock().len(), QUEUE_MAX);
    assert_eq!(tracer.metrics.traces_dropped_spans_total.get(), 0);
}
