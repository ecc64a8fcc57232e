//! One entry of the log: which request it is, whether it may be done, and what it does.
//!
//! The order of the checks is etcd's. Compares, revisions and leases are checked further down, with the request at
//! work; whatever is refused there has changed nothing.

use std::time::Duration;

use prost::Message;
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::alarm_request::AlarmAction;
use retcd_api::raftpb::{ConfChange, Entry, EntryType};

use crate::auth::{Action, Caller, needs};
use crate::backend::{Change, Failure};
use crate::check::charge;
use crate::flush::meta_change;
use crate::lease::{GrantError, Lessor};
use crate::machine::{Applied, Response};
use crate::mvcc::range::{Query, read_revision};
use crate::mvcc::write::{Writer, fault};
use crate::mvcc::{KeyRange, RecordKey, Revision, txn};
use crate::rejection::Rejection;
use crate::schema::{Bucket, meta};
use crate::store::{Shared, Store};

/// A deterministic answer inside, a local fault outside.
type Outcome = Result<Result<Response, Rejection>, Failure>;

/// Applies entries to the locked store.
pub(crate) struct Applier<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) store: &'a mut Store,
    pub(crate) now: Duration,
}

impl Applier<'_> {
    /// Applies one entry, unless its effects are there already.
    pub(crate) fn apply(
        &mut self,
        entry: &Entry,
        wants: impl Fn(u64) -> bool,
    ) -> Result<Applied, Failure> {
        if entry.index <= self.store.applied_index {
            return Ok(Applied {
                index: entry.index,
                request_id: 0,
                outcome: Ok(self.empty()),
                conf_change: None,
                is_skipped: true,
            });
        }
        if let Some(change) = self.store.auth.take_first_revision() {
            self.store.pending.push(change);
        }
        let applied = match entry.r#type() {
            EntryType::EntryNormal => self.normal(entry, wants)?,
            EntryType::EntryConfChange => self.conf_change(entry)?,
            EntryType::EntryConfChangeV2 => {
                return Err(Failure::new("a joint membership change, which etcd never proposes"));
            }
        };
        self.store.applied_index = entry.index;
        self.store.applied_term = entry.term;
        Ok(applied)
    }

    fn normal(&mut self, entry: &Entry, wants: impl Fn(u64) -> bool) -> Result<Applied, Failure> {
        let mut applied = Applied {
            index: entry.index,
            request_id: 0,
            outcome: Ok(self.empty()),
            conf_change: None,
            is_skipped: false,
        };
        // A new leader begins its term with an empty entry.
        if entry.data.is_empty() {
            return Ok(applied);
        }
        let request = match pb::InternalRaftRequest::decode(entry.data.clone()) {
            Ok(request) => request,
            Err(error) => {
                // What etcd 3.5 says to the v2 store means something to the cluster's members only.
                let request = pb::Request::decode(entry.data.clone())
                    .map_err(|_| Failure::because(format!("log entry {}", entry.index), error))?;
                let changes = self.store.cluster.apply_v2(&request);
                applied.outcome = Ok(self.changed(changes));
                return Ok(applied);
            }
        };
        let header_id = request.header.as_ref().map_or(0, |header| header.id);
        applied.request_id = if header_id != 0 { header_id } else { request.id };
        let is_wanted = applied.request_id != 0 && wants(applied.request_id);
        applied.outcome = match self.gate(&request) {
            Ok(()) => self.request(&request, entry.index, is_wanted)?,
            Err(rejection) => Err(rejection),
        };
        Ok(applied)
    }

    /// What may forbid a request before it is looked at in detail, first match first.
    fn gate(&self, request: &pb::InternalRaftRequest) -> Result<(), Rejection> {
        self.gate_corrupt(request)?;
        self.gate_no_space(request)?;
        self.gate_auth(request)
    }

    /// Under the CORRUPT alarm data stand still.
    fn gate_corrupt(&self, request: &pb::InternalRaftRequest) -> Result<(), Rejection> {
        let touches_data = request.put.is_some()
            || request.range.is_some()
            || request.delete_range.is_some()
            || request.txn.is_some()
            || request.compaction.is_some()
            || request.lease_grant.is_some()
            || request.lease_revoke.is_some();
        if touches_data && self.store.alarms.has(pb::AlarmType::Corrupt) {
            return Err(Rejection::Corrupt);
        }
        Ok(())
    }

    /// Under the NOSPACE alarm nothing may grow.
    fn gate_no_space(&self, request: &pb::InternalRaftRequest) -> Result<(), Rejection> {
        if charged(request) > 0 && self.store.alarms.has(pb::AlarmType::Nospace) {
            return Err(Rejection::NoSpace);
        }
        Ok(())
    }

    /// Whether the user in the header may do that. What is not named here was checked before the proposal, or comes from
    /// members themselves.
    fn gate_auth(&self, request: &pb::InternalRaftRequest) -> Result<(), Rejection> {
        if !self.store.auth.is_enabled() {
            return Ok(());
        }
        let action = if let Some(put) = &request.put {
            Action::Put(put)
        } else if let Some(txn) = &request.txn {
            Action::Txn(txn)
        } else if let Some(delete) = &request.delete_range {
            Action::DeleteRange(delete)
        } else if let Some(range) = &request.range {
            Action::Read { key: &range.key, range_end: &range.range_end }
        } else if let Some(revoke) = &request.lease_revoke {
            Action::ChangeLease(revoke.id)
        } else if let Some(action) = needs(request) {
            action
        } else {
            return Ok(());
        };
        let caller = Caller::from(request.header.as_ref());
        self.store.auth.check(caller, action, &self.shared.lessor.lock())
    }

    fn request(
        &mut self,
        request: &pb::InternalRaftRequest,
        index: u64,
        is_wanted: bool,
    ) -> Outcome {
        let fits_quota = self.shared.fits_quota(self.store, charged(request));
        let outcome = self.dispatch(request, index, is_wanted)?;
        if outcome.is_ok() && !fits_quota {
            return Ok(Err(Rejection::QuotaExceeded));
        }
        Ok(outcome)
    }

    fn dispatch(
        &mut self,
        request: &pb::InternalRaftRequest,
        index: u64,
        is_wanted: bool,
    ) -> Outcome {
        if let Some(put) = &request.put {
            return self.put(put);
        }
        if let Some(txn) = &request.txn {
            return self.txn(txn, is_wanted);
        }
        if let Some(delete) = &request.delete_range {
            return self.delete_range(delete);
        }
        if let Some(range) = &request.range {
            return self.range(range, is_wanted);
        }
        if let Some(compaction) = &request.compaction {
            return Ok(self.compact(compaction, index));
        }
        if let Some(grant) = &request.lease_grant {
            return Ok(self.lease_grant(grant));
        }
        if let Some(revoke) = &request.lease_revoke {
            return Ok(self.lease_revoke(revoke.id));
        }
        if let Some(checkpoint) = &request.lease_checkpoint {
            return Ok(self.lease_checkpoint(checkpoint));
        }
        if let Some(alarm) = &request.alarm {
            return Ok(Ok(self.alarm(alarm)));
        }
        if let Some(attributes) = &request.cluster_member_attr_set {
            let changes = self.store.cluster.set_attributes(attributes);
            return Ok(Ok(self.changed(changes)));
        }
        if let Some(version) = &request.cluster_version_set {
            let changes = self.store.cluster.set_version(&version.ver);
            return Ok(Ok(self.changed(changes)));
        }
        if let Some(downgrade) = &request.downgrade_info_set {
            let changes = self.store.cluster.set_downgrade(downgrade);
            return Ok(Ok(self.changed(changes)));
        }
        if request.downgrade_version_test.is_some() {
            return Ok(Ok(self.empty()));
        }
        let done = self.auth(request, index);
        Ok(done.unwrap_or(Err(Rejection::NotBuilt("this kind of request"))))
    }

    fn put(&mut self, request: &pb::PutRequest) -> Outcome {
        let mut writer = self.writer();
        if let Err(rejection) = txn::check_put(&writer, request) {
            return Ok(Err(rejection));
        }
        let mut body = Vec::new();
        txn::put(&mut writer, request, &mut body)?;
        Ok(Ok(Response { revision: writer.finish(), body }))
    }

    fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> Outcome {
        let mut writer = self.writer();
        let mut body = Vec::new();
        txn::delete_range(&mut writer, request, &mut body)?;
        Ok(Ok(Response { revision: writer.finish(), body }))
    }

    fn txn(&mut self, request: &pb::TxnRequest, is_wanted: bool) -> Outcome {
        let mut writer = self.writer();
        let outcome = txn::apply(&mut writer, request, is_wanted)?;
        let revision = writer.finish();
        Ok(outcome.map(|body| Response { revision, body }))
    }

    /// A range in the log: nobody proposes one today, but old logs may hold some.
    fn range(&mut self, request: &pb::RangeRequest, is_wanted: bool) -> Outcome {
        let revision = self.store.revision;
        let at = match read_revision(request.revision, revision, self.store.compacted) {
            Ok(at) => at,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let mut body = Vec::new();
        if is_wanted {
            let query = Query::new(request);
            query.answer(&*self.store, at, &mut body).map_err(fault)?;
        }
        Ok(Ok(Response { revision, body }))
    }

    /// Forbids reads below the revision at once. The work is left to the storage thread.
    fn compact(
        &mut self,
        request: &pb::CompactionRequest,
        index: u64,
    ) -> Result<Response, Rejection> {
        let (requested, store) = (request.revision, &mut *self.store);
        if requested <= store.compacted {
            return Err(Rejection::Compacted { requested, compacted: store.compacted });
        }
        if requested > store.revision {
            return Err(Rejection::FutureRevision { requested, current: store.revision });
        }
        store.compactions.push(requested, store.compacted, index);
        store.compacted = requested;
        let revision = RecordKey::new(Revision::new(requested, 0), false);
        let change = meta_change(meta::SCHEDULED_COMPACT_REVISION, revision.as_bytes().to_vec());
        Ok(self.changed([change]))
    }

    fn lease_grant(&mut self, request: &pb::LeaseGrantRequest) -> Result<Response, Rejection> {
        let granted = {
            let mut lessor = self.shared.lessor.lock();
            let granted =
                lessor.grant(request.id, request.ttl, self.now).map_err(|error| match error {
                    GrantError::Exists(id) => Rejection::LeaseExists(id),
                    GrantError::TtlTooLarge(ttl) => Rejection::LeaseTtlTooLarge(ttl),
                    GrantError::NoId => Rejection::LeaseNotFound(0),
                })?;
            self.store.pending.push(lease_change(&lessor, granted.id));
            granted
        };
        let answer =
            pb::LeaseGrantResponse { id: granted.id, ttl: granted.ttl_secs, ..Default::default() };
        Ok(Response { revision: self.store.revision, body: answer.encode_to_vec() })
    }

    /// Deletes the keys of a lease in one revision, in key order.
    fn lease_revoke(&mut self, id: i64) -> Result<Response, Rejection> {
        let keys = {
            let mut lessor = self.shared.lessor.lock();
            let keys = lessor.revoke(id).map_err(|_| Rejection::LeaseNotFound(id))?;
            self.store.pending.push(lease_change(&lessor, id));
            keys
        };
        let mut writer = self.writer();
        for key in keys {
            writer.delete(KeyRange::new(&key, b""));
        }
        Ok(Response { revision: writer.finish(), body: Vec::new() })
    }

    fn lease_checkpoint(
        &mut self,
        request: &pb::LeaseCheckpointRequest,
    ) -> Result<Response, Rejection> {
        let mut lessor = self.shared.lessor.lock();
        for checkpoint in &request.checkpoints {
            if !lessor.exists(checkpoint.id) {
                return Err(Rejection::LeaseNotFound(checkpoint.id));
            }
            lessor.checkpoint(checkpoint.id, checkpoint.remaining_ttl);
            self.store.pending.push(lease_change(&lessor, checkpoint.id));
        }
        drop(lessor);
        Ok(self.empty())
    }

    fn alarm(&mut self, request: &pb::AlarmRequest) -> Response {
        let member = pb::AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.store.alarms.list(request.alarm()),
            Ok(AlarmAction::Activate) if request.alarm != pb::AlarmType::None as i32 => {
                let change = self.store.alarms.activate(member);
                self.changed(change);
                vec![member]
            }
            Ok(AlarmAction::Deactivate) => match self.store.alarms.deactivate(member) {
                Some(change) => {
                    self.changed([change]);
                    vec![member]
                }
                None => Vec::new(),
            },
            Ok(AlarmAction::Activate) | Err(_) => Vec::new(),
        };
        let answer = pb::AlarmResponse { header: None, alarms };
        Response { revision: self.store.revision, body: answer.encode_to_vec() }
    }

    fn conf_change(&mut self, entry: &Entry) -> Result<Applied, Failure> {
        let mut change = ConfChange::decode(entry.data.clone()).map_err(|error| {
            Failure::because(format!("membership entry {}", entry.index), error)
        })?;
        let request_id = change.id;
        let verdict = self.store.cluster.check(&change, self.shared.config.learners_max)?;
        match &verdict {
            Ok(()) => {
                let changes = self.store.cluster.apply(&change)?;
                self.changed(changes);
                self.store.pending.awaits_conf_state = true;
            }
            Err(_) => change.node_id = 0,
        }
        Ok(Applied {
            index: entry.index,
            request_id,
            outcome: verdict.map(|()| Response::default()),
            conf_change: Some(change),
            is_skipped: false,
        })
    }

    fn writer(&mut self) -> Writer<'_> {
        Writer::new(self.store, &self.shared.lessor)
    }

    /// Queues changes for the disk; the answer to most requests that make some is empty.
    pub(crate) fn changed(&mut self, changes: impl IntoIterator<Item = Change>) -> Response {
        for change in changes {
            self.store.pending.push(change);
        }
        self.empty()
    }

    fn empty(&self) -> Response {
        Response { revision: self.store.revision, body: Vec::new() }
    }
}

/// What the quota and the NOSPACE alarm go by; 0 always passes.
fn charged(request: &pb::InternalRaftRequest) -> u64 {
    if let Some(put) = &request.put {
        return charge::put(put);
    }
    if let Some(txn) = &request.txn {
        return charge::txn(txn);
    }
    if request.lease_grant.is_some() { charge::LEASE_GRANT } else { 0 }
}

/// The lease as it is to be stored, or gone.
fn lease_change(lessor: &Lessor, id: i64) -> Change {
    Change {
        bucket: Bucket::Lease,
        key: id.to_be_bytes().to_vec(),
        value: lessor.to_stored(id).map(|lease| lease.encode_to_vec()),
    }
}
