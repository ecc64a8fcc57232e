//! Histories to check: a store that is right by construction, and clients whose calls overlap.

use std::collections::BTreeMap;

use crate::Dice;
use crate::Event;
use crate::history::{Answer, Op, Outcome, Record, Version};

pub(crate) fn put(revision: i64, key: &str, value: &str, created: i64, version: i64) -> Event {
    let value = value.to_owned();
    let now =
        Version { value, create_revision: created, mod_revision: revision, version, lease: 0 };
    Event { revision, key: key.to_owned(), now: Some(now) }
}

pub(crate) fn delete(revision: i64, key: &str) -> Event {
    Event { revision, key: key.to_owned(), now: None }
}

/// The plainest store that can be: all states of all revisions.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) events: Vec<Event>,
    states: Vec<BTreeMap<String, Version>>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Model { events: Vec::new(), states: vec![BTreeMap::new()] }
    }

    pub(crate) fn revision(&self) -> i64 {
        i64::try_from(self.states.len()).unwrap()
    }

    fn state(&self, revision: i64) -> &BTreeMap<String, Version> {
        &self.states[usize::try_from(revision - 1).unwrap()]
    }

    /// Carries out an operation; `lag` is how far behind the state of a serializable read is.
    pub(crate) fn apply(&mut self, op: &Op, lag: i64) -> Answer {
        let lag = if matches!(op, Op::GetLocal { .. }) { lag } else { 0 };
        let revision = (self.revision() - lag).max(1);
        let found = self.state(revision).get(op.key()).cloned();
        let takes_effect = match op {
            Op::Put { .. } | Op::PutLeased { .. } | Op::PutBoth { .. } => true,
            Op::Delete { .. } => found.is_some(),
            Op::Swap { expected, .. } => {
                *expected == found.as_ref().map_or(0, |found| found.mod_revision)
            }
            Op::Revoke { .. } | Op::Get { .. } | Op::GetLocal { .. } => false,
        };
        if !takes_effect {
            return Answer::Read { revision, found };
        }
        let revision = self.revision() + 1;
        let mut state = self.state(revision - 1).clone();
        for (key, value) in op.writes() {
            let before = state.remove(key);
            let now = value.map(|(value, lease)| Version {
                value: value.to_owned(),
                create_revision: before.as_ref().map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: before.as_ref().map_or(1, |old| old.version + 1),
                lease,
            });
            if let Some(now) = &now {
                state.insert(key.to_owned(), now.clone());
            }
            self.events.push(Event { revision, key: key.to_owned(), now });
        }
        self.states.push(state);
        Answer::Written { revision }
    }
}

const KEYS: [&str; 3] = ["a", "b", "c"];

/// An operation like those of the real workload. `seen` are revisions that a swap may expect.
fn operation(dice: &mut Dice, number: usize, model: &Model) -> Op {
    let key = || KEYS[number % KEYS.len()].to_owned();
    let value = format!("v{number}");
    match dice.below(8) {
        0 | 1 => Op::Put { key: key(), value },
        2 => Op::PutBoth { keys: ["a".to_owned(), "b".to_owned()], value },
        3 => Op::Delete { key: key() },
        4 | 5 => {
            let current = model.state(model.revision()).get(&key());
            let current = current.map_or(0, |found| found.mod_revision);
            let expected = if dice.chance(60) { current } else { model.revision() };
            Op::Swap { key: key(), expected, value }
        }
        6 => Op::Get { key: key() },
        _ => Op::GetLocal { key: key() },
    }
}

/// A right history of so many operations, by clients whose calls overlap. Some writes have no answer, half of those
/// take effect.
pub(crate) fn history(dice: &mut Dice, len: usize) -> (Vec<Record>, Vec<Event>) {
    let mut model = Model::new();
    let mut records = Vec::new();
    for number in 0..len {
        let effect = 1_000 + 100 * u64::try_from(number).unwrap();
        let (called, returned) = (effect - dice.below(400), effect + dice.below(400));
        let op = operation(dice, number, &model);
        let is_unanswered = op.is_write() && dice.chance(15);
        let lost = is_unanswered && dice.chance(50);
        let lag = i64::try_from(dice.below(4)).unwrap();
        let outcome = if lost {
            Outcome::Unknown("lost".to_owned())
        } else {
            let answer = model.apply(&op, lag);
            if is_unanswered {
                Outcome::Unknown("answer lost".to_owned())
            } else {
                Outcome::Ok(answer)
            }
        };
        let returned = if is_unanswered { u64::MAX } else { returned };
        records.push(Record { client: number, op, called, returned, outcome });
    }
    (records, model.events)
}
