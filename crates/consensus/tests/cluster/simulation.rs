//! Clusters under loss, duplication, delay, partitions, slow disks, crashes and membership changes.
//!
//! Everything follows from the seed: a failing run is repeated with the seed it prints. After each event these hold:
//! - a term has one leader;
//! - what one member is told to be committed is what all are told, in the same order;
//! - it is durable there, and on a quorum when anybody hears of it first;
//! - a read's index is not below anything that was known as committed when the read began;
//!
//! and after each run: logs that agree in one entry agree in all before it, and a healed cluster makes progress.
//!
//! Here several outputs are on their way to the disk at once, and messages that a server never sends twice come twice.
//! Whole members, as a server drives them, are simulated in `crates/sim`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;
use retcd_api::raftpb::{ConfChange, ConfChangeType, ConfState, Entry, Message, MessageType};
use retcd_consensus::{Config, FirstMember, InitialState, Output, Role};

use crate::member::Member;
use crate::random::Random;

/// Steps of simulated time per tick of a member's clock.
const STEPS_PER_TICK: u64 = 10;

/// A message on its way, under the step at which it arrives and a number that keeps the order total.
type Mail = BTreeMap<(u64, u64), Message>;

struct Simulation {
    random: Random,
    now: u64,
    members: BTreeMap<u64, Member>,
    mail: Mail,
    mail_sent: u64,
    /// When the write that is under way ends, per member.
    disk_busy_until: BTreeMap<u64, u64>,
    /// Members on the far side of a partition.
    cut_off: BTreeSet<u64>,
    /// No disturbances.
    is_calm: bool,
    /// No requests.
    is_quiet: bool,
    changes_members: bool,
    next_request: u64,
    /// Index that was committed when a read began, by its context.
    reads: BTreeMap<Bytes, u64>,
    reads_answered: u64,
    leaders: BTreeMap<u64, u64>,
    /// The one committed log.
    agreed: Vec<Entry>,
    /// Every configuration that was ever applied.
    configurations: Vec<ConfState>,
    trace: String,
}

impl Simulation {
    fn new(seed: u64, size: u64, changes_members: bool) -> Self {
        let ids = 1..=size;
        let first = ids.clone().map(|id| FirstMember { id, context: Bytes::new() }).collect();
        let initial = InitialState::bootstrap(first);
        let members = ids
            .map(|id| (id, Member::new(config(id, seed), initial.clone())))
            .collect::<BTreeMap<_, _>>();
        Self {
            random: Random::new(seed),
            now: 0,
            members,
            mail: Mail::new(),
            mail_sent: 0,
            disk_busy_until: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            is_calm: false,
            is_quiet: false,
            changes_members,
            next_request: 0,
            reads: BTreeMap::new(),
            reads_answered: 0,
            leaders: BTreeMap::new(),
            agreed: initial.entries,
            configurations: vec![ConfState {
                voters: (1..=size).collect(),
                ..ConfState::default()
            }],
            trace: String::new(),
        }
    }

    fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += 1;
        if !self.is_calm {
            self.disturb();
        }
        self.deliver();
        let ids: Vec<_> = self.members.keys().copied().collect();
        for id in ids {
            if self.members[&id].is_up() {
                self.advance(id);
            }
        }
    }

    /// One step of a member's life.
    fn advance(&mut self, id: u64) {
        // Clocks run at the same speed, but not in phase.
        if (self.now + id * 3).is_multiple_of(STEPS_PER_TICK) {
            self.member(id).node().tick();
        }
        if !self.is_quiet && self.random.one_in(40) {
            self.request(id);
        }
        let is_disk_free = self.disk_busy_until.get(&id).is_none_or(|&until| until <= self.now);
        if is_disk_free && !self.members[&id].in_flight.is_empty() {
            let messages = self.member(id).write();
            self.send(messages);
            self.disk_busy_until.remove(&id);
        }
        // Now and then a second and third output is taken before the first one is written.
        let in_flight = self.members[&id].in_flight.len();
        let may_take = in_flight == 0 || (in_flight < 4 && self.random.one_in(8));
        if may_take && self.member(id).node().has_output() {
            self.take_output(id);
        } else {
            let messages = self.member(id).node().take_messages();
            self.send(messages);
        }
        if self.random.one_in(3) {
            let count = 1 + self.random.below(10);
            self.member(id).apply(usize::try_from(count).unwrap());
            self.note_configuration(id);
        }
        self.check_leader(id);
    }

    fn take_output(&mut self, id: u64) {
        let output = self.member(id).take_output();
        self.note(id, &output);
        self.check_committed(id, &output);
        self.check_reads(&output);
        self.send(output.messages);
        if !self.disk_busy_until.contains_key(&id) {
            let stall = if !self.is_calm && self.random.one_in(60) { 200 } else { 6 };
            let until = self.now + self.random.below(stall);
            self.disk_busy_until.insert(id, until);
        }
        if self.random.one_in(30) {
            let keep = self.random.below(12);
            self.member(id).checkpoint(keep);
        }
    }

    /// Something a client or an operator asks of a member.
    fn request(&mut self, id: u64) {
        self.next_request += 1;
        let request = Bytes::from(format!("request {}", self.next_request));
        match self.random.below(12) {
            0 if self.changes_members => self.change_members(id),
            1 if !self.is_calm => {
                let to = self.any_member();
                self.member(id).node().transfer_leader(to);
            }
            2 if !self.is_calm => self.member(id).node().campaign(),
            3 if !self.is_calm => self.member(id).node().forget_leader(),
            4..=6 => {
                let known = self.agreed.len() as u64;
                if self.member(id).node().read_index(request.clone()) {
                    self.reads.insert(request, known);
                }
            }
            _ => {
                let count = 1 + self.random.below(4);
                let payloads: Vec<_> = (0..count)
                    .map(|part| Bytes::from(format!("{}.{part}", self.next_request)))
                    .collect();
                // A refusal gives the same payloads back; nobody waits for them here.
                if let Err(refused) = self.member(id).node().propose(payloads.clone()) {
                    assert_eq!(refused.payloads, payloads);
                }
            }
        }
    }

    /// Adds, demotes, promotes or removes somebody. Two voters always stay, so that progress is possible.
    fn change_members(&mut self, id: u64) {
        let node_id = self.any_member();
        let voters = self.member(id).node().conf_state().voters.clone();
        let r#type = match self.random.below(3) {
            0 if voters.len() > 2 || !voters.contains(&node_id) => {
                ConfChangeType::ConfChangeRemoveNode
            }
            1 if voters.len() > 2 || !voters.contains(&node_id) => {
                ConfChangeType::ConfChangeAddLearnerNode
            }
            _ => ConfChangeType::ConfChangeAddNode,
        };
        let change = ConfChange { r#type: r#type as i32, node_id, ..ConfChange::default() };
        // Refused or forwarded, both are fine. Only a leader knows whether another change is on its way, so only it
        // can be sure that two voters remain.
        if self.member(id).node().is_leader() {
            let _ = self.member(id).node().propose_conf_change(&change);
        }
    }

    fn disturb(&mut self) {
        if self.random.one_in(400) {
            let far = self.random.next();
            self.cut_off = self.members.keys().copied().filter(|id| far >> id & 1 == 1).collect();
        }
        if self.random.one_in(300) {
            self.cut_off.clear();
        }
        if self.random.one_in(400) {
            let id = self.any_member();
            let torn = usize::try_from(self.random.below(4)).unwrap();
            if self.members[&id].is_up() {
                self.member(id).crash(torn);
                self.disk_busy_until.remove(&id);
                writeln!(self.trace, "{} {id} crashes", self.now).unwrap();
            }
        }
        if self.random.one_in(60) {
            let id = self.any_member();
            self.revive(id);
        }
    }

    fn revive(&mut self, id: u64) {
        if !self.members[&id].is_up() {
            self.member(id).restart();
            writeln!(self.trace, "{} {id} restarts", self.now).unwrap();
        }
    }

    /// Ends all disturbances.
    fn calm(&mut self) {
        self.is_calm = true;
        self.cut_off.clear();
        let ids: Vec<_> = self.members.keys().copied().collect();
        for id in ids {
            self.revive(id);
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let copies = match self.random.below(20) {
                0 if !self.is_calm => 0,
                1 if !self.is_calm => 2,
                _ => 1,
            };
            let is_snapshot = message.r#type == MessageType::MsgSnap as i32;
            if copies == 0 && is_snapshot {
                self.member(message.from).node().report_snapshot(message.to, false);
            }
            for _ in 0..copies {
                let delay = if self.random.one_in(30) { 60 } else { 5 };
                let arrival = self.now + 1 + self.random.below(delay);
                self.mail_sent += 1;
                self.mail.insert((arrival, self.mail_sent), message.clone());
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.mail.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let message = entry.remove();
            let (from, to) = (message.from, message.to);
            let is_snapshot = message.r#type == MessageType::MsgSnap as i32;
            let is_cut = self.cut_off.contains(&from) != self.cut_off.contains(&to);
            let is_delivered = !is_cut && self.members.get(&to).is_some_and(Member::is_up);
            if is_delivered {
                // Answers from members that were removed are refused; all else must be taken.
                let result = self.member(to).node().step(message);
                assert!(
                    matches!(result, Ok(()) | Err(retcd_consensus::Error::UnknownPeer(_))),
                    "{result:?}"
                );
                self.check_leader(to);
            }
            if is_snapshot && self.members[&from].is_up() {
                self.member(from).node().report_snapshot(to, is_delivered);
            }
        }
    }

    fn check_leader(&mut self, id: u64) {
        let node = self.member(id).node();
        let (role, term) = (node.role(), node.term());
        if role == Role::Leader {
            let leader = *self.leaders.entry(term).or_insert(id);
            assert_eq!(leader, id, "term {term} has two leaders");
        }
    }

    fn check_committed(&mut self, id: u64, output: &Output) {
        for entry in &output.committed {
            let position = usize::try_from(entry.index - 1).unwrap();
            if position < self.agreed.len() {
                assert_eq!(&self.agreed[position], entry, "member {id} commits something else");
                continue;
            }
            assert_eq!(position, self.agreed.len(), "member {id} leaves a gap");
            self.agreed.push(entry.clone());
            assert!(
                self.is_on_a_quorum(entry),
                "entry {} is committed without a quorum",
                entry.index
            );
        }
    }

    fn note_configuration(&mut self, id: u64) {
        let conf_state = self.members[&id].machine.conf_state.clone();
        if !conf_state.voters.is_empty() && !self.configurations.contains(&conf_state) {
            self.configurations.push(conf_state);
        }
    }

    /// Whether `entry` is durable on a majority of the voters of a configuration that was in force at some time.
    fn is_on_a_quorum(&self, entry: &Entry) -> bool {
        self.configurations.iter().any(|configuration| {
            let voters = &configuration.voters;
            let holders =
                voters.iter().filter(|&voter| self.members[voter].disk.holds(entry)).count();
            holders > voters.len() / 2
        })
    }

    fn check_reads(&mut self, output: &Output) {
        for state in &output.read_states {
            // Duplicated answers are possible; a read is judged by its first.
            if let Some(known) = self.reads.remove(&state.context) {
                assert!(state.index >= known, "a read at {} misses entry {known}", state.index);
                self.reads_answered += 1;
            }
        }
    }

    /// Entries of equal index and term are equal, and so is everything before them.
    fn check_log_matching(&self) {
        let disks: Vec<_> = self.members.values().map(|member| &member.disk).collect();
        for (position, left) in disks.iter().enumerate() {
            for right in &disks[position + 1..] {
                let first = left.snapshot_index.max(right.snapshot_index) + 1;
                let last = left.last_index().min(right.last_index());
                let mut must_match = false;
                for index in (first..=last).rev() {
                    let (left, right) = (left.entry(index).unwrap(), right.entry(index).unwrap());
                    must_match |= left.term == right.term;
                    if must_match {
                        assert_eq!(left, right, "logs differ below an entry they share");
                    }
                }
            }
        }
    }

    fn note(&mut self, id: u64, output: &Output) {
        let entries = output.persist.entries.iter().map(|entry| (entry.index, entry.term));
        let committed = output.committed.iter().map(|entry| entry.index);
        writeln!(
            self.trace,
            "{} {id} output {} entries {:?} state {:?} committed {:?} soft {:?} sends {} then {}",
            self.now,
            output.number,
            entries.collect::<Vec<_>>(),
            output.persist.hard_state,
            committed.collect::<Vec<_>>(),
            output.soft_state,
            output.messages.len(),
            output.messages_after_persist.len(),
        )
        .unwrap();
    }

    fn any_member(&mut self) -> u64 {
        1 + self.random.below(self.members.len() as u64)
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).unwrap()
    }

    /// Everybody who belongs to the cluster in the end has applied everything.
    fn check_members_are_equal(&self) {
        let furthest = self.members.values().max_by_key(|member| member.machine.applied).unwrap();
        assert_eq!(furthest.machine.applied, self.agreed.len() as u64);
        let conf_state = &furthest.machine.conf_state;
        for id in conf_state.voters.iter().chain(&conf_state.learners) {
            let machine = &self.members[id].machine;
            assert_eq!(
                (machine.applied, &machine.conf_state),
                (furthest.machine.applied, conf_state),
                "member {id}"
            );
        }
    }
}

