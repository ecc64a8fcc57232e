//! A lone call's commit, without the commit thread.
//!
//! When a call finds the commit thread asleep, waking it and being woken by it cost two crossings of threads: as much as
//! the sync of a fast disk, and more of the processor than the request itself. So if nobody else waits on the calling
//! thread, that thread does the turn of the commit loop by itself, as soon as all that was ready before has been polled:
//!
//! ```text
//!   call ─► proposals (commit thread sleeps on) ─► Committer's turn: log, sync, apply ─► mailbox of the same thread
//! ```
//!
//! The commit loop is behind a lock, so the two never meet: who comes second waits for the turn's end, or wakes the
//! commit thread. With more than one call at a time the commit thread works as ever, and batches form.
//!
//! While the turn syncs, the thread's other connections wait. That is bounded: only a disk whose last sync was fast
//! ([`SYNC_MAX`]) is waited for here, and only a sole voter does it, whose commits need no other member.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::commit_loop::{CommitLoop, Progress};
use super::{NodeHandle, fatal, mailbox};

/// A sync that took longer is left to the commit thread: others on the calling thread must not wait for it.
pub(crate) const SYNC_MAX: Duration = Duration::from_micros(400);
/// A call takes two turns, or three: more are the commit thread's.
const TURNS_MAX: usize = 4;

#[derive(Default)]
struct Local {
    /// This thread has a [`run`] that will see to what is due.
    is_here: Cell<bool>,
    is_due: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

thread_local! {
    static LOCAL: Local = Local::default();
}

/// Whether the call that is about to wait on this thread may be committed by it.
pub(crate) fn may_commit(node: &NodeHandle) -> bool {
    LOCAL.with(|local| local.is_here.get())
        && mailbox::waiting() == 1
        && node.shared.has_fast_disk.load(Ordering::Relaxed)
        && node.shared.is_always_fresh.load(Ordering::Relaxed)
}

/// Has [`run`] look after the proposals.
pub(crate) fn is_due() {
    LOCAL.with(|local| {
        local.is_due.set(true);
        if let Some(waker) = local.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    });
}

/// Does the commits that are due on this thread. Never ends.
pub(crate) async fn run(node: NodeHandle, commit: Arc<Mutex<CommitLoop>>) {
    LOCAL.with(|local| local.is_here.set(true));
    loop {
        std::future::poll_fn(|context| {
            LOCAL.with(|local| {
                if local.is_due.take() {
                    return Poll::Ready(());
                }
                let mut waker = local.waker.borrow_mut();
                match waker.as_mut() {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            })
        })
        .await;
        if mailbox::waiting() > 1 || !commit_here(&commit) {
            node.shared.proposals.wake_commit_thread();
        }
    }
}

/// Returns false when something is left for the commit thread.
fn commit_here(commit: &Mutex<CommitLoop>) -> bool {
    let Some(mut commit) = commit.try_lock() else { return false };
    for _ in 0..TURNS_MAX {
        match commit.turn() {
            Ok(Progress::Busy) => {}
            Ok(Progress::Idle { .. }) => return true,
            Ok(Progress::Closed) => return false,
            Err(failure) => fatal(&failure),
        }
    }
    false
}
