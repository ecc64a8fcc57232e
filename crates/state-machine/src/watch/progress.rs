//! Progress answers: "you have every event up to this revision".
//!
//! The revision of a progress answer is the last one that the hub has delivered. A watcher may be told when it is
//! synced, and when the revision is not below the one it asked to start at. Since it goes through the same buffer as
//! the events, it is true at its place in the stream.

use std::time::Duration;

use retcd_api::etcdserverpb::WatchResponse;

use super::History;
use super::hub::Hub;
use super::requests::NO_WATCH_ID;
use super::watcher::Watcher;
use crate::backend::Failure;

/// Shorter intervals are raised to this.
pub(super) const INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Hub {
    /// Sends the periodic progress answers that are due at `now`: to each watcher that wants them, unless it got
    /// events since the last time.
    pub fn notify_progress(
        &mut self,
        now: Duration,
        history: &impl History,
    ) -> Result<(), Failure> {
        if self.next_progress().is_none_or(|due| due > now) {
            return Ok(());
        }
        self.advance(history)?;
        while let Some((due, stream)) = self.progress_due.first().copied() {
            if due > now {
                break;
            }
            self.progress_due.pop_first();
            self.notify_stream(stream, history);
            let interval = self.streams[stream].progress_interval;
            let next = due.saturating_add(interval);
            let next = if next > now { next } else { now.saturating_add(interval) };
            self.streams[stream].progress_due = next;
            self.progress_due.insert((next, stream));
        }
        Ok(())
    }

    /// When [`Hub::notify_progress`] has work next.
    pub fn next_progress(&self) -> Option<Duration> {
        self.progress_due.first().map(|(due, _)| *due)
    }

    /// One answer for the whole stream, if it is true for all of its watchers; else none.
    pub(super) fn request_progress(
        &mut self,
        stream: u32,
        history: &impl History,
    ) -> Result<(), Failure> {
        self.advance(history)?;
        let watchers = &self.streams[stream].watchers;
        if !watchers.is_empty() && watchers.values().all(|watcher| self.is_up_to_date(*watcher)) {
            self.put_progress(stream, NO_WATCH_ID, history);
        }
        Ok(())
    }

    fn notify_stream(&mut self, stream: u32, history: &impl History) {
        let watchers = self.streams[stream].watchers.values().copied();
        let wanting: Vec<u32> =
            watchers.filter(|watcher| self.watchers[*watcher].progress_notify).collect();
        for watcher in wanting {
            let Watcher { watch_id, interest, seat, .. } = self.watchers[watcher];
            let was_told = std::mem::take(&mut self.set.member_mut(interest, seat).is_told);
            if !was_told && self.is_up_to_date(watcher) {
                self.put_progress(stream, watch_id, history);
            }
        }
    }

    /// Whether everything the hub has delivered was sent to the watcher, and includes its start.
    fn is_up_to_date(&self, watcher: u32) -> bool {
        // A member that is not synced is from `i64::MAX` on.
        self.member(watcher).from <= self.next_revision
            && self.watchers[watcher].start_revision < self.next_revision
    }

    /// Dropped when the buffer is full: the client will hear of a later revision.
    fn put_progress(&mut self, stream: u32, watch_id: i64, history: &impl History) {
        if self.streams[stream].is_full() {
            return;
        }
        let response = WatchResponse { watch_id, ..Default::default() };
        self.put_control(stream, self.next_revision - 1, history, response);
    }
}
