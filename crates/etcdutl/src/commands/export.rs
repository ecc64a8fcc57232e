//! `export`: the way back to etcd.

use std::path::Path;

use retcd_command_line::{Action, Command, EXTRA, Failure, Flag, Invocation};
use retcd_conversion::{Version, export};
use retcd_storage::data_dir::Layout;

use super::migrate::version;
use super::restore::is_free;
use crate::file::{expect_there, lock_dir};
use crate::log;

pub(super) const COMMAND: Command = Command {
    short: "Makes a data directory that etcd starts on, out of one of ours",
    flags: &[
        Flag::text("data-dir", "", "the data directory of a member that is down").required(),
        Flag::text("wal-dir", "", "the directory of its log, if that is elsewhere"),
        Flag::text("output-dir", "", "the directory to make").required(),
        Flag::text("target-version", "3.7", "the version of etcd that is going to use it"),
    ],
    ..Command::new("export", EXTRA, Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let flags = &invocation.flags;
    let target = version(flags.text("target-version"))?;
    if target > Version::NEWEST {
        let message =
            format!("target version {target:?} not supported", target = target.to_string());
        return Err(Failure::bad_args(message));
    }
    let from = Layout::new(flags.text("data-dir"), Some(flags.text("wal-dir").into()));
    expect_there(&from.backend_path())?;
    let output_dir = flags.text("output-dir");
    if !is_free(Path::new(output_dir)) {
        let message = format!("output-dir {output_dir:?} not empty or could not be read");
        return Err(Failure::error(&message));
    }
    let from = lock_dir(&from, invocation)?;
    let to = Layout::new(output_dir, None);
    export(&from, &to, target).map_err(|error| Failure::error(&error))?;
    let data_dir = from.layout().data_dir().display().to_string();
    log::info("exported", &[("data-dir", &data_dir), ("output-dir", output_dir)]);
    Ok(())
}
