//! Watching keys, across broken connections.
//!
//! A [`Watcher`] is one stream with any number of watches on it. It remembers for each watch the revision from which
//! it would have to go on; when the stream breaks it opens another one, to the next endpoint, and asks for exactly
//! the events that are still missing. So a caller sees every event once, in order, whatever happens to members.
//!
//! Invariants
//! - ids are chosen here and never used twice, so a watch keeps its id on every stream;
//! - `next_revision` is above every event that was handed out and not above any that was not: an answer that comes in
//!   fragments counts when the last one is there, and what came of it before is forgotten when the stream breaks.

use std::collections::BTreeMap;
use std::time::Duration;

use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb::watch_client::WatchClient;
use retcd_api::etcdserverpb::watch_request::RequestUnion;
use retcd_api::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use retcd_api::mvccpb::Event;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use crate::client::Retry;
use crate::error::Failure;
use crate::identity::is_about_token;
use crate::{Client, Error, namespace};

/// Refused tokens in a row after which a watch counts as refused itself.
const REFUSED_TOKENS_MAX: usize = 3;
/// Pause before a broken stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

/// Watches that share a stream.
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    stream: Option<Stream>,
    /// The next stream, on its way.
    opening: Option<Opening>,
    /// Watches that have ended since, but which it will begin.
    ended: Vec<i64>,
    watches: BTreeMap<i64, Watch>,
    last_id: i64,
    /// Progress requests that no stream has taken yet.
    progress_requests: usize,
    is_broken: bool,
    /// How many tokens in a row were refused.
    refused_tokens: usize,
}

#[derive(Debug)]
struct Stream {
    /// Without a bound: a server that waits for us to read must not keep us from reading by not reading itself. What
    /// can wait here is on the books of the watcher anyway.
    requests: mpsc::UnboundedSender<WatchRequest>,
    replies: Streaming<WatchResponse>,
}

/// A task that opens a stream. Ends when it is dropped.
#[derive(Debug)]
struct Opening {
    /// The last watch that the stream begins by itself.
    last_id: i64,
    task: JoinHandle<Result<Stream, Error>>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Watch {
    request: WatchCreateRequest,
    /// Where the watch would go on, on another stream. 0 until the server has said where "now" is.
    next_revision: i64,
    /// Whether the server has answered the creation on the present stream.
    is_confirmed: bool,
    /// The events of an answer whose last fragment is still to come.
    fragments: Vec<Event>,
}

/// What [`Watcher::next_report`] tells.
#[derive(Debug)]
pub(crate) enum Report {
    /// The server has begun to watch; the header says since when.
    Created(WatchResponse),
    /// Events, progress or a cancellation.
    Answer(WatchResponse),
}

impl Client {
    /// Prepares to watch; the stream is opened by the first [`Watcher::next`].
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_client::Watch;
    ///
    /// let mut watcher = client.watcher();
    /// let id = watcher.create(Watch::key("a")).await;
    /// watcher.create(Watch::key("b")).await;
    /// let reply = watcher.next().await?;
    /// println!("{} events of {}", reply.events.len(), if reply.watch_id == id { "a" } else { "b" });
    /// # Ok(())
    /// # }
    /// ```
    pub fn watcher(&self) -> Watcher {
        Watcher {
            client: self.clone(),
            stream: None,
            opening: None,
            ended: Vec::new(),
            watches: BTreeMap::new(),
            last_id: 0,
            progress_requests: 0,
            is_broken: false,
            refused_tokens: 0,
        }
    }
}

impl Watcher {
    /// Adds a watch and returns its id, which its answers carry. The id in the request is ignored.
    #[allow(clippy::unused_async, reason = "callers should not depend on that it need not wait")]
    pub async fn create(&mut self, request: impl Into<WatchCreateRequest>) -> i64 {
        self.begin(request.into())
    }

    /// Ends a watch. It has no further answers.
    #[allow(clippy::unused_async, reason = "callers should not depend on that it need not wait")]
    pub async fn cancel(&mut self, id: i64) {
        self.end(id);
    }

    /// As [`Self::create`].
    pub(crate) fn begin(&mut self, mut request: WatchCreateRequest) -> i64 {
        namespace::add_to_range(&self.client.namespace, &mut request.key, &mut request.range_end);
        self.last_id += 1;
        request.watch_id = self.last_id;
        let next_revision = request.start_revision;
        let watch = Watch { next_revision, request, is_confirmed: false, fragments: Vec::new() };
        self.send(watch.creation());
        self.watches.insert(self.last_id, watch);
        self.last_id
    }

