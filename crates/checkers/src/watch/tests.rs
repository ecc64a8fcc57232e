//! The checker accepts what a right watcher sees, and refuses each way of seeing something else.

use super::*;
use crate::Dice;
use crate::samples::history;

/// What a watcher sees of a history: answers of one or more whole revisions, progress now and then, and a new session
/// now and then.
fn trace(dice: &mut Dice, timeline: &Timeline, filter: Filter) -> Trace {
    let wants_previous = dice.chance(50);
    let start = if dice.chance(50) { 2 } else { 1 + i64::try_from(dice.below(5)).unwrap() };
    let is_from_now = dice.chance(20);
    let session = Session {
        start_revision: if is_from_now { 0 } else { start },
        replies: vec![Reply::Created { revision: start - 1 }],
    };
    let mut trace = Trace { watcher: 0, filter, wants_previous, sessions: vec![session] };
    let mut events = Vec::new();
    for revision in start..=timeline.last() {
        let own = timeline.at(revision).iter().filter(|event| trace.filter.matches(event));
        events.extend(own.map(|event| {
            let previous = timeline.version_at(&event.key, revision - 1);
            let previous = previous.filter(|_| wants_previous).cloned();
            WatchedEvent { event: event.clone(), previous }
        }));
        let session = trace.sessions.last_mut().unwrap();
        if dice.chance(60) && !events.is_empty() {
            session.replies.push(Reply::Events(std::mem::take(&mut events)));
        }
        if events.is_empty() && dice.chance(20) {
            session.replies.push(Reply::Progress { revision });
        }
        if events.is_empty() && dice.chance(10) {
            trace.sessions.push(Session {
                start_revision: revision + 1,
                replies: vec![Reply::Created { revision: timeline.last() }],
            });
        }
    }
    if !events.is_empty() {
        trace.sessions.last_mut().unwrap().replies.push(Reply::Events(events));
    }
    trace
}

#[test]
fn right_traces_are_accepted() {
    let mut dice = Dice::from_seed(1);
    for round in 0..300 {
        let timeline = Timeline::new(history(&mut dice, 60).1).unwrap();
        for filter in [Filter::Key("a".to_owned()), Filter::Prefix(String::new())] {
            let trace = trace(&mut dice, &timeline, filter);
            assert_eq!(check_watch(&trace, &timeline), [], "round {round}: {trace:#?}");
        }
    }
}

/// Damages many traces, where the damage finds something to do, and wants each to be refused.
fn expect_refusals(
    damage: impl Fn(&mut Dice, &mut Trace) -> bool,
    is_expected: impl Fn(&Violation) -> bool,
) {
    let mut dice = Dice::from_seed(2);
    let mut damaged = 0;
    for round in 0..300 {
        let timeline = Timeline::new(history(&mut dice, 60).1).unwrap();
        let mut trace = trace(&mut dice, &timeline, Filter::Prefix(String::new()));
        let before = trace.clone();
        if !damage(&mut dice, &mut trace) {
            continue;
        }
        damaged += 1;
        let violations = check_watch(&trace, &timeline);
        assert!(
            violations.iter().any(&is_expected),
            "round {round}: {violations:#?}\n{before:#?}\n{trace:#?}"
        );
    }
    assert!(damaged > 100, "only {damaged} traces could be damaged");
}

/// Places of the answers with events that satisfy a condition.
fn places(trace: &Trace, holds: impl Fn(&[WatchedEvent]) -> bool) -> Vec<(usize, usize)> {
    let mut places = Vec::new();
    for (session, replies) in trace.sessions.iter().map(|session| &session.replies).enumerate() {
        for (index, reply) in replies.iter().enumerate() {
            if matches!(reply, Reply::Events(events) if holds(events)) {
                places.push((session, index));
            }
        }
    }
    places
}

/// Applies a change to the events of one such answer.
fn change(
    dice: &mut Dice,
    trace: &mut Trace,
    holds: impl Fn(&[WatchedEvent]) -> bool,
    apply: impl Fn(&mut Dice, &mut Vec<WatchedEvent>),
) -> bool {
    let places = places(trace, holds);
    if places.is_empty() {
        return false;
    }
    let (session, index) = places[dice.index(places.len())];
    let Reply::Events(events) = &mut trace.sessions[session].replies[index] else {
        unreachable!("chosen for its events")
    };
    apply(dice, events);
    true
}

