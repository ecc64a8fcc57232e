//! Random histories: a member that flushes, compacts, evicts and restarts at random times answers as the model does,
//! and has the same hashes as one that never touches its disk.

use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::compare::TargetUnion;
use retcd_api::etcdserverpb::request_op::Request;
use retcd_state_machine::mvcc::KeyValue;
use retcd_state_machine::watch::{History, HistoryError};
use retcd_state_machine::{Config, ReadError, Rejection, Response, check};

use super::member::{Member, request};
use super::model::{Change, Model};

#[derive(Debug, Clone)]
enum Step {
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    /// Compacts so far below the current revision.
    Compact(i64),
    Grant(i64),
    Revoke(i64),
    Range(pb::RangeRequest),
    Stream(pb::RangeRequest, usize),
    /// A transaction whose branches hold only these ranges.
    Read(pb::TxnRequest),
    Records(i64, usize),
    ValueAt(&'static str, i64),
    Hash(i64),
    Flush(usize, usize),
    CompactionWork(usize, usize),
    Evict(usize),
    Warm(usize),
    Restart,
}

fn key() -> impl Strategy<Value = &'static str> {
    select(&["a", "b", "ba", "bb", "c", "d"][..])
}

fn range_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 2 => Just("\0"), 4 => select(&["a", "b", "bb", "c", "e"][..])]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![5 => Just(0), 4 => select(&[1_i64, 2, -3][..])]
}

fn small_revision() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0), 4 => 1..16_i64, 1 => -2..0_i64]
}

fn put() -> impl Strategy<Value = pb::PutRequest> {
    let value = select(&["", "1", "2", "22"][..]);
    (key(), value, lease(), any::<bool>(), 0..8_u8).prop_map(
        |(key, value, lease, prev_kv, ignore)| {
            let (ignore_value, ignore_lease) =
                (ignore == 0 || ignore == 1, ignore == 1 || ignore == 2);
            pb::PutRequest {
                key: key.into(),
                value: if ignore_value { "".into() } else { value.into() },
                lease: if ignore_lease { 0 } else { lease },
                prev_kv,
                ignore_value,
                ignore_lease,
            }
        },
    )
}

fn delete() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| {
        pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv }
    })
}

fn range() -> impl Strategy<Value = pb::RangeRequest> {
    let bounds = prop_oneof![
        3 => Just([0; 4]),
        1 => [small_revision(), small_revision(), small_revision(), small_revision()],
    ];
    let flags = prop_oneof![4 => Just((false, false)), 2 => Just((true, false)), 1 => any::<(bool, bool)>()];
    (key(), range_end(), -1..4_i64, small_revision(), 0..3_i32, 0..5_i32, flags, bounds).prop_map(
        |(
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            (keys_only, count_only),
            bounds,
        )| {
            pb::RangeRequest {
                key: key.into(),
                range_end: range_end.into(),
                limit,
                revision,
                sort_order,
                sort_target,
                serializable: false,
                keys_only,
                count_only,
                min_mod_revision: bounds[0],
                max_mod_revision: bounds[1],
                min_create_revision: bounds[2],
                max_create_revision: bounds[3],
            }
        },
    )
}

fn compare() -> impl Strategy<Value = pb::Compare> {
    let number = 0..12_i64;
    let union = prop_oneof![
        2 => (0..3_i64).prop_map(|n| Some(TargetUnion::Version(n))),
        2 => number.clone().prop_map(|n| Some(TargetUnion::CreateRevision(n))),
        2 => number.prop_map(|n| Some(TargetUnion::ModRevision(n))),
        2 => select(&["", "1", "2"][..]).prop_map(|v| Some(TargetUnion::Value(v.into()))),
        1 => lease().prop_map(|n| Some(TargetUnion::Lease(n))),
        1 => Just(None),
    ];
    (0..5_i32, key(), range_end(), union, 0..12_i32).prop_map(
        |(result, key, range_end, target_union, odd)| {
            let target = match (odd, &target_union) {
                (0, _) => 7,
                (1, _) | (_, None | Some(TargetUnion::Value(_))) => 3,
                (_, Some(TargetUnion::Version(_))) => 0,
                (_, Some(TargetUnion::CreateRevision(_))) => 1,
                (_, Some(TargetUnion::ModRevision(_))) => 2,
                (_, Some(TargetUnion::Lease(_))) => 4,
            };
            pb::Compare {
                result,
                target,
                key: key.into(),
                range_end: range_end.into(),
                target_union,
            }
        },
    )
}

