//! Whole clusters in one thread, from one seed.
//!
//! ```text
//!   seed ─► World  ┌ Member: consensus::Node, StateMachine, watch hub │ Disk: log, databases ┐ × 3 or 5, and joiners
//!                  │ Network: late, lost, doubled, out of order, cut                          │
//!                  │ Workload: clients, watchers, an operator                                  ├─► Checkers
//!                  └ disturbances: crashes that lose what was not synced, stalls, partitions  ┘
//! ```
//!
//! The two pure crates run as they are shipped; what stands between them in a server is mirrored here without its threads
//! (see `member`). Everything follows from the seed, so a failing run is repeated with the seed that it prints:
//! `just sim SEED`. A run has a wild part, a calm one in which the cluster must make progress again, and a quiet one
//! after which all members must be equal, all leases over and all watchers up to date.
//!
//! The checkers are tested twice: each with histories that are wrong in one way, and all of them with members that make a
//! mistake on purpose ([`Sabotage`]).

mod checkers;
mod disk;
mod member;
mod network;
mod outside;
mod sabotage;
mod workload;
mod world;

use retcd_checkers::history::{Answer, Outcome, Record};

pub use sabotage::Sabotage;
use world::World;

/// What a seed stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// At the beginning.
    pub members: u64,
    pub changes_members: bool,
    /// Whether the leader stores what is left of leases.
    pub has_checkpoints: bool,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        Plan {
            seed,
            members: if seed.is_multiple_of(2) { 3 } else { 5 },
            changes_members: seed.is_multiple_of(3),
            has_checkpoints: seed.is_multiple_of(5),
        }
    }
}

/// What a run was like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub entries: u64,
    pub acknowledged_writes: usize,
    pub unknown_writes: usize,
    pub reads: usize,
    /// Answers of Raft to questions for an index.
    pub read_indexes: u64,
    pub watched_events: usize,
    pub watch_sessions: usize,
    pub leases_expired: usize,
    pub membership_changes: usize,
    pub databases_sent: usize,
    pub crashes: usize,
    pub states_compared: usize,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What should not have happened. Empty is good.
    pub violations: Vec<String>,
    pub counts: Counts,
    /// Everything that happened, if it was asked for.
    pub trace: String,
}

/// Runs one seed.
///
/// # Panics
/// Where the shipped code finds its own state to be impossible, which is a failure too.
pub fn simulate(plan: Plan, sabotage: Option<Sabotage>, is_traced: bool) -> Run {
    let mut world = World::new(plan, sabotage, is_traced);
    world.run(3000);
    world.check_logs();

    world.calm();
    let before = world.outside.checkers.agreement.len();
    world.run(1000);
    let progress = world.outside.checkers.agreement.len() - before;
    if progress < 20 {
        world
            .outside
            .checkers
            .violations
            .push(format!("a calm cluster commits only {progress} entries"));
    }
    // Until every lease is over.
    world.workload.is_quiet = true;
    world.run(1200);
    for _ in 0..100 {
        if !world.is_watched() {
            world.run(20);
        }
    }
    if world.outside.checkers.violations.is_empty() {
        assert!(world.workload.is_idle(), "every call ends");
        world.check_logs();
        world.check_members_are_equal();
    }
    let counts = counts(&world);
    if world.outside.checkers.violations.is_empty() {
        world.finish();
    }
    let violations = std::mem::take(&mut world.outside.checkers.violations);
    Run { violations, counts, trace: world.outside.into_trace() }
}

fn counts(world: &World) -> Counts {
    let records = &world.workload.records;
    let count = |holds: &dyn Fn(&Record) -> bool| records.iter().filter(|r| holds(r)).count();
    let watchers = &world.workload.watchers;
    let checkers = &world.outside.checkers;
    Counts {
        entries: checkers.agreement.len(),
        acknowledged_writes: count(&|record| {
            matches!(record.outcome, Outcome::Ok(Answer::Written { .. } | Answer::Revoked { .. }))
        }),
        unknown_writes: count(&|record| {
            record.op.is_write() && matches!(record.outcome, Outcome::Unknown(_))
        }),
        reads: count(&|record| matches!(record.outcome, Outcome::Ok(Answer::Read { .. }))),
        read_indexes: checkers.agreement.reads_answered,
        watched_events: watchers.iter().map(workload::watchers::Watcher::events).sum(),
        watch_sessions: watchers.iter().map(|watcher| watcher.trace.sessions.len()).sum(),
        leases_expired: checkers.leases.expired(),
        membership_changes: world.workload.changes,
        databases_sent: world.databases_sent,
        crashes: world.crashes,
        states_compared: checkers.states.compared,
    }
}
