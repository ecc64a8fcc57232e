//! Grant, attach, renew, revoke.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use retcd_api::{etcdserverpb::LeaseCheckpoint, leasepb};

use super::expiry::{Instant, Item, NEVER, Queue, instant, spread};

/// The longest time to live that a client may ask for.
pub const MAX_TTL_SECS: i64 = 9_000_000_000;

const NANOS_PER_SEC: u64 = 1_000_000_000;

#[derive(Debug, Clone)]
pub struct Config {
    /// Shorter grants are raised to this.
    pub min_ttl_secs: i64,
    /// Distance between two checkpoints of one lease; leases that are granted for less time have none.
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
    /// A shorter remainder is stored for the next leader, or may be on its way there: propose a checkpoint with 0 and wait
    /// for it before the client is answered.
    pub needs_checkpoint_clear: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeToLive {
    pub granted_ttl_secs: i64,
    /// Whole seconds, rounded towards zero; 0 or negative when the revoke is pending. `None` when this member is not
    /// the primary: only the primary's clock counts.
    pub remaining_secs: Option<i64>,
}

/// All leases of one member.
///
/// Invariants
/// - on a primary every lease has an expiry and one valid item in the queue of expiries, at its expiry or earlier;
///   later only while it is handed out, when the item says when to hand it out again;
/// - on others no lease has an expiry, and the queues are empty.
#[derive(Debug)]
pub struct Lessor {
    config: Config,
    leases: BTreeMap<i64, Entry>,
    is_primary: bool,
    /// The number of the next grant.
    next_grant: u64,
    expiries: Queue,
    checkpoints: Queue,
    /// From when on the clocks run that the last promotion started.
    promoted: Instant,
    /// Leases whose remainder was handed out by this primary: it may be on its way into the log.
    handed_out: BTreeSet<i64>,
}

/// Kept small: there may be a million.
#[derive(Debug)]
struct Entry {
    ttl_secs: i64,
    /// The checkpointed remainder; 0 for none.
    remaining_ttl_secs: i64,
    /// [`NEVER`] unless this lessor is the primary.
    expiry: Instant,
    /// The time of its item in the queue of expiries; others of its items there are void.
    queued: Instant,
    grant: u64,
    keys: BTreeSet<Box<[u8]>>,
}

impl Lessor {
    pub fn new(config: Config) -> Self {
        Lessor {
            config,
            leases: BTreeMap::new(),
            is_primary: false,
            next_grant: 0,
            expiries: Queue::default(),
            checkpoints: Queue::default(),
            promoted: 0,
            handed_out: BTreeSet::new(),
        }
    }

    /// Replaces all leases by stored ones, without keys. The lessor is not primary afterwards.
    ///
    /// The minimum applies to them too: it may have been raised since they were granted.
    pub fn restore(&mut self, leases: impl IntoIterator<Item = leasepb::Lease>) {
        self.demote();
        self.leases.clear();
        for leasepb::Lease { id, ttl, remaining_ttl } in leases {
            let ttl_secs = ttl.max(self.config.min_ttl_secs);
            self.insert(id, ttl_secs, remaining_ttl.max(0));
        }
    }

    /// Adds a lease. On a primary its time starts at `now`.
    pub fn grant(&mut self, id: i64, ttl_secs: i64, now: Duration) -> Result<Lease, GrantError> {
        if id == 0 {
            return Err(GrantError::NoId);
        }
        if ttl_secs > MAX_TTL_SECS {
            return Err(GrantError::TtlTooLarge(ttl_secs));
        }
        if self.exists(id) {
            return Err(GrantError::Exists(id));
        }
        let ttl_secs = ttl_secs.max(self.config.min_ttl_secs);
        self.insert(id, ttl_secs, 0);
        if self.is_primary {
            let now = instant(now);
            self.start_clock(id, after(now, ttl_secs), now);
        }
        Ok(Lease { id, ttl_secs })
    }

    /// Ends a lease. Returns its keys, ascending: the caller deletes them in one revision.
    pub fn revoke(&mut self, id: i64) -> Result<Vec<Box<[u8]>>, NotFound> {
        let entry = self.leases.remove(&id).ok_or(NotFound(id))?;
        self.handed_out.remove(&id);
        self.expiries.sweep(self.leases.len(), |item| is_queued(&self.leases, item));
        self.checkpoints.sweep(self.leases.len(), |item| of_lease(&self.leases, item).is_some());
        Ok(entry.keys.into_iter().collect())
    }

