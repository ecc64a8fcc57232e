//! A lease lives at least as long as its client was promised, and not forever.
//!
//! A grant or a keep-alive that was called at some time and acknowledged promises its time to live from the call on. A
//! lease that a client revokes is not judged.

use std::collections::{BTreeMap, BTreeSet};

use retcd_checkers::history::{Op, Outcome, Record};
use retcd_state_machine::Applied;

use super::Violations;

#[derive(Default)]
pub(crate) struct Leases {
    /// When the grant was acknowledged.
    granted: BTreeMap<i64, u64>,
    /// Until when clients may rely on it.
    promised: BTreeMap<i64, u64>,
    /// When the first attempt to end it was made, by a client or by the leader's clock.
    first_end: BTreeMap<i64, u64>,
    revoked: BTreeSet<i64>,
    /// Leases that the leader found to be over: by the request that revokes them, and when that was made.
    expiries: BTreeMap<u64, (i64, u64)>,
    /// When such a request was first applied.
    gone: BTreeMap<i64, u64>,
}

impl Leases {
    pub(crate) fn acknowledged(&mut self, lease: i64, called: u64, steps: u64, now: u64) {
        self.granted.entry(lease).or_insert(now);
        let promised = self.promised.entry(lease).or_default();
        *promised = (*promised).max(called + steps);
    }

    pub(crate) fn revoke_called(&mut self, lease: i64, now: u64) {
        self.revoked.insert(lease);
        self.first_end.entry(lease).or_insert(now);
    }

    /// A client was told that there is no such lease, by an answer to a call of this time.
    pub(crate) fn missed(&self, lease: i64, called: u64, now: u64, violations: &mut Violations) {
        let is_granted = self.granted.get(&lease).is_some_and(|granted| *granted < called);
        let may_be_over = self.first_end.get(&lease).is_some_and(|end| *end <= now);
        if is_granted && !may_be_over {
            violations.push(format!("lease {lease} was granted, and is gone without an end"));
        }
    }

    pub(super) fn expires(&mut self, request_id: u64, lease: i64, now: u64) {
        self.expiries.insert(request_id, (lease, now));
        self.first_end.entry(lease).or_insert(now);
    }

    pub(super) fn applied(&mut self, applied: &Applied, now: u64) {
        if let Some(&(lease, _)) = self.expiries.get(&applied.request_id)
            && applied.outcome.is_ok()
        {
            self.gone.entry(lease).or_insert(now);
        }
    }

    /// The leader's revokes, for the history: nobody waits for their answers.
    pub(super) fn records(&self) -> Vec<Record> {
        let record = |&(lease, called): &(i64, u64)| Record {
            client: usize::MAX,
            op: Op::Revoke { lease },
            called,
            returned: u64::MAX,
            outcome: Outcome::Unknown("nobody waits for it".to_owned()),
        };
        self.expiries.values().map(record).collect()
    }

    pub(crate) fn expired(&self) -> usize {
        self.gone.len()
    }

    pub(super) fn finish(&self, violations: &mut Violations) {
        for (lease, gone) in &self.gone {
            let promised = self.promised.get(lease).copied().unwrap_or(0);
            if *gone < promised && !self.revoked.contains(lease) {
                violations.push(format!(
                    "lease {lease} expired at {gone}, but was promised until {promised}"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use retcd_state_machine::{Rejection, Response};

    use super::*;

    fn revoked(outcome: Result<Response, Rejection>) -> Applied {
        Applied { index: 1, request_id: 5, outcome, conf_change: None, is_skipped: false }
    }

    /// Granted for 100 steps from 10 on, kept alive at 50, expired at `at`.
    fn expired(at: u64) -> Leases {
        let mut leases = Leases::default();
        leases.acknowledged(7, 10, 100, 12);
        leases.acknowledged(7, 50, 100, 60);
        leases.expires(5, 7, at);
        leases.applied(&revoked(Err(Rejection::LeaseNotFound(7))), 20);
        leases.applied(&revoked(Ok(Response::default())), at);
        leases
    }

    #[test]
    fn a_lease_that_expires_early_is_found() {
        let violations = |leases: &Leases| {
            let mut violations = Violations::new();
            leases.finish(&mut violations);
            violations
        };
        assert!(violations(&expired(150)).is_empty());
        assert_eq!(violations(&expired(149)).len(), 1);
        let mut revoked = expired(149);
        revoked.revoke_called(7, 148);
        assert!(violations(&revoked).is_empty());
    }

    #[test]
    fn a_lease_that_is_lost_is_found() {
        let missed = |called, now| {
            let mut violations = Violations::new();
            expired(150).missed(7, called, now, &mut violations);
            violations.len()
        };
        assert_eq!(missed(20, 30), 1);
        assert_eq!(missed(11, 30), 0, "the grant was not acknowledged when the call was made");
        assert_eq!(missed(20, 150), 0);
    }
}
