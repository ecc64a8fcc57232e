//! `put`: writes a key.

use std::io::Read;

use retcd_api::etcdserverpb::PutRequest;

use super::lease_id;
use crate::failure;
use crate::print::Reply;
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, Flag, Flags, Invocation};

pub(super) const COMMAND: Command = Command {
    operands: "[options] <key> <value> (<value> can also be given from stdin)",
    short: "Puts the given key into the store",
    long: "Puts the given key into the store.\n\n\
           A value that begins with '-' looks like a flag; put '--' before it:\n\n  \
           put <key> -- <value>\n  put -- <key> <value>\n\n\
           Without <value>, and without --ignore-value, the value is read from standard input, every byte of it.",
    flags: &[
        Flag::text("lease", "0", "lease to attach the key to (hexadecimal)"),
        Flag::bool("prev-kv", "return the key and value that were there before"),
        Flag::bool("ignore-value", "keep the value that the key has"),
        Flag::bool("ignore-lease", "keep the lease that the key has"),
    ],
    ..Command::new("put", "kv", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let request = request(&invocation.flags, &invocation.args, value_from_stdin)?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().put(request))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::Put(&reply))
}

/// Reads the arguments of `put`, here or in a line of `txn`. A value that is not among them comes from `elsewhere`.
pub(super) fn request(
    flags: &Flags,
    args: &[Vec<u8>],
    elsewhere: impl FnOnce() -> Option<Vec<u8>>,
) -> Result<PutRequest, Failure> {
    let too_few =
        || Failure::bad_args("put command needs 1 argument and input from stdin or 2 arguments");
    let key = args.first().ok_or_else(too_few)?;
    let ignore_value = flags.bool("ignore-value");
    let value = match args.get(1) {
        Some(_) if ignore_value => {
            return Err(Failure::bad_args(
                "put command needs only 1 argument when 'ignore-value' is set",
            ));
        }
        Some(value) => value.clone(),
        None if ignore_value => Vec::new(),
        None => elsewhere().ok_or_else(too_few)?,
    };
    Ok(PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease: lease_id(flags.text("lease").as_bytes(), "lease ID")?,
        prev_kv: flags.bool("prev-kv"),
        ignore_value,
        ignore_lease: flags.bool("ignore-lease"),
    })
}

fn value_from_stdin() -> Option<Vec<u8>> {
    let mut value = Vec::new();
    std::io::stdin().lock().read_to_end(&mut value).ok()?;
    Some(value).filter(|value| !value.is_empty())
}
