//! `options`: the flags that every command takes.

use crate::print::write_out;
use crate::session::GLOBAL_FLAGS;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, Invocation, flag_usages};

pub(super) const COMMAND: Command = Command {
    short: "Shows the flags that every command takes",
    ..Command::new("options", "utility", Action::Run(run))
};

fn run(_: &Invocation) -> Result<(), Failure> {
    let usages = flag_usages(&GLOBAL_FLAGS);
    write_out(format!("The following options can be passed to any command:\n\n{usages}").as_bytes())
}
