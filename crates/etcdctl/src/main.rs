//! `etcdctl`: etcd's command line client.
//!
//! People and scripts know etcdctl by heart: its words, its exit codes, what goes to stdout and what to stderr.
//! All of that is contract here, down to Go's way of quoting a string and of reading a flag.
//!
//! ```text
//!   cli/        the command line: tree of commands, flags in pflag's syntax, help in cobra's layout
//!   commands/   one file per command: arguments → request → reply
//!   print/      one file per output format: reply → bytes
//!   go/         how Go writes and reads strings, numbers, durations and JSON
//!   line_up.rs  what locks and elections have in common
//!   password.rs asking for passwords without showing them
//!   session.rs  global flags and environment → client, printer, time limit
//! ```
//!
//! The command line is not parsed by a library: no Rust parser takes pflag's syntax (`--flag=false`, flags between
//! arguments, prefixes of command names only), and the same parser reads the lines of `txn` and `watch -i`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a command line tool")]

mod cli;
mod commands;
mod failure;
mod go;
mod line_up;
mod log;
mod password;
mod print;
mod session;
mod words;

use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<Vec<u8>> = std::env::args_os().skip(1).map(OsStringExt::into_vec).collect();
    match cli::run(&commands::ROOT, &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
