//! HTTP beside the gateway's calls, as real programs see it: WebSocket, listeners, rules, the description of all routes,
//! metrics for Prometheus's own checker, variables and profiles.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use retcd_testkit::{Member, Port, SOON, server_binary};
use serde_json::{Value, json};

/// How long a machine under load may take for what is usually done at once.
const PATIENCE: Duration = Duration::from_secs(120);

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{}: {error}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Runs curl to its end. `None`: there was no answer.
fn curl(url: &str, args: &[&str]) -> Option<Answer> {
    let output = Command::new("curl")
        .args(["--silent", "--include", "--max-time", "120"])
        .args(args)
        .arg(url)
        .output()
        .expect("curl is installed");
    if !output.status.success() {
        return None;
    }
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = output.split_once("\r\n\r\n").expect("a head ends with an empty line");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Some(Answer {
        status: status.unwrap_or_else(|| panic!("no status: {head}")),
        head: head.replace('\r', ""),
        body: body.to_owned(),
    })
}

#[track_caller]
fn get(url: &str) -> Answer {
    curl(url, &[]).unwrap_or_else(|| panic!("no answer from {url}"))
}

#[track_caller]
fn post(url: &str, body: &str) -> Answer {
    curl(url, &["--data-binary", body]).unwrap_or_else(|| panic!("no answer from {url}"))
}

fn base(member: &Member) -> String {
    format!("http://{}", member.endpoint())
}

/// A client of WebSocket, as simple as one can be: its messages are short, and it answers nothing.
struct WebSocket(TcpStream);

impl WebSocket {
    fn open(endpoint: &str, path: &str) -> Self {
        let mut stream = TcpStream::connect(endpoint).expect("the member listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit can be set");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .expect("the member reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the member answers");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("a head is text");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        WebSocket(stream)
    }

    /// Sends a frame with a mask of zeros, which leaves the bytes as they are.
    fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126);
        let head = [0x80 | opcode, 0x80 | length.expect("a short message"), 0, 0, 0, 0];
        self.0.write_all(&[&head, payload].concat()).expect("the member reads");
    }

    /// The opcode and the payload of the next frame.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("the member sends a frame");
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length).expect("a length");
                usize::from(u16::from_be_bytes(length))
            }
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).expect("a payload");
        (head[0] & 0x0f, payload)
    }

    #[track_caller]
    fn next_json(&mut self) -> Value {
        let (opcode, payload) = self.next();
        assert_eq!(opcode, 1, "{}", String::from_utf8_lossy(&payload));
        serde_json::from_slice(&payload).expect("a message is JSON")
    }
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