    /// Ends a watch and returns the request that would make another one go on where it was. `None` when there is no
    /// such watch.
    pub(crate) fn end(&mut self, id: i64) -> Option<WatchCreateRequest> {
        let watch = self.watches.remove(&id)?;
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id }));
        if self.opening.as_ref().is_some_and(|opening| id <= opening.last_id) {
            self.ended.push(id);
        }
        Some(WatchCreateRequest { start_revision: watch.next_revision, ..watch.request })
    }

    /// Asks how far the watches are, if there are any. The answer has id -1, no events, and comes once none of them lags behind.
    #[allow(clippy::unused_async, reason = "callers should not depend on that it need not wait")]
    pub async fn request_progress(&mut self) {
        self.ask_for_progress();
    }

    /// As [`Self::request_progress`].
    pub(crate) fn ask_for_progress(&mut self) {
        if self.watches.is_empty() {
            return;
        }
        if self.stream.is_some() {
            self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
        } else {
            self.progress_requests += 1;
        }
    }

    /// The ids of the watches that are alive.
    pub fn ids(&self) -> impl Iterator<Item = i64> + '_ {
        self.watches.keys().copied()
    }

    /// The next answer that says something: events, progress, or a cancellation.
    ///
    /// Waits forever when there is nothing to watch. May be dropped at any point and called again.
    ///
    /// # Errors
    /// Only those that no other endpoint could help with; they end every watch.
    pub async fn next(&mut self) -> Result<WatchResponse, Error> {
        loop {
            if let Report::Answer(reply) = self.next_report().await? {
                return Ok(reply);
            }
        }
    }

    /// As [`Self::next`], and tells of creations, too.
    pub(crate) async fn next_report(&mut self) -> Result<Report, Error> {
        loop {
            let result = match &mut self.stream {
                Some(stream) => stream.receive().await,
                // A server says nothing on a stream without watches, not even hello.
                None if self.watches.is_empty() => std::future::pending().await,
                None => self.open().await.map(|()| None),
            };
            match result {
                Ok(Some(reply)) => {
                    self.is_broken = false;
                    if self.is_refused_token(&reply) {
                        self.reopen_later();
                    } else if let Some(report) = self.note(reply) {
                        return Ok(report);
                    }
                }
                Ok(None) => {}
                Err(error) if error.is_passing() => self.reopen_later(),
                Err(error) => {
                    self.stream = None;
                    self.opening = None;
                    self.watches.clear();
                    return Err(error);
                }
            }
        }
    }

    /// Gives the stream up. Another one takes its place, after a pause.
    fn reopen_later(&mut self) {
        self.stream = None;
        self.is_broken = true;
        self.watches.values_mut().for_each(|watch| watch.fragments.clear());
    }

    /// Whether a watch was refused for a token that the next stream will not have.
    fn is_refused_token(&mut self, reply: &WatchResponse) -> bool {
        let is_refused = reply.created
            && self.client.is_user()
            && cancellation(reply).is_some_and(|error| is_about_token(&error));
        self.refused_tokens = if is_refused { self.refused_tokens + 1 } else { 0 };
        is_refused && self.refused_tokens <= REFUSED_TOKENS_MAX
    }

    /// Waits for the next stream. A task opens it, so being dropped here does not mean to begin anew.
    async fn open(&mut self) -> Result<(), Error> {
        let opening = if let Some(opening) = &mut self.opening {
            opening
        } else {
            let opening = self.begin_to_open();
            self.opening.insert(opening)
        };
        let opened = (&mut opening.task).await;
        let last_id = opening.last_id;
        self.opening = None;
        self.stream = Some(opened.unwrap_or_else(|_| Err(ended()))?);
        self.watches.values_mut().for_each(|watch| watch.is_confirmed = false);
        // What has changed since the task knew.
        for id in std::mem::take(&mut self.ended) {
            self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id }));
        }
        let later: Vec<RequestUnion> =
            self.watches.range(last_id + 1..).map(|(_, watch)| watch.creation()).collect();
        for request in later {
            self.send(request);
        }
        for _ in 0..std::mem::take(&mut self.progress_requests) {
            self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
        }
        Ok(())
    }

    fn begin_to_open(&mut self) -> Opening {
        let first: Vec<RequestUnion> = self.watches.values().map(Watch::creation).collect();
        self.ended.clear();
        let pause = if self.is_broken { REOPEN_PAUSE } else { Duration::ZERO };
        let task = tokio::spawn(open(self.client.clone(), first, pause));
        Opening { last_id: self.last_id, task }
    }

    /// Sends, if there is a stream. If there is none, or it breaks, opening the next one sends what matters again.
    fn send(&mut self, request: RequestUnion) {
        if let Some(stream) = &self.stream {
            let _ = stream.requests.send(wrap(request));
        }
    }

    /// Keeps the books; `None` for answers that only matter here.
    fn note(&mut self, mut reply: WatchResponse) -> Option<Report> {
        if reply.canceled {
            let id = self.canceled_id(&reply);
            self.watches.remove(&id)?;
            // A refused creation may come back without its id; here it is.
            reply.watch_id = id;
            return Some(Report::Answer(reply));
        }
        let revision = reply.header.map_or(0, |header| header.revision);
        if let Some(watch) = self.watches.get_mut(&reply.watch_id) {
            if reply.fragment {
                watch.fragments.append(&mut reply.events);
                return None;
            }
            if !watch.fragments.is_empty() {
                let last =
                    std::mem::replace(&mut reply.events, std::mem::take(&mut watch.fragments));
                reply.events.extend(last);
            }
            watch.advance(&reply, revision);
        } else if reply.watch_id >= 0 {
            return None;
        }
        namespace::strip_events(&self.client.namespace, &mut reply.events);
        Some(if reply.created { Report::Created(reply) } else { Report::Answer(reply) })
    }

    /// A refused creation comes back without its id. Requests are answered in order, so it is the oldest watch that
    /// the server has not confirmed.
    fn canceled_id(&self, reply: &WatchResponse) -> i64 {
        if reply.watch_id >= 0 {
            return reply.watch_id;
        }
        self.watches.iter().find(|(_, watch)| !watch.is_confirmed).map_or(-1, |(id, _)| *id)
    }
}

