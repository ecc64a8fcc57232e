//! From counts to figures, and how they are printed.

use std::fmt::{self, Write as _};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::engine::{Load, Measured};
use crate::process::{Memory, StartTimes};
use crate::workload::compaction::Stall;
use crate::workload::floor::FloorTimes;
use crate::workload::gateway::Waiting;
use crate::workload::restart::Restarted;

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// A kind of figure. Its name ends with its unit and is what JSON shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) better: Better,
}

macro_rules! metrics {
    ($($id:ident => $name:literal, $better:ident;)*) => {
        $(pub(crate) const $id: Metric = Metric { name: $name, better: Better::$better };)*
    };
}

metrics! {
    RATE => "rate_per_s", Higher;
    REQUESTS => "requests_per_s", Higher;
    P50 => "p50_ms", Lower;
    P90 => "p90_ms", Lower;
    P99 => "p99_ms", Lower;
    P999 => "p99.9_ms", Lower;
    MAX => "max_ms", Lower;
    MEAN => "mean_ms", Lower;
    SERVER_CPU => "server_cpu_us_per_unit", Lower;
    CLIENT_CPU => "client_cpu_us_per_unit", Lower;
    CPU_RATIO => "server_cpu_per_client_cpu", Lower;
    RSS => "rss_mib", Lower;
    ANONYMOUS => "anonymous_mib", Lower;
    WATCH_BYTES => "bytes_per_watch", Lower;
    EVENT_P50 => "event_p50_ms", Lower;
    EVENT_MAX => "event_max_ms", Lower;
    RESTART_RSS => "rss_after_restart_mib", Lower;
    RESTART_ANONYMOUS => "anonymous_after_restart_mib", Lower;
    LISTENING => "listening_s", Lower;
    FIRST_ANSWER => "first_answer_s", Lower;
    START_CPU => "start_cpu_s", Lower;
    QUIET_P50 => "quiet_p50_ms", Lower;
    QUIET_P99 => "quiet_p99_ms", Lower;
    QUIET_MAX => "quiet_max_ms", Lower;
    COMPACTING_P50 => "compacting_p50_ms", Lower;
    COMPACTING_P99 => "compacting_p99_ms", Lower;
    COMPACTING_MAX => "compacting_max_ms", Lower;
    COMPACTION => "compaction_s", Lower;
    COMPACTION_CPU => "compaction_window_cpu_s", Lower;
    SYNC_P50 => "fdatasync_p50_ms", Lower;
    SYNC_P99 => "fdatasync_p99_ms", Lower;
    ECHO_P50 => "grpc_echo_p50_ms", Lower;
    ECHO_P99 => "grpc_echo_p99_ms", Lower;
    FLOOR_P50 => "floor_p50_ms", Lower;
    FLOOR_P99 => "floor_p99_ms", Lower;
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) metric: Metric,
    pub(crate) value: f64,
}

/// What one run has shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) workload: String,
    /// What `rate` and the processor times count.
    pub(crate) unit: &'static str,
    #[serde(serialize_with = "as_map")]
    pub(crate) figures: Vec<Figure>,
    pub(crate) units: u64,
    pub(crate) errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_error: Option<String>,
}

fn as_map<S: Serializer>(figures: &[Figure], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(figures.iter().map(|figure| (figure.metric.name, figure.value)))
}

impl Report {
    pub(crate) fn empty(workload: &str) -> Report {
        Report {
            workload: workload.to_owned(),
            unit: "",
            figures: Vec::new(),
            units: 0,
            errors: 0,
            first_error: None,
        }
    }

    fn add(&mut self, metric: Metric, value: f64) {
        self.figures.push(Figure { metric, value });
    }

