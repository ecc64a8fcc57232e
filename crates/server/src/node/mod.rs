//! The node: from a request to an entry in the log, to a change of the state, to an answer.
//!
//! ```text
//!  client threads (one runtime each)            commit thread                      storage thread
//!  ─────────────────────────────────            ─────────────                      ──────────────
//!  propose ─► proposals ──── all that waits ──► one Raft proposal
//!                                               one write, one fdatasync (WAL)
//!                                               committed entries ─► apply ──────► dirty records, every second
//!  answers ◄─ mailbox ◄──── one wake a batch ── outcomes                           or 16 MiB, in transactions
//!  watchers ◄─ mailbox ◄─── "there is more" ──┘                                    compaction, hashes, snapshots
//! ```
//!
//! - The **commit thread** ([`commit_loop`]) is the only writer of the log and of the state machine. While it waits for
//!   the disk, requests pile up and become the next batch: no timer, no tuning. A lone call's turn is done by its own
//!   thread ([`lone`]).
//! - The **Raft node** stands behind a lock that is free while the disk works, so ticks and peers ([`peers`]) never wait
//!   for it.
//! - The **storage thread** ([`storage_loop`]) follows behind. Nothing that a client waits for depends on it, but for
//!   requests about storage itself.
//! - **Reads** run on the client's thread against the shared state; with other voters, Raft says first how fresh that
//!   must be ([`reads`]).
//!
//! Order. An answer leaves after its entry was applied, that is after a quorum synced it. The news for watchers is
//! posted with the answers of the same batch, not later. A local fault ([`fatal`]) ends the process: what
//! was acknowledged is in the log, and the next start replays it.

pub(crate) mod commit_loop;
pub(crate) mod lone;
pub(crate) mod mailbox;
pub(crate) mod peers;
pub(crate) mod proposals;
mod reads;
pub(crate) mod storage_loop;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_api::raftpb;
use retcd_state_machine::auth::Identity;
use retcd_state_machine::cluster::Member;
use retcd_state_machine::{ReadError, Reader, watch};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::mailbox::{Mailboxes, Pending, WaitsFor};
use self::proposals::{Command, Proposal, Proposals, Pushed, Waiter};
use self::reads::Rounds;
use self::storage_loop::StorageHandle;
use crate::metrics::{Metrics, timeline};
use crate::peer::Network;

/// A request that goes through the log: its field of `InternalRaftRequest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Request {
    Put = 4,
    DeleteRange = 5,
    Txn = 6,
    Compaction = 7,
    LeaseGrant = 8,
    LeaseRevoke = 9,
    Alarm = 10,
    LeaseCheckpoint = 11,
    AuthEnable = 1000,
    AuthDisable = 1011,
    Authenticate = 1012,
    AuthStatus = 1013,
    AuthUserAdd = 1100,
    AuthUserDelete = 1101,
    AuthUserGet = 1102,
    AuthUserChangePassword = 1103,
    AuthUserGrantRole = 1104,
    AuthUserRevokeRole = 1105,
    AuthUserList = 1106,
    AuthRoleList = 1107,
    AuthRoleAdd = 1200,
    AuthRoleDelete = 1201,
    AuthRoleGet = 1202,
    AuthRoleGrantPermission = 1203,
    AuthRoleRevokePermission = 1204,
    ClusterVersionSet = 1300,
    ClusterMemberAttrSet = 1301,
    DowngradeInfoSet = 1302,
}

/// The number of `InternalRaftRequest.header`.
const HEADER_FIELD: u32 = 100;

/// The identity of this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
}

/// What the node is told by the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) request_bytes_max: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) election_timeout: Duration,
    /// Leases may be revoked while other requests are refused because too many wait.
    pub(crate) revokes_under_overload: bool,
}

