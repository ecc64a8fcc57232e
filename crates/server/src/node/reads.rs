//! Linearizable reads: what must be known before local state may answer.
//!
//! A member that is the only voter is always the leader, and whatever it acknowledged it has applied before the answer
//! left. So its present state is never stale, and the barrier is free. This is the fast path of every read on a single
//! member: no lock, no other thread.

use std::sync::atomic::Ordering;

use retcd_api::error::{Code, RpcError};

use super::NodeHandle;

impl NodeHandle {
    /// Returns when this member's state holds everything that was acknowledged to anybody before the call.
    #[allow(
        clippy::unused_async,
        reason = "with other voters there is a round of messages to wait for"
    )]
    pub(crate) async fn read_barrier(&self) -> Result<(), RpcError> {
        if self.shared.is_sole_voter.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.leader().is_none() {
            return Err(RpcError::NoLeader);
        }
        Err(RpcError::other(
            Code::Unimplemented,
            "linearizable reads with several voters are not available in this release",
        ))
    }
}