    fn add_counts(&mut self, measured: &Measured) {
        self.units += measured.tally.units;
        self.errors += measured.tally.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&measured.tally.first_error);
        }
    }

    pub(crate) fn value(&self, metric: Metric) -> Option<f64> {
        self.figures.iter().find(|figure| figure.metric == metric).map(|figure| figure.value)
    }

    /// The figures of a workload in a window.
    pub(crate) fn of_load(workload: &str, unit: &'static str, measured: &Measured) -> Report {
        let mut report = Report { unit, ..Report::empty(workload) };
        report.add_counts(measured);
        let seconds = measured.window.as_secs_f64();
        let tally = &measured.tally;
        report.add(RATE, tally.units as f64 / seconds);
        if tally.requests != tally.units {
            report.add(REQUESTS, tally.requests as f64 / seconds);
        }
        // Without a request there is nothing to divide by, and no figure is better than a made-up one.
        if tally.requests > 0 {
            for (metric, value) in quantiles(&tally.latencies) {
                report.add(metric, value);
            }
        }
        if tally.units > 0 {
            let per_unit = |cpu: Duration| cpu.as_secs_f64() * 1e6 / tally.units as f64;
            if let Some(server) = measured.server_cpu {
                report.add(SERVER_CPU, per_unit(server));
                if !measured.client_cpu.is_zero() {
                    report.add(CPU_RATIO, server.as_secs_f64() / measured.client_cpu.as_secs_f64());
                }
            }
            report.add(CLIENT_CPU, per_unit(measured.client_cpu));
        }
        report
    }

    pub(crate) fn of_stall(stall: &Stall) -> Report {
        let mut report = Report { unit: "put", ..Report::empty("compact") };
        report.add_counts(&stall.quiet);
        report.add_counts(&stall.compacting);
        let windows = [
            (&stall.quiet, [QUIET_P50, QUIET_P99, QUIET_MAX]),
            (&stall.compacting, [COMPACTING_P50, COMPACTING_P99, COMPACTING_MAX]),
        ];
        for (window, [p50, p99, max]) in windows {
            let latencies = &window.tally.latencies;
            report.add(p50, millis(latencies.value_at_quantile(0.5)));
            report.add(p99, millis(latencies.value_at_quantile(0.99)));
            report.add(max, millis(latencies.max()));
        }
        report.add(COMPACTION, stall.took.as_secs_f64());
        if let Some(cpu) = stall.compacting.server_cpu {
            report.add(COMPACTION_CPU, cpu.as_secs_f64());
        }
        report
    }

    pub(crate) fn of_floor(times: &FloorTimes) -> Report {
        let mut report = Report { unit: "put", ..Report::empty("floor") };
        report.add_counts(&times.echo);
        let [sync, echo] = [&times.sync.latencies, &times.echo.tally.latencies];
        report.add(SYNC_P50, millis(sync.value_at_quantile(0.5)));
        report.add(SYNC_P99, millis(sync.value_at_quantile(0.99)));
        report.add(ECHO_P50, millis(echo.value_at_quantile(0.5)));
        report.add(ECHO_P99, millis(echo.value_at_quantile(0.99)));
        let logged = &times.logged.tally.latencies;
        report.add(FLOOR_P50, millis(logged.value_at_quantile(0.5)));
        report.add(FLOOR_P99, millis(logged.value_at_quantile(0.99)));
        report
    }

    pub(crate) fn of_memory(memory: Memory) -> Report {
        let mut report = Report::empty("memory");
        report.add(RSS, mib(memory.rss_bytes));
        report.add(ANONYMOUS, mib(memory.anonymous_bytes));
        report
    }

    pub(crate) fn of_waiting(waiting: &Waiting) -> Report {
        let mut report = Report::empty("gateway-watches");
        report.add(WATCH_BYTES, waiting.bytes_each);
        let delay =
            |at: usize| waiting.delays.get(at).map_or(0.0, |delay| delay.as_secs_f64() * 1e3);
        report.add(EVENT_P50, delay(waiting.delays.len() / 2));
        report.add(EVENT_MAX, delay(waiting.delays.len().saturating_sub(1)));
        report
    }

    pub(crate) fn of_restart(restarted: &Restarted) -> Report {
        let StartTimes { listening, first_answer, cpu } = restarted.times;
        let mut report = Report::empty("restart");
        report.add(LISTENING, listening.as_secs_f64());
        report.add(FIRST_ANSWER, first_answer.as_secs_f64());
        report.add(START_CPU, cpu.as_secs_f64());
        report.add(RESTART_RSS, mib(restarted.memory.rss_bytes));
        report.add(RESTART_ANONYMOUS, mib(restarted.memory.anonymous_bytes));
        report
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.workload)?;
        if !self.unit.is_empty() {
            write!(f, ": {} x {}", self.units, self.unit)?;
        }
        if let Some(error) = &self.first_error {
            write!(f, "\n  {} errors, the first: {error}", self.errors)?;
        }
        for figure in &self.figures {
            write!(f, "\n  {:<28} {:>12}", figure.metric.name, rounded(figure.value))?;
        }
        Ok(())
    }
}

