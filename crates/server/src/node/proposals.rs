//! The way in: requests that wait for the commit thread.
//!
//! Handlers push, the commit thread takes all that waits at once, so a batch forms by itself while the disk syncs.
//! A push wakes the commit thread only when it sleeps, and not even then when the pushing thread will do the commit
//! itself ([`lone`](super::lone)). The queue is bounded in count and bytes; a full one refuses the request at once, since a
//! client that waits longer gains nothing.

use std::sync::OnceLock;
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use retcd_api::error::RpcError;
use retcd_api::{raftpb, walpb};

use super::mailbox::ReplyTo;

/// As many requests as etcd lets run ahead of apply, times the members of a batch in flight.
pub(super) const COUNT_MAX: usize = 50_000;
/// The same for a request that must not wait for the end of an overload.
pub(super) const URGENT_COUNT_MAX: usize = 2 * COUNT_MAX;
/// Requests of the largest size must not fill the memory.
const BYTES_MAX: usize = 256 << 20;

/// One request on its way into the log.
pub(crate) struct Proposal {
    /// `RequestHeader.ID`: finds the waiter again when the entry is applied.
    pub(crate) id: u64,
    /// The encoded `InternalRaftRequest`.
    pub(crate) data: Bytes,
    /// Who waits, and until when. `None` for requests of the member itself that nobody waits for.
    pub(crate) waiter: Option<Waiter>,
    /// Only a leader may put it into the log: what followed from its own clock is void once it leads no more.
    pub(crate) is_leaders_own: bool,
}

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiter {
    pub(crate) reply_to: ReplyTo,
    /// On the node's clock: afterwards nobody waits any more.
    pub(crate) deadline: Duration,
}

/// Who will see to what was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The commit thread.
    Awake,
    /// The commit thread sleeps on: the pusher does it, or wakes it.
    Deferred,
}

/// What else the commit thread is asked to do, in order with the proposals.
pub(crate) enum Command {
    /// The backend holds everything up to this snapshot, and its file is on disk: note it in the log, release the rest.
    SnapshotSaved(walpb::Snapshot),
    /// Propose a membership change; its id is that of the request.
    ChangeMembers { change: raftpb::ConfChange, waiter: Waiter },
}

/// All that waited.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) proposals: Vec<Proposal>,
    pub(crate) commands: Vec<Command>,
    /// No more will come.
    pub(crate) closed: bool,
}

#[derive(Default)]
struct State {
    waiting: Work,
    bytes: usize,
    /// The commit thread sleeps, or is about to: whoever brings work wakes it.
    parked: bool,
    /// Raft has something to do that did not come through this queue.
    kicked: bool,
}

#[derive(Default)]
pub(crate) struct Proposals {
    state: Mutex<State>,
    commit_thread: OnceLock<Thread>,
}

impl Proposals {
    /// `may_defer`: the caller can do the commit by itself if the commit thread sleeps.
    ///
    /// # Errors
    /// [`RpcError::Stopped`] after [`close`](Self::close), [`RpcError::RequestTooManyRequests`] when `count_max` proposals
    /// wait, or too many bytes.
    pub(crate) fn push(
        &self,
        proposal: Proposal,
        count_max: usize,
        may_defer: bool,
    ) -> Result<Pushed, RpcError> {
        let mut state = self.state.lock();
        if state.waiting.closed {
            return Err(RpcError::Stopped);
        }
        if state.waiting.proposals.len() >= count_max || state.bytes >= BYTES_MAX {
            return Err(RpcError::RequestTooManyRequests);
        }
        state.bytes += proposal.data.len();
        state.waiting.proposals.push(proposal);
        if may_defer && state.parked {
            return Ok(Pushed::Deferred);
        }
        self.wake(state);
        Ok(Pushed::Awake)
    }

    /// Wakes the commit thread for what was deferred.
    pub(crate) fn wake_commit_thread(&self) {
        self.wake(self.state.lock());
    }

    pub(crate) fn command(&self, command: Command) {
        let mut state = self.state.lock();
        state.waiting.commands.push(command);
        self.wake(state);
    }

    /// Tells the commit thread that the Raft node has output.
    pub(crate) fn kick(&self) {
        let mut state = self.state.lock();
        state.kicked = true;
        self.wake(state);
    }

    /// Refuses everything from now on. What was accepted before is still carried out.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.waiting.closed = true;
        self.wake(state);
    }

    /// Requests that wait now.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().waiting.proposals.len()
    }

    fn wake(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        if std::mem::take(&mut state.parked) {
            drop(state);
            if let Some(thread) = self.commit_thread.get() {
                thread.unpark();
            }
        }
    }

    /// Sleeps until there is something to take, for at most `patience`; `None` sleeps on. Returns whether there is. Only
    /// the commit thread calls this.
    pub(crate) fn wait(&self, patience: Option<Duration>) -> bool {
        self.commit_thread.get_or_init(std::thread::current);
        let mut may_sleep = patience != Some(Duration::ZERO);
        loop {
            let mut state = self.state.lock();
            let idle = state.waiting.proposals.is_empty() && state.waiting.commands.is_empty();
            if !idle || state.waiting.closed || state.kicked || !may_sleep {
                state.parked = false;
                return !idle || state.waiting.closed || state.kicked;
            }
            state.parked = true;
            drop(state);
            match patience {
                Some(patience) => {
                    std::thread::park_timeout(patience);
                    may_sleep = false;
                }
                None => std::thread::park(),
            }
        }
    }

    /// Takes all that waits into `work`, whose vectors are empty and keep their memory.
    pub(crate) fn take(&self, work: &mut Work) {
        let mut state = self.state.lock();
        std::mem::swap(&mut work.proposals, &mut state.waiting.proposals);
        std::mem::swap(&mut work.commands, &mut state.waiting.commands);
        work.closed = state.waiting.closed;
        state.bytes = 0;
        state.kicked = false;
    }
}