    /// Ties a key to a lease. False, and nothing happens, when there is no such lease.
    ///
    /// A key has one lease at most: the caller unties it from its former one.
    pub fn attach(&mut self, id: i64, key: &[u8]) -> bool {
        let Some(entry) = self.leases.get_mut(&id) else { return false };
        if !entry.keys.contains(key) {
            entry.keys.insert(key.into());
        }
        true
    }

    /// Unties a key from a lease; unknown ones are ignored. The lease lives on without keys.
    pub fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(entry) = self.leases.get_mut(&id) {
            entry.keys.remove(key);
        }
    }

    pub fn exists(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Gives a lease its full time again, whatever remainder was checkpointed. One look-up, but for the first renewal after a
    /// promotion.
    pub fn keep_alive(&mut self, id: i64, now: Duration) -> Result<Renewed, KeepAliveError> {
        if !self.is_primary {
            return Err(KeepAliveError::NotPrimary);
        }
        let entry = self.leases.get_mut(&id).ok_or(KeepAliveError::NotFound(id))?;
        let now = instant(now);
        if entry.expiry <= now {
            return Err(KeepAliveError::Expired(id));
        }
        entry.expiry = after(now, entry.ttl_secs);
        if entry.expiry < entry.queued {
            // A promotion had extended it. All other renewals leave the queue alone.
            entry.queued = entry.expiry;
            self.expiries.push(Item { time: entry.expiry, grant: entry.grant, id });
        }
        Ok(Renewed {
            ttl_secs: entry.ttl_secs,
            needs_checkpoint_clear: entry.remaining_ttl_secs > 0 || self.handed_out.contains(&id),
        })
    }

    /// `None` when there is no such lease.
    pub fn time_to_live(&self, id: i64, now: Duration) -> Option<TimeToLive> {
        let entry = self.leases.get(&id)?;
        let remaining_secs = self.is_primary.then(|| seconds_until(entry.expiry, instant(now)));
        Some(TimeToLive { granted_ttl_secs: entry.ttl_secs, remaining_secs })
    }

    /// The attached keys, ascending. `None` when there is no such lease.
    pub fn keys(&self, id: i64) -> Option<impl Iterator<Item = &[u8]> + '_> {
        Some(self.leases.get(&id)?.keys.iter().map(|key| &**key))
    }

