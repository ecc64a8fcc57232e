//! Golden scripts: `tests/scripts/<behaviour>`. `UPDATE_GOLDENFILES=1` rewrites the outputs.
//!
//! The runner owns the members and the network between them. Nothing happens by itself: time passes with `tick`,
//! messages wait until `deliver`. Disks write at once, unless a script stops one with `stall`.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use retcd_api::raftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType};
use retcd_consensus::{Config, FirstMember, InitialState, Node, Output, Role};

use crate::member::Member;

/// What a script may say. Members are numbers.
#[derive(goldenscript::Command)]
enum Command {
    /// Starts a new cluster of these voters; their first entries are applied.
    Cluster(Vec<u64>),
    /// Starts a member that knows nothing; some leader will tell it.
    Join(u64),
    /// Lets a member's clock tick.
    Tick { id: u64, times: Option<u64> },
    /// Lets a member stand for election.
    Campaign(u64),
    /// Forgets the leader, as after seeing its process end.
    Forget(u64),
    /// Proposes texts, as one batch.
    Propose { id: u64, texts: Vec<String> },
    /// Starts a linearizable read under a name.
    Read { id: u64, name: String },
    /// Proposes a membership change: `change 1 add=4`, also `learner`, `remove`, `update`.
    Change {
        id: u64,
        #[arg(key)]
        add: Option<u64>,
        #[arg(key)]
        learner: Option<u64>,
        #[arg(key)]
        remove: Option<u64>,
        #[arg(key)]
        update: Option<u64>,
    },
    /// Asks for a new leader.
    Transfer { id: u64, to: u64 },
    /// Delivers what waits, and all that follows from it.
    Deliver {
        #[arg(key)]
        from: Option<u64>,
        #[arg(key)]
        to: Option<u64>,
        /// Only what waits now, not the answers.
        #[arg(key, optional)]
        once: bool,
    },
    /// Loses what waits.
    Lose {
        #[arg(key)]
        from: Option<u64>,
        #[arg(key)]
        to: Option<u64>,
    },
    /// Cuts a member off: what it sends and what is sent to it is lost.
    Isolate(u64),
    /// Ends all isolation.
    Heal,
    /// Lets a member's disk stop; outputs are taken but not written.
    Stall(u64),
    /// Lets it write again.
    Resume(u64),
    /// Makes the state machine durable and keeps so many entries before it.
    Compact {
        id: u64,
        #[arg(key)]
        keep: u64,
    },
    /// Ends a process; what was not written is lost.
    Crash(u64),
    /// Starts it again.
    Restart(u64),
    /// Prints what members know.
    Status(Vec<u64>),
}

#[derive(Default)]
struct Cluster {
    members: BTreeMap<u64, Member>,
    waiting: Vec<Message>,
    isolated: BTreeSet<u64>,
    stalled: BTreeSet<u64>,
    log: String,
}

impl goldenscript::Runner for Cluster {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        self.log.clear();
        match command {
            Command::Cluster(ids) => self.start(ids),
            Command::Join(id) => self.insert(*id, InitialState::default()),
            Command::Tick { id, times } => {
                for _ in 0..times.unwrap_or(1) {
                    self.node(*id).tick();
                    self.work(*id);
                }
            }
            Command::Campaign(id) => self.node(*id).campaign(),
            Command::Forget(id) => self.node(*id).forget_leader(),
            Command::Propose { id, texts } => {
                let payloads = texts.iter().map(|text| Bytes::from(text.clone())).collect();
                self.node(*id).propose(payloads)?;
            }
            Command::Read { id, name } => {
                if !self.node(*id).read_index(Bytes::from(name.clone())) {
                    return Err("no leader is known".into());
                }
            }
            Command::Change { id, add, learner, remove, update } => {
                let (r#type, node_id) = match (add, learner, remove, update) {
                    (Some(node), None, None, None) => (ConfChangeType::ConfChangeAddNode, node),
                    (None, Some(node), None, None) => {
                        (ConfChangeType::ConfChangeAddLearnerNode, node)
                    }
                    (None, None, Some(node), None) => (ConfChangeType::ConfChangeRemoveNode, node),
                    (None, None, None, Some(node)) => (ConfChangeType::ConfChangeUpdateNode, node),
                    _ => return Err("one change at a time".into()),
                };
                let change = ConfChange {
                    r#type: r#type as i32,
                    node_id: *node_id,
                    ..ConfChange::default()
                };
                self.node(*id).propose_conf_change(&change)?;
            }
            Command::Transfer { id, to } => self.node(*id).transfer_leader(*to),
            Command::Deliver { from, to, once } => self.deliver(*from, *to, *once)?,
            Command::Lose { from, to } => {
                self.waiting.retain(|message| !is_between(message, *from, *to));
            }
            Command::Isolate(id) => {
                self.isolated.insert(*id);
                self.waiting.retain(|message| message.from != *id && message.to != *id);
            }
            Command::Heal => self.isolated.clear(),
            Command::Stall(id) => {
                self.stalled.insert(*id);
            }
            Command::Resume(id) => {
                self.stalled.remove(id);
            }
            Command::Compact { id, keep } => self.member(*id).checkpoint(*keep),
            Command::Crash(id) => {
                self.member(*id).crash(0);
                self.waiting.retain(|message| message.from != *id);
            }
            Command::Restart(id) => self.member(*id).restart(),
            Command::Status(ids) => ids.iter().for_each(|id| self.print_status(*id)),
        }
        self.work_all();
        Ok(self.log.clone())
    }
}

