//! Clients: they ask members, and write down what they asked and were told.
//!
//! Each client works on one member and goes on to another when that does not answer. A request takes a moment to arrive,
//! and so does the answer; if the member ends in between, or takes too long, the outcome is unknown.

mod operator;
mod requests;
pub(crate) mod watchers;

use std::collections::{BTreeMap, BTreeSet};

use retcd_api::raftpb::ConfChange;
use retcd_checkers::history::{Op, Outcome, Record};

use self::requests::Ended;
use self::watchers::Watcher;
use crate::member::Member;
use crate::network::Network;
use crate::outside::{Outside, Told, steps};

pub(crate) type Members = BTreeMap<u64, Member>;

const CLIENTS: usize = 5;
const WATCHERS: usize = 4;
const KEYS: [&str; 4] = ["k/0", "k/1", "k/2", "k/3"];
/// A call that takes longer has an unknown outcome.
const PATIENCE: u64 = 250;

pub(crate) struct Workload {
    clients: Vec<Client>,
    pub(crate) watchers: Vec<Watcher>,
    calls: BTreeMap<u64, Call>,
    /// Calls on their way to a member, by the step of their arrival.
    arriving: BTreeSet<(u64, u64)>,
    /// Answers on their way back.
    returning: BTreeMap<(u64, u64), Ended>,
    last_call: u64,
    last_value: u64,
    /// Leases that were granted, as far as clients know.
    leases: Vec<i64>,
    last_lease: i64,
    next_member: u64,
    /// The newest revision that a client has heard of.
    newest: i64,
    pub(crate) records: Vec<Record>,
    /// No new requests.
    pub(crate) is_quiet: bool,
    pub(crate) changes: usize,
}

#[derive(Default)]
struct Client {
    member: u64,
    /// The call that it waits for.
    call: Option<u64>,
    idle_until: u64,
    /// What it has last read, for a swap: key and revision.
    seen: Option<(String, i64)>,
}

/// One call.
struct Call {
    client: usize,
    member: u64,
    /// The life of the member that has the call; 0 while it is on its way.
    life: u64,
    asked: Asked,
    called: u64,
}

#[derive(Debug, Clone)]
enum Asked {
    Op(Op),
    Grant {
        lease: i64,
        ttl: i64,
    },
    KeepAlive {
        lease: i64,
        ttl: i64,
    },
    /// All keys as they were.
    ReadAt(i64),
    Compact(i64),
    Change(ConfChange),
}

impl Workload {
    pub(crate) fn new(members: u64) -> Self {
        let clients = (0..=CLIENTS)
            .map(|number| Client { member: 1 + number as u64 % members, ..Client::default() });
        Workload {
            clients: clients.collect(),
            watchers: (0..WATCHERS).map(Watcher::new).collect(),
            calls: BTreeMap::new(),
            arriving: BTreeSet::new(),
            returning: BTreeMap::new(),
            last_call: 0,
            last_value: 0,
            leases: Vec::new(),
            last_lease: 0,
            next_member: members + 1,
            newest: 1,
            records: Vec::new(),
            is_quiet: false,
            changes: 0,
        }
    }

    pub(crate) fn step(&mut self, members: &mut Members, network: &Network, outside: &mut Outside) {
        self.give_up(members, outside);
        if !self.is_quiet {
            self.call(members, outside);
        }
        while let Some(&first) = self.arriving.first()
            && first.0 <= outside.now
        {
            self.arriving.remove(&first);
            let call = first.1;
            self.arrive(call, members, network, outside);
        }
        self.take_answers(members, outside);
        while let Some(first) = self.returning.first_entry()
            && first.key().0 <= outside.now
        {
            let ((_, call), ended) = first.remove_entry();
            self.end(call, ended, outside);
        }
    }

    /// Nobody waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }

    /// Idle clients ask something.
    fn call(&mut self, members: &Members, outside: &mut Outside) {
        for client in 0..self.clients.len() {
            let Client { call, idle_until, member, .. } = &self.clients[client];
            if call.is_some() || *idle_until > outside.now {
                continue;
            }
            let member = *member;
            let is_operator = client == CLIENTS;
            let asked = if is_operator {
                self.clients[client].idle_until = outside.now + 100 + outside.dice.below(300);
                let Some((member, change)) = self.next_change(members, outside) else { continue };
                self.clients[client].member = member;
                Asked::Change(change)
            } else {
                self.next_request(client, &mut outside.dice)
            };
            let member = if is_operator { self.clients[client].member } else { member };
            self.last_call += 1;
            let called = outside.now;
            match &asked {
                Asked::Op(Op::Revoke { lease }) => {
                    outside.checkers.leases.revoke_called(*lease, called);
                }
                Asked::Compact(revision) => outside.note(format_args!("compacts at {revision}")),
                _ => {}
            }
            outside.note(format_args!("client {client} asks {member}: {asked:?}"));
            self.calls.insert(self.last_call, Call { client, member, life: 0, asked, called });
            self.clients[client].call = Some(self.last_call);
            self.arriving.insert((called + outside.dice.below(4), self.last_call));
        }
    }

