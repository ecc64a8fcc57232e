//! Changes of the membership that a cluster refuses, in etcd's codes and words, and what becomes of members that are
//! removed, lost or left alone.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

use std::fmt::Debug;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use retcd_api::etcdserverpb::auth_client::AuthClient;
use retcd_api::etcdserverpb::cluster_client::ClusterClient;
use retcd_api::etcdserverpb::downgrade_request::DowngradeAction;
use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::lease_client::LeaseClient;
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_api::etcdserverpb::watch_client::WatchClient;
use retcd_api::etcdserverpb::{self as pb};
use retcd_storage::fs::RealFs;
use retcd_storage::wal::{self, Wal};
use retcd_testkit::{Cluster, MemberPlan, PATIENCE, Plan, Port, Process, server_binary};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// Between two looks at something that should change.
const POLL: Duration = Duration::from_millis(20);
/// For how long members have to be connected before a cluster dares to change.
const CONNECTED: Duration = Duration::from_secs(5);

const BAD_URLS: &str = "etcdserver: given member URLs are invalid";
const URL_EXISTS: &str = "etcdserver: Peer URLs already exists";
const NOT_FOUND: &str = "etcdserver: member not found";
const NOT_ENOUGH_STARTED: &str =
    "etcdserver: re-configuration failed due to not enough started members";
const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
const NOT_READY: &str =
    "etcdserver: can only promote a learner member which is in sync with leader";
const NOT_LEARNER: &str = "etcdserver: can only promote a learner member";
const TOO_MANY_LEARNERS: &str = "etcdserver: too many learner members in cluster";
const NOT_FOR_LEARNERS: &str = "etcdserver: rpc not supported for learner";

type Outcome<T> = Result<T, Status>;

/// The answer to a call, which must come: changes of the membership have no time limit of their own.
async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Outcome<T> {
    let outcome = tokio::time::timeout(PATIENCE, call).await.expect("the call is answered");
    outcome.map(Response::into_inner)
}

#[track_caller]
fn refused<T: Debug>(outcome: Outcome<T>, code: Code, text: &str) {
    let status = outcome.expect_err("the call is refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

/// The outcome of a change that the log decides on.
///
/// A follower may answer for the change before while the leader has yet to note it as done. Raft lets only one change be
/// under way, so the leader then drops the next one, of which its caller hears by a timeout, as with etcd.
async fn decided<T>(attempt: impl AsyncFn() -> Outcome<T>) -> Outcome<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Err(status) if status.code() == Code::Unavailable && Instant::now() < until => {}
            outcome => return outcome,
        }
    }
}

/// The calls of one member.
struct Calls(Channel);

