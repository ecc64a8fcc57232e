//! One stream for all the watches of a client.
//!
//! A task owns a [`Watcher`] and hands its answers to the slots of the watches. It lives as long as there is a watch.
//!
//! ```text
//!   Subscription ── commands ──▶ task ── Watcher ── one stream
//!        ▲                         │
//!        └──────── slot ◀──────────┘          one small queue per watch
//! ```
//!
//! Nobody waits for a slow reader. When the queue of a slot is full its watch is ended at the server and remembered;
//! once the reader has emptied the queue the watch begins again where it stopped. So a watch costs a bounded amount of
//! memory, and the others go on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use retcd_api::etcdserverpb::{WatchCreateRequest, WatchResponse};
use tokio::sync::{Notify, mpsc};

use crate::watch::Report;
use crate::{Client, Error, Watcher, is_progress_notify};

/// Answers that wait for the reader of one watch.
const ANSWERS_MAX: usize = 64;
/// Events that wait for the reader of one watch. One answer may exceed it: revisions are not cut.
const EVENTS_MAX: usize = 8192;

/// The streams of a client: for those who want to know that the leader is lost, and for those who do not.
#[derive(Debug, Default)]
pub(crate) struct Hubs {
    with_leader: Mutex<Option<mpsc::WeakUnboundedSender<Command>>>,
    any: Mutex<Option<mpsc::WeakUnboundedSender<Command>>>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Create(WatchCreateRequest, Arc<Slot>),
    /// The reader has caught up.
    Resume(Arc<Slot>),
    /// The reader has gone.
    Cancel(Arc<Slot>),
    Progress,
}

/// What a watch and its reader share.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
    changed: Notify,
}

/// Guarded by `Slot::state`, never across a call.
#[derive(Debug, Default)]
struct State {
    answers: VecDeque<WatchResponse>,
    /// Events in `answers`.
    events: usize,
    /// Why there will be no more answers.
    end: Option<Error>,
    /// The id of the watch; 0 while it has none.
    id: i64,
    /// How a watch goes on that was ended because the queue is full.
    resume: Option<Box<WatchCreateRequest>>,
    /// Since when the server watches; 0 until it has said so.
    created: i64,
}

/// What a reader finds in its slot.
pub(crate) enum Taken {
    Answer(WatchResponse),
    /// An answer, after which the watch must be told to go on.
    LastAnswer(WatchResponse),
    End(Error),
}

