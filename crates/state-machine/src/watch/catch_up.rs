//! History for watchers that are late or slow.
//!
//! Watchers behind the hub take turns: in each round every one of them gets one slice of history, from its own
//! position on. Who stands inside the slice that is read for another gets it at the same time, so ten thousand
//! watchers that reconnect at one revision read it once, and one that asks for everything since the beginning does
//! not hold up one that missed a second.

use retcd_api::etcdserverpb::WatchResponse;

use super::encode::{Answer, Events, Header, Span};
use super::hub::{Hub, Scratch};
use super::watcher::{State, Watcher};
use super::{History, HistoryError};
use crate::backend::Failure;
use crate::mvcc::Record;

/// Records of a slice. An answer holds at most one slice, hence never more than 1000 revisions.
const SLICE_RECORDS_MAX: usize = 1000;
const SLICE_RECORDS_MIN: usize = 16;
pub(super) const SLICE_RECORDS_FIRST: usize = 128;
/// A slice with more bytes makes the next one smaller, one with less than a quarter larger.
const SLICE_BYTES: usize = 2 << 20;
/// Watchers that share a slice.
const BATCH_WATCHERS: usize = 512;
/// Room that each interest keeps for its matches: there may be as many interests as watchers.
const MATCHES_KEPT: usize = 8;
/// An answer ends behind the revision that reaches this size.
const ANSWER_BYTES: usize = 512 << 10;

/// A piece of history that was read for some watchers.
struct Slice<'a> {
    records: &'a [Record],
    /// The first revision behind it.
    end: i64,
    header: &'a Header,
}

impl Hub {
    /// Delivers history to watchers that are behind: about `budget` records read and events written.
    /// Returns whether there is more to do right now.
    ///
    /// Answers merge revisions; their header has the current revision of the store.
    pub fn catch_up(&mut self, history: &impl History, budget: usize) -> Result<bool, Failure> {
        let mut left = budget.max(1);
        while left > 0 && self.is_behind() {
            let cost = self.catch_up_slice(history, left)?;
            left = left.saturating_sub(cost);
        }
        Ok(self.is_behind())
    }

    /// Whether [`Hub::catch_up`] has work. Becomes true by requests, `advance` and `take_output`.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Reads one slice and delivers it. Returns what it cost: 1 at least.
    fn catch_up_slice(&mut self, history: &impl History, budget: usize) -> Result<usize, Failure> {
        let Some((round, from, first)) = self.behind.first().copied() else { return Ok(0) };
        assert!(from < self.next_revision, "who is behind stands below the hub");
        self.round = round;
        if self.streams[self.watchers[first].stream].is_full() {
            self.set_state(first, State::Parked { next: from });
            return Ok(1);
        }
        let compacted = history.compacted_revision();
        if from < compacted {
            self.cancel_compacted(first, compacted, history);
            return Ok(1);
        }
        let mut records = std::mem::take(&mut self.scratch.records);
        let cost = match history.records(from, self.slice_records, &mut records) {
            Ok(next) => {
                assert!(next > from, "history must say where to go on");
                self.adapt_slice(&records);
                // The hub itself has not come farther yet: what lies beyond is for `advance`.
                let end = next.min(self.next_revision);
                records.truncate(records.partition_point(|record| record.revision.main < end));
                let header = self.header(history.current_revision(), history);
                let slice = Slice { records: &records, end, header: &header };
                self.deliver_slice(&slice, round, from, history, budget)?
            }
            Err(HistoryError::Compacted(compacted)) => {
                self.cancel_compacted(first, compacted, history);
                1
            }
            Err(HistoryError::Failure(failure)) => return Err(failure),
        };
        records.clear();
        self.scratch.records = records;
        Ok(cost)
    }

    /// Keeps the memory of a slice near its aim, whatever the size of the values.
    fn adapt_slice(&mut self, records: &[Record]) {
        let bytes: usize = records.iter().map(|record| record.kv.len()).sum();
        if bytes > SLICE_BYTES {
            self.slice_records = (self.slice_records / 2).max(SLICE_RECORDS_MIN);
        } else if bytes < SLICE_BYTES / 4 && records.len() >= self.slice_records {
            self.slice_records = (self.slice_records * 2).min(SLICE_RECORDS_MAX);
        }
    }