/// What all threads of the node share.
pub(crate) struct Shared {
    ids: Ids,
    limits: Limits,
    reader: Reader,
    proposals: Proposals,
    mailboxes: Mailboxes,
    /// Raft. Held for microseconds, never while the disk works.
    raft: Mutex<retcd_consensus::Node>,
    storage: StorageHandle,
    network: Network,
    rounds: Rounds,
    metrics: Arc<Metrics>,
    request_ids: AtomicU64,
    started: Instant,
    term: AtomicU64,
    /// 0 is none.
    leader: AtomicU64,
    /// When the present leader came, in milliseconds of the node's clock; 0: never.
    leader_came: AtomicU64,
    /// Since when nobody leads.
    leader_left: AtomicU64,
    committed: AtomicU64,
    is_learner: AtomicBool,
    /// When the running sync began, in milliseconds of the node's clock, plus one; 0: none runs.
    sync_since: AtomicU64,
    /// The last sync was fast enough to be waited for: see [`lone`].
    has_fast_disk: AtomicBool,
    /// The first entry of a term was applied.
    term_began: Notify,
    /// Other members as the network knows them, with their URLs.
    peers: Mutex<BTreeMap<u64, Vec<String>>>,
    /// The members that the log has told of, this one included.
    members: Mutex<BTreeMap<u64, Member>>,
    /// Who was removed for good.
    removed: RwLock<BTreeSet<u64>>,
    /// This member was removed: it must stop.
    is_removed: CancellationToken,
    /// What the watch hub of each client thread counts.
    watch_counters: Box<[Mutex<watch::Counters>]>,
    /// Only this member has a vote.
    is_sole_voter: AtomicBool,
    /// It leads besides, and has applied all that any leader before it has committed: see [`reads`].
    is_always_fresh: AtomicBool,
}

/// The node as the rest of the server sees it.
#[derive(Clone)]
pub(crate) struct NodeHandle {
    shared: Arc<Shared>,
}

/// Raft's part of a member's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RaftStatus {
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    pub(crate) committed: u64,
    pub(crate) is_learner: bool,
}

thread_local! {
    static RUNTIME: Cell<u16> = const { Cell::new(0) };
}

/// Tells the current thread which mailbox is its own. Called once, before any request is made on it.
pub(crate) fn enter_runtime(number: u16) {
    RUNTIME.set(number);
}