fn op() -> BoxedStrategy<pb::RequestOp> {
    let leaf = prop_oneof![
        2 => range().prop_map(Request::RequestRange),
        4 => put().prop_map(Request::RequestPut),
        2 => delete().prop_map(Request::RequestDeleteRange),
    ]
    .prop_map(|op| pb::RequestOp { request: Some(op) });
    leaf.prop_recursive(2, 8, 3, |inner| {
        txn_of(inner).prop_map(|txn| pb::RequestOp { request: Some(Request::RequestTxn(txn)) })
    })
    .boxed()
}

fn txn_of(op: BoxedStrategy<pb::RequestOp>) -> impl Strategy<Value = pb::TxnRequest> {
    use proptest::collection::vec;
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..3))
        .prop_map(|(compare, success, failure)| pb::TxnRequest { compare, success, failure })
}

fn step() -> impl Strategy<Value = Step> {
    let read_op = range()
        .prop_map(|range| pb::RequestOp { request: Some(Request::RequestRange(range)) })
        .boxed();
    prop_oneof![
        10 => put().prop_map(Step::Put),
        4 => delete().prop_map(Step::Delete),
        8 => txn_of(op()).prop_map(Step::Txn),
        2 => (-1..6_i64).prop_map(Step::Compact),
        3 => lease().prop_map(Step::Grant),
        1 => lease().prop_map(Step::Revoke),
        8 => range().prop_map(Step::Range),
        2 => (range(), 1..200_usize).prop_map(|(range, bytes)| Step::Stream(range, bytes)),
        3 => txn_of(read_op).prop_map(Step::Read),
        3 => (1..16_i64, 1..5_usize).prop_map(|(from, limit)| Step::Records(from, limit)),
        2 => (key(), 0..16_i64).prop_map(|(key, at)| Step::ValueAt(key, at)),
        2 => (0..16_i64).prop_map(Step::Hash),
        4 => (1..300_usize, 1..3_usize).prop_map(|(bytes, pieces)| Step::Flush(bytes, pieces)),
        4 => (1..4_usize, 1..6_usize).prop_map(|(records, steps)| Step::CompactionWork(records, steps)),
        2 => (1..8_usize).prop_map(Step::Evict),
        1 => (1..8_usize).prop_map(Step::Warm),
        2 => Just(Step::Restart),
    ]
}

/// The member under test, one that only applies, and the truth.
struct World {
    busy: Member,
    idle: Member,
    model: Model,
}

impl World {
    fn new(cache_bytes: usize) -> Self {
        let mut config = Config { quota_bytes: None, cache_bytes, ..Config::default() };
        config.lease.min_ttl_secs = 60;
        World { busy: Member::new(config.clone()), idle: Member::new(config), model: Model::new() }
    }

