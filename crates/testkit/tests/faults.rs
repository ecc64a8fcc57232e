//! Nothing is lost, torn or told out of order, whatever happens to members and to the network between them.
//!
//! In each test clients work on a cluster while one kind of fault comes and goes; afterwards everything that they were
//! told is checked (`retcd_checkers`), and the cluster must be able to work again.
//!
//! A fault lasts `FAULT_SECONDS` (3 when not given). `ETCD_SERVER` names another server to test. At most two clusters
//! run at a time: a machine that is too busy would only show elections.
#![allow(clippy::print_stdout, reason = "a test tells how much it has checked")]

use std::process::Command;
use std::time::{Duration, Instant};

use retcd_testkit::{
    Cluster, Fault, Load, MemberPlan, PATIENCE, Plan, SLOW, Workload, server_binary,
};
use tokio::sync::Semaphore;

/// Clusters at a time, in this process.
static ROOM: Semaphore = Semaphore::const_new(2);

/// Acknowledged writes that show that a cluster works.
const SOME: usize = 100;

/// How long a fault lasts.
fn length() -> Duration {
    let seconds = std::env::var("FAULT_SECONDS")
        .map_or(3, |seconds| seconds.parse().expect("FAULT_SECONDS is a number"));
    Duration::from_secs(seconds)
}

/// Lets time pass while something is broken.
async fn hold() {
    tokio::time::sleep(length()).await;
}

/// Members that look for a new leader quickly, so that short faults show as much as long ones do with the defaults.
fn plan(size: usize) -> Plan {
    Plan::new(size).with_args(&["--heartbeat-interval", "50", "--election-timeout", "500"])
}

fn member() -> MemberPlan {
    MemberPlan::new().with_args(&["--heartbeat-interval", "50", "--election-timeout", "500"])
}

/// Lets clients work on a cluster while `fault` happens, and checks what they saw. `fault` ends with all members up;
/// broken links are healed here.
async fn survive(name: &str, plan: Plan, fault: impl AsyncFnOnce(&mut Cluster, &Workload)) {
    let _room = ROOM.acquire().await.expect("never closed");
    let begun = Instant::now();
    let mut cluster = Cluster::start(plan.with_links()).await;
    let asks_for_progress = answers_progress_rightly(&mut cluster).await;
    let workload = Workload::start(&cluster, Load { asks_for_progress, ..Load::default() });
    workload.progress(SOME).await;
    fault(&mut cluster, &workload).await;
    cluster.links().heal();
    cluster.leader().await;
    workload.progress(SOME).await;
    let report = workload.finish(&mut cluster).await;
    let violations = &report.violations;
    println!(
        "{name}: {} writes acknowledged, {} without an answer, {} reads, {} revisions, {} events \
         on {} streams, {} violations, {:.1} s",
        report.acknowledged_writes,
        report.unknown_writes,
        report.reads,
        report.revisions,
        report.watched_events,
        report.watch_sessions,
        violations.len(),
        begun.elapsed().as_secs_f64()
    );
    let first = &violations[..violations.len().min(10)];
    assert!(violations.is_empty(), "{name}: {} violations: {first:#?}", violations.len());
}

/// etcd before 3.5.8 answers a request for progress ahead of events that it still has to send.
async fn answers_progress_rightly(cluster: &mut Cluster) -> bool {
    let slot = cluster.slots()[0];
    let status = cluster.status(slot).await.expect("a fresh cluster serves");
    let mut numbers = status.version.split('.').map(|number| number.parse().unwrap_or(0));
    let version: [u32; 3] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    version >= [3, 5, 8]
}

