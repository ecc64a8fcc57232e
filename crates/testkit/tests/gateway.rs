//! The JSON gateway as real curl sees it. With a release of etcd at hand the same calls must have the same outcome there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use retcd_testkit::{Member, Process, SOON, real_etcd, server_binary};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The servers that must agree: ours, and etcd's own if there is one.
fn servers() -> Vec<PathBuf> {
    let real = real_etcd().map(|dir| dir.join("etcd"));
    std::iter::once(server_binary()).chain(real).collect()
}

fn start(server: &Path) -> Member {
    Member::start(server, &[])
}

struct Answer {
    status: u16,
    content_type: String,
    text: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{}: {error}", self.text))
    }
}

fn url(member: &Member, path: &str) -> String {
    format!("http://{}{path}", member.endpoint())
}

/// Runs curl to its end.
fn curl(member: &Member, path: &str, args: &[&str]) -> Answer {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30"])
        .args(["--write-out", "\n%{http_code} %{content_type}"])
        .args(args)
        .arg(url(member, path))
        .output()
        .expect("curl is installed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {args:?} {path}: {stderr}");
    let output = String::from_utf8(output.stdout).expect("answers are text");
    let (text, about) = output.rsplit_once('\n').expect("curl writes a last line");
    let (status, content_type) = about.split_once(' ').expect("curl writes two words");
    Answer {
        status: status.parse().expect("a status is a number"),
        content_type: content_type.to_owned(),
        text: text.to_owned(),
    }
}

fn post(member: &Member, path: &str, body: &str) -> Answer {
    curl(member, path, &["--data-binary", body])
}

/// The answer of a call that must succeed.
#[track_caller]
fn call(member: &Member, path: &str, body: &Value) -> Value {
    let answer = post(member, path, &body.to_string());
    assert_eq!(
        (answer.status, &*answer.content_type),
        (200, "application/json"),
        "{path} {body}: {}",
        answer.text
    );
    answer.json()
}

/// A curl that stays open; its lines come as they are written.
fn open(member: &Member, path: &str, args: &[&str]) -> Process {
    Process::spawn(
        Command::new("curl").args(["--silent", "--no-buffer"]).args(args).arg(url(member, path)),
    )
}

/// The next line of a stream.
#[track_caller]
fn next_line(stream: &mut Process) -> Value {
    let line = stream.expect("{", SOON);
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// An answer without what differs between two members.
fn without_header(mut answer: Value) -> Value {
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("header");
    }
    answer
}

#[test]
fn the_walk_of_etcds_guide_works() {
    for server in servers() {
        let member = start(&server);
        let put = call(&member, "/v3/kv/put", &json!({"key": "Zm9v", "value": "YmFy"}));
        assert_eq!(put["header"]["revision"], "2");
        for name in ["cluster_id", "member_id", "raft_term"] {
            assert!(put["header"][name].as_str().expect("a string").parse::<u64>().is_ok());
        }

        let kv = json!({
            "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy",
        });
        let one = call(&member, "/v3/kv/range", &json!({"key": "Zm9v"}));
        assert_eq!(without_header(one), json!({"kvs": [kv], "count": "1"}));
        let prefix = call(&member, "/v3/kv/range", &json!({"key": "Zm9v", "range_end": "Zm9w"}));
        assert_eq!(without_header(prefix), json!({"kvs": [kv], "count": "1"}));
        let none = call(&member, "/v3/kv/range", &json!({"key": "bm9uZQ=="}));
        assert_eq!(without_header(none), json!({}));

        let created = json!({
            "compare": [{"createRevision": "2", "target": "CREATE", "key": "Zm9v"}],
            "success": [{"requestPut": {"key": "Zm9v", "value": "YmF6", "prev_kv": true}}],
        });
        assert_eq!(without_header(call(&member, "/v3/kv/txn", &created))["succeeded"], json!(true));
        let version = json!({
            "compare": [{"version": "4", "result": "EQUAL", "target": "VERSION", "key": "Zm9v"}],
            "success": [{"requestRange": {"key": "Zm9v"}}],
            "failure": [{"request_delete_range": {"key": "Zm9v"}}],
        });
        let failed = without_header(call(&member, "/v3/kv/txn", &version));
        assert_eq!(failed["responses"][0]["response_delete_range"]["deleted"], "1");
        assert!(failed.get("succeeded").is_none(), "{failed}");
    }
}

