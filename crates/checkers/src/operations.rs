//! Were the operations linearizable?
//!
//! Each operation with a known place is put there: a write at its revision, a linearizable read right after the
//! revision of its answer. A write whose client got no answer takes effect if the history has a revision that only it
//! can have written. This order is the only candidate, and it is right when
//! - each revision has exactly one writer, with exactly its contents, and each acknowledged write has its revision;
//! - each read tells what the history has at that place;
//! - nothing comes before an operation that had returned before it was called.
//!
//! Reads at one revision have no order among them, so each is checked against the writes and against reads elsewhere.
//! A serializable read may be placed in the past, but tells the truth about its revision, and never about the future.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Answer, Op, Outcome, Record, Written};
use crate::{Event, Timeline, Violation};

/// Checks operations against the history, which must reach beyond the last answer.
pub fn check_operations(records: &[Record], timeline: &Timeline) -> Vec<Violation> {
    let mut check = Check { timeline, violations: Vec::new(), writers: BTreeMap::new() };
    for record in records {
        check.place(record);
    }
    check.explain_the_rest(records);
    check.order(records);
    check.violations
}

struct Check<'a> {
    timeline: &'a Timeline,
    violations: Vec<Violation>,
    writers: BTreeMap<i64, &'a Record>,
}

/// What a write leaves, in the order of its operations.
type Contents<'a> = Vec<(&'a str, Written<'a>)>;

impl<'a> Check<'a> {
    fn place(&mut self, record: &'a Record) {
        match &record.outcome {
            Outcome::Ok(Answer::Written { revision }) => self.place_write(record, *revision),
            Outcome::Ok(Answer::Read { revision, found }) => {
                let expected = self.timeline.version_at(record.op.key(), *revision);
                // A revision that the history does not reach cannot have been read.
                if *revision > self.timeline.last() || expected != found.as_ref() {
                    self.violations.push(Violation::WrongRead {
                        record: Box::new(record.clone()),
                        expected: expected.cloned(),
                    });
                }
                let actual = found.as_ref().map_or(0, |found| found.mod_revision);
                let should_have_written = match &record.op {
                    Op::Swap { expected, .. } => *expected == actual,
                    Op::Delete { .. } => found.is_some(),
                    Op::Put { .. } | Op::PutLeased { .. } | Op::PutBoth { .. } => true,
                    Op::Revoke { .. } | Op::Get { .. } | Op::GetLocal { .. } => false,
                };
                if should_have_written {
                    let record = Box::new(record.clone());
                    self.violations.push(Violation::WrongSwap { record, actual });
                }
            }
            // The end of a lease is placed when it is known which revisions are taken by others.
            Outcome::Ok(Answer::Revoked { .. }) | Outcome::Failed(_) | Outcome::Unknown(_) => {}
        }
    }

    fn place_write(&mut self, record: &'a Record, revision: i64) {
        let events = self.timeline.at(revision);
        if events.is_empty() || contents(events) != record.op.writes() {
            self.violations.push(Violation::LostWrite(Box::new(record.clone())));
            return;
        }
        if let Some(other) = self.writers.insert(revision, record) {
            let (one, other) = (Box::new(other.clone()), Box::new(record.clone()));
            self.violations.push(Violation::SharedRevision(one, other));
        }
        if let Some(actual) = wrong_condition(record, revision, self.timeline) {
            let record = Box::new(record.clone());
            self.violations.push(Violation::WrongSwap { record, actual });
        }
    }

    /// Finds writers for the revisions that nobody was told of: ends of leases, and writes without an answer.
    ///
    /// Values are unique, so only deletions leave a choice. Among those of one key, taking the one that was called first
    /// for the first such revision is never wrong: none of them has returned, so time only asks that it was called early.
    /// A revision that may be the end of a lease as well as such a deletion is taken for either.
    fn explain_the_rest(&mut self, records: &'a [Record]) {
        let mut unanswered: HashMap<Contents<'a>, Vec<&'a Record>> = HashMap::new();
        for record in records {
            if matches!(record.outcome, Outcome::Unknown(_)) && record.op.is_write() {
                unanswered.entry(record.op.writes()).or_default().push(record);
            }
        }
        for candidates in unanswered.values_mut() {
            // Taken from the end.
            candidates.sort_by_key(|record| std::cmp::Reverse(record.called));
        }
        let ends = self.place_ends(records);
        for revision in self.revisions() {
            if self.writers.contains_key(&revision) {
                continue;
            }
            let events = self.timeline.at(revision);
            let candidates = unanswered.get_mut(&contents(events)).filter(|list| !list.is_empty());
            let record = match (ends.get(&revision), candidates) {
                (Some(_), Some(_)) => continue,
                (Some(end), None) => Some(*end),
                (None, Some(candidates)) => candidates.pop(),
                (None, None) => None,
            };
            let Some(record) = record else {
                let events = events.to_vec();
                self.violations.push(Violation::UnexplainedWrite { revision, events });
                continue;
            };
            self.writers.insert(revision, record);
            if let Some(actual) = wrong_condition(record, revision, self.timeline) {
                let record = Box::new(record.clone());
                self.violations.push(Violation::WrongSwap { record, actual });
            }
        }
    }