impl Calls {
    fn at(cluster: &Cluster, slot: usize) -> Self {
        Calls(cluster.channel(slot))
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.0.clone())
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.0.clone())
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.0.clone())
    }

    async fn add(&self, urls: &[&str], is_learner: bool) -> Outcome<pb::MemberAddResponse> {
        let peer_ur_ls = urls.iter().map(ToString::to_string).collect();
        answer(self.cluster().member_add(pb::MemberAddRequest { peer_ur_ls, is_learner })).await
    }

    async fn update(&self, id: u64, urls: &[&str]) -> Outcome<pb::MemberUpdateResponse> {
        let peer_ur_ls = urls.iter().map(ToString::to_string).collect();
        answer(self.cluster().member_update(pb::MemberUpdateRequest { id, peer_ur_ls })).await
    }

    async fn remove(&self, id: u64) -> Outcome<pb::MemberRemoveResponse> {
        answer(self.cluster().member_remove(pb::MemberRemoveRequest { id })).await
    }

    async fn promote(&self, id: u64) -> Outcome<pb::MemberPromoteResponse> {
        answer(self.cluster().member_promote(pb::MemberPromoteRequest { id })).await
    }

    async fn members(&self) -> Vec<pb::Member> {
        let request = pb::MemberListRequest { linearizable: true };
        answer(self.cluster().member_list(request)).await.expect("members are listed").members
    }

    async fn move_leader(&self, target_id: u64) -> Outcome<pb::MoveLeaderResponse> {
        answer(self.maintenance().move_leader(pb::MoveLeaderRequest { target_id })).await
    }

    async fn put(&self, key: &str, value: &str) -> Outcome<pb::PutResponse> {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        answer(self.kv().put(pb::PutRequest { key, value, ..pb::PutRequest::default() })).await
    }

    async fn get(&self, key: &str) -> Outcome<pb::RangeResponse> {
        let key = key.to_owned().into();
        answer(self.kv().range(pb::RangeRequest { key, ..pb::RangeRequest::default() })).await
    }

    async fn downgrade(&self, action: DowngradeAction, version: &str) -> Outcome<String> {
        let request = pb::DowngradeRequest { action: action.into(), version: version.to_owned() };
        Ok(answer(self.maintenance().downgrade(request)).await?.version)
    }

    /// Waits until members have been connected for so long that the cluster would take a change.
    ///
    /// A URL that a member has is refused as such only behind the check of the connections.
    async fn wait_until_healthy(&self, used_url: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.add(&[used_url], false).await {
                Err(status) if status.message() == URL_EXISTS => return,
                Err(status) if status.code() == Code::Unavailable => {}
                other => panic!("a URL that is in use: {other:?}"),
            }
            assert!(Instant::now() < until, "the cluster stays unhealthy");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The server of a member that is down, on its own ports. Flags for the bootstrap and the data dir are the caller's.
fn server(cluster: &Cluster, slot: usize) -> Command {
    let mut command = Command::new(server_binary());
    let (client, peer) = (format!("http://{}", cluster.endpoint(slot)), cluster.peer_url(slot));
    command.args(["--name", cluster.name(slot)]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command
}

/// `--initial-cluster` of these members.
fn initial_cluster(cluster: &Cluster, slots: &[usize]) -> String {
    let members =
        slots.iter().map(|&slot| format!("{}={}", cluster.name(slot), cluster.peer_url(slot)));
    members.collect::<Vec<_>>().join(",")
}

/// No member has this id, so nothing can be done with it.
async fn expect_unknown(calls: &Calls, id: u64) {
    let update = async || calls.update(id, &["http://127.0.0.1:1"]).await;
    refused(decided(update).await, Code::NotFound, NOT_FOUND);
    refused(decided(async || calls.remove(id).await).await, Code::NotFound, NOT_FOUND);
    refused(decided(async || calls.promote(id).await).await, Code::NotFound, NOT_FOUND);
}

#[tokio::test]
async fn changes_that_make_no_sense_are_refused_and_change_nothing() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(&[leader])[0];
    let (used, unused) = (cluster.peer_url(follower), Port::claim());
    let before = Calls::at(&cluster, leader).members().await;
    for slot in [leader, follower] {
        let calls = Calls::at(&cluster, slot);
        for bad in ["", "127.0.0.1:1", "ftp://127.0.0.1:1", "http://127.0.0.1", "http://a:1/path"] {
            refused(calls.add(&[bad], false).await, Code::InvalidArgument, BAD_URLS);
        }
        refused(calls.add(&[], true).await, Code::InvalidArgument, BAD_URLS);

        calls.wait_until_healthy(&used).await;
        for is_learner in [false, true] {
            let add = async || calls.add(&[&unused.url(), &used], is_learner).await;
            refused(decided(add).await, Code::FailedPrecondition, URL_EXISTS);
        }
        let update = async || calls.update(cluster.id(leader), &[&used]).await;
        refused(decided(update).await, Code::FailedPrecondition, URL_EXISTS);

        expect_unknown(&calls, 1).await;
        for voter in [leader, follower] {
            let promote = async || calls.promote(cluster.id(voter)).await;
            refused(decided(promote).await, Code::FailedPrecondition, NOT_LEARNER);
        }
    }
    for slot in cluster.slots() {
        assert_eq!(Calls::at(&cluster, slot).members().await, before, "at member {slot}");
    }
    // The URL that a member has already is its own to keep, and a new one is shown to all.
    let calls = Calls::at(&cluster, leader);
    let id = cluster.id(follower);
    decided(async || calls.update(id, &[&used]).await).await.unwrap();
    assert_eq!(calls.members().await, before);
    let both = [used.as_str(), &unused.url()];
    let updated = decided(async || calls.update(id, &both).await).await.unwrap().members;
    let member = updated.iter().find(|member| member.id == id).unwrap();
    assert_eq!(member.peer_ur_ls.len(), 2, "{member:?}");
    assert_eq!((&*member.name, member.client_ur_ls.len()), (cluster.name(follower), 1));
}

#[tokio::test]
async fn members_have_to_know_each_other_for_a_while() {
    let begun = Instant::now();
    let mut cluster = Cluster::start(Plan::new(3)).await;
    let leader = cluster.leader().await;
    let calls = Calls::at(&cluster, leader);
    let unused = Port::claim();
    // What is asked and answered within this time must be refused; a slow machine is beyond it already.
    let early = calls.add(&[&cluster.peer_url(leader)], true).await;
    if begun.elapsed() < CONNECTED {
        refused(early, Code::Unavailable, UNHEALTHY);
    }
    calls.wait_until_healthy(&cluster.peer_url(leader)).await;
    assert!(begun.elapsed() >= CONNECTED, "healthy after {:?}", begun.elapsed());

    // Two of three that have never met the third: enough to go on, too few to be changed.
    let others = cluster.others(&[leader]);
    let (away, there) = (others[0], others[1]);
    let away_id = cluster.id(away);
    cluster.kill(away);
    cluster.restart(there).await;
    cluster.restart(leader).await;
    for slot in [there, leader] {
        let calls = Calls::at(&cluster, slot);
        for is_learner in [false, true] {
            let added = calls.add(&[&unused.url()], is_learner).await;
            refused(added, Code::Unavailable, UNHEALTHY);
        }
        for needed in [there, leader] {
            refused(calls.remove(cluster.id(needed)).await, Code::Unavailable, UNHEALTHY);
        }
    }
    // The one that is gone may go.
    let left = Calls::at(&cluster, there).remove(away_id).await.unwrap().members;
    assert_eq!(left.len(), 2);
    Calls::at(&cluster, leader).put("key", "value").await.unwrap();
}

#[tokio::test]
async fn a_member_alone_takes_one_more_and_waits_for_it() {
    let cluster = Cluster::start(Plan::new(1)).await;
    let calls = Calls::at(&cluster, 0);
    refused(calls.remove(cluster.id(0)).await, Code::Unknown, NOT_ENOUGH_STARTED);
    let (second, third) = (Port::claim(), Port::claim());
    let added = calls.add(&[&second.url()], false).await.unwrap();
    let member = added.member.unwrap();
    assert_eq!((&*member.name, member.client_ur_ls.len()), ("", 0), "it has not started");
    assert_eq!((member.peer_ur_ls.clone(), member.is_learner), (vec![second.url()], false));
    assert!(added.members.is_sorted_by_key(|member| member.id) && added.members.len() == 2);
    refused(calls.add(&[&third.url()], false).await, Code::Unknown, NOT_ENOUGH_STARTED);
    refused(calls.remove(cluster.id(0)).await, Code::Unknown, NOT_ENOUGH_STARTED);
}

#[tokio::test]
async fn learners_are_few_and_promoted_only_when_they_are_in_step() {
    let mut cluster = Cluster::start(Plan::new(1)).await;
    let calls = Calls::at(&cluster, 0);
    let (first, second) = (Port::claim(), Port::claim());
    let added = calls.add(&[&first.url()], true).await.unwrap().member.unwrap();
    assert!(added.is_learner);
    let refusal = calls.add(&[&second.url()], true).await;
    refused(refusal, Code::FailedPrecondition, TOO_MANY_LEARNERS);
    refused(calls.promote(added.id).await, Code::FailedPrecondition, NOT_READY);
    refused(
        calls.move_leader(added.id).await,
        Code::FailedPrecondition,
        "etcdserver: bad leader transferee",
    );
    // A member that never started is removed without further ado, and makes room for the next one.
    assert_eq!(calls.remove(added.id).await.unwrap().members.len(), 1);
    refused(calls.promote(added.id).await, Code::NotFound, NOT_FOUND);

    let learner = cluster.add(MemberPlan::new(), true).await;
    let id = cluster.id(learner);
    let urls = [cluster.peer_url(learner), second.url()];
    let updated = calls.update(id, &[&urls[0], &urls[1]]).await.unwrap().members;
    let updated = updated.into_iter().find(|member| member.id == id).unwrap();
    assert!(updated.is_learner, "an update makes no voter: {updated:?}");
    cluster.promote(learner).await;
    refused(calls.promote(id).await, Code::FailedPrecondition, NOT_LEARNER);
    cluster.restart(learner).await;
    let members = Calls::at(&cluster, learner).members().await;
    assert!(members.iter().all(|member| !member.is_learner), "{members:?}");
}

#[tokio::test]
async fn learners_serve_what_they_know_by_themselves() {
    let mut cluster = Cluster::start(Plan::new(1)).await;
    Calls::at(&cluster, 0).put("key", "value").await.unwrap();
    let learner = cluster.add(MemberPlan::new(), true).await;
    let calls = Calls::at(&cluster, learner);
    let status = cluster.status(learner).await.unwrap();
    assert!(status.is_learner && status.leader == cluster.id(0), "{status:?}");
    let local =
        pb::RangeRequest { key: "key".into(), serializable: true, ..pb::RangeRequest::default() };
    let until = Instant::now() + PATIENCE;
    while answer(calls.kv().range(local.clone())).await.unwrap().count == 0 {
        assert!(Instant::now() < until, "the learner gets the log");
        tokio::time::sleep(POLL).await;
    }
    let mut chunks = answer(calls.maintenance().snapshot(pb::SnapshotRequest {})).await.unwrap();
    let first = chunks.message().await.unwrap().expect("a snapshot has bytes");
    assert!(!first.blob.is_empty());

    let no = |outcome: Outcome<()>| refused(outcome, Code::FailedPrecondition, NOT_FOR_LEARNERS);
    no(calls.get("key").await.map(drop));
    no(calls.put("key", "value").await.map(drop));
    let mut kv = calls.kv();
    no(answer(kv.delete_range(pb::DeleteRangeRequest::default())).await.map(drop));
    no(answer(kv.txn(pb::TxnRequest::default())).await.map(drop));
    no(answer(kv.compact(pb::CompactionRequest::default())).await.map(drop));
    let mut members = calls.cluster();
    for linearizable in [true, false] {
        no(answer(members.member_list(pb::MemberListRequest { linearizable })).await.map(drop));
    }
    no(calls.add(&["http://127.0.0.1:1"], false).await.map(drop));
    no(calls.remove(1).await.map(drop));
    no(calls.promote(cluster.id(learner)).await.map(drop));
    let mut maintenance = calls.maintenance();
    no(answer(maintenance.alarm(pb::AlarmRequest::default())).await.map(drop));
    no(answer(maintenance.hash(pb::HashRequest {})).await.map(drop));
    no(answer(maintenance.hash_kv(pb::HashKvRequest::default())).await.map(drop));
    no(answer(maintenance.defragment(pb::DefragmentRequest {})).await.map(drop));
    no(calls.move_leader(1).await.map(drop));
    no(calls.downgrade(DowngradeAction::Validate, "3.6").await.map(drop));
    let mut leases = LeaseClient::new(cluster.channel(learner));
    no(answer(leases.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 })).await.map(drop));
    no(answer(leases.lease_leases(pb::LeaseLeasesRequest {})).await.map(drop));
    let mut auth = AuthClient::new(cluster.channel(learner));
    no(answer(auth.auth_status(pb::AuthStatusRequest {})).await.map(drop));

    let mut watch = WatchClient::new(cluster.channel(learner));
    let create = pb::WatchCreateRequest { key: "key".into(), ..pb::WatchCreateRequest::default() };
    let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
    let stream = tokio_stream::once(pb::WatchRequest { request_union });
    no(ending(answer(watch.watch(stream)).await).await);
    let stream = tokio_stream::once(pb::LeaseKeepAliveRequest { id: 1 });
    no(ending(answer(leases.lease_keep_alive(stream)).await).await);
}

