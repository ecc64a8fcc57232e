//! `snapshot`: brings a member's database here.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use retcd_client::Client;

use crate::failure::last_attempt;
use crate::log;
use crate::print::{size, write_out};
use crate::progress::{Progress, Unit};
use crate::session::Session;
use retcd_command_line::go::{duration, in_go_words};
use retcd_command_line::{Action, Command, Invocation};
use retcd_command_line::{Exit, Failure};

/// The last bytes of a snapshot are a SHA-256, which makes its size no multiple of a disk's sector.
const CHECKSUM_BYTES: u64 = 32;
const SECTOR_BYTES: u64 = 512;
/// Backups hold everything, so only their owner reads them.
const MODE: u32 = 0o600;

pub(super) const COMMAND: Command = Command {
    operands: "<subcommand>",
    short: "Manages etcd node snapshots",
    subcommands: &[
        SAVE,
        Command {
            operands: "<filename>",
            short: "Moved: use `etcdutl snapshot restore`",
            ..Command::new("restore", "", Action::Run(restore))
        },
        Command {
            operands: "<filename>",
            short: "Moved: use `etcdutl snapshot status`",
            ..Command::new("status", "", Action::Run(status))
        },
    ],
    ..Command::new("snapshot", "cluster", Action::Group)
};

const SAVE: Command = Command {
    operands: "<filename>",
    short: "Stores an etcd node backend snapshot to a given file",
    long: "Stores an etcd node backend snapshot to a given file.\n\n\
           The member is the one that --endpoints names, which must be a single one. The file ends with a checksum \
           of all before it; `etcdutl snapshot status` verifies it, and `etcdutl snapshot restore` makes a data \
           directory of it.",
    takes_files: true,
    ..Command::new("save", "", Action::Run(save))
};

fn restore(_: &Invocation) -> Result<(), Failure> {
    Err(moved("restore"))
}

fn status(_: &Invocation) -> Result<(), Failure> {
    Err(moved("status"))
}

/// These read files and no server, which is the work of another program since etcd 3.6.
fn moved(name: &str) -> Failure {
    let message = format!(
        "`etcdctl snapshot {name}` has moved: use `etcdutl snapshot {name}` with the same arguments"
    );
    Failure::new(Exit::Error, message)
}

fn save(invocation: &Invocation) -> Result<(), Failure> {
    use std::os::unix::ffi::OsStrExt;
    let [file] = invocation.args.as_slice() else {
        return Err(Failure::bad_args("snapshot save expects one argument <filename>"));
    };
    let path = Path::new(std::ffi::OsStr::from_bytes(file));
    let session = Session::open(invocation)?;
    let [endpoint] = session.endpoints() else {
        let given = session.endpoints().join(" ");
        return Err(interrupted(format!(
            "snapshot must be requested to one selected node, not multiple [{given}]"
        )));
    };
    let start = Instant::now();
    let part = Part::create(path)?;
    let received = session.block_on(part.receive(&session.patient_client(), endpoint))?;
    let took = duration::format(start.elapsed());
    let bytes = i64::try_from(received.bytes).unwrap_or(i64::MAX);
    log::info(
        "fetched snapshot",
        &[
            ("endpoint", endpoint),
            ("size", &size(bytes)),
            ("took", &took),
            ("etcd-version", &received.version),
        ],
    );
    part.rename(path)?;
    log::info("saved", &[("path", &path.display().to_string())]);
    write_out(&[b"Snapshot saved at ", file.as_slice(), b"\n"].concat())?;
    if received.version.is_empty() {
        return Ok(());
    }
    write_out(format!("Server version {}\n", received.version).as_bytes())
}

fn interrupted(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Interrupted, message)
}

/// A file that is not complete yet, under a name that says so. Gone when dropped.
struct Part {
    path: PathBuf,
    file: File,
}

struct Received {
    bytes: u64,
    /// The storage version of the server; servers before 3.6 do not tell.
    version: String,
}

impl Part {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let opened =
            OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&path);
        let file = opened.map_err(|error| {
            let path = path.display();
            interrupted(format!("could not open {path} (open {path}: {})", in_go_words(&error)))
        })?;
        log::info("created temporary db file", &[("path", &path.display().to_string())]);
        Ok(Part { path, file })
    }

    /// Writes all of the snapshot and makes it durable.
    async fn receive(&self, client: &Client, endpoint: &str) -> Result<Received, Failure> {
        let refused = |error: &retcd_client::Error| {
            last_attempt(error).into_iter().for_each(log::retry);
            interrupted(error.to_string())
        };
        let broken = |error: String| interrupted(format!("could not write snapshot: {error}"));
        let mut snapshot = client.snapshot().await.map_err(|error| refused(&error))?;
        log::info("fetching snapshot", &[("endpoint", endpoint)]);
        let mut received = Received { bytes: 0, version: String::new() };
        let mut is_first = true;
        let mut progress = Progress::new("snapshot", Unit::Bytes, 0);
        loop {
            let piece = match snapshot.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                // A stream that was refused looks like one that breaks before its first piece.
                Err(error) if is_first => return Err(refused(&error)),
                Err(error) => return Err(broken(error.to_string())),
            };
            is_first = false;
            (&self.file).write_all(&piece.blob).map_err(|error| broken(error.to_string()))?;
            received.bytes += piece.blob.len() as u64;
            progress.set_total(received.bytes + piece.remaining_bytes);
            progress.set(received.bytes);
            if received.version.is_empty() {
                received.version = piece.version;
            }
        }
        if received.bytes % SECTOR_BYTES != CHECKSUM_BYTES {
            let bytes = received.bytes;
            return Err(interrupted(format!("sha256 checksum not found [bytes: {bytes}]")));
        }
        self.file
            .sync_all()
            .map_err(|error| interrupted(format!("could not fsync snapshot: {error}")))?;
        Ok(received)
    }

    fn rename(&self, to: &Path) -> Result<(), Failure> {
        std::fs::rename(&self.path, to).map_err(|error| {
            let (from, to) = (self.path.display(), to.display());
            interrupted(format!("could not rename {from} to {to} ({})", in_go_words(&error)))
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After the renaming there is nothing to remove.
        let _ = std::fs::remove_file(&self.path);
    }
}