    fn propose<T: Message>(
        &mut self,
        expected: Result<(i64, T), Rejection>,
        set: impl FnOnce(&mut pb::InternalRaftRequest),
    ) {
        let request = request(set);
        let expected = expected.map(answer);
        assert_eq!(self.busy.propose(request.clone()), expected, "{request:?}");
        assert_eq!(self.idle.propose(request), expected);
        assert_eq!(self.busy.reader().revision(), self.model.revision);
        let expected = self.model.census(-1);
        assert_eq!(self.idle.reader().census(), expected);
        let busy = self.busy.reader().census();
        assert_eq!(
            (busy.live_versions, busy.live_bytes),
            (expected.live_versions, expected.live_bytes)
        );
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(put) => {
                let expected = self.model.put(&put);
                self.propose(expected, |request| request.put = Some(put));
            }
            Step::Delete(delete) => {
                let expected = Ok(self.model.delete(&delete));
                self.propose(expected, |request| request.delete_range = Some(delete));
            }
            Step::Txn(txn) => {
                if check::txn(&txn, 128).is_ok() {
                    let expected = self.model.txn(&txn);
                    self.propose(expected, |request| request.txn = Some(txn));
                }
            }
            Step::Compact(below) => {
                let compaction = pb::CompactionRequest {
                    revision: self.model.revision - below,
                    physical: false,
                };
                let expected = self.model.compact(compaction.revision);
                self.propose(expected, |request| request.compaction = Some(compaction));
            }
            Step::Grant(id) => {
                if id != 0 {
                    let expected = self.model.grant(id);
                    let grant = pb::LeaseGrantRequest { id, ttl: 60 };
                    self.propose(expected, |request| request.lease_grant = Some(grant));
                }
            }
            Step::Revoke(id) => {
                let expected = self.model.revoke(id);
                self.propose(expected, |request| {
                    request.lease_revoke = Some(pb::LeaseRevokeRequest { id });
                });
            }
            Step::Range(range) => self.range(&range),
            Step::Stream(range, chunk_bytes) => self.stream(&range, chunk_bytes),
            Step::Read(txn) => self.read(&txn),
            Step::Records(from, limit) => self.records(from, limit),
            Step::ValueAt(key, at) => self.value_at(key, at),
            Step::Hash(revision) => self.hash(revision),
            Step::Flush(max_bytes, pieces) => self.busy.flush(max_bytes, pieces),
            Step::CompactionWork(records, steps) => self.busy.compact(records, steps),
            Step::Evict(keys) => {
                self.busy.reader().evict(keys);
            }
            Step::Warm(keys) => {
                self.busy.reader().warm(keys).unwrap();
            }
            Step::Restart => self.busy.restart(),
        }
    }

    fn range(&self, range: &pb::RangeRequest) {
        let expected = self.model.range(range).map(answer);
        assert_eq!(rejected(self.busy.reader().range(range)), expected, "{range:?}");
        assert_eq!(rejected(self.idle.reader().range(range)), expected);
    }

    /// The chunks of a stream together are the answer of a range.
    fn stream(&self, range: &pb::RangeRequest, chunk_bytes: usize) {
        if check::range_stream(range).is_err() || range.limit < 0 {
            return;
        }
        let expected = self.model.range(range);
        let stream = match self.busy.reader().range_stream(range, chunk_bytes) {
            Ok(stream) => stream,
            Err(error) => return assert_eq!(rejected(Err::<(), _>(error)), expected.map(|_| ())),
        };
        let (revision, mut expected) = expected.unwrap();
        let chunks: Vec<_> = stream.map(Result::unwrap).collect();
        let mut merged = pb::RangeResponse::default();
        for (position, chunk) in chunks.iter().enumerate() {
            assert_eq!(chunk.is_last, position == chunks.len() - 1);
            assert_eq!(chunk.response.revision, revision);
            let part = pb::RangeResponse::decode(&chunk.response.body[..]).unwrap();
            assert!(chunk.is_last || (part.count == 0 && !part.more && !part.kvs.is_empty()));
            merged.kvs.extend(part.kvs);
            (merged.more, merged.count) = (part.more, part.count);
        }
        // A target without an order sorts each chunk for itself.
        merged.kvs.sort_by(|a, b| a.key.cmp(&b.key));
        if range.sort_target == 0 {
            expected.kvs.sort_by(|a, b| a.key.cmp(&b.key));
            assert_eq!(merged, expected);
        } else {
            assert_eq!((merged.count, merged.more), (expected.count, expected.more));
        }
    }

    fn read(&self, txn: &pb::TxnRequest) {
        let only_ranges = |ops: &[pb::RequestOp]| {
            let is_range =
                |op: &&pb::RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
            ops.iter().filter(is_range).cloned().collect()
        };
        let txn = pb::TxnRequest {
            compare: txn.compare.clone(),
            success: only_ranges(&txn.success),
            failure: only_ranges(&txn.failure),
        };
        assert!(check::is_read_only(&txn));
        let expected = self.model.clone().txn(&txn).map(answer);
        assert_eq!(rejected(self.busy.reader().txn_read_only(&txn)), expected, "{txn:?}");
    }

    /// Above the compaction the history is complete; below it is complete or refused.
    fn records(&self, from: i64, limit: usize) {
        let mut out = Vec::new();
        let next = match self.busy.reader().records(from, limit, &mut out) {
            Ok(next) => next,
            Err(HistoryError::Compacted(compacted)) => {
                assert_eq!(compacted, self.model.compacted);
                return assert!(from < compacted);
            }
            Err(HistoryError::Failure(failure)) => panic!("{failure}"),
        };
        if from > self.model.revision {
            return assert!(out.is_empty() && next == from);
        }
        assert!(next > from);
        let changes: Vec<Change> = out
            .iter()
            .map(|record| {
                let kv = retcd_api::mvccpb::KeyValue::decode(&record.kv[..]).unwrap();
                assert_eq!(KeyValue::decode(&record.kv).unwrap().key, &kv.key);
                let value = (!record.is_tombstone).then(|| kv.clone());
                (record.revision.main, kv.key.to_vec(), value)
            })
            .collect();
        let is_whole = |(main, _, _): &&Change| *main > self.model.compacted;
        let expected: Vec<_> =
            self.model.changes.iter().filter(|(main, ..)| (from..next).contains(main)).collect();
        assert_eq!(
            changes.iter().filter(is_whole).collect::<Vec<_>>(),
            expected.iter().copied().filter(is_whole).collect::<Vec<_>>()
        );
        let without_last =
            changes.iter().filter(|(main, ..)| Some(*main) != changes.last().map(|c| c.0)).count();
        assert!(without_last < limit, "at most one revision above the limit");
    }

    fn value_at(&self, key: &str, at: i64) {
        let found = self.busy.reader().value_at(key.as_bytes(), at).unwrap();
        let found = found.map(|kv| retcd_api::mvccpb::KeyValue::decode(&kv[..]).unwrap());
        let is_readable = at >= self.model.compacted.max(1);
        let expected = is_readable.then(|| self.model.state(at).remove(key.as_bytes())).flatten();
        assert_eq!(found, expected);
    }

    /// Members that compacted the same have the same hash, however much of the work is done.
    fn hash(&self, revision: i64) {
        let busy = rejected(self.busy.reader().hash_kv(revision));
        let idle = rejected(self.idle.reader().hash_kv(revision));
        match (busy, idle) {
            (Ok(busy), Ok(idle)) if busy.compact_revision != idle.compact_revision => {
                // A finished compaction answers with its own hash.
                assert!(
                    busy.compact_revision < idle.compact_revision && busy.hash_revision == revision
                );
            }
            (Err(_), Ok(_)) => panic!("the idle member finished no compaction"),
            // The hash of a finished compaction is kept beyond the next one.
            (Ok(busy), Err(Rejection::Compacted { .. })) => {
                assert_eq!(busy.hash_revision, revision);
            }
            (busy, idle) => assert_eq!(busy, idle),
        }
    }

    /// Everything that can be asked, asked.
    fn compare_all(&self) {
        for revision in self.model.compacted.max(0)..=self.model.revision {
            let everything = pb::RangeRequest {
                key: "a".into(),
                range_end: "\0".into(),
                revision,
                ..Default::default()
            };
            self.range(&everything);
            self.range(&pb::RangeRequest { limit: 1, ..everything.clone() });
            self.range(&pb::RangeRequest { keys_only: true, ..everything });
        }
        for id in [1, 2, -3] {
            let reader = self.busy.reader();
            let lessor = reader.lessor();
            let keys: Option<Vec<Vec<u8>>> =
                lessor.keys(id).map(|keys| keys.map(<[u8]>::to_vec).collect());
            assert_eq!(keys, self.model.lease_keys(id));
        }
        self.hash(0);
    }
}

fn answer<T: Message>((revision, message): (i64, T)) -> Response {
    Response { revision, body: message.encode_to_vec() }
}

fn rejected<T>(result: Result<T, ReadError>) -> Result<T, Rejection> {
    result.map_err(|error| match error {
        ReadError::Rejection(rejection) => rejection,
        ReadError::Failure(failure) => panic!("{failure}"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, max_shrink_iters: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn a_busy_member_answers_as_the_model(
        steps in proptest::collection::vec(step(), 1..40),
        cache_bytes in select(&[0_usize, 60, 1 << 20][..]),
    ) {
        let mut world = World::new(cache_bytes);
        for step in steps {
            world.step(step);
        }
        world.compare_all();
        // The same once more when everything is on disk, compacted and restarted.
        world.busy.flush_all();
        world.busy.compact(3, usize::MAX);
        world.compare_all();
        let expected = world.model.census(world.model.compacted);
        assert_eq!(world.busy.reader().census(), expected);
        world.busy.restart();
        world.compare_all();
        assert_eq!(world.busy.reader().census(), expected);
    }
}
