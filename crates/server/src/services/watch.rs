//! Watch: streams on the client's thread, fed by that thread's own hub.
//!
//! Each client thread has one [`LocalHub`] (a pure [`Hub`] and the wakers of its streams); nothing of it is shared, so
//! nothing is locked. The commit thread only says "there is more" through the mailbox; [`run_hub`] then lets the hub read
//! the store's history and deliver. A stream's output collects in the hub and leaves when the connection has room; while
//! it has none, the hub parks the stream and catches it up later.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::watch_request::RequestUnion;
use retcd_api::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use retcd_state_machine::auth::Action;
use retcd_state_machine::backend::{Encoded, Failure};
use retcd_state_machine::mvcc::Record;
use retcd_state_machine::watch::{self, History, HistoryError, Hub, StreamId};
use tokio::sync::Notify;

use super::{Services, decode, guard};
use crate::grpc::connection::Requests;
use crate::grpc::{Credentials, MessageReader, MessageStream, Metadata};
use crate::node::{self, NodeHandle};

/// A stream with more unread output than this is parked.
const STREAM_BUFFER_BYTES: usize = 1 << 20;
/// What one piece of output holds at most.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// Records that the hub reads between two looks at other work of the thread.
const CATCH_UP_BUDGET: usize = 1000;

thread_local! {
    static HUB: RefCell<Option<LocalHub>> = const { RefCell::new(None) };
}

/// The hub of one client thread.
pub(crate) struct LocalHub {
    hub: Hub,
    store: Store,
    /// The connections to wake when their stream has output.
    wakers: BTreeMap<StreamId, Waker>,
    /// Wakes [`run_hub`] when a stream has work for it.
    work: Arc<Notify>,
    runtime: u16,
    streams: usize,
    /// The member stops: every stream ends at its next poll.
    is_stopping: bool,
    progress_interval: Duration,
}

/// The state as a hub reads it.
struct Store {
    node: NodeHandle,
    reader: retcd_state_machine::Reader,
}

impl History for Store {
    fn current_revision(&self) -> i64 {
        self.reader.revision()
    }

    fn compacted_revision(&self) -> i64 {
        self.reader.compacted_revision()
    }

    fn raft_term(&self) -> u64 {
        self.node.term()
    }

    fn records(&self, from: i64, limit: usize, out: &mut Vec<Record>) -> Result<i64, HistoryError> {
        self.reader.records(from, limit, out)
    }

    fn value_at(&self, key: &[u8], main: i64) -> Result<Option<Encoded>, Failure> {
        self.reader.value_at(key, main)
    }
}

impl LocalHub {
    /// Gives the current thread its hub.
    pub(crate) fn install(services: &Services, runtime: u16) {
        let store = Store { node: services.node.clone(), reader: services.reader.clone() };
        let config = watch::Config {
            cluster_id: services.node.cluster_id(),
            member_id: services.node.member_id(),
            fragment_bytes: services.config.max_receive_bytes(),
            stream_buffer_bytes: STREAM_BUFFER_BYTES,
        };
        let hub = Hub::new(config, store.current_revision());
        let hub = LocalHub {
            hub,
            store,
            wakers: BTreeMap::new(),
            work: Arc::new(Notify::new()),
            runtime,
            streams: 0,
            is_stopping: false,
            progress_interval: services.config.watch_progress_notify_interval,
        };
        HUB.with_borrow_mut(|local| *local = Some(hub));
    }

    fn with<T>(act: impl FnOnce(&mut LocalHub) -> T) -> T {
        HUB.with_borrow_mut(|local| {
            act(local.as_mut().expect("every client thread installs its hub before it serves"))
        })
    }

    fn open_stream(&mut self) -> StreamId {
        self.streams += 1;
        if self.streams == 1 {
            // From here on the commit thread tells of news; what came before is read now.
            self.store.node.mailboxes()[usize::from(self.runtime)].set_has_watchers(true);
            self.advance();
        }
        // Up to a tenth more, so that streams opened together do not all report at once.
        let jitter = self.progress_interval / 10 * (u32::from(rand_byte()) % 101) / 100;
        // The task that sends periodic progress has to look when the next one is due.
        self.work.notify_one();
        self.hub.open_stream(self.progress_interval + jitter, self.store.node.now())
    }

    fn close_stream(&mut self, id: StreamId) {
        self.hub.close_stream(id);
        self.wakers.remove(&id);
        self.streams -= 1;
        if self.streams == 0 {
            self.store.node.mailboxes()[usize::from(self.runtime)].set_has_watchers(false);
        }
        self.count();
    }