/// Opens a stream whose first requests are these.
async fn open(client: Client, first: Vec<RequestUnion>, pause: Duration) -> Result<Stream, Error> {
    tokio::time::sleep(pause).await;
    client.renew_token().await?;
    let mut requests = None;
    let replies = client
        .attempt(Retry::Repeatable, |channel| {
            let (sender, receiver) = mpsc::unbounded_channel();
            for request in &first {
                sender.send(wrap(request.clone())).expect("the receiver is right here");
            }
            requests = Some(sender);
            let request = client.stream_request(UnboundedReceiverStream::new(receiver));
            let mut service =
                WatchClient::new(channel).max_decoding_message_size(client.response_bytes_max);
            async move { service.watch(request).await }
        })
        .await?;
    Ok(Stream { requests: requests.expect("a successful attempt was made"), replies })
}

fn ended() -> Error {
    Error::ConnectionLost("watch stream ended".to_owned())
}

impl Stream {
    async fn receive(&mut self) -> Result<Option<WatchResponse>, Error> {
        match self.replies.message().await {
            Ok(Some(reply)) => Ok(Some(reply)),
            Ok(None) => Err(ended()),
            Err(status) => Err(Failure::from(status).into()),
        }
    }
}

impl Watch {
    /// The request that makes this watch go on where it is.
    fn creation(&self) -> RequestUnion {
        RequestUnion::CreateRequest(WatchCreateRequest {
            start_revision: self.next_revision,
            ..self.request.clone()
        })
    }

    fn advance(&mut self, reply: &WatchResponse, revision: i64) {
        let next = if let Some(last) = reply.events.last() {
            last.kv.as_ref().map_or(0, |kv| kv.mod_revision) + 1
        } else if reply.created && self.next_revision > 0 {
            self.next_revision
        } else {
            revision + 1
        };
        self.next_revision = self.next_revision.max(next);
        self.is_confirmed |= reply.created;
    }
}

fn wrap(request: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(request) }
}

/// Whether an answer only says how far its watches are.
pub fn is_progress_notify(reply: &WatchResponse) -> bool {
    let says_more =
        !reply.events.is_empty() || reply.canceled || reply.created || reply.compact_revision != 0;
    !says_more && reply.header.is_some_and(|header| header.revision != 0)
}

