//! `check datascale`: writes many keys, and says how much memory the server has taken for them.

use std::time::Duration;

use super::load::{Load, Pace, Summary, Writes};
use super::{AUTO_COMPACT, AUTO_DEFRAG, LOAD, Size, load_size};
use crate::failure;
use crate::http;
use crate::interrupts::Interrupts;
use crate::print::write_out;
use crate::progress::{Progress, Unit};
use crate::session::Session;
use retcd_command_line::{Action, Command, Flag, Invocation};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "[options]",
    short: "Checks the memory that a server takes for holding data",
    long: "Checks the memory that a server takes for holding data.\n\n\
           Writes keys of 512 bytes with values of 512 bytes, and deletes them again:\n\n  \
           load        keys   clients\n  \
           small      10000        50\n  \
           medium    100000       200\n  \
           large    1000000       500\n  \
           xLarge   3000000      1000\n\n\
           The memory is that of the first endpoint, which must show its metrics.",
    flags: &[
        LOAD,
        Flag::text("prefix", "/etcdctl-check-datascale/", "prefix of the keys to write"),
        AUTO_COMPACT,
        AUTO_DEFRAG,
    ],
    ..Command::new("datascale", "", Action::Run(run))
};

const KEY_BYTES: usize = 512;
const VALUE_BYTES: usize = 512;
const METRIC: &str = "process_resident_memory_bytes";
const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// How often the progress is looked at.
const STEP: Duration = Duration::from_millis(100);

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let flags = &invocation.flags;
    let (keys, clients) = match load_size(flags)? {
        Size::Small => (10_000, 50),
        Size::Medium => (100_000, 200),
        Size::Large => (1_000_000, 500),
        Size::ExtraLarge => (3_000_000, 1_000),
    };
    let prefix = flags.text("prefix").to_owned();
    let writes = Writes { prefix, key_bytes: KEY_BYTES, value_bytes: VALUE_BYTES };
    let session = Session::open(invocation)?;
    session.block_on(async {
        let client = session.endless_client();
        super::require_empty(&client, &writes.prefix, false).await?;
        let before = memory(&session, "before").await?;
        let size = KEY_BYTES + VALUE_BYTES;
        let start = format!(
            "Start data scale check for work load [{keys} key-value pairs, {size} bytes per key-value, \
             {clients} concurrent clients].\n"
        );
        write_out(start.as_bytes())?;
        let load = Load::start(session.separate_clients(clients)?, &writes, Pace::unlimited(keys));
        let summary = watch(load, keys).await?;
        let after = memory(&session, "after").await?;
        let deleted = super::delete_all(&client, &writes.prefix).await;
        let revision = deleted.map_err(|error| failure::request(&error))?;
        if flags.bool(AUTO_COMPACT.name) {
            super::compact(&client, revision).await?;
        }
        if flags.bool(AUTO_DEFRAG.name) {
            super::defragment(&session).await?;
        }
        if !summary.errors.is_empty() {
            super::report_errors(&summary)?;
            return Err(Failure::silent(Exit::Error));
        }
        let used = (after - before) / MEBIBYTE;
        write_out(format!("PASS: Approximate system memory used : {used:.2} MB.\n").as_bytes())
    })
}

/// The memory of the first endpoint, in bytes.
async fn memory(session: &Session, when: &str) -> Result<f64, Failure> {
    let endpoint = session.endpoints().first().map_or("", String::as_str);
    let page = http::get(endpoint, "/metrics", session.command_timeout()).await;
    let bytes = page.and_then(|page| {
        http::metric(&page, METRIC)
            .filter(|bytes| *bytes > 0.0)
            .ok_or_else(|| "no such metric".to_owned())
    });
    bytes.map_err(|error| {
        eprintln!("Failed to read {METRIC} of endpoint {endpoint} ({error})");
        let line = format!("FAIL: Could not read {METRIC} {when} the put operations.\n");
        write_out(line.as_bytes()).err().unwrap_or_else(|| Failure::silent(Exit::Error))
    })
}

/// Waits until all is written or somebody has seen enough.
async fn watch(load: Load, keys: u64) -> Result<Summary, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let mut progress = Progress::new("check datascale", Unit::Of("keys"), keys);
    while load.written() < keys {
        tokio::select! {
            () = tokio::time::sleep(STEP) => progress.set(load.written()),
            () = interrupts.next() => {
                load.stop();
                break;
            }
        }
    }
    Ok(load.finish().await)
}