/// How a stream ends that says nothing: its refusal may come with the headers or behind them.
async fn ending<T: Debug>(opened: Outcome<tonic::Streaming<T>>) -> Outcome<()> {
    opened?.message().await.map(drop)
}

#[tokio::test]
async fn the_leadership_moves_from_the_leader_to_a_voter() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    let leader = cluster.leader().await;
    let followers = cluster.others(&[leader]);
    let calls = Calls::at(&cluster, leader);
    let from_follower = Calls::at(&cluster, followers[0]);
    for target in [cluster.id(followers[0]), cluster.id(leader), 1] {
        let moved = from_follower.move_leader(target).await;
        refused(moved, Code::FailedPrecondition, "etcdserver: not leader");
    }
    let unknown = calls.move_leader(1).await;
    refused(unknown, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    calls.move_leader(cluster.id(leader)).await.unwrap();
    calls.move_leader(cluster.id(followers[1])).await.unwrap();
    // The answer comes when the member that was asked follows the new leader.
    let moved_to = cluster.status(leader).await.unwrap().leader;
    assert_ne!(moved_to, cluster.id(leader));
    from_follower.put("key", "value").await.unwrap();
}

#[tokio::test]
async fn a_removed_member_ends_and_never_comes_back() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    let leader = cluster.leader().await;
    let others = cluster.others(&[leader]);
    let (removed, rest) = (others[0], [leader, others[1]]);
    let id = cluster.id(removed);
    let calls = Calls::at(&cluster, leader);
    calls.wait_until_healthy(&cluster.peer_url(leader)).await;
    assert_eq!(calls.remove(id).await.unwrap().members.len(), 2);
    let ended = cluster.process(removed).wait(PATIENCE);
    assert_eq!(ended.code(), Some(0), "{}", cluster.last_lines());

    // Its data tells it of the removal, or the others do.
    let mut again = server(&cluster, removed);
    again.arg("--data-dir").arg(cluster.data_dir(removed));
    assert_eq!(Process::spawn(&mut again).wait(PATIENCE).code(), Some(0));

    for slot in rest {
        let calls = Calls::at(&cluster, slot);
        expect_unknown(&calls, id).await;
        assert!(calls.members().await.iter().all(|member| member.id != id));
    }
}