    fn request(&mut self, id: StreamId, request: WatchRequest) {
        self.advance();
        let result = self.hub.request(id, request, &self.store);
        or_fatal(result);
        if self.hub.is_behind() {
            self.work.notify_one();
        }
        // Reading news for this stream wrote answers for others.
        self.wake_ready();
        self.count();
    }

    /// Answers a create request that is not permitted.
    fn refuse(&mut self, id: StreamId, error: &RpcError) {
        self.advance();
        let reason = format!("rpc error: code = {} desc = {}", error.code(), error.message());
        self.hub.refuse(id, &reason, &self.store);
        self.wake_ready();
        self.count();
    }

    /// Output of a stream, or the end of it when the member stops. `None`: nothing yet.
    fn take_output(&mut self, id: StreamId) -> Option<Result<Bytes, RpcError>> {
        let Some(output) = self.hub.take_output(id, OUTPUT_BYTES_MAX) else {
            return self.is_stopping.then_some(Err(RpcError::Stopped));
        };
        if self.hub.is_behind() {
            self.work.notify_one();
        }
        Some(Ok(output))
    }

    fn advance(&mut self) {
        let result = self.hub.advance(&self.store);
        or_fatal(result);
    }

    /// One bounded slice of work. Returns whether there is more.
    fn turn(&mut self) -> bool {
        self.advance();
        let result = self.hub.catch_up(&self.store, CATCH_UP_BUDGET);
        let has_more = or_fatal(result);
        self.wake_ready();
        self.count();
        has_more
    }

    fn progress(&mut self) {
        self.advance();
        let result = self.hub.notify_progress(self.store.node.now(), &self.store);
        or_fatal(result);
        self.wake_ready();
    }

    fn wake_ready(&mut self) {
        for id in self.hub.ready_streams() {
            if let Some(waker) = self.wakers.remove(&id) {
                waker.wake();
            }
        }
    }

    fn count(&self) {
        self.store.node.set_watch_counters(self.runtime, self.hub.counters());
    }
}

/// What a hub did; a local fault ends the process.
fn or_fatal<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| node::fatal(&failure))
}

/// A byte that differs from call to call; nothing depends on its quality.
fn rand_byte() -> u8 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish().to_le_bytes()[0]
}

/// Lets the thread's hub deliver what is new. Called by the mailbox task.
pub(crate) fn hub_has_work() {
    LocalHub::with(|local| {
        if local.turn() {
            local.work.notify_one();
        }
    });
}

/// Ends all streams of this thread: the member stops.
pub(crate) fn end_streams() {
    LocalHub::with(|local| {
        local.is_stopping = true;
        for (_, waker) in std::mem::take(&mut local.wakers) {
            waker.wake();
        }
    });
}

/// Serves the streams of this thread that are behind, a slice at a time, and sends periodic progress.
pub(crate) async fn run_hub() {
    let work = LocalHub::with(|local| local.work.clone());
    loop {
        let next_progress = LocalHub::with(|local| {
            local.hub.next_progress().map(|due| due.saturating_sub(local.store.node.now()))
        });
        tokio::select! {
            () = work.notified() => {}
            () = tokio::time::sleep(next_progress.unwrap_or(Duration::from_secs(3600))) => LocalHub::with(LocalHub::progress),
        }
        while LocalHub::with(LocalHub::turn) {
            tokio::task::yield_now().await;
        }
    }
}

/// A stream of this thread's hub. Closed when dropped.
struct HubStream(StreamId);

impl HubStream {
    fn open() -> Self {
        HubStream(LocalHub::with(LocalHub::open_stream))
    }
}

impl Drop for HubStream {
    fn drop(&mut self) {
        // While a thread ends, its hub may be gone before its streams.
        let _ = HUB.try_with(|local| {
            if let Ok(mut local) = local.try_borrow_mut()
                && let Some(local) = local.as_mut()
            {
                local.close_stream(self.0);
            }
        });
    }
}

/// What a service of the member itself watches: the same hub, without a connection.
///
/// As any watch it costs nothing until one of its events happens. Everything that it tells is read by
/// [`poll_next`](Self::poll_next), which must be called on the thread that opened it.
pub(super) struct Subscription {
    in_hub: HubStream,
    frames: MessageReader,
}

impl Subscription {
    pub(super) fn open(watchers: impl IntoIterator<Item = WatchCreateRequest>) -> Self {
        let in_hub = HubStream::open();
        LocalHub::with(|local| {
            for watcher in watchers {
                let request_union = Some(RequestUnion::CreateRequest(watcher));
                local.request(in_hub.0, WatchRequest { request_union });
            }
        });
        // What the hub wrote has no limit: it was a client's request once, and was small enough.
        Subscription { in_hub, frames: MessageReader::new(usize::MAX, false) }
    }