    /// Who may have ended a lease, by the revision that deletes its keys. A lease ends once, so whoever was called first
    /// may have done it, unless somebody was told that very revision.
    fn place_ends(&mut self, records: &'a [Record]) -> BTreeMap<i64, &'a Record> {
        let mut ends: BTreeMap<i64, &'a Record> = BTreeMap::new();
        let mut callers: HashMap<i64, &'a Record> = HashMap::new();
        for record in records {
            let Op::Revoke { lease } = record.op else { continue };
            match &record.outcome {
                Outcome::Ok(Answer::Revoked { revision }) => {
                    if self.timeline.is_end_of(lease, *revision) {
                        ends.insert(*revision, record);
                    } else if self.timeline.has_keys(lease, *revision) {
                        self.violations.push(Violation::KeptKeys(Box::new(record.clone())));
                    }
                }
                Outcome::Unknown(_) => {
                    let first = callers.entry(lease).or_insert(record);
                    if record.called < first.called {
                        *first = record;
                    }
                }
                Outcome::Ok(_) | Outcome::Failed(_) => {}
            }
        }
        for revision in self.revisions() {
            let lease = self.timeline.lease_that_ends(revision);
            if let Some(caller) = lease.and_then(|lease| callers.get(&lease)) {
                ends.entry(revision).or_insert(caller);
            }
        }
        ends
    }

    fn revisions(&self) -> impl Iterator<Item = i64> + use<> {
        2..=self.timeline.last()
    }

    /// One walk along the order: whoever has returned before the latest call among those before it is out of place.
    fn order(&mut self, records: &'a [Record]) {
        let mut reads: BTreeMap<i64, Vec<&'a Record>> = BTreeMap::new();
        for record in records {
            let Outcome::Ok(Answer::Read { revision, .. } | Answer::Revoked { revision }) =
                &record.outcome
            else {
                continue;
            };
            if self.writers.get(revision).is_none_or(|writer| !std::ptr::eq(*writer, record)) {
                reads.entry(*revision).or_default().push(record);
            }
        }
        let last = self.timeline.last().max(reads.keys().next_back().copied().unwrap_or(0));
        let mut latest_call: Option<&'a Record> = None;
        for revision in 0..=last {
            if let Some(writer) = self.writers.get(&revision).copied() {
                self.compare(latest_call, writer);
                latest_call = Some(later(latest_call, writer));
            }
            let reads = reads.get(&revision).map_or(&[][..], Vec::as_slice);
            for read in reads {
                self.compare(latest_call, read);
            }
            for read in reads.iter().filter(|read| !matches!(read.op, Op::GetLocal { .. })) {
                latest_call = Some(later(latest_call, read));
            }
        }
    }

    fn compare(&mut self, latest_call: Option<&'a Record>, record: &'a Record) {
        if let Some(earlier) = latest_call
            && record.returned < earlier.called
        {
            self.violations.push(Violation::OutOfOrder {
                earlier: Box::new(earlier.clone()),
                later: Box::new(record.clone()),
            });
        }
    }
}

fn contents(events: &[Event]) -> Contents<'_> {
    let mut contents = Vec::with_capacity(events.len());
    for Event { key, now, .. } in events {
        contents.push((key.as_str(), now.as_ref().map(|now| (now.value.as_str(), now.lease))));
    }
    contents
}

/// The revision at which the key of a swap was before it, if that is not the one that it asked for.
fn wrong_condition(record: &Record, revision: i64, timeline: &Timeline) -> Option<i64> {
    let Op::Swap { key, expected, .. } = &record.op else { return None };
    let actual = timeline.version_at(key, revision - 1).map_or(0, |version| version.mod_revision);
    (actual != *expected).then_some(actual)
}

/// Which of two was called later.
fn later<'a>(one: Option<&'a Record>, other: &'a Record) -> &'a Record {
    one.filter(|one| one.called >= other.called).unwrap_or(other)
}

#[cfg(test)]
mod tests;
