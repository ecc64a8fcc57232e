//! The command line, also that of the workloads inside a suite.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::compare::Compare;
use crate::engine::{Extent, Load, Workload, drive};
use crate::keys::KeySpace;
use crate::process::{Home, Memory, Server, memory};
use crate::report::{Report, describe};
use crate::workload::compaction::Compact;
use crate::workload::delete::Delete;
use crate::workload::floor::Floor;
use crate::workload::gateway::{GatewayPut, GatewayWatches};
use crate::workload::lease::{LeaseGrant, LeaseKeepAlive};
use crate::workload::mixed::Mixed;
use crate::workload::preload::Preload;
use crate::workload::put::Put;
use crate::workload::range::{Count, Limit, Range};
use crate::workload::restart::{self, Restart};
use crate::workload::txn::{TxnCas, TxnPut};
use crate::workload::watch::Watch;

/// Puts load on etcd servers and measures what it costs them
#[derive(Debug, Parser)]
#[command(name = "etcd-bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How to print the result
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Measure(Measure),
    /// Measure two servers in turns and compare them
    Compare(Compare),
}

/// One workload against servers that run already (`restart` starts its own).
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Measure {
    /// Write single keys
    Put(Timed<Put>),
    /// Read single keys, or n neighbours
    Range(Timed<Range>),
    /// Count all keys
    Count(Timed<Count>),
    /// Read the first page of all keys
    Limit(Timed<Limit>),
    /// Write keys in transactions
    TxnPut(Timed<TxnPut>),
    /// Read, then write if unchanged
    TxnCas(Timed<TxnCas>),
    /// Delete single keys
    Delete(Timed<Delete>),
    /// Read and write single keys
    Mixed(Timed<Mixed>),
    /// Write single keys over the JSON gateway, each client on a connection of its own
    GatewayPut(Timed<GatewayPut>),
    /// Hold watches open over the JSON gateway, each on a connection of its own; the memory of a server that has just
    /// started says most, since one that had more of them before has room
    GatewayWatches(Timed<GatewayWatches>),
    /// Deliver events to many watchers
    Watch(Timed<Watch>),
    /// Grant leases
    LeaseGrant(Timed<LeaseGrant>),
    /// Keep leases alive over streams
    LeaseKeepAlive(Timed<LeaseKeepAlive>),
    /// Write every key once
    Preload(Timed<Preload>),
    /// Compact all history under a load of puts
    Compact(Timed<Compact>),
    /// Time a bare disk sync and a bare gRPC round trip
    Floor(Timed<Floor>),
    /// Preload a server, then time its restarts
    Restart(Timed<Restart>),
    /// Read the memory of the servers given with --pid
    Memory(LoadArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Timed<A: Args> {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) workload: A,
}

/// How much load, on whom, for how long
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Servers, as host:port; connections are spread over them
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    endpoints: Vec<String>,
    /// Processes of the servers, to read their processor time and memory
    #[arg(long = "pid", value_delimiter = ',')]
    pids: Vec<u32>,
    /// Connections
    #[arg(long, default_value_t = 10)]
    conns: usize,
    /// Clients, each with one request at a time
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Requests per second of all clients together; without it, each starts the next when one is answered
    #[arg(long)]
    rate: Option<f64>,
    /// Length of the measured window, such as 5s or 500ms
    #[arg(long, value_parser = duration, default_value = "5s")]
    duration: Duration,
    /// Time before the window opens
    #[arg(long, value_parser = duration, default_value = "1s")]
    warm_up: Duration,
    /// Measure this number of requests instead of a time
    #[arg(long, conflicts_with = "duration")]
    total: Option<u64>,
    /// Size of the key space
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a key
    #[arg(long, default_value_t = 8)]
    key_size: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// Take keys in order instead of randomly
    #[arg(long)]
    sequential: bool,
}

impl LoadArgs {
    pub(crate) fn load(&self) -> Result<Load> {
        ensure!(!self.endpoints.is_empty(), "there is no endpoint");
        Ok(Load {
            endpoints: self.endpoints.clone(),
            pids: self.pids.clone(),
            connections: self.conns,
            clients: self.clients,
            threads: self.threads,
            rate: self.rate,
            warm_up: self.warm_up,
            keys: KeySpace::new(self.key_size, self.keys)?,
            cursor: self.sequential.then(Arc::default),
            value_size: self.value_size,
        })
    }

    fn extent(&self) -> Extent<'static> {
        self.total.map_or(Extent::For(self.duration), Extent::Total)
    }

    /// Turns the load to another server.
    pub(crate) fn aim(&mut self, server: &Server) {
        self.endpoints = vec![server.endpoint().to_owned()];
        self.pids = vec![server.pid()];
    }

    pub(crate) fn set_window(&mut self, warm_up: Duration, duration: Duration) {
        self.warm_up = warm_up;
        self.duration = duration;
    }
}