#[test]
fn a_watch_over_websocket_is_a_dialogue() {
    let member = Member::start(&server_binary(), &[]);
    let mut socket = WebSocket::open(&member.endpoint(), "/v3/watch");
    socket.send(TEXT, br#"{"create_request":{"key":"Zm9v","watch_id":"1"}}"#);
    assert_eq!(socket.next_json()["result"]["created"], json!(true));
    socket.send(TEXT, br#"{"create_request":{"key":"YmFy","watch_id":"2"}}"#);
    assert_eq!(socket.next_json()["result"]["watch_id"], "2");
    for (key, id) in [("YmFy", "2"), ("Zm9v", "1")] {
        let put = json!({"key": key, "value": "dg=="}).to_string();
        assert_eq!(post(&format!("{}/v3/kv/put", base(&member)), &put).status, 200);
        let result = &socket.next_json()["result"];
        assert_eq!(
            (&result["watch_id"], &result["events"][0]["kv"]["key"]),
            (&json!(id), &json!(key))
        );
    }
    socket.send(PING, b"still there?");
    assert_eq!(socket.next(), (PONG, b"still there?".to_vec()));
    socket.send(TEXT, b"nonsense");
    assert_eq!(socket.next_json()["error"]["code"], 3);
    assert_eq!(socket.next(), (CLOSE, 1000_u16.to_be_bytes().to_vec()));
}

#[test]
fn a_watch_over_websocket_ends_with_its_client_and_with_the_member() {
    let mut member = Member::start(&server_binary(), &[]);
    let watchers = || -> String {
        let metrics = get(&format!("{}/metrics", base(&member))).body;
        let name = "etcd_debugging_mvcc_watcher_total ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.expect("the metric exists").to_owned()
    };
    let open = || {
        let mut socket = WebSocket::open(&member.endpoint(), "/v3/watch");
        socket.send(TEXT, br#"{"create_request":{"key":"Zm9v"}}"#);
        socket.next_json();
        socket
    };
    let socket = open();
    assert_eq!(watchers(), "1");
    drop(socket);
    let until = Instant::now() + PATIENCE;
    while watchers() != "0" {
        assert!(Instant::now() < until, "the watch outlives its client");
    }
    let mut socket = open();
    member.process().terminate();
    assert_eq!(socket.next_json()["error"]["code"], 14);
    assert_eq!(socket.next().0, CLOSE);
    assert!(!member.process().wait(SOON).success(), "it ends by the signal");
}

#[test]
fn a_single_call_over_websocket_has_a_single_answer() {
    let member = Member::start(&server_binary(), &[]);
    let mut socket = WebSocket::open(&member.endpoint(), "/v3/kv/put");
    socket.send(TEXT, br#"{"key":"Zm9v","value":"YmFy"}"#);
    assert_eq!(socket.next_json()["header"]["revision"], "2");
    assert_eq!(socket.next().0, CLOSE);
    let mut socket = WebSocket::open(&member.endpoint(), "/v3/nothing");
    assert_eq!(socket.next_json()["message"], "Not Found");
}

#[test]
fn http_has_a_listener_of_its_own_when_asked() {
    let port = Port::claim();
    let http = format!("http://127.0.0.1:{}", port.number());
    let member = Member::start(&server_binary(), &["--listen-client-http-urls", &http]);
    assert_eq!(get(&format!("{http}/health")).body, r#"{"health":"true","reason":""}"#);
    assert_eq!(post(&format!("{http}/v3/kv/put"), r#"{"key":"Zm9v"}"#).status, 200);
    // gRPC alone: HTTP/1.1 is hung up on, other HTTP/2 is told what is wrong.
    assert!(curl(&format!("{}/health", base(&member)), &["--http1.1"]).is_none());
    let grpc = |content_type: &str, url: &str| {
        let header = format!("Content-Type: {content_type}");
        let args = ["--http2-prior-knowledge", "--header", &header, "--request", "POST"];
        let path = format!("{url}/etcdserverpb.Maintenance/Nope");
        curl(&path, &args).expect("there is an answer")
    };
    assert_eq!(grpc("application/json", &base(&member)).status, 415);
    let answer = grpc("application/grpc", &base(&member));
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("12")));
    // And no gRPC here.
    assert_eq!(grpc("application/grpc", &http).status, 404);
}

#[test]
fn hosts_and_origins_are_held_to_the_lists() {
    let args = ["--host-whitelist", "127.0.0.1,example.com", "--cors", "http://page.example"];
    let member = Member::start(&server_binary(), &args);
    let put = format!("{}/v3/kv/put", base(&member));
    let ask = |header: &str| {
        let args = ["--header", header, "--data-binary", r#"{"key":"Zm9v"}"#];
        curl(&put, &args).expect("there is an answer")
    };
    assert_eq!(ask("Host: example.com:1234").status, 200);
    let refused = ask("Host: evil.example");
    assert_eq!(refused.status, 421);
    assert!(refused.body.contains("CVE-2018-5702"), "{}", refused.body);
    let allowed = "access-control-allow-origin";
    assert_eq!(ask("Origin: http://page.example").header(allowed), Some("http://page.example"));
    let other = ask("Origin: http://other.example");
    assert_eq!((other.status, other.header(allowed)), (200, None));
}

#[test]
fn every_described_route_is_there_and_refuses_what_is_no_request() {
    let member = Member::start(&server_binary(), &[]);
    let document = get(&format!("{}/openapi.json", base(&member))).json();
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let kept = std::fs::read_to_string(kept).expect("the description is kept");
    let kept: Value = serde_json::from_str(&kept).expect("the description is JSON");
    assert!(document == kept, "the member describes itself otherwise than docs/openapi.json");
    let paths = document["paths"].as_object().expect("paths by name");
    assert!(paths.len() > 40);
    let mut fields_refused = 0;
    for path in paths.keys() {
        let url = format!("{}{path}", base(&member));
        for body in [r#"{"key":"#, "nonsense", "[]", "{,}"] {
            let answer = post(&url, body);
            let refusal = answer.json();
            assert_eq!((answer.status, &refusal["code"]), (400, &json!(3)), "{path} {body}");
            assert_eq!(refusal["error"], refusal["message"], "{path} {body}");
            assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        }
        for (field, body) in wrong_fields(&document, path) {
            let answer = post(&url, &body);
            let context = format!("{path} {field}: {}", answer.body);
            assert_eq!((answer.status, &answer.json()["code"]), (400, &json!(3)), "{context}");
            fields_refused += 1;
        }
        half_a_request(&member, path);
        let answer = get(&url);
        assert_eq!((answer.status, &answer.json()["code"]), (501, &json!(12)), "{path}");
        assert_eq!(post(&format!("{url}/x"), "{}").status, 404, "{path}");
    }
    assert!(fields_refused > 60, "{fields_refused} fields with a type of their own");
    // Nothing of all this was done.
    let list =
        post(&format!("{}/v3/kv/range", base(&member)), r#"{"key":"AA==","range_end":"AA=="}"#);
    assert_eq!((list.status, &list.json()["header"]["revision"]), (200, &json!("1")));
}

/// For each field of a route's request a body in which its value has the wrong type.
fn wrong_fields(document: &Value, path: &str) -> Vec<(String, String)> {
    let content = &document["paths"][path]["post"]["requestBody"]["content"];
    let schema = content["application/json"]["schema"]["$ref"].as_str().expect("a schema by name");
    let schema = document.pointer(&schema[1..]).expect("it is described");
    let fields = schema["properties"].as_object().into_iter().flatten();
    let wrong = fields.filter_map(|(name, field)| {
        let value = match (field["type"].as_str()?, field["format"].as_str()) {
            ("string", Some("byte")) => json!("no base64!"),
            ("string" | "integer", Some("int64" | "uint64")) | ("integer", _) => json!("seven"),
            ("boolean", _) => json!("true"),
            ("array", _) => json!({}),
            ("string", None) if field.get("enum").is_none() => json!(7),
            _ => return None,
        };
        Some((name.clone(), json!({ name.as_str(): value }).to_string()))
    });
    wrong.collect()
}

/// A client that goes in the middle of its body is not answered, and does no harm.
fn half_a_request(member: &Member, path: &str) {
    let mut stream = TcpStream::connect(member.endpoint()).expect("the member listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit can be set");
    write!(stream, "POST {path} HTTP/1.1\r\nHost: m\r\nContent-Length: 99\r\n\r\n{{\"key\":\"")
        .expect("the member reads");
    stream.shutdown(std::net::Shutdown::Write).expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the member closes the connection");
    assert!(!answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
}

#[test]
fn variables_and_profiles_can_be_read() {
    let member = Member::start(&server_binary(), &["--enable-pprof"]);
    let vars = get(&format!("{}/debug/vars", base(&member))).json();
    assert_eq!(vars["raft.status"]["raftState"], "StateLeader");
    let profiles = format!("{}/debug/pprof", base(&member));
    // Packed, as profiles are: the first bytes of gzip.
    let profile = Command::new("curl")
        .args(["--silent", "--fail", "--max-time", "120", &format!("{profiles}/profile?seconds=1")])
        .output()
        .expect("curl is installed");
    assert!(profile.status.success() && profile.stdout.starts_with(&[0x1f, 0x8b]));
    assert_eq!(get(&format!("{profiles}/heap")).status, 501);
    let plain = Member::start(&server_binary(), &[]);
    assert_eq!(get(&format!("{}/debug/pprof/", base(&plain))).status, 404);
}

#[test]
fn prometheus_own_checker_finds_nothing_but_etcd_s_names() {
    let promtool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    if Command::new(&promtool).arg("--version").output().is_err() {
        eprintln!(
            "skipped: there is no promtool; Debian's package prometheus has it, PROMTOOL names one"
        );
        return;
    }
    let member = Member::start(&server_binary(), &["--metrics=extensive"]);
    for body in [r#"{"key":"Zm9v"}"#, r#"{"key":"Zm9v","lease":"9"}"#] {
        post(&format!("{}/v3/kv/put", base(&member)), body);
    }
    let metrics = get(&format!("{}/metrics", base(&member))).body;
    let mut check = Command::new(&promtool);
    let mut check = retcd_testkit::Process::spawn(check.args(["check", "metrics"]));
    check.send_all(metrics.as_bytes());
    check.wait(PATIENCE);
    let remarks = [check.stdout(), check.stderr()].concat();
    let remarks = String::from_utf8(remarks).expect("remarks are text");
    // What etcd has chosen must stay: gauges and histograms that end in `_total`, counters that do not, milliseconds.
    let chosen = [
        "non-counter metrics should not have \"_total\" suffix",
        "counter metrics should have \"_total\" suffix",
        "use base unit \"seconds\" instead of \"milliseconds\"",
    ];
    for remark in remarks.lines() {
        let (name, text) = remark.split_once(' ').unwrap_or((remark, ""));
        assert!(name.starts_with("etcd_") && chosen.contains(&text), "{remark}");
    }
    assert!(remarks.contains("etcd_debugging_mvcc_keys_total"), "the checker has seen the metrics");
}
