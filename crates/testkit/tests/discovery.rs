//! Members of a new cluster that nobody listed find each other: by the list that another cluster keeps, and by SRV
//! records.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

#[path = "../go/program.rs"]
mod program;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use program::go_program;
use retcd_api::etcdserverpb::auth_client::AuthClient;
use retcd_api::etcdserverpb::cluster_client::ClusterClient;
use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::{self as pb};
use retcd_testkit::{
    Authority, Member, PATIENCE, Port, Process, name_server, real_etcd, server_binary,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// Between two looks at something that should change.
const POLL: Duration = Duration::from_millis(20);
const DOMAIN: &str = "example.com";

/// A member before it has found the others.
struct Newcomer {
    name: String,
    client: Port,
    peer: Port,
    dir: TempDir,
    process: Option<Process>,
    is_encrypted: bool,
}

impl Newcomer {
    fn new(name: &str) -> Self {
        let (client, peer) = (Port::claim(), Port::claim());
        let (name, dir) = (name.to_owned(), TempDir::new().unwrap());
        Newcomer { name, client, peer, dir, process: None, is_encrypted: false }
    }

    /// With an https URL for the others.
    fn encrypted(name: &str) -> Self {
        Newcomer { is_encrypted: true, ..Self::new(name) }
    }

    fn start(&mut self, binary: &Path, peer_host: &str, discovery: &[&str], name_server: u16) {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        let url = |host: &str| format!("{scheme}://{host}:{}", self.peer.number());
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command.env("RETCD_DNS_SERVER", format!("127.0.0.1:{name_server}"));
        command.args(["--name", &self.name]).arg("--data-dir").arg(self.dir.path().join("data"));
        command.args(["--listen-client-urls", &self.client.url()]);
        command.args(["--advertise-client-urls", &self.client.url()]);
        command.args(["--listen-peer-urls", &url("127.0.0.1")]);
        command.args(["--initial-advertise-peer-urls", &url(peer_host)]).args(discovery);
        self.process = Some(Process::spawn(&mut command));
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started")
    }

    /// Waits for the words with which it gives up, and for its end.
    fn expect_refusal(&mut self, words: &str) {
        self.process().expect(words, PATIENCE);
        assert_eq!(self.process().wait(PATIENCE).code(), Some(1));
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(self.client.url()).unwrap().connect_lazy()
    }
}

/// Waits until these members, and no others, are one cluster that takes writes.
async fn expect_cluster(members: &mut [Newcomer]) {
    let mut names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    names.sort();
    let until = Instant::now() + PATIENCE;
    for (turn, member) in members.iter_mut().enumerate() {
        loop {
            let mut client = ClusterClient::new(member.channel());
            let list = client.member_list(pb::MemberListRequest { linearizable: true });
            let list = tokio::time::timeout(Duration::from_secs(5), list).await;
            let list = list.ok().and_then(Result::ok).map(tonic::Response::into_inner);
            let mut found: Vec<String> = list
                .iter()
                .flat_map(|list| &list.members)
                .map(|other| other.name.clone())
                .collect();
            found.sort();
            // They are told by numbers until each has told its name.
            if found == names {
                break;
            }
            let process = member.process();
            assert!(process.ended().is_none(), "it ended:\n{}", process.last_lines(60));
            assert!(Instant::now() < until, "{found:?}\n{}", process.last_lines(60));
            tokio::time::sleep(POLL).await;
        }
        let key = format!("from {turn}");
        while !put(&member.channel(), &key, "value").await {
            assert!(Instant::now() < until, "no leader takes {key}");
        }
    }
}

async fn put(channel: &Channel, key: &str, value: &str) -> bool {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    let request = pb::PutRequest { key, value, ..pb::PutRequest::default() };
    KvClient::new(channel.clone()).put(request).await.is_ok()
}

/// A cluster that keeps lists.
struct Registry {
    member: Member,
    channel: Channel,
    /// Where it wants to be asked, and by whom, if not by everybody.
    security: Option<(Port, Authority)>,
}

impl Registry {
    fn start(binary: &Path) -> Self {
        let member = Member::start(binary, &[]);
        let url = format!("http://{}", member.endpoint());
        let channel = Endpoint::from_shared(url).unwrap().connect_lazy();
        Registry { channel, member, security: None }
    }

    /// One that wants to know who asks.
    fn encrypted(binary: &Path) -> Self {
        let authority = Authority::new();
        authority.sign("node", &["127.0.0.1"]);
        let (plain, port) = (Port::claim(), Port::claim());
        let (url, file) = (port.https_url(), |name| authority.file(name));
        let member = Member::start(
            binary,
            &[
                "--listen-client-urls",
                &format!("{},{url}", plain.url()),
                "--cert-file",
                &file("node.crt"),
                "--key-file",
                &file("node.key"),
                "--trusted-ca-file",
                &file("ca.crt"),
            ],
        );
        let channel = Endpoint::from_shared(plain.url()).unwrap().connect_lazy();
        Registry { channel, member, security: Some((port, authority)) }
    }

    async fn expect(&self, token: &str, size: &str) {
        let key = format!("/_etcd/registry/{token}/_config/size");
        assert!(put(&self.channel, &key, size).await);
    }

    async fn listed(&self, token: &str) -> usize {
        let prefix = format!("/_etcd/registry/{token}/members");
        let request = pb::RangeRequest {
            key: format!("{prefix}/").into(),
            range_end: format!("{prefix}0").into(),
            ..pb::RangeRequest::default()
        };
        KvClient::new(self.channel.clone()).range(request).await.unwrap().into_inner().kvs.len()
    }

    fn flags(&self, token: &str) -> Vec<String> {
        let endpoint = match &self.security {
            Some((port, _)) => port.https_url(),
            None => self.member.endpoint(),
        };
        let mut flags =
            vec![format!("--discovery-token={token}"), format!("--discovery-endpoints={endpoint}")];
        if let Some((_, authority)) = &self.security {
            let files = [("cacert", "ca.crt"), ("cert", "node.crt"), ("key", "node.key")];
            let flag = |(flag, file)| format!("--discovery-{flag}={}", authority.file(file));
            flags.extend(files.map(flag));
        }
        flags
    }
}

fn start(newcomer: &mut Newcomer, binary: &Path, flags: &[String]) {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    newcomer.start(binary, "127.0.0.1", &flags, 1);
}

#[tokio::test]
async fn members_find_each_other_by_a_list() {
    find_each_other(&Registry::start(&server_binary())).await;
}

#[tokio::test]
async fn a_list_may_be_kept_behind_certificates() {
    let registry = Registry::encrypted(&server_binary());
    registry.expect("t", "2").await;
    let mut members = ["m0", "m1"].map(Newcomer::new);
    start(&mut members[0], &server_binary(), &registry.flags("t")[..2]);
    members[0].process().expect("certificate signed by unknown authority", PATIENCE);
    members[0].process().kill();
    members[0].process().wait(PATIENCE);
    for member in &mut members {
        start(member, &server_binary(), &registry.flags("t"));
    }
    expect_cluster(&mut members).await;
}

#[tokio::test]
async fn etcd_keeps_lists_for_our_members() {
    let Some(dir) = real_etcd() else {
        println!("skipped: ETCD_REAL names no release of etcd");
        return;
    };
    find_each_other(&Registry::start(&dir.join("etcd"))).await;
}

/// A list of both kinds of members is a cluster of both.
#[tokio::test]
async fn etcd_finds_our_members_and_they_find_it() {
    let Some(etcd) = go_program("etcd") else { return };
    let registry = Registry::start(&server_binary());
    registry.expect("mixed", "3").await;
    let mut members = ["m0", "m1", "m2"].map(Newcomer::new);
    for (member, binary) in members.iter_mut().zip([&server_binary(), &etcd, &server_binary()]) {
        start(member, binary, &registry.flags("mixed"));
    }
    expect_cluster(&mut members).await;
}

#[tokio::test]
async fn a_list_may_need_a_login() {
    let Some(dir) = real_etcd() else {
        println!("skipped: ETCD_REAL names no release of etcd");
        return;
    };
    let registry = Registry::start(&dir.join("etcd"));
    let mut auth = AuthClient::new(registry.channel.clone());
    let (name, password) = ("root".to_owned(), "pass:word".to_owned());
    let user = pb::AuthUserAddRequest { name, password, ..pb::AuthUserAddRequest::default() };
    auth.user_add(user).await.unwrap();
    auth.role_add(pb::AuthRoleAddRequest { name: "root".to_owned() }).await.unwrap();
    let grant = pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    auth.user_grant_role(grant).await.unwrap();
    registry.expect("t", "1").await;
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    let login = ["--discovery-user", "root:pass:word"].map(str::to_owned);
    let mut member = Newcomer::new("m");
    start(&mut member, &server_binary(), &[&registry.flags("t")[..], &login].concat());
    expect_cluster(std::slice::from_mut(&mut member)).await;
}

async fn find_each_other(registry: &Registry) {
    let flags = registry.flags("token");
    let mut early = Newcomer::new("early");
    start(&mut early, &server_binary(), &flags);
    early.expect_refusal("failed to join discovery cluster (discovery: size key not found)");
    registry.expect("token", "three").await;
    start(&mut early, &server_binary(), &flags);
    early.expect_refusal("failed to join discovery cluster (discovery: size key is bad)");

    registry.expect("token", "3").await;
    let mut members = ["m0", "m1", "m2"].map(Newcomer::new);
    start(&mut members[0], &server_binary(), &flags);
    members[0].process().expect("waiting for members to register for discovery", PATIENCE);
    // Whoever comes again takes its own place.
    members[0].process().kill();
    members[0].process().wait(PATIENCE);
    assert_eq!(registry.listed("token").await, 1);
    for member in &mut members {
        start(member, &server_binary(), &flags);
    }
    expect_cluster(&mut members).await;
    assert_eq!(registry.listed("token").await, 3);

    start(&mut early, &server_binary(), &flags);
    early.expect_refusal("failed to join discovery cluster (discovery: cluster is full)");

    // The log knows the members: the list is not asked again.
    registry.expect("token", "1").await;
    members[2].process().terminate();
    members[2].process().wait(PATIENCE);
    start(&mut members[2], &server_binary(), &flags);
    expect_cluster(&mut members).await;
}

#[tokio::test]
async fn members_find_each_other_by_srv_records() {
    let mut members = ["m0", "m1", "m2"].map(Newcomer::new);
    let ports: Vec<u16> = members.iter().map(|member| member.peer.number()).collect();
    let mut stranger = Newcomer::new("stranger");
    let (plain, own) = (ports.clone(), stranger.peer.number());
    let server = name_server(move |name| match name {
        "_etcd-server-blue._tcp.example.com" => plain.clone(),
        "_etcd-server-ssl-red._tcp.example.com" => vec![own],
        _ => Vec::new(),
    });
    let flags = ["--discovery-srv", DOMAIN, "--discovery-srv-name"];
    let with_name = |name| [flags[0], flags[1], flags[2], name];
    for (name, refusal) in [
        ("blue", "cannot find local etcd member"),
        ("green", "error querying DNS SRV records for _etcd-server-green"),
        ("red", "has scheme mismatch with expected peer http://127.0.0.1:"),
    ] {
        stranger.start(&server_binary(), "127.0.0.1", &with_name(name), server);
        stranger.expect_refusal(refusal);
    }
    // An address stands for the name that leads to it.
    for (member, host) in members.iter_mut().zip(["localhost", "127.0.0.1", "localhost"]) {
        member.start(&server_binary(), host, &with_name("blue"), server);
    }
    expect_cluster(&mut members).await;
}

/// Without authorities of its own, a member would expect the domain's name of the others.
#[tokio::test]
async fn members_with_certificates_find_each_other_by_srv_records() {
    let authority = Authority::new();
    authority.sign("node", &["127.0.0.1", "localhost"]);
    let mut members = ["m0", "m1", "m2"].map(Newcomer::encrypted);
    let ports: Vec<u16> = members.iter().map(|member| member.peer.number()).collect();
    let server = name_server(move |name| match name {
        "_etcd-server-ssl._tcp.example.com" => ports.clone(),
        _ => Vec::new(),
    });
    let file = |name| authority.file(name);
    let (ca, cert, key) = (file("ca.crt"), file("node.crt"), file("node.key"));
    let own = ["--peer-trusted-ca-file", &ca, "--peer-cert-file", &cert, "--peer-key-file", &key];
    let flags = [&["--discovery-srv", DOMAIN], &own[..]].concat();
    for member in &mut members {
        member.start(&server_binary(), "localhost", &flags, server);
    }
    expect_cluster(&mut members).await;
}

#[tokio::test]
async fn a_gateway_finds_members_by_srv_records() {
    let authority = Authority::new();
    authority.sign("good", &[DOMAIN]);
    authority.sign("other", &["other.example.com"]);
    let secure = |name: &str| {
        let (port, file) = (Port::claim(), |end: &str| authority.file(&format!("{name}.{end}")));
        let (cert, key, url) = (file("crt"), file("key"), port.https_url());
        let args = ["--cert-file", &cert, "--key-file", &key, "--listen-client-urls", &url];
        (Member::start(&server_binary(), &args), port)
    };
    let member = Member::start(&server_binary(), &[]);
    let (_good, good) = secure("good");
    let (_other, other) = secure("other");
    let endpoint = member.endpoint();
    let port: u16 = endpoint.rsplit(':').next().unwrap().parse().unwrap();
    let encrypted = [good.number(), other.number()];
    let server = name_server(move |name| match name {
        "_etcd-client._tcp.example.com" => vec![port],
        "_etcd-client-ssl-red._tcp.example.com" => vec![encrypted[0]],
        "_etcd-client-ssl-blue._tcp.example.com" => vec![encrypted[1]],
        _ => Vec::new(),
    });
    let own = Port::claim();
    let start = |flags: &[&str]| {
        let mut command = Command::new(server_binary());
        command.env("RETCD_DNS_SERVER", format!("127.0.0.1:{server}"));
        command.args(["gateway", "start", "--discovery-srv", DOMAIN]);
        command.args(["--listen-addr", &format!("127.0.0.1:{}", own.number())]).args(flags);
        Process::spawn(&mut command)
    };
    let mut gateway = start(&["--insecure-discovery"]);
    gateway.expect("discovered cluster from SRV", PATIENCE);
    gateway.expect("ready to proxy client requests", PATIENCE);
    let channel = Endpoint::from_shared(own.url()).unwrap().connect_lazy();
    assert!(put(&channel, "key", "value").await);
    drop(gateway);

    // A member that cannot prove who it is does not count; the listed ones do.
    let mut gateway = start(&["--endpoints", "127.0.0.1:1"]);
    gateway.expect("is insecure", PATIENCE);
    gateway.expect("\"endpoints\":[\"127.0.0.1:1\"]", PATIENCE);
    drop(gateway);
    let ca = authority.file("ca.crt");
    for (name, verdict) in [
        ("red", "using validated discovered SRV endpoints"),
        ("blue", "x509: certificate is valid for other.example.com, not example.com"),
    ] {
        let mut gateway = start(&["--discovery-srv-name", name, "--trusted-ca-file", &ca]);
        gateway.expect(verdict, PATIENCE);
    }
    let mut gateway = start(&["--discovery-srv-name", "green"]);
    gateway.expect("dns lookup errors: ", PATIENCE);
    assert_eq!(gateway.wait(PATIENCE).code(), Some(1));
}
