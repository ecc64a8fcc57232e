//! TLS between members: clusters of this server, and with members of a release of etcd if `ETCD_REAL` names one.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::lease_client::LeaseClient;
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_api::etcdserverpb::{
    HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest,
};
use retcd_testkit::{
    Authority, Cluster, MemberPlan, PATIENCE, Plan, Port, Process, SOON, real_etcd, server_binary,
};
use tempfile::TempDir;
use tokio_stream::StreamExt as _;

const POLL: std::time::Duration = std::time::Duration::from_millis(20);
const LOOPBACK: &[&str] = &["127.0.0.1", "localhost"];

/// Flags by which members prove to each other who they are.
fn flags(authority: &Authority, name: &str) -> Vec<String> {
    let (cert, key) = (format!("{name}.crt"), format!("{name}.key"));
    [("peer-cert-file", &*cert), ("peer-key-file", &key), ("peer-trusted-ca-file", "ca.crt")]
        .into_iter()
        .map(|(flag, file)| format!("--{flag}={}", authority.file(file)))
        .chain(["--peer-client-cert-auth".to_owned()])
        .collect()
}

fn plan(binary: &Path, flags: &[String], more: &[&str]) -> MemberPlan {
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    MemberPlan::of(binary).with_peer_tls(&flags)
}

async fn put(cluster: &Cluster, slot: usize, key: &str) {
    let put = PutRequest { key: key.to_owned().into(), ..PutRequest::default() };
    KvClient::new(cluster.channel(slot)).put(put).await.unwrap();
}

/// Waits until all members have the same keys at the same revision.
async fn expect_equal(cluster: &mut Cluster) {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut hashes = Vec::new();
        for slot in cluster.slots() {
            let mut maintenance = MaintenanceClient::new(cluster.channel(slot));
            let hash = maintenance.hash_kv(HashKvRequest::default());
            let hash = hash.await.map(|answer| {
                let answer = answer.into_inner();
                (answer.hash, answer.header.map(|header| header.revision))
            });
            hashes.push(hash.ok());
        }
        if hashes[0].is_some() && hashes.iter().all(|hash| *hash == hashes[0]) {
            return;
        }
        assert!(Instant::now() < until, "{hashes:?}\n{}", cluster.last_lines());
        tokio::time::sleep(POLL).await;
    }
}

/// Writes, changes of the leader, a member that needs a snapshot, and a lease renewed at a follower.
async fn live(cluster: &mut Cluster) {
    let leader = cluster.leader().await;
    for key in 0..20 {
        put(cluster, cluster.slots()[key % cluster.slots().len()], &format!("a{key}")).await;
    }
    expect_equal(cluster).await;

    let follower = cluster.others(&[leader])[0];
    let mut leases = LeaseClient::new(cluster.channel(follower));
    let lease = LeaseGrantRequest { ttl: 60, id: 7 };
    leases.lease_grant(lease).await.unwrap();
    let renewal = tokio_stream::once(LeaseKeepAliveRequest { id: 7 });
    let mut renewed = leases.lease_keep_alive(renewal).await.unwrap().into_inner();
    assert_eq!(renewed.next().await.unwrap().unwrap().ttl, 60, "the leader is asked");

    cluster.kill(follower);
    let rest = cluster.others(&[follower]);
    cluster.leader_among(&rest).await;
    for key in 0..200 {
        put(cluster, leader, &format!("b{key}")).await;
    }
    cluster.start_again(follower);
    cluster.leader().await;
    expect_equal(cluster).await;

    cluster.kill(leader);
    let rest = cluster.others(&[leader]);
    cluster.leader_among(&rest).await;
    put(cluster, follower, "c").await;
    cluster.start_again(leader);
    cluster.leader().await;
    expect_equal(cluster).await;
}

/// Few entries stay in memory, so that who was away gets a snapshot.
const SHORT_LOG: &[&str] = &["--snapshot-count=50", "--snapshot-catchup-entries=10"];

#[tokio::test]
async fn a_cluster_lives_on_encrypted_links() {
    let authority = Authority::new();
    authority.sign("peer", LOOPBACK);
    let member = plan(&server_binary(), &flags(&authority, "peer"), SHORT_LOG);
    let mut cluster = Cluster::start(Plan::of(vec![member.clone(); 3])).await;
    live(&mut cluster).await;
    cluster.add(member, false).await;
    expect_equal(&mut cluster).await;
}

#[tokio::test]
async fn members_can_make_their_own_certificates() {
    let member = plan(&server_binary(), &["--peer-auto-tls".to_owned()], SHORT_LOG);
    let mut cluster = Cluster::start(Plan::of(vec![member; 3])).await;
    live(&mut cluster).await;
    assert!(cluster.data_dir(0).join("fixtures/peer/key.pem").exists());
}

