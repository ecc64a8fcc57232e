//! `defrag`: gives free space inside the database files back.

use std::time::Instant;

use super::endpoint::{CLUSTER, endpoints};
use crate::failure::last_attempt;
use crate::log;
use crate::print::write_out;
use crate::progress::{Progress, Unit};
use crate::session::Session;
use retcd_command_line::go::duration;
use retcd_command_line::{Action, Command, Invocation};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    short: "Defragments the storage of the etcd members with given endpoints",
    inherited_flags: &[CLUSTER],
    ..Command::new("defrag", "cluster", Action::Run(run))
};

/// One member after the other: each stands still meanwhile, and the others should not.
fn run(invocation: &Invocation) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let is_cluster = session.flags.bool(CLUSTER.name);
    let mut has_failed = false;
    let endpoints = endpoints(&session, is_cluster)?;
    let mut progress = Progress::new("defrag", Unit::Of("members"), endpoints.len() as u64);
    for endpoint in endpoints {
        let client =
            session.client_of(&endpoint).map_err(|error| Failure::bad_args(error.to_string()))?;
        let start = Instant::now();
        let result = session.block_on(client.defragment());
        let took = duration::format(start.elapsed());
        progress.hide();
        match result {
            Ok(_) => write_out(
                format!("Finished defragmenting etcd member[{endpoint}]. took {took}\n").as_bytes(),
            )?,
            Err(error) => {
                last_attempt(&error).into_iter().for_each(log::retry);
                eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({error})");
                has_failed = true;
            }
        }
        progress.add(1);
    }
    if has_failed { Err(Failure::silent(Exit::Error)) } else { Ok(()) }
}
