//! Messages between members: late, lost, doubled, out of order, and cut off in either direction.
//!
//! Proposals on their way to the leader are never doubled: Raft would commit them twice. As in etcd, members rely on the
//! network for that, which sends each once over one connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use retcd_api::raftpb::{Message, MessageType};
use retcd_checkers::Dice;
use retcd_state_machine::backend::MemoryBackend;

/// A message on its way; that of a snapshot comes with the database.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) message: Message,
    pub(crate) database: Option<Arc<MemoryBackend>>,
}

#[derive(Default)]
pub(crate) struct Network {
    /// By the step of their arrival, and a number that keeps the order total.
    mail: BTreeMap<(u64, u64), Packet>,
    sent: u64,
    /// From whom to whom nothing comes through.
    cut: BTreeSet<(u64, u64)>,
    pub(crate) is_calm: bool,
}

impl Network {
    /// Returns whether it left: a part of all messages is lost at once.
    pub(crate) fn send(&mut self, now: u64, dice: &mut Dice, packet: &Packet) -> bool {
        let copies = match dice.below(20) {
            0 if !self.is_calm => 0,
            1 if !self.is_calm && packet.message.r#type() != MessageType::MsgProp => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = match (packet.database.is_some(), dice.one_in(30)) {
                (true, _) => 100,
                (false, true) => 60,
                (false, false) => 4,
            };
            self.sent += 1;
            self.mail.insert((now + 1 + dice.below(delay), self.sent), packet.clone());
        }
        copies > 0
    }

    /// The next message that arrives by `now`, and whether it comes through.
    pub(crate) fn deliver(&mut self, now: u64) -> Option<(Packet, bool)> {
        let first = self.mail.first_entry().filter(|entry| entry.key().0 <= now)?;
        let packet = first.remove();
        let is_through = self.connects(packet.message.from, packet.message.to);
        Some((packet, is_through))
    }

    pub(crate) fn connects(&self, from: u64, to: u64) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Divides the members in two, or makes one of them deaf, or mute.
    pub(crate) fn partition(&mut self, dice: &mut Dice, members: &[u64]) {
        let (side, way) = (dice.number(), dice.below(4));
        let one = members[dice.index(members.len())];
        let is_far = |id: u64| if way == 0 { id == one } else { side >> (id % 64) & 1 == 1 };
        for &from in members {
            for &to in members {
                let is_cut = match way {
                    // One way: what one member says, or what it is told.
                    0 if side & 1 == 1 => from == one,
                    0 => to == one,
                    _ => is_far(from) != is_far(to),
                };
                if is_cut && from != to {
                    self.cut.insert((from, to));
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }
}
