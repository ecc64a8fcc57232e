//! Readers beside a writer and a storage thread: every answer is one state, however long its walk took.

use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::request_op::Request;
use retcd_api::mvccpb::KeyValue;
use retcd_state_machine::{Config, ReadError, Reader, Rejection};

use super::member::{Member, request};

/// Far more than a reader looks at in one go.
const KEYS: usize = 500;
const ROUNDS: usize = 150;

#[test]
fn an_answer_is_one_state() {
    let config = Config { cache_bytes: 4_000, quota_bytes: None, ..Config::default() };
    let mut member = Member::new(config);
    write_round(&mut member, 0);
    let reader = member.reader();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: [Read; 4] = [read_ranges, read_old_ranges, read_streams, read_txns];
        let readers = readers.map(|read| {
            let (reader, is_over) = (reader.clone(), &is_over);
            scope.spawn(move || read_until(is_over, read, &reader))
        });
        // Also when the writer fails: the readers would never end.
        let stop = Stop(&is_over);
        for round in 1..ROUNDS {
            write_round(&mut member, round);
            if round % 3 == 0 {
                let revision = member.reader().revision();
                let compaction = pb::CompactionRequest { revision, physical: false };
                member.propose(request(|request| request.compaction = Some(compaction))).unwrap();
            }
            member.flush(10_000, 2);
            member.compact(100, 4);
            member.reader().evict(200);
        }
        drop(stop);
        for reader in readers {
            assert!(reader.join().unwrap() > 0, "every reader got an answer");
        }
    });
}

type Read = fn(&Reader) -> Option<Vec<KeyValue>>;

/// Ends the readers when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gives all keys the same new value in one transaction; every other round deletes them first.
fn write_round(member: &mut Member, round: usize) {
    let op = |request| pb::RequestOp { request: Some(request) };
    let delete = pb::DeleteRangeRequest { key: "k".into(), range_end: "\0".into(), prev_kv: false };
    let mut ops = Vec::new();
    if round % 2 == 1 {
        ops.push(op(Request::RequestDeleteRange(delete)));
    }
    ops.extend((0..KEYS).map(|number| {
        op(Request::RequestPut(pb::PutRequest {
            key: format!("k{number:05}").into(),
            value: format!("round {round}").into(),
            ..Default::default()
        }))
    }));
    let txn = pb::TxnRequest { success: ops, ..Default::default() };
    member.propose(request(|request| request.txn = Some(txn))).unwrap();
}

/// Reads until told to stop, and at least once; returns how many answers were no refusal.
fn read_until(
    is_over: &AtomicBool,
    read: fn(&Reader) -> Option<Vec<KeyValue>>,
    reader: &Reader,
) -> usize {
    let mut answers = 0;
    let mut last = 0;
    while !is_over.load(Ordering::Relaxed) || answers == 0 {
        let Some(kvs) = read(reader) else { continue };
        assert_eq!(kvs.len(), KEYS);
        assert!(kvs.windows(2).all(|pair| pair[0].key < pair[1].key));
        assert!(
            kvs.iter().all(|kv| kv.value == kvs[0].value && kv.mod_revision == kvs[0].mod_revision)
        );
        assert!(kvs[0].mod_revision + 1 >= last, "the state does not go back");
        last = kvs[0].mod_revision;
        answers += 1;
    }
    answers
}

fn everything() -> pb::RangeRequest {
    pb::RangeRequest { key: "k".into(), range_end: "\0".into(), ..Default::default() }
}

#[expect(clippy::unnecessary_wraps, reason = "all readers have one type")]
fn read_ranges(reader: &Reader) -> Option<Vec<KeyValue>> {
    let response = reader.range(&everything()).unwrap();
    let answer = pb::RangeResponse::decode(&response.body[..]).unwrap();
    assert_eq!(answer.count, KEYS as i64);
    assert_eq!(answer.kvs[0].mod_revision, response.revision);
    Some(answer.kvs)
}

fn read_old_ranges(reader: &Reader) -> Option<Vec<KeyValue>> {
    let revision = (reader.revision() - 1).max(2);
    let response = accepted(reader.range(&pb::RangeRequest { revision, ..everything() }))?;
    let answer = pb::RangeResponse::decode(&response.body[..]).unwrap();
    assert_eq!((answer.count, answer.kvs[0].mod_revision), (KEYS as i64, revision));
    Some(answer.kvs)
}

fn read_streams(reader: &Reader) -> Option<Vec<KeyValue>> {
    let mut kvs = Vec::new();
    for chunk in accepted(reader.range_stream(&everything(), 1_000))? {
        kvs.extend(pb::RangeResponse::decode(&accepted(chunk)?.response.body[..]).unwrap().kvs);
    }
    Some(kvs)
}

/// A compare over all keys and a range see the same state.
fn read_txns(reader: &Reader) -> Option<Vec<KeyValue>> {
    let range = pb::RequestOp { request: Some(Request::RequestRange(everything())) };
    let compare = pb::Compare {
        key: "k".into(),
        range_end: "\0".into(),
        // Greater than version 0: each key exists.
        result: 1,
        ..Default::default()
    };
    let txn = pb::TxnRequest { compare: vec![compare], success: vec![range], failure: Vec::new() };
    let response = reader.txn_read_only(&txn).unwrap();
    let mut answer = pb::TxnResponse::decode(&response.body[..]).unwrap();
    assert!(answer.succeeded);
    match answer.responses.pop()?.response? {
        pb::response_op::Response::ResponseRange(range) => Some(range.kvs),
        other => panic!("{other:?}"),
    }
}

/// A compaction may overtake an old revision; nothing else may go wrong.
fn accepted<T>(result: Result<T, ReadError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(ReadError::Rejection(Rejection::Compacted { .. })) => None,
        Err(error) => panic!("{error}"),
    }
}
