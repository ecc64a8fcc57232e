//! The way back: answers from the commit thread to the client threads.
//!
//! Every client thread runs its own single-threaded runtime. Waking one of its tasks from outside costs a lock and a
//! write to an eventfd, so the commit thread wakes a runtime once per batch: it appends the answers to the runtime's
//! [`Mailbox`], and a task of that runtime hands them to the waiting calls, whose wakers are local and cheap.
//!
//! A waiting call holds a [`Pending`]: the number of a slot in a table of its own thread. It must be polled and dropped
//! on that thread, which the single-threaded runtime guarantees.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use retcd_api::error::RpcError;
use retcd_state_machine::Response;

/// What a request comes to.
pub(crate) type Outcome = Result<Response, RpcError>;

/// Where an answer goes: a slot on a client thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    pub(crate) runtime: u16,
    slot: SlotKey,
}

/// The generation tells a slot's present user from the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SlotKey {
    index: u32,
    generation: u32,
}

/// Answers on their way to one client thread.
#[derive(Default)]
pub(crate) struct Mailbox {
    state: Mutex<MailboxState>,
    /// Watchers live on this thread. Without any, news of the store wakes nobody.
    has_watchers: AtomicBool,
}

#[derive(Default)]
struct MailboxState {
    answers: Vec<(ReplyTo, Outcome)>,
    /// The store moved on: watchers of this thread may have something to read.
    has_events: bool,
    waker: Option<Waker>,
}

/// What one delivery held besides the answers, which [`Mailbox::poll_deliver`] has handed out.
pub(crate) struct Delivery {
    pub(crate) has_events: bool,
}

