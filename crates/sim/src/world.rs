//! Members, the network between them, and clients, in steps of simulated time.

use std::collections::BTreeSet;

use retcd_api::raftpb::{ConfState, Message, MessageType};
use retcd_checkers::Trace;
use retcd_consensus::{FirstMember, InitialState, Role};
use retcd_state_machine::cluster;

use crate::Plan;
use crate::disk::Log;
use crate::member::{Member, Process};
use crate::network::{Network, Packet};
use crate::outside::{Outside, STEPS_PER_TICK};
use crate::sabotage::Sabotage;
use crate::workload::{Members, Workload};

/// How often the leader looks for leases that are over: half a second.
const EXPIRY_STEPS: u64 = 50;

pub(crate) struct World {
    pub(crate) outside: Outside,
    members: Members,
    network: Network,
    pub(crate) workload: Workload,
    /// Followers that will stand for election, since their leader's process has ended.
    campaigns: BTreeSet<(u64, u64)>,
    /// Members whose supervisor starts them again at once.
    restarts: BTreeSet<(u64, u64)>,
    pub(crate) crashes: usize,
    pub(crate) databases_sent: usize,
}

/// A member as the cluster knows it.
pub(crate) fn member(id: u64) -> cluster::Member {
    let peer_urls = vec![format!("http://m{id}:2380")];
    cluster::Member { id, peer_urls, name: format!("m{id}"), ..cluster::Member::default() }
}

impl World {
    pub(crate) fn new(plan: Plan, sabotage: Option<Sabotage>, is_traced: bool) -> Self {
        let ids = 1..=plan.members;
        let first = |id| FirstMember { id, context: member(id).to_json().into() };
        let initial = InitialState::bootstrap(ids.clone().map(first).collect());
        let mut outside = Outside::new(plan, sabotage, is_traced);
        outside.known.extend(ids.clone());
        let voters = ConfState { voters: ids.clone().collect(), ..ConfState::default() };
        outside.checkers.agreement.bootstrap(&initial.entries, voters);
        let mut members: Members = ids.map(|id| (id, Member::new(id, &initial))).collect();
        for member in members.values_mut() {
            member.start(&mut outside);
        }
        World {
            outside,
            members,
            network: Network::default(),
            workload: Workload::new(plan.members),
            campaigns: BTreeSet::new(),
            restarts: BTreeSet::new(),
            crashes: 0,
            databases_sent: 0,
        }
    }

