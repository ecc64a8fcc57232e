//! The checker accepts right histories, refuses wrong ones, and agrees with a search over all orders.

use super::*;
use crate::Dice;
use crate::history::Version;
use crate::samples::{Model, history};

fn check(records: &[Record], events: &[Event]) -> Vec<Violation> {
    match Timeline::new(events.to_vec()) {
        Ok(timeline) => check_operations(records, &timeline),
        Err(violation) => vec![violation],
    }
}

/// A put that was called and has returned at these times.
fn put(key: &str, value: &str, called: u64, returned: u64, revision: i64) -> Record {
    let op = Op::Put { key: key.to_owned(), value: value.to_owned() };
    Record { client: 0, op, called, returned, outcome: Outcome::Ok(Answer::Written { revision }) }
}

fn unanswered(mut record: Record) -> Record {
    record.returned = u64::MAX;
    record.outcome = Outcome::Unknown("timed out".to_owned());
    record
}

fn get(key: &str, called: u64, returned: u64, revision: i64, found: Option<Version>) -> Record {
    let op = Op::Get { key: key.to_owned() };
    let outcome = Outcome::Ok(Answer::Read { revision, found });
    Record { client: 1, op, called, returned, outcome }
}

/// A store after these operations, one after the other.
fn store(ops: &[&Record]) -> Model {
    let mut model = Model::new();
    for record in ops {
        model.apply(&record.op, 0);
    }
    model
}

fn version(model: &Model, revision: i64) -> Option<Version> {
    model.events.iter().find(|event| event.revision == revision).unwrap().now.clone()
}

#[test]
fn right_histories_are_accepted() {
    let mut dice = Dice::from_seed(1);
    for round in 0..200 {
        let (records, events) = history(&mut dice, 60);
        assert_eq!(check(&records, &events), [], "round {round}");
    }
}

#[test]
fn a_lost_write_is_found() {
    let (first, second) = (put("a", "1", 0, 10, 2), put("a", "2", 20, 30, 3));
    let model = store(&[&first]);
    let violations = check(&[first, second.clone()], &model.events);
    assert_eq!(violations, [Violation::LostWrite(Box::new(second))]);
}

#[test]
fn a_write_at_another_revision_is_found() {
    let (first, second) = (put("a", "1", 0, 10, 3), put("b", "2", 0, 10, 2));
    let model = store(&[&first, &second]);
    assert_eq!(check(&[first, second], &model.events).len(), 4, "two lost, two unexplained");
}

#[test]
fn a_stale_read_is_found() {
    let (first, second) = (put("a", "1", 0, 10, 2), put("a", "2", 20, 30, 3));
    let model = store(&[&first, &second]);
    let stale = |called, op: fn(String) -> Op| Record {
        op: op("a".to_owned()),
        ..get("a", called, called + 10, 2, version(&model, 2))
    };
    let fresh_enough = stale(25, |key| Op::Get { key });
    assert_eq!(check(&[first.clone(), second.clone(), fresh_enough], &model.events), []);
    let local = stale(40, |key| Op::GetLocal { key });
    assert_eq!(check(&[first.clone(), second.clone(), local], &model.events), []);
    let late = stale(40, |key| Op::Get { key });
    let violations = check(&[first, second.clone(), late.clone()], &model.events);
    let (earlier, later) = (Box::new(late), Box::new(second));
    assert_eq!(violations, [Violation::OutOfOrder { earlier, later }]);
}

#[test]
fn reads_that_go_back_in_time_are_found() {
    // The write is under way during both reads: each alone would be fine.
    let (first, second) = (put("a", "1", 0, 10, 2), put("a", "2", 20, 90, 3));
    let model = store(&[&first, &second]);
    let new = get("a", 30, 40, 3, version(&model, 3));
    let old = get("a", 50, 60, 2, version(&model, 2));
    let violations = check(&[first.clone(), second.clone(), new, old.clone()], &model.events);
    assert!(matches!(violations[..], [Violation::OutOfOrder { .. }]), "{violations:?}");
    assert_eq!(check(&[first, second, old], &model.events), []);
}

#[test]
fn reads_of_something_else_are_found() {
    let first = put("a", "1", 0, 10, 2);
    let model = store(&[&first]);
    let other = Version { value: "other".to_owned(), ..version(&model, 2).unwrap() };
    for wrong in [
        get("a", 20, 30, 2, None),
        get("a", 20, 30, 2, Some(other)),
        get("b", 20, 30, 2, version(&model, 2)),
        get("a", 20, 30, 3, version(&model, 2)),
    ] {
        let violations = check(&[first.clone(), wrong], &model.events);
        assert!(matches!(violations[..], [Violation::WrongRead { .. }]), "{violations:?}");
    }
}

