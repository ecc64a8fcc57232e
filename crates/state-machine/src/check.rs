//! What can be said about a request without looking at the state: checked before it is proposed.

use std::collections::{BTreeMap, BTreeSet};

use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::request_op::Request;

use crate::rejection::Rejection;

/// Static checks of a range request.
pub fn range(request: &pb::RangeRequest) -> Result<(), Rejection> {
    if request.key.is_empty() {
        return Err(Rejection::EmptyKey);
    }
    let has_known_order = pb::range_request::SortOrder::try_from(request.sort_order).is_ok();
    let has_known_target = pb::range_request::SortTarget::try_from(request.sort_target).is_ok();
    if has_known_order && has_known_target { Ok(()) } else { Err(Rejection::InvalidSortOption) }
}

/// Static checks of a streamed range request.
pub fn range_stream(request: &pb::RangeRequest) -> Result<(), Rejection> {
    use pb::range_request::{SortOrder, SortTarget};

    range(request)?;
    let is_key_order = match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    if !is_key_order {
        return Err(Rejection::StreamCustomSort);
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters.iter().any(|&revision| revision != 0) {
        return Err(Rejection::StreamRevisionFilter);
    }
    Ok(())
}

/// Static checks of a put request.
pub fn put(request: &pb::PutRequest) -> Result<(), Rejection> {
    if request.key.is_empty() {
        return Err(Rejection::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Rejection::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Rejection::LeaseProvided);
    }
    Ok(())
}

/// Static checks of a delete request.
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), Rejection> {
    if request.key.is_empty() { Err(Rejection::EmptyKey) } else { Ok(()) }
}

/// Static checks of a transaction and of all that is nested in it.
///
/// `ops_max` is the limit for the longest of its three lists; what the longest uses is missing to the transactions
/// nested in it.
pub fn txn(request: &pb::TxnRequest, ops_max: usize) -> Result<(), Rejection> {
    txn_ops(request, ops_max, ops_max)?;
    // After the count, so that the overlap check has a bounded amount of work.
    Writes::of(&request.success)?;
    Writes::of(&request.failure)?;
    Ok(())
}

fn txn_ops(request: &pb::TxnRequest, ops_max: usize, limit: usize) -> Result<(), Rejection> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = ops_max.checked_sub(ops) else { return Err(Rejection::TooManyOps { limit }) };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Rejection::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(inner)) => range(inner)?,
            Some(Request::RequestPut(inner)) => put(inner)?,
            Some(Request::RequestDeleteRange(inner)) => delete_range(inner)?,
            Some(Request::RequestTxn(inner)) => txn_ops(inner, left, limit)?,
            None => return Err(Rejection::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that one branch of a transaction writes, nested transactions included.
///
/// Built the way etcd does, since what it lets pass is contract: deletes of a level are known before its nested
/// transactions and puts are looked at, nested deletes only to what comes behind them. So a nested put may be followed
/// by a nested delete of the same key, but not the other way round. A delete up to the end of the key space
/// (`range_end` of one zero byte) covers nothing here.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

impl<'a> Writes<'a> {
    fn of(ops: &'a [pb::RequestOp]) -> Result<Self, Rejection> {
        let mut writes = Writes::default();
        for op in ops {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                writes.deletes.insert(&delete.key, &delete.range_end);
            }
        }
        for op in ops {
            if let Some(Request::RequestTxn(txn)) = &op.request {
                writes.add_nested(Self::of(&txn.success)?, Self::of(&txn.failure)?)?;
            }
        }
        for op in ops {
            if let Some(Request::RequestPut(put)) = &op.request {
                writes.add_put(&put.key)?;
            }
        }
        Ok(writes)
    }

    /// Only one of the two branches will run, so they may share keys with each other but not with anything else.
    fn add_nested(&mut self, success: Self, failure: Self) -> Result<(), Rejection> {
        for key in &success.puts {
            self.add_put(key)?;
        }
        for key in &failure.puts {
            if !success.puts.contains(key) {
                self.add_put(key)?;
            }
        }
        self.deletes.merge(success.deletes);
        self.deletes.merge(failure.deletes);
        Ok(())
    }

    fn add_put(&mut self, key: &'a [u8]) -> Result<(), Rejection> {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(Rejection::DuplicateKey);
        }
        Ok(())
    }
}

