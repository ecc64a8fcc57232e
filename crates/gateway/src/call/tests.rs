use std::collections::VecDeque;
use std::sync::Mutex;

use http::{HeaderValue, StatusCode};
use http_body_util::Full;
use prost::Message;
use retcd_api::etcdserverpb::{PutRequest, PutResponse, WatchRequest, WatchResponse};

use super::*;

pub(crate) const LIMITS: Limits = Limits { message_bytes_max: 1000 };

/// What the services were asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) metadata: HeaderMap,
    pub(crate) request: Option<Bytes>,
}

/// Services that keep what they are asked and answer with what they are told.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) calls: Mutex<Vec<Call>>,
    pub(crate) refusal: Option<RpcError>,
    pub(crate) never_answers: bool,
    pub(crate) answers: Vec<Result<Bytes, RpcError>>,
}

impl Recorder {
    fn record(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        request: Option<Bytes>,
    ) -> Result<(), RpcError> {
        self.calls.lock().unwrap().push(Call { method, metadata, request });
        self.refusal.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn recorded(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

impl Services for Recorder {
    async fn unary(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        request: Bytes,
    ) -> Result<Bytes, RpcError> {
        self.record(method, metadata, Some(request))?;
        if self.never_answers {
            std::future::pending::<()>().await;
        }
        Ok(Bytes::new())
    }

    fn server_stream(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        request: Bytes,
    ) -> Result<Box<dyn Answers>, RpcError> {
        self.record(method, metadata, Some(request))?;
        Ok(Box::new(Prepared { answers: self.answers.clone().into(), is_open: self.never_answers }))
    }

    fn bidi_stream(
        &self,
        method: &'static str,
        metadata: HeaderMap,
        requests: Requests,
    ) -> Result<Box<dyn Answers>, RpcError> {
        self.record(method, metadata, None)?;
        Ok(Box::new(Echo(requests)))
    }
}

struct Prepared {
    answers: VecDeque<Result<Bytes, RpcError>>,
    is_open: bool,
}

impl Answers for Prepared {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        match self.answers.pop_front() {
            None if self.is_open => Poll::Pending,
            answer => Poll::Ready(answer),
        }
    }
}

/// Answers each watch request with the id that it brings.
struct Echo(Requests);

impl Answers for Echo {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        self.0.poll_next(context).map(|request| request.map(|request| Ok(echo(&request?))))
    }
}

fn echo(request: &[u8]) -> Bytes {
    use retcd_api::etcdserverpb::watch_request::RequestUnion;
    let request = WatchRequest::decode(request).unwrap();
    let watch_id = match request.request_union {
        Some(RequestUnion::CreateRequest(create)) => create.watch_id,
        Some(RequestUnion::CancelRequest(cancel)) => cancel.watch_id,
        Some(RequestUnion::ProgressRequest(_)) | None => 0,
    };
    WatchResponse { watch_id, ..Default::default() }.encode_to_vec().into()
}

fn post(path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::post(path).body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

/// Status and body of the answer.
async fn ask(services: &Recorder, request: Request<Full<Bytes>>) -> (u16, String) {
    let response = handle(request, services, LIMITS).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let is_success = response.status() == StatusCode::OK;
    assert_eq!(response.headers().contains_key("grpc-metadata-content-type"), is_success);
    let status = response.status().as_u16();
    let body = match response.into_body() {
        Body::Whole(body) => body.into(),
        Body::Lines(mut lines) => {
            let mut body = Vec::new();
            while let Some(line) = std::future::poll_fn(|context| lines.poll_line(context)).await {
                assert_eq!(line.split_inclusive(|byte| *byte == b'\n').count(), 1);
                assert!(line.ends_with(b"\n"));
                body.extend_from_slice(&line);
            }
            body
        }
    };
    (status, String::from_utf8(body).unwrap())
}

fn refusal(text: &str, code: u8) -> String {
    format!(r#"{{"code":{code},"error":"{text}","message":"{text}"}}"#)
}

#[tokio::test]
async fn every_route_reaches_its_method() {
    for route in routes() {
        let services = Recorder::default();
        let (status, _) = ask(&services, post(&format!("/v3/{}", route.path), "{}")).await;
        assert_eq!(status, 200, "{}", route.path);
        assert_eq!(services.recorded()[0].method, route.method);
    }
}

#[tokio::test]
async fn every_route_refuses_other_methods_half_a_body_and_nonsense() {
    for route in routes() {
        let services = Recorder::default();
        let path = format!("/v3/{}", route.path);
        for verb in ["GET", "PUT", "DELETE", "HEAD"] {
            let request = Request::builder().method(verb).uri(&path).body(Full::default()).unwrap();
            let answer = ask(&services, request).await;
            assert_eq!(answer, (501, refusal("Method Not Allowed", 12)), "{verb} {path}");
        }
        assert!(services.recorded().is_empty(), "{path}");
        let answer = ask(&services, post(&path, r#"{"a":"#)).await;
        assert_eq!(answer, (400, refusal("unexpected EOF", 3)), "{path}");
        for nonsense in ["nonsense", "{,}", "[]", "5", "{\"a\" 1}", "\u{0}"] {
            let (status, body) = ask(&services, post(&path, nonsense)).await;
            assert_eq!(status, 400, "{path} {nonsense}");
            assert!(body.starts_with(r#"{"code":3,"error":""#), "{body}");
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let services = Recorder::default();
    for path in ["/v3/", "/v3/kv/nope", "/v3/kv/put/", "/v3beta/x", "/v3alpha/x"] {
        assert_eq!(ask(&services, post(path, "{}")).await, (404, refusal("Not Found", 5)));
    }
}

#[tokio::test]
async fn a_unary_call_brings_one_message_and_ignores_what_follows() {
    let put = PutRequest { key: "foo".into(), value: "bar".into(), ..Default::default() };
    let json = r#"{"key":"Zm9v","value":"YmFy"}"#;
    for body in [json.to_owned(), format!("{json} trailing"), format!("\n{json}{json}")] {
        let services = Recorder::default();
        let answer = ask(&services, post("/v3/kv/put", &body)).await;
        assert_eq!(answer, (200, "{}".to_owned()));
        let request = services.recorded()[0].request.clone().unwrap();
        assert_eq!(PutRequest::decode(request).unwrap(), put);
    }
    let services = Recorder::default();
    ask(&services, post("/v3/kv/put", "")).await;
    assert_eq!(services.recorded()[0].request, Some(Bytes::new()));
}

#[tokio::test]
async fn a_large_request_is_refused_before_the_services_see_it() {
    let services = Recorder::default();
    let body = |base64_chars: usize| format!(r#"{{"value":"{}"}}"#, "A".repeat(base64_chars));
    let answer = ask(&services, post("/v3/kv/put", &body(1336))).await;
    let text = "grpc: received message larger than max (1005 vs. 1000)";
    assert_eq!(answer, (429, refusal(text, 8)));
    // So much that the end of the value is not awaited.
    let unfinished = post("/v3/kv/put", &body(1 << 20)[..(1 << 20)]);
    assert_eq!(ask(&services, unfinished).await.0, 429);
    assert!(services.recorded().is_empty());
    assert_eq!(ask(&services, post("/v3/kv/put", &body(1320))).await.0, 200);
}

#[tokio::test]
async fn refusals_have_their_http_status() {
    for (code, status) in [
        (Code::Canceled, 499),
        (Code::Unknown, 500),
        (Code::InvalidArgument, 400),
        (Code::DeadlineExceeded, 504),
        (Code::NotFound, 404),
        (Code::AlreadyExists, 409),
        (Code::PermissionDenied, 403),
        (Code::ResourceExhausted, 429),
        (Code::FailedPrecondition, 400),
        (Code::Aborted, 409),
        (Code::OutOfRange, 400),
        (Code::Unimplemented, 501),
        (Code::Internal, 500),
        (Code::Unavailable, 503),
        (Code::DataLoss, 500),
        (Code::Unauthenticated, 401),
    ] {
        let refused = Some(RpcError::other(code, "why"));
        let services = Recorder { refusal: refused, ..Default::default() };
        for path in ["/v3/kv/put", "/v3/watch", "/v3/maintenance/snapshot"] {
            let answer = ask(&services, post(path, "{}")).await;
            assert_eq!(answer, (status, refusal("why", code as u8)), "{path}");
        }
    }
}

#[tokio::test]
async fn only_metadata_and_the_token_are_passed_on() {
    let services = Recorder::default();
    let mut request = post("/v3alpha/kv/range", "{}");
    for (name, value) in [
        ("authorization", "token"),
        ("grpc-metadata-hasleader", "true"),
        ("grpc-metadata-", "no name"),
        ("hasleader", "true"),
        ("accept", "*/*"),
        ("grpc-timeout", "1H"),
    ] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    ask(&services, request).await;
    let mut expected = HeaderMap::new();
    expected.insert("authorization", HeaderValue::from_static("token"));
    expected.insert("hasleader", HeaderValue::from_static("true"));
    assert_eq!(services.recorded()[0].metadata, expected);
}

#[tokio::test]
async fn each_request_of_a_stream_has_its_line() {
    let services = Recorder::default();
    let body = r#"{"create_request":{"watch_id":"1"}}{"cancelRequest":{"watchId":2}}
        {"progress_request":{}}"#;
    let answer = ask(&services, post("/v3/watch", body)).await;
    let lines =
        "{\"result\":{\"watch_id\":\"1\"}}\n{\"result\":{\"watch_id\":\"2\"}}\n{\"result\":{}}\n";
    assert_eq!(answer, (200, lines.to_owned()));
    assert_eq!(ask(&services, post("/v3/watch", "")).await, (200, String::new()));
}

#[tokio::test]
async fn an_error_after_the_first_line_is_a_line() {
    let services = Recorder::default();
    let body = r#"{"create_request":{"watch_id":"1"}} {"create_request":"#;
    let lines = "{\"result\":{\"watch_id\":\"1\"}}\n{\"error\":{\"code\":3,\"message\":\"unexpected EOF\"}}\n";
    assert_eq!(ask(&services, post("/v3/watch", body)).await, (200, lines.to_owned()));

    let snapshot = "/v3/maintenance/snapshot";
    let failed = Err(RpcError::Stopped);
    let services =
        Recorder { answers: vec![Ok(Bytes::new()), failed.clone()], ..Default::default() };
    let lines =
        "{\"result\":{}}\n{\"error\":{\"code\":14,\"message\":\"etcdserver: server stopped\"}}\n";
    assert_eq!(ask(&services, post(snapshot, "{}")).await, (200, lines.to_owned()));
    let services = Recorder { answers: vec![failed], ..Default::default() };
    let refused = refusal("etcdserver: server stopped", 14);
    assert_eq!(ask(&services, post(snapshot, "{}")).await, (503, refused));
}

#[tokio::test]
async fn an_answer_that_is_no_response_is_an_internal_error() {
    let services =
        Recorder { answers: vec![Ok(Bytes::from_static(&[0xff]))], ..Default::default() };
    assert_eq!(ask(&services, post("/v3/maintenance/snapshot", "{}")).await.0, 500);
    assert!(PutResponse::decode(&[0xff][..]).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline() {
    let services =
        Recorder { never_answers: true, answers: vec![Ok(Bytes::new())], ..Default::default() };
    let within = |path, timeout| {
        let mut request = post(path, "{}");
        request.headers_mut().insert(TIMEOUT, HeaderValue::from_static(timeout));
        ask(&services, request)
    };
    let late = refusal("context deadline exceeded", 4);
    assert_eq!(within("/v3/lock/lock", "5S").await, (504, late));
    let lines =
        "{\"result\":{}}\n{\"error\":{\"code\":4,\"message\":\"context deadline exceeded\"}}\n";
    assert_eq!(within("/v3/election/observe", "100m").await, (200, lines.to_owned()));
    assert_eq!(within("/v3/lock/lock", "5x").await, (400, refusal("invalid grpc-timeout: 5x", 3)));
}

#[test]
fn timeouts_are_read_in_every_unit() {
    for (text, expected) in [
        ("2H", Some(Duration::from_secs(7200))),
        ("3M", Some(Duration::from_secs(180))),
        ("5S", Some(Duration::from_secs(5))),
        ("100m", Some(Duration::from_millis(100))),
        ("7u", Some(Duration::from_micros(7))),
        ("99999999n", Some(Duration::from_nanos(99_999_999))),
        ("", None),
        ("S", None),
        ("5", None),
        ("-1S", None),
        ("123456789S", None),
        ("1é", None),
    ] {
        assert_eq!(timeout(text), expected, "{text}");
    }
}