#[test]
fn a_write_that_was_applied_twice_is_found() {
    let first = put("a", "1", 0, 10, 2);
    let twice = store(&[&first, &first]);
    for record in [first.clone(), unanswered(first)] {
        let violations = check(&[record], &twice.events);
        let found = matches!(violations[..], [Violation::UnexplainedWrite { revision: 3, .. }]);
        assert!(found, "{violations:?}");
    }
}

#[test]
fn a_write_that_failed_but_was_applied_is_found() {
    let mut first = put("a", "1", 0, 10, 2);
    let model = store(&[&first]);
    first.outcome = Outcome::Failed("refused".to_owned());
    let violations = check(&[first], &model.events);
    assert!(matches!(violations[..], [Violation::UnexplainedWrite { .. }]), "{violations:?}");
}

#[test]
fn writes_out_of_order_are_found() {
    let (first, second) = (put("a", "1", 20, 30, 2), put("b", "2", 0, 10, 3));
    let model = store(&[&first, &second]);
    let violations = check(&[first.clone(), second.clone()], &model.events);
    assert!(matches!(violations[..], [Violation::OutOfOrder { .. }]), "{violations:?}");
    let late = unanswered(second);
    assert_eq!(check(&[first, late], &model.events), [], "it may take effect at any later time");
}

#[test]
fn a_write_before_its_own_call_is_found() {
    let early = unanswered(put("a", "1", 50, 60, 2));
    let model = store(&[&early]);
    let seen = get("a", 10, 20, 2, version(&model, 2));
    let violations = check(&[early, seen], &model.events);
    assert!(matches!(violations[..], [Violation::OutOfOrder { .. }]), "{violations:?}");
}

#[test]
fn two_writers_of_one_revision_are_found() {
    let delete = Record { op: Op::Delete { key: "a".to_owned() }, ..put("a", "", 20, 30, 3) };
    let first = put("a", "1", 0, 10, 2);
    let model = store(&[&first, &delete]);
    let violations = check(&[first, delete.clone(), delete], &model.events);
    assert!(matches!(violations[..], [Violation::SharedRevision(..)]), "{violations:?}");
}

#[test]
fn a_condition_that_was_judged_wrongly_is_found() {
    let first = put("a", "1", 0, 10, 2);
    let swap = |expected, outcome| Record {
        op: Op::Swap { key: "a".to_owned(), expected, value: "2".to_owned() },
        outcome,
        ..put("", "", 20, 30, 3)
    };
    let second = put("a", "2", 20, 30, 3);
    let model = store(&[&first, &second]);
    let written = swap(0, Outcome::Ok(Answer::Written { revision: 3 }));
    let violations = check(&[first.clone(), written], &model.events);
    assert!(matches!(violations[..], [Violation::WrongSwap { actual: 2, .. }]), "{violations:?}");

    let model = store(&[&first]);
    let found = version(&model, 2);
    let refused = swap(2, Outcome::Ok(Answer::Read { revision: 2, found }));
    let violations = check(&[first, refused], &model.events);
    assert!(matches!(violations[..], [Violation::WrongSwap { actual: 2, .. }]), "{violations:?}");
}

/// A key under a lease, a free one, and the end of the lease.
fn leased(outcome: Outcome) -> (Vec<Record>, Vec<Event>) {
    let leased = Op::PutLeased { key: "a".to_owned(), value: "1".to_owned(), lease: 7 };
    let mut first = put("", "", 0, 10, 2);
    first.op = leased;
    let free = put("b", "2", 20, 30, 3);
    let end = Record { op: Op::Revoke { lease: 7 }, outcome, ..put("", "", 40, 50, 4) };
    let delete = Op::Delete { key: "a".to_owned() };
    let model = store(&[&first, &free, &Record { op: delete, ..end.clone() }]);
    (vec![first, free, end], model.events)
}

