//! One member without Raft: whatever is proposed is committed at once.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use retcd_api::etcdserverpb as pb;
use retcd_api::raftpb::{ConfChange, ConfState, Entry, EntryType};
use retcd_state_machine::auth::Identity;
use retcd_state_machine::backend::{Backend, MemoryBackend};
use retcd_state_machine::mvcc::CompactionStep;
use retcd_state_machine::{Applied, Config, Reader, Rejection, Response, StateMachine};

pub(crate) struct Member {
    pub(crate) backend: Arc<MemoryBackend>,
    pub(crate) config: Config,
    machine: StateMachine,
    log: Vec<Entry>,
    conf_state: ConfState,
    pub(crate) now: Duration,
    /// On whose behalf requests are proposed.
    pub(crate) caller: Option<Identity>,
}

impl Member {
    pub(crate) fn new(config: Config) -> Self {
        let backend = Arc::new(MemoryBackend::new());
        let machine = StateMachine::open(Arc::clone(&backend) as _, config.clone()).unwrap();
        let now = Duration::ZERO;
        Member {
            backend,
            config,
            machine,
            log: Vec::new(),
            conf_state: ConfState::default(),
            now,
            caller: None,
        }
    }

    pub(crate) fn reader(&self) -> Reader {
        self.machine.reader()
    }

    /// Applies a request as the next entry of the log.
    pub(crate) fn propose(
        &mut self,
        mut request: pb::InternalRaftRequest,
    ) -> Result<Response, Rejection> {
        let id = self.log.len() as u64 + 1;
        let (username, auth_revision) =
            self.caller.clone().map(|caller| (caller.user, caller.revision)).unwrap_or_default();
        request.header = Some(pb::RequestHeader { id, username, auth_revision });
        let applied = self.commit(EntryType::EntryNormal, request.encode_to_vec());
        assert_eq!(applied.request_id, id);
        applied.outcome
    }

    /// Applies a membership change, and tells what Raft would make of it.
    pub(crate) fn change_members(&mut self, change: &ConfChange) -> Applied {
        let applied = self.commit(EntryType::EntryConfChange, change.encode_to_vec());
        self.note_conf_state(&applied);
        applied
    }

    fn commit(&mut self, kind: EntryType, data: Vec<u8>) -> Applied {
        let index = self.log.len() as u64 + 1;
        let entry = Entry { index, term: 1, data: data.into(), r#type: kind.into() };
        self.log.push(entry.clone());
        self.apply(&[entry]).pop().expect("one answer per entry")
    }

    fn apply(&mut self, entries: &[Entry]) -> Vec<Applied> {
        let mut out = Vec::new();
        self.machine.apply(entries, |_| true, self.now, &mut out).unwrap();
        assert_eq!(out.len(), entries.len());
        out
    }

    fn note_conf_state(&mut self, applied: &Applied) {
        if applied.outcome.is_ok() && !applied.is_skipped {
            let members = self.reader().members();
            let ids = |is_learner| {
                members.iter().filter(|m| m.is_learner == is_learner).map(|m| m.id).collect()
            };
            self.conf_state =
                ConfState { voters: ids(false), learners: ids(true), ..ConfState::default() };
            self.machine.set_conf_state(&self.conf_state);
        }
    }

    /// Writes what is pending, in pieces of about `max_bytes`, but at most `pieces` of them.
    pub(crate) fn flush(&mut self, max_bytes: usize, pieces: usize) {
        for _ in 0..pieces {
            let Some(flush) = self.reader().take_flush(max_bytes) else { return };
            self.backend.commit(&flush.batch).unwrap();
            self.reader().flushed(flush).unwrap();
        }
    }

    pub(crate) fn flush_all(&mut self) {
        self.flush(usize::MAX, usize::MAX);
        assert_eq!(self.reader().pending_bytes(), 0);
    }

    /// Does up to `steps` pieces of compaction work.
    pub(crate) fn compact(&mut self, records: usize, steps: usize) {
        for _ in 0..steps {
            match self.reader().compaction_step(records).unwrap() {
                CompactionStep::Idle | CompactionStep::NotFlushed => return,
                CompactionStep::Work(batch) => self.backend.commit(&batch).unwrap(),
            }
        }
    }

    /// Forgets everything that is not on disk, and replays the log.
    pub(crate) fn restart(&mut self) {
        self.backend = Arc::new(self.backend.copy());
        self.machine =
            StateMachine::open(Arc::clone(&self.backend) as _, self.config.clone()).unwrap();
        let flushed = self.machine.applied_index();
        for entry in self.log.clone() {
            for applied in self.apply(std::slice::from_ref(&entry)) {
                assert_eq!(applied.is_skipped, entry.index <= flushed);
                if entry.r#type() == EntryType::EntryConfChange {
                    self.note_conf_state(&applied);
                }
            }
        }
        assert_eq!(self.machine.applied_index(), self.log.len() as u64);
    }

    /// Gives this member's flushed state to another one, as a snapshot would.
    pub(crate) fn install_from(&mut self, other: &Member) {
        self.backend = Arc::new(other.backend.copy());
        self.log.clone_from(&other.log);
        self.machine.install(Arc::clone(&self.backend) as _).unwrap();
        let missing: Vec<_> = self.log.clone();
        self.apply(&missing);
    }

    pub(crate) fn conf_state(&self) -> Option<ConfState> {
        self.machine.conf_state()
    }
}

/// A request with one field set.
pub(crate) fn request(set: impl FnOnce(&mut pb::InternalRaftRequest)) -> pb::InternalRaftRequest {
    let mut request = pb::InternalRaftRequest::default();
    set(&mut request);
    request
}