impl NodeHandle {
    #[allow(
        clippy::too_many_arguments,
        reason = "called once, at start, with what the start has put together"
    )]
    pub(crate) fn new(
        ids: Ids,
        limits: Limits,
        reader: Reader,
        raft: retcd_consensus::Node,
        mailboxes: Mailboxes,
        storage: StorageHandle,
        network: Network,
        metrics: Arc<Metrics>,
    ) -> Self {
        let watch_counters = mailboxes.iter().map(|_| Mutex::default()).collect();
        let is_sole_voter = raft.conf_state().voters == [ids.member];
        let is_learner = raft.conf_state().learners.contains(&ids.member);
        let shared = Shared {
            ids,
            limits,
            reader,
            proposals: Proposals::default(),
            mailboxes,
            raft: Mutex::new(raft),
            storage,
            network,
            rounds: Rounds::default(),
            metrics,
            request_ids: AtomicU64::new(first_request_id(ids.member)),
            started: Instant::now(),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            leader_came: AtomicU64::new(0),
            leader_left: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            is_learner: AtomicBool::new(is_learner),
            sync_since: AtomicU64::new(0),
            has_fast_disk: AtomicBool::new(false),
            term_began: Notify::new(),
            peers: Mutex::default(),
            members: Mutex::default(),
            removed: RwLock::default(),
            is_removed: CancellationToken::new(),
            watch_counters,
            is_sole_voter: AtomicBool::new(is_sole_voter),
            is_always_fresh: AtomicBool::new(false),
        };
        NodeHandle { shared: Arc::new(shared) }
    }

    pub(crate) fn cluster_id(&self) -> u64 {
        self.shared.ids.cluster
    }

    pub(crate) fn member_id(&self) -> u64 {
        self.shared.ids.member
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(crate) fn mailboxes(&self) -> &Mailboxes {
        &self.shared.mailboxes
    }

    pub(crate) fn term(&self) -> u64 {
        self.shared.term.load(Ordering::Relaxed)
    }

    /// Waits until this member has applied the first entry of a new leader, which may be itself.
    pub(crate) async fn term_began(&self) {
        self.shared.term_began.notified().await;
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        Some(self.shared.leader.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leader() == Some(self.shared.ids.member)
    }

    pub(crate) fn status(&self) -> RaftStatus {
        RaftStatus {
            leader: self.leader(),
            term: self.term(),
            committed: self.shared.committed.load(Ordering::Relaxed),
            is_learner: self.shared.is_learner.load(Ordering::Relaxed),
        }
    }

    /// Requests that wait for the commit thread.
    pub(crate) fn proposals_waiting(&self) -> usize {
        self.shared.proposals.len()
    }

    /// The member's monotonic clock: leases and deadlines count on it.
    pub(crate) fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Sends a request into the log; the returned call waits for its answer on this thread.
    ///
    /// `message` is the encoded request. It is copied here, once, so that nothing holds on to the connection's buffers.
    /// `caller`: on whose behalf; `None` when authentication is off, or nobody has said.
    ///
    /// # Errors
    /// Too large, or refused by the queue.
    pub(crate) fn propose(
        &self,
        request: Request,
        message: &[u8],
        caller: Option<&Identity>,
    ) -> Result<Pending, RpcError> {
        let id = self.new_request_id();
        let data = encode_request(request, message, id, caller);
        if data.len() > self.shared.limits.request_bytes_max {
            return Err(RpcError::RequestTooLarge);
        }
        let (pending, waiter) = self.new_waiter();
        let proposal = Proposal { id, data, waiter: Some(waiter), is_leaders_own: false };
        let (count_max, may_defer) = (self.count_max(request), lone::may_commit(self));
        if self.shared.proposals.push(proposal, count_max, may_defer)? == Pushed::Deferred {
            lone::is_due();
        }
        Ok(pending)
    }

    /// Sends a membership change into the log. Its id is given here.
    pub(crate) fn propose_change(&self, mut change: raftpb::ConfChange) -> Pending {
        change.id = self.new_request_id();
        let (pending, waiter) = self.new_waiter();
        self.shared.proposals.command(Command::ChangeMembers { change, waiter });
        pending
    }

    /// Sends a request of the member's own, whose answer nobody waits for.
    pub(crate) fn propose_unattended(
        &self,
        request: Request,
        message: &impl Message,
        caller: Option<&Identity>,
    ) -> Result<(), RpcError> {
        self.propose_without_waiter(request, message, caller, false)
    }

    /// Sends a request that follows from the leader's own clock, and is void when this member leads no more. Nobody waits
    /// for the answer.
    pub(crate) fn propose_as_leader(
        &self,
        request: Request,
        message: &impl Message,
    ) -> Result<(), RpcError> {
        // Users come and go; expired leases end all the same.
        let caller = self.shared.reader.own_identity();
        self.propose_without_waiter(request, message, caller.as_ref(), true)
    }

    fn propose_without_waiter(
        &self,
        request: Request,
        message: &impl Message,
        caller: Option<&Identity>,
        is_leaders_own: bool,
    ) -> Result<(), RpcError> {
        let id = self.new_request_id();
        let data = encode_request(request, &message.encode_to_vec(), id, caller);
        let proposal = Proposal { id, data, waiter: None, is_leaders_own };
        self.shared.proposals.push(proposal, self.count_max(request), false).map(drop)
    }

    /// With how many others a request may wait.
    fn count_max(&self, request: Request) -> usize {
        let is_urgent =
            self.shared.limits.revokes_under_overload && matches!(request, Request::LeaseRevoke);
        if is_urgent { proposals::URGENT_COUNT_MAX } else { proposals::COUNT_MAX }
    }

    fn new_waiter(&self) -> (Pending, Waiter) {
        let deadline = self.now() + self.shared.limits.request_timeout;
        let (pending, reply_to) = Pending::new(RUNTIME.get(), millis(deadline), WaitsFor::Apply);
        (pending, Waiter { reply_to, deadline })
    }

    fn new_request_id(&self) -> u64 {
        let id = self.shared.request_ids.fetch_add(1, Ordering::Relaxed);
        timeline::proposed(id);
        id
    }

    /// Answers the calls of this thread that have waited too long.
    pub(crate) fn expire_waiting(&self) {
        mailbox::expire(millis(self.now()), |waits_for| match waits_for {
            WaitsFor::Read => RpcError::Timeout,
            WaitsFor::Apply => self.timeout_error(self.shared.limits.request_timeout),
        });
    }

    /// Raises the NOSPACE alarm for this member. A failure to do so is no news: the write is refused anyway.
    pub(crate) async fn raise_no_space_alarm(&self) {
        let alarm = self.no_space_alarm();
        tracing::warn!(member_id = %format!("{:x}", self.shared.ids.member), "the backend's quota is used up, raising the alarm");
        if let Ok(pending) = self.propose(Request::Alarm, &alarm.encode_to_vec(), None) {
            let _ = pending.await;
        }
    }

    /// The same, without waiting. The commit thread calls this.
    pub(crate) fn raise_no_space_alarm_unattended(&self) {
        if !self.shared.reader.has_alarm(pb::AlarmType::Nospace) {
            let _ = self.propose_unattended(Request::Alarm, &self.no_space_alarm(), None);
        }
    }

    fn no_space_alarm(&self) -> pb::AlarmRequest {
        pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            member_id: self.shared.ids.member,
            alarm: pb::AlarmType::Nospace.into(),
        }
    }

    /// Waits until the records of all compactions up to `revision` are gone.
    pub(crate) async fn compacted_physically(&self, revision: i64) -> Result<(), RpcError> {
        self.shared.storage.compacted(revision).await
    }

    pub(crate) async fn hash(&self) -> Result<u32, RpcError> {
        self.shared.storage.hash().await?.map_err(|failure| fatal(&failure))
    }

    pub(crate) async fn hash_kv(
        &self,
        revision: i64,
    ) -> Result<retcd_state_machine::mvcc::HashKv, RpcError> {
        self.shared.storage.hash_kv(revision).await?.map_err(read_error)
    }

    pub(crate) async fn defragment(&self) -> Result<(), RpcError> {
        self.shared.storage.defragment().await?.map_err(|failure| fatal(&failure))
    }

    /// Ends the storage thread after a last flush.
    pub(crate) fn stop_storage(&self) {
        self.shared.storage.stop();
    }

    /// A lease id that is most likely free: positive, like a request id.
    pub(crate) fn new_lease_id(&self) -> i64 {
        (self.new_request_id() & i64::MAX.cast_unsigned()).cast_signed()
    }

    /// Stands for election, when Raft lets it.
    pub(crate) fn campaign(&self) {
        let mut raft = self.shared.raft.lock();
        // A member that has not applied what is committed may not know the members yet.
        if raft.applied_index() == raft.commit_index() {
            raft.campaign();
        }
        self.react(raft);
    }

    /// Sends and answers what need not wait for the commit thread, and wakes that for the rest.
    fn react(&self, mut raft: MutexGuard<'_, retcd_consensus::Node>) {
        let messages = raft.take_messages();
        let reads = raft.take_read_states();
        let has_output = raft.has_output();
        drop(raft);
        self.shared.network.send(messages);
        if has_output {
            self.shared.proposals.kick();
        }
        self.answer_reads(&reads);
    }

    /// Notes what the hub of a client thread counts.
    pub(crate) fn set_watch_counters(&self, runtime: u16, counters: watch::Counters) {
        *self.shared.watch_counters[usize::from(runtime)].lock() = counters;
    }

    /// The watch hubs' numbers in sum.
    pub(crate) fn watch_counters(&self) -> watch::Counters {
        let mut sum = watch::Counters::default();
        for counters in &self.shared.watch_counters {
            let counters = *counters.lock();
            sum.streams += counters.streams;
            sum.watchers += counters.watchers;
            sum.slow_watchers += counters.slow_watchers;
            sum.events_sent += counters.events_sent;
            sum.pending_events += counters.pending_events;
            let slowest = [sum.next_revision, counters.next_revision].into_iter().flatten().min();
            sum.next_revision = slowest;
        }
        sum
    }

    /// Refuses new requests. Those accepted before are still carried out, then the commit thread ends.
    pub(crate) fn close(&self) {
        self.shared.proposals.close();
    }
}

