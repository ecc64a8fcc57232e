//! Two servers, measured in turns.
//!
//! Machines drift by half within minutes, so the servers alternate: A B A B and so on for every workload. Both are
//! up all the time and keep their data between workloads; the one whose turn it is not does nothing but tick.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::cli::{PRELOAD_BATCH, default_dir, duration, measure_from_line};
use crate::process::{Home, Launch, Server, memory, words};
use crate::report::{Better, Metric, Report, Spread, rounded};
use crate::suite::{self, Heavy, Step};
use crate::workload::compaction::Compact;
use crate::workload::preload::Preload;
use crate::workload::restart;

#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// The first server, as `name=command`; {dir}, {client} and {peer} stand for its data directory and ports, and
    /// a command without any of them gets the flags of a single member
    #[arg(long)]
    a: Launch,
    /// The second server
    #[arg(long)]
    b: Launch,
    /// More flags of the first server for the smallest memory; adds a row with them
    #[arg(long, allow_hyphen_values = true)]
    a_small: Option<String>,
    /// More flags of the second server for the smallest memory
    #[arg(long, allow_hyphen_values = true)]
    b_small: Option<String>,
    /// Rounds of every workload
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rounds of the workloads that start servers of their own; restarts take --rounds
    #[arg(long, default_value_t = 1)]
    heavy_rounds: usize,
    /// Length of every measured window
    #[arg(long, value_parser = duration, default_value = "2s")]
    duration: Duration,
    /// Time before every window
    #[arg(long, value_parser = duration, default_value = "500ms")]
    warm_up: Duration,
    /// Preloaded keys
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Keys of the restart and memory workload, and revisions of the compaction
    #[arg(long, default_value_t = 1_000_000)]
    heavy_keys: u64,
    /// Puts per request while writing these: more is quicker, but servers keep large requests in memory differently
    #[arg(long, default_value_t = 1)]
    heavy_batch: u64,
    /// Puts per second during a compaction
    #[arg(long, default_value_t = 2_000.0)]
    compaction_rate: f64,
    /// Only the workloads whose names contain one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Without the workloads whose names contain one of these
    #[arg(long, value_delimiter = ',')]
    skip: Vec<String>,
    /// Another workload, as `name=put --conns 5`; with one or more, the built-in suite is left out
    #[arg(long = "run")]
    runs: Vec<String>,
    /// Where the data directories are made: the disk to measure
    #[arg(long, default_value_os_t = default_dir())]
    dir: PathBuf,
}

/// What all runs have shown.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    a: Side,
    b: Side,
    rows: Vec<Row>,
    /// The least that one client's put can take here, if such a put was measured.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    floor: BTreeMap<&'static str, Spread>,
}

#[derive(Debug, Serialize)]
struct Side {
    name: String,
    command: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    workload: String,
    metric: &'static str,
    a: Spread,
    b: Spread,
    /// How many times better B is than A, by the medians: above 1, B wins. Missing when a median is zero.
    b_is_better_by: Option<f64>,
    errors: [u64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
}

impl Compare {
    pub(crate) fn run(&self) -> Result<Comparison> {
        let steps = self.steps()?;
        let mut rows = Vec::new();
        let mut floors = Runs::default();
        if !steps.is_empty() {
            self.run_light(&steps, &mut rows, &mut floors)?;
        }
        for heavy in
            Heavy::ALL.into_iter().filter(|heavy| self.runs.is_empty() && self.wants(heavy.name()))
        {
            match heavy {
                Heavy::Data => self.run_data(&mut rows)?,
                Heavy::Compaction => self.run_compaction(&mut rows)?,
            }
        }
        ensure!(!rows.is_empty(), "no workload has such a name");
        Ok(Comparison { a: side(&self.a), b: side(&self.b), rows, floor: floors.floor() })
    }

    fn wants(&self, name: &str) -> bool {
        let named = |parts: &[String]| parts.iter().any(|part| name.contains(part.as_str()));
        (self.only.is_empty() || named(&self.only)) && !named(&self.skip)
    }

    fn steps(&self) -> Result<Vec<Step>> {
        let steps = if self.runs.is_empty() {
            suite::speed()
        } else {
            self.runs.iter().map(|run| own_step(run)).collect::<Result<_>>()?
        };
        Ok(steps.into_iter().filter(|step| self.wants(&step.name)).collect())
    }

