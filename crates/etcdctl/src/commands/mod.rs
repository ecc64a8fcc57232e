//! The commands, one file each, and the tree that names them.
//!
//! A command reads its arguments into a request, sends it through a [`crate::session::Session`], and prints the
//! reply. Arguments are checked before the session is opened, so a bad argument is reported even without a cluster.

mod access;
mod alarm;
mod auth;
mod check;
mod compaction;
mod completion;
mod defrag;
mod del;
mod downgrade;
mod elect;
mod endpoint;
mod get;
mod lease;
mod lock;
mod make_mirror;
mod member;
mod move_leader;
mod options;
mod put;
mod role;
mod snapshot;
mod top;
mod tree;
mod txn;
mod user;
mod version;
mod watch;

use crate::session::GLOBAL_FLAGS;
use retcd_command_line::Failure;
use retcd_command_line::go::number::{parse_int, parse_uint};
use retcd_command_line::{Action, Command, EXTRA, Flag};

/// The order in which the program lists its commands.
pub(crate) const HEADINGS: [(&str, &str); 6] = [
    ("kv", "Key-value commands"),
    ("cluster", "Cluster maintenance commands"),
    ("concurrency", "Concurrency commands"),
    ("auth", "Authentication commands"),
    ("utility", "Utility commands"),
    (EXTRA, "Commands that etcd's own etcdctl does not have"),
];

/// The whole of etcdctl. The order is the one in which suggestions are made.
pub(crate) static ROOT: Command = Command {
    short: "A command line client for etcd.",
    headings: &HEADINGS,
    inherited_flags: &GLOBAL_FLAGS,
    subcommands: &[
        get::COMMAND,
        put::COMMAND,
        del::COMMAND,
        txn::COMMAND,
        compaction::COMMAND,
        alarm::COMMAND,
        defrag::COMMAND,
        endpoint::COMMAND,
        move_leader::COMMAND,
        watch::COMMAND,
        version::COMMAND,
        lease::COMMAND,
        member::COMMAND,
        snapshot::COMMAND,
        make_mirror::COMMAND,
        lock::COMMAND,
        elect::COMMAND,
        auth::COMMAND,
        user::COMMAND,
        role::COMMAND,
        check::COMMAND,
        completion::COMMAND,
        downgrade::COMMAND,
        options::COMMAND,
        HELP,
        top::COMMAND,
        tree::COMMAND,
        retcd_command_line::completion::COMPLETE,
    ],
    ..Command::new("etcdctl", "", Action::Group)
};

const HELP: Command = Command {
    operands: "[command]",
    short: "Explains a command",
    ..Command::new("help", "utility", Action::Help)
};

/// How far behind an answer may be.
const CONSISTENCY: Flag =
    Flag::text("consistency", "l", "linearizable (l) or serializable (s)").one_of(&["l", "s"]);

/// What `--consistency` says: whether any member may answer from what it knows.
fn is_serializable(consistency: &str) -> Result<bool, Failure> {
    match consistency {
        "l" => Ok(false),
        "s" => Ok(true),
        other => {
            let message = format!("unknown consistency flag {other:?}");
            Err(Failure::new(retcd_command_line::Exit::BadFeature, message))
        }
    }
}

/// Reads a lease id, which people write in hexadecimal. `what` is its name in the error.
fn lease_id(text: &[u8], what: &str) -> Result<i64, Failure> {
    let parsed = parse_int(&String::from_utf8_lossy(text), 16);
    parsed.map_err(|error| Failure::bad_args(format!("bad {what} ({error}), expecting ID in Hex")))
}

/// Reads the id of a member, which people write in hexadecimal; the error is Go's.
fn member_id(text: &[u8]) -> Result<u64, String> {
    parse_uint(&String::from_utf8_lossy(text), 16)
}

/// Names travel as text. What is no text is refused in the words of etcd's marshaller.
fn text(argument: &[u8]) -> Result<String, Failure> {
    String::from_utf8(argument.to_vec()).map_err(|_| {
        let message = "rpc error: code = Internal desc = grpc: error while marshaling: \
                       string field contains invalid UTF-8";
        Failure::new(retcd_command_line::Exit::Error, message)
    })
}

/// The failure of flags that exclude each other.
fn either_prefix_or_from_key() -> Failure {
    Failure::bad_args("`--prefix` and `--from-key` cannot be set at the same time, choose one")
}

/// The failure of a range end beside a flag that implies one.
fn range_end_is_implied() -> Failure {
    Failure::bad_args(
        "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
    )
}
