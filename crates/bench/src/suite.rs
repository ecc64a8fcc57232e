//! The workloads that a comparison runs, as a table.
//!
//! Light steps share two servers that are preloaded once and both stay up. Reads stand before writes, so that every
//! server reads the same data, whatever number of writes it managed before; the lone client stands before the crowds,
//! whose pages the kernel still writes to the disk long after. Heavy steps start servers of their own.

use crate::report::{
    self, ANONYMOUS, COMPACTING_MAX, COMPACTING_P99, COMPACTION, COMPACTION_CPU, CPU_RATIO,
    FIRST_ANSWER, LISTENING, Metric, P50, P99, QUIET_P99, RATE, RESTART_ANONYMOUS, RESTART_RSS,
    RSS, SERVER_CPU, START_CPU,
};

/// One workload and the figures of it that matter.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) line: String,
    pub(crate) metrics: &'static [Metric],
}

/// A workload that needs servers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heavy {
    /// Memory with many keys, and the restarts with them.
    Data,
    /// Puts while history is compacted.
    Compaction,
}

impl Heavy {
    pub(crate) const ALL: [Heavy; 2] = [Heavy::Data, Heavy::Compaction];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Heavy::Data => "big-data",
            Heavy::Compaction => "compaction",
        }
    }
}

const COST: &[Metric] = &[SERVER_CPU, CPU_RATIO, RATE, P50, P99];
const LATENCY: &[Metric] = &[P50, P99, SERVER_CPU];
pub(crate) const MEMORY: &[Metric] = &[RSS, ANONYMOUS];
pub(crate) const RESTART: &[Metric] =
    &[FIRST_ANSWER, LISTENING, START_CPU, RESTART_RSS, RESTART_ANONYMOUS];
pub(crate) const STALL: &[Metric] = &[
    QUIET_P99,
    COMPACTING_P99,
    COMPACTING_MAX,
    COMPACTION,
    COMPACTION_CPU,
    report::COMPACTING_P50,
];

/// The step that is limited by the machine as much as by the server; its floor is measured beside it.
pub(crate) const ONE_CLIENT: &str = "put, one client";

/// What users of a key-value store feel, from single reads to fan-out. Values have the load's default of 256 bytes.
pub(crate) fn speed() -> Vec<Step> {
    let step = |name: &str, line: &str, metrics| Step {
        name: name.to_owned(),
        line: line.to_owned(),
        metrics,
    };
    vec![
        step("range, linearizable", "range", COST),
        step("range, serializable", "range --serializable", COST),
        step("range of 10,000 keys", "range --n 10000 --conns 2 --clients 4", COST),
        step("count", "count --conns 2 --clients 4", COST),
        step("limit 1,000", "limit --limit 1000 --conns 10 --clients 20", COST),
        step(ONE_CLIENT, "put --conns 1 --clients 1", LATENCY),
        step("put", "put", COST),
        step("put, 100 connections, 1,000 clients", "put --conns 100 --clients 1000", COST),
        step("txn put", "txn-put", COST),
        step("txn get, compare and swap", "txn-cas", COST),
        step(
            "watch, 1,000 watchers on 10 streams",
            "watch --watchers 1000 --streams 10 --clients 1",
            COST,
        ),
        step("delete", "delete", COST),
        step("lease keep-alive", "lease-keep-alive", COST),
        step("lease grant", "lease-grant", COST),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::measure_from_line;

    #[test]
    fn every_line_of_the_suite_is_valid() {
        for step in speed() {
            let mut measure = measure_from_line(&step.line).unwrap();
            measure.load_args().load().unwrap();
            assert!(!step.metrics.is_empty());
        }
    }
}
