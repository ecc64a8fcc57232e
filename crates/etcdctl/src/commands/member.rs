//! `member`: who belongs to the cluster.

use super::is_serializable;
use crate::cli::{Action, Command, Flag, Invocation};
use crate::failure::Failure;
use crate::print::Reply;
use crate::session::Session;

pub(super) const COMMAND: Command = Command {
    operands: "<subcommand>",
    short: "Membership related commands. Use `etcdctl member --help` to see subcommands",
    long: "Membership related commands",
    subcommands: &[
        Command::later("add", ""),
        Command::later("remove", ""),
        Command::later("update", ""),
        LIST,
        Command::later("promote", ""),
    ],
    ..Command::new("member", "cluster", Action::Group)
};

const LIST: Command = Command {
    short: "Lists all members in the cluster",
    long: "Lists all members in the cluster.\n\nThe simple format has one line per member: \
           ID, status, name, peer addresses, client addresses, is learner.",
    flags: &[Flag::text("consistency", "l", "linearizable (l) or serializable (s)")],
    ..Command::new("list", "", Action::Run(list))
};

fn list(invocation: &Invocation) -> Result<(), Failure> {
    let serializable = is_serializable(invocation.flags.text("consistency"))?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().member_list(!serializable))
        .map_err(|error| Failure::request(&error))?;
    session.print(&Reply::MemberList(&reply))
}
