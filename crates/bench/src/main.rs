//! A load generator for etcd servers, of any make.
//!
//! | module | its part |
//! |---|---|
//! | `cli` | the command line |
//! | `client` | gRPC on bare h2, one connection per [`client::Channel`] |
//! | `engine` | clients, closed and open loop, the measured window |
//! | `workload` | what the clients do, one file each |
//! | `process` | processor time and memory of processes; starting and stopping servers |
//! | `report` | figures and their print |
//! | `compare`, `suite` | two servers in turns; the list of workloads that covers what users feel |
//!
//! Figures of different minutes are hard to compare: machines drift. So `compare` lets two servers take turns, and
//! besides rates it prints processor time per operation, which other load on the machine disturbs least.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool prints its results"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded to three digits, and times and counts here are far below 2^52"
)]

mod cli;
mod client;
mod compare;
mod engine;
mod keys;
mod process;
mod report;
mod suite;
mod wire;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::cli::{Cli, Command, Output};
use crate::report::Report;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all requests were answered as expected.
fn run(cli: &Cli) -> Result<bool> {
    match &cli.command {
        Command::Measure(measure) => {
            let reports = measure.run()?;
            print(&reports, cli.output)?;
            Ok(reports.iter().all(|report| report.errors == 0))
        }
        Command::Compare(compare) => {
            let comparison = compare.run()?;
            match cli.output {
                Output::Table => println!("{comparison}"),
                Output::Json => println!("{}", serde_json::to_string_pretty(&comparison)?),
            }
            Ok(comparison.errors() == 0)
        }
    }
}

fn print(reports: &[Report], output: Output) -> Result<()> {
    for report in reports {
        match output {
            Output::Table => println!("{report}"),
            Output::Json => println!("{}", serde_json::to_string(report)?),
        }
    }
    Ok(())
}
