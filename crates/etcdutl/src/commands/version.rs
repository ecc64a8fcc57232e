//! `version`: whose contract this program keeps.

use retcd_api::{API_VERSION, ETCD_VERSION};
use retcd_command_line::{Action, Command, Failure, Invocation, write_out};

pub(super) const COMMAND: Command = Command {
    short: "Prints the version of etcdutl",
    ..Command::new("version", "", Action::Run(run))
};

fn run(_: &Invocation) -> Result<(), Failure> {
    write_out(format!("etcdutl version: {ETCD_VERSION}\nAPI version: {API_VERSION}\n").as_bytes())
}
