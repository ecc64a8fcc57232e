//! Clients that work on a cluster and write down everything, for the checkers.
//!
//! ```text
//!   Workload::start ─► writers, readers ─► records ───────────────┐
//!                  └─► watchers ─────────► traces ────────┐       │
//!   Workload::finish: stop writing ─► timeline of each member ─► checkers ─► Report
//! ```
//!
//! Each client works on one member and goes on to the next one when that does not answer. A handful of keys is shared
//! by all, so that operations collide. The cluster must be a fresh one with nobody else in it: the history is checked
//! from the first revision on.
//!
//! The workload runs in the runtime that it is started in. Its load is bounded by a pause after each operation, so
//! that the figures of two machines differ less, and the servers get a share of a small one.

mod clients;
mod targets;
mod watchers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use retcd_api::etcdserverpb::RangeRequest;
use retcd_api::etcdserverpb::kv_client::KvClient;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{Cluster, PATIENCE};
use retcd_checkers::history::{Answer, Outcome, Record};
use retcd_checkers::{Timeline, Trace, Violation, check_operations, check_watch};
use targets::Targets;
use watchers::Goal;

/// How long a healed cluster may take for one read, before another member is asked.
const ANSWER: Duration = Duration::from_secs(5);

/// How much work is done.
#[derive(Debug, Clone)]
pub struct Load {
    /// Clients that read and write.
    pub writers: usize,
    /// Clients that only read.
    pub readers: usize,
    pub watchers: usize,
    /// After each operation of a client.
    pub pause: Duration,
    /// How long one operation may take before its outcome is called unknown.
    pub timeout: Duration,
    /// Whether watchers ask for progress. etcd before 3.5.8 answers wrongly when it has not sent everything yet.
    pub asks_for_progress: bool,
}

impl Default for Load {
    fn default() -> Self {
        Load {
            writers: 16,
            readers: 2,
            watchers: 6,
            pause: Duration::from_millis(10),
            timeout: Duration::from_secs(2),
            asks_for_progress: true,
        }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    clients: JoinSet<Vec<Record>>,
    watchers: JoinSet<Trace>,
    goal: watch::Sender<Goal>,
}

/// What all clients share.
#[derive(Debug)]
struct Shared {
    load: Load,
    targets: Targets,
    begun: Instant,
    is_over: AtomicBool,
    /// Writes that were acknowledged and took effect.
    acknowledged: AtomicUsize,
    /// Numbers of values.
    last_value: AtomicU64,
}

impl Shared {
    /// Nanoseconds since the beginning.
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).expect("tests end within 500 years")
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub operations: usize,
    pub acknowledged_writes: usize,
    /// Writes without an answer.
    pub unknown_writes: usize,
    /// Reads, and writes that found nothing to do.
    pub reads: usize,
    pub revisions: i64,
    pub watched_events: usize,
    /// Streams that watchers used one after the other.
    pub watch_sessions: usize,
    pub violations: Vec<Violation>,
}

impl Workload {
    /// Starts to work on all members of a fresh cluster.
    pub fn start(cluster: &Cluster, load: Load) -> Self {
        let shared = Arc::new(Shared {
            targets: Targets::new(cluster),
            begun: Instant::now(),
            is_over: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
            last_value: AtomicU64::new(0),
            load,
        });
        let mut clients = JoinSet::new();
        for number in 0..shared.load.writers {
            clients.spawn(clients::write(number, shared.clone()));
        }
        for number in shared.load.writers..shared.load.writers + shared.load.readers {
            clients.spawn(clients::read(number, shared.clone()));
        }
        let goal = watch::Sender::new(Goal::None);
        let mut watchers = JoinSet::new();
        for number in 0..shared.load.watchers {
            watchers.spawn(watchers::watch(number, shared.clone(), goal.subscribe()));
        }
        Workload { shared, clients, watchers, goal }
    }

    /// Tells the clients which members there are now.
    pub fn members_changed(&self, cluster: &Cluster) {
        self.shared.targets.update(cluster);
    }

