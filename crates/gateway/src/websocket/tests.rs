use prost::Message as _;
use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb::PutRequest;
use tokio::io::DuplexStream;

use super::*;
use crate::call::tests::{LIMITS, Recorder};
use crate::frames::tests::masked;

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
/// A close frame with the code of a normal end.
const GOOD_BYE: &[u8] = b"\x88\x02\x03\xe8";

fn handshake(path: &str) -> Request<()> {
    Request::get(path)
        .header(CONNECTION, "keep-alive, Upgrade")
        .header(UPGRADE, "WebSocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap()
}

/// Everything that the server says until the connection ends, while `client` speaks.
async fn conversation<F: Future<Output = DuplexStream>>(
    path: &str,
    services: &Recorder,
    client: impl FnOnce(DuplexStream) -> F,
) -> Vec<u8> {
    let upgrade = Upgrade::new(&handshake(path)).unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let listening = async {
        let mut stream = client(ours).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (answer, ()) = tokio::join!(listening, upgrade.serve(theirs, services, LIMITS));
    answer
}

async fn say(mut stream: DuplexStream, frames: &[Vec<u8>]) -> DuplexStream {
    stream.write_all(&frames.concat()).await.unwrap();
    stream
}

#[test]
fn the_handshake_of_the_standard_is_answered() {
    let request = handshake("/v3/watch");
    assert!(is_upgrade(&request));
    let response = Upgrade::new(&request).unwrap().response();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(response.headers()[UPGRADE], "websocket");
    assert!(!response.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
}

#[test]
fn what_is_no_handshake_is_refused_or_no_upgrade() {
    let status = |request: &Request<()>| Upgrade::new(request).unwrap_err().as_u16();
    let with = |name: HeaderName, value: &'static str| {
        let mut request = handshake("/v3/watch");
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        request
    };
    assert_eq!(status(&with(SEC_WEBSOCKET_VERSION, "8")), 400);
    assert_eq!(status(&with(SEC_WEBSOCKET_KEY, "c2hvcnQ=")), 400);
    assert_eq!(status(&with(SEC_WEBSOCKET_KEY, "!")), 400);
    let mut post = handshake("/v3/watch");
    *post.method_mut() = Method::POST;
    assert_eq!(status(&post), 405);
    assert_eq!(refuse(StatusCode::BAD_REQUEST).headers()[SEC_WEBSOCKET_VERSION], "13");
    assert!(!is_upgrade(&with(UPGRADE, "h2c")));
    assert!(!is_upgrade(&with(CONNECTION, "close")));
    let mut http2 = handshake("/v3/watch");
    *http2.version_mut() = Version::HTTP_2;
    assert!(!is_upgrade(&http2));
}

#[test]
fn a_browser_s_token_is_found() {
    let token = |headers: &[(HeaderName, &'static str)]| {
        let mut request = handshake("/v3/watch");
        for (name, value) in headers {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let upgrade = Upgrade::new(&request).unwrap();
        let token = upgrade.request.headers().get(AUTHORIZATION).cloned();
        let protocol = upgrade.response().headers().get(SEC_WEBSOCKET_PROTOCOL).cloned();
        let text =
            |value: Option<HeaderValue>| value.map(|value| value.to_str().unwrap().to_owned());
        (text(token), text(protocol))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(token(&[]), (None, None));
    let protocol = (SEC_WEBSOCKET_PROTOCOL, "Bearer, a.b");
    assert_eq!(token(std::slice::from_ref(&protocol)), (some("Bearer a.b"), some("Bearer")));
    let cookie = (COOKIE, "x=1; token=c.d");
    assert_eq!(token(std::slice::from_ref(&cookie)), (some("Bearer c.d"), None));
    assert_eq!(token(&[protocol, cookie]), (some("Bearer c.d"), some("Bearer")));
    assert_eq!(token(&[(AUTHORIZATION, "e.f")]), (some("e.f"), None));
    assert_eq!(token(&[(SEC_WEBSOCKET_PROTOCOL, "chat")]), (None, None));
}

#[tokio::test]
async fn each_request_is_a_message_and_each_answer_too() {
    let services = Recorder::default();
    let answer = conversation("/v3/watch", &services, |mut stream| async move {
        for id in ["1", "2"] {
            let create = format!(r#"{{"create_request":{{"watch_id":{id}}}}}"#);
            stream.write_all(&masked(TEXT, create.as_bytes())).await.unwrap();
            let mut answer = [0; 29];
            stream.read_exact(&mut answer).await.unwrap();
            let expected = format!(r#"{{"result":{{"watch_id":"{id}"}}}}"#);
            assert_eq!(&answer[..], frames::text(expected.as_bytes()));
        }
        let mut pong = [0; 6];
        stream.write_all(&masked(PING, b"ping")).await.unwrap();
        stream.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong[..], frames::pong(b"ping"));
        say(stream, &[masked(CLOSE, b"")]).await
    })
    .await;
    assert_eq!(answer, GOOD_BYE);
    assert_eq!(services.recorded().len(), 1);
}

#[tokio::test]
async fn a_single_answer_ends_the_conversation() {
    let put = PutRequest { key: "foo".into(), ..Default::default() };
    for (refusal, expected) in [
        (None, "{}"),
        (
            Some(RpcError::other(Code::NotFound, "why")),
            r#"{"code":5,"error":"why","message":"why"}"#,
        ),
    ] {
        let services = Recorder { refusal, ..Default::default() };
        let answer = conversation("/v3/kv/put", &services, |stream| async move {
            say(stream, &[masked(TEXT, br#"{"key":"Zm9v"}"#)]).await
        })
        .await;
        assert_eq!(answer, [&frames::text(expected.as_bytes()), GOOD_BYE].concat());
        let request = services.recorded()[0].request.clone().unwrap();
        assert_eq!(PutRequest::decode(request).unwrap(), put);
    }
    let services = Recorder::default();
    let answer = conversation("/v3/nope", &services, std::future::ready).await;
    let not_found = br#"{"code":5,"error":"Not Found","message":"Not Found"}"#;
    assert_eq!(answer, [&frames::text(not_found), GOOD_BYE].concat());
}

#[tokio::test]
async fn a_call_that_reads_no_more_lets_the_client_speak_on() {
    let services = Recorder { never_answers: true, ..Default::default() };
    let answer = conversation("/v3/election/observe", &services, |stream| async move {
        let message = masked(TEXT, b"{}");
        let ping = masked(PING, b"");
        say(stream, &[message.clone(), message.clone(), message, ping, masked(CLOSE, b"")]).await
    })
    .await;
    assert_eq!(answer, [frames::pong(b""), GOOD_BYE.to_vec()].concat());
}

#[tokio::test]
async fn a_broken_protocol_or_a_lost_client_ends_the_call() {
    let services = Recorder::default();
    let answer = conversation("/v3/watch", &services, |stream| async move {
        say(stream, &[b"\x81\x01a".to_vec()]).await
    })
    .await;
    assert_eq!(answer, b"\x88\x02\x03\xea");
    let answer = conversation("/v3/watch", &services, |stream| async move {
        say(stream, &[masked(TEXT, &vec![b' '; 100_000])[..14].to_vec()]).await
    })
    .await;
    assert_eq!(answer, b"\x88\x02\x03\xf1");
    let answer = conversation("/v3/watch", &services, |mut stream| async move {
        stream.shutdown().await.unwrap();
        stream
    })
    .await;
    assert_eq!(answer, b"");
}
