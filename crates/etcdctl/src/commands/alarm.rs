//! `alarm`: what makes members refuse writes.

use retcd_api::etcdserverpb::AlarmResponse;

use crate::failure;
use crate::print::Reply;
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, Invocation};

pub(super) const COMMAND: Command = Command {
    operands: "<subcommand>",
    short: "Alarm related commands. Use `etcdctl alarm --help` to see subcommands",
    long: "Alarm related commands",
    subcommands: &[
        Command { short: "Disarms all alarms", ..Command::new("disarm", "", Action::Run(disarm)) },
        Command { short: "Lists all alarms", ..Command::new("list", "", Action::Run(list)) },
    ],
    ..Command::new("alarm", "cluster", Action::Group)
};

fn list(invocation: &Invocation) -> Result<(), Failure> {
    if !invocation.args.is_empty() {
        return Err(Failure::bad_args("alarm list command accepts no arguments"));
    }
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().alarm_list())
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::Alarm(&reply))
}

/// Disarms what is listed, and shows what was disarmed, without the headers of the many replies.
fn disarm(invocation: &Invocation) -> Result<(), Failure> {
    if !invocation.args.is_empty() {
        return Err(Failure::bad_args("alarm disarm command accepts no arguments"));
    }
    let session = Session::open(invocation)?;
    let client = session.client();
    let disarmed = session.block_on(async {
        let mut all = AlarmResponse::default();
        for alarm in client.alarm_list().await?.alarms {
            all.alarms.extend(client.alarm_disarm(alarm).await?.alarms);
        }
        Ok(all)
    });
    session.print(&Reply::Alarm(&disarmed.map_err(|error| failure::request(&error))?))
}