    /// The next answer that has events, or says that history before its watcher's start was compacted.
    ///
    /// # Errors
    /// The member stops.
    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<WatchResponse, RpcError>> {
        loop {
            while let Some(message) = self.frames.next()? {
                let response: WatchResponse = decode(message)?;
                if response.canceled || !response.events.is_empty() {
                    return Poll::Ready(Ok(response));
                }
            }
            self.frames.push(ready!(self.poll_output(context))?);
        }
    }

    fn poll_output(&self, context: &mut Context<'_>) -> Poll<Result<Bytes, RpcError>> {
        let id = self.in_hub.0;
        LocalHub::with(|local| {
            if let Some(output) = local.take_output(id) {
                return Poll::Ready(output);
            }
            local.wakers.insert(id, context.waker().clone());
            Poll::Pending
        })
    }
}

/// One watch stream of a client.
pub(super) struct Stream {
    services: Arc<Services>,
    credentials: Credentials,
    in_hub: HubStream,
    requests: Requests,
    /// A create request whose caller may not be known yet.
    permission: Option<Permission>,
    /// The client sends no more requests; events keep coming.
    is_half_closed: bool,
}

struct Permission {
    request: WatchRequest,
    is_permitted: Pin<Box<dyn Future<Output = Result<(), RpcError>> + Send>>,
}

/// Whether a caller may watch that. It is asked once, when the watcher is created.
async fn may_watch(
    services: Arc<Services>,
    credentials: Credentials,
    create: WatchCreateRequest,
) -> Result<(), RpcError> {
    // As in a range: an empty key stands for the first one there can be.
    let key = if create.key.is_empty() { &b"\0"[..] } else { &create.key };
    let action = Action::Read { key, range_end: &create.range_end };
    guard::permit_with(&services, &credentials, action).await.map(drop)
}

impl Stream {
    pub(super) fn open(services: &Arc<Services>, metadata: &Metadata, requests: Requests) -> Self {
        Stream {
            services: services.clone(),
            credentials: metadata.credentials(),
            in_hub: HubStream::open(),
            requests,
            permission: None,
            is_half_closed: false,
        }
    }

    /// Carries a request out, unless its caller must be looked at first.
    fn receive(&mut self, local: &mut LocalHub, request: WatchRequest) {
        if self.services.reader.auth_is_enabled()
            && let Some(RequestUnion::CreateRequest(create)) = &request.request_union
            // A start that no store has is refused to everybody alike.
            && create.start_revision >= 0
        {
            let (services, credentials) = (self.services.clone(), self.credentials.clone());
            let is_permitted = Box::pin(may_watch(services, credentials, create.clone()));
            self.permission = Some(Permission { request, is_permitted });
        } else {
            local.request(self.in_hub.0, request);
        }
    }

    /// Goes on with the request that waits for its permission. Pending while that is not known.
    fn decide(&mut self, local: &mut LocalHub, context: &mut Context<'_>) -> Poll<()> {
        if let Some(permission) = &mut self.permission {
            let outcome = ready!(permission.is_permitted.as_mut().poll(context));
            let request = self.permission.take().map(|permission| permission.request);
            match outcome {
                Ok(()) => local.request(self.in_hub.0, request.unwrap_or_default()),
                Err(error) => local.refuse(self.in_hub.0, &error),
            }
        }
        Poll::Ready(())
    }

    /// Reads requests while the stream may answer them.
    fn read_requests(
        &mut self,
        local: &mut LocalHub,
        context: &mut Context<'_>,
    ) -> Result<(), RpcError> {
        while !self.is_half_closed && local.hub.accepts_requests(self.in_hub.0) {
            if self.decide(local, context).is_pending() {
                break;
            }
            match self.requests.poll_next(context) {
                Poll::Pending => break,
                Poll::Ready(None) => self.is_half_closed = true,
                Poll::Ready(Some(message)) => self.receive(local, decode(message?)?),
            }
        }
        Ok(())
    }
}

impl MessageStream for Stream {
    fn poll_messages(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        LocalHub::with(|local| {
            loop {
                if let Err(error) = self.read_requests(local, context) {
                    return Poll::Ready(Some(Err(error)));
                }
                if let Some(output) = local.take_output(self.in_hub.0) {
                    return Poll::Ready(Some(output));
                }
                // A stream that was full may have requests waiting, now that it is not.
                if self.is_half_closed || local.hub.accepts_requests(self.in_hub.0) {
                    local.wakers.insert(self.in_hub.0, context.waker().clone());
                    return Poll::Pending;
                }
            }
        })
    }
}
