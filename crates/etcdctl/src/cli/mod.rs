//! The command line: a tree of commands, each with flags.
//!
//! The syntax is that of Go's pflag and cobra, which etcdctl's users have in their fingers:
//! - flags may stand anywhere before `--`, as `--flag value`, `--flag=value`, `-w value` or `-wvalue`;
//! - truth flags take a value only with `=`;
//! - a command may be named by any prefix that no other command shares.
//!
//! What cannot be read is answered in cobra's words and layout, exit code 1.

mod command;
mod complete;
mod flags;
mod help;
#[cfg(test)]
mod manual;
mod suggest;

pub(crate) use command::{Action, Command, EXTRA, Invocation, run};
pub(crate) use flags::{Flag, Flags, parse};
pub(crate) use help::flag_usages;
