//! Lease expiry: the leader's clock says which leases are over, the log says when they are gone.
//!
//! An expired lease is revoked like any other: by a proposal, so every member deletes its keys at the same revision.

use std::time::Duration;

use retcd_api::etcdserverpb as pb;
use retcd_state_machine::Reader;
use tokio_util::sync::CancellationToken;

use crate::node::{NodeHandle, Request};

/// How often the leader looks for leases that are over.
const INTERVAL: Duration = Duration::from_millis(500);
/// At most a thousand revokes a second.
const REVOKES_MAX: usize = 500;
const CHECKPOINTS_MAX: usize = 1000;

/// Runs until `stop`. `writes_checkpoints`: remaining times of long leases go into the log now and then.
pub(crate) async fn expire_leases(
    node: NodeHandle,
    reader: Reader,
    writes_checkpoints: bool,
    stop: CancellationToken,
) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = stop.cancelled() => return,
        }
        if !node.is_leader() {
            continue;
        }
        let expired = reader.lessor().take_expired(node.now(), REVOKES_MAX);
        for id in expired {
            // A refused proposal is no loss: the lessor hands the lease out again after a while.
            let revoke = pb::LeaseRevokeRequest { id };
            if node.propose_as_leader(Request::LeaseRevoke, &revoke).is_ok() {
                node.metrics().server_lease_expired_total.increment();
            }
        }
        if writes_checkpoints {
            // Under the lessor's lock: a renewal that comes now has its own checkpoint behind this one in the log.
            let mut lessor = reader.lessor();
            let checkpoints = lessor.due_checkpoints(node.now(), CHECKPOINTS_MAX);
            if !checkpoints.is_empty() {
                let request = pb::LeaseCheckpointRequest { checkpoints };
                let _ = node.propose_as_leader(Request::LeaseCheckpoint, &request);
            }
        }
    }
}
