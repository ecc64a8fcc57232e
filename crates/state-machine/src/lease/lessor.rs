//! Grant, attach, renew, revoke.

use std::time::Duration;

use retcd_api::{etcdserverpb::LeaseCheckpoint, leasepb};

/// The longest time to live that a client may ask for.
pub const MAX_TTL_SECS: i64 = 9_000_000_000;

#[derive(Debug, Clone)]
pub struct Config {
    /// Shorter grants are raised to this.
    pub min_ttl_secs: i64,
    /// Distance between two checkpoints of one lease.
    pub checkpoint_interval: Duration,
    /// An expired lease that was handed out and not revoked is handed out again after this time.
    pub revoke_retry: Duration,
}

/// What was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub id: i64,
    /// As granted: raised to the minimum.
    pub ttl_secs: i64,
}

/// Why a lease is not granted. Every member reaches the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("lease id {0:x} is in use")]
    Exists(i64),
    #[error("a time to live of {0} s is too large")]
    TtlTooLarge(i64),
    /// The server picks an id before it proposes, so this is a damaged request.
    #[error("a lease needs an id other than 0")]
    NoId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("lease {0:x} does not exist")]
pub struct NotFound(pub i64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeepAliveError {
    #[error("lease {0:x} does not exist")]
    NotFound(i64),
    /// Past its time, and waits to be revoked: it cannot be saved any more, unless another leader takes over.
    #[error("lease {0:x} has expired and will be revoked")]
    Expired(i64),
    #[error("not the primary lessor")]
    NotPrimary,
}

/// A lease that runs again with its full time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    pub ttl_secs: i64,
    /// A shorter remainder is stored for the next leader: propose a checkpoint with 0 and wait for it before the
    /// client is answered.
    pub needs_checkpoint_clear: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeToLive {
    pub granted_ttl_secs: i64,
    /// Whole seconds, rounded towards zero; 0 or negative when the revoke is pending. `None` when this member is not
    /// the primary: only the primary's clock counts.
    pub remaining_secs: Option<i64>,
}

#[derive(Debug)]
pub struct Lessor;

impl Lessor {
    pub fn new(_config: Config) -> Self {
        todo!()
    }

    /// Replaces all leases by stored ones, without keys. The lessor is not primary afterwards.
    pub fn restore(&mut self, _leases: impl IntoIterator<Item = leasepb::Lease>) {
        todo!()
    }

    pub fn grant(&mut self, _id: i64, _ttl_secs: i64, _now: Duration) -> Result<Lease, GrantError> {
        todo!()
    }

    /// Ends a lease. Returns its keys, ascending: the caller deletes them in one revision.
    pub fn revoke(&mut self, _id: i64) -> Result<Vec<Box<[u8]>>, NotFound> {
        todo!()
    }

    /// Ties a key to a lease. False, and nothing happens, when there is no such lease.
    pub fn attach(&mut self, _id: i64, _key: &[u8]) -> bool {
        todo!()
    }

    /// Unties a key from a lease; unknown ones are ignored.
    pub fn detach(&mut self, _id: i64, _key: &[u8]) {
        todo!()
    }

    pub fn exists(&self, _id: i64) -> bool {
        todo!()
    }

    pub fn keep_alive(&mut self, _id: i64, _now: Duration) -> Result<Renewed, KeepAliveError> {
        todo!()
    }

    pub fn time_to_live(&self, _id: i64, _now: Duration) -> Option<TimeToLive> {
        todo!()
    }

    /// The attached keys, ascending. `None` when there is no such lease.
    pub fn keys(&self, _id: i64) -> Option<impl Iterator<Item = &[u8]> + '_> {
        None::<std::iter::Empty<&[u8]>>
    }

    /// All ids: by expiry on a primary (equal ones in the order of their grants), else ascending.
    pub fn leases(&self) -> Vec<i64> {
        todo!()
    }

    pub fn len(&self) -> usize {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn is_primary(&self) -> bool {
        todo!()
    }

    /// Starts all clocks: full or checkpointed time plus `extend` from `now` on.
    pub fn promote(&mut self, _now: Duration, _extend: Duration) {
        todo!()
    }

    /// Stops all clocks: nothing expires here until the next promotion.
    pub fn demote(&mut self) {
        todo!()
    }

    /// At most `limit` leases whose time is over, in the order of their expiry. The caller proposes their revocation.
    pub fn take_expired(&mut self, _now: Duration, _limit: usize) -> Vec<i64> {
        todo!()
    }

    /// At most `limit` remainders to be proposed now.
    pub fn due_checkpoints(&mut self, _now: Duration, _limit: usize) -> Vec<LeaseCheckpoint> {
        todo!()
    }

    /// Notes the remainder of a lease, as applied from the log; 0 clears it. Unknown leases are ignored.
    pub fn checkpoint(&mut self, _id: i64, _remaining_ttl_secs: i64) {
        todo!()
    }

    /// What the backend keeps of a lease.
    pub fn to_stored(&self, _id: i64) -> Option<leasepb::Lease> {
        todo!()
    }
}
