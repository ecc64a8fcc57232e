//! Members that have applied the same entries have the same state, and tell the same history.

use std::collections::BTreeMap;

use prost::Message as _;
use retcd_api::etcdserverpb::{AlarmMember, RangeRequest, RangeResponse};
use retcd_api::mvccpb::KeyValue;
use retcd_checkers::history::Version;
use retcd_checkers::{Event, Timeline};
use retcd_state_machine::cluster::Member;
use retcd_state_machine::mvcc::Record;
use retcd_state_machine::watch::{History, HistoryError};
use retcd_state_machine::{Applied, ReadError, Reader, Rejection};

use super::Violations;

/// The keys are hashed at every so many entries; everything else is compared always.
const HASH_INTERVAL: u64 = 4;

#[derive(Default)]
pub(crate) struct States {
    /// What became of each entry: its request, and the revision or the refusal.
    outcomes: BTreeMap<u64, (u64, Result<i64, Rejection>)>,
    reached: BTreeMap<u64, State>,
    pub(crate) timeline: Timeline,
    pub(crate) compared: usize,
}

/// All that is replicated, at one applied entry.
#[derive(Debug, PartialEq)]
struct State {
    revision: i64,
    compacted: i64,
    keys: u64,
    live_bytes: u64,
    hash: Option<u32>,
    /// With their stored remainders, and keys.
    leases: Vec<(i64, i64, i64, Vec<Vec<u8>>)>,
    members: Vec<Member>,
    removed: Vec<u64>,
    alarms: Vec<AlarmMember>,
}

impl State {
    fn of(reader: &Reader, index: u64) -> Self {
        let hash = index
            .is_multiple_of(HASH_INTERVAL)
            .then(|| reader.hash_kv(0).expect("the present revision can be hashed").hash);
        let census = reader.census();
        State {
            revision: reader.revision(),
            compacted: reader.compacted_revision(),
            keys: census.live_versions,
            live_bytes: census.live_bytes,
            hash,
            leases: leases(reader),
            members: reader.members(),
            removed: reader.removed_members(),
            alarms: reader.alarms(),
        }
    }
}

fn leases(reader: &Reader) -> Vec<(i64, i64, i64, Vec<Vec<u8>>)> {
    let lessor = reader.lessor();
    let mut ids = lessor.leases();
    ids.sort_unstable();
    let lease = |id| {
        let stored = lessor.to_stored(id)?;
        let keys = lessor.keys(id)?.map(<[u8]>::to_vec).collect();
        Some((id, stored.ttl, stored.remaining_ttl, keys))
    };
    ids.into_iter().filter_map(lease).collect()
}

impl States {
    pub(super) fn applied(&mut self, id: u64, applied: &Applied, violations: &mut Violations) {
        let outcome =
            applied.outcome.as_ref().map(|response| response.revision).map_err(Clone::clone);
        let outcome = (applied.request_id, outcome);
        let known = self.outcomes.entry(applied.index).or_insert_with(|| outcome.clone());
        if *known != outcome {
            violations.push(format!(
                "member {id}: entry {} ended in {outcome:?}, elsewhere in {known:?}",
                applied.index
            ));
        }
    }

    pub(super) fn reached(
        &mut self,
        id: u64,
        reader: &Reader,
        seen: i64,
        violations: &mut Violations,
    ) -> i64 {
        let index = reader.applied_index();
        let state = State::of(reader, index);
        self.timeline.compact(state.compacted);
        match self.reached.get(&index) {
            None => drop(self.reached.insert(index, state)),
            Some(known) if *known != state => violations.push(format!(
                "member {id}: the state at {index} is {state:#?}, elsewhere {known:#?}"
            )),
            Some(_) => self.compared += 1,
        }
        self.read_history(id, reader, seen, violations)
    }

    /// Takes the records behind revision `seen`: what nobody has shown before is history, all else must equal it.
    fn read_history(
        &mut self,
        id: u64,
        reader: &Reader,
        seen: i64,
        violations: &mut Violations,
    ) -> i64 {
        let mut records: Vec<Record> = Vec::new();
        match reader.records(seen + 1, usize::MAX, &mut records) {
            Ok(_) => {}
            // The rest was thinned out: it is compared as it stands by `keys_at` and by hash.
            Err(HistoryError::Compacted(_)) => return reader.revision(),
            Err(HistoryError::Failure(failure)) => panic!("memory does not fail: {failure}"),
        }
        let same_revision = |one: &Record, other: &Record| one.revision.main == other.revision.main;
        for records in records.chunk_by(same_revision) {
            let events: Vec<Event> = records.iter().map(event).collect();
            let revision = events[0].revision;
            if revision > self.timeline.last() {
                for event in events {
                    if let Err(violation) = self.timeline.push(event) {
                        violations.push(format!("member {id}: {violation}"));
                    }
                }
            } else if events != self.timeline.at(revision) {
                violations.push(format!("member {id}: revision {revision} is {events:?}"));
            }
        }
        reader.revision()
    }