impl Hubs {
    /// The way to the task; started if need be.
    pub(crate) fn commands(&self, client: &Client) -> mpsc::UnboundedSender<Command> {
        let hub = if client.needs_leader { &self.with_leader } else { &self.any };
        let mut hub = hub.lock().unwrap_or_else(PoisonError::into_inner);
        let running = hub.as_ref().and_then(mpsc::WeakUnboundedSender::upgrade);
        if let Some(commands) = running.filter(|commands| !commands.is_closed()) {
            return commands;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        *hub = Some(sender.downgrade());
        // Keys come and go as the server knows them; namespaces are the matter of each subscription.
        let watcher = client.without_timeout().without_namespace().watcher();
        tokio::spawn(Hub { watcher, commands: receiver, slots: HashMap::new() }.run());
        sender
    }
}

/// The task.
struct Hub {
    watcher: Watcher,
    commands: mpsc::UnboundedReceiver<Command>,
    slots: HashMap<i64, Arc<Slot>>,
}

impl Hub {
    async fn run(mut self) {
        loop {
            tokio::select! {
                // Commands cost next to nothing, and a stream that is opened after them begins all at once.
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                report = self.watcher.next_report() => match report {
                    Ok(Report::Created(reply)) => self.created(&reply),
                    Ok(Report::Answer(reply)) => self.deliver(reply),
                    // The stream is of no more use to anybody; the watcher has forgotten all watches.
                    Err(error) => {
                        for (_, slot) in self.slots.drain() {
                            slot.end(error.clone());
                        }
                    }
                },
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Create(request, slot) => self.create(request, slot),
            Command::Resume(slot) => {
                let resume = slot.lock().resume.take();
                if let Some(request) = resume {
                    self.create(*request, slot);
                }
            }
            Command::Cancel(slot) => {
                let id = slot.lock().id;
                if self.slots.remove(&id).is_some() {
                    self.watcher.end(id);
                }
            }
            Command::Progress => self.watcher.ask_for_progress(),
        }
    }

    fn create(&mut self, request: WatchCreateRequest, slot: Arc<Slot>) {
        let id = self.watcher.begin(request);
        slot.lock().id = id;
        self.slots.insert(id, slot);
    }

    fn created(&mut self, reply: &WatchResponse) {
        if let Some(slot) = self.slots.get(&reply.watch_id) {
            let mut state = slot.lock();
            if state.created == 0 {
                state.created = reply.header.map_or(0, |header| header.revision);
            }
            drop(state);
            slot.changed.notify_one();
        }
    }

    fn deliver(&mut self, reply: WatchResponse) {
        if reply.watch_id < 0 {
            // Progress of the whole stream is progress of each watch on it.
            for slot in self.slots.values() {
                slot.push_progress(&reply);
            }
            return;
        }
        let id = reply.watch_id;
        if let Some(error) = crate::cancellation(&reply) {
            if let Some(slot) = self.slots.remove(&id) {
                slot.end(error);
            }
            return;
        }
        let Some(slot) = self.slots.get(&id) else { return };
        if slot.push(reply)
            && let Some(slot) = self.slots.remove(&id)
        {
            self.pause(id, slot);
        }
    }

    /// Ends a watch whose reader does not keep up, until it has.
    fn pause(&mut self, id: i64, slot: Arc<Slot>) {
        let resume = self.watcher.end(id);
        let mut state = slot.lock();
        state.id = 0;
        if !state.answers.is_empty() {
            state.resume = resume.map(Box::new);
            return;
        }
        drop(state);
        // The reader was quicker and will not come to wake anybody.
        if let Some(request) = resume {
            self.create(request, slot);
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an answer. `true` when there is no room for another one.
    fn push(&self, reply: WatchResponse) -> bool {
        let mut state = self.lock();
        state.events += reply.events.len();
        state.answers.push_back(reply);
        let is_full = state.answers.len() >= ANSWERS_MAX || state.events >= EVENTS_MAX;
        drop(state);
        self.changed.notify_one();
        is_full
    }

    /// Adds progress, in place of earlier progress that nobody has read.
    fn push_progress(&self, reply: &WatchResponse) {
        let mut state = self.lock();
        match state.answers.back_mut() {
            Some(last) if is_progress_notify(last) => last.clone_from(reply),
            Some(_) | None => state.answers.push_back(reply.clone()),
        }
        drop(state);
        self.changed.notify_one();
    }

    fn end(&self, error: Error) {
        self.lock().end = Some(error);
        self.changed.notify_one();
    }

    /// Takes what is there, if anything. The reasons of an end come after all answers, and only once.
    pub(crate) fn take(&self) -> Option<Taken> {
        let mut state = self.lock();
        let Some(answer) = state.answers.pop_front() else {
            return state.end.take().map(Taken::End);
        };
        state.events -= answer.events.len();
        if state.answers.is_empty() {
            // An idle watch should cost next to nothing.
            state.answers.shrink_to(0);
        }
        let is_waiting = state.answers.is_empty() && state.resume.is_some();
        Some(if is_waiting { Taken::LastAnswer(answer) } else { Taken::Answer(answer) })
    }

    /// Since when the server watches, or why it does not; `None` while nothing is known.
    pub(crate) fn created(&self) -> Option<Result<i64, Error>> {
        let state = self.lock();
        match (&state.end, state.created) {
            (_, created) if created > 0 => Some(Ok(created)),
            (Some(error), _) => Some(Err(error.clone())),
            (None, _) => None,
        }
    }

    /// Waits until there may be something new.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use retcd_api::etcdserverpb::ResponseHeader;
    use retcd_api::mvccpb::Event;

    fn events(count: usize) -> WatchResponse {
        WatchResponse { events: vec![Event::default(); count], ..Default::default() }
    }

    #[test]
    fn queues_are_bounded_by_answers_and_by_events() {
        let slot = Slot::default();
        for _ in 1..ANSWERS_MAX {
            assert!(!slot.push(events(1)));
        }
        assert!(slot.push(events(1)));
        assert!(Slot::default().push(events(EVENTS_MAX)));
    }

    #[test]
    fn the_reader_of_the_last_answer_wakes_a_paused_watch() {
        let slot = Slot::default();
        slot.push(events(1));
        slot.push(events(1));
        slot.lock().resume = Some(Box::default());
        assert!(matches!(slot.take(), Some(Taken::Answer(_))));
        assert!(matches!(slot.take(), Some(Taken::LastAnswer(_))));
        assert!(slot.take().is_none());
    }

    #[test]
    fn an_end_comes_after_the_answers_and_once() {
        let slot = Slot::default();
        slot.push(events(1));
        slot.end(Error::NoEndpoints);
        assert!(matches!(slot.take(), Some(Taken::Answer(_))));
        assert!(matches!(slot.take(), Some(Taken::End(Error::NoEndpoints))));
        assert!(slot.take().is_none());
    }

    #[test]
    fn unread_progress_does_not_pile_up() {
        let slot = Slot::default();
        for revision in 1..10 {
            let header = Some(ResponseHeader { revision, ..Default::default() });
            slot.push_progress(&WatchResponse { header, ..Default::default() });
        }
        let Some(Taken::Answer(newest)) = slot.take() else { panic!("there is progress") };
        assert_eq!(newest.header.unwrap().revision, 9);
        assert!(slot.take().is_none());
    }
}
