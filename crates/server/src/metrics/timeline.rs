//! Where the requests of late were on their way through the log, and when: the parts of a sampled call's span.
//!
//! The commit thread knows batches, a call knows the ids of its requests; they meet here, and only while traces are
//! collected. What nobody asks about soon is forgotten.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::Hop;

/// Batches that are remembered: more than a call's answer can be behind.
const KEPT: usize = 512;

/// The latest batches. Empty until it is turned on.
#[derive(Debug, Default)]
pub struct Timeline {
    is_on: AtomicBool,
    batches: Mutex<VecDeque<Batch>>,
}

#[derive(Debug)]
struct Batch {
    passage: Passage,
    requests: Vec<u64>,
}

/// A stay at a hop, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passage {
    pub(crate) hop: Hop,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Timeline {
    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Notes that requests have just left a hop, where they were for so long.
    pub(crate) fn left(&self, hop: Hop, took: Duration, requests: impl Iterator<Item = u64>) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let end = nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let passage = Passage { hop, start: end.saturating_sub(nanos(took)), end };
        let mut batches = self.batches.lock();
        if batches.len() == KEPT {
            batches.pop_front();
        }
        batches.push_back(Batch { passage, requests: requests.collect() });
    }

    /// The way of one request, as far as it is remembered.
    pub(crate) fn of(&self, request: u64) -> Vec<Passage> {
        let batches = self.batches.lock();
        let own = batches.iter().filter(|batch| batch.requests.contains(&request));
        own.map(|batch| batch.passage).collect()
    }
}

thread_local! {
    /// The last request that this thread sent into the log; 0 is none.
    static LAST_PROPOSED: Cell<u64> = const { Cell::new(0) };
}

/// Notes that this thread sends a request into the log.
pub(crate) fn proposed(request: u64) {
    LAST_PROPOSED.set(request);
}

/// The request that this thread has sent into the log since this was asked last.
pub(crate) fn take_proposed() -> Option<u64> {
    Some(LAST_PROPOSED.replace(0)).filter(|request| *request != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_a_request_is_remembered_for_a_while() {
        let timeline = Timeline::default();
        let second = Duration::from_secs(1);
        timeline.left(Hop::Queue, second, [1].into_iter());
        assert_eq!(timeline.of(1), [], "it is off");
        timeline.turn_on();
        timeline.left(Hop::Queue, second, [1, 2].into_iter());
        timeline.left(Hop::Log, second, [2].into_iter());
        let hops: Vec<_> = timeline.of(2).iter().map(|passage| passage.hop).collect();
        assert_eq!(hops, [Hop::Queue, Hop::Log]);
        let [passage] = timeline.of(1)[..] else { panic!("request 1 was in one batch") };
        assert_eq!(passage.end - passage.start, 1_000_000_000);
        for _ in 0..KEPT {
            timeline.left(Hop::Apply, second, [3].into_iter());
        }
        assert_eq!(timeline.of(2), []);
    }

    #[test]
    fn a_thread_knows_what_it_sent() {
        assert_eq!(take_proposed(), None);
        proposed(7);
        assert_eq!((take_proposed(), take_proposed()), (Some(7), None));
    }
}
