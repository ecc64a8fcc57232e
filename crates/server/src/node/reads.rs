//! Linearizable reads: what must be known before local state may answer.
//!
//! Whatever a leader acknowledged it has applied before the answer left. So if a member is the only voter, leads, and has
//! applied an entry of its own term, and with it all of earlier leaders', its present state is never stale, and the barrier
//! is free. This is the fast path of every read on a single member: no lock, no other thread.
//!
//! With other voters a read needs an index of Raft's, which costs a round of messages. One round serves all reads of the
//! member that wait when it begins; those that come while it runs share the next one:
//!
//! ```text
//!   reads ─► next ──(no round runs)──► running ─► Raft: index ─► applied here? ─► answers, one wake per thread
//! ```
//!
//! A round whose answer is lost, or whose leader is gone, is asked again with a context of its own; answers to earlier
//! contexts are passed over. To ask again late is never wrong: the index only grows.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use retcd_api::error::RpcError;
use retcd_consensus::ReadState;
use retcd_state_machine::Response;

use super::mailbox::{Mailboxes, Pending, ReplyTo, WaitsFor};
use super::{NodeHandle, RUNTIME, millis};

/// A round without an answer for so long is asked again, as etcd does.
const RETRY: Duration = Duration::from_millis(500);
/// No round waits for an index to be applied.
const NOTHING: u64 = u64::MAX;

/// The reads of a member that wait.
pub(crate) struct Rounds {
    state: Mutex<State>,
    /// The index that the running round waits to see applied. Written under the lock, read without.
    awaited: AtomicU64,
}

#[derive(Default)]
struct State {
    /// For the round after the running one.
    next: Vec<ReplyTo>,
    running: Vec<ReplyTo>,
    /// Of the question that was asked last.
    context: u64,
    asked_at: Duration,
}

impl Default for Rounds {
    fn default() -> Self {
        Rounds { state: Mutex::default(), awaited: AtomicU64::new(NOTHING) }
    }
}

impl Rounds {
    /// Adds a read. Returns whether a round can begin now.
    fn join(&self, reply_to: ReplyTo) -> bool {
        let mut state = self.state.lock();
        state.next.push(reply_to);
        state.running.is_empty()
    }

    /// Begins a round with `context`, if there are reads for one and none runs.
    fn begin(&self, context: u64, now: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.running.is_empty() || state.next.is_empty() {
            return false;
        }
        let State { next, running, .. } = &mut *state;
        std::mem::swap(next, running);
        state.context = context;
        state.asked_at = now;
        true
    }

    /// Takes `context` for the running round's next question, with the reads that have come since, if an answer is
    /// overdue.
    fn ask_again(&self, context: u64, now: Duration, patience: Duration) -> bool {
        let mut state = self.state.lock();
        let is_answered = self.awaited.load(Ordering::Relaxed) != NOTHING;
        if state.running.is_empty() || is_answered || state.asked_at + patience > now {
            return false;
        }
        let State { next, running, .. } = &mut *state;
        running.append(next);
        state.context = context;
        state.asked_at = now;
        true
    }

    /// Notes Raft's answer. Returns whether it was to the last question.
    fn answered(&self, context: &[u8], index: u64) -> bool {
        let state = self.state.lock();
        let is_ours = !state.running.is_empty() && context == state.context.to_be_bytes();
        if is_ours && self.awaited.load(Ordering::Relaxed) == NOTHING {
            self.awaited.store(index, Ordering::Relaxed);
            // Pairs with the fence in `finish`: either the commit loop sees what is awaited, or the caller sees it applied.
            fence(Ordering::SeqCst);
        }
        is_ours
    }

    /// Ends the running round if what it waits for is applied. Returns whether it did.
    fn finish(&self, applied: u64, mailboxes: &Mailboxes) -> bool {
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed) > applied {
            return false;
        }
        let mut state = self.state.lock();
        // Another thread may have ended the round meanwhile, and one may have begun.
        if self.awaited.load(Ordering::Relaxed) > applied {
            return false;
        }
        self.awaited.store(NOTHING, Ordering::Relaxed);
        let running = std::mem::take(&mut state.running);
        drop(state);
        let mut answers: Vec<Vec<_>> = mailboxes.iter().map(|_| Vec::new()).collect();
        for reply_to in running {
            answers[usize::from(reply_to.runtime)].push((reply_to, Ok(Response::default())));
        }
        for (mailbox, answers) in mailboxes.iter().zip(&mut answers) {
            mailbox.post(answers, false);
        }
        true
    }
}