    /// Acknowledged writes so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes are acknowledged.
    ///
    /// # Panics
    /// That does not happen in time.
    pub async fn progress(&self, writes: usize) {
        let (before, until) = (self.acknowledged(), Instant::now() + PATIENCE);
        while self.acknowledged() < before + writes {
            let made = self.acknowledged() - before;
            assert!(
                Instant::now() < until,
                "only {made} of {writes} writes were acknowledged within {PATIENCE:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the work and checks all of it. All faults must be over, and all members up.
    ///
    /// # Panics
    /// A member does not tell its history in time, or a watcher does not see the end of it.
    pub async fn finish(mut self, cluster: &mut Cluster) -> Report {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut records = Vec::new();
        while let Some(result) = self.clients.join_next().await {
            records.extend(result.expect("a client does not panic"));
        }
        cluster.leader().await;
        let last = newest_revision(cluster).await;
        let mut violations = Vec::new();
        let mut timelines = Vec::new();
        for slot in cluster.slots() {
            let events = watchers::history(cluster.channel(slot), last, PATIENCE)
                .await
                .unwrap_or_else(|problem| panic!("member {slot}: {problem}"));
            match Timeline::new(events) {
                Ok(timeline) => timelines.push((slot, timeline)),
                Err(violation) => violations.push(violation),
            }
        }
        let Some((first, timeline)) = timelines.first() else {
            panic!("no member tells a possible history: {violations:?}");
        };
        violations.extend(timelines[1..].iter().filter_map(|(slot, other)| {
            let revision = timeline.difference(other)?;
            Some(Violation::HistoriesDiffer { member: *slot, other: *first, revision })
        }));
        let traces = self.traces(timeline).await;
        violations.extend(check_operations(&records, timeline));
        violations.extend(traces.iter().flat_map(|trace| check_watch(trace, timeline)));
        report(&records, &traces, timeline, violations)
    }

    /// Lets the watchers see the rest.
    async fn traces(&mut self, timeline: &Timeline) -> Vec<Trace> {
        self.goal.send_replace(Goal::Reach(Arc::new(timeline.clone())));
        let mut traces = Vec::new();
        let collect = async {
            while let Some(result) = self.watchers.join_next().await {
                traces.push(result.expect("a watcher does not panic"));
            }
        };
        let is_in_time = tokio::time::timeout(PATIENCE, collect).await.is_ok();
        assert!(is_in_time, "{} watchers do not see the end", self.watchers.len());
        traces
    }
}

/// The newest revision, by a linearizable read after all work: every answered write is at or below it.
///
/// # Panics
/// No member answers in time.
async fn newest_revision(cluster: &Cluster) -> i64 {
    let until = Instant::now() + PATIENCE;
    for slot in cluster.slots().into_iter().cycle() {
        let mut kv = KvClient::new(cluster.channel(slot));
        let request = RangeRequest { key: "any".into(), ..Default::default() };
        let answer = tokio::time::timeout(ANSWER, kv.range(request)).await;
        if let Ok(Ok(response)) = &answer {
            let header = response.get_ref().header.as_ref();
            return header.expect("every answer has a header").revision;
        }
        assert!(Instant::now() < until, "no member answers a read, the last said {answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    unreachable!("a cluster has members")
}

fn report(
    records: &[Record],
    traces: &[Trace],
    timeline: &Timeline,
    violations: Vec<Violation>,
) -> Report {
    let count = |holds: &dyn Fn(&Record) -> bool| records.iter().filter(|r| holds(r)).count();
    let is_written =
        |record: &Record| matches!(record.outcome, Outcome::Ok(Answer::Written { .. }));
    let is_read = |record: &Record| matches!(record.outcome, Outcome::Ok(Answer::Read { .. }));
    let is_unknown = |record: &Record| matches!(record.outcome, Outcome::Unknown(_));
    let replies = traces.iter().flat_map(|trace| &trace.sessions).flat_map(|s| &s.replies);
    Report {
        operations: records.len(),
        acknowledged_writes: count(&is_written),
        unknown_writes: count(&|record| record.op.is_write() && is_unknown(record)),
        reads: count(&is_read),
        revisions: timeline.last(),
        watched_events: replies.map(watchers::events_in).sum(),
        watch_sessions: traces.iter().map(|trace| trace.sessions.len()).sum(),
        violations,
    }
}
