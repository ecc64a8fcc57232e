//! `defrag`: gives the free pages of a member's database back to the file system.

use std::path::Path;

use retcd_command_line::{Action, Command, Failure, Flag, Invocation};
use retcd_storage::backend::{LmdbBackend, Options};
use retcd_storage::data_dir::Layout;

use crate::file::{expect_there, lock_dir};
use crate::log;

pub(super) const COMMAND: Command = Command {
    short: "Defragments the storage of a member that is down",
    flags: &[Flag::text("data-dir", "", "the data directory, not in use by a server").required()],
    ..Command::new("defrag", "", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let dir = invocation.flags.text("data-dir");
    defragment(Path::new(dir), invocation).map_err(|failure| {
        failure.in_words(|text| format!("Failed to defragment etcd data[{dir}] ({text})"))
    })
}

fn defragment(dir: &Path, invocation: &Invocation) -> Result<(), Failure> {
    let layout = Layout::new(dir, None);
    let path = layout.backend_path();
    expect_there(&path)?;
    let _lock = lock_dir(&layout, invocation)?;
    let backend =
        LmdbBackend::open(&path, Options::default()).map_err(|error| Failure::error(&error))?;
    let done = backend.defragment().map_err(|error| Failure::error(&error))?;
    let (before, after) = (done.before_bytes.to_string(), done.after_bytes.to_string());
    log::info(
        "finished defragmenting directory",
        &[
            ("path", &path.display().to_string()),
            ("current-db-size-bytes-before", &before),
            ("current-db-size-bytes", &after),
        ],
    );
    Ok(())
}