/// Why a watch was canceled; `None` for all other answers.
pub fn cancellation(reply: &WatchResponse) -> Option<Error> {
    if !reply.canceled {
        return None;
    }
    let reason = &reply.cancel_reason;
    let known = RpcError::from_message(reason).map(Error::Rpc);
    Some(if reply.compact_revision != 0 {
        Error::Rpc(RpcError::Compacted)
    } else if reason.is_empty() {
        // Servers before 3.4 gave no reason, and had only this one.
        Error::Rpc(RpcError::FutureRev)
    } else if reply.created {
        known.unwrap_or_else(|| Error::WatchRefused(reason.clone()))
    } else {
        known.unwrap_or_else(|| {
            Error::Rpc(RpcError::other(Code::FailedPrecondition, reason.clone()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use retcd_api::etcdserverpb::ResponseHeader;
    use retcd_api::mvccpb::KeyValue;

    /// What a caller would be told.
    fn told(report: Option<Report>) -> Option<WatchResponse> {
        match report {
            Some(Report::Answer(reply)) => Some(reply),
            Some(Report::Created(_)) | None => None,
        }
    }

    async fn watcher(start_revisions: &[i64]) -> Watcher {
        let mut watcher = Client::new(&Config::default()).unwrap().watcher();
        for start_revision in start_revisions {
            watcher
                .create(WatchCreateRequest {
                    start_revision: *start_revision,
                    ..Default::default()
                })
                .await;
        }
        watcher
    }

    fn reply(watch_id: i64, revision: i64) -> WatchResponse {
        let header = Some(ResponseHeader { revision, ..Default::default() });
        WatchResponse { header, watch_id, ..Default::default() }
    }

    fn with_event(mut reply: WatchResponse, mod_revision: i64) -> WatchResponse {
        let kv = KeyValue { mod_revision, ..Default::default() };
        reply.events.push(Event { kv: Some(kv), ..Default::default() });
        reply
    }

    #[tokio::test]
    async fn a_watch_goes_on_after_what_it_has_seen() {
        let mut watcher = watcher(&[0, 5]).await;
        let next = |watcher: &Watcher, id| watcher.watches[&id].next_revision;

        assert_eq!(told(watcher.note(WatchResponse { created: true, ..reply(1, 10) })), None);
        assert_eq!(next(&watcher, 1), 11, "\"from now\" must mean the same on the next stream");
        assert_eq!(told(watcher.note(WatchResponse { created: true, ..reply(2, 10) })), None);
        assert_eq!(next(&watcher, 2), 5, "history is still to come");

        assert!(watcher.note(with_event(reply(2, 10), 7)).is_some());
        assert_eq!(next(&watcher, 2), 8, "the header may be ahead of the events");
        assert!(watcher.note(reply(2, 20)).is_some());
        assert_eq!(next(&watcher, 2), 21);
        assert!(watcher.note(reply(-1, 30)).is_some(), "progress of the whole stream");
    }

    #[tokio::test]
    async fn fragments_become_one_answer_or_none() {
        let mut watcher = watcher(&[5]).await;
        let fragment =
            |revision| WatchResponse { fragment: true, ..with_event(reply(1, 10), revision) };
        assert!(watcher.note(fragment(7)).is_none());
        assert!(watcher.note(fragment(7)).is_none());
        assert_eq!(watcher.watches[&1].next_revision, 5, "half an answer is none");
        let whole = told(watcher.note(with_event(reply(1, 10), 8))).unwrap();
        let revisions: Vec<i64> =
            whole.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect();
        assert_eq!(revisions, [7, 7, 8]);
        assert_eq!(watcher.watches[&1].next_revision, 9);

        watcher.note(fragment(9));
        watcher.reopen_later();
        assert_eq!(watcher.watches[&1].next_revision, 9, "the next stream sends all of it again");
        let whole = told(watcher.note(with_event(reply(1, 10), 9))).unwrap();
        assert_eq!(whole.events.len(), 1, "and the pieces from before are forgotten");
    }

    #[tokio::test]
    async fn refusals_belong_to_the_oldest_unconfirmed_watch() {
        let mut watcher = watcher(&[0, 0, 0]).await;
        watcher.note(WatchResponse { created: true, ..reply(1, 10) });
        assert!(
            watcher
                .note(WatchResponse { created: true, canceled: true, ..reply(-1, 10) })
                .is_some()
        );
        assert_eq!(watcher.ids().collect::<Vec<_>>(), [1, 3]);
        assert!(
            watcher.note(WatchResponse { canceled: true, ..reply(2, 10) }).is_none(),
            "canceled twice"
        );
    }

    #[tokio::test]
    async fn progress_is_asked_for_once_there_is_a_stream() {
        let mut nothing = watcher(&[]).await;
        nothing.request_progress().await;
        assert_eq!(nothing.progress_requests, 0, "there is nothing to be told about");
        let mut waiting = watcher(&[0]).await;
        waiting.request_progress().await;
        assert_eq!(waiting.progress_requests, 1);
    }

    #[test]
    fn reasons_read_as_in_etcd() {
        let canceled = |reply: WatchResponse| cancellation(&reply).unwrap().to_string();
        let base = || WatchResponse { canceled: true, ..Default::default() };
        assert_eq!(
            canceled(WatchResponse { compact_revision: 3, ..base() }),
            "etcdserver: mvcc: required revision has been compacted"
        );
        let range = "mvcc: watcher range is empty";
        assert_eq!(
            canceled(WatchResponse { created: true, cancel_reason: range.into(), ..base() }),
            range
        );
        assert_eq!(
            canceled(WatchResponse { cancel_reason: "odd".into(), ..base() }),
            "rpc error: code = FailedPrecondition desc = odd"
        );
        assert_eq!(cancellation(&WatchResponse::default()), None);
    }
}
