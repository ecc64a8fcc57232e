//! Transactions: compares on the state before, then the operations of one branch.
//!
//! A transaction goes in three steps, each over all that is nested in it. Compares choose the path; the operations on
//! the path are checked; then they run. Nothing is written before everything is known to succeed.

use std::cmp::Ordering;

use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use retcd_api::etcdserverpb::request_op::Request;

use super::key_range::KeyRange;
use super::kv;
use super::range::{Halt, Query, Scan, Show, View, decode};
use super::write::{Writer, fault};
use crate::backend::Failure;
use crate::rejection::Rejection;

/// Which branch every transaction on the way takes, outer before inner and earlier before later.
pub(crate) type Path = Vec<bool>;

/// Evaluates all compares on the way, nested ones too, at main revision `at`.
pub(crate) fn path(view: &impl View, at: i64, txn: &pb::TxnRequest) -> Result<Path, Halt> {
    let mut path = Path::new();
    extend_path(view, at, txn, &mut path)?;
    Ok(path)
}

fn extend_path(
    view: &impl View,
    at: i64,
    txn: &pb::TxnRequest,
    path: &mut Path,
) -> Result<(), Halt> {
    let mut succeeds = true;
    for compare in &txn.compare {
        if !holds(view, at, compare)? {
            succeeds = false;
            break;
        }
    }
    path.push(succeeds);
    for op in branch(txn, succeeds) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            extend_path(view, at, nested, path)?;
        }
    }
    Ok(())
}

fn branch(txn: &pb::TxnRequest, succeeds: bool) -> &[pb::RequestOp] {
    if succeeds { &txn.success } else { &txn.failure }
}