#[test]
fn a_missing_event_is_found() {
    expect_refusals(
        |dice, trace| {
            change(
                dice,
                trace,
                |_| true,
                |dice, events| {
                    events.remove(dice.index(events.len()));
                },
            )
        },
        |violation| {
            matches!(
                violation,
                Violation::WatchMissing { .. } | Violation::WatchProgressTooEarly { .. }
            )
        },
    );
}

#[test]
fn a_missing_end_is_found() {
    expect_refusals(
        |_, trace| {
            let replies = &mut trace.sessions.last_mut().unwrap().replies;
            matches!(replies.pop(), Some(Reply::Events(_)))
        },
        |violation| matches!(violation, Violation::WatchMissing { .. }),
    );
}

#[test]
fn a_repeated_event_is_found() {
    expect_refusals(
        |dice, trace| {
            change(
                dice,
                trace,
                |_| true,
                |dice, events| {
                    let index = dice.index(events.len());
                    events.insert(index, events[index].clone());
                },
            )
        },
        |violation| matches!(violation, Violation::WatchExtra { .. }),
    );
}

#[test]
fn a_repeated_answer_is_found() {
    expect_refusals(
        |dice, trace| {
            let places = places(trace, |_| true);
            let Some(&(session, index)) = places.get(dice.index(places.len().max(1))) else {
                return false;
            };
            let replies = &mut trace.sessions[session].replies;
            replies.insert(index, replies[index].clone());
            true
        },
        |violation| matches!(violation, Violation::WatchExtra { .. }),
    );
}

#[test]
fn events_in_the_wrong_order_are_found() {
    expect_refusals(
        |dice, trace| change(dice, trace, |events| events.len() > 1, |_, events| events.reverse()),
        |violation| matches!(violation, Violation::WatchOutOfOrder { .. }),
    );
}

#[test]
fn a_revision_in_two_answers_is_found() {
    let is_pair = |events: &[WatchedEvent]| {
        let len = events.len();
        len > 1 && events[len - 1].event.revision == events[len - 2].event.revision
    };
    expect_refusals(
        |dice, trace| {
            let places = places(trace, is_pair);
            let Some(&(session, index)) = places.get(dice.index(places.len().max(1))) else {
                return false;
            };
            let replies = &mut trace.sessions[session].replies;
            let Reply::Events(events) = &mut replies[index] else { unreachable!("chosen for it") };
            let last = events.pop().unwrap();
            replies.insert(index + 1, Reply::Events(vec![last]));
            true
        },
        |violation| matches!(violation, Violation::WatchSplitRevision { .. }),
    );
}

#[test]
fn progress_ahead_of_events_is_found() {
    expect_refusals(
        |dice, trace| {
            let places = places(trace, |_| true);
            let Some(&(session, index)) = places.get(dice.index(places.len().max(1))) else {
                return false;
            };
            let replies = &mut trace.sessions[session].replies;
            let Reply::Events(events) = &replies[index] else { unreachable!("chosen for it") };
            let revision = events.last().unwrap().event.revision;
            replies.insert(index, Reply::Progress { revision });
            true
        },
        |violation| matches!(violation, Violation::WatchProgressTooEarly { .. }),
    );
}

#[test]
fn an_event_behind_progress_is_found() {
    expect_refusals(
        |dice, trace| {
            let places = places(trace, |_| true);
            let Some(&(session, index)) = places.get(dice.index(places.len().max(1))) else {
                return false;
            };
            let replies = &mut trace.sessions[session].replies;
            let Reply::Events(events) = &replies[index] else { unreachable!("chosen for it") };
            let revision = events[0].event.revision;
            replies.insert(index, Reply::Progress { revision });
            true
        },
        |violation| matches!(violation, Violation::WatchBehindProgress { .. }),
    );
}