fn config(id: u64, seed: u64) -> Config {
    // Small limits, so that many messages and full windows happen.
    Config {
        max_message_bytes: 200,
        max_inflight: 4,
        ..Config::new(id, seed.wrapping_mul(1000) + id * 100)
    }
}

/// Runs one history and returns its trace. Panics where a property is violated.
fn simulate(seed: u64) -> (String, u64, u64) {
    let size = if seed.is_multiple_of(2) { 3 } else { 5 };
    let changes_members = seed.is_multiple_of(3);
    let mut simulation = Simulation::new(seed, size, changes_members);
    simulation.run(3000);
    simulation.check_log_matching();

    // Without disturbances the voters elect a leader and commit; without requests all members get equal.
    simulation.calm();
    let before = simulation.agreed.len();
    simulation.run(1500);
    assert!(simulation.agreed.len() > before + 20, "a calm cluster makes no progress");
    simulation.is_quiet = true;
    simulation.run(1000);
    simulation.check_log_matching();
    simulation.check_members_are_equal();
    (simulation.trace, simulation.agreed.len() as u64, simulation.reads_answered)
}

/// `SIM_SEED` replays one seed and prints its history; `SIM_SEEDS` says how many to run.
#[allow(
    clippy::disallowed_methods,
    reason = "which seeds to run is asked by whoever runs the test"
)]
#[test]
fn agreement_survives_everything() {
    let from_environment = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    if let Some(seed) = from_environment("SIM_SEED") {
        println!("{}", simulate(seed).0);
        return;
    }
    let seeds = from_environment("SIM_SEEDS").unwrap_or(200);
    let (mut committed, mut reads) = (0, 0);
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| simulate(seed));
        let Ok((_, agreed, answered)) = result else { panic!("seed {seed} failed") };
        committed += agreed;
        reads += answered;
    }
    // The histories must not be empty ones.
    assert!(committed > seeds * 100, "only {committed} entries were committed");
    assert!(reads > seeds * 20, "only {reads} reads were answered");
}

#[test]
fn a_seed_is_a_history() {
    for seed in [3, 10, 15] {
        let (first, ..) = simulate(seed);
        let (second, ..) = simulate(seed);
        assert!(first == second, "seed {seed} gave two histories");
        assert!(first.lines().count() > 1000);
    }
    assert_ne!(simulate(4).0, simulate(6).0);
}
