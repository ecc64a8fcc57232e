//! Did a watcher see what etcd promises?
//!
//! A watcher reconnects now and then, to any member; each connection is a [`Session`] that begins at the revision
//! after everything that was seen before. Within it
//!
//! - *ordered*: revisions never fall; *unique*: no event twice; *atomic*: all events of a revision in one answer;
//! - *reliable*: exactly the events of the history that the watcher asked for, from the first revision on, and all of
//!   them up to the end; *resumable*: also across sessions;
//! - *bookmarkable*: progress to a revision comes after all events up to it, never falls, and no such event comes later;
//! - the previous version, if asked for, is the one before the revision of the event.

use retcd_api::etcdserverpb::WatchResponse;
use retcd_api::mvccpb;

use crate::history::Version;
use crate::{Event, Timeline, Violation};

/// Everything that one watcher asked for and was told.
#[derive(Debug, Clone)]
pub struct Trace {
    pub watcher: usize,
    pub filter: Filter,
    pub wants_previous: bool,
    pub sessions: Vec<Session>,
}

/// What a watcher wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    Key(String),
    Prefix(String),
}

impl Filter {
    pub fn matches(&self, event: &Event) -> bool {
        match self {
            Filter::Key(key) => event.key == *key,
            Filter::Prefix(prefix) => event.key.starts_with(prefix),
        }
    }
}

/// One stream with one watch.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// 0: from the revision after the one that the creation is told with.
    pub start_revision: i64,
    pub replies: Vec<Reply>,
}

/// An answer on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Created {
        revision: i64,
    },
    Events(Vec<WatchedEvent>),
    Progress {
        revision: i64,
    },
    /// History before this revision is gone, so the watcher has missed something, and goes on from there.
    Compacted {
        revision: i64,
    },
    Cancelled {
        reason: String,
    },
}

impl From<&WatchResponse> for Reply {
    fn from(response: &WatchResponse) -> Self {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.compact_revision != 0 {
            Reply::Compacted { revision: response.compact_revision }
        } else if response.canceled {
            Reply::Cancelled { reason: response.cancel_reason.clone() }
        } else if response.created {
            Reply::Created { revision }
        } else if response.events.is_empty() {
            Reply::Progress { revision }
        } else {
            Reply::Events(response.events.iter().map(WatchedEvent::from).collect())
        }
    }
}

/// An event as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedEvent {
    pub event: Event,
    pub previous: Option<Version>,
}

impl From<&mvccpb::Event> for WatchedEvent {
    fn from(event: &mvccpb::Event) -> Self {
        WatchedEvent { event: event.into(), previous: event.prev_kv.as_ref().map(Version::from) }
    }
}

/// Checks what a watcher saw against the history. What it saw beyond the end of the history is not judged.
pub fn check_watch(trace: &Trace, timeline: &Timeline) -> Vec<Violation> {
    let mut check = Check { trace, timeline, violations: Vec::new(), next: None };
    for session in &trace.sessions {
        check.session(session);
    }
    if let Some(next) = check.next {
        check.expect_nothing_between(next, timeline.last(), |watcher, event| {
            Violation::WatchMissing { watcher, event }
        });
    }
    check.violations
}

struct Check<'a> {
    trace: &'a Trace,
    timeline: &'a Timeline,
    violations: Vec<Violation>,
    /// Everything before this revision has been seen. `None` before the first session knows where it begins.
    next: Option<i64>,
}