    fn launches(&self) -> [&Launch; 2] {
        [&self.a, &self.b]
    }

    /// Parses a workload line and gives it this comparison's window and keys, unless it has own ones.
    fn measure(&self, line: &str, server: &Server) -> Result<crate::cli::Measure> {
        let keys =
            if line.contains("--keys") { String::new() } else { format!(" --keys {}", self.keys) };
        let mut measure = measure_from_line(&format!("{line}{keys}"))?;
        measure.load_args().aim(server);
        measure.load_args().set_window(self.warm_up, self.duration);
        Ok(measure)
    }

    fn run_light(&self, steps: &[Step], rows: &mut Vec<Row>, floors: &mut Runs) -> Result<()> {
        let homes = [Home::new(&self.dir)?, Home::new(&self.dir)?];
        let mut servers = Vec::new();
        for (launch, home) in self.launches().into_iter().zip(&homes) {
            eprintln!("{}: start, preload {} keys", launch.name, self.keys);
            let (server, _) = Server::start(launch, home)?;
            self.preload(&server, self.keys, PRELOAD_BATCH)?;
            servers.push(server);
        }
        for step in steps {
            let mut runs = Runs::default();
            for round in 1..=self.rounds {
                if step.name == suite::ONE_CLIENT {
                    floors.add(0, self.floor()?);
                }
                for (place, server) in servers.iter().enumerate() {
                    let launch = self.launches()[place];
                    let reports = self
                        .measure(&step.line, server)?
                        .run()
                        .with_context(|| format!("{} with {}", step.name, launch.name))?;
                    for report in reports {
                        eprintln!("{} {round}/{}, {}", launch.name, self.rounds, report);
                        runs.add(place, report);
                    }
                }
            }
            rows.extend(runs.rows(&step.name, step.metrics));
        }
        servers.into_iter().try_for_each(Server::stop)
    }

    fn preload(&self, server: &Server, keys: u64, batch: u64) -> Result<()> {
        let mut measure = self.measure(&format!("preload --keys {keys}"), server)?;
        Preload::new(batch, 1).run(&measure.load_args().load()?)?;
        Ok(())
    }

    /// Memory with many keys, restarts with them, and memory with the flags for the least of it.
    fn run_data(&self, rows: &mut Vec<Row>) -> Result<()> {
        let homes = [Home::new(&self.dir)?, Home::new(&self.dir)?];
        let mut memories = Runs::default();
        for (place, (launch, home)) in self.launches().into_iter().zip(&homes).enumerate() {
            memories.add(place, self.memory_of(launch, home)?);
        }
        rows.extend(
            memories.rows(
                &format!("memory with {} keys", rounded(self.heavy_keys as f64)),
                suite::MEMORY,
            ),
        );
        self.run_restarts(&homes, rows)?;
        drop(homes);
        self.run_small(rows)
    }

    fn memory_of(&self, launch: &Launch, home: &Home) -> Result<Report> {
        eprintln!("{}: start, preload {} keys", launch.name, self.heavy_keys);
        let (server, _) = Server::start(launch, home)?;
        self.preload(&server, self.heavy_keys, self.heavy_batch)?;
        let report = Report::of_memory(memory(server.pid())?);
        eprintln!("{}, {report}", launch.name);
        server.stop()?;
        Ok(report)
    }

    fn run_restarts(&self, homes: &[Home; 2], rows: &mut Vec<Row>) -> Result<()> {
        let mut runs = Runs::default();
        for round in 1..=self.rounds {
            for (place, (launch, home)) in self.launches().into_iter().zip(homes).enumerate() {
                let report = Report::of_restart(&restart::once(launch, home)?);
                eprintln!("{} {round}/{}, {report}", launch.name, self.rounds);
                runs.add(place, report);
            }
        }
        let name = format!("restart with {} keys", rounded(self.heavy_keys as f64));
        rows.extend(runs.rows(&name, suite::RESTART));
        Ok(())
    }

    /// Only when at least one side has flags for it; the other side then runs as it is.
    fn run_small(&self, rows: &mut Vec<Row>) -> Result<()> {
        if self.a_small.is_none() && self.b_small.is_none() {
            return Ok(());
        }
        let mut runs = Runs::default();
        for (place, flags) in [&self.a_small, &self.b_small].into_iter().enumerate() {
            let flags = flags.as_deref().map(words).transpose()?.unwrap_or_default();
            let launch = self.launches()[place].with_flags(&flags);
            runs.add(place, self.memory_of(&launch, &Home::new(&self.dir)?)?);
        }
        let name = format!("memory with {} keys, small settings", rounded(self.heavy_keys as f64));
        rows.extend(runs.rows(&name, suite::MEMORY));
        Ok(())
    }