#[test]
fn the_end_of_a_lease_takes_its_keys() {
    let revoked = |revision| Outcome::Ok(Answer::Revoked { revision });
    let (records, events) = leased(revoked(4));
    assert_eq!(check(&records, &events), []);
    assert!(matches!(check(&records, &events[..2])[..], [Violation::KeptKeys(_)]));
    let (records, events) = leased(Outcome::Unknown("nobody waits".to_owned()));
    assert_eq!(check(&records, &events), []);
    assert_eq!(check(&records, &events[..2]), [], "it may come later");
    let unexplained = check(&records[..2], &events);
    assert!(matches!(unexplained[..], [Violation::UnexplainedWrite { revision: 4, .. }]));
    // The other key is not its own.
    let (records, mut events) = leased(revoked(4));
    events[2].key = "b".to_owned();
    assert!(!check(&records, &events).is_empty());
}

#[test]
fn a_deletion_or_the_end_of_a_lease_explain_a_revision() {
    let (mut records, events) = leased(Outcome::Ok(Answer::Revoked { revision: 4 }));
    let delete = Op::Delete { key: "a".to_owned() };
    records.push(unanswered(Record { op: delete, ..put("", "", 32, 34, 4) }));
    records.push(get("a", 36, 38, 4, None));
    assert_eq!(check(&records, &events), [], "the deletion came first, the lease had no keys");
}

#[test]
fn the_verdict_is_that_of_a_search_over_all_orders() {
    let mut dice = Dice::from_seed(2);
    let (mut right, mut wrong) = (0, 0);
    for round in 0..4_000 {
        let (mut records, mut events) = history(&mut dice, 5);
        records.retain(|record| !matches!(record.op, Op::GetLocal { .. }));
        if records.is_empty() {
            continue;
        }
        for _ in 0..dice.below(3) {
            disturb(&mut dice, &mut records, &mut events);
        }
        let is_right =
            linearizes(&records, &mut vec![false; records.len()], &Model::new(), &events);
        let violations = check(&records, &events);
        assert_eq!(
            violations.is_empty(),
            is_right,
            "round {round}: {records:#?}\n{events:#?}\n{violations:#?}"
        );
        *if is_right { &mut right } else { &mut wrong } += 1;
    }
    assert!(right > 1_000 && wrong > 1_000, "both verdicts occur: {right} right, {wrong} wrong");
}

/// Changes one thing, which may make the history wrong.
fn disturb(dice: &mut Dice, records: &mut [Record], events: &mut Vec<Event>) {
    let index = dice.index(records.len());
    let shift = dice.below(600);
    let other = dice.index(records.len());
    let record = &mut records[index];
    match dice.below(7) {
        0 if record.returned != u64::MAX => {
            record.called += shift;
            record.returned += shift;
        }
        1 if record.returned != u64::MAX => {
            record.called = record.called.saturating_sub(shift);
            record.returned = record.returned.saturating_sub(shift).max(record.called);
        }
        2 => match &mut record.outcome {
            Outcome::Ok(Answer::Written { revision } | Answer::Read { revision, .. }) => {
                *revision = (*revision + 1 - i64::from(dice.chance(50)) * 2).max(1);
            }
            Outcome::Ok(Answer::Revoked { .. }) | Outcome::Failed(_) | Outcome::Unknown(_) => {}
        },
        3 => {
            let outcome = records[other].outcome.clone();
            if !matches!(outcome, Outcome::Unknown(_)) && records[index].returned != u64::MAX {
                records[index].outcome = outcome;
            }
        }
        4 => {
            events.pop();
        }
        5 => record.outcome = Outcome::Failed("disturbed".to_owned()),
        _ => {
            record.outcome = Outcome::Unknown("disturbed".to_owned());
            record.returned = u64::MAX;
        }
    }
}

/// Whether some order of the operations, which respects time, gives every answer and these events.
fn linearizes(records: &[Record], done: &mut [bool], model: &Model, events: &[Event]) -> bool {
    if !events.starts_with(&model.events) {
        return false;
    }
    let is_optional = |record: &Record| !matches!(record.outcome, Outcome::Ok(_));
    let is_complete =
        records.iter().zip(done.iter()).all(|(record, done)| *done || is_optional(record));
    if is_complete && model.events.len() == events.len() {
        return true;
    }
    for next in 0..records.len() {
        let record = &records[next];
        let comes_too_early = records
            .iter()
            .zip(done.iter())
            .any(|(other, done)| !*done && !is_optional(other) && other.returned < record.called);
        if done[next] || comes_too_early || matches!(record.outcome, Outcome::Failed(_)) {
            continue;
        }
        let mut after = model.clone();
        let answer = after.apply(&record.op, 0);
        if matches!(&record.outcome, Outcome::Ok(told) if *told != answer) {
            continue;
        }
        done[next] = true;
        if linearizes(records, done, &after, events) {
            return true;
        }
        done[next] = false;
    }
    false
}
