//! What is due, and when.
//!
//! Most leases are renewed again and again and never expire. So the queue is lazy: a renewal only changes the lease,
//! and an item that comes up too early is put back with the time that holds by then. Items of leases that are gone
//! stay until they come up, or until they are the majority.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// A time on the primary's clock, in nanoseconds. The longest lease is 9·10⁹ s, which just fits beside any uptime.
pub(super) type Instant = u64;

/// Later than all times: the clock stands still.
pub(super) const NEVER: Instant = u64::MAX;

pub(super) fn instant(time: Duration) -> Instant {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER - 1).min(NEVER - 1)
}

/// One item per lease. Equal times come up in the order of the grants.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Item>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) time: Instant,
    /// The number of the grant: tells a lease from a later one with the same id.
    pub(super) grant: u64,
    pub(super) id: i64,
}

impl Queue {
    /// Below this length a queue is not worth sweeping.
    const SWEEP_MIN: usize = 1024;

    pub(super) fn push(&mut self, item: Item) {
        self.heap.push(Reverse(item));
    }

    /// The next item that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Item> {
        let top = self.heap.peek_mut()?;
        if top.0.time > now {
            return None;
        }
        Some(std::collections::binary_heap::PeekMut::pop(top).0)
    }

    pub(super) fn clear(&mut self) {
        self.heap = BinaryHeap::new();
    }

    /// Drops the items of leases that are gone when they are more than the others.
    pub(super) fn sweep(&mut self, leases: usize, exists: impl Fn(&Item) -> bool) {
        if self.heap.len() > Queue::SWEEP_MIN.max(2 * leases) {
            self.heap.retain(|Reverse(item)| exists(item));
            self.heap.shrink_to(2 * leases);
        }
    }
}

/// How many leases may end within one second after a promotion.
const SPREAD_PER_SECOND: usize = 750;
/// Fewer leases than this are not spread.
const SPREAD_LEASES_MIN: usize = 1000;

/// Pushes expiries back so that no more than [`SPREAD_PER_SECOND`] fall within one second: leases that were granted
/// over hours all restart at a promotion, and would end together otherwise. `expiries` is ascending and stays so.
pub(super) fn spread(expiries: &mut [Instant]) {
    if expiries.len() < SPREAD_LEASES_MIN {
        return;
    }
    let second = instant(Duration::from_secs(1));
    let mut last = VecDeque::with_capacity(SPREAD_PER_SECOND);
    for expiry in expiries {
        if last.len() == SPREAD_PER_SECOND {
            let earliest: Option<Instant> = last.pop_front();
            let allowed = earliest.map_or(0, |earliest| earliest.saturating_add(second));
            *expiry = allowed.max(*expiry).min(NEVER - 1);
        }
        last.push_back(*expiry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Instant = 1_000_000_000;

    #[test]
    fn due_items_come_by_time_then_by_grant() {
        let mut queue = Queue::default();
        for (time, grant, id) in [(5, 2, 1), (3, 3, 9), (5, 1, 2), (8, 0, 3)] {
            queue.push(Item { time, grant, id });
        }
        let ids: Vec<i64> = std::iter::from_fn(|| queue.pop_due(5)).map(|item| item.id).collect();
        assert_eq!(ids, [9, 2, 1]);
        assert_eq!(queue.pop_due(8).map(|item| item.id), Some(3));
    }

    #[test]
    fn items_of_leases_that_are_gone_are_swept() {
        let mut queue = Queue::default();
        for grant in 0..3000 {
            queue.push(Item { time: 1, grant, id: 0 });
        }
        queue.sweep(2000, |_| false);
        assert_eq!(queue.heap.len(), 3000, "fewer than half are gone");
        queue.sweep(10, |item| item.grant < 10);
        assert_eq!(queue.heap.len(), 10);
    }

    #[test]
    fn a_pile_of_expiries_is_spread() {
        let mut few = vec![7 * SECOND; 999];
        spread(&mut few);
        assert!(few.iter().all(|expiry| *expiry == 7 * SECOND));

        let mut pile = vec![7 * SECOND; 2000];
        pile.push(60 * SECOND);
        spread(&mut pile);
        assert_eq!(pile[749], 7 * SECOND);
        assert_eq!(pile[750], 8 * SECOND);
        assert_eq!(pile[1500], 9 * SECOND);
        assert_eq!(pile[2000], 60 * SECOND, "what lies apart is left alone");
        assert!(pile.is_sorted());
    }
}