impl Cluster {
    fn start(&mut self, ids: &[u64]) {
        let first = ids.iter().map(|&id| FirstMember { id, context: Bytes::new() }).collect();
        let initial = InitialState::bootstrap(first);
        for &id in ids {
            self.insert(id, initial.clone());
        }
    }

    fn insert(&mut self, id: u64, initial: InitialState) {
        self.members.insert(id, Member::new(Config::new(id, id), initial));
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).expect("the member exists")
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.member(id).node()
    }

    fn work_all(&mut self) {
        let up: Vec<_> =
            self.members.values().filter(|member| member.is_up()).map(|member| member.id).collect();
        for id in up {
            self.work(id);
        }
    }

    /// Handles a member's outputs until it has none.
    fn work(&mut self, id: u64) {
        while self.node(id).has_output() || self.can_write(id) {
            if self.node(id).has_output() {
                let output = self.member(id).take_output();
                self.print_output(id, &output);
                self.send(output.messages);
            }
            while self.can_write(id) {
                let messages = self.member(id).write();
                self.send(messages);
            }
            self.member(id).apply(usize::MAX);
        }
    }

    fn can_write(&self, id: u64) -> bool {
        !self.stalled.contains(&id) && !self.members[&id].in_flight.is_empty()
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            if !self.isolated.contains(&message.from) && !self.isolated.contains(&message.to) {
                self.waiting.push(message);
            }
        }
    }

    fn deliver(
        &mut self,
        from: Option<u64>,
        to: Option<u64>,
        once: bool,
    ) -> Result<(), Box<dyn Error>> {
        loop {
            let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|message| is_between(message, from, to));
            self.waiting = later;
            if now.is_empty() {
                return Ok(());
            }
            for message in now {
                self.deliver_one(message)?;
            }
            if once {
                return Ok(());
            }
        }
    }

    fn deliver_one(&mut self, message: Message) -> Result<(), Box<dyn Error>> {
        writeln!(self.log, "{}", describe(&message))?;
        let (from, to) = (message.from, message.to);
        let is_snapshot = message.r#type == MessageType::MsgSnap as i32;
        let is_delivered = self.members.get(&to).is_some_and(Member::is_up);
        if is_delivered {
            if let Err(error) = self.node(to).step(message) {
                writeln!(self.log, "    {to} refuses: {error}")?;
            }
            self.work(to);
        }
        if is_snapshot {
            self.node(from).report_snapshot(to, is_delivered);
            self.work(from);
        }
        Ok(())
    }

    fn print_output(&mut self, id: u64, output: &Output) {
        let mut lines = Vec::new();
        if let Some(state) = output.soft_state {
            lines.push(match (state.role, state.leader) {
                (Role::Follower, 0) => "follows nobody".to_owned(),
                (Role::Follower, leader) => format!("follows {leader}"),
                (Role::PreCandidate, _) => "asks for votes in advance".to_owned(),
                (Role::Candidate, _) => "stands for election".to_owned(),
                (Role::Leader, _) => "leads".to_owned(),
            });
        }
        if let Some(metadata) =
            output.persist.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref())
        {
            lines.push(format!("stores a snapshot at {}@{}", metadata.index, metadata.term));
        }
        if !output.persist.entries.is_empty() {
            lines.push(format!("stores {}", describe_entries(&output.persist.entries)));
        }
        if let Some(state) = output.persist.hard_state.filter(|_| output.persist.must_sync) {
            lines.push(format!(
                "stores term {} vote {} commit {}",
                state.term, state.vote, state.commit
            ));
        }
        if !output.committed.is_empty() {
            lines.push(format!("commits {}", describe_entries(&output.committed)));
        }
        for state in &output.read_states {
            lines.push(format!("reads {} at {}", text(&state.context), state.index));
        }
        for line in lines {
            writeln!(self.log, "    {id} {line}").unwrap();
        }
    }

    fn print_status(&mut self, id: u64) {
        let Some(node) = self.member(id).node.as_ref() else {
            writeln!(self.log, "{id} is down").unwrap();
            return;
        };
        let status = node.status();
        let conf = &status.conf_state;
        writeln!(
            self.log,
            "{id} {:?} term {} leader {} log {}..{} commit {} applied {} voters {:?} learners {:?}",
            status.role,
            status.term,
            status.leader,
            status.first_index,
            status.last_index,
            status.commit,
            status.applied,
            conf.voters,
            conf.learners,
        )
        .unwrap();
        for peer in status.progress.iter().filter(|peer| peer.id != id) {
            writeln!(self.log, "    {} has {} ({:?})", peer.id, peer.matched, peer.state).unwrap();
        }
    }
}