impl Shared {
    /// The log is about to be written. Until [`sync_ended`](Self::sync_ended) the commit loop may stand still.
    fn sync_began(&self) {
        self.sync_since.store(millis(self.started.elapsed()) + 1, Ordering::Relaxed);
    }

    fn sync_ended(&self) {
        self.sync_since.store(0, Ordering::Relaxed);
    }
}

/// The client's error for a read that failed; a local fault ends the process.
pub(crate) fn read_error(error: ReadError) -> RpcError {
    match error {
        ReadError::Rejection(rejection) => RpcError::from(&rejection),
        ReadError::Failure(failure) => fatal(&failure),
    }
}

/// Ends the process: the disk or the data cannot be trusted, and going on could give wrong answers.
pub(crate) fn fatal(failure: &(dyn std::error::Error + 'static)) -> ! {
    let mut text = failure.to_string();
    let mut source = failure.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    tracing::error!(error = %text, "the member cannot go on");
    std::process::exit(1)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Request ids of members and of restarts must not meet: 16 bits of the member, 40 of the time in milliseconds, a counter.
fn first_request_id(member: u64) -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    member << 48 | (millis(since_epoch) << 8) & 0xffff_ffff_ff00
}

/// An `InternalRaftRequest` around an encoded request.
fn encode_request(request: Request, message: &[u8], id: u64, caller: Option<&Identity>) -> Bytes {
    const LEN_DELIMITED: u32 = 2;
    const ID: u8 = 1 << 3;
    const USERNAME: u8 = 2 << 3 | 2;
    const AUTH_REVISION: u8 = 3 << 3;
    let tag = u64::from((request as u32) << 3 | LEN_DELIMITED);
    let header_tag = u64::from(HEADER_FIELD << 3 | LEN_DELIMITED);
    let caller_len = caller.map_or(0, |Identity { user, revision }| {
        let user_len = encoded_len_varint(user.len() as u64) + user.len();
        1 + user_len + 1 + encoded_len_varint(*revision)
    });
    let header_len = 1 + encoded_len_varint(id) + caller_len;
    let len = encoded_len_varint(tag)
        + encoded_len_varint(message.len() as u64)
        + message.len()
        + encoded_len_varint(header_tag)
        + encoded_len_varint(header_len as u64)
        + header_len;
    let mut data = Vec::with_capacity(len);
    encode_varint(tag, &mut data);
    encode_varint(message.len() as u64, &mut data);
    data.extend_from_slice(message);
    encode_varint(header_tag, &mut data);
    encode_varint(header_len as u64, &mut data);
    data.push(ID);
    encode_varint(id, &mut data);
    if let Some(Identity { user, revision }) = caller {
        data.push(USERNAME);
        encode_varint(user.len() as u64, &mut data);
        data.extend_from_slice(user.as_bytes());
        data.push(AUTH_REVISION);
        encode_varint(*revision, &mut data);
    }
    debug_assert_eq!(data.len(), len);
    data.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_wrapped_as_etcd_wraps_it() {
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let wrap = |caller| {
            let data = encode_request(Request::Put, &put.encode_to_vec(), 300, caller);
            pb::InternalRaftRequest::decode(data).unwrap()
        };
        let decoded = wrap(None);
        assert_eq!(decoded.put.as_ref(), Some(&put));
        let header = pb::RequestHeader { id: 300, ..Default::default() };
        assert_eq!(decoded.header.as_ref(), Some(&header));
        let caller = Identity { user: "u".repeat(200), revision: 1 << 40 };
        let header =
            pb::RequestHeader { id: 300, username: caller.user.clone(), auth_revision: 1 << 40 };
        assert_eq!(wrap(Some(&caller)).header.as_ref(), Some(&header));
    }

    #[test]
    fn every_request_kind_is_a_field_of_the_log_entry() {
        let empty = |request| {
            pb::InternalRaftRequest::decode(encode_request(request, &[], 1, None)).unwrap()
        };
        assert!(empty(Request::DeleteRange).delete_range.is_some());
        assert!(empty(Request::Txn).txn.is_some());
        assert!(empty(Request::Compaction).compaction.is_some());
        assert!(empty(Request::LeaseGrant).lease_grant.is_some());
        assert!(empty(Request::LeaseRevoke).lease_revoke.is_some());
        assert!(empty(Request::Alarm).alarm.is_some());
        assert!(empty(Request::LeaseCheckpoint).lease_checkpoint.is_some());
        assert!(empty(Request::AuthEnable).auth_enable.is_some());
        assert!(empty(Request::AuthDisable).auth_disable.is_some());
        assert!(empty(Request::Authenticate).authenticate.is_some());
        assert!(empty(Request::AuthStatus).auth_status.is_some());
        assert!(empty(Request::AuthUserAdd).auth_user_add.is_some());
        assert!(empty(Request::AuthUserDelete).auth_user_delete.is_some());
        assert!(empty(Request::AuthUserGet).auth_user_get.is_some());
        assert!(empty(Request::AuthUserChangePassword).auth_user_change_password.is_some());
        assert!(empty(Request::AuthUserGrantRole).auth_user_grant_role.is_some());
        assert!(empty(Request::AuthUserRevokeRole).auth_user_revoke_role.is_some());
        assert!(empty(Request::AuthUserList).auth_user_list.is_some());
        assert!(empty(Request::AuthRoleList).auth_role_list.is_some());
        assert!(empty(Request::AuthRoleAdd).auth_role_add.is_some());
        assert!(empty(Request::AuthRoleDelete).auth_role_delete.is_some());
        assert!(empty(Request::AuthRoleGet).auth_role_get.is_some());
        assert!(empty(Request::AuthRoleGrantPermission).auth_role_grant_permission.is_some());
        assert!(empty(Request::AuthRoleRevokePermission).auth_role_revoke_permission.is_some());
        assert!(empty(Request::ClusterVersionSet).cluster_version_set.is_some());
        assert!(empty(Request::ClusterMemberAttrSet).cluster_member_attr_set.is_some());
        assert!(empty(Request::DowngradeInfoSet).downgrade_info_set.is_some());
    }

    #[test]
    fn request_ids_begin_with_the_member() {
        assert_eq!(first_request_id(0xabcd_1234) >> 48, 0x1234);
    }
}
