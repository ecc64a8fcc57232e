//! What clients ask for, in etcd's words, and what they understand of the answers.

use prost::Message as _;
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use retcd_api::etcdserverpb::request_op::Request;
use retcd_api::etcdserverpb::response_op;
use retcd_checkers::Dice;
use retcd_checkers::history::{Answer, Op, Version};
use retcd_state_machine::{Reader, Response};

use super::{Asked, KEYS, Workload};
use crate::member::Process;
use crate::outside::{Outside, Told};

/// How a call ended.
#[derive(Debug)]
pub(super) enum Ended {
    Answer(Answer),
    /// Something without a place in the history was done.
    Done,
    /// The log's answer is no: it has taken no effect.
    Refused(String),
    /// It never came to a member.
    Failed(String),
    Unknown,
}

impl Workload {
    pub(super) fn next_request(&mut self, client: usize, dice: &mut Dice) -> Asked {
        let key = KEYS[dice.index(KEYS.len())].to_owned();
        let lease = (!self.leases.is_empty()).then(|| dice.index(self.leases.len()));
        let lease = lease.map(|index| self.leases[index]);
        let op = match (dice.below(40), lease) {
            (0..3, _) => {
                self.last_lease += 1;
                return Asked::Grant { lease: self.last_lease, ttl: ttl(self.last_lease) };
            }
            (3..6, Some(lease)) => return Asked::KeepAlive { lease, ttl: ttl(lease) },
            (6..10, Some(lease)) => Op::PutLeased { key, value: self.value(), lease },
            (10, Some(lease)) => Op::Revoke { lease },
            (11, _) => return Asked::Compact((self.newest - dice.below(8).cast_signed()).max(1)),
            (12..14, _) => {
                return Asked::ReadAt((self.newest - dice.below(12).cast_signed()).max(1));
            }
            (14..17, _) => {
                let keys = [KEYS[0].to_owned(), KEYS[1].to_owned()];
                Op::PutBoth { keys, value: self.value() }
            }
            (17..20, _) => Op::Delete { key },
            (20..25, _) => match self.clients[client].seen.take() {
                Some((key, expected)) => Op::Swap { key, expected, value: self.value() },
                None => Op::Get { key },
            },
            (25..31, _) => Op::Get { key },
            (31..33, _) => Op::GetLocal { key },
            _ => Op::Put { key, value: self.value() },
        };
        Asked::Op(op)
    }

    fn value(&mut self) -> String {
        self.last_value += 1;
        self.last_value.to_string()
    }
}

/// Seconds to live: from one to five.
fn ttl(lease: i64) -> i64 {
    1 + lease % 5
}

/// Gives a request to a member.
pub(super) fn submit(call: u64, asked: &Asked, process: &mut Process, outside: &mut Outside) {
    let mut request = pb::InternalRaftRequest::default();
    match asked {
        Asked::Op(Op::Get { .. }) => return process.read_barrier(call, outside),
        Asked::Op(Op::GetLocal { .. }) | Asked::ReadAt(_) => {
            return outside.answer(call, Told::MayRead);
        }
        Asked::KeepAlive { .. } => unreachable!("keep-alives go to the leader"),
        Asked::Change(change) => return process.propose_change(call, change.clone()),
        Asked::Grant { lease, ttl } => {
            request.lease_grant = Some(pb::LeaseGrantRequest { id: *lease, ttl: *ttl });
        }
        Asked::Compact(revision) => {
            request.compaction =
                Some(pb::CompactionRequest { revision: *revision, physical: false });
        }
        Asked::Op(Op::Put { key, value }) => request.put = Some(put(key, value, 0)),
        Asked::Op(Op::PutLeased { key, value, lease }) => {
            request.put = Some(put(key, value, *lease));
        }
        Asked::Op(Op::PutBoth { keys, value }) => {
            let success = keys.iter().map(|key| step(Request::RequestPut(put(key, value, 0))));
            let success = success.collect();
            request.txn = Some(pb::TxnRequest { success, ..Default::default() });
        }
        Asked::Op(Op::Delete { key }) => {
            let key = key.clone().into();
            request.delete_range = Some(pb::DeleteRangeRequest { key, ..Default::default() });
        }
        Asked::Op(Op::Swap { key, expected, value }) => {
            request.txn = Some(swap(key, *expected, value));
        }
        Asked::Op(Op::Revoke { lease }) => {
            request.lease_revoke = Some(pb::LeaseRevokeRequest { id: *lease });
        }
    }
    process.propose(Some(call), request);
}

/// What a client makes of an answer. Reads look at the member's state in this moment.
pub(super) fn ended(asked: &Asked, told: Told, process: &Process, outside: &mut Outside) -> Ended {
    let response = match (told, asked) {
        (Told::Nothing, _) => return Ended::Unknown,
        (Told::Refused(reason), _) => return Ended::Refused(reason),
        (Told::Kept, _) => return Ended::Done,
        (Told::MayRead, Asked::ReadAt(revision)) => {
            // A member that lags may not know it yet.
            if *revision <= process.reader.revision() {
                outside.checkers.read_at(process.id, &process.reader, *revision);
            }
            return Ended::Done;
        }
        (Told::MayRead, Asked::Op(op)) => return Ended::Answer(read(&process.reader, op.key())),
        (Told::MayRead, _) => unreachable!("only reads wait for a state"),
        (Told::Applied(response), _) => response,
    };
    match asked {
        Asked::Op(op) => Ended::Answer(answer(op, &response)),
        _ => Ended::Done,
    }
}

fn read(reader: &Reader, key: &str) -> Answer {
    let response = reader.range(&range(key)).expect("the present revision can be read");
    let found = pb::RangeResponse::decode(&*response.body).expect("an answer of our own");
    found_at(response.revision, &found)
}

fn found_at(revision: i64, response: &pb::RangeResponse) -> Answer {
    Answer::Read { revision, found: response.kvs.first().map(Version::from) }
}

fn answer(op: &Op, Response { revision, body }: &Response) -> Answer {
    let revision = *revision;
    match op {
        Op::Put { .. } | Op::PutLeased { .. } | Op::PutBoth { .. } => Answer::Written { revision },
        Op::Revoke { .. } => Answer::Revoked { revision },
        Op::Delete { .. } => {
            let response = pb::DeleteRangeResponse::decode(&**body).expect("an answer of our own");
            match response.deleted {
                0 => Answer::Read { revision, found: None },
                _ => Answer::Written { revision },
            }
        }
        Op::Swap { .. } => {
            let response = pb::TxnResponse::decode(&**body).expect("an answer of our own");
            if response.succeeded {
                return Answer::Written { revision };
            }
            match response.responses.into_iter().next().and_then(|op| op.response) {
                Some(response_op::Response::ResponseRange(found)) => found_at(revision, &found),
                other => panic!("a range was asked for, the answer is {other:?}"),
            }
        }
        Op::Get { .. } | Op::GetLocal { .. } => unreachable!("reads do not go through the log"),
    }
}

fn swap(key: &str, expected: i64, value: &str) -> pb::TxnRequest {
    let unchanged = pb::Compare {
        key: key.to_owned().into(),
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        target_union: Some(TargetUnion::ModRevision(expected)),
        ..Default::default()
    };
    pb::TxnRequest {
        compare: vec![unchanged],
        success: vec![step(Request::RequestPut(put(key, value, 0)))],
        failure: vec![step(Request::RequestRange(range(key)))],
    }
}

fn step(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put(key: &str, value: &str, lease: i64) -> pb::PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    pb::PutRequest { key, value, lease, ..Default::default() }
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}
