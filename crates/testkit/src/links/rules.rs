//! Which fault each direction has at the moment, and who is who.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use retcd_checkers::Dice;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing arrives and nobody is told, as when packets are dropped. What was sent is kept, as the sender's kernel
    /// would, and arrives when the fault ends. New connections hang: a handshake needs both directions.
    Silent,
    /// Connections are closed, and new ones as soon as it is known who dials. One direction is enough to refuse.
    Refused,
    /// Every chunk arrives after a time between `mean - spread` and `mean + spread`, in order.
    Delayed { mean: Duration, spread: Duration },
    /// Chunks get lost, as TCP shows it: a lost chunk is sent again after 200 ms, then 400 ms, then 800 ms, and holds up
    /// everything behind it. One that is lost a fourth time breaks the connection. A handshake counts as a chunk.
    Lossy { percent: u8 },
}

/// The first pause before something lost is sent again; Linux's smallest.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// A chunk that is lost this often breaks its connection.
const LOSSES_MAX: u32 = 4;

impl Fault {
    /// How long a chunk is under way. `None`: it never arrives, and the connection breaks.
    pub(super) fn travel(self, dice: &mut Dice) -> Option<Duration> {
        match self {
            Fault::Silent | Fault::Refused => Some(Duration::ZERO),
            Fault::Delayed { mean, spread } => {
                let width = u64::try_from(2 * spread.as_micros()).expect("a short time");
                let offset = Duration::from_micros(dice.below(width + 1));
                Some((mean + offset).saturating_sub(spread))
            }
            Fault::Lossy { percent } => {
                let mut late = Duration::ZERO;
                for losses in 0..LOSSES_MAX {
                    if !dice.chance(percent) {
                        return Some(late);
                    }
                    late += RETRANSMIT * 2_u32.pow(losses);
                }
                None
            }
        }
    }

    fn is_cut(self) -> bool {
        matches!(self, Fault::Silent | Fault::Refused)
    }
}

/// Faults by (from, to). A direction that is not there is sound.
pub(super) type Faults = BTreeMap<(usize, usize), Fault>;

/// Shared by the handle and all proxies.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    faults: watch::Sender<Faults>,
    /// Members by id in hex and by advertised URL.
    names: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { faults: watch::Sender::new(Faults::new()), names: Arc::default() }
    }
}

impl Rules {
    pub(super) fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    pub(super) fn introduce(&self, name: &str, member: usize) {
        self.names().insert(name.to_owned(), member);
    }

    pub(super) fn member(&self, name: &str) -> Option<usize> {
        self.names().get(name).copied()
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the fault of one direction.
    pub(super) fn direction(&self, from: usize, to: usize) -> Direction {
        Direction { from, to, faults: self.faults.subscribe() }
    }

    /// Returns once a direction from or to `member` is cut.
    pub(super) async fn cut_at(&self, member: usize) {
        let is_cut = |faults: &Faults| {
            faults
                .iter()
                .any(|(&(from, to), fault)| (from == member || to == member) && fault.is_cut())
        };
        wait(&mut self.faults.subscribe(), is_cut).await;
    }
}

/// The fault of one direction, as it changes.
#[derive(Debug, Clone)]
pub(super) struct Direction {
    from: usize,
    to: usize,
    faults: watch::Receiver<Faults>,
}

impl Direction {
    pub(super) fn fault(&self) -> Option<Fault> {
        self.faults.borrow().get(&(self.from, self.to)).copied()
    }

    /// Returns while the direction is not silent.
    pub(super) async fn passable(&mut self) {
        self.wait_for(|fault| fault != Some(Fault::Silent)).await;
    }

    /// Returns while connections are refused.
    pub(super) async fn refused(&mut self) {
        self.wait_for(|fault| fault == Some(Fault::Refused)).await;
    }

    async fn wait_for(&mut self, holds: impl Fn(Option<Fault>) -> bool) {
        let direction = (self.from, self.to);
        wait(&mut self.faults, |faults| holds(faults.get(&direction).copied())).await;
    }
}

/// Waits until the faults are such. When the links have ended, nothing changes any more, and their runtime ends this.
async fn wait(faults: &mut watch::Receiver<Faults>, holds: impl Fn(&Faults) -> bool) {
    if faults.wait_for(|faults| holds(faults)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_within_their_spread() {
        let mut dice = Dice::from_seed(3);
        let delays: Vec<Duration> =
            (0..1000).filter_map(|_| crate::links::SLOW.travel(&mut dice)).collect();
        assert_eq!(delays.len(), 1000);
        let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(*least >= Duration::from_millis(25) && *least < Duration::from_millis(35));
        assert!(*most <= Duration::from_millis(125) && *most > Duration::from_millis(115));
    }

    #[test]
    fn lost_chunks_come_late_or_break_the_connection() {
        let mut dice = Dice::from_seed(3);
        let half = Fault::Lossy { percent: 50 };
        let travels: Vec<Option<Duration>> = (0..1000).map(|_| half.travel(&mut dice)).collect();
        let count = |wanted| travels.iter().filter(|travel| **travel == wanted).count();
        assert!((430..570).contains(&count(Some(Duration::ZERO))));
        assert!((190..310).contains(&count(Some(Duration::from_millis(200)))));
        assert!((30..100).contains(&count(None)), "one in sixteen");
        assert_eq!(Fault::Lossy { percent: 100 }.travel(&mut dice), None);
    }
}
