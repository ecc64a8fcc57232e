//! The command line of etcd's tools: a tree of commands, each with flags.
//!
//! The syntax is that of Go's pflag and cobra, which the users of etcdctl and etcdutl have in their fingers:
//! - flags may stand anywhere before `--`, as `--flag value`, `--flag=value`, `-w value` or `-wvalue`;
//! - truth flags take a value only with `=`;
//! - a command may be named by any prefix that no other command shares.
//!
//! What cannot be read is answered in cobra's words and layout, exit code 1.
//!
//! Beside it stands what both tools show: Go's way of writing values ([`go`]), sizes for people ([`units`]), tables
//! ([`table`]), and how a command fails ([`Failure`]).
//!
//! It is not parsed by a library: no Rust parser takes this syntax, and etcdctl reads the lines of `txn` and `watch -i`
//! with the same parser.
#![allow(clippy::print_stderr, reason = "this is the command line of tools")]

mod command;
mod complete;
pub mod completion;
mod failure;
mod flags;
pub mod go;
mod help;
mod suggest;
pub mod table;
pub mod units;

use std::io::{ErrorKind, Write};

pub use command::{Action, Command, EXTRA, Invocation, resolve, run};
pub use complete::answer;
pub use failure::{Exit, Failure};
pub use flags::{Flag, Flags, HELP, Kind, Parsed, parse};
pub use help::{WIDTH, about, default, flag_usages, kind, synopsis, text};

/// Writes to stdout.
///
/// # Errors
/// See [`write_failure`].
pub fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| write_failure(&error))
}

/// The failure of a write to stdout. Whoever read the pipe may have seen enough, as `head` does.
pub fn write_failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::silent(Exit::Error),
        _ => Failure::new(Exit::Error, format!("write stdout: {error}")),
    }
}