    /// Goes on for so many steps, or until something is wrong.
    pub(crate) fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            if !self.outside.checkers.violations.is_empty() {
                return;
            }
            self.step();
        }
    }

    fn step(&mut self) {
        self.outside.now += 1;
        if !self.outside.is_calm {
            self.disturb();
        }
        self.deliver();
        self.campaign();
        while let Some(id) = due(&mut self.restarts, self.outside.now) {
            self.revive(id);
        }
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            self.advance(id);
        }
        self.workload.step(&mut self.members, &self.network, &mut self.outside);
        for watcher in &mut self.workload.watchers {
            watcher.step(&mut self.members, &mut self.outside);
        }
        self.send();
        self.membership();
    }

    /// One step of a member's life.
    fn advance(&mut self, id: u64) {
        let outside = &mut self.outside;
        let Some(member) = self.members.get_mut(&id).filter(|member| member.is_up()) else {
            return;
        };
        let (process, disk) = member.parts();
        // Clocks run at the same speed, but not in phase.
        if (outside.now + id * 3).is_multiple_of(STEPS_PER_TICK) {
            process.tick(outside);
        }
        if (outside.now + id * 7).is_multiple_of(EXPIRY_STEPS) {
            process.expire_leases(outside);
        }
        process.end_sync(disk, outside);
        // The commit loop is a thread that may have to wait for the processor.
        if !outside.dice.one_in(4) {
            process.turn(disk, outside);
        }
        process.store(disk, outside);
        let logs: Vec<(u64, &Log)> =
            self.members.iter().map(|(id, member)| (*id, member.disk.durable())).collect();
        outside.checkers.durable(&logs);
    }

    fn disturb(&mut self) {
        let outside = &mut self.outside;
        let ids: Vec<u64> = self.members.keys().copied().collect();
        let any = ids[outside.dice.index(ids.len())];
        if outside.dice.one_in(400) {
            self.network.partition(&mut outside.dice, &ids);
            outside.note(format_args!("partition"));
        }
        if outside.dice.one_in(300) {
            self.network.heal();
        }
        if outside.dice.one_in(600) {
            let far = ids[outside.dice.index(ids.len())];
            if let Some(process) = self.process(far) {
                process.node.transfer_leader(any);
            }
        }
        if self.outside.dice.one_in(400) {
            self.crash(any);
        }
        // The power fails for all.
        if self.outside.dice.one_in(3000) {
            for id in ids {
                self.crash(id);
            }
        }
        if self.outside.dice.one_in(60) {
            self.revive(any);
        }
    }

    fn process(&mut self, id: u64) -> Option<&mut Process> {
        self.members.get_mut(&id)?.process.as_mut()
    }

    fn crash(&mut self, id: u64) {
        let outside = &mut self.outside;
        let Some(member) = self.members.get_mut(&id).filter(|member| member.is_up()) else {
            return;
        };
        outside.note(format_args!("{id} crashes"));
        member.crash(outside);
        self.crashes += 1;
        if outside.dice.one_in(3) {
            self.restarts.insert((outside.now + 1 + outside.dice.below(10), id));
        }
        // Those who see it need not wait for an election timeout.
        if outside.dice.one_in(2) {
            return;
        }
        let mut at = outside.now;
        for (&other, member) in &mut self.members {
            let Some(process) = &mut member.process else { continue };
            if process.node.leader() == id && process.node.role() == Role::Follower {
                process.node.forget_leader();
                self.campaigns.insert((at, other));
                at += 3;
            }
        }
    }

    fn revive(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if !member.is_up() && !member.is_removed {
            self.outside.note(format_args!("{id} starts"));
            member.start(&mut self.outside);
        }
    }

    fn campaign(&mut self) {
        while let Some(id) = due(&mut self.campaigns, self.outside.now) {
            let process = self.members.get_mut(&id).and_then(|member| member.process.as_mut());
            if let Some(process) = process.filter(|process| process.node.leader() == 0) {
                process.campaign(&mut self.outside);
            }
        }
    }

    /// What members have to say goes on its way. A snapshot takes the database along.
    fn send(&mut self) {
        for message in std::mem::take(&mut self.outside.outbox) {
            if message.r#type != MessageType::MsgSnap as i32 {
                let packet = Packet { message, database: None };
                self.network.send(self.outside.now, &mut self.outside.dice, &packet);
                continue;
            }
            let (from, to) = (message.from, message.to);
            if !self.send_database(message)
                && let Some(process) = self.process(from)
            {
                process.node.report_snapshot(to, false);
            }
        }
    }

    fn send_database(&mut self, message: Message) -> bool {
        let outside = &mut self.outside;
        let Some(member) = self.members.get_mut(&message.from).filter(|member| member.is_up())
        else {
            return false;
        };
        let (process, disk) = member.parts();
        let Some((message, database)) =
            process.storage.export(message, &process.reader, disk, outside.now)
        else {
            return false;
        };
        self.databases_sent += 1;
        let packet = Packet { message, database: Some(database) };
        self.network.send(outside.now, &mut outside.dice, &packet)
    }

    fn deliver(&mut self) {
        while let Some((packet, is_through)) = self.network.deliver(self.outside.now) {
            let (from, to) = (packet.message.from, packet.message.to);
            let is_snapshot = packet.database.is_some();
            let is_delivered = is_through && self.take(packet);
            if is_snapshot && let Some(process) = self.process(from) {
                process.node.report_snapshot(to, is_delivered);
            }
        }
    }

    /// Returns whether the message was taken.
    fn take(&mut self, Packet { message, database }: Packet) -> bool {
        let from = message.from;
        let Some(member) = self.members.get_mut(&message.to).filter(|member| member.is_up()) else {
            return false;
        };
        let (process, disk) = member.parts();
        if process.removed.contains(&from) {
            // The door tells who was removed.
            if let Some(process) = self.process(from) {
                process.is_removed = true;
            }
            return false;
        }
        if let (Some(database), Some(snapshot)) = (database, &message.snapshot) {
            let index = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index);
            disk.receive(index, &database);
        }
        process.step(message, &mut self.outside);
        true
    }

    /// Members that were added start, those that were removed stop for good.
    fn membership(&mut self) {
        for id in self.outside.known.clone() {
            if !self.members.contains_key(&id) && self.outside.dice.one_in(20) {
                self.outside.note(format_args!("{id} joins"));
                self.members.insert(id, Member::new(id, &InitialState::default()));
                self.revive(id);
            }
        }
        for member in self.members.values_mut() {
            let is_removed = member.process.as_ref().is_some_and(|process| process.is_removed);
            if is_removed && self.outside.dice.one_in(20) {
                self.outside.note(format_args!("{} stops", member.id));
                member.process = None;
                member.is_removed = true;
            }
        }
    }

    /// Ends all disturbances.
    pub(crate) fn calm(&mut self) {
        self.outside.is_calm = true;
        self.network.is_calm = true;
        self.network.heal();
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            self.revive(id);
        }
    }

    pub(crate) fn check_logs(&mut self) {
        let logs: Vec<(u64, &Log)> =
            self.members.iter().map(|(id, member)| (*id, member.disk.durable())).collect();
        self.outside.checkers.logs(&logs);
    }

    /// Everybody who belongs to the cluster has applied everything, and every lease is over.
    pub(crate) fn check_members_are_equal(&mut self) {
        let outside = &mut self.outside;
        let agreed = outside.checkers.agreement.len();
        let processes = self.members.values().filter_map(|member| member.process.as_ref());
        let furthest = processes.clone().max_by_key(|process| process.machine.applied_index());
        // Whoever was removed may not have heard of it: nobody talks to it any more.
        let removed = furthest.map(|process| process.removed.clone()).unwrap_or_default();
        for process in processes.filter(|process| !removed.contains(&process.id)) {
            let (applied, leases) =
                (process.machine.applied_index(), process.reader.lessor().len());
            if applied != agreed {
                let text = format!("member {} is at {applied}, not at {agreed}", process.id);
                outside.checkers.violations.push(text);
            }
            if leases > 0 {
                let text = format!("member {} has {leases} leases that nobody wants", process.id);
                outside.checkers.violations.push(text);
            }
            outside.checkers.opened(process.id, &process.reader);
        }
    }

    /// Whether watchers have seen everything.
    pub(crate) fn is_watched(&self) -> bool {
        let timeline = &self.outside.checkers.states.timeline;
        self.workload.watchers.iter().all(|watcher| watcher.is_done(timeline))
    }

    pub(crate) fn finish(&mut self) {
        let records = std::mem::take(&mut self.workload.records);
        let traces: Vec<Trace> =
            self.workload.watchers.iter().map(|watcher| watcher.trace.clone()).collect();
        self.outside.checkers.finish(records, &traces);
    }
}

/// The next member whose time has come.
fn due(times: &mut BTreeSet<(u64, u64)>, now: u64) -> Option<u64> {
    let first = times.first().copied().filter(|(time, _)| *time <= now)?;
    times.remove(&first);
    Some(first.1)
}