impl Mailbox {
    /// Adds a batch of answers, leaving `answers` empty, and wakes the thread once.
    pub(crate) fn post(&self, answers: &mut Vec<(ReplyTo, Outcome)>, has_events: bool) {
        // Pairs with `set_has_watchers`: either this sees the watcher, or the watcher sees the new state.
        let has_events = has_events && {
            fence(Ordering::SeqCst);
            self.has_watchers.load(Ordering::SeqCst)
        };
        if answers.is_empty() && !has_events {
            return;
        }
        let waker = {
            let mut state = self.state.lock();
            if state.answers.is_empty() {
                std::mem::swap(&mut state.answers, answers);
            } else {
                state.answers.append(answers);
            }
            state.has_events |= has_events;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Says whether news of the store is wanted. A thread sets this before it reads the revision that its watchers begin at.
    pub(crate) fn set_has_watchers(&self, has_watchers: bool) {
        self.has_watchers.store(has_watchers, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Waits for a batch and hands its answers to the calls of this thread.
    pub(crate) fn poll_deliver(
        &self,
        context: &mut Context<'_>,
        scratch: &mut Vec<(ReplyTo, Outcome)>,
    ) -> Poll<Delivery> {
        let has_events = {
            let mut state = self.state.lock();
            if state.answers.is_empty() && !state.has_events {
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            std::mem::swap(&mut state.answers, scratch);
            std::mem::take(&mut state.has_events)
        };
        SLOTS.with_borrow_mut(|slots| {
            for (to, outcome) in scratch.drain(..) {
                slots.fill(to.slot, outcome);
            }
        });
        Poll::Ready(Delivery { has_events })
    }
}

/// The mailboxes of all client threads, by their number.
pub(crate) type Mailboxes = Arc<[Mailbox]>;

thread_local! {
    static SLOTS: RefCell<Slots> = RefCell::default();
}

/// The calls of one thread that wait for an answer.
#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// How many calls of this thread wait for an answer.
pub(crate) fn waiting() -> usize {
    SLOTS.with_borrow(|slots| slots.slots.len() - slots.free.len())
}

struct Slot {
    generation: u32,
    /// The sweep at which the call gives up.
    deadline: u64,
    waits_for: WaitsFor,
    state: SlotState,
}

/// What a call waits for: its timeout is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// A request to be applied.
    Apply,
    /// Leave to read.
    Read,
}

enum SlotState {
    Free,
    Waiting(Option<Waker>),
    Answered(Outcome),
}

impl Slots {
    fn reserve(&mut self, deadline: u64, waits_for: WaitsFor) -> SlotKey {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.deadline = deadline;
            slot.waits_for = waits_for;
            slot.state = SlotState::Waiting(None);
            return SlotKey { index, generation: slot.generation };
        }
        let index =
            u32::try_from(self.slots.len()).expect("the queue bounds the number of waiting calls");
        let state = SlotState::Waiting(None);
        self.slots.push(Slot { generation: 0, deadline, waits_for, state });
        SlotKey { index, generation: 0 }
    }

    /// The slot, unless its call went away and the place serves another one.
    fn get(&mut self, key: SlotKey) -> Option<&mut Slot> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)
    }

    fn fill(&mut self, key: SlotKey, outcome: Outcome) {
        let Some(slot) = self.get(key) else { return };
        if let SlotState::Waiting(waker) = &mut slot.state {
            let waker = waker.take();
            slot.state = SlotState::Answered(outcome);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn release(&mut self, key: SlotKey) {
        if let Some(slot) = self.get(key) {
            slot.generation = slot.generation.wrapping_add(1);
            slot.state = SlotState::Free;
            self.free.push(key.index);
        }
    }
}

/// Answers every call of this thread whose deadline has passed with an error. `now` counts as in [`Pending::new`].
pub(crate) fn expire(now: u64, error: impl Fn(WaitsFor) -> RpcError) {
    SLOTS.with_borrow_mut(|slots| {
        for slot in &mut slots.slots {
            if slot.deadline > now {
                continue;
            }
            if let SlotState::Waiting(waker) = &mut slot.state {
                let waker = waker.take();
                slot.state = SlotState::Answered(Err(error(slot.waits_for)));
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    });
}

/// A call that waits for its answer.
pub(crate) struct Pending {
    slot: SlotKey,
}

impl Pending {
    /// Takes a slot on this thread. `runtime` is the thread's number, `deadline` a time in the units of [`expire`].
    pub(crate) fn new(runtime: u16, deadline: u64, waits_for: WaitsFor) -> (Pending, ReplyTo) {
        let slot = SLOTS.with_borrow_mut(|slots| slots.reserve(deadline, waits_for));
        (Pending { slot }, ReplyTo { runtime, slot })
    }
}

impl Future for Pending {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        SLOTS.with_borrow_mut(|slots| {
            let slot =
                slots.get(self.slot).expect("a pending call owns its slot until it is dropped");
            match &mut slot.state {
                SlotState::Waiting(waker) => {
                    match waker {
                        Some(waker) => waker.clone_from(context.waker()),
                        None => *waker = Some(context.waker().clone()),
                    }
                    Poll::Pending
                }
                SlotState::Answered(_) => {
                    let state = std::mem::replace(&mut slot.state, SlotState::Free);
                    let SlotState::Answered(outcome) = state else { unreachable!("matched above") };
                    Poll::Ready(outcome)
                }
                SlotState::Free => unreachable!("polled after it was ready"),
            }
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // While a thread ends, its table may be gone before its tasks.
        let _ = SLOTS.try_with(|slots| slots.borrow_mut().release(self.slot));
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn response(revision: i64) -> Response {
        Response { revision, body: Vec::new() }
    }

    fn poll(pending: &mut Pending) -> Poll<Outcome> {
        Pin::new(pending).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn deliver(mailbox: &Mailbox) -> Poll<Delivery> {
        mailbox.poll_deliver(&mut Context::from_waker(Waker::noop()), &mut Vec::new())
    }

    #[test]
    fn an_answer_reaches_its_call() {
        let mailbox = Mailbox::default();
        let (mut first, to_first) = Pending::new(0, u64::MAX, WaitsFor::Apply);
        let (mut second, to_second) = Pending::new(0, u64::MAX, WaitsFor::Apply);
        assert!(poll(&mut first).is_pending());
        mailbox.post(&mut vec![(to_second, Ok(response(3))), (to_first, Ok(response(2)))], false);
        assert!(deliver(&mailbox).is_ready());
        assert!(matches!(poll(&mut first), Poll::Ready(Ok(response)) if response.revision == 2));
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(response)) if response.revision == 3));
        assert!(deliver(&mailbox).is_pending());
    }

    #[test]
    fn an_answer_to_a_call_that_went_away_reaches_nobody_else() {
        let mailbox = Mailbox::default();
        let (gone, to_gone) = Pending::new(0, u64::MAX, WaitsFor::Apply);
        drop(gone);
        let (mut next, to_next) = Pending::new(0, u64::MAX, WaitsFor::Apply);
        mailbox.post(&mut vec![(to_gone, Ok(response(2)))], false);
        assert!(deliver(&mailbox).is_ready());
        assert!(poll(&mut next).is_pending());
        mailbox.post(&mut vec![(to_next, Ok(response(5)))], false);
        assert!(deliver(&mailbox).is_ready());
        assert!(matches!(poll(&mut next), Poll::Ready(Ok(response)) if response.revision == 5));
    }

    #[test]
    fn a_call_past_its_deadline_gets_the_error() {
        let (mut late, _) = Pending::new(0, 10, WaitsFor::Read);
        let (mut patient, _) = Pending::new(0, 11, WaitsFor::Read);
        expire(10, |_| RpcError::Timeout);
        assert!(matches!(poll(&mut late), Poll::Ready(Err(RpcError::Timeout))));
        assert!(poll(&mut patient).is_pending());
    }
}
