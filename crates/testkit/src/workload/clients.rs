//! Clients that read and write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::request_op::Request;
use retcd_api::etcdserverpb::response_op::Response;
use retcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest,
};
use tonic::Status;
use tonic::transport::Channel;

use super::Shared;
use retcd_checkers::Dice;
use retcd_checkers::history::{Answer, Op, Outcome, Record, Version};

/// Few, so that operations collide; all under one prefix, so that a watcher can see them all.
pub(super) const KEYS: [&str; 5] = ["k/0", "k/1", "k/2", "k/3", "k/4"];

/// Pause after an operation without an answer: the member may be down, and refuse at once.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// A client that does everything.
pub(super) async fn write(number: usize, shared: Arc<Shared>) -> Vec<Record> {
    let mut worker = Worker::new(number, shared);
    while !worker.shared.is_over() {
        let key = worker.key();
        match worker.dice.below(20) {
            0..8 => {
                let value = worker.value();
                worker.carry_out(Op::Put { key, value }).await;
            }
            8..10 => {
                let value = worker.value();
                let keys = [KEYS[0].to_owned(), KEYS[1].to_owned()];
                worker.carry_out(Op::PutBoth { keys, value }).await;
            }
            10..12 => worker.carry_out(Op::Delete { key }).await,
            12..16 => worker.swap(key).await,
            16..18 => worker.carry_out(Op::Get { key }).await,
            _ => worker.carry_out(Op::GetLocal { key }).await,
        }
    }
    worker.records
}

/// A client that only reads: sees what others are told, and asks when writers wait.
pub(super) async fn read(number: usize, shared: Arc<Shared>) -> Vec<Record> {
    let mut worker = Worker::new(number, shared);
    while !worker.shared.is_over() {
        let key = worker.key();
        let op = if worker.dice.chance(70) { Op::Get { key } } else { Op::GetLocal { key } };
        worker.carry_out(op).await;
    }
    worker.records
}

struct Worker {
    number: usize,
    /// Which member is asked; goes on when one does not answer.
    turn: usize,
    dice: Dice,
    shared: Arc<Shared>,
    records: Vec<Record>,
}

impl Worker {
    fn new(number: usize, shared: Arc<Shared>) -> Self {
        Worker { number, turn: number, dice: Dice::random(), shared, records: Vec::new() }
    }

    fn key(&mut self) -> String {
        KEYS[self.dice.index(KEYS.len())].to_owned()
    }

    fn value(&self) -> String {
        self.shared.last_value.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Reads a key and puts it if it is still the same. One time in four the condition is an old one on purpose.
    async fn swap(&mut self, key: String) {
        self.carry_out(Op::Get { key: key.clone() }).await;
        let Some(Outcome::Ok(Answer::Read { found, revision })) =
            self.records.last().map(|record| &record.outcome)
        else {
            return;
        };
        let current = found.as_ref().map_or(0, |found| found.mod_revision);
        let expected = if self.dice.chance(75) { current } else { revision - 1 };
        let value = self.value();
        self.carry_out(Op::Swap { key, expected, value }).await;
    }

    async fn carry_out(&mut self, op: Op) {
        let kv = KvClient::new(self.shared.targets.pick(self.turn));
        let called = self.shared.now();
        let result = tokio::time::timeout(self.shared.load.timeout, send(kv, &op)).await;
        let returned = self.shared.now();
        let outcome = match result {
            Ok(Ok(answer)) => Outcome::Ok(answer),
            Ok(Err(status)) if is_refusal(&status) => Outcome::Failed(status.to_string()),
            Ok(Err(status)) => Outcome::Unknown(status.to_string()),
            Err(_) => Outcome::Unknown("no answer in time".to_owned()),
        };
        let is_ok = matches!(outcome, Outcome::Ok(_));
        if matches!(outcome, Outcome::Ok(Answer::Written { .. })) {
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        let returned = if matches!(outcome, Outcome::Unknown(_)) { u64::MAX } else { returned };
        self.records.push(Record { client: self.number, op, called, returned, outcome });
        if is_ok {
            tokio::time::sleep(self.shared.load.pause).await;
        } else {
            self.turn += 1;
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        }
    }
}

/// Whether the request was refused before it could go anywhere. Most errors do not promise that: also "no leader" may
/// be said of a proposal that is on its way.
fn is_refusal(status: &Status) -> bool {
    RpcError::from_message(status.message()) == Some(RpcError::RequestTooManyRequests)
}

async fn send(mut kv: KvClient<Channel>, op: &Op) -> Result<Answer, Status> {
    match op {
        Op::Put { key, value } => {
            let response = kv.put(put(key, value)).await?.into_inner();
            Ok(Answer::Written { revision: revision(response.header.as_ref()) })
        }
        Op::PutBoth { keys, value } => {
            let success = keys.iter().map(|key| step(Request::RequestPut(put(key, value))));
            let txn = TxnRequest { success: success.collect(), ..Default::default() };
            let response = kv.txn(txn).await?.into_inner();
            Ok(Answer::Written { revision: revision(response.header.as_ref()) })
        }
        Op::Delete { key } => {
            let request = DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
            let response = kv.delete_range(request).await?.into_inner();
            let revision = revision(response.header.as_ref());
            Ok(match response.deleted {
                0 => Answer::Read { revision, found: None },
                _ => Answer::Written { revision },
            })
        }
        Op::Swap { key, expected, value } => {
            let response = kv.txn(swap(key, *expected, value)).await?.into_inner();
            let revision = revision(response.header.as_ref());
            if response.succeeded {
                return Ok(Answer::Written { revision });
            }
            match response.responses.into_iter().next().and_then(|op| op.response) {
                Some(Response::ResponseRange(read)) => Ok(answer(revision, read)),
                other => panic!("a range was asked for, the answer is {other:?}"),
            }
        }
        Op::PutLeased { .. } | Op::Revoke { .. } => unreachable!("this workload has no leases"),
        Op::Get { key } => {
            let response = kv.range(range(key)).await?.into_inner();
            Ok(answer(revision(response.header.as_ref()), response))
        }
        Op::GetLocal { key } => {
            let request = RangeRequest { serializable: true, ..range(key) };
            let response = kv.range(request).await?.into_inner();
            Ok(answer(revision(response.header.as_ref()), response))
        }
    }
}

fn swap(key: &str, expected: i64, value: &str) -> TxnRequest {
    let unchanged = Compare {
        key: key.to_owned().into(),
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        target_union: Some(TargetUnion::ModRevision(expected)),
        ..Default::default()
    };
    TxnRequest {
        compare: vec![unchanged],
        success: vec![step(Request::RequestPut(put(key, value)))],
        failure: vec![step(Request::RequestRange(range(key)))],
    }
}

fn step(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn answer(revision: i64, response: RangeResponse) -> Answer {
    Answer::Read { revision, found: response.kvs.into_iter().next().map(|kv| Version::from(&kv)) }
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}
