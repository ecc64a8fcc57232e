//! `version`: whose contract this program keeps.

use retcd_api::{API_VERSION, ETCD_VERSION};

use crate::print::write_out;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, Invocation};

pub(super) const COMMAND: Command = Command {
    short: "Prints the version of etcdctl",
    ..Command::new("version", "utility", Action::Run(run))
};

fn run(_: &Invocation) -> Result<(), Failure> {
    write_out(format!("etcdctl version: {ETCD_VERSION}\nAPI version: {API_VERSION}\n").as_bytes())
}