fn quantiles(latencies: &Histogram<u64>) -> [(Metric, f64); 6] {
    let at = |quantile| millis(latencies.value_at_quantile(quantile));
    [
        (P50, at(0.5)),
        (P90, at(0.9)),
        (P99, at(0.99)),
        (P999, at(0.999)),
        (MAX, millis(latencies.max())),
        (MEAN, latencies.mean() / 1e6),
    ]
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Three significant digits, and all digits of whole numbers: more is noise on any machine.
pub(crate) fn rounded(value: f64) -> String {
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let decimals = usize::try_from(2 - magnitude).unwrap_or(0);
    let mut text = format!("{value:.decimals$}");
    if value.abs() >= 1e4 {
        let digits = text.trim_start_matches('-').len();
        let sign = text.len() - digits;
        // From the right, so that the places further left stay where they are.
        for place in (1..digits).rev().filter(|place| (digits - place) % 3 == 0) {
            text.insert(sign + place, ',');
        }
    }
    text
}

/// The least, the middle and the greatest of some runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
    pub(crate) runs: Vec<f64>,
}

impl Spread {
    /// `None` without runs.
    pub(crate) fn of(runs: Vec<f64>) -> Option<Spread> {
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Spread { min, median: f64::midpoint(low, high), max, runs })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rounded(self.median))?;
        if self.runs.len() > 1 {
            write!(f, " ({}–{})", rounded(self.min), rounded(self.max))?;
        }
        Ok(())
    }
}

/// How a load is described in words, for the head of a report.
pub(crate) fn describe(load: &Load) -> String {
    let mut out = format!("{} connections, {} clients", load.connections, load.clients);
    match load.rate {
        Some(rate) => write!(out, ", {rate} requests/s"),
        None => write!(out, ", closed loop"),
    }
    .expect("writing to a string cannot fail");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Tally;

    fn measured(latencies_ms: &[u64], units: u64, server_cpu: Option<Duration>) -> Measured {
        let mut tally = Tally::new();
        for &latency in latencies_ms {
            tally.record(Duration::from_millis(latency), units);
        }
        Measured {
            window: Duration::from_secs(2),
            tally,
            server_cpu,
            client_cpu: Duration::from_millis(10),
        }
    }

    fn near(value: Option<f64>, expected: f64) {
        let value = value.expect("the figure is there");
        assert!((value - expected).abs() <= expected * 0.002, "{value} is not {expected}");
    }

    #[test]
    fn rates_and_processor_times_count_units() {
        let latencies: Vec<u64> = (1..=100).collect();
        let report =
            Report::of_load("x", "key", &measured(&latencies, 10, Some(Duration::from_millis(20))));
        near(report.value(RATE), 500.0);
        near(report.value(REQUESTS), 50.0);
        near(report.value(SERVER_CPU), 20.0);
        near(report.value(CLIENT_CPU), 10.0);
        near(report.value(CPU_RATIO), 2.0);
        near(report.value(P50), 50.0);
        near(report.value(P99), 99.0);
        near(report.value(MAX), 100.0);
        near(report.value(MEAN), 50.5);
    }

    #[test]
    fn a_window_without_requests_has_no_latencies() {
        let report = Report::of_load("x", "key", &measured(&[], 1, Some(Duration::ZERO)));
        near(report.value(RATE), 0.0);
        assert_eq!(report.value(P50), None);
        assert_eq!(report.value(SERVER_CPU), None);
    }

    #[test]
    fn without_a_process_id_there_is_no_server_time() {
        let report = Report::of_load("x", "key", &measured(&[5], 1, None));
        assert_eq!(report.value(SERVER_CPU), None);
        assert_eq!(report.value(REQUESTS), None, "one unit per request needs no second rate");
    }

    #[test]
    fn latencies_beyond_the_bounds_count_as_the_longest() {
        let report = Report::of_load("x", "key", &measured(&[1_000_000_000], 1, None));
        assert!(report.value(MAX).unwrap() >= 119_000.0);
    }

    #[test]
    fn figures_are_a_map_in_json() {
        let report = Report::of_load("x", "key", &measured(&[5], 1, None));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["figures"]["rate_per_s"], 0.5);
        assert_eq!(json["unit"], "key");
        assert!(json.get("first_error").is_none());
    }

    #[test]
    fn figures_have_three_significant_digits() {
        let shown =
            [0.0, 0.012_345, 1.234_5, 12.345, 999.6, 1_234.5, 12_345.0, 1_234_567.0, -20_000.0];
        let texts: Vec<_> = shown.into_iter().map(rounded).collect();
        let expected =
            ["0.00", "0.0123", "1.23", "12.3", "1000", "1234", "12,345", "1,234,567", "-20,000"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_spread_has_the_middle_of_its_runs() {
        assert_eq!(Spread::of(vec![]), None);
        let odd = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert_eq!(odd.runs, [3.0, 1.0, 2.0], "runs stay in their order");
        let even = Spread::of(vec![4.0, 1.0]).unwrap();
        assert_eq!(even.to_string(), "2.50 (1.00–4.00)");
    }
}