    fn run_compaction(&self, rows: &mut Vec<Row>) -> Result<()> {
        let mut runs = Runs::default();
        for round in 1..=self.heavy_rounds {
            for (place, launch) in self.launches().into_iter().enumerate() {
                eprintln!(
                    "{} {round}/{}: write {} revisions, then compact",
                    launch.name, self.heavy_rounds, self.heavy_keys
                );
                let home = Home::new(&self.dir)?;
                let (server, _) = Server::start(launch, &home)?;
                let mut load = self.measure("put", &server)?.load_args().load()?;
                load.rate = Some(self.compaction_rate);
                let compact = Compact { revisions: self.heavy_keys, batch: self.heavy_batch };
                let report = Report::of_stall(&compact.run(&load, self.duration)?);
                eprintln!("{}, {report}", launch.name);
                runs.add(place, report);
                server.stop()?;
            }
        }
        let name = format!("compaction of {} revisions", rounded(self.heavy_keys as f64));
        rows.extend(runs.rows(&name, suite::STALL));
        Ok(())
    }

    fn floor(&self) -> Result<Report> {
        let line = format!("floor --conns 1 --clients 1 --dir '{}'", self.dir.display());
        let mut measure = measure_from_line(&line)?;
        measure.load_args().set_window(self.warm_up, self.duration);
        measure.run()?.pop().context("the floor has one report")
    }
}

fn own_step(run: &str) -> Result<Step> {
    let (name, line) =
        run.split_once('=').with_context(|| format!("{run:?} is not of the form name=workload"))?;
    measure_from_line(line)?;
    Ok(Step { name: name.to_owned(), line: line.to_owned(), metrics: &[] })
}

fn side(launch: &Launch) -> Side {
    Side { name: launch.name.clone(), command: launch.command.clone() }
}

/// The reports of one workload, by server.
#[derive(Default)]
struct Runs {
    reports: [Vec<Report>; 2],
}

impl Runs {
    fn add(&mut self, place: usize, report: Report) {
        self.reports[place].push(report);
    }

    /// One row for each of `metrics`, or for each figure there is if none is named.
    fn rows(&self, workload: &str, metrics: &[Metric]) -> Vec<Row> {
        let all: Vec<Metric> = self
            .reports
            .iter()
            .flatten()
            .take(1)
            .flat_map(|report| &report.figures)
            .map(|figure| figure.metric)
            .collect();
        let metrics = if metrics.is_empty() { &all } else { metrics };
        metrics.iter().filter_map(|&metric| self.row(workload, metric)).collect()
    }

    /// The spread of every figure, of reports that belong to no server.
    fn floor(&self) -> BTreeMap<&'static str, Spread> {
        let figures =
            self.reports[0].first().map(|report| report.figures.as_slice()).unwrap_or_default();
        figures
            .iter()
            .filter_map(|figure| Some((figure.metric.name, self.spread(0, figure.metric)?)))
            .collect()
    }

    fn spread(&self, place: usize, metric: Metric) -> Option<Spread> {
        Spread::of(self.reports[place].iter().filter_map(|report| report.value(metric)).collect())
    }

    /// `None` if one of the servers has no such figure.
    fn row(&self, workload: &str, metric: Metric) -> Option<Row> {
        let (a, b) = (self.spread(0, metric)?, self.spread(1, metric)?);
        Some(Row {
            workload: workload.to_owned(),
            metric: metric.name,
            b_is_better_by: better_by(metric.better, a.median, b.median),
            a,
            b,
            errors: [0, 1]
                .map(|place: usize| self.reports[place].iter().map(|report| report.errors).sum()),
            first_error: self
                .reports
                .iter()
                .flatten()
                .find_map(|report| report.first_error.clone()),
        })
    }
}

fn better_by(better: Better, a: f64, b: f64) -> Option<f64> {
    let (more, less) = match better {
        Better::Higher => (b, a),
        Better::Lower => (a, b),
    };
    (more > 0.0 && less > 0.0).then(|| more / less)
}