/// A set of keys made of ranges that neither touch nor overlap, by their first key. The second bound is included when
/// the flag says so, which only single keys need.
#[derive(Default)]
struct Intervals<'a> {
    by_start: BTreeMap<&'a [u8], Bound<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bound<'a> {
    key: &'a [u8],
    is_included: bool,
}

impl<'a> Intervals<'a> {
    fn insert(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        if range_end.is_empty() {
            self.insert_bound(key, Bound { key, is_included: true });
        } else if range_end > key {
            self.insert_bound(key, Bound { key: range_end, is_included: false });
        }
    }

    fn insert_bound(&mut self, mut start: &'a [u8], mut end: Bound<'a>) {
        if let Some((&before, &bound)) = self.by_start.range(..=start).next_back()
            && bound.key >= start
        {
            start = before;
            end = end.max(bound);
        }
        while let Some((&inside, &bound)) = self.by_start.range(start..=end.key).next() {
            end = end.max(bound);
            self.by_start.remove(inside);
        }
        self.by_start.insert(start, end);
    }

    fn merge(&mut self, other: Self) {
        for (start, end) in other.by_start {
            self.insert_bound(start, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.by_start
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()
            .is_some_and(|(_, end)| key < end.key || (end.is_included && key == end.key))
    }
}

/// Whether the transaction need not go through the log: both branches hold only ranges.
pub fn is_read_only(request: &pb::TxnRequest) -> bool {
    all_ops(request, |_| true)
}

/// Whether a read-only transaction may be answered from local state: every range in it is serializable.
pub fn is_serializable(request: &pb::TxnRequest) -> bool {
    all_ops(request, |range| range.serializable)
}

fn all_ops(request: &pb::TxnRequest, holds: impl Fn(&pb::RangeRequest) -> bool) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => holds(range),
        _ => false,
    })
}

/// Bytes that a request is taken to add to the backend, compared with the quota. 0 always fits.
pub mod charge {
    use super::{Request, pb};

    /// What a lease grant is taken to add.
    pub const LEASE_GRANT: u64 = 64;
    /// What a put is taken to add beside its key and value.
    const PUT_OVERHEAD: u64 = 256;

    pub fn put(request: &pb::PutRequest) -> u64 {
        PUT_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
    }

    /// The larger of the two branches, nested transactions included.
    pub fn txn(request: &pb::TxnRequest) -> u64 {
        ops(&request.success).max(ops(&request.failure))
    }