    /// Compares all keys at a revision with the history.
    pub(super) fn keys_at(
        &self,
        id: u64,
        reader: &Reader,
        revision: i64,
        violations: &mut Violations,
    ) {
        let request = RangeRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            revision,
            ..Default::default()
        };
        let body = match reader.range(&request) {
            Ok(response) => response.body,
            Err(ReadError::Rejection(Rejection::Compacted { compacted, .. }))
                if revision < compacted =>
            {
                return;
            }
            Err(error) => {
                violations.push(format!("member {id}: cannot read at {revision}: {error}"));
                return;
            }
        };
        let found = RangeResponse::decode(&*body).expect("an answer of our own").kvs;
        let found: Vec<(String, Version)> = found.iter().map(|kv| (key(kv), kv.into())).collect();
        let expected = self.timeline.state_at(revision);
        if revision > self.timeline.last()
            || !expected.eq(found.iter().map(|(key, version)| (key.as_str(), version)))
        {
            violations.push(format!("member {id}: at revision {revision} it has {found:?}"));
        }
    }
}

fn key(kv: &KeyValue) -> String {
    String::from_utf8_lossy(&kv.key).into_owned()
}

fn event(record: &Record) -> Event {
    let kv = KeyValue::decode(&*record.kv).expect("a record of our own");
    Event {
        revision: record.revision.main,
        key: key(&kv),
        now: (!record.is_tombstone).then(|| Version::from(&kv)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use retcd_api::etcdserverpb::{InternalRaftRequest, LeaseGrantRequest, PutRequest};
    use retcd_api::raftpb::Entry;
    use retcd_state_machine::backend::MemoryBackend;
    use retcd_state_machine::{Config, StateMachine};

    use super::*;

    fn put(value: &str) -> InternalRaftRequest {
        let put =
            PutRequest { key: "k".into(), value: value.to_owned().into(), ..Default::default() };
        InternalRaftRequest { put: Some(put), ..Default::default() }
    }

    fn grant(ttl: i64) -> InternalRaftRequest {
        let lease_grant = Some(LeaseGrantRequest { id: 7, ttl });
        InternalRaftRequest { lease_grant, ..Default::default() }
    }

    /// Shows two members' states after these requests; returns the violations.
    fn compare(one: &[InternalRaftRequest], other: &[InternalRaftRequest]) -> Violations {
        let mut states = States::default();
        let mut violations = Violations::new();
        for (id, requests) in [(1, one), (2, other)] {
            let backend = Arc::new(MemoryBackend::new());
            let mut machine = StateMachine::open(backend, Config::default()).unwrap();
            let mut seen = 1;
            for (request, index) in requests.iter().zip(1..) {
                let data = request.encode_to_vec().into();
                let entry = Entry { index, term: 1, data, ..Entry::default() };
                let mut applied = Vec::new();
                machine.apply(&[entry], |_| true, Duration::ZERO, &mut applied).unwrap();
                states.applied(id, &applied[0], &mut violations);
                seen = states.reached(id, &machine.reader(), seen, &mut violations);
            }
            states.keys_at(id, &machine.reader(), machine.reader().revision(), &mut violations);
        }
        violations
    }

    #[test]
    fn equal_members_are_accepted() {
        let requests = [put("1"), put("2"), grant(5), grant(5), put("3")];
        assert_eq!(compare(&requests, &requests), Violations::new());
        assert_eq!(compare(&requests, &requests[..3]), Violations::new());
    }

    #[test]
    fn another_state_is_found() {
        let common = [put("1"), put("2"), put("3")];
        let with = |last| [&common[..], &[last]].concat();
        for (one, other) in [
            (with(put("4")), with(put("5"))),
            (with(put("4")), with(InternalRaftRequest::default())),
            (with(grant(5)), with(grant(6))),
        ] {
            assert!(!compare(&one, &other).is_empty(), "{other:?}");
        }
    }
}