impl Comparison {
    /// Requests of all runs that were refused or answered wrongly.
    pub(crate) fn errors(&self) -> u64 {
        self.errors_by_workload().values().map(|(errors, _)| errors.iter().sum::<u64>()).sum()
    }

    fn errors_by_workload(&self) -> BTreeMap<&str, ([u64; 2], Option<&str>)> {
        self.rows
            .iter()
            .map(|row| (row.workload.as_str(), (row.errors, row.first_error.as_deref())))
            .collect()
    }
}

impl fmt::Display for Comparison {
    /// A Markdown table: median (min–max) of every figure.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = (&self.a.name, &self.b.name);
        writeln!(f, "| workload | figure | {a} | {b} | {b} better by |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for row in &self.rows {
            let ratio =
                row.b_is_better_by.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
            writeln!(f, "| {} | {} | {} | {} | {ratio} |", row.workload, row.metric, row.a, row.b)?;
        }
        if !self.floor.is_empty() {
            let figures: Vec<_> =
                self.floor.iter().map(|(name, spread)| format!("{name} {spread}")).collect();
            writeln!(f, "\nFloor of one client's put here: {}.", figures.join(", "))?;
        }
        for (workload, ([of_a, of_b], first)) in self.errors_by_workload() {
            if of_a + of_b > 0 {
                let first = first.unwrap_or("unknown");
                writeln!(
                    f,
                    "\n**Errors in {workload}**: {a} {of_a}, {b} {of_b}; the first: {first}."
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Figure, P50, RATE};

    fn report(rate: f64, p50: f64) -> Report {
        let figures =
            vec![Figure { metric: RATE, value: rate }, Figure { metric: P50, value: p50 }];
        Report { figures, ..Report::empty("put") }
    }

    fn comparison() -> Comparison {
        let mut runs = Runs::default();
        for (a, b) in [(100.0, 300.0), (120.0, 280.0), (110.0, 330.0)] {
            runs.add(0, report(a, 4.0));
            runs.add(
                1,
                Report { errors: 1, first_error: Some("no space".to_owned()), ..report(b, 2.0) },
            );
        }
        let side = |name: &str| Side { name: name.to_owned(), command: vec![] };
        Comparison {
            a: side("old"),
            b: side("new"),
            rows: runs.rows("put", &[RATE, P50]),
            floor: BTreeMap::new(),
        }
    }

    #[test]
    fn ratios_say_how_many_times_b_is_better() {
        let rows = comparison().rows;
        assert_eq!(rows[0].metric, "rate_per_s");
        assert!((rows[0].b_is_better_by.unwrap() - 300.0 / 110.0).abs() < 1e-9);
        assert!((rows[1].b_is_better_by.unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(better_by(Better::Lower, 0.0, 2.0), None);
    }

    #[test]
    fn the_table_has_medians_and_hides_no_error() {
        let comparison = comparison();
        let table = comparison.to_string();
        assert!(
            table.contains("| put | rate_per_s | 110 (100–120) | 300 (280–330) | 2.73 |"),
            "{table}"
        );
        assert!(table.contains("**Errors in put**: old 0, new 3; the first: no space."), "{table}");
        assert_eq!(comparison.errors(), 3);
    }

    #[test]
    fn a_figure_that_one_server_lacks_gives_no_row() {
        let mut runs = Runs::default();
        runs.add(0, report(1.0, 1.0));
        runs.add(1, Report::empty("put"));
        assert!(runs.rows("put", &[RATE]).is_empty());
    }

    #[test]
    fn workloads_are_chosen_by_parts_of_their_names() {
        use clap::Parser as _;
        let words = [
            "etcd-bench",
            "compare",
            "--a",
            "x",
            "--b",
            "y",
            "--only",
            "put,range",
            "--skip",
            "one client",
        ];
        let cli = crate::cli::Cli::try_parse_from(words).unwrap();
        let crate::cli::Command::Compare(compare) = cli.command else { panic!("not a comparison") };
        let names: Vec<_> = compare.steps().unwrap().into_iter().map(|step| step.name).collect();
        assert!(names.contains(&"put".to_owned()) && names.contains(&"txn put".to_owned()));
        assert!(
            !names.contains(&"put, one client".to_owned()) && !names.contains(&"count".to_owned())
        );
        assert!(!compare.wants("compaction"));
    }
}