/// The leader answers for its own removal, then ends, and the others go on.
#[tokio::test]
async fn a_leader_may_be_removed() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    let leader = cluster.leader().await;
    let rest = cluster.others(&[leader]);
    let calls = Calls::at(&cluster, leader);
    calls.wait_until_healthy(&cluster.peer_url(leader)).await;
    calls.remove(cluster.id(leader)).await.unwrap();
    assert_eq!(cluster.process(leader).wait(PATIENCE).code(), Some(0));
    cluster.leader_among(&rest).await;
    Calls::at(&cluster, rest[0]).put("key", "value").await.unwrap();
}

#[tokio::test]
async fn a_member_without_its_data_is_not_let_in_again() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    let leader = cluster.leader().await;
    let lost = cluster.others(&[leader])[0];
    cluster.stop(lost).await;
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    let mut again = server(&cluster, lost);
    again.arg("--data-dir").arg(cluster.data_dir(lost));
    again.args(["--initial-cluster", &initial_cluster(&cluster, &cluster.slots())]);
    let mut process = Process::spawn(&mut again);
    let text = format!("member {:x} has already been bootstrapped", cluster.id(lost));
    process.expect(&text, PATIENCE);
    assert_eq!(process.wait(PATIENCE).code(), Some(1));
}

#[tokio::test]
async fn joining_needs_the_membership_as_it_is() {
    let cluster = Cluster::start(Plan::new(1)).await;
    let (peer, client, dir) = (Port::claim(), Port::claim(), TempDir::new().unwrap());
    Calls::at(&cluster, 0).add(&[&peer.url()], true).await.unwrap();
    let known = initial_cluster(&cluster, &[0]);
    let other = Port::claim();
    for (name, members, complaint) in [
        ("new", format!("{known},other={}", peer.url()), "couldn't find local name"),
        ("new", format!("new={}", peer.url()), "could not retrieve cluster information"),
        (
            "new",
            format!("{known},new={},more={}", peer.url(), other.url()),
            "member count is unequal",
        ),
    ] {
        let mut command = Command::new(server_binary());
        command.args(["--name", name]).arg("--data-dir").arg(dir.path().join("data"));
        command.args(["--listen-peer-urls", &peer.url()]);
        command.args(["--initial-advertise-peer-urls", &peer.url()]);
        command.args(["--listen-client-urls", &client.url()]);
        command.args(["--advertise-client-urls", &client.url()]);
        command.args(["--initial-cluster", &members, "--initial-cluster-state", "existing"]);
        let mut process = Process::spawn(&mut command);
        process.expect(complaint, PATIENCE);
        assert_eq!(process.wait(PATIENCE).code(), Some(1), "{complaint}");
    }
}