impl Measure {
    /// Runs the workload. Every workload gives one report, `restart` one for each round.
    pub(crate) fn run(&self) -> Result<Vec<Report>> {
        let report = match self {
            Measure::Put(timed) => timed.run(),
            Measure::Range(timed) => timed.run(),
            Measure::Count(timed) => timed.run(),
            Measure::Limit(timed) => timed.run(),
            Measure::TxnPut(timed) => timed.run(),
            Measure::TxnCas(timed) => timed.run(),
            Measure::Delete(timed) => timed.run(),
            Measure::Mixed(timed) => timed.run(),
            Measure::GatewayPut(timed) => timed.run(),
            Measure::GatewayWatches(timed) => {
                Ok(Report::of_waiting(&timed.workload.run(&timed.load.load()?)?))
            }
            Measure::Watch(timed) => timed.run(),
            Measure::LeaseGrant(timed) => timed.run(),
            Measure::LeaseKeepAlive(timed) => timed.run(),
            Measure::Preload(timed) => {
                let measured = timed.workload.run(&timed.load.load()?)?;
                Ok(Report::of_load(Preload::NAME, Preload::UNIT, &measured))
            }
            Measure::Compact(timed) => {
                Ok(Report::of_stall(&timed.workload.run(&timed.load.load()?, timed.load.duration)?))
            }
            Measure::Floor(timed) => {
                Ok(Report::of_floor(&timed.workload.run(&timed.load.load()?, timed.load.duration)?))
            }
            Measure::Restart(timed) => return timed.run(),
            Measure::Memory(load) => load.memory(),
        };
        Ok(vec![report?])
    }

    pub(crate) fn load_args(&mut self) -> &mut LoadArgs {
        match self {
            Measure::Put(timed) => &mut timed.load,
            Measure::Range(timed) => &mut timed.load,
            Measure::Count(timed) => &mut timed.load,
            Measure::Limit(timed) => &mut timed.load,
            Measure::TxnPut(timed) => &mut timed.load,
            Measure::TxnCas(timed) => &mut timed.load,
            Measure::Delete(timed) => &mut timed.load,
            Measure::Mixed(timed) => &mut timed.load,
            Measure::GatewayPut(timed) => &mut timed.load,
            Measure::GatewayWatches(timed) => &mut timed.load,
            Measure::Watch(timed) => &mut timed.load,
            Measure::LeaseGrant(timed) => &mut timed.load,
            Measure::LeaseKeepAlive(timed) => &mut timed.load,
            Measure::Preload(timed) => &mut timed.load,
            Measure::Compact(timed) => &mut timed.load,
            Measure::Floor(timed) => &mut timed.load,
            Measure::Restart(timed) => &mut timed.load,
            Measure::Memory(load) => load,
        }
    }
}

impl<W: Args + Workload> Timed<W> {
    fn run(&self) -> Result<Report> {
        let load = self.load.load()?;
        let measured = drive(&self.workload, &load, self.load.extent())?;
        let title = format!("{} ({})", W::NAME, describe(&load));
        Ok(Report::of_load(&title, W::UNIT, &measured))
    }
}

impl Timed<Restart> {
    fn run(&self) -> Result<Vec<Report>> {
        let Restart { server: launch, rounds, dir } = &self.workload;
        let home = Home::new(dir)?;
        let (server, _) = Server::start(launch, &home)?;
        let mut load = self.load.clone();
        load.aim(&server);
        Preload::new(PRELOAD_BATCH, 1).run(&load.load()?)?;
        server.stop()?;
        (0..*rounds).map(|_| Ok(Report::of_restart(&restart::once(launch, &home)?))).collect()
    }
}

/// Below the 128 operations that a transaction may have by default.
pub(crate) const PRELOAD_BATCH: u64 = 100;

impl LoadArgs {
    fn memory(&self) -> Result<Report> {
        ensure!(!self.pids.is_empty(), "give the servers' processes with --pid");
        let mut sum = Memory { rss_bytes: 0, anonymous_bytes: 0 };
        for &pid in &self.pids {
            let one = memory(pid)?;
            sum.rss_bytes += one.rss_bytes;
            sum.anonymous_bytes += one.anonymous_bytes;
        }
        Ok(Report::of_memory(sum))
    }
}

/// A line such as `put --conns 10`, as it stands in a suite.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(subcommand)]
    measure: Measure,
}

pub(crate) fn measure_from_line(line: &str) -> Result<Measure> {
    Ok(Line::try_parse_from(crate::process::words(line)?)?.measure)
}

/// Reads `500ms`, `5s`, `2m`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        unit => return Err(format!("unknown unit {unit:?}: use ms, s or m")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is not a time such as 5s"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

/// The directory for servers' data: not the system's own temporary one, which is often in memory.
pub(crate) fn default_dir() -> PathBuf {
    PathBuf::from(".")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        Line::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert!(duration("3h").is_err() && duration("s").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn a_workload_line_is_read_with_its_load() {
        let mut measure =
            measure_from_line("range --n 10000 --conns 2 --clients 4 --serializable").unwrap();
        let load = measure.load_args().load().unwrap();
        assert_eq!((load.connections, load.clients, load.threads), (2, 4, 1));
        assert!(matches!(measure, Measure::Range(_)));
        assert!(measure_from_line("rank").is_err());
        assert!(measure_from_line("put --conns many").is_err());
    }

    #[test]
    fn several_endpoints_and_processes_are_lists() {
        let cli = Cli::try_parse_from([
            "etcd-bench",
            "put",
            "--endpoints",
            "a:1,b:2",
            "--pid",
            "1,2",
            "-o",
            "json",
        ]);
        let cli = cli.unwrap();
        assert_eq!(cli.output, Output::Json);
        let Command::Measure(mut measure) = cli.command else { panic!("not a workload") };
        let load = measure.load_args().load().unwrap();
        assert_eq!(
            (load.endpoints, load.pids),
            (vec!["a:1".to_owned(), "b:2".to_owned()], vec![1, 2])
        );
    }

    #[test]
    fn a_total_and_a_duration_exclude_each_other() {
        assert!(measure_from_line("put --total 10").is_ok());
        assert!(measure_from_line("put --total 10 --duration 1s").is_err());
    }
}