#[tokio::test]
async fn a_leader_that_nobody_hears() {
    survive("isolated leader", plan(3), async |cluster, workload| {
        let leader = cluster.leader().await;
        let others = cluster.others(&[leader]);
        cluster.links().between(&[leader], &others, Fault::Silent);
        let next = cluster.leader_among(&others).await;
        assert_ne!(next, leader);
        workload.progress(SOME).await;
        hold().await;
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_all_refuse() {
    survive("refused leader", plan(3), async |cluster, workload| {
        let leader = cluster.leader().await;
        let others = cluster.others(&[leader]);
        cluster.links().between(&[leader], &others, Fault::Refused);
        cluster.leader_among(&others).await;
        workload.progress(SOME).await;
        hold().await;
    })
    .await;
}

#[tokio::test]
async fn a_majority_without_the_leader() {
    survive("majority split", plan(5), async |cluster, workload| {
        let leader = cluster.leader().await;
        let followers = cluster.others(&[leader]);
        let (friend, majority) = followers.split_first().expect("five members");
        cluster.links().between(&[leader, *friend], majority, Fault::Silent);
        cluster.leader_among(majority).await;
        workload.progress(SOME).await;
        hold().await;
    })
    .await;
}

#[tokio::test]
async fn a_follower_that_hears_but_is_not_heard() {
    survive("follower not heard", plan(3), async |cluster, workload| {
        let leader = cluster.leader().await;
        let follower = cluster.others(&[leader])[0];
        cluster.links().set(follower, leader, Fault::Silent);
        workload.progress(SOME).await;
        hold().await;
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_is_heard_but_does_not_hear() {
    survive("leader hears nobody", plan(3), async |cluster, workload| {
        let leader = cluster.leader().await;
        let others = cluster.others(&[leader]);
        for &other in &others {
            cluster.links().set(other, leader, Fault::Silent);
        }
        cluster.leader_among(&others).await;
        workload.progress(SOME).await;
        hold().await;
    })
    .await;
}

#[tokio::test]
async fn two_halves_that_one_member_joins() {
    survive("bridge", plan(5), async |cluster, _| {
        let leader = cluster.leader().await;
        // The leader is in one of the halves, not the bridge.
        let others = cluster.others(&[leader]);
        cluster.links().between(&[leader, others[0]], &[others[1], others[2]], Fault::Silent);
        hold().await;
    })
    .await;
}

#[tokio::test]
async fn half_of_everything_lost() {
    survive("50 % loss", plan(3), async |cluster, _| {
        cluster.links().among(&cluster.slots(), Fault::Lossy { percent: 50 });
        hold().await;
    })
    .await;
}

#[tokio::test]
async fn everything_late() {
    survive("75±50 ms delay", plan(3), async |cluster, workload| {
        cluster.links().among(&cluster.slots(), SLOW);
        hold().await;
        workload.progress(1).await;
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_hangs() {
    survive("paused leader", plan(3), async |cluster, workload| {
        let leader = cluster.leader().await;
        cluster.pause(leader);
        let others = cluster.others(&[leader]);
        cluster.leader_among(&others).await;
        workload.progress(SOME).await;
        hold().await;
        cluster.resume(leader);
    })
    .await;
}

#[tokio::test]
async fn members_restarted_one_after_the_other() {
    survive("rolling restarts", plan(3), async |cluster, workload| {
        let until = Instant::now() + length();
        while Instant::now() < until {
            for slot in cluster.slots() {
                cluster.restart(slot).await;
                workload.progress(SOME).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_member_replaced_under_load() {
    survive("member replaced", plan(3), async |cluster, workload| {
        let leader = cluster.leader().await;
        let follower = cluster.others(&[leader])[0];
        for old in [follower, leader] {
            let new = cluster.replace(old, member()).await;
            workload.members_changed(cluster);
            cluster.leader().await;
            assert!(cluster.slots().contains(&new) && !cluster.slots().contains(&old));
            workload.progress(SOME).await;
        }
    })
    .await;
}

#[tokio::test]
async fn leaders_killed_again_and_again() {
    survive("leader killed", plan(3), async |cluster, workload| {
        let until = Instant::now() + length();
        let mut kills = 0;
        while Instant::now() < until {
            let leader = cluster.leader().await;
            cluster.kill(leader);
            kills += 1;
            let others = cluster.others(&[leader]);
            assert_ne!(cluster.leader_among(&others).await, leader);
            workload.progress(SOME).await;
            cluster.start_again(leader);
            cluster.leader().await;
        }
        println!("leader killed: {kills} times");
    })
    .await;
}

#[tokio::test]
async fn all_members_killed_at_once() {
    survive("all killed", plan(3), async |cluster, workload| {
        let until = Instant::now() + length();
        while Instant::now() < until {
            for slot in cluster.slots() {
                cluster.kill(slot);
            }
            for slot in cluster.slots() {
                cluster.start_again(slot);
            }
            cluster.leader().await;
            workload.progress(SOME).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_learner_added_and_promoted_under_load() {
    survive("learner promoted", plan(3), async |cluster, workload| {
        let learner = cluster.add(member(), true).await;
        let status = cluster.status(learner).await.expect("a learner tells its status");
        assert!(status.is_learner, "{status:?}");
        workload.progress(SOME).await;
        cluster.promote(learner).await;
        let until = Instant::now() + PATIENCE;
        while cluster.status(learner).await.is_ok_and(|status| status.is_learner) {
            assert!(Instant::now() < until, "a promoted learner learns of it");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        workload.members_changed(cluster);
        workload.progress(SOME).await;
    })
    .await;
}

/// A member that was away for longer than the log reaches back gets the database; its watchers must not notice.
#[tokio::test]
async fn a_member_that_gets_the_database() {
    if !is_ours() {
        println!("skipped: etcd 3.5 keeps 5000 entries in memory, whatever it is told");
        return;
    }
    let short_log = ["--snapshot-count", "50", "--snapshot-catchup-entries", "10"];
    survive("database sent", plan(3).with_args(&short_log), async |cluster, workload| {
        let leader = cluster.leader().await;
        let follower = cluster.others(&[leader])[0];
        // Not silence: what is sent into that arrives in the end, and the log would do.
        cluster.links().between(&[follower], &cluster.others(&[follower]), Fault::Refused);
        workload.progress(3 * SOME).await;
        hold().await;
        cluster.links().heal();
        // Once in a test: after a database was sent the log is kept for half a minute, as in etcd.
        cluster.process(follower).expect("applied snapshot", PATIENCE);
    })
    .await;
}

/// Whether the servers are this workspace's.
fn is_ours() -> bool {
    let version = Command::new(server_binary()).arg("--version").output();
    String::from_utf8_lossy(&version.expect("the server can be run").stdout).contains("retcd")
}