fn is_between(message: &Message, from: Option<u64>, to: Option<u64>) -> bool {
    from.is_none_or(|from| message.from == from) && to.is_none_or(|to| message.to == to)
}

/// A message as one line: what matters for its type.
fn describe(message: &Message) -> String {
    let name = message.r#type().as_str_name();
    let mut line = format!("{}→{} {name} term {}", message.from, message.to, message.term);
    match message.r#type() {
        MessageType::MsgApp => {
            write!(line, " after {}@{} commit {}", message.index, message.log_term, message.commit)
                .unwrap();
        }
        MessageType::MsgVote | MessageType::MsgPreVote => {
            write!(line, " log {}@{}", message.index, message.log_term).unwrap();
        }
        MessageType::MsgAppResp | MessageType::MsgReadIndexResp => {
            write!(line, " index {}", message.index).unwrap();
        }
        MessageType::MsgHeartbeat => write!(line, " commit {}", message.commit).unwrap(),
        MessageType::MsgSnap => {
            let metadata =
                message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref()).unwrap();
            write!(line, " at {}@{}", metadata.index, metadata.term).unwrap();
        }
        _ => {}
    }
    if message.reject {
        write!(line, " refused, hint {}", message.reject_hint).unwrap();
    }
    if !message.context.is_empty() {
        write!(line, " for {}", text(&message.context)).unwrap();
    }
    if !message.entries.is_empty() {
        write!(line, " {}", describe_entries(&message.entries)).unwrap();
    }
    line
}

fn describe_entries(entries: &[Entry]) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|entry| format!("{}@{}={}", entry.index, entry.term, content(entry)))
        .collect();
    entries.join(" ")
}

fn content(entry: &Entry) -> String {
    if entry.r#type != EntryType::EntryConfChange as i32 {
        return text(&entry.data);
    }
    let change = ConfChange::decode(entry.data.clone()).unwrap();
    let what = match change.r#type() {
        ConfChangeType::ConfChangeAddNode => "add",
        ConfChangeType::ConfChangeRemoveNode => "remove",
        ConfChangeType::ConfChangeUpdateNode => "update",
        ConfChangeType::ConfChangeAddLearnerNode => "learner",
    };
    format!("{what}:{}", change.node_id)
}

fn text(bytes: &Bytes) -> String {
    if bytes.is_empty() { "∅".to_owned() } else { String::from_utf8_lossy(bytes).into_owned() }
}

fn check(behaviour: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(behaviour);
    goldenscript::run(&mut Cluster::default(), path).unwrap();
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        /// A script that nobody runs would pass for ever.
        #[test]
        fn every_script_is_run() {
            let known = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
            let found = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            assert_eq!(found.collect::<BTreeSet<_>>(), known);
        }
    };
}

scripts! {
    conf_changes
    disk_stalls
    election_of_one
    election_of_three
    joining_by_snapshot
    leader_removes_itself
    leader_transfer
    leaders_end_is_seen
    learners
    lost_messages
    overwritten_entries
    proposals
    read_index
    restart
}
