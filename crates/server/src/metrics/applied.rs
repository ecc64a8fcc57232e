//! What the commit thread tells of its batches: `etcd_server_apply_duration_seconds` and the hops of a write.
//!
//! A batch is timed as a whole: looking at the clock for each entry would cost as much as applying it. Each entry counts
//! with its share of the batch.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use retcd_api::etcdserverpb::{InternalRaftRequest, LeaseGrantRequest};
use retcd_api::raftpb;
use retcd_state_machine::Applied;

use super::registry::Histogram;
use super::{Metrics, label_of};

/// Where a batch of writes is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    Queue,
    Log,
    Apply,
}

impl Hop {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Log => "log",
            Self::Apply => "apply",
        }
    }
}

/// Fields of `InternalRaftRequest` with etcd's names of what they ask for.
const OPS: [(u32, &str); 30] = [
    (3, "Range"),
    (4, "Put"),
    (5, "DeleteRange"),
    (6, "Txn"),
    (7, "Compaction"),
    (8, "LeaseGrant"),
    (9, "LeaseRevoke"),
    (10, "Alarm"),
    (11, "LeaseCheckpoint"),
    (1000, "AuthEnable"),
    (1011, "AuthDisable"),
    (1012, "Authenticate"),
    (1013, "AuthStatus"),
    (1100, "AuthUserAdd"),
    (1101, "AuthUserDelete"),
    (1102, "AuthUserGet"),
    (1103, "AuthUserChangePassword"),
    (1104, "AuthUserGrantRole"),
    (1105, "AuthUserRevokeRole"),
    (1106, "AuthUserList"),
    (1107, "AuthRoleList"),
    (1200, "AuthRoleAdd"),
    (1201, "AuthRoleDelete"),
    (1202, "AuthRoleGet"),
    (1203, "AuthRoleGrantPermission"),
    (1204, "AuthRoleRevokePermission"),
    (1300, "ClusterVersionSet"),
    (1301, "ClusterMemberAttrSet"),
    (1302, "DowngradeInfoSet"),
    (9900, "DowngradeVersionTest"),
];

/// The place in [`OPS`] of what an entry asks for, and the request itself. Entries that ask for nothing have none.
fn op_of(mut data: &[u8]) -> Option<(usize, &[u8])> {
    while !data.is_empty() {
        let (field, wire) = decode_key(&mut data).ok()?;
        if wire == WireType::Varint {
            decode_varint(&mut data).ok()?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut data).ok()?).ok()?;
        let (request, rest) = data.split_at_checked(length)?;
        if let Ok(place) = OPS.binary_search_by_key(&field, |(field, _)| *field) {
            return Some((place, request));
        }
        data = rest;
    }
    None
}

/// The handles, looked up once: a lone client's put is a batch of its own.
#[derive(Debug, Default)]
pub struct Commits {
    hops: [OnceLock<Arc<Histogram>>; 3],
    /// By place in [`OPS`] and success.
    ops: [[OnceLock<Arc<Histogram>>; 2]; OPS.len()],
}

/// The id of the request in an entry; 0 when it has none.
pub(crate) fn request_id(entry: &raftpb::Entry) -> u64 {
    let request = InternalRaftRequest::decode(entry.data.clone()).unwrap_or_default();
    request.header.map_or(request.id, |header| header.id)
}

