//! `etcdctl`: etcd's command line client.
//!
//! People and scripts know etcdctl by heart: its words, its exit codes, what goes to stdout and what to stderr.
//! All of that is contract here, down to Go's way of quoting a string and of reading a flag.
//!
//! ```text
//!   cli/           the command line: tree of commands, flags in pflag's syntax, help in cobra's layout, completion
//!   commands/      one file per command: arguments → request → reply
//!   print/         one file per output format: reply → bytes
//!   go/            how Go writes and reads strings, numbers, durations and JSON
//!   session.rs     global flags and environment → client, printer, time limit
//!   discovery.rs   --discovery-srv
//!   line_up.rs     what locks and elections have in common
//!   input.rs       lines of stdin, edited on a terminal      words.rs       splitting them
//!   password.rs    asking without showing                    terminal.rs    the terminal itself
//!   progress.rs    how far long work is                      interrupts.rs  Ctrl-C
//!   decode.rs      what a value is, for people               diff.rs        what changed in one
//!   http.rs        a member's metrics                        log.rs  failure.rs
//! ```
//!
//! The command line is not parsed by a library: no Rust parser takes pflag's syntax (`--flag=false`, flags between
//! arguments, prefixes of command names only), and the same parser reads the lines of `txn` and `watch -i`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a command line tool")]

mod cli;
mod commands;
mod decode;
mod diff;
mod discovery;
mod failure;
mod go;
mod http;
mod input;
mod interrupts;
mod line_up;
mod log;
mod password;
mod print;
mod progress;
mod session;
mod terminal;
mod words;

use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<Vec<u8>> = std::env::args_os().skip(1).map(OsStringExt::into_vec).collect();
    let result = cli::run(&commands::ROOT, &args);
    terminal::restore();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
