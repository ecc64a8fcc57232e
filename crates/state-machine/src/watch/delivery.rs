//! New revisions, for the watchers that are synced.
//!
//! What is equal for many is done once: per revision the look-up of its keys and the header, per record the event.
//! What is left per watcher is a few bytes of its own and a copy into its stream's buffer.

use super::encode::{Answer, Header, MESSAGE_BYTES_MAX};
use super::hub::{Hub, Scratch, StreamId};
use super::set::Member;
use super::stream::Stream;
use super::watcher::State;
use super::{History, HistoryError};
use crate::backend::Failure;
use crate::mvcc::Record;

/// Records that `advance` reads at once. Enough to make the reading cheap, few enough to keep their memory small.
const ADVANCE_RECORDS: usize = 1024;

impl Hub {
    /// Delivers what the store has written since the last call to all watchers that are synced.
    ///
    /// One answer per watcher and revision; its header has that revision.
    pub fn advance(&mut self, history: &impl History) -> Result<(), Failure> {
        let current = history.current_revision();
        while self.next_revision <= current {
            if self.synced_watchers == 0 {
                self.next_revision = current + 1;
                return Ok(());
            }
            let mut records = std::mem::take(&mut self.scratch.records);
            match history.records(self.next_revision, ADVANCE_RECORDS, &mut records) {
                Ok(next) => self.deliver(&records, next, history)?,
                Err(HistoryError::Compacted(_)) => self.fall_behind(current),
                Err(HistoryError::Failure(failure)) => return Err(failure),
            }
            records.clear();
            self.scratch.records = records;
        }
        Ok(())
    }

    /// Delivers records, which end below revision `next`, to the synced watchers.
    fn deliver(
        &mut self,
        records: &[Record],
        next: i64,
        history: &impl History,
    ) -> Result<(), Failure> {
        assert!(next > self.next_revision, "history must say where to go on");
        for revision in records.chunk_by(|one, other| one.revision.main == other.revision.main) {
            self.deliver_revision(revision, history)?;
        }
        self.next_revision = next;
        Ok(())
    }

    /// Delivers the records of one revision.
    fn deliver_revision(
        &mut self,
        records: &[Record],
        history: &impl History,
    ) -> Result<(), Failure> {
        let revision = records[0].revision.main;
        self.scratch.events.reset(records.len());
        for (record, position) in records.iter().zip(0..) {
            self.set.visit(record.key(), |id, interest| {
                if interest.options.wants(record) {
                    if interest.matched.is_empty() {
                        self.scratch.interests.push(id);
                    }
                    interest.matched.push(position);
                }
            });
        }
        let header = self.header(revision, history);
        while let Some(id) = self.scratch.interests.pop() {
            self.deliver_interest(id, &header, revision, records, history)?;
        }
        while let Some(watcher) = self.scratch.fallen.pop() {
            self.set_state(watcher, State::Parked { next: revision });
        }
        Ok(())
    }

    /// The hot loop: everything that is equal for the members was done before, or is done once.
    fn deliver_interest(
        &mut self,
        id: u32,
        header: &Header,
        revision: i64,
        records: &[Record],
        history: &impl History,
    ) -> Result<(), Failure> {
        let Scratch { events, spans, fallen, .. } = &mut self.scratch;
        let interest = self.set.interest(id);
        spans.clear();
        for member in &mut interest.members {
            if member.from > revision {
                continue;
            }
            let stream = &mut self.streams[member.stream];
            if stream.is_full() {
                fallen.push(member.watcher);
                continue;
            }
            if spans.is_empty() {
                let prev_kv = interest.options.prev_kv;
                for position in interest.matched.iter().map(|position| *position as usize) {
                    spans.push(events.span(&records[position], position, prev_kv, history)?);
                }
            }
            member.put(stream, Answer { header, events, spans }, self.config.fragment_bytes);
            self.events_sent += spans.len() as u64;
            self.pending_events += spans.len();
            if !stream.is_announced {
                stream.is_announced = true;
                let generation = self.streams.generation(member.stream);
                self.ready.push(StreamId { index: member.stream, generation });
            }
        }
        interest.matched.clear();
        Ok(())
    }

    /// The store has no complete records at the hub's position: it was replaced by a snapshot of another member.
    /// Who was synced goes on from history, where it stands; catching up finds out whether that is still possible.
    fn fall_behind(&mut self, current: i64) {
        let position = self.next_revision;
        self.next_revision = current + 1;
        for watcher in self.watchers.indexes() {
            let next = self.member(watcher).from.max(position);
            if self.watchers[watcher].state == State::Synced && next <= current {
                self.start_catching_up(watcher, next);
            }
        }
    }
}

impl Member {
    /// Writes events to the member's stream.
    #[inline]
    pub(super) fn put(&mut self, stream: &mut Stream, answer: Answer<'_>, fragment_bytes: usize) {
        self.is_told = true;
        let piece_bytes = if self.fragment { fragment_bytes } else { MESSAGE_BYTES_MAX };
        stream.put_events(answer, self.watch_id, piece_bytes);
    }
}