#[test]
fn progress_that_falls_is_found() {
    expect_refusals(
        |_, trace| {
            let replies = &mut trace.sessions.last_mut().unwrap().replies;
            let Some(Reply::Events(events)) = replies.last() else { return false };
            let revision = events.last().unwrap().event.revision - 1;
            replies.push(Reply::Progress { revision });
            true
        },
        |violation| matches!(violation, Violation::WatchProgressFell { .. }),
    );
}

#[test]
fn a_wrong_previous_version_is_found() {
    expect_refusals(
        |dice, trace| {
            change(
                dice,
                trace,
                |_| true,
                |dice, events| {
                    let index = dice.index(events.len());
                    let event = &mut events[index];
                    event.previous = match (&event.previous, &event.event.now) {
                        (Some(_), _) => None,
                        (None, Some(now)) => Some(now.clone()),
                        (None, None) => Some(Version {
                            value: "never".to_owned(),
                            create_revision: 1,
                            mod_revision: 1,
                            version: 1,
                            lease: 0,
                        }),
                    };
                },
            )
        },
        |violation| matches!(violation, Violation::WatchWrongPrevious { .. }),
    );
}

#[test]
fn an_event_that_never_was_is_found() {
    expect_refusals(
        |dice, trace| {
            change(
                dice,
                trace,
                |events| events.iter().any(|told| told.event.now.is_some()),
                |_, events| {
                    let put = events.iter_mut().find_map(|told| told.event.now.as_mut()).unwrap();
                    put.value.push('x');
                },
            )
        },
        |violation| matches!(violation, Violation::WatchExtra { .. }),
    );
}

#[test]
fn events_of_other_keys_are_found() {
    expect_refusals(
        |_, trace| {
            trace.filter = Filter::Key("a".to_owned());
            !places(trace, |events| events.iter().any(|told| told.event.key != "a")).is_empty()
        },
        |violation| matches!(violation, Violation::WatchExtra { .. }),
    );
}

#[test]
fn a_gap_between_sessions_is_found() {
    expect_refusals(
        |dice, trace| {
            let places = places(trace, |_| true);
            // An answer of another session than the last is forgotten: the next session begins after it.
            let earlier = |&&(session, _): &&(usize, usize)| session + 1 < trace.sessions.len();
            let earlier: Vec<(usize, usize)> = places.iter().filter(earlier).copied().collect();
            if earlier.is_empty() {
                return false;
            }
            let (session, index) = earlier[dice.index(earlier.len())];
            trace.sessions[session].replies.remove(index);
            true
        },
        |violation| {
            matches!(
                violation,
                Violation::WatchMissing { .. } | Violation::WatchProgressTooEarly { .. }
            )
        },
    );
}

#[test]
fn a_cancelled_watch_is_found() {
    expect_refusals(
        |_, trace| {
            let session = trace.sessions.last_mut().unwrap();
            session.replies.push(Reply::Cancelled { reason: "why not".to_owned() });
            true
        },
        |violation| matches!(violation, Violation::WatchCancelled { .. }),
    );
}

#[test]
fn a_compaction_excuses_who_was_behind_it_and_nobody_else() {
    let mut dice = Dice::from_seed(3);
    let mut timeline = Timeline::new(history(&mut dice, 60).1).unwrap();
    let last = timeline.last();
    let session = |start_revision, told| Session {
        start_revision,
        replies: vec![Reply::Compacted { revision: told }],
    };
    let trace = |sessions| Trace {
        watcher: 0,
        filter: Filter::Prefix(String::new()),
        wants_previous: false,
        sessions,
    };
    let is_refused = |violations: &[Violation]| {
        violations.iter().any(|violation| matches!(violation, Violation::WatchCancelled { .. }))
    };
    let behind = trace(vec![session(2, last + 1)]);
    assert!(is_refused(&check_watch(&behind, &timeline)), "there was no compaction");
    timeline.compact(last + 1);
    assert_eq!(check_watch(&behind, &timeline), []);
    let fresh = trace(vec![session(last + 1, last + 1)]);
    assert!(is_refused(&check_watch(&fresh, &timeline)), "it has missed nothing");
}