impl NodeHandle {
    /// Whether the read barrier is free: this member decides alone what is committed.
    pub(crate) fn is_always_fresh(&self) -> bool {
        self.shared.is_always_fresh.load(Ordering::Acquire)
    }

    /// Returns when this member's state holds everything that was acknowledged to anybody before the call.
    pub(crate) async fn read_barrier(&self) -> Result<(), RpcError> {
        if self.is_always_fresh() {
            return Ok(());
        }
        let deadline = millis(self.now() + self.shared.limits.request_timeout);
        let (pending, reply_to) = Pending::new(RUNTIME.get(), deadline, WaitsFor::Read);
        if self.shared.rounds.join(reply_to) {
            self.begin_read_round();
        }
        pending.await.map(drop)
    }

    fn begin_read_round(&self) {
        let context = self.new_request_id();
        if self.shared.rounds.begin(context, self.now()) {
            self.ask_for_index(context);
        }
    }

    /// Asks again for reads whose answer is overdue; at once when the leader has changed.
    pub(crate) fn retry_reads(&self, is_new_leader: bool) {
        let patience = if is_new_leader { Duration::ZERO } else { RETRY };
        let context = self.new_request_id();
        if self.shared.rounds.ask_again(context, self.now(), patience) {
            self.ask_for_index(context);
        }
    }

    fn ask_for_index(&self, context: u64) {
        let mut raft = self.shared.raft.lock();
        // Without a leader there will be no answer, and the question is asked again.
        raft.read_index(Bytes::copy_from_slice(&context.to_be_bytes()));
        self.react(raft);
    }

    /// Takes Raft's answers to questions for an index.
    pub(crate) fn answer_reads(&self, states: &[ReadState]) {
        let mut is_news = false;
        for state in states {
            is_news |= self.shared.rounds.answered(&state.context, state.index);
        }
        if is_news {
            self.answer_reads_applied(self.shared.reader.applied_index());
        }
    }

    /// Lets the reads go that have waited for `applied`.
    pub(crate) fn answer_reads_applied(&self, applied: u64) {
        if self.shared.rounds.finish(applied, &self.shared.mailboxes) {
            self.begin_read_round();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::node::mailbox::Mailbox;

    fn reply_to() -> ReplyTo {
        Pending::new(0, u64::MAX, WaitsFor::Read).1
    }

    fn mailboxes() -> Mailboxes {
        Arc::new([Mailbox::default()])
    }

    #[test]
    fn reads_that_come_during_a_round_share_the_next() {
        let (rounds, mailboxes) = (Rounds::default(), mailboxes());
        assert!(rounds.join(reply_to()));
        assert!(rounds.begin(1, Duration::ZERO));
        assert!(!rounds.join(reply_to()), "a round runs");
        assert!(!rounds.begin(2, Duration::ZERO));
        assert!(!rounds.finish(100, &mailboxes), "there is no answer yet");
        assert!(rounds.answered(&1u64.to_be_bytes(), 7));
        assert!(!rounds.finish(6, &mailboxes), "7 is not applied");
        assert!(rounds.finish(7, &mailboxes));
        assert!(rounds.begin(2, Duration::ZERO));
        assert!(!rounds.answered(&1u64.to_be_bytes(), 8), "an answer to an earlier question");
        assert!(!rounds.finish(100, &mailboxes));
    }

    #[test]
    fn an_overdue_round_is_asked_again_with_all_who_wait() {
        let (rounds, mailboxes) = (Rounds::default(), mailboxes());
        rounds.join(reply_to());
        rounds.begin(1, Duration::ZERO);
        rounds.join(reply_to());
        assert!(!rounds.ask_again(2, RETRY / 2, RETRY));
        assert!(rounds.ask_again(2, RETRY, RETRY));
        assert!(!rounds.answered(&1u64.to_be_bytes(), 3));
        assert!(rounds.answered(&2u64.to_be_bytes(), 4));
        assert!(!rounds.ask_again(3, RETRY * 9, RETRY), "it only waits for apply");
        assert!(rounds.finish(4, &mailboxes));
        assert!(!rounds.begin(3, Duration::ZERO), "nobody waits any more");
    }
}
