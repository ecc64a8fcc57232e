//! What must hold, one file per property. They are told what happens while it happens; the first violation ends a run.
//!
//! The world knows more than any client: every member shows each entry that it applies and each record that this wrote.
//! So there is a history to check against, compactions or not. What clients and watchers saw is checked against it at
//! the end, by the checkers that judge real processes too (`retcd_checkers`).

mod agreement;
mod leases;
mod states;

use bytes::Bytes;
use retcd_api::raftpb::{ConfState, Entry};
use retcd_checkers::history::Record;
use retcd_checkers::{Trace, check_operations, check_watch};
use retcd_consensus::{Node, ReadState};
use retcd_state_machine::{Applied, Reader};

use self::agreement::Agreement;
use self::leases::Leases;
use self::states::States;
use crate::disk::Log;

/// What should not have happened, in words.
pub(crate) type Violations = Vec<String>;

#[derive(Default)]
pub(crate) struct Checkers {
    pub(crate) violations: Violations,
    pub(crate) agreement: Agreement,
    pub(crate) states: States,
    pub(crate) leases: Leases,
}

impl Checkers {
    /// A member may lead now.
    pub(crate) fn leads(&mut self, id: u64, node: &Node) {
        if node.is_leader() {
            self.agreement.leads(id, node.term(), &mut self.violations);
        }
    }

    pub(crate) fn read_began(&mut self, context: &Bytes) {
        self.agreement.read_began(context);
    }

    pub(crate) fn read_answered(&mut self, state: &ReadState) {
        self.agreement.read_answered(&state.context, state.index, &mut self.violations);
    }

    /// A member is told that these entries are committed.
    pub(crate) fn committed(&mut self, id: u64, entries: &[Entry]) {
        for entry in entries {
            self.agreement.committed(id, entry, &mut self.violations);
        }
    }

    /// To be called soon after [`committed`](Self::committed), with the durable logs of all members.
    pub(crate) fn durable(&mut self, logs: &[(u64, &Log)]) {
        self.agreement.durable(logs, &mut self.violations);
    }

    pub(crate) fn logs(&mut self, logs: &[(u64, &Log)]) {
        agreement::match_logs(logs, &mut self.violations);
    }

    pub(crate) fn members(&mut self, conf_state: &ConfState) {
        self.agreement.members(conf_state);
    }

    pub(crate) fn applied(&mut self, id: u64, applied: &Applied, now: u64) {
        if !applied.is_skipped {
            self.states.applied(id, applied, &mut self.violations);
            self.leases.applied(applied, now);
        }
    }

    /// A member's state stands between two batches. `seen`: the last revision whose records it has shown.
    pub(crate) fn state_reached(&mut self, id: u64, reader: &Reader, seen: i64) -> i64 {
        self.states.reached(id, reader, seen, &mut self.violations)
    }

    /// A member goes on from a database: its own, or one from another member.
    pub(crate) fn opened(&mut self, id: u64, reader: &Reader) {
        self.states.keys_at(id, reader, reader.revision(), &mut self.violations);
    }

    /// A client reads all keys as they were.
    pub(crate) fn read_at(&mut self, id: u64, reader: &Reader, revision: i64) {
        self.states.keys_at(id, reader, revision, &mut self.violations);
    }

    /// The leader's clock says that a lease is over; `request_id` is that of the proposal to revoke it.
    pub(crate) fn lease_expires(&mut self, request_id: u64, lease: i64, now: u64) {
        self.leases.expires(request_id, lease, now);
    }

    /// Everything is over.
    pub(crate) fn finish(&mut self, mut records: Vec<Record>, traces: &[Trace]) {
        self.leases.finish(&mut self.violations);
        records.extend(self.leases.records());
        let timeline = &self.states.timeline;
        let operations = check_operations(&records, timeline);
        let watches = traces.iter().flat_map(|trace| check_watch(trace, timeline));
        self.violations
            .extend(operations.into_iter().chain(watches).map(|violation| violation.to_string()));
    }
}