    /// All ids: by expiry on a primary (equal ones in the order of their grants), else ascending.
    pub fn leases(&self) -> Vec<i64> {
        if self.is_primary {
            return self.by_expiry().into_iter().map(|item| item.id).collect();
        }
        self.leases.keys().copied().collect()
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// Starts all clocks: full or checkpointed time plus `extend` from `now` on. A pile of equal expiries is spread.
    ///
    /// `extend` is one election timeout: for so long the old leader may still have answered keepalives.
    pub fn promote(&mut self, now: Duration, extend: Duration) {
        self.demote();
        self.is_primary = true;
        let now = instant(now);
        let start = now.saturating_add(instant(extend));
        self.promoted = start;
        for entry in self.leases.values_mut() {
            let has_checkpoint = entry.remaining_ttl_secs > 0;
            let secs = if has_checkpoint { entry.remaining_ttl_secs } else { entry.ttl_secs };
            entry.expiry = after(start, secs);
        }
        let items = self.by_expiry();
        let mut expiries: Vec<Instant> = items.iter().map(|item| item.time).collect();
        spread(&mut expiries);
        for (item, expiry) in items.into_iter().zip(expiries) {
            self.start_clock(item.id, expiry, now);
        }
    }

    /// Stops all clocks: nothing expires here until the next promotion.
    pub fn demote(&mut self) {
        if !self.is_primary {
            return;
        }
        self.is_primary = false;
        self.expiries.clear();
        self.checkpoints.clear();
        self.handed_out.clear();
        for entry in self.leases.values_mut() {
            (entry.expiry, entry.queued) = (NEVER, NEVER);
        }
    }

    /// At most `limit` leases whose time is over, in the order of their expiry. The caller proposes their revocation.
    ///
    /// Each is handed out once, and again when it still exists after [`Config::revoke_retry`].
    pub fn take_expired(&mut self, now: Duration, limit: usize) -> Vec<i64> {
        let now = instant(now);
        let retry = now.saturating_add(instant(self.config.revoke_retry).max(1));
        let mut expired = Vec::new();
        while expired.len() < limit {
            let Some(item) = self.expiries.pop_due(now) else { break };
            if !is_queued(&self.leases, &item) {
                continue;
            }
            let entry = self.leases.get_mut(&item.id).expect("a valid item has a lease");
            if item.time >= entry.expiry {
                expired.push(item.id);
                entry.queued = retry;
            } else {
                entry.queued = entry.expiry;
            }
            self.expiries.push(Item { time: entry.queued, ..item });
        }
        expired
    }

    /// At most `limit` remainders to be proposed now. One that is not applied comes again after the interval.
    pub fn due_checkpoints(&mut self, now: Duration, limit: usize) -> Vec<LeaseCheckpoint> {
        let now = instant(now);
        let next = now.saturating_add(self.checkpoint_interval());
        let mut due = Vec::new();
        while due.len() < limit {
            let Some(item) = self.checkpoints.pop_due(now) else { break };
            let Some(entry) = of_lease(&self.leases, &item) else { continue };
            self.checkpoints.push(Item { time: next, ..item });
            let left = entry.expiry.saturating_sub(now);
            let remaining_ttl = i64::try_from(left.div_ceil(NANOS_PER_SEC)).unwrap_or(i64::MAX);
            // A remainder that is short would be gone before the next leader needs it; one that is full says nothing.
            if left > self.checkpoint_interval() && remaining_ttl < entry.ttl_secs {
                self.handed_out.insert(item.id);
                due.push(LeaseCheckpoint { id: item.id, remaining_ttl });
            }
        }
        due
    }

    /// Notes the remainder of a lease, as applied from the log; 0 clears it. Unknown leases are ignored.
    ///
    /// A primary that is told that there is none, when it has started the clock with one, gives the full time after all:
    /// the old leader has promised it to a client, in an entry that was committed but not applied here at the promotion.
    pub fn checkpoint(&mut self, id: i64, remaining_ttl_secs: i64) {
        let Some(entry) = self.leases.get_mut(&id) else { return };
        entry.remaining_ttl_secs = remaining_ttl_secs.max(0);
        if self.is_primary && entry.remaining_ttl_secs == 0 {
            entry.expiry = entry.expiry.max(after(self.promoted, entry.ttl_secs));
        }
    }

    /// What the backend keeps of a lease.
    pub fn to_stored(&self, id: i64) -> Option<leasepb::Lease> {
        let entry = self.leases.get(&id)?;
        Some(leasepb::Lease { id, ttl: entry.ttl_secs, remaining_ttl: entry.remaining_ttl_secs })
    }

    /// A lease whose clock stands still.
    fn insert(&mut self, id: i64, ttl_secs: i64, remaining_ttl_secs: i64) {
        let grant = self.next_grant;
        self.next_grant += 1;
        let entry = Entry {
            ttl_secs,
            remaining_ttl_secs,
            expiry: NEVER,
            queued: NEVER,
            grant,
            keys: BTreeSet::new(),
        };
        self.leases.insert(id, entry);
    }

    fn start_clock(&mut self, id: i64, expiry: Instant, now: Instant) {
        let interval = self.checkpoint_interval();
        let entry = self.leases.get_mut(&id).expect("a clock belongs to a lease");
        (entry.expiry, entry.queued) = (expiry, expiry);
        let item = Item { time: expiry, grant: entry.grant, id };
        self.expiries.push(item);
        if after(0, entry.ttl_secs) > interval {
            self.checkpoints.push(Item { time: now.saturating_add(interval), ..item });
        }
    }

    fn by_expiry(&self) -> Vec<Item> {
        let item =
            |(id, entry): (&i64, &Entry)| Item { time: entry.expiry, grant: entry.grant, id: *id };
        let mut items: Vec<Item> = self.leases.iter().map(item).collect();
        items.sort_unstable();
        items
    }

    fn checkpoint_interval(&self) -> Instant {
        instant(self.config.checkpoint_interval).max(1)
    }
}

/// The lease of an item, unless it is gone; a later one with its id is another.
fn of_lease<'a>(leases: &'a BTreeMap<i64, Entry>, item: &Item) -> Option<&'a Entry> {
    leases.get(&item.id).filter(|entry| entry.grant == item.grant)
}

/// Whether an item of the queue of expiries is the valid one of its lease.
fn is_queued(leases: &BTreeMap<i64, Entry>, item: &Item) -> bool {
    of_lease(leases, item).is_some_and(|entry| entry.queued == item.time)
}

/// `secs` after a time, but not [`NEVER`].
fn after(time: Instant, secs: i64) -> Instant {
    let nanos = u64::try_from(secs).unwrap_or(0).saturating_mul(NANOS_PER_SEC);
    time.saturating_add(nanos).min(NEVER - 1)
}

