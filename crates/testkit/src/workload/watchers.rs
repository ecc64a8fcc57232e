//! Clients that watch.
//!
//! They use the bare stream and not the client library's watcher, which would repair what is to be checked.

use std::sync::Arc;
use std::time::Duration;

use retcd_api::etcdserverpb::watch_client::WatchClient;
use retcd_api::etcdserverpb::watch_request::RequestUnion;
use retcd_api::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::Shared;
use super::clients::KEYS;
use retcd_checkers::{Event, Filter, Reply, Session, Timeline, Trace};

/// How long opening a stream may take, the server's first answer included.
const OPENING: Duration = Duration::from_secs(2);
/// Pause before the next member is tried.
const PAUSE: Duration = Duration::from_millis(50);
/// How often progress is asked for.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);
/// Answers after which a restless watcher goes to another member.
const RESTLESS_AFTER: usize = 100;
/// At the end, a stream that is silent this long is given up: its member may be one that was removed.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// When watchers may stop.
#[derive(Debug, Clone)]
pub(super) enum Goal {
    /// Not yet.
    None,
    /// Once they have seen their part of this.
    Reach(Arc<Timeline>),
}

/// Watches until the goal is reached. Watchers differ by their number: what they watch, whether they want previous
/// versions, and whether they change the member for no reason.
pub(super) async fn watch(
    number: usize,
    shared: Arc<Shared>,
    mut goal: watch::Receiver<Goal>,
) -> Trace {
    let filter = match number % 3 {
        0 | 1 => Filter::Prefix("k/".to_owned()),
        _ => Filter::Key(KEYS[0].to_owned()),
    };
    // The last one begins where it happens to be; all others at the beginning.
    let start = if number % 6 == 5 { 0 } else { 2 };
    let mut watcher = Watcher {
        trace: Trace {
            watcher: number,
            filter,
            wants_previous: number.is_multiple_of(2),
            sessions: vec![],
        },
        next: start,
        is_restless: number % 3 == 1,
    };
    let mut turn = number;
    while !watcher.is_done(&goal.borrow()) {
        watcher.session(&shared, turn, &mut goal).await;
        turn += 1;
        tokio::time::sleep(PAUSE).await;
    }
    watcher.trace
}

struct Watcher {
    trace: Trace,
    /// The revision to go on from. 0: from now, whatever that is.
    next: i64,
    is_restless: bool,
}

impl Watcher {
    fn is_done(&self, goal: &Goal) -> bool {
        match goal {
            Goal::None => false,
            Goal::Reach(timeline) => {
                let mut left = timeline.between(self.next, timeline.last());
                self.next > 0 && !left.any(|event| self.trace.filter.matches(event))
            }
        }
    }

    /// One stream, from where the last one ended.
    async fn session(&mut self, shared: &Shared, turn: usize, goal: &mut watch::Receiver<Goal>) {
        let channel = shared.targets.pick(turn);
        let request = creation(&self.trace.filter, self.next, self.trace.wants_previous);
        let Ok(Ok((requests, mut replies))) = timeout(OPENING, open(channel, request)).await else {
            return;
        };
        self.trace.sessions.push(Session { start_revision: self.next, replies: Vec::new() });
        let mut progress = tokio::time::interval(PROGRESS_PERIOD);
        let mut count = 0;
        loop {
            let is_last_phase = matches!(*goal.borrow(), Goal::Reach(_));
            if self.is_done(&goal.borrow()) || self.is_restless && count >= RESTLESS_AFTER {
                return;
            }
            tokio::select! {
                reply = replies.message() => {
                    // A stream that ends, ends; the next one goes on.
                    let Ok(Some(reply)) = reply else { return };
                    count += 1;
                    self.note(&reply);
                }
                _ = progress.tick(), if shared.load.asks_for_progress => {
                    // A full queue has enough of these.
                    let _ = requests.try_send(wrap(RequestUnion::ProgressRequest(
                        WatchProgressRequest {},
                    )));
                }
                changed = goal.changed(), if !is_last_phase => {
                    // Without a workload nobody will ask for the trace.
                    if changed.is_err() { return }
                }
                () = tokio::time::sleep(SILENCE_MAX), if is_last_phase => return,
            }
        }
    }

    fn note(&mut self, reply: &WatchResponse) {
        let Some(session) = self.trace.sessions.last_mut() else { return };
        let reply = Reply::from(reply);
        let next = match &reply {
            Reply::Created { revision } if self.next == 0 => revision + 1,
            Reply::Created { .. } | Reply::Cancelled { .. } | Reply::Compacted { .. } => self.next,
            Reply::Progress { revision } => revision + 1,
            Reply::Events(events) => events.last().map_or(0, |last| last.event.revision) + 1,
        };
        session.replies.push(reply);
        self.next = self.next.max(next);
    }
}

/// Reads a member's whole history up to a revision.
pub(super) async fn history(
    channel: Channel,
    last: i64,
    deadline: Duration,
) -> Result<Vec<Event>, String> {
    let mut events: Vec<Event> = Vec::new();
    if last < 2 {
        return Ok(events);
    }
    let request = creation(&Filter::Prefix(String::new()), 2, false);
    let read = async {
        let (_requests, mut replies) =
            open(channel, request).await.map_err(|status| status.to_string())?;
        while events.last().is_none_or(|event| event.revision < last) {
            let reply = replies.message().await.map_err(|status| status.to_string())?;
            let reply = reply.ok_or("the stream has ended")?;
            if reply.canceled {
                return Err(format!("the watch was cancelled: {:?}", reply.cancel_reason));
            }
            events.extend(reply.events.iter().map(Event::from));
        }
        Ok(())
    };
    let Ok(result) = timeout(deadline, read).await else {
        let seen = events.last().map_or(0, |event| event.revision);
        return Err(format!("its history ends at {seen}, not at {last}"));
    };
    result?;
    events.retain(|event| event.revision <= last);
    Ok(events)
}

type Stream = (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>);

async fn open(channel: Channel, request: WatchCreateRequest) -> Result<Stream, tonic::Status> {
    let (requests, receiver) = mpsc::channel(4);
    requests.try_send(wrap(RequestUnion::CreateRequest(request))).expect("an empty queue has room");
    let response = WatchClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .watch(ReceiverStream::new(receiver))
        .await?;
    Ok((requests, response.into_inner()))
}

fn creation(filter: &Filter, start_revision: i64, prev_kv: bool) -> WatchCreateRequest {
    let (key, range_end) = match filter {
        Filter::Key(key) => (key.clone().into_bytes(), Vec::new()),
        Filter::Prefix(prefix) => after_prefix(prefix.clone().into_bytes()),
    };
    WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision,
        prev_kv,
        progress_notify: true,
        ..Default::default()
    }
}

/// `key` and `range_end` of all keys with this prefix. The prefixes here end in a letter or sign, or are empty.
fn after_prefix(prefix: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut end = prefix.clone();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => return (vec![0], vec![0]),
    }
    (prefix, end)
}

fn wrap(request: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(request) }
}

/// How many events an answer has.
pub(super) fn events_in(reply: &Reply) -> usize {
    match reply {
        Reply::Events(events) => events.len(),
        Reply::Created { .. }
        | Reply::Progress { .. }
        | Reply::Compacted { .. }
        | Reply::Cancelled { .. } => 0,
    }
}
