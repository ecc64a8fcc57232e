//! A member whose file was changed behind its back is found out.
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::path::Path;
use std::time::Duration;

use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, PutRequest, RangeRequest,
};
use retcd_testkit::{Cluster, PATIENCE, Plan};
use tokio::time::Instant;

const VALUE: &[u8] = b"a value that is found in a file";
const POLL: Duration = Duration::from_millis(20);

#[tokio::test]
async fn it_does_not_start_when_it_is_to_compare_first() {
    let plan = Plan::new(3).with_args(&["--feature-gates", "InitialCorruptCheck=true"]);
    let (mut cluster, corrupt) = with_other_data(plan).await;
    let end = cluster.process(corrupt).wait(PATIENCE);
    assert_eq!(end.code(), Some(1));
    let id = format!("{:x}", cluster.id(corrupt));
    let output = cluster.process(corrupt).last_lines(10);
    assert!(output.contains("found different hash values from remote peer"), "{output}");
    assert!(output.contains(&format!("{id} found data inconsistency with peers")), "{output}");

    let sound = cluster.others(&[corrupt])[0];
    cluster.stop(sound).await;
    cluster.start_again(sound);
    cluster.process(sound).expect("initial corruption checking passed; no corruption", PATIENCE);
}

#[tokio::test]
async fn the_leader_finds_it_by_all_data() {
    let (mut cluster, corrupt) =
        with_other_data(Plan::new(3).with_args(&["--corrupt-check-time", "200ms"])).await;
    expect_alarm(&mut cluster, corrupt).await;
}

#[tokio::test]
async fn the_leader_finds_it_by_a_compaction() {
    let gate = ["--feature-gates", "CompactHashCheck=true", "--compact-hash-check-time", "200ms"];
    let (mut cluster, corrupt) = with_other_data(Plan::new(3).with_args(&gate)).await;
    let leader = cluster.leader().await;
    let mut kv = KvClient::new(cluster.channel(leader));
    let now = kv.range(RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    let revision = now.into_inner().header.unwrap().revision;
    kv.compact(CompactionRequest { revision, physical: false }).await.unwrap();
    expect_alarm(&mut cluster, corrupt).await;
}

#[tokio::test]
async fn members_with_the_same_data_raise_no_alarm() {
    let args = [
        "--corrupt-check-time",
        "100ms",
        "--compact-hash-check-time",
        "100ms",
        "--feature-gates",
        "CompactHashCheck=true,InitialCorruptCheck=true",
    ];
    let mut cluster = Cluster::start(Plan::new(3).with_args(&args)).await;
    let leader = cluster.leader().await;
    let mut kv = KvClient::new(cluster.channel(leader));
    for number in 0..200_i64 {
        let put = PutRequest { key: format!("k{}", number % 7).into(), ..Default::default() };
        let revision = kv.put(put).await.unwrap().into_inner().header.unwrap().revision;
        if number % 20 == 0 {
            kv.compact(CompactionRequest { revision, physical: false }).await.unwrap();
        }
    }
    cluster.process(leader).expect("successfully checked hash on whole cluster", PATIENCE);
    cluster.process(leader).expect("finished peer corruption check", PATIENCE);
    assert_eq!(alarms(&cluster, leader).await, []);
}

/// A cluster in which one follower, which starts again, has another value than the others.
async fn with_other_data(plan: Plan) -> (Cluster, usize) {
    let mut cluster = Cluster::start(plan).await;
    let leader = cluster.leader().await;
    let mut kv = KvClient::new(cluster.channel(leader));
    let put = PutRequest { key: "k".into(), value: VALUE.into(), ..Default::default() };
    let revision = kv.put(put).await.unwrap().into_inner().header.unwrap().revision;
    let follower = cluster.others(&[leader])[0];
    let mut there = KvClient::new(cluster.channel(follower));
    let read = there.range(RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    assert_eq!(read.into_inner().header.unwrap().revision, revision);
    cluster.stop(follower).await;
    change_value(&cluster.data_dir(follower).join("member/snap/db"));
    cluster.start_again(follower);
    (cluster, follower)
}

/// Changes one byte of the value, wherever the file holds it.
fn change_value(database: &Path) {
    let mut bytes = std::fs::read(database).unwrap();
    let places: Vec<usize> = bytes
        .windows(VALUE.len())
        .enumerate()
        .filter(|(_, window)| *window == VALUE)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "a stopped member's file holds everything");
    for at in places {
        bytes[at] = b'A';
    }
    std::fs::write(database, bytes).unwrap();
}

/// Waits for the alarm of this member alone, which forbids to write.
async fn expect_alarm(cluster: &mut Cluster, corrupt: usize) {
    let leader = cluster.leader().await;
    let expected = AlarmMember { member_id: cluster.id(corrupt), alarm: AlarmType::Corrupt as i32 };
    let until = Instant::now() + PATIENCE;
    while alarms(cluster, leader).await != [expected] {
        assert!(Instant::now() < until, "no alarm\n{}", cluster.last_lines());
        tokio::time::sleep(POLL).await;
    }
    let mut kv = KvClient::new(cluster.channel(leader));
    let put = PutRequest { key: "k".into(), ..Default::default() };
    assert_eq!(kv.put(put).await.unwrap_err().message(), "etcdserver: corrupt cluster");
}

async fn alarms(cluster: &Cluster, slot: usize) -> Vec<AlarmMember> {
    let mut maintenance = MaintenanceClient::new(cluster.channel(slot));
    maintenance.alarm(AlarmRequest::default()).await.unwrap().into_inner().alarms
}
