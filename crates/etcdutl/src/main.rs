//! `etcdutl`: works on a member's files while the member is down.
//!
//! Only `version` exists so far. The other commands of etcd's tool are known by name and refuse, so that a script
//! that needs one of them learns why it failed.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a command line tool")]

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use retcd_api::{API_VERSION, ETCD_VERSION};

#[derive(Debug, Parser)]
#[command(name = "etcdutl", about = "An offline tool for etcd's files", infer_subcommands = true)]
#[command(disable_version_flag = true)]
struct Arguments {
    /// How to write results (fields, json, protobuf, simple, table)
    #[arg(short = 'w', long, global = true, default_value = "simple")]
    write_out: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the version of etcdutl
    Version,
    /// Defragments the storage of a member (not available yet)
    Defrag(Ignored),
    /// Shows or restores snapshots (not available yet)
    Snapshot(Ignored),
    /// Prints the hash of a file's key-value history (not available yet)
    Hashkv(Ignored),
    /// Changes the version of a member's storage (not available yet)
    Migrate(Ignored),
    /// Prints a script for the shell (not available yet)
    Completion(Ignored),
}

/// The arguments of a command that cannot use them yet.
#[derive(Debug, clap::Args)]
struct Ignored {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let name = match arguments.command {
        Command::Version => {
            println!("etcdutl version: {ETCD_VERSION}\nAPI version: {API_VERSION}");
            return ExitCode::SUCCESS;
        }
        Command::Defrag(_) => "defrag",
        Command::Snapshot(_) => "snapshot",
        Command::Hashkv(_) => "hashkv",
        Command::Migrate(_) => "migrate",
        Command::Completion(_) => "completion",
    };
    eprintln!("Error: {name} is not available yet");
    ExitCode::FAILURE
}

/// Help goes to stdout and is no failure; everything else is an error with etcd's exit code, 1.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print!("{}", error.render());
            ExitCode::SUCCESS
        }
        _ => {
            let text = error.render().to_string();
            eprint!("Error: {}", text.trim_start_matches("error: "));
            ExitCode::FAILURE
        }
    }
}
