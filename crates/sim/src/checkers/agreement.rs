//! One leader per term, one committed log on a quorum of durable logs, logs that match, reads that miss nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use retcd_api::raftpb::{ConfState, Entry};

use super::Violations;
use crate::disk::Log;

#[derive(Default)]
pub(crate) struct Agreement {
    leaders: BTreeMap<u64, u64>,
    /// The one committed log.
    agreed: Vec<Entry>,
    /// Of the agreed entries those that were looked for in the durable logs.
    found: usize,
    /// Every configuration that was ever in force.
    configurations: Vec<ConfState>,
    /// The agreed length when a question for an index was asked.
    reads: BTreeMap<Bytes, u64>,
    pub(crate) reads_answered: u64,
}

impl Agreement {
    /// The first entries, which all members of a new cluster begin with.
    pub(crate) fn bootstrap(&mut self, entries: &[Entry], conf_state: ConfState) {
        self.agreed = entries.to_vec();
        self.found = entries.len();
        self.configurations.push(conf_state);
    }

    pub(crate) fn len(&self) -> u64 {
        self.agreed.len() as u64
    }

    pub(super) fn leads(&mut self, id: u64, term: u64, violations: &mut Violations) {
        let leader = *self.leaders.entry(term).or_insert(id);
        if leader != id {
            violations.push(format!("term {term} has two leaders: {leader} and {id}"));
        }
    }

    pub(super) fn committed(&mut self, id: u64, entry: &Entry, violations: &mut Violations) {
        let position = usize::try_from(entry.index - 1).expect("a short log");
        match self.agreed.get(position) {
            Some(agreed) if agreed != entry => violations
                .push(format!("member {id} commits {entry:?}, where others have {agreed:?}")),
            Some(_) => {}
            None if position == self.agreed.len() => self.agreed.push(entry.clone()),
            None => violations.push(format!("member {id} leaves a gap before {}", entry.index)),
        }
    }

    /// Whoever hears first of a committed entry may acknowledge it: it must be on a quorum by then.
    pub(super) fn durable(&mut self, logs: &[(u64, &Log)], violations: &mut Violations) {
        for entry in &self.agreed[self.found..] {
            let holds = |id: u64| logs.iter().any(|(other, log)| *other == id && log.holds(entry));
            let is_quorum = self.configurations.iter().any(|ConfState { voters, .. }| {
                voters.iter().filter(|&&voter| holds(voter)).count() > voters.len() / 2
            });
            if !is_quorum {
                violations.push(format!("entry {} is committed without a quorum", entry.index));
            }
        }
        self.found = self.agreed.len();
    }

    pub(super) fn members(&mut self, conf_state: &ConfState) {
        if !conf_state.voters.is_empty() && !self.configurations.contains(conf_state) {
            self.configurations.push(conf_state.clone());
        }
    }

    pub(super) fn read_began(&mut self, context: &Bytes) {
        self.reads.insert(context.clone(), self.len());
    }

    pub(super) fn read_answered(
        &mut self,
        context: &Bytes,
        index: u64,
        violations: &mut Violations,
    ) {
        // Doubled answers are possible; a read is judged by its first.
        let Some(known) = self.reads.remove(context) else { return };
        self.reads_answered += 1;
        if index < known {
            violations.push(format!("a read at {index} misses entry {known}"));
        }
    }
}

/// Entries of equal index and term are equal, and so is everything before them.
pub(super) fn match_logs(logs: &[(u64, &Log)], violations: &mut Violations) {
    for (position, (one, left)) in logs.iter().enumerate() {
        for (other, right) in &logs[position + 1..] {
            let mut must_match = false;
            for (index, left) in left.tail().iter().rev() {
                let Some(right) = right.tail().get(index) else { continue };
                must_match |= left.term == right.term;
                if must_match && left != right {
                    violations.push(format!(
                        "the logs of {one} and {other} differ at {index}, below an entry they share"
                    ));
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn disk(entries: &[Entry]) -> Disk {
        let mut disk = Disk::new();
        disk.append(None, entries);
        disk.write();
        disk.sync();
        disk
    }

    fn violations(check: impl FnOnce(&mut Agreement, &mut Violations)) -> Violations {
        let mut agreement = Agreement::default();
        let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        agreement.bootstrap(&[entry(1, 1)], members);
        let mut violations = Violations::new();
        check(&mut agreement, &mut violations);
        violations
    }

    #[test]
    fn a_second_leader_of_a_term_is_found() {
        let check = |second: u64, term: u64| {
            violations(|agreement, violations| {
                agreement.leads(1, 2, violations);
                agreement.leads(second, term, violations);
            })
        };
        assert!(check(1, 2).is_empty() && check(2, 3).is_empty());
        assert_eq!(check(2, 2), ["term 2 has two leaders: 1 and 2"]);
    }

    #[test]
    fn another_committed_log_is_found() {
        let check = |entries: &[Entry]| {
            violations(|agreement, violations| {
                for entry in entries {
                    agreement.committed(1, entry, violations);
                }
            })
        };
        assert!(check(&[entry(1, 1), entry(2, 1), entry(2, 1), entry(3, 4)]).is_empty());
        assert_eq!(check(&[entry(2, 1), entry(2, 2)]).len(), 1);
        assert_eq!(check(&[entry(3, 1)]), ["member 1 leaves a gap before 3"]);
    }

    #[test]
    fn an_entry_that_is_not_on_a_quorum_is_found() {
        let (long, short) = (disk(&[entry(1, 1), entry(2, 1)]), disk(&[entry(1, 1)]));
        let check = |logs: [&Disk; 3]| {
            violations(|agreement, violations| {
                agreement.committed(1, &entry(2, 1), violations);
                let logs: Vec<_> = (1..).zip(logs.map(Disk::durable)).collect();
                agreement.durable(&logs, violations);
            })
        };
        assert!(check([&long, &short, &long]).is_empty());
        assert_eq!(check([&long, &short, &short]), ["entry 2 is committed without a quorum"]);
    }

    #[test]
    fn a_read_that_misses_something_is_found() {
        let check = |index| {
            violations(|agreement, violations| {
                let context = Bytes::from_static(b"read");
                agreement.committed(1, &entry(2, 1), violations);
                agreement.read_began(&context);
                agreement.read_answered(&context, index, violations);
            })
        };
        assert!(check(2).is_empty());
        assert_eq!(check(1), ["a read at 1 misses entry 2"]);
    }

    #[test]
    fn logs_that_do_not_match_are_found() {
        let check = |left: &[Entry], right: &[Entry]| {
            let (left, right) = (disk(left), disk(right));
            let mut violations = Violations::new();
            match_logs(&[(1, left.durable()), (2, right.durable())], &mut violations);
            violations
        };
        let common = [entry(1, 1), entry(2, 2), entry(3, 2)];
        assert!(check(&common, &common[..2]).is_empty());
        assert!(check(&common, &[entry(1, 1), entry(2, 3)]).is_empty(), "not committed yet");
        assert_eq!(check(&common, &[entry(1, 1), entry(2, 1), entry(3, 2)]).len(), 1);
    }
}
