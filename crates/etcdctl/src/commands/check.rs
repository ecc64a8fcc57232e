//! `check`: whether a cluster is fast enough and holds enough, by trying.

mod datascale;
mod load;
mod perf;

use retcd_api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, RangeRequest};
use retcd_client::{Client, Error, prefix_range};

use crate::failure;
use crate::print::write_out;
use crate::session::Session;
use retcd_command_line::go::quote::quote;
use retcd_command_line::{Action, Command, Flag, Flags};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "<subcommand>",
    short: "Checks properties of the etcd cluster",
    subcommands: &[perf::COMMAND, datascale::COMMAND],
    ..Command::new("check", "utility", Action::Group)
};

const LOAD: Flag = Flag::text("load", "s", "the workload: s(mall), m(edium), l(arge) or xl(arge)")
    .one_of(&["small", "medium", "large", "xLarge"]);
const AUTO_COMPACT: Flag = Flag::bool("auto-compact", "compact the history when the check is over");
const AUTO_DEFRAG: Flag =
    Flag::bool("auto-defrag", "defragment the endpoints when the check is over");

/// The name of a workload, as `--load` takes it.
fn load_size(flags: &Flags) -> Result<Size, Failure> {
    match flags.text(LOAD.name) {
        "s" | "small" => Ok(Size::Small),
        "m" | "medium" => Ok(Size::Medium),
        "l" | "large" => Ok(Size::Large),
        "xl" | "xLarge" => Ok(Size::ExtraLarge),
        other => Err(Failure::new(Exit::BadFeature, format!("unknown load option {other}"))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Medium,
    Large,
    ExtraLarge,
}

/// The check deletes the prefix at its end, so it must not hold anything that is not the check's.
async fn require_empty(client: &Client, prefix: &str, quoted_hint: bool) -> Result<(), Failure> {
    let (key, range_end) = prefix_range(prefix.into());
    let request = RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: 1,
        ..Default::default()
    };
    let reply = client.range(request).await.map_err(|error| failure::request(&error))?;
    if reply.kvs.is_empty() {
        return Ok(());
    }
    // etcd quotes the command in one of the two checks only.
    let mark = if quoted_hint { "'" } else { "" };
    let message = format!(
        "prefix {} has keys. Delete with {mark}etcdctl del --prefix {prefix}{mark} first",
        quote(prefix.as_bytes())
    );
    Err(Failure::new(Exit::InvalidInput, message))
}

/// Deletes what the check has written; returns the revision of that.
async fn delete_all(client: &Client, prefix: &str) -> Result<i64, Error> {
    let (key, range_end) = prefix_range(prefix.into());
    let request =
        DeleteRangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
    let reply = client.delete_range(request).await?;
    Ok(reply.header.map_or(0, |header| header.revision))
}

async fn compact(client: &Client, revision: i64) -> Result<(), Failure> {
    write_out(format!("Compacting with revision {revision}\n").as_bytes())?;
    let request = CompactionRequest { revision, physical: true };
    client.compact(request).await.map_err(|error| failure::request(&error))?;
    write_out(format!("Compacted with revision {revision}\n").as_bytes())
}

async fn defragment(session: &Session) -> Result<(), Failure> {
    for endpoint in session.endpoints() {
        let name = quote(endpoint.as_bytes());
        write_out(format!("Defragmenting {name}\n").as_bytes())?;
        let client = session.client_of(endpoint).map_err(|error| failure::request(&error))?;
        let client = client.without_timeout();
        client.defragment().await.map_err(|error| failure::request(&error))?;
        write_out(format!("Defragmented {name}\n").as_bytes())?;
    }
    Ok(())
}

/// Says which errors there were, and how often each.
fn report_errors(summary: &load::Summary) -> Result<(), Failure> {
    write_out(b"FAIL: too many errors\n")?;
    for (error, count) in &summary.errors {
        write_out(format!("FAIL: ERROR({error}) -> {count}\n").as_bytes())?;
    }
    Ok(())
}
