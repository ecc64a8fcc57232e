//! Which databases are being exported: the limit, and what the log must keep for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Databases that may be on their way to members at once; more wait. As many messages etcd keeps in flight.
const MEMBERS_MAX: usize = 16;
/// Databases that may be on their way to clients at once; more are refused. Each holds a thread and a pinned state, and
/// slow clients must not keep the members waiting.
const CLIENTS_MAX: usize = 16;
/// How long a member that has received a database may take to ask for the entries behind it, as in etcd.
const LINGER: Duration = Duration::from_secs(30);

/// The exports of a member. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Exports {
    pub(super) to_members: Arc<Semaphore>,
    pub(super) to_clients: Arc<Semaphore>,
    /// What the exports to members need of the log, by number.
    holds: Arc<Mutex<BTreeMap<u64, Held>>>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    index: u64,
    /// Set when the database has left.
    until: Option<Instant>,
}

impl Default for Exports {
    fn default() -> Self {
        Exports {
            to_members: Arc::new(Semaphore::new(MEMBERS_MAX)),
            to_clients: Arc::new(Semaphore::new(CLIENTS_MAX)),
            holds: Arc::default(),
        }
    }
}

impl Exports {
    /// The lowest state that a member is being sent, or has lately got: it will ask for the entries above this index, so
    /// the log must keep them. The commit thread asks all the time.
    pub(crate) fn lowest_index(&self) -> Option<u64> {
        let mut holds = self.holds.lock();
        if holds.is_empty() { None } else { lowest(&mut holds, Instant::now()) }
    }

    /// Notes an export to a member.
    pub(super) fn hold(&self, index: u64) -> Hold {
        let mut holds = self.holds.lock();
        let number = holds.last_key_value().map_or(0, |(number, _)| number + 1);
        holds.insert(number, Held { index, until: None });
        Hold { exports: self.clone(), number }
    }
}

/// Forgets those whose time is over.
fn lowest(holds: &mut BTreeMap<u64, Held>, now: Instant) -> Option<u64> {
    holds.retain(|_, held| held.until.is_none_or(|until| now < until));
    holds.values().map(|held| held.index).min()
}

/// An export that is noted. Dropped before [`complete`](Self::complete), it is forgotten at once.
#[derive(Debug)]
pub(super) struct Hold {
    exports: Exports,
    number: u64,
}

impl Hold {
    /// The database has left.
    pub(super) fn complete(self) {
        self.complete_at(Instant::now());
    }

    fn complete_at(self, now: Instant) {
        if let Some(held) = self.exports.holds.lock().get_mut(&self.number) {
            held.until = Some(now + LINGER);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.exports.holds.lock();
        if holds.get(&self.number).is_some_and(|held| held.until.is_none()) {
            holds.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_state_is_kept_until_its_receiver_had_time() {
        let exports = Exports::default();
        assert_eq!(exports.lowest_index(), None);
        let (first, second) = (exports.hold(7), exports.hold(9));
        assert_eq!(exports.lowest_index(), Some(7));
        drop(first);
        assert_eq!(exports.lowest_index(), Some(9));
        let sent = Instant::now();
        second.complete_at(sent);
        let just_before = sent + Duration::from_secs(29);
        assert_eq!(lowest(&mut exports.holds.lock(), just_before), Some(9));
        assert_eq!(lowest(&mut exports.holds.lock(), sent + LINGER), None);
        assert_eq!(exports.lowest_index(), None);
    }
}