/// Whole seconds from `now` to a time, rounded towards zero.
fn seconds_until(time: Instant, now: Instant) -> i64 {
    let secs = i64::try_from(time.abs_diff(now) / NANOS_PER_SEC).unwrap_or(i64::MAX);
    if time < now { -secs } else { secs }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lessor() -> Lessor {
        Lessor::new(Config {
            min_ttl_secs: 2,
            checkpoint_interval: 300 * SECOND,
            revoke_retry: 7 * SECOND,
        })
    }

    #[test]
    fn leases_that_come_and_go_leave_nothing_behind() {
        let mut lessor = lessor();
        lessor.promote(SECOND, SECOND);
        for id in 1..=100_000 {
            lessor.grant(id, 3600, SECOND).unwrap();
            lessor.revoke(id).unwrap();
        }
        assert!(lessor.is_empty());
        lessor.grant(7, 2, SECOND).unwrap();
        assert_eq!(lessor.take_expired(3 * SECOND, 10), [7]);
    }

    #[test]
    fn an_id_that_is_granted_again_does_not_end_with_its_former_lease() {
        let mut lessor = lessor();
        lessor.promote(Duration::ZERO, Duration::ZERO);
        lessor.grant(1, 5, Duration::ZERO).unwrap();
        lessor.revoke(1).unwrap();
        lessor.grant(1, 60, Duration::ZERO).unwrap();
        assert_eq!(lessor.take_expired(59 * SECOND, 10), [0; 0]);
        assert_eq!(lessor.take_expired(60 * SECOND, 10), [1]);
    }

    #[test]
    fn a_promise_that_is_applied_after_the_promotion_counts() {
        let mut lessor = lessor();
        lessor.grant(1, 1000, Duration::ZERO).unwrap();
        lessor.checkpoint(1, 400);
        lessor.promote(10 * SECOND, SECOND);
        // The old leader had renewed the lease: the entry that clears the remainder comes only now.
        lessor.checkpoint(1, 0);
        assert_eq!(lessor.take_expired(1010 * SECOND, 10), [0; 0]);
        assert_eq!(lessor.take_expired(1011 * SECOND, 10), [1]);
    }

    #[test]
    fn a_remainder_on_its_way_into_the_log_is_cleared_by_a_renewal() {
        let mut lessor = lessor();
        lessor.promote(Duration::ZERO, Duration::ZERO);
        lessor.grant(1, 1000, Duration::ZERO).unwrap();
        let needs_clear = |lessor: &mut Lessor, at| {
            lessor.keep_alive(1, at * SECOND).unwrap().needs_checkpoint_clear
        };
        assert!(!needs_clear(&mut lessor, 1));
        assert_eq!(lessor.due_checkpoints(300 * SECOND, 10).len(), 1);
        assert!(needs_clear(&mut lessor, 301), "it is not applied, but may be yet");
        lessor.checkpoint(1, 701);
        lessor.checkpoint(1, 0);
        lessor.demote();
        lessor.promote(400 * SECOND, SECOND);
        assert!(!needs_clear(&mut lessor, 401));
    }

    #[test]
    fn the_longest_lease_fits_on_the_clock() {
        let mut lessor = lessor();
        let uptime = 1_000_000 * SECOND;
        lessor.promote(uptime, SECOND);
        lessor.grant(i64::MIN, MAX_TTL_SECS, uptime).unwrap();
        let remaining = lessor.time_to_live(i64::MIN, uptime).unwrap().remaining_secs;
        assert_eq!(remaining, Some(MAX_TTL_SECS));
        assert_eq!(
            lessor.grant(1, MAX_TTL_SECS + 1, uptime),
            Err(GrantError::TtlTooLarge(MAX_TTL_SECS + 1))
        );
        assert_eq!(lessor.grant(0, 1, uptime), Err(GrantError::NoId));
    }

    #[test]
    fn a_promotion_spreads_a_thousand_leases_over_time() {
        let mut lessor = lessor();
        for id in 1..=2000 {
            lessor.grant(id, 10, Duration::ZERO).unwrap();
        }
        lessor.promote(Duration::ZERO, SECOND);
        assert_eq!(lessor.take_expired(11 * SECOND, 5000).len(), 750);
        assert_eq!(lessor.take_expired(12 * SECOND, 5000).len(), 750);
        assert_eq!(lessor.take_expired(13 * SECOND, 5000), (1501..=2000).collect::<Vec<_>>());
    }
}