#[tokio::test]
async fn a_cluster_may_be_mixed_on_encrypted_links() {
    let Some(etcd) = real_etcd() else {
        println!("skipped: ETCD_REAL names no release of etcd");
        return;
    };
    let authority = Authority::new();
    authority.sign("peer", LOOPBACK);
    let flags = flags(&authority, "peer");
    let theirs = plan(&etcd.join("etcd"), &flags, &["--snapshot-count=50"]);
    let ours = plan(&server_binary(), &flags, SHORT_LOG);
    let mut cluster = Cluster::start(Plan::of(vec![theirs.clone(), ours, theirs])).await;
    live(&mut cluster).await;
}

#[tokio::test]
async fn certificates_of_members_are_renewed_while_they_run() {
    let authority = Authority::new();
    authority.sign("peer", LOOPBACK);
    let member = plan(&server_binary(), &flags(&authority, "peer"), &[]);
    let mut cluster = Cluster::start(Plan::of(vec![member; 3])).await;
    authority.sign("peer", LOOPBACK);
    let leader = cluster.leader().await;
    cluster.restart(leader).await;
    put(&cluster, leader, "a").await;
    expect_equal(&mut cluster).await;
}

/// A member that the others do not let in, and what they say of it.
async fn expect_rejected(authority: &Authority, intruder: &[String], extra: &[&str], reason: &str) {
    let member = plan(&server_binary(), &flags(authority, "peer"), extra);
    let mut cluster = Cluster::start(Plan::of(vec![member])).await;
    let dir = TempDir::new().unwrap();
    let (peer, client) = (Port::claim(), Port::claim());
    let mut command = Command::new(server_binary());
    command.args(["--name", "m9"]).arg("--data-dir").arg(dir.path().join("data"));
    command.args(["--listen-peer-urls", &peer.https_url()]);
    command.args(["--initial-advertise-peer-urls", &peer.https_url()]);
    command.args(["--listen-client-urls", &client.url(), "--advertise-client-urls", &client.url()]);
    let others = format!("m0={},m9={}", cluster.peer_url(0), peer.https_url());
    command.args(["--initial-cluster", &others, "--initial-cluster-state", "existing"]);
    let mut process = Process::spawn(command.args(intruder));
    assert!(!process.wait(SOON).success(), "nobody has told it of the cluster");
    let line = cluster.process(0).expect("rejected connection on peer endpoint", SOON);
    assert!(line.contains(reason), "{line}");
}

#[tokio::test]
async fn strangers_are_not_let_in() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("peer", LOOPBACK);
    stranger.sign("peer", LOOPBACK);
    let mut foreign = flags(&stranger, "peer");
    foreign[2] = format!("--peer-trusted-ca-file={}", authority.file("ca.crt"));
    let unknown = "certificate signed by unknown authority";
    expect_rejected(&authority, &foreign, &[], unknown).await;
    // What a member has made for itself proves nothing.
    let self_made = [
        format!("--peer-trusted-ca-file={}", authority.file("ca.crt")),
        "--peer-auto-tls".to_owned(),
    ];
    expect_rejected(&authority, &self_made, &[], "tls: failed to verify certificate").await;
}

#[tokio::test]
async fn names_of_members_can_be_required() {
    let authority = Authority::new();
    authority.sign("peer", LOOPBACK);
    authority.sign("other", LOOPBACK);
    let other = flags(&authority, "other");
    let reason = "client certificate authentication failed";
    expect_rejected(&authority, &other, &["--peer-cert-allowed-cn=peer"], reason).await;
}

#[tokio::test]
async fn certificates_of_members_belong_to_their_addresses() {
    let authority = Authority::new();
    authority.sign("peer", LOOPBACK);
    authority.sign("elsewhere", &["10.0.0.1"]);
    let elsewhere = flags(&authority, "elsewhere");
    let reason = "x509: certificate is valid for 10.0.0.1, not 127.0.0.1";
    expect_rejected(&authority, &elsewhere, &[], reason).await;
}

#[tokio::test]
async fn revoked_members_are_not_let_in() {
    let authority = Authority::new();
    authority.sign("peer", LOOPBACK);
    let serial = authority.sign("gone", LOOPBACK);
    authority.revoke(&[serial]);
    let crl = format!("--peer-crl-file={}", authority.file("crl"));
    let reason = format!("transport: certificate serial {serial:02x} revoked");
    expect_rejected(&authority, &flags(&authority, "gone"), &[&crl], &reason).await;
}
