//! `etcdutl`: works on a member's files while the member is down.
//!
//! Commands, flags, outputs and exit codes are those of etcd's tool; `export` is ours. Files may be etcd's (bbolt) or ours
//! (LMDB): what reads takes both, what changes a data dir takes ours.
//!
//! ```text
//!   commands/   one file per command        file.rs    opening a database file, waiting for its lock
//!   print.rs    results in all formats      log.rs     lines on stderr
//! ```
//!
//! The command line itself is the crate `command-line`, the work on databases the crate `conversion`.
#![allow(clippy::print_stderr, reason = "this is a command line tool")]

mod commands;
mod file;
mod log;
mod print;

use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<Vec<u8>> = std::env::args_os().skip(1).map(OsStringExt::into_vec).collect();
    match retcd_command_line::run(&commands::ROOT, &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