/// The log of a start that was cut short tells whose it is, and so no other member goes on with it.
#[tokio::test]
async fn a_log_of_somebody_else_is_refused_with_both_ids() {
    let mut cluster = Cluster::start(Plan::new(1)).await;
    let (id, status) = (cluster.id(0), cluster.status(0).await.unwrap());
    let own_cluster = status.header.unwrap().cluster_id;
    cluster.stop(0).await;
    let data = cluster.data_dir(0);
    std::fs::remove_dir_all(data.join("member/wal")).unwrap();
    let metadata = pb::Metadata { node_id: 0xabc, cluster_id: 0xdef }.encode_to_vec();
    let options = wal::Options::default();
    drop(Wal::create(Arc::new(RealFs), &data.join("member/wal"), &metadata, options).unwrap());
    let mut command = server(&cluster, 0);
    command.arg("--data-dir").arg(&data);
    command.args(["--initial-cluster", &initial_cluster(&cluster, &[0])]);
    let mut process = Process::spawn(&mut command);
    let line = process.expect("member abc of cluster def", PATIENCE);
    assert!(line.contains(&format!("member {id:x} of cluster {own_cluster:x}")), "{line}");
    assert_eq!(process.wait(PATIENCE).code(), Some(1));
}

#[tokio::test]
async fn members_of_another_cluster_are_not_listened_to() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    let leader = cluster.leader().await;
    let stranger = cluster.others(&[leader])[0];
    let own = cluster.status(leader).await.unwrap().header.unwrap().cluster_id;
    cluster.stop(stranger).await;
    let dir = TempDir::new().unwrap();
    let mut command = server(&cluster, stranger);
    command.arg("--data-dir").arg(dir.path().join("data"));
    command.args(["--initial-cluster", &initial_cluster(&cluster, &cluster.slots())]);
    command.args(["--initial-cluster-token", "another"]);
    let mut process = Process::spawn(&mut command);
    // Each side tells both ids.
    let process_of_leader = cluster.process(leader);
    for (process, whose) in [(&mut process, "remote-peer"), (process_of_leader, "local-member")] {
        process.expect(&format!("\"{whose}-cluster-id\":\"{own:x}\""), PATIENCE);
    }
    Calls::at(&cluster, leader).put("key", "value").await.unwrap();
}

