//! `etcdctl`: etcd's command line client.
//!
//! People and scripts know etcdctl by heart: its words, its exit codes, what goes to stdout and what to stderr.
//! All of that is contract here, down to Go's way of quoting a string and of reading a flag.
//!
//! ```text
//!   commands/      one file per command: arguments → request → reply
//!   print/         one file per output format: reply → bytes
//!   session.rs     global flags and environment → client, printer, time limit
//!   discovery.rs   --discovery-srv
//!   line_up.rs     what locks and elections have in common
//!   input.rs       lines of stdin, edited on a terminal      words.rs       splitting them
//!   password.rs    asking without showing                    terminal.rs    the terminal itself
//!   progress.rs    how far long work is                      interrupts.rs  Ctrl-C
//!   decode.rs      what a value is, for people               diff.rs        what changed in one
//!   http.rs        a member's metrics                        log.rs  failure.rs
//!   manual.rs      docs/etcdctl.md and the man pages
//! ```
//!
//! The command line itself (commands, flags, help, completion, how Go writes values) is the crate `command-line`, which
//! etcdutl shares.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a command line tool")]

mod commands;
mod decode;
mod diff;
mod discovery;
mod failure;
mod http;
mod input;
mod interrupts;
mod line_up;
mod log;
#[cfg(test)]
mod manual;
mod password;
mod print;
mod progress;
mod session;
mod terminal;
mod words;

#[cfg(test)]
mod tests;

use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<Vec<u8>> = std::env::args_os().skip(1).map(OsStringExt::into_vec).collect();
    let result = retcd_command_line::run(&commands::ROOT, &args);
    terminal::restore();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
