//! `downgrade`: prepares the cluster for members of an older version.

use retcd_api::etcdserverpb::downgrade_request::DowngradeAction;

use super::text;
use crate::failure;
use crate::print::Reply;
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, Invocation};

pub(super) const COMMAND: Command = Command {
    operands: "<TARGET_VERSION>",
    short: "Downgrade related commands. Use `etcdctl downgrade --help` to see subcommands",
    long: "Downgrade related commands",
    subcommands: &[
        Command {
            operands: "<TARGET_VERSION>",
            short: "Validate downgrade capability before starting downgrade",
            ..Command::new("validate", "", Action::Run(validate))
        },
        Command {
            operands: "<TARGET_VERSION>",
            short: "Start a downgrade action to cluster",
            ..Command::new("enable", "", Action::Run(enable))
        },
        Command {
            short: "Cancel the ongoing downgrade action to cluster",
            ..Command::new("cancel", "", Action::Run(cancel))
        },
    ],
    ..Command::new("downgrade", "cluster", Action::Group)
};

fn validate(invocation: &Invocation) -> Result<(), Failure> {
    run(invocation, DowngradeAction::Validate, "validate", &target(invocation)?)
}

fn enable(invocation: &Invocation) -> Result<(), Failure> {
    run(invocation, DowngradeAction::Enable, "enable", &target(invocation)?)
}

fn cancel(invocation: &Invocation) -> Result<(), Failure> {
    run(invocation, DowngradeAction::Cancel, "cancel", "")
}

fn target(invocation: &Invocation) -> Result<String, Failure> {
    match invocation.args.as_slice() {
        [] => Err(Failure::bad_args("TARGET_VERSION not provided")),
        [version] if version.is_empty() => Err(Failure::bad_args("target version not provided")),
        [version] => text(version),
        _ => Err(Failure::bad_args("too many arguments")),
    }
}

fn run(
    invocation: &Invocation,
    action: DowngradeAction,
    name: &'static str,
    version: &str,
) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().downgrade(action, version))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::Downgrade(name, &reply))
}