    /// A request is there.
    fn arrive(&mut self, id: u64, members: &mut Members, network: &Network, outside: &mut Outside) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(process) =
            members.get_mut(&call.member).and_then(|member| member.process.as_mut())
        else {
            self.returning.insert((outside.now, id), Ended::Failed("refused".to_owned()));
            return;
        };
        call.life = process.life;
        if let Asked::KeepAlive { lease, .. } = call.asked {
            // Only the leader's clock counts.
            let (own, leader) = (process.id, process.node.leader());
            let is_reached =
                own == leader || network.connects(own, leader) && network.connects(leader, own);
            let leader = members.get_mut(&leader).and_then(|member| member.process.as_mut());
            match leader.filter(|_| is_reached) {
                Some(leader) => leader.keep_alive(id, lease, outside),
                None => outside.answer(id, Told::Nothing),
            }
            return;
        }
        requests::submit(id, &call.asked, process, outside);
    }

    /// Members have answered.
    fn take_answers(&mut self, members: &Members, outside: &mut Outside) {
        for (id, told) in std::mem::take(&mut outside.answers) {
            let Some(call) = self.calls.get(&id) else { continue };
            let Some(process) =
                members.get(&call.member).and_then(|member| member.process.as_ref())
            else {
                continue;
            };
            if process.life == call.life {
                let ended = requests::ended(&call.asked, told, process, outside);
                let at = outside.now + outside.dice.below(4);
                self.returning.insert((at, id), ended);
            }
        }
    }

    /// Calls whose member has ended, or that have waited for too long.
    fn give_up(&mut self, members: &Members, outside: &Outside) {
        for (id, call) in &self.calls {
            let life = members.get(&call.member).and_then(|member| member.process.as_ref());
            let is_broken = call.life != 0 && life.is_none_or(|process| process.life != call.life);
            if is_broken || call.called + PATIENCE < outside.now {
                self.returning.entry((outside.now, *id)).or_insert(Ended::Unknown);
            }
        }
    }

    /// A client knows how its call has ended.
    fn end(&mut self, id: u64, ended: Ended, outside: &mut Outside) {
        let Some(Call { client, asked, called, .. }) = self.calls.remove(&id) else { return };
        let now = outside.now;
        outside.note(format_args!("client {client} hears {ended:?}"));
        let state = &mut self.clients[client];
        state.call = None;
        state.idle_until = state.idle_until.max(now + 1 + outside.dice.below(20));
        if matches!(ended, Ended::Unknown | Ended::Failed(_)) {
            let known: Vec<u64> = outside.known.iter().copied().collect();
            state.member = known[outside.dice.index(known.len())];
        }
        match (asked, ended) {
            (Asked::Op(op), ended) => self.record(client, op, called, ended, outside),
            (Asked::Grant { lease, ttl }, Ended::Done) => {
                self.leases.push(lease);
                outside.checkers.leases.acknowledged(lease, called, steps(ttl), now);
            }
            (Asked::KeepAlive { lease, ttl }, Ended::Done) => {
                outside.checkers.leases.acknowledged(lease, called, steps(ttl), now);
            }
            (Asked::KeepAlive { lease, .. }, Ended::Refused(_)) => {
                self.miss(lease, called, outside);
            }
            (Asked::Change(_), Ended::Done) => self.changes += 1,
            _ => {}
        }
    }

    fn record(&mut self, client: usize, op: Op, called: u64, ended: Ended, outside: &mut Outside) {
        let now = outside.now;
        let (returned, outcome) = match ended {
            Ended::Answer(answer) => {
                self.newest = self.newest.max(answer.revision());
                if let (Op::Get { key }, retcd_checkers::history::Answer::Read { found, .. }) =
                    (&op, &answer)
                {
                    let revision = found.as_ref().map_or(0, |found| found.mod_revision);
                    self.clients[client].seen = Some((key.clone(), revision));
                }
                (now, Outcome::Ok(answer))
            }
            Ended::Refused(reason) => {
                if let Op::PutLeased { lease, .. } | Op::Revoke { lease } = &op {
                    self.miss(*lease, called, outside);
                }
                (now, Outcome::Failed(reason))
            }
            Ended::Failed(reason) => (now, Outcome::Failed(reason)),
            Ended::Unknown | Ended::Done => (u64::MAX, Outcome::Unknown("no answer".to_owned())),
        };
        self.records.push(Record { client, op, called, returned, outcome });
    }

    fn miss(&mut self, lease: i64, called: u64, outside: &mut Outside) {
        self.leases.retain(|&other| other != lease);
        let crate::checkers::Checkers { leases, violations, .. } = &mut outside.checkers;
        leases.missed(lease, called, outside.now, violations);
    }
}
