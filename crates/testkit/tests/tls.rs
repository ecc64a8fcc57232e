//! TLS on client URLs, as clients see it: our etcdctl, that of a release of etcd if `ETCD_REAL` names one, and curl.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use retcd_testkit::{
    Authority, Member, Outcome, Port, Process, SOON, Tool, binary, real_etcd, server_binary,
};

/// The common name of the server's certificate, and of one for clients.
const SERVER: &str = "server";
const CLIENT: &str = "client";
const LOOPBACK: &[&str] = &["127.0.0.1", "localhost"];

/// A member with an https URL.
struct Secure {
    member: Member,
    authority: Authority,
    port: Port,
}

impl Secure {
    /// Starts a member that wants certificates from its clients.
    fn start(extra_args: &[&str]) -> Self {
        let authority = Authority::new();
        authority.sign(SERVER, LOOPBACK);
        authority.sign(CLIENT, &[]);
        authority.revoke(&[]);
        let port = Port::claim();
        let (url, files) = (port.https_url(), files(&authority));
        let mut args = vec!["--listen-client-urls", &url, "--advertise-client-urls", &url];
        args.extend(files.iter().map(String::as_str));
        args.extend(extra_args);
        Secure { member: Member::start(&server_binary(), &args), authority, port }
    }

    fn url(&self) -> String {
        self.port.https_url()
    }

    /// etcdctl with this authority, and a certificate if one is named.
    fn ctl(&self, binary: &Path, name: &str) -> Tool {
        trusting(binary, &self.url(), &self.authority, name)
    }

    /// curl with everything that it needs.
    fn curl_command(&self, args: &[&str]) -> Command {
        let mut command = curl_command(args);
        for (flag, file) in
            [("--cacert", "ca.crt"), ("--cert", "client.crt"), ("--key", "client.key")]
        {
            command.arg(flag).arg(self.authority.path(file));
        }
        command
    }

    fn curl(&self, args: &[&str]) -> String {
        output(self.curl_command(args))
    }
}

fn files(authority: &Authority) -> Vec<String> {
    [("cert-file", "server.crt"), ("key-file", "server.key"), ("trusted-ca-file", "ca.crt")]
        .into_iter()
        .map(|(flag, file)| format!("--{flag}={}", authority.file(file)))
        .collect()
}

fn trusting(binary: &Path, url: &str, authority: &Authority, name: &str) -> Tool {
    let tool = Tool::new(binary, url).with_env("ETCDCTL_CACERT", &authority.file("ca.crt"));
    if name.is_empty() {
        return tool;
    }
    let (cert, key) = (format!("{name}.crt"), format!("{name}.key"));
    tool.with_env("ETCDCTL_CERT", &authority.file(&cert))
        .with_env("ETCDCTL_KEY", &authority.file(&key))
}

/// Ours, and the released one.
fn ctls() -> Vec<std::path::PathBuf> {
    let released = real_etcd().map(|dir| dir.join("etcdctl"));
    [Some(binary("etcdctl")), released].into_iter().flatten().collect()
}

fn curl_command(args: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30"]).args(args);
    command
}

fn curl(args: &[&str]) -> String {
    output(curl_command(args))
}