    /// Delivers a slice to the watchers of this round that stand inside of it, until the budget is used up.
    fn deliver_slice(
        &mut self,
        slice: &Slice<'_>,
        round: u64,
        from: i64,
        history: &impl History,
        budget: usize,
    ) -> Result<usize, Failure> {
        let inside = (round, from, 0)..(round, slice.end, 0);
        let batch: Vec<u32> = self
            .behind
            .range(inside)
            .take(BATCH_WATCHERS)
            .map(|(_, _, watcher)| *watcher)
            .collect();
        self.match_slice(slice, &batch);
        self.scratch.events.reset(slice.records.len());
        let mut cost = slice.records.len();
        for watcher in batch {
            cost += 1 + self.deliver_slice_to(watcher, slice, history)?;
            if cost >= budget {
                break;
            }
        }
        self.forget_matches();
        Ok(cost)
    }

    /// Notes in the interests of a batch which records of the slice they want.
    fn match_slice(&mut self, slice: &Slice<'_>, batch: &[u32]) {
        for watcher in batch {
            let id = self.watchers[*watcher].interest;
            let interest = self.set.interest(id);
            if !std::mem::replace(&mut interest.is_chosen, true) {
                self.scratch.interests.push(id);
            }
        }
        for (record, position) in slice.records.iter().zip(0..) {
            self.set.visit(record.key(), |_, interest| {
                if interest.is_chosen && interest.options.wants(record) {
                    interest.matched.push(position);
                }
            });
        }
    }

    fn forget_matches(&mut self) {
        while let Some(id) = self.scratch.interests.pop() {
            let interest = self.set.interest(id);
            interest.is_chosen = false;
            interest.matched.clear();
            interest.matched.shrink_to(MATCHES_KEPT);
        }
    }

    /// Writes what one watcher wants of a slice and moves it on. Returns the number of events.
    fn deliver_slice_to(
        &mut self,
        watcher: u32,
        slice: &Slice<'_>,
        history: &impl History,
    ) -> Result<usize, Failure> {
        let Watcher { stream, interest, seat, state, .. } = self.watchers[watcher];
        let State::Behind { next, .. } = state else { return Ok(0) };
        let interest = self.set.interest(interest);
        let missed = interest.matched.partition_point(|at| slice.revision(*at) < next);
        let mut wanted = &interest.matched[missed..];
        let mut sent = 0;
        while !wanted.is_empty() && !self.streams[stream].is_full() {
            let Scratch { events, spans, .. } = &mut self.scratch;
            slice.next_answer(wanted, interest.options.prev_kv, history, events, spans)?;
            let answer = Answer { header: slice.header, events, spans };
            let member = &mut interest.members[seat];
            member.put(&mut self.streams[stream], answer, self.config.fragment_bytes);
            sent += spans.len();
            wanted = &wanted[spans.len()..];
        }
        let stopped_at = wanted.first().map(|at| slice.revision(*at));
        if sent > 0 {
            self.announce(stream);
            self.events_sent += sent as u64;
            self.pending_events += sent;
        }
        self.move_on(watcher, stopped_at, slice.end);
        Ok(sent)
    }

    /// After a slice: parked where its stream was full, synced at the hub's position, or behind again.
    fn move_on(&mut self, watcher: u32, stopped_at: Option<i64>, end: i64) {
        match stopped_at {
            Some(next) => self.set_state(watcher, State::Parked { next }),
            None if end == self.next_revision => self.set_state(watcher, State::Synced),
            None => self.start_catching_up(watcher, end),
        }
    }

    /// Tells a watcher that what it has not got yet is gone; such an answer has no revision in its header. It stays until the client cancels it.
    fn cancel_compacted(&mut self, watcher: u32, compacted: i64, history: &impl History) {
        let Watcher { stream, watch_id, .. } = self.watchers[watcher];
        let response = WatchResponse {
            watch_id,
            canceled: true,
            compact_revision: compacted,
            ..Default::default()
        };
        self.set_state(watcher, State::Compacted);
        self.put_control(stream, 0, history, response);
    }
}

impl Slice<'_> {
    fn revision(&self, position: u32) -> i64 {
        self.records[position as usize].revision.main
    }

    /// Encodes the first of the `wanted` records: whole revisions, as many as make a good answer.
    fn next_answer(
        &self,
        wanted: &[u32],
        prev_kv: bool,
        history: &impl History,
        events: &mut Events,
        spans: &mut Vec<Span>,
    ) -> Result<(), Failure> {
        spans.clear();
        let mut bytes = 0;
        for of_one_revision in
            wanted.chunk_by(|one, other| self.revision(*one) == self.revision(*other))
        {
            for position in of_one_revision.iter().map(|position| *position as usize) {
                let span = events.span(&self.records[position], position, prev_kv, history)?;
                bytes += span.len();
                spans.push(span);
            }
            if bytes >= ANSWER_BYTES {
                break;
            }
        }
        Ok(())
    }
}
