//! Seeds: a few hundred each time, one with `SIM_SEED`, many with `SIM_SEEDS`.
#![allow(clippy::unwrap_used, reason = "what is unwrapped here is what the tests claim")]

use retcd_sim::{Counts, Plan, Run, simulate};

#[allow(
    clippy::disallowed_methods,
    reason = "which seeds to run is asked by whoever runs the test"
)]
fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn run(seed: u64) -> Counts {
    let result = std::panic::catch_unwind(|| simulate(Plan::of(seed), None, false));
    let Ok(Run { violations, counts, .. }) = result else { panic!("seed {seed} panicked") };
    assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
    counts
}

/// `SIM_SEED` replays one seed and prints its history; `SIM_SEEDS` says how many to run, from `SIM_FIRST` on.
#[test]
fn clusters_survive_everything() {
    if let Some(seed) = from_environment("SIM_SEED") {
        let Run { violations, counts, trace } = simulate(Plan::of(seed), None, true);
        println!("{trace}\n{counts:#?}");
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        return;
    }
    let first = from_environment("SIM_FIRST").unwrap_or(0);
    let seeds = from_environment("SIM_SEEDS").unwrap_or(300);
    let mut sum = Counts::default();
    for seed in first..first + seeds {
        let Counts {
            entries,
            acknowledged_writes,
            unknown_writes,
            reads,
            read_indexes,
            watched_events,
            watch_sessions,
            leases_expired,
            membership_changes,
            databases_sent,
            crashes,
            states_compared,
        } = run(seed);
        sum.entries += entries;
        sum.acknowledged_writes += acknowledged_writes;
        sum.unknown_writes += unknown_writes;
        sum.reads += reads;
        sum.read_indexes += read_indexes;
        sum.watched_events += watched_events;
        sum.watch_sessions += watch_sessions;
        sum.leases_expired += leases_expired;
        sum.membership_changes += membership_changes;
        sum.databases_sent += databases_sent;
        sum.crashes += crashes;
        sum.states_compared += states_compared;
    }
    println!("{seeds} seeds: {sum:#?}");
    if seeds < 100 {
        return;
    }
    // The histories must not be empty ones.
    let seeds = usize::try_from(seeds).unwrap();
    assert!(sum.acknowledged_writes > seeds * 50 && sum.reads > seeds * 20, "{sum:?}");
    assert!(sum.watched_events > seeds * 100 && sum.states_compared > seeds * 100, "{sum:?}");
    assert!(sum.leases_expired > seeds && sum.crashes > seeds * 3, "{sum:?}");
    assert!(sum.databases_sent > seeds && sum.membership_changes > seeds / 2, "{sum:?}");
}

#[test]
fn a_seed_is_a_history() {
    for seed in [3, 10, 15] {
        let first = simulate(Plan::of(seed), None, true);
        let second = simulate(Plan::of(seed), None, true);
        assert!(first == second, "seed {seed} gave two histories");
        assert!(first.trace.lines().count() > 1000);
    }
    assert_ne!(simulate(Plan::of(4), None, true).trace, simulate(Plan::of(6), None, true).trace);
}