impl Check<'_> {
    fn session(&mut self, session: &Session) {
        if session.start_revision != 0 {
            // Beginning later than where the last session ended would be a mistake of whoever watched, and be found
            // as missing events; beginning earlier is allowed to ask for, and then these events come again.
            self.next = Some(match self.next {
                Some(next) => next.min(session.start_revision),
                None => session.start_revision,
            });
        }
        let mut seen = Seen::default();
        for reply in &session.replies {
            match reply {
                Reply::Created { revision } => {
                    self.next.get_or_insert(revision + 1);
                }
                Reply::Events(events) => self.events(events, &mut seen),
                Reply::Progress { revision } => self.progress(*revision, &mut seen),
                Reply::Compacted { revision } => self.compacted(*revision),
                Reply::Cancelled { reason } => {
                    let (watcher, reason) = (self.trace.watcher, reason.clone());
                    self.violations.push(Violation::WatchCancelled { watcher, reason });
                }
            }
        }
    }

    /// Only a watcher that is behind a compaction that there was may be told of it.
    fn compacted(&mut self, revision: i64) {
        let is_behind = self.next.is_some_and(|next| next < revision);
        if !is_behind || revision > self.timeline.compacted() {
            let watcher = self.trace.watcher;
            let reason =
                format!("compacted at {revision}, while the watcher was at {:?}", self.next);
            self.violations.push(Violation::WatchCancelled { watcher, reason });
        }
        self.next = self.next.max(Some(revision));
    }

    fn events(&mut self, events: &[WatchedEvent], seen: &mut Seen) {
        let watcher = self.trace.watcher;
        for (index, WatchedEvent { event, previous }) in events.iter().enumerate() {
            let revision = event.revision;
            if revision < seen.event {
                let last = seen.event;
                self.violations.push(Violation::WatchOutOfOrder { watcher, revision, last });
            }
            if revision == seen.event && index == 0 {
                self.violations.push(Violation::WatchSplitRevision { watcher, revision });
            }
            if revision <= seen.progress {
                let progress = seen.progress;
                self.violations.push(Violation::WatchBehindProgress {
                    watcher,
                    revision,
                    progress,
                });
            }
            self.previous(event, previous.as_ref());
            seen.event = seen.event.max(revision);
        }
        self.contents(events);
    }

    /// An answer has exactly the events from where the watcher is up to the last one in it.
    fn contents(&mut self, told: &[WatchedEvent]) {
        let watcher = self.trace.watcher;
        let Some(last) = told.iter().map(|told| told.event.revision).max() else { return };
        let first = self.next.unwrap_or(last);
        let (timeline, filter) = (self.timeline, &self.trace.filter);
        let expected: Vec<&Event> =
            timeline.between(first, last).filter(|event| filter.matches(event)).collect();
        let told: Vec<&Event> = (told.iter().map(|told| &told.event))
            .filter(|event| event.revision <= timeline.last())
            .collect();
        if expected != told {
            let boxed = |event: &Event| Box::new(event.clone());
            let missing = expected.iter().filter(|event| !told.contains(event));
            self.violations.extend(
                missing.map(|event| Violation::WatchMissing { watcher, event: boxed(event) }),
            );
            let mut left = expected.clone();
            for event in &told {
                if let Some(index) = left.iter().position(|other| other == event) {
                    left.remove(index);
                } else {
                    let event = boxed(event);
                    self.violations.push(Violation::WatchExtra { watcher, event });
                }
            }
            // Same events in another order: within a revision, too, the order is that of the operations.
            if told.len() == expected.len() && expected.iter().all(|event| told.contains(event)) {
                let (revision, last) = (told[0].revision, told[0].revision);
                self.violations.push(Violation::WatchOutOfOrder { watcher, revision, last });
            }
        }
        self.next = Some(first.max(last + 1));
    }

    fn previous(&mut self, event: &Event, told: Option<&Version>) {
        let is_known = event.revision <= self.timeline.last();
        let expected = self.timeline.version_at(&event.key, event.revision - 1);
        let expected = expected.filter(|_| self.trace.wants_previous);
        let is_forgotten = told.is_none() && event.revision <= self.timeline.compacted();
        if is_known && expected != told && !is_forgotten {
            self.violations.push(Violation::WatchWrongPrevious {
                watcher: self.trace.watcher,
                event: Box::new(event.clone()),
                expected: expected.cloned().map(Box::new),
                told: told.cloned().map(Box::new),
            });
        }
    }

    fn progress(&mut self, revision: i64, seen: &mut Seen) {
        let watcher = self.trace.watcher;
        let last = seen.progress.max(seen.event);
        if revision < last {
            self.violations.push(Violation::WatchProgressFell { watcher, revision, last });
        }
        if let Some(next) = self.next {
            self.expect_nothing_between(next, revision, |watcher, event| {
                Violation::WatchProgressTooEarly { watcher, progress: revision, event }
            });
        }
        seen.progress = seen.progress.max(revision);
        // The next answer is judged from here, so that one mistake is told once.
        self.next = Some(self.next.map_or(revision + 1, |next| next.max(revision + 1)));
    }

    fn expect_nothing_between(
        &mut self,
        first: i64,
        last: i64,
        violation: impl Fn(usize, Box<Event>) -> Violation,
    ) {
        let filter = &self.trace.filter;
        let undelivered = self.timeline.between(first, last).find(|event| filter.matches(event));
        self.violations.extend(
            undelivered.map(|event| violation(self.trace.watcher, Box::new(event.clone()))),
        );
    }
}

/// How far a session is.
#[derive(Debug, Default)]
struct Seen {
    /// The revision of the last event.
    event: i64,
    progress: i64,
}

#[cfg(test)]
mod tests;