fn output(mut command: Command) -> String {
    let output = command.output().expect("curl can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn put(tool: &Tool) -> Outcome {
    tool.with_env("ETCDCTL_COMMAND_TIMEOUT", "2s").run(&["put", "a", "1"])
}

#[test]
fn both_sides_prove_who_they_are() {
    let mut secure = Secure::start(&["--client-cert-auth"]);
    let stranger = Authority::new();
    stranger.sign(CLIENT, &[]);
    for ctl in ctls() {
        assert_eq!(put(&secure.ctl(&ctl, CLIENT)).stdout, b"OK\n", "{}", ctl.display());
        assert_ne!(put(&secure.ctl(&ctl, "")).code, 0, "without a certificate");
        secure.member.process().expect("tls: client didn't provide a certificate", SOON);
        let foreign = Tool::new(&ctl, &secure.url())
            .with_env("ETCDCTL_CACERT", &secure.authority.file("ca.crt"))
            .with_env("ETCDCTL_CERT", &stranger.file("client.crt"))
            .with_env("ETCDCTL_KEY", &stranger.file("client.key"));
        assert_ne!(put(&foreign).code, 0, "with a stranger's certificate");
        let line = secure.member.process().expect("certificate signed by unknown authority", SOON);
        assert!(line.contains("rejected connection on client endpoint"), "{line}");
        assert_ne!(put(&trusting(&ctl, &secure.url(), &stranger, CLIENT)).code, 0, "not believed");
    }
}

#[test]
fn revoked_certificates_are_refused_from_then_on() {
    let authority = Authority::new();
    let serial = authority.sign(CLIENT, &["client.example.com"]);
    authority.sign(SERVER, LOOPBACK);
    authority.revoke(&[]);
    let port = Port::claim();
    let (url, crl) = (port.https_url(), format!("--client-crl-file={}", authority.file("crl")));
    let files = files(&authority);
    let mut args = vec!["--listen-client-urls", &url, "--advertise-client-urls", &url, &crl];
    args.extend(files.iter().map(String::as_str));
    let mut member = Member::start(&server_binary(), &args);
    for ctl in ctls() {
        let tool = trusting(&ctl, &url, &authority, CLIENT);
        authority.revoke(&[]);
        assert_eq!(put(&tool).code, 0);
        authority.revoke(&[serial]);
        assert_ne!(put(&tool).code, 0);
        let line = member.process().expect("rejected connection on client endpoint", SOON);
        assert!(line.contains(&format!("transport: certificate serial {serial:02x} revoked")));
        assert!(line.contains(r#""dns-names":["client.example.com"]"#), "{line}");
    }
}

#[test]
fn only_allowed_hosts_are_let_in() {
    let secure = Secure::start(&["--client-cert-allowed-hostname=good.example.com"]);
    secure.authority.sign("good", &["good.example.com"]);
    for ctl in ctls() {
        assert_eq!(put(&secure.ctl(&ctl, "good")).code, 0);
        assert_ne!(put(&secure.ctl(&ctl, CLIENT)).code, 0);
    }
}

#[test]
fn certificates_are_renewed_without_a_restart() {
    let mut secure = Secure::start(&[]);
    let ctl = binary("etcdctl");
    let renewed = Authority::new();
    assert_eq!(put(&secure.ctl(&ctl, CLIENT)).code, 0);
    let dir = secure.authority.path("");
    renewed.sign_into(&dir, SERVER, LOOPBACK);
    assert_ne!(put(&secure.ctl(&ctl, CLIENT)).code, 0, "it trusts the old one");
    let trusting_new = secure.ctl(&ctl, CLIENT).with_env("ETCDCTL_CACERT", &renewed.file("ca.crt"));
    assert_eq!(put(&trusting_new).code, 0);

    std::fs::write(dir.join("server.key"), "nothing").unwrap();
    assert_ne!(put(&trusting_new).code, 0);
    secure.member.process().expect("failed to create peer certificate", SOON);
    std::fs::remove_file(dir.join("server.key")).unwrap();
    assert_ne!(put(&trusting_new).code, 0);
    secure.member.process().expect("failed to find peer cert files", SOON);
    secure.member.process().expect("rejected connection on client endpoint", SOON);
    secure.authority.sign(SERVER, LOOPBACK);
    assert_eq!(put(&secure.ctl(&ctl, CLIENT)).code, 0, "the member has lived on");
}

#[test]
fn everything_is_on_one_port() {
    let metrics = Port::claim();
    let mut secure = Secure::start(&["--listen-metrics-urls", &metrics.https_url()]);
    assert_eq!(put(&secure.ctl(&binary("etcdctl"), CLIENT)).code, 0);
    let url = secure.url();
    for version in ["--http1.1", "--http2"] {
        let health = secure.curl(&[version, &format!("{url}/health")]);
        assert_eq!(health, r#"{"health":"true","reason":""}"#, "{version}");
        let range = [version, &format!("{url}/v3/kv/range"), "--data", r#"{"key":"YQ=="}"#];
        assert!(secure.curl(&range).contains(r#""value":"MQ==""#), "{version}");
        // A certificate vouches for the host, so the list of hosts is not asked.
        secure.curl(&[version, &format!("{url}/version"), "--header", "Host: elsewhere"]);
    }
    let mut upgrade = secure.curl_command(&[
        "--http1.1",
        "--verbose",
        "--header",
        "Connection: Upgrade",
        "--header",
        "Upgrade: websocket",
        "--header",
        "Sec-WebSocket-Version: 13",
        "--header",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &format!("{url}/v3/watch"),
    ]);
    Process::spawn(&mut upgrade).expect("101 Switching Protocols", SOON);
    assert!(
        secure
            .curl(&[&format!("{}/metrics", metrics.https_url())])
            .contains("etcd_server_has_leader 1")
    );

    // What is no handshake, and what is none yet, is in nobody's way.
    let mut silent = TcpStream::connect(("127.0.0.1", secure.port.number())).unwrap();
    let mut plain = TcpStream::connect(("127.0.0.1", secure.port.number())).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    secure.member.process().expect("tls: first record does not look like a TLS handshake", SOON);
    assert_eq!(put(&secure.ctl(&binary("etcdctl"), CLIENT)).code, 0);
    secure.member.process().expect("\"error\":\"i/o timeout\"", SOON);
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0, "a handshake has its time");
}

#[test]
fn plain_and_encrypted_urls_may_share_a_port() {
    let port = Port::claim();
    let urls = format!("{},{}", port.url(), port.https_url());
    let mut secure = Secure::start(&["--listen-client-urls", &urls]);
    let plain = Tool::new(&binary("etcdctl"), &port.url());
    assert_eq!(put(&plain).code, 0);
    let encrypted = trusting(&binary("etcdctl"), &port.https_url(), &secure.authority, CLIENT);
    assert_eq!(put(&encrypted).code, 0);
    assert_eq!(
        curl(&[&format!("{}/health", port.url())]),
        secure.curl(&[&format!("{}/health", port.https_url())])
    );
    secure.member.restart();
    assert_eq!(put(&encrypted).code, 0);
}

#[test]
fn unix_sockets_can_be_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.sock").display().to_string();
    let secure = Secure::start(&["--listen-client-urls", &format!("unixs://{path}")]);
    let health = secure.curl(&["--unix-socket", &path, "https://localhost/health"]);
    assert_eq!(health, r#"{"health":"true","reason":""}"#);
}

#[test]
fn a_member_can_make_its_own_certificate() {
    let port = Port::claim();
    let url = port.https_url();
    let args = ["--listen-client-urls", &url, "--advertise-client-urls", &url, "--auto-tls"];
    let mut member = Member::start(&server_binary(), &args);
    let cert = member.data_dir().join("fixtures/client/cert.pem");
    let made = std::fs::read(&cert).unwrap();
    for ctl in ctls() {
        let blind = Tool::new(&ctl, &url)
            .with_env("ETCDCTL_INSECURE_TRANSPORT", "false")
            .with_env("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "true");
        assert_eq!(put(&blind).code, 0, "{}", ctl.display());
    }
    let health = curl(&["--cacert", &cert.display().to_string(), &format!("{url}/health")]);
    assert_eq!(health, r#"{"health":"true","reason":""}"#);
    member.restart();
    assert_eq!(std::fs::read(&cert).unwrap(), made);
}