#[tokio::test]
async fn a_member_that_is_forced_to_be_alone_keeps_everything_but_the_others() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    cluster.leader().await;
    Calls::at(&cluster, 0).put("key", "value").await.unwrap();
    let learner = cluster.add(MemberPlan::new(), true).await;
    // What it knows itself is what it keeps.
    Calls::at(&cluster, 1).get("key").await.unwrap();
    let before = cluster.status(1).await.unwrap();
    let header = before.header.unwrap();
    for slot in [0, 2, learner, 1] {
        cluster.kill(slot);
    }
    let mut alone = server(&cluster, 1);
    alone.arg("--data-dir").arg(cluster.data_dir(1)).arg("--force-new-cluster");
    let mut process = Process::spawn(&mut alone);
    process.expect("ready to serve client requests", PATIENCE);
    cluster.serving(1).await;
    let calls = Calls::at(&cluster, 1);
    let members = calls.members().await;
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [header.member_id]);
    assert!(!members[0].is_learner && members[0].name == cluster.name(1), "{members:?}");
    let found = calls.get("key").await.unwrap();
    assert_eq!((found.count, &*found.kvs[0].value), (1, &b"value"[..]));
    let after = found.header.unwrap();
    assert_eq!((after.cluster_id, after.member_id), (header.cluster_id, header.member_id));
    assert_eq!(after.revision, found.kvs[0].mod_revision, "nothing was written since");
    calls.put("key", "again").await.unwrap();

    // And it is alone without the flag from now on.
    process.kill();
    process.wait(PATIENCE);
    let mut again = server(&cluster, 1);
    again.arg("--data-dir").arg(cluster.data_dir(1));
    let mut process = Process::spawn(&mut again);
    process.expect("ready to serve client requests", PATIENCE);
    cluster.serving(1).await;
    assert_eq!(calls.members().await.len(), 1);
    assert_eq!(&*calls.get("key").await.unwrap().kvs[0].value, b"again");
}

