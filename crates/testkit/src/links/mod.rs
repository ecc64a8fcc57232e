//! A network between members that can be broken, in each direction of each pair.
//!
//! ```text
//!   member A ──dials──►  door of B  ──►  B's peer port
//!                        (the peer URL that B advertises)
//! ```
//!
//! Each member advertises the port of a proxy, its *door*, and listens elsewhere. All members dial the same door, so
//! the proxy asks the first request of each connection who sent it: Raft's requests name the sender in
//! `X-Server-From` and its advertised URLs in `X-PeerURLs`. From then on the connection belongs to a pair, and each
//! direction of its bytes obeys the fault that is set for that direction, whoever dialled: on a stream, data flows
//! from the dialled member to the one that dialled.
//!
//! Requests that name nobody (`/version`, `/members`, probes, forwarded lease renewals) get a connection for one
//! request only, by a `Connection: close` that the proxy adds, so that no connection is ever shared between a named
//! and an unnamed request. They pass while no direction at the dialled member is cut, and are refused otherwise: too
//! strict for a partition, never too lax.
//!
//! What each fault does is told at [`Fault`]. Everything is bounded: a direction holds at most 64 chunks of 16 KiB, and
//! a sender that has more waits, as it would for a full TCP window.
//!
//! The proxies run on a thread of their own, so a test that blocks its thread does not slow the network.

mod head;
mod proxy;
mod pump;
mod rules;

use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

pub use rules::Fault;

use crate::Port;
use proxy::Door;
use rules::Rules;

/// The proxies in front of all members. They end with this handle, and all connections with them.
#[derive(Debug)]
pub struct Links {
    rules: Rules,
    /// Dropped to end the thread.
    doors: Option<mpsc::UnboundedSender<Door>>,
    thread: Option<JoinHandle<()>>,
}

impl Default for Links {
    fn default() -> Self {
        Self::new()
    }
}

impl Links {
    /// A network without members.
    pub fn new() -> Self {
        let rules = Rules::default();
        let (doors, receiver) = mpsc::unbounded_channel();
        let thread = {
            let rules = rules.clone();
            std::thread::Builder::new()
                .name("links".to_owned())
                .spawn(move || proxy::run(receiver, &rules))
                .expect("a thread can be started")
        };
        Links { rules, doors: Some(doors), thread: Some(thread) }
    }

    /// Opens a door in front of `member`, whose peer port is `target`. The port of the door is to be advertised.
    pub fn open_door(&self, member: usize, target: u16) -> Port {
        let port = Port::claim();
        let listener =
            TcpListener::bind(("127.0.0.1", port.number())).expect("a claimed port is free");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        self.rules.introduce(&port.url(), member);
        let doors = self.doors.as_ref().expect("only dropping ends the doors");
        doors.send(Door { member, target, listener }).expect("the thread of the links runs");
        port
    }

    /// Tells the proxies a name by which a member may introduce itself: its id in hex, or an advertised URL. Those of
    /// doors are known.
    pub fn introduce(&self, name: &str, member: usize) {
        self.rules.introduce(name, member);
    }

    /// Sets what happens to the bytes that `from` sends to `to`. Replaces the fault before.
    pub fn set(&self, from: usize, to: usize, fault: Fault) {
        self.rules.change(|faults| {
            faults.insert((from, to), fault);
        });
    }

    /// Sets the same fault for both directions.
    pub fn set_both(&self, one: usize, other: usize, fault: Fault) {
        self.between(&[one], &[other], fault);
    }

    /// Sets a fault for each pair with one member in `these` and one in `those`, in both directions, at once.
    pub fn between(&self, these: &[usize], those: &[usize], fault: Fault) {
        self.rules.change(|faults| {
            for &one in these {
                for &other in those {
                    faults.insert((one, other), fault);
                    faults.insert((other, one), fault);
                }
            }
        });
    }

    /// Sets a fault between all of these members.
    pub fn among(&self, members: &[usize], fault: Fault) {
        self.rules.change(|faults| {
            for &from in members {
                faults.extend(
                    members.iter().filter(|&&to| to != from).map(|&to| ((from, to), fault)),
                );
            }
        });
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.rules.change(std::collections::BTreeMap::clear);
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.doors = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; a second one while dropping would hide it.
            let _ = thread.join();
        }
    }
}

/// The delay that the reliability tests use: 25 to 125 ms.
pub const SLOW: Fault =
    Fault::Delayed { mean: Duration::from_millis(75), spread: Duration::from_millis(50) };

#[cfg(test)]
mod tests;