#[test]
fn leases_are_granted_renewed_and_revoked() {
    for server in servers() {
        let member = start(&server);
        let granted = call(&member, "/v3/lease/grant", &json!({"ID": "-7", "TTL": 600}));
        assert_eq!(without_header(granted), json!({"ID": "-7", "TTL": "600"}));
        call(&member, "/v3/kv/put", &json!({"key": "Zm9v", "lease": -7}));

        let renewed = call(&member, "/v3/lease/keepalive", &json!({"ID": -7}));
        let renewed = without_header(renewed["result"].clone());
        assert_eq!(renewed, json!({"ID": "-7", "TTL": "600"}));
        let twice = post(&member, "/v3/lease/keepalive", r#"{"ID":"-7"}{"ID":"8"}"#);
        let lines: Vec<Value> =
            twice.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(without_header(lines[1]["result"].clone()), json!({"ID": "8"}));

        for path in ["/v3/lease/timetolive", "/v3/kv/lease/timetolive"] {
            let left = call(&member, path, &json!({"ID": "-7", "keys": true}));
            assert_eq!(left["grantedTTL"], "600");
            assert_eq!(left["keys"], json!(["Zm9v"]));
        }
        let leases = call(&member, "/v3/lease/leases", &json!({}));
        assert_eq!(without_header(leases), json!({"leases": [{"ID": "-7"}]}));
        assert_eq!(
            without_header(call(&member, "/v3/kv/lease/revoke", &json!({"ID": -7}))),
            json!({})
        );
        let gone = post(&member, "/v3/lease/revoke", r#"{"ID":-7}"#);
        let text = "etcdserver: requested lease not found";
        assert_eq!(gone.status, 404);
        assert_eq!(gone.json(), json!({"error": text, "code": 5, "message": text}));
    }
}

#[test]
fn members_and_status_are_told() {
    for server in servers() {
        let member = start(&server);
        let list = call(&member, "/v3/cluster/member/list", &json!({}));
        let member_id = list["header"]["member_id"].clone();
        assert_eq!(list["members"][0]["ID"], member_id);
        assert_eq!(list["members"][0]["name"], "m1");
        assert_eq!(list["members"][0]["clientURLs"], json!([url(&member, "")]));
        let status = call(&member, "/v3/maintenance/status", &json!({}));
        assert_eq!(status["leader"], member_id);
        for name in ["dbSize", "raftIndex", "raftTerm", "raftAppliedIndex", "dbSizeInUse"] {
            assert!(
                status[name].as_str().is_some_and(|text| text.parse::<u64>().is_ok()),
                "{name}"
            );
        }
        assert!(call(&member, "/v3/maintenance/hash", &json!({}))["hash"].is_u64());
    }
}

#[test]
fn a_watch_in_one_process_sees_the_puts_of_another() {
    for server in servers() {
        let member = start(&server);
        let create = r#"{"create_request":{"key":"Zm9v","range_end":"Zm9w","prev_kv":true}}"#;
        let mut watch = open(&member, "/v3/watch", &["--data-binary", create]);
        assert_eq!(next_line(&mut watch)["result"]["created"], json!(true));
        // The request body has ended; the watch goes on.
        for value in ["YQ==", "Yg=="] {
            call(&member, "/v3/kv/put", &json!({"key": "Zm9v", "value": value}));
            let event = &next_line(&mut watch)["result"]["events"][0];
            assert_eq!(event["kv"]["value"], value);
            assert!(event.get("type").is_none(), "a put has no type: {event}");
        }
        call(&member, "/v3/kv/deleterange", &json!({"key": "Zm9v"}));
        let event = &next_line(&mut watch)["result"]["events"][0];
        assert_eq!(
            (&event["type"], &event["prev_kv"]["value"]),
            (&json!("DELETE"), &json!("Yg=="))
        );
    }
}

#[test]
fn several_watches_share_one_body() {
    for server in servers() {
        let member = start(&server);
        let body = r#"{"create_request":{"key":"YQ==","watch_id":"1"}}
            {"create_request":{"key":"Yg==","watch_id":"2"}}{"cancel_request":{"watch_id":1}}"#;
        let mut watch = open(&member, "/v3/watch", &["--data-binary", body]);
        assert_eq!(next_line(&mut watch)["result"]["watch_id"], "1");
        assert_eq!(next_line(&mut watch)["result"]["watch_id"], "2");
        let canceled = &next_line(&mut watch)["result"];
        assert_eq!((&canceled["watch_id"], &canceled["canceled"]), (&json!("1"), &json!(true)));
        for key in ["YQ==", "Yg=="] {
            call(&member, "/v3/kv/put", &json!({"key": key}));
        }
        let event = &next_line(&mut watch)["result"];
        assert_eq!(
            (&event["watch_id"], &event["events"][0]["kv"]["key"]),
            (&json!("2"), &json!("Yg=="))
        );
    }
}

/// etcd answers only when the request body has ended, with this client.
#[test]
fn requests_are_answered_while_the_body_is_still_open() {
    let member = start(&server_binary());
    call(&member, "/v3/lease/grant", &json!({"ID": 7, "TTL": 600}));
    let upload = ["--request", "POST", "--upload-file", "."];
    let mut keep_alive = open(&member, "/v3/lease/keepalive", &upload);
    for id in ["7", "8"] {
        keep_alive.send_line(&json!({"ID": id}).to_string());
        assert_eq!(next_line(&mut keep_alive)["result"]["ID"], id);
    }
    keep_alive.send_all(b"");
    assert!(keep_alive.wait(SOON).success());
}

#[test]
fn the_gateway_speaks_http_2_and_every_prefix() {
    let member = start(&server_binary());
    for (index, prefix) in ["/v3", "/v3beta", "/v3alpha"].into_iter().enumerate() {
        let args = ["--http2-prior-knowledge", "--data-binary", r#"{"key":"Zm9v"}"#];
        let put = curl(&member, &format!("{prefix}/kv/put"), &args);
        assert_eq!(put.status, 200);
        assert_eq!(put.json()["header"]["revision"], (index + 2).to_string());
    }
    let create = r#"{"create_request":{"key":"Zm9v","start_revision":3}}"#;
    let args = ["--http2-prior-knowledge", "--data-binary", create];
    let mut watch = open(&member, "/v3/watch", &args);
    assert_eq!(next_line(&mut watch)["result"]["created"], json!(true));
    let events = &next_line(&mut watch)["result"]["events"];
    assert_eq!(events[0]["kv"]["mod_revision"], "3");
}

#[test]
fn a_watch_ends_when_its_client_goes() {
    let member = start(&server_binary());
    let watchers = || -> String {
        let metrics = curl(&member, "/metrics", &[]).text;
        let name = "etcd_debugging_mvcc_watcher_total ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.expect("the metric exists").to_owned()
    };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let create = r#"{"create_request":{"key":"Zm9v"}}"#;
        let mut watch = open(&member, "/v3/watch", &[version, "--data-binary", create]);
        next_line(&mut watch);
        assert_eq!(watchers(), "1");
        watch.kill();
        watch.wait(SOON);
        let until = Instant::now() + SOON;
        while watchers() != "0" {
            assert!(Instant::now() < until, "{version}: the watch outlives its client");
        }
    }
}

/// A request that is refused, with its status and gRPC code.
struct Refused {
    path: &'static str,
    body: &'static str,
    status: u16,
    code: u8,
}

const fn refused(path: &'static str, body: &'static str, status: u16, code: u8) -> Refused {
    Refused { path, body, status, code }
}

#[test]
fn bad_requests_are_refused_alike() {
    let table = [
        refused("/v3/kv/put", r#"{"key":"no base64"}"#, 400, 3),
        refused("/v3/kv/put", r#"{"key":"!!","value":"YmFy"}"#, 400, 3),
        refused("/v3/kv/put", r#"{"key":5}"#, 400, 3),
        refused("/v3/kv/put", r#"{"key":"Zm9v","lease":"seven"}"#, 400, 3),
        refused("/v3/kv/put", r#"{"key":"Zm9v","prev_kv":"true"}"#, 400, 3),
        refused("/v3/kv/put", r#"{"key":"Zm9v""#, 400, 3),
        refused("/v3/kv/put", "nonsense", 400, 3),
        refused("/v3/kv/put", "[]", 400, 3),
        refused("/v3/kv/put", "", 400, 3),
        refused("/v3/kv/put", "{}", 400, 3),
        refused("/v3/kv/put", r#"{"key":"Zm9v","lease":"7"}"#, 404, 5),
        refused("/v3/kv/range", r#"{"key":"Zm9v","revision":"99"}"#, 400, 11),
        refused("/v3/kv/range", r#"{"key":"Zm9v","limit":1.5}"#, 400, 3),
        refused("/v3/kv/txn", r#"{"compare":{}}"#, 400, 3),
        refused("/v3/lease/grant", r#"{"TTL":"9000000001"}"#, 400, 11),
        refused("/v3/auth/authenticate", r#"{"name":"a","password":"b"}"#, 400, 9),
    ];
    for server in servers() {
        let member = start(&server);
        for Refused { path, body, status, code } in &table {
            let answer = post(&member, path, body);
            let json = answer.json();
            let context = format!("{} {path} {body}: {json}", server.display());
            assert_eq!((answer.status, &json["code"]), (*status, &json!(code)), "{context}");
            assert_eq!(answer.content_type, "application/json", "{context}");
            assert!(json["message"].as_str().is_some_and(|text| !text.is_empty()), "{context}");
            assert_eq!(json["error"], json["message"], "{context}");
        }
        // Nothing of this was done, and what follows the message is not looked at.
        let put = post(&member, "/v3/kv/put", r#"{"key":"Zm9v","no_such_field":1} trailing"#);
        assert_eq!((put.status, &put.json()["header"]["revision"]), (200, &json!("2")));
        let one = call(&member, "/v3/kv/range", &json!({"key": "Zm9v", "limit": null}));
        assert_eq!(one["count"], "1");
    }
}

/// Where etcd 3.7 and with it this server differ from 3.5, whose gateway library was another.
#[test]
fn unknown_paths_methods_and_names_are_answered_as_in_3_7() {
    let member = start(&server_binary());
    let refusal = |text: &str, code: u8| json!({"error": text, "code": code, "message": text});
    for path in ["/v3/", "/v3/kv/nope", "/v3/kv/put/", "/v3beta/nope"] {
        let answer = post(&member, path, "{}");
        assert_eq!((answer.status, answer.json()), (404, refusal("Not Found", 5)), "{path}");
    }
    for method in ["GET", "PUT", "DELETE"] {
        let answer = curl(&member, "/v3/kv/put", &["--request", method]);
        assert_eq!((answer.status, answer.json()), (501, refusal("Method Not Allowed", 12)));
    }
    let sorted = post(&member, "/v3/kv/range", r#"{"key":"Zm9v","sort_order":"SIDEWAYS"}"#);
    assert_eq!(sorted.status, 200);
    for body in ["nonsense", r#"{"create_request":{"key":"!!"}}"#, r#"{"create_request":"#] {
        let answer = post(&member, "/v3/watch", body);
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!(3)), "{body}");
    }
    // Half a handshake: version and key are missing.
    let upgrade = ["--header", "Connection: Upgrade", "--header", "Upgrade: websocket"];
    assert_eq!(curl(&member, "/v3/watch", &upgrade).status, 400);
}

#[test]
fn a_large_request_is_refused_by_the_server_a_larger_one_by_the_gateway() {
    let member = start(&server_binary());
    let dir = TempDir::new().expect("a temporary directory can be made");
    let put = |value_bytes: usize| {
        let file = dir.path().join("put.json");
        let value = "AAAA".repeat(value_bytes / 3);
        std::fs::write(&file, format!(r#"{{"key":"Zm9v","value":"{value}"}}"#)).expect("a file");
        let body = format!("@{}", file.display());
        let answer = curl(&member, "/v3/kv/put", &["--data-binary", &body]);
        (answer.status, answer.json()["message"].as_str().map(str::to_owned))
    };
    assert_eq!(put(1_500_000), (200, None));
    // 1.5 MiB of request are allowed, and half a MiB more by the transport.
    let refused = |status, text: &str| (status, Some(text.to_owned()));
    assert_eq!(put(1_600_000), refused(400, "etcdserver: request is too large"));
    // Names and lengths of the two fields take 9 bytes.
    let text = "grpc: received message larger than max (2097159 vs. 2097152)";
    assert_eq!(put(2_097_150), refused(429, text));
}

#[test]
fn the_flag_turns_it_off() {
    let member = Member::start(&server_binary(), &["--enable-grpc-gateway=false"]);
    let answer = post(&member, "/v3/kv/put", r#"{"key":"Zm9v"}"#);
    assert_eq!((answer.status, &*answer.text), (404, "404 page not found\n"));
}

#[test]
fn pages_from_anywhere_may_read_the_answers() {
    for server in servers() {
        let member = start(&server);
        let allowed = "%header{access-control-allow-origin}";
        let args = ["--output", "/dev/null", "--write-out", allowed, "--silent"];
        for request in [&["--request", "OPTIONS"][..], &["--data-binary", "{}"]] {
            let output = Command::new("curl")
                .args(args)
                .args(request)
                .arg(url(&member, "/v3/kv/range"))
                .output();
            assert_eq!(output.expect("curl is installed").stdout, b"*");
        }
    }
}