    fn ops(ops: &[pb::RequestOp]) -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(inner)) => put(inner),
                Some(Request::RequestTxn(inner)) => txn(inner),
                Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_op(key: &str) -> pb::RequestOp {
        let put = pb::PutRequest { key: key.as_bytes().to_vec().into(), ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete_op(key: &str, end: &str) -> pb::RequestOp {
        let delete = pb::DeleteRangeRequest {
            key: key.as_bytes().to_vec().into(),
            range_end: end.as_bytes().to_vec().into(),
            prev_kv: false,
        };
        pb::RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn nested(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        let txn = pb::TxnRequest { compare: Vec::new(), success, failure };
        pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    fn check(success: Vec<pb::RequestOp>) -> Result<(), Rejection> {
        txn(&pb::TxnRequest { compare: Vec::new(), success, failure: Vec::new() }, 128)
    }

    const DUPLICATE: Result<(), Rejection> = Err(Rejection::DuplicateKey);

    #[test]
    fn a_key_is_put_once_per_branch() {
        assert_eq!(check(vec![put_op("a"), put_op("b")]), Ok(()));
        assert_eq!(check(vec![put_op("a"), put_op("a")]), DUPLICATE);
        assert_eq!(check(vec![nested(vec![put_op("a")], vec![]), put_op("a")]), DUPLICATE);
        assert_eq!(check(vec![nested(vec![put_op("a")], vec![put_op("a")])]), Ok(()));
        let siblings = vec![nested(vec![put_op("a")], vec![]), nested(vec![], vec![put_op("a")])];
        assert_eq!(check(siblings), DUPLICATE);
    }

    #[test]
    fn a_delete_covers_puts_of_its_level_and_below() {
        assert_eq!(check(vec![put_op("b"), delete_op("a", "c")]), DUPLICATE);
        assert_eq!(check(vec![put_op("c"), delete_op("a", "c")]), Ok(()));
        assert_eq!(check(vec![delete_op("a", "")]), Ok(()));
        assert_eq!(check(vec![put_op("a"), delete_op("a", "")]), DUPLICATE);
        assert_eq!(check(vec![put_op("b"), delete_op("b", "\0")]), Ok(()));
        assert_eq!(check(vec![put_op("b"), delete_op("c", "a")]), Ok(()));
        assert_eq!(check(vec![put_op("b"), nested(vec![delete_op("b", "")], vec![])]), DUPLICATE);
        assert_eq!(check(vec![delete_op("b", ""), nested(vec![put_op("b")], vec![])]), DUPLICATE);
        assert_eq!(check(vec![delete_op("a", "c"), delete_op("b", "d"), put_op("d")]), Ok(()));
        assert_eq!(check(vec![delete_op("b", "d"), delete_op("a", "c"), put_op("c")]), DUPLICATE);
    }

    #[test]
    fn nested_put_then_delete_passes_but_not_the_other_way_round() {
        let put = || nested(vec![put_op("k")], vec![]);
        let delete = || nested(vec![delete_op("k", "")], vec![]);
        assert_eq!(check(vec![put(), delete()]), Ok(()));
        assert_eq!(check(vec![delete(), put()]), DUPLICATE);
    }

    #[test]
    fn nested_transactions_get_what_their_parent_leaves() {
        let inner = nested(vec![put_op("a"), put_op("b")], vec![]);
        let outer = pb::TxnRequest { success: vec![inner], ..Default::default() };
        assert_eq!(txn(&outer, 3), Ok(()));
        assert_eq!(txn(&outer, 2), Err(Rejection::TooManyOps { limit: 2 }));
        let empty = pb::TxnRequest { success: vec![nested(vec![], vec![])], ..Default::default() };
        assert_eq!(txn(&empty, 1), Ok(()));
    }

    #[test]
    fn an_operation_must_be_set_and_name_a_key() {
        assert_eq!(check(vec![pb::RequestOp { request: None }]), Err(Rejection::KeyNotFound));
        assert_eq!(check(vec![put_op("")]), Err(Rejection::EmptyKey));
        let compare =
            pb::TxnRequest { compare: vec![pb::Compare::default()], ..Default::default() };
        assert_eq!(txn(&compare, 128), Err(Rejection::EmptyKey));
    }

    #[test]
    fn a_transaction_is_charged_for_its_larger_branch() {
        let txn = pb::TxnRequest {
            compare: Vec::new(),
            success: vec![put_op("a"), delete_op("b", "")],
            failure: vec![nested(vec![put_op("abc"), put_op("abcd")], vec![])],
        };
        assert_eq!(charge::txn(&txn), 256 + 3 + 256 + 4);
        let deletes = pb::TxnRequest { success: vec![delete_op("b", "")], ..Default::default() };
        assert_eq!(charge::txn(&deletes), 0);
    }

    #[test]
    fn reads_are_told_from_writes() {
        let range = |serializable| pb::RequestOp {
            request: Some(Request::RequestRange(pb::RangeRequest {
                serializable,
                ..Default::default()
            })),
        };
        let txn = |ops| pb::TxnRequest { success: ops, ..Default::default() };
        assert!(
            is_read_only(&txn(vec![range(false)])) && !is_serializable(&txn(vec![range(false)]))
        );
        assert!(is_serializable(&txn(vec![range(true)])) && is_serializable(&txn(vec![])));
        assert!(!is_read_only(&txn(vec![nested(vec![], vec![])])));
    }
}
