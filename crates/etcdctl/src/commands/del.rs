//! `del`: deletes keys.

use std::time::Duration;

use retcd_api::etcdserverpb::DeleteRangeRequest;
use retcd_client::{from_key_range, prefix_range};

use super::{either_prefix_or_from_key, range_end_is_implied};
use crate::failure;
use crate::print::Reply;
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::go::quote::quote;
use retcd_command_line::{Action, Command, Flag, Flags, Invocation};

pub(super) const COMMAND: Command = Command {
    operands: "[options] <key> [range_end]",
    short: "Removes the specified key or range of keys [key, range_end)",
    flags: &[
        Flag::bool("prefix", "delete the keys that begin with <key>"),
        Flag::bool("prev-kv", "return the deleted keys and values"),
        Flag::bool("from-key", "delete the keys from <key> on, in byte order"),
        Flag::bool("range", "delete a range of keys without the delay"),
    ],
    ..Command::new("del", "kv", Action::Run(run))
};

/// Time to interrupt a delete whose second argument may not have been meant as the end of a range.
const SECOND_THOUGHTS: Duration = Duration::from_secs(2);

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let request = request(&invocation.flags, &invocation.args)?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().delete_range(request))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::DeleteRange(&reply))
}

/// Reads the arguments of `del`, here or in a line of `txn`.
pub(super) fn request(flags: &Flags, args: &[Vec<u8>]) -> Result<DeleteRangeRequest, Failure> {
    let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    let (key, range_end) = match args {
        _ if args.is_empty() || args.len() > 2 => {
            return Err(Failure::bad_args(
                "del command needs one argument as key and an optional argument as range_end",
            ));
        }
        _ if prefix && from_key => return Err(either_prefix_or_from_key()),
        [_, _] if prefix || from_key => return Err(range_end_is_implied()),
        [key, range_end] => {
            if !flags.bool("range") {
                wait_for_second_thoughts(key, range_end);
            }
            (key.clone(), range_end.clone())
        }
        [key, ..] if prefix => prefix_range(key.clone()),
        [key, ..] if from_key => from_key_range(key.clone()),
        [key, ..] => (key.clone(), Vec::new()),
        [] => unreachable!("the number of arguments was checked first"),
    };
    Ok(DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: flags.bool("prev-kv"),
    })
}

fn wait_for_second_thoughts(key: &[u8], range_end: &[u8]) {
    eprintln!(
        "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds to \
         cancel. You can provide `--range` flag to avoid the delay.",
        quote(key),
        quote(range_end)
    );
    std::thread::sleep(SECOND_THOUGHTS);
}
