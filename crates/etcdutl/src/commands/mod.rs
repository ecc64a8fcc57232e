//! The commands, one file each, and the tree that names them.

mod defrag;
mod export;
mod hashkv;
mod migrate;
mod restore;
mod status;
mod version;

use retcd_command_line::{Action, Command, Flag, completion};

/// The whole of etcdutl.
pub(crate) static ROOT: Command = Command {
    short: "An administrative command line tool for etcd's files.",
    inherited_flags: &[
        Flag::duration(
            "timeout",
            "10s",
            "time to wait to obtain a file lock on db file, 0 to block indefinitely",
        ),
        Flag::text(
            "write-out",
            "simple",
            "set the output format (fields, json, protobuf, simple, table)",
        )
        .short('w')
        .one_of(&["fields", "json", "protobuf", "simple", "table"]),
    ],
    subcommands: &[
        defrag::COMMAND,
        SNAPSHOT,
        hashkv::COMMAND,
        version::COMMAND,
        completion::COMMAND,
        migrate::COMMAND,
        HELP,
        export::COMMAND,
        completion::COMPLETE,
    ],
    ..Command::new("etcdutl", "", Action::Group)
};

const SNAPSHOT: Command = Command {
    operands: "<subcommand>",
    short: "Manages etcd node snapshots",
    subcommands: &[restore::COMMAND, status::COMMAND],
    ..Command::new("snapshot", "", Action::Group)
};

const HELP: Command = Command {
    operands: "[command]",
    short: "Explains a command",
    ..Command::new("help", "", Action::Help)
};
