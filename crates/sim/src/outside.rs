//! What all parts of a world share: time, chance, the trace, and what leaves a member.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use retcd_api::raftpb::Message;
use retcd_checkers::Dice;
use retcd_consensus::Output;
use retcd_state_machine::Response;

use crate::Plan;
use crate::checkers::Checkers;
use crate::sabotage::Sabotage;

/// Milliseconds of simulated time.
const STEP_MS: u64 = 10;
/// Steps per tick of Raft's clock: 100 ms, as in the server.
pub(crate) const STEPS_PER_TICK: u64 = 10;
/// An election timeout.
pub(crate) const ELECTION_STEPS: u64 = 10 * STEPS_PER_TICK;

pub(crate) fn clock(steps: u64) -> Duration {
    Duration::from_millis(STEP_MS * steps)
}

/// A time to live in steps.
pub(crate) fn steps(ttl_secs: i64) -> u64 {
    u64::try_from(ttl_secs).unwrap_or(0) * 1000 / STEP_MS
}

/// What a call is told.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    Applied(Response),
    Refused(String),
    /// The state is fresh enough to be read.
    MayRead,
    /// The lease runs again.
    Kept,
    /// An error that says nothing about whether the request takes effect.
    Nothing,
}

pub(crate) struct Outside {
    pub(crate) plan: Plan,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) dice: Dice,
    pub(crate) now: u64,
    /// No disturbances.
    pub(crate) is_calm: bool,
    pub(crate) checkers: Checkers,
    pub(crate) outbox: Vec<Message>,
    pub(crate) answers: Vec<(u64, Told)>,
    /// Every member that was ever heard of.
    pub(crate) known: BTreeSet<u64>,
    trace: Option<String>,
}

impl Outside {
    pub(crate) fn new(plan: Plan, sabotage: Option<Sabotage>, is_traced: bool) -> Self {
        Outside {
            dice: Dice::from_seed(plan.seed),
            plan,
            sabotage,
            now: 0,
            is_calm: false,
            checkers: Checkers::default(),
            outbox: Vec::new(),
            answers: Vec::new(),
            known: BTreeSet::new(),
            trace: is_traced.then(String::new),
        }
    }

    pub(crate) fn answer(&mut self, call: u64, told: Told) {
        self.answers.push((call, told));
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        if let Some(trace) = &mut self.trace {
            writeln!(trace, "{} {what}", self.now).expect("a text has room");
        }
    }

    pub(crate) fn note_output(&mut self, id: u64, output: &Output) {
        if self.trace.is_none() {
            return;
        }
        let entries = output.persist.entries.iter().map(|entry| (entry.index, entry.term));
        let committed = output.committed.iter().map(|entry| entry.index);
        self.note(format_args!(
            "{id} output {} entries {:?} state {:?} committed {:?} soft {:?} sends {} then {}",
            output.number,
            entries.collect::<Vec<_>>(),
            output.persist.hard_state,
            committed.collect::<Vec<_>>(),
            output.soft_state,
            output.messages.len(),
            output.messages_after_persist.len(),
        ));
    }

    pub(crate) fn into_trace(self) -> String {
        self.trace.unwrap_or_default()
    }
}
