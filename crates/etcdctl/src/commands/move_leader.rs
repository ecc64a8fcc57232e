//! `move-leader`: makes another member the leader.

use super::member_id;
use crate::failure;
use crate::print::{Done, Reply};
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, Invocation};

pub(super) const COMMAND: Command = Command {
    operands: "<transferee-member-id>",
    short: "Transfers leadership to another etcd cluster member.",
    ..Command::new("move-leader", "cluster", Action::Run(run))
};

/// Only the leader can hand over, so it is looked for among the endpoints.
fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [target] = invocation.args.as_slice() else {
        return Err(Failure::bad_args("move-leader command needs 1 argument"));
    };
    let target = member_id(target).map_err(Failure::bad_args)?;
    let session = Session::open(invocation)?;
    for endpoint in session.endpoints() {
        let client =
            session.client_of(endpoint).map_err(|error| Failure::bad_args(error.to_string()))?;
        let status = session.block_on(client.status()).map_err(|error| failure::request(&error))?;
        let leader = status.leader;
        if status.header.is_none_or(|header| header.member_id != leader) {
            continue;
        }
        let reply = session
            .block_on(client.move_leader(target))
            .map_err(|error| failure::request(&error))?;
        let sentence = format!("Leadership transferred from {leader:x} to {target:x}").into_bytes();
        return session.print(&Reply::MoveLeader(&Done { header: reply.header, sentence }));
    }
    let given = session.endpoints().join(" ");
    Err(Failure::bad_args(format!("no leader endpoint given at [{given}]")))
}
