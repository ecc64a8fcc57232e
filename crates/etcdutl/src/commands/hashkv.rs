//! `hashkv`: the hash by which members compare their keys, of a file.

use retcd_command_line::{Action, Command, Failure, Flag, Invocation};
use retcd_state_machine::{Config, ReadError, Rejection, StateMachine};

use crate::file::{Stored, expect_there, path_of};
use crate::print::{Column, Format, Value};

pub(super) const COMMAND: Command = Command {
    operands: "<filename>",
    short: "Prints the hash of all keys and their history in a file",
    flags: &[Flag::int("rev", "maximum revision to hash (default: latest revision)")],
    takes_files: true,
    ..Command::new("hashkv", "", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [file] = invocation.args.as_slice() else { return Err(invocation.wrong_count("1")) };
    let format = Format::of(invocation)?;
    let path = path_of(file);
    expect_there(&path)?;
    let stored = Stored::open(&path, invocation)?;
    let machine = StateMachine::open(stored.backend.clone(), Config::default());
    let machine = machine.map_err(|error| Failure::error(&error))?;
    let hash = machine.reader().hash_kv(invocation.flags.int("rev")).map_err(in_etcds_words)?;
    format.print(&[
        Column {
            title: "HASH",
            field: "Hash",
            key: "hash",
            value: Value::Number(hash.hash.into()),
        },
        Column {
            title: "HASH REVISION",
            field: "Hash revision",
            key: "hashRevision",
            value: Value::Number(hash.hash_revision),
        },
        Column {
            title: "COMPACT REVISION",
            field: "Compact revision",
            key: "compactRevision",
            value: Value::Number(hash.compact_revision),
        },
    ])
}

fn in_etcds_words(error: ReadError) -> Failure {
    match error {
        ReadError::Rejection(Rejection::Compacted { .. }) => {
            Failure::error(&"mvcc: required revision has been compacted")
        }
        ReadError::Rejection(Rejection::FutureRevision { .. }) => {
            Failure::error(&"mvcc: required revision is a future revision")
        }
        error => Failure::error(&error),
    }
}
