//! `get`: reads keys.

use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use retcd_api::etcdserverpb::{RangeRequest, RangeResponse};
use retcd_client::{from_key_range, prefix_range};

use super::{either_prefix_or_from_key, is_serializable, range_end_is_implied};
use crate::decode;
use crate::failure;
use crate::print::{Format, Printer, Reply, shown, write_out};
use crate::session::Session;
use retcd_command_line::{Action, Command, Flag, Flags, Invocation};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "[options] <key> [range_end]",
    short: "Gets the key or a range of keys",
    flags: &[
        super::CONSISTENCY,
        Flag::text("order", "", "order of the results: ASCEND or DESCEND (ASCEND if not given)")
            .one_of(&["ASCEND", "DESCEND"]),
        Flag::text("sort-by", "", "what to sort by: CREATE, KEY, MODIFY, VALUE or VERSION")
            .one_of(&["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]),
        Flag::int("limit", "most results to return"),
        Flag::bool("prefix", "get the keys that begin with <key>"),
        Flag::bool("from-key", "get the keys from <key> on, in byte order"),
        Flag::int("rev", "revision to read at"),
        Flag::bool("keys-only", "get keys without values"),
        Flag::bool("count-only", "get only the number of keys"),
        Flag::bool("print-value-only", "print values without keys (simple format only)"),
        Flag::bool("decode", "lay out JSON, and dump values that are no text (simple format only)"),
        Flag::bool("stream", "receive the results in pieces (RangeStream)"),
        Flag::int("min-create-rev", "lowest create revision"),
        Flag::int("max-create-rev", "highest create revision"),
        Flag::int("min-mod-rev", "lowest modification revision"),
        Flag::int("max-mod-rev", "highest modification revision"),
    ],
    ..Command::new("get", "kv", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let flags = &invocation.flags;
    let request = request(flags, &invocation.args)?;
    let session = Session::open(invocation)?;
    let client = session.client();
    let reply = session.block_on(async {
        if flags.bool("stream") {
            client.range_stream(request).await?.collect().await
        } else {
            client.range(request).await
        }
    });
    let reply = reply.map_err(|error| failure::request(&error))?;
    let printer = printer(flags, session.printer)?;
    if flags.bool("decode") {
        return print_decoded(&reply, printer);
    }
    printer.print(&Reply::Range(&reply))
}

/// As the simple format, with values laid out for people.
fn print_decoded(reply: &RangeResponse, printer: Printer) -> Result<(), Failure> {
    let Format::Simple { values_only } = printer.format else {
        return Err(Failure::bad_args("--decode is only for `--write-out=simple`"));
    };
    for kv in &reply.kvs {
        if !values_only {
            write_out(format!("{}\n", shown(&kv.key)).as_bytes())?;
        }
        write_out(format!("{}\n", decode::readable(&kv.value)).as_bytes())?;
    }
    Ok(())
}

/// Some flags only make sense with one format. etcdctl finds out once it has the reply, and so do we.
fn printer(flags: &Flags, printer: Printer) -> Result<Printer, Failure> {
    if flags.bool("count-only") && printer.format != Format::Fields {
        return Err(Failure::bad_args("--count-only is only for `--write-out=fields`"));
    }
    if !flags.bool("print-value-only") {
        return Ok(printer);
    }
    match printer.format {
        Format::Simple { .. } => {
            Ok(Printer { format: Format::Simple { values_only: true }, ..printer })
        }
        Format::Fields | Format::Json | Format::Protobuf | Format::Table => {
            Err(Failure::bad_args("print-value-only is only for `--write-out=simple`"))
        }
    }
}

/// Reads the arguments of `get`, here or in a line of `txn`.
pub(super) fn request(flags: &Flags, args: &[Vec<u8>]) -> Result<RangeRequest, Failure> {
    let Some(key) = args.first() else {
        return Err(Failure::bad_args(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    };
    let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    if prefix && from_key {
        return Err(either_prefix_or_from_key());
    }
    if flags.bool("keys-only") && flags.bool("count-only") {
        return Err(Failure::bad_args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let serializable = is_serializable(flags.text("consistency"))?;
    let (key, range_end) = match args.get(1) {
        Some(_) if prefix || from_key => return Err(range_end_is_implied()),
        Some(range_end) => (key.clone(), range_end.clone()),
        None if prefix => prefix_range(key.clone()),
        None if from_key => from_key_range(key.clone()),
        None => (key.clone(), Vec::new()),
    };
    let target = sort_target(flags.text("sort-by"))?;
    let mut order = sort_order(flags.text("order"))?;
    // Keys come in ascending order by themselves.
    if target == SortTarget::Key && order == SortOrder::Ascend {
        order = SortOrder::None;
    }
    let (min_create_revision, max_create_revision) =
        revisions(flags, "min-create-rev", "max-create-rev")?;
    let (min_mod_revision, max_mod_revision) = revisions(flags, "min-mod-rev", "max-mod-rev")?;
    Ok(RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: flags.int("limit"),
        revision: flags.int("rev").max(0),
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: flags.bool("keys-only"),
        count_only: flags.bool("count-only"),
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    })
}

fn sort_order(text: &str) -> Result<SortOrder, Failure> {
    match text.to_uppercase().as_str() {
        "" => Ok(SortOrder::None),
        "ASCEND" => Ok(SortOrder::Ascend),
        "DESCEND" => Ok(SortOrder::Descend),
        _ => Err(Failure::new(Exit::BadFeature, format!("bad sort order {text}"))),
    }
}

fn sort_target(text: &str) -> Result<SortTarget, Failure> {
    match text.to_uppercase().as_str() {
        "" | "KEY" => Ok(SortTarget::Key),
        "CREATE" => Ok(SortTarget::Create),
        "MODIFY" => Ok(SortTarget::Mod),
        "VALUE" => Ok(SortTarget::Value),
        "VERSION" => Ok(SortTarget::Version),
        _ => Err(Failure::new(Exit::BadFeature, format!("bad sort target {text}"))),
    }
}

/// Reads the two ends of a range of revisions; 0 and below mean no end.
fn revisions(flags: &Flags, min: &str, max: &str) -> Result<(i64, i64), Failure> {
    let (low, high) = (flags.int(min).max(0), flags.int(max).max(0));
    if high > 0 && low > high {
        return Err(Failure::new(Exit::BadFeature, format!("--{min}(={low}) > --{max}(={high})")));
    }
    Ok((low, high))
}