/// Whether every key of the compare's range satisfies it. Without any key the numbers compare as 0, and a value
/// compares as false whatever the operator.
fn holds(view: &impl View, at: i64, compare: &pb::Compare) -> Result<bool, Halt> {
    let target = CompareTarget::try_from(compare.target).ok();
    let show = match target {
        Some(CompareTarget::Value | CompareTarget::Lease) => Show::Records,
        Some(CompareTarget::Version | CompareTarget::Create | CompareTarget::Mod) | None => {
            Show::Meta
        }
    };
    let mut scan = Scan::new(KeyRange::new(&compare.key, &compare.range_end), at, show);
    view.scan(&mut scan)?;
    if scan.items.is_empty() {
        return Ok(target != Some(CompareTarget::Value)
            && is_satisfied(compare, 0.cmp(&number(compare, target))));
    }
    match target {
        Some(CompareTarget::Value | CompareTarget::Lease) => {
            scan.fetch(view, |_| true)?;
            for record in scan.into_records() {
                let kv = decode(&record)?;
                let order = match target {
                    Some(CompareTarget::Value) => kv.value.cmp(value(compare)),
                    _ => kv.lease.cmp(&number(compare, target)),
                };
                if !is_satisfied(compare, order) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Some(CompareTarget::Version | CompareTarget::Create | CompareTarget::Mod) | None => {
            scan.fetch(view, |item| !item.has_numbers())?;
            Ok(scan.items.iter().all(|item| {
                let found = match target {
                    Some(CompareTarget::Version) => item.version(),
                    Some(CompareTarget::Create) => item.create_revision(),
                    Some(CompareTarget::Mod) => item.mod_revision(),
                    // An unknown target compares as equal.
                    _ => number(compare, target),
                };
                is_satisfied(compare, found.cmp(&number(compare, target)))
            }))
        }
    }
}

/// The number to compare with; 0 when the union holds something else than the target asks for.
fn number(compare: &pb::Compare, target: Option<CompareTarget>) -> i64 {
    match (target, &compare.target_union) {
        (Some(CompareTarget::Version), Some(TargetUnion::Version(number)))
        | (Some(CompareTarget::Create), Some(TargetUnion::CreateRevision(number)))
        | (Some(CompareTarget::Mod), Some(TargetUnion::ModRevision(number)))
        | (Some(CompareTarget::Lease), Some(TargetUnion::Lease(number))) => *number,
        _ => 0,
    }
}

fn value(compare: &pb::Compare) -> &[u8] {
    match &compare.target_union {
        Some(TargetUnion::Value(value)) => value,
        _ => &[],
    }
}

/// An unknown operator is satisfied.
fn is_satisfied(compare: &pb::Compare, order: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

/// The revision rule of ranges in transactions. It differs from that of plain ranges: before any compaction -1 is
/// current and lower numbers are compacted, later every negative number is.
fn check_range(requested: i64, current: i64, compacted: i64) -> Result<(), Rejection> {
    if requested > current {
        return Err(Rejection::FutureRevision { requested, current });
    }
    if requested != 0 && requested < compacted {
        return Err(Rejection::Compacted { requested, compacted });
    }
    Ok(())
}

/// Checks the operations on the path, on the state before the transaction.
fn check(
    writer: &Writer<'_>,
    txn: &pb::TxnRequest,
    path: &mut impl Iterator<Item = bool>,
) -> Result<(), Rejection> {
    for op in branch(txn, path.next().unwrap_or_default()) {
        match &op.request {
            Some(Request::RequestRange(range)) => {
                check_range(range.revision, writer.store().revision, writer.store().compacted)?;
            }
            Some(Request::RequestPut(put)) => check_put(writer, put)?,
            Some(Request::RequestTxn(nested)) => check(writer, nested, path)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

/// What a put needs of the state: its lease, and its key when something of the old value is to stay.
pub(crate) fn check_put(writer: &Writer<'_>, put: &pb::PutRequest) -> Result<(), Rejection> {
    if !writer.lease_exists(put.lease) {
        return Err(Rejection::LeaseNotFound(put.lease));
    }
    let needs_key = put.ignore_value || put.ignore_lease;
    if needs_key && !writer.store().index.get(&put.key).is_some_and(super::index::Entry::is_live) {
        return Err(Rejection::KeyNotFound);
    }
    Ok(())
}

/// Runs a transaction. The body is built when it is `wanted`.
pub(crate) fn apply(
    writer: &mut Writer<'_>,
    txn: &pb::TxnRequest,
    wanted: bool,
) -> Result<Result<Vec<u8>, Rejection>, Failure> {
    let path = path(writer, writer.reached(), txn).map_err(fault)?;
    if let Err(rejection) = check(writer, txn, &mut path.iter().copied()) {
        return Ok(Err(rejection));
    }
    let mut body = Vec::new();
    run(writer, txn, &mut path.iter().copied(), wanted.then_some(&mut body))?;
    Ok(Ok(body))
}

/// Runs one branch and appends `TxnResponse` without its header.
fn run(
    writer: &mut Writer<'_>,
    txn: &pb::TxnRequest,
    path: &mut impl Iterator<Item = bool>,
    mut out: Option<&mut Vec<u8>>,
) -> Result<(), Failure> {
    let succeeds = path.next().unwrap_or_default();
    if let Some(out) = &mut out {
        kv::put_int64(2, i64::from(succeeds), out);
    }
    for op in branch(txn, succeeds) {
        let mut response = Vec::new();
        let tag = run_op(writer, op, path, out.is_some().then_some(&mut response))?;
        if let Some(out) = &mut out {
            kv::put_nested(3, out, |op| kv::put_message(tag, &response, op));
        }
    }
    Ok(())
}

/// Runs one operation and appends its answer with its header. Returns the number of its field in `ResponseOp`.
fn run_op(
    writer: &mut Writer<'_>,
    op: &pb::RequestOp,
    path: &mut impl Iterator<Item = bool>,
    out: Option<&mut Vec<u8>>,
) -> Result<u32, Failure> {
    match &op.request {
        Some(Request::RequestRange(request)) => {
            if let Some(out) = out {
                put_header(writer.reached(), out);
                range(writer, writer.reached(), request, out).map_err(fault)?;
            }
            Ok(1)
        }
        Some(Request::RequestPut(request)) => {
            let mut body = Vec::new();
            put(writer, request, &mut body)?;
            if let Some(out) = out {
                put_header(writer.reached(), out);
                out.append(&mut body);
            }
            Ok(2)
        }
        Some(Request::RequestDeleteRange(request)) => {
            let mut body = Vec::new();
            delete_range(writer, request, &mut body)?;
            if let Some(out) = out {
                put_header(writer.reached(), out);
                out.append(&mut body);
            }
            Ok(3)
        }
        Some(Request::RequestTxn(nested)) => {
            match out {
                Some(out) => {
                    // The header of a nested transaction is there, and empty.
                    kv::put_message(1, &[], out);
                    run(writer, nested, path, Some(out))?;
                }
                None => run(writer, nested, path, None)?,
            }
            Ok(4)
        }
        None => Err(Failure::new("an operation of a transaction in the log is not set")),
    }
}

/// Headers inside a transaction hold only the revision.
fn put_header(revision: i64, out: &mut Vec<u8>) {
    kv::put_nested(1, out, |header| kv::put_int64(3, revision, header));
}

/// Appends `RangeResponse` without header. The requested revision was checked.
fn range(
    view: &impl View,
    current: i64,
    request: &pb::RangeRequest,
    out: &mut Vec<u8>,
) -> Result<(), Halt> {
    let query = Query::new(request);
    let at = if request.revision > 0 { request.revision } else { current };
    query.answer(view, at, out)
}

/// Puts a key that [`check_put`] let pass, and appends `PutResponse` without header.
pub(crate) fn put(
    writer: &mut Writer<'_>,
    request: &pb::PutRequest,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    if !(request.prev_kv || request.ignore_value || request.ignore_lease) {
        writer.put(&request.key, &request.value, request.lease);
        return Ok(());
    }
    let previous = writer.current(&request.key)?;
    // An earlier operation of the transaction may have deleted the key: then there is nothing to keep.
    let old = previous.as_deref().map(decode).transpose()?.unwrap_or_default();
    let value = if request.ignore_value { old.value } else { &request.value };
    let lease = if request.ignore_lease { old.lease } else { request.lease };
    writer.put(&request.key, value, lease);
    if let Some(previous) = previous.as_deref().filter(|_| request.prev_kv) {
        kv::put_message(2, previous, out);
    }
    Ok(())
}

/// Deletes a range and appends `DeleteRangeResponse` without header.
pub(crate) fn delete_range(
    writer: &mut Writer<'_>,
    request: &pb::DeleteRangeRequest,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let range = KeyRange::new(&request.key, &request.range_end);
    let previous = if request.prev_kv { writer.records(range)? } else { Vec::new() };
    let deleted = i64::try_from(writer.delete(range)).expect("keys fit into memory");
    kv::put_int64(2, deleted, out);
    for record in &previous {
        kv::put_message(3, record, out);
    }
    Ok(())
}

/// Answers a transaction of ranges only, at main revision `current`: `TxnResponse` without header.
pub(crate) fn read_only(
    view: &impl View,
    current: i64,
    compacted: i64,
    txn: &pb::TxnRequest,
) -> Result<Vec<u8>, Halt> {
    let succeeds = path(view, current, txn)?.first().copied().unwrap_or_default();
    let ranges = branch(txn, succeeds).iter().filter_map(|op| match &op.request {
        Some(Request::RequestRange(range)) => Some(range),
        _ => None,
    });
    for request in ranges.clone() {
        check_range(request.revision, current, compacted)?;
    }
    let mut body = Vec::new();
    kv::put_int64(2, i64::from(succeeds), &mut body);
    for request in ranges {
        let mut response = Vec::new();
        put_header(current, &mut response);
        range(view, current, request, &mut response)?;
        kv::put_nested(3, &mut body, |op| kv::put_message(1, &response, op));
    }
    Ok(body)
}
