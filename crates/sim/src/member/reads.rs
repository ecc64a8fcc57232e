//! Reads that wait for an index of Raft's: the rounds of `server/src/node/reads.rs`.

/// A round without an answer for so many steps is asked again.
const RETRY: u64 = 50;

#[derive(Default)]
pub(super) struct Rounds {
    /// Calls for the round after the running one.
    next: Vec<u64>,
    running: Vec<u64>,
    context: u64,
    asked_at: u64,
    /// The index that the running round waits to see applied.
    awaited: Option<u64>,
}

impl Rounds {
    pub(super) fn join(&mut self, call: u64) {
        self.next.push(call);
    }

    pub(super) fn begin(&mut self, context: u64, now: u64) -> bool {
        if !self.running.is_empty() || self.next.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.next, &mut self.running);
        (self.context, self.asked_at) = (context, now);
        true
    }

    pub(super) fn ask_again(&mut self, context: u64, now: u64, is_new_leader: bool) -> bool {
        let is_overdue = is_new_leader || self.asked_at + RETRY <= now;
        if self.running.is_empty() || self.awaited.is_some() || !is_overdue {
            return false;
        }
        self.running.append(&mut self.next);
        (self.context, self.asked_at) = (context, now);
        true
    }

    pub(super) fn answered(&mut self, context: &[u8], index: u64) {
        let is_ours = !self.running.is_empty() && context == self.context.to_be_bytes();
        if is_ours && self.awaited.is_none() {
            self.awaited = Some(index);
        }
    }

    /// The calls that may look at the state now.
    pub(super) fn finish(&mut self, applied: u64) -> Option<Vec<u64>> {
        self.awaited.filter(|awaited| *awaited <= applied)?;
        self.awaited = None;
        Some(std::mem::take(&mut self.running))
    }
}
