//! Automatic compaction: the leader drops history that is older than the operator wants to keep.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_state_machine::Reader;
use tokio_util::sync::CancellationToken;

use crate::node::{NodeHandle, Request};

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retention {
    /// Revisions younger than this.
    Periodic(Duration),
    /// The newest so many revisions.
    Revisions(i64),
}

const HOUR: Duration = Duration::from_secs(3600);
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// The periodic mode looks at the revision this often in one interval.
const SAMPLES: u32 = 10;

/// Decides what to compact. Pure: told the revision at every step, it names the revision to compact to.
#[derive(Debug)]
pub(crate) struct Compactor {
    retention: Retention,
    /// Revisions as they were, oldest first, one a step.
    samples: VecDeque<i64>,
    /// The last one compacted to.
    last: i64,
    /// The last compaction failed: try again at the next step.
    is_retry: bool,
    steps_to_compaction: u32,
}

impl Compactor {
    pub(crate) fn new(retention: Retention) -> Self {
        Compactor {
            retention,
            samples: VecDeque::new(),
            last: 0,
            is_retry: false,
            steps_to_compaction: 0,
        }
    }

    /// The time between two steps.
    pub(crate) fn step(&self) -> Duration {
        match self.retention {
            Retention::Periodic(period) => period.min(HOUR) / SAMPLES,
            Retention::Revisions(_) => REVISION_INTERVAL,
        }
    }

    /// Samples of one whole period.
    fn window(&self) -> usize {
        match self.retention {
            Retention::Periodic(period) => {
                usize::try_from(period.as_nanos() / self.step().as_nanos().max(1))
                    .unwrap_or(usize::MAX)
            }
            Retention::Revisions(_) => 1,
        }
    }

    /// One step: the revision to compact to, if it is time. `is_leader` is false on a member that must keep quiet.
    pub(crate) fn advance(&mut self, revision: i64, is_leader: bool) -> Option<i64> {
        let target = match self.retention {
            Retention::Revisions(keep) => revision - keep,
            Retention::Periodic(_) => {
                self.samples.push_back(revision);
                while self.samples.len() > self.window() + 1 {
                    self.samples.pop_front();
                }
                if self.samples.len() <= self.window() {
                    return None;
                }
                if !self.is_retry && self.steps_to_compaction > 0 {
                    self.steps_to_compaction -= 1;
                    return None;
                }
                *self.samples.front()?
            }
        };
        if !is_leader || target <= 0 || target == self.last {
            return None;
        }
        Some(target)
    }

    /// How the compaction that [`advance`](Self::advance) asked for ended.
    pub(crate) fn finished(&mut self, revision: i64, is_done: bool) {
        self.is_retry = !is_done;
        if is_done {
            self.last = revision;
            if let Retention::Periodic(_) = self.retention {
                self.steps_to_compaction = SAMPLES - 1;
            }
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, node: NodeHandle, reader: Reader, stop: CancellationToken) {
        let mut interval = tokio::time::interval(self.step());
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = stop.cancelled() => return,
            }
            let Some(revision) = self.advance(reader.revision(), node.is_leader()) else {
                continue;
            };
            let request = pb::CompactionRequest { revision, physical: false };
            let outcome = match node.propose(Request::Compaction, &request.encode_to_vec(), None) {
                Ok(pending) => pending.await.map(drop),
                Err(error) => Err(error),
            };
            let is_done = matches!(outcome, Ok(()) | Err(RpcError::Compacted));
            self.finished(revision, is_done);
            match outcome {
                Ok(()) => tracing::info!(revision, "completed auto compaction"),
                Err(error) => tracing::warn!(revision, %error, "failed auto compaction"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_revisions_are_kept() {
        let mut compactor = Compactor::new(Retention::Revisions(10));
        assert_eq!(compactor.advance(10, true), None);
        assert_eq!(compactor.advance(25, true), Some(15));
        compactor.finished(15, true);
        assert_eq!(compactor.advance(25, true), None, "nothing changed");
        assert_eq!(compactor.advance(30, false), None, "not the leader");
        assert_eq!(compactor.advance(30, true), Some(20));
    }

    #[test]
    fn the_first_compaction_comes_after_one_period_and_goes_to_its_start() {
        let mut compactor = Compactor::new(Retention::Periodic(HOUR));
        assert_eq!(compactor.step(), HOUR / 10);
        for step in 0..10 {
            assert_eq!(compactor.advance(100 + step, true), None);
        }
        assert_eq!(compactor.advance(110, true), Some(100));
        compactor.finished(100, true);
        for step in 11..20 {
            assert_eq!(compactor.advance(100 + step, true), None);
        }
        assert_eq!(compactor.advance(120, true), Some(110));
    }

    #[test]
    fn a_failed_compaction_is_tried_again_at_the_next_step() {
        let mut compactor = Compactor::new(Retention::Periodic(HOUR));
        for step in 0..10 {
            compactor.advance(100 + step, true);
        }
        assert_eq!(compactor.advance(110, true), Some(100));
        compactor.finished(100, false);
        assert_eq!(compactor.advance(111, true), Some(101));
    }

    #[test]
    fn a_long_period_compacts_every_hour() {
        let mut compactor = Compactor::new(Retention::Periodic(3 * HOUR));
        assert_eq!(compactor.step(), HOUR / 10);
        for step in 0..30 {
            assert_eq!(compactor.advance(100 + step, true), None);
        }
        assert_eq!(compactor.advance(130, true), Some(100));
    }
}
