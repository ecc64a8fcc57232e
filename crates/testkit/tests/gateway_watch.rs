//! Many watches over the gateway, and one that does not read.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use retcd_testkit::{Member, SOON, server_binary};
use serde_json::{Value, json};

/// How long a machine under load may take for what is usually done at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// An HTTP/1.1 connection that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(member: &Member) -> Self {
        let stream = TcpStream::connect(member.endpoint()).expect("the member listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit can be set");
        stream.set_nodelay(true).expect("an option can be set");
        Client(BufReader::new(stream))
    }

    fn send(&mut self, path: &str, body: &str) {
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: m\r\nContent-Length: {length}\r\n\r\n{body}");
        self.0.get_mut().write_all(request.as_bytes()).expect("the member reads");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the member answers in time");
        assert!(line.ends_with("\r\n"), "the connection has ended: {line:?}");
        line.truncate(line.len() - 2);
        line
    }

    /// The fields of the next head, after its status.
    fn head(&mut self) -> Vec<String> {
        assert_eq!(self.line(), "HTTP/1.1 200 OK");
        std::iter::from_fn(|| Some(self.line()).filter(|line| !line.is_empty())).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("the member answers in time");
        bytes
    }

    /// Makes a call and returns its answer.
    fn call(&mut self, path: &str, body: &Value) -> Value {
        self.send(path, &body.to_string());
        let head = self.head();
        let length = head.iter().find_map(|field| field.strip_prefix("Content-Length: "));
        let length = length.and_then(|length| length.parse().ok()).expect("a length");
        serde_json::from_slice(&self.bytes(length)).expect("answers are JSON")
    }
}

/// An open watch.
struct Watch {
    client: Client,
    /// What was read and is no whole line yet.
    text: Vec<u8>,
}

impl Watch {
    fn open(member: &Member, request: &Value) -> Self {
        let mut client = Client::connect(member);
        client.send("/v3/watch", &json!({ "create_request": request }).to_string());
        let mut watch = Watch { client, text: Vec::new() };
        assert!(watch.client.head().contains(&"Transfer-Encoding: chunked".to_owned()));
        assert_eq!(watch.next()["created"], json!(true));
        watch
    }

    /// The next answer.
    fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                let mut line: Value = serde_json::from_slice(&line).expect("lines are JSON");
                return line["result"].take();
            }
            let size = usize::from_str_radix(&self.client.line(), 16).expect("a size");
            assert_ne!(size, 0, "the watch has ended");
            self.text.extend(self.client.bytes(size));
            assert_eq!(self.client.line(), "");
        }
    }

    /// The revisions of the events in the next answer.
    fn revisions(&mut self) -> Vec<i64> {
        let answer = self.next();
        let events = answer["events"].as_array().unwrap_or_else(|| panic!("no events: {answer}"));
        let revision = |event: &Value| event["kv"]["mod_revision"].as_str()?.parse().ok();
        events.iter().map(|event| revision(event).expect("a revision")).collect()
    }
}

/// Bytes of the heap and the stacks of a process.
fn anonymous_bytes(member: &mut Member) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", member.process().id()));
    let status = status.expect("the member runs");
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<usize>().ok()).expect("the kernel tells") * 1024
}

/// A sample of a scrape.
fn metric(member: &Member, name: &str) -> i64 {
    let mut client = Client::connect(member);
    let request = b"GET /metrics HTTP/1.0\r\n\r\n";
    client.0.get_mut().write_all(request).expect("the member reads");
    let mut text = String::new();
    client.0.read_to_string(&mut text).expect("metrics are text");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}"))
}

const VALUE_BYTES: usize = 30_000;
const PUTS: i64 = 4000;
/// What all events take as JSON: far more than the sockets between member and client hold.
const EVENT_BYTES: usize = VALUE_BYTES / 3 * 4 * 4000;

#[test]
fn a_watch_that_does_not_read_holds_up_nobody_and_misses_nothing() {
    let mut member = Member::start(&server_binary(), &[]);
    let all = json!({"key": "aw==", "range_end": "bA=="});
    let mut slow = Watch::open(&member, &all);
    let mut others = [Watch::open(&member, &all), Watch::open(&member, &json!({"key": "aw=="}))];
    let mut writer = Client::connect(&member);
    let put = json!({"key": "aw==", "value": "AAAA".repeat(VALUE_BYTES / 3)});
    let (mut before, mut most) = (0, 0);
    for revision in 2..PUTS + 2 {
        let begun = Instant::now();
        let answer = writer.call("/v3/kv/put", &put);
        assert_eq!(answer["header"]["revision"], revision.to_string());
        for other in &mut others {
            assert_eq!(other.revisions(), [revision]);
        }
        assert!(begun.elapsed() < SOON, "the event of revision {revision} came late");
        match revision {
            // By then the newest history, which every member keeps for its watchers, has its full size.
            _ if revision < PUTS / 2 => before = before.max(anonymous_bytes(&mut member)),
            _ => most = most.max(anonymous_bytes(&mut member)),
        }
    }
    assert!(
        most < before + EVENT_BYTES / 8,
        "{most} bytes after {before}: the member keeps what is not read"
    );
    assert!(metric(&member, "retcd_watch_lag_revisions") > 100, "it is told who lags");
    assert_eq!(metric(&member, "retcd_mvcc_versions{state=\"live\"}"), 1);
    assert_eq!(metric(&member, "retcd_mvcc_versions{state=\"historic\"}"), PUTS - 1);
    let value = i64::try_from(VALUE_BYTES).expect("a small number");
    assert!(
        (value..value + 50).contains(&metric(&member, "retcd_mvcc_version_bytes{state=\"live\"}"))
    );
    let mut expected = 2..PUTS + 2;
    while !expected.is_empty() {
        for revision in slow.revisions() {
            assert_eq!(Some(revision), expected.next());
        }
    }
    let begun = Instant::now();
    while metric(&member, "retcd_watch_lag_revisions") > 0 {
        assert!(begun.elapsed() < SOON, "nobody lags any more");
    }
}

#[test]
fn a_waiting_watch_holds_little() {
    const WATCHES: usize = 300;
    let mut member = Member::start(&server_binary(), &[]);
    let open = |member: &Member, number: usize| {
        Watch::open(member, &json!({"key": format!("{number:04}")}))
    };
    // What the first ones need is there for the others too.
    let mut watches: Vec<Watch> = (0..20).map(|number| open(&member, number)).collect();
    let before = anonymous_bytes(&mut member);
    watches.extend((20..20 + WATCHES).map(|number| open(&member, number)));
    let each = (anonymous_bytes(&mut member).saturating_sub(before)) / WATCHES;
    assert!(each <= 20_000, "{each} bytes for each watch");
    assert!(each > 0, "the measurement sees the watches");
    let put = json!({"key": "0319"});
    Client::connect(&member).call("/v3/kv/put", &put);
    let last = watches.last_mut().expect("they are open");
    assert_eq!(last.revisions(), [2]);
}
