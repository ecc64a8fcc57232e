//! `compaction`: forgets history.

use retcd_api::etcdserverpb::CompactionRequest;

use crate::failure;
use crate::print::write_out;
use crate::session::Session;
use retcd_command_line::go::number::parse_int;
use retcd_command_line::{Action, Command, Flag, Invocation};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "[options] <revision>",
    short: "Compacts the event history in etcd",
    flags: &[Flag::bool("physical", "wait until the old revisions are gone from the disk")],
    ..Command::new("compaction", "kv", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [revision] = invocation.args.as_slice() else {
        return Err(Failure::bad_args("compaction command needs 1 argument"));
    };
    let revision = parse_int(&String::from_utf8_lossy(revision), 10)
        .map_err(|error| Failure::new(Exit::Error, error))?;
    let session = Session::open(invocation)?;
    let request = CompactionRequest { revision, physical: invocation.flags.bool("physical") };
    session
        .block_on(session.client().compact(request))
        .map_err(|error| failure::request(&error))?;
    write_out(format!("compacted revision {revision}\n").as_bytes())
}