#[tokio::test]
async fn a_downgrade_goes_one_release_down() {
    use DowngradeAction::{Cancel, Enable, Validate};
    let cluster = Cluster::start(Plan::new(1)).await;
    let calls = Calls::at(&cluster, 0);
    let until = Instant::now() + PATIENCE;
    // The cluster's own version comes with its first words.
    while let Err(status) = calls.downgrade(Validate, "3.6.0").await {
        assert_eq!(status.message(), "etcdserver: cluster version not found during downgrade");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(Instant::now() < until, "a cluster has a version");
        tokio::time::sleep(POLL).await;
    }
    for action in [Validate, Enable] {
        for version in ["", "3", "three.six"] {
            refused(
                calls.downgrade(action, version).await,
                Code::InvalidArgument,
                "etcdserver: wrong downgrade target version format",
            );
        }
        for version in ["3.5.0", "3.7.0", "3.8", "2.6", "4.6"] {
            refused(
                calls.downgrade(action, version).await,
                Code::InvalidArgument,
                "etcdserver: invalid downgrade target version",
            );
        }
    }
    for version in ["3.6", "3.6.0"] {
        assert_eq!(calls.downgrade(Validate, version).await.unwrap(), "3.7");
    }
    calls.downgrade(Cancel, "").await.expect("there is nothing to cancel, which is fine");
    assert_eq!(calls.downgrade(Enable, "3.6.0").await.unwrap(), "3.7");
    for action in [Validate, Enable] {
        refused(
            calls.downgrade(action, "3.6.0").await,
            Code::FailedPrecondition,
            "etcdserver: cluster has a downgrade job in progress",
        );
    }
    assert_eq!(calls.downgrade(Cancel, "").await.unwrap(), "3.7");
    assert_eq!(calls.downgrade(Validate, "3.6.0").await.unwrap(), "3.7");
}