impl Metrics {
    /// Notes entries that were applied together, each with what came of it, and how long all took.
    pub(crate) fn entries_applied(
        &self,
        entries: &[raftpb::Entry],
        applied: &[Applied],
        took: Duration,
    ) {
        let mut counts = [[0_u64; 2]; OPS.len()];
        for (entry, applied) in entries.iter().zip(applied) {
            if applied.is_skipped || entry.r#type() != raftpb::EntryType::EntryNormal {
                continue;
            }
            if let Some((op, request)) = op_of(&entry.data) {
                counts[op][usize::from(applied.outcome.is_ok())] += 1;
                if applied.outcome.is_ok() {
                    self.lease_changed(OPS[op].1, request);
                }
            }
        }
        let total: u64 = counts.as_flattened().iter().sum();
        let Some(share) = u32::try_from(total).ok().and_then(|total| took.checked_div(total))
        else {
            return;
        };
        self.hop_took(Hop::Apply, took);
        self.timeline.left(Hop::Apply, took, applied.iter().map(|applied| applied.request_id));
        for (op, outcomes) in counts.iter().enumerate() {
            for (is_success, count) in [false, true].into_iter().zip(*outcomes) {
                if count > 0 {
                    self.op(op, is_success).observe_times(share.as_secs_f64(), count);
                }
            }
        }
    }

    fn op(&self, op: usize, is_success: bool) -> &Histogram {
        let labels = ["v3", OPS[op].1, label_of(is_success)];
        self.commits.ops[op][usize::from(is_success)]
            .get_or_init(|| self.server_apply_duration_seconds.with(labels))
    }

    fn lease_changed(&self, op: &str, request: &[u8]) {
        match op {
            "LeaseGrant" => {
                self.lease_granted_total.increment();
                if let Ok(grant) = LeaseGrantRequest::decode(request) {
                    #[expect(clippy::cast_precision_loss, reason = "a number of seconds")]
                    self.lease_ttl_total.observe(grant.ttl as f64);
                }
            }
            "LeaseRevoke" => self.lease_revoked_total.increment(),
            _ => {}
        }
    }

    /// Notes the time that a batch spent at a hop.
    pub(crate) fn hop_took(&self, hop: Hop, took: Duration) {
        let made = || self.commit_hop_duration_seconds.with([hop.name()]);
        self.commits.hops[hop as usize].get_or_init(made).observe_duration(took);
    }
}

#[cfg(test)]
mod tests {
    use retcd_api::etcdserverpb as pb;
    use retcd_state_machine::{Rejection, Response};

    use super::*;
    use crate::config::FeatureGates;

    fn entry(request: &InternalRaftRequest) -> raftpb::Entry {
        raftpb::Entry { data: request.encode_to_vec().into(), ..Default::default() }
    }

    fn applied(outcome: Result<(), Rejection>) -> Applied {
        let outcome = outcome.map(|()| Response { revision: 1, body: Vec::new() });
        Applied { index: 1, request_id: 0, outcome, conf_change: None, is_skipped: false }
    }

    #[test]
    fn every_op_is_found_behind_its_header() {
        assert!(OPS.is_sorted_by_key(|(field, _)| *field));
        let header = Some(pb::RequestHeader { id: 7, ..Default::default() });
        let put = InternalRaftRequest {
            header,
            id: 7,
            put: Some(pb::PutRequest::default()),
            ..Default::default()
        };
        let data = put.encode_to_vec();
        assert_eq!(op_of(&data).map(|(op, _)| OPS[op].1), Some("Put"));
        // Members of other makes may write the header first.
        let only_header = InternalRaftRequest { put: None, ..put };
        let reversed = [only_header.encode_to_vec(), b"\x22\x00".to_vec()].concat();
        assert_eq!(op_of(&reversed).map(|(op, _)| OPS[op].1), Some("Put"));
        assert_eq!(op_of(b""), None);
        assert_eq!(op_of(b"\x22\xff"), None);
    }

    #[test]
    fn entries_count_with_their_share_of_the_batch() {
        let metrics = Metrics::new(false, &FeatureGates::default());
        let put =
            InternalRaftRequest { put: Some(pb::PutRequest::default()), ..Default::default() };
        let grant = InternalRaftRequest {
            lease_grant: Some(LeaseGrantRequest { id: 1, ttl: 60 }),
            ..Default::default()
        };
        let entries =
            [entry(&put), entry(&put), entry(&put), entry(&grant), raftpb::Entry::default()];
        let refused = applied(Err(Rejection::NoSpace));
        let outcomes =
            [applied(Ok(())), applied(Ok(())), refused, applied(Ok(())), applied(Ok(()))];
        metrics.entries_applied(&entries, &outcomes, Duration::from_millis(4));
        let took =
            |op, success| metrics.server_apply_duration_seconds.with(["v3", op, success]).count();
        assert_eq!((took("Put", "true"), took("Put", "false")), (2, 1));
        assert_eq!(took("LeaseGrant", "true"), 1);
        assert_eq!(metrics.lease_granted_total.get(), 1);
        assert_eq!(metrics.lease_ttl_total.count(), 1);
        assert_eq!(metrics.commit_hop_duration_seconds.with(["apply"]).count(), 1);
        metrics.entries_applied(&[raftpb::Entry::default()], &[applied(Ok(()))], Duration::ZERO);
        assert_eq!(metrics.commit_hop_duration_seconds.with(["apply"]).count(), 1);
    }
}
