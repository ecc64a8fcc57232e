//! Clients that watch: a stream on one member's hub, and when that ends a new one, at any member, from where it ended.

use prost::Message as _;
use retcd_api::etcdserverpb::watch_request::RequestUnion;
use retcd_api::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use retcd_checkers::{Filter, Reply, Session, Timeline, Trace};
use retcd_state_machine::watch::StreamId;

use super::{KEYS, Members};
use crate::member::Process;
use crate::outside::{Outside, clock};
use crate::sabotage::Sabotage;

/// A stream that is silent for longer, without even a progress answer, is given up: the member may be one that was removed.
const SILENCE_MAX: u64 = 250;

pub(crate) struct Watcher {
    pub(crate) trace: Trace,
    /// The revision to go on from. 0: from now, whatever that is.
    next: i64,
    stream: Option<Stream>,
}

struct Stream {
    member: u64,
    life: u64,
    id: StreamId,
    /// Came from the member, and is not a whole answer yet.
    bytes: Vec<u8>,
    heard_at: u64,
}

impl Watcher {
    /// Watchers differ by their number: what they watch, from when on, and whether they want previous versions.
    pub(super) fn new(number: usize) -> Self {
        let filter = match number % 4 {
            3 => Filter::Key(KEYS[0].to_owned()),
            _ => Filter::Prefix("k/".to_owned()),
        };
        let trace = Trace {
            watcher: number,
            filter,
            wants_previous: number.is_multiple_of(2),
            sessions: Vec::new(),
        };
        Watcher { trace, next: if number % 4 == 2 { 0 } else { 2 }, stream: None }
    }

    pub(crate) fn is_done(&self, timeline: &Timeline) -> bool {
        let mut left = timeline.between(self.next, timeline.last());
        self.next > 0 && !left.any(|event| self.trace.filter.matches(event))
    }

    pub(crate) fn step(&mut self, members: &mut Members, outside: &mut Outside) {
        if !outside.dice.one_in(4) {
            return;
        }
        let Some(stream) = &mut self.stream else { return self.connect(members, outside) };
        let process = members.get_mut(&stream.member).and_then(|member| member.process.as_mut());
        let Some(process) = process.filter(|process| process.life == stream.life) else {
            self.stream = None;
            return;
        };
        let is_silent = stream.heard_at + SILENCE_MAX < outside.now;
        if is_silent || outside.dice.one_in(200) {
            process.hub.close_stream(stream.id);
            self.stream = None;
            return;
        }
        turn(process, outside);
        if outside.dice.one_in(20) {
            let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
            self::request(process, stream.id, request);
        }
        // A slow reader is parked by the hub.
        let limit = if outside.dice.one_in(3) { 1 + outside.dice.index(300) } else { usize::MAX };
        if outside.dice.one_in(4) && !outside.is_calm {
            return;
        }
        if let Some(output) = process.hub.take_output(stream.id, limit) {
            stream.bytes.extend_from_slice(&output);
            stream.heard_at = outside.now;
            for response in cut(&mut stream.bytes) {
                self.note(&response, outside);
            }
        }
    }

    fn connect(&mut self, members: &mut Members, outside: &mut Outside) {
        let known: Vec<u64> = members.keys().copied().collect();
        let member = known[outside.dice.index(known.len())];
        let Some(process) = members.get_mut(&member).and_then(|member| member.process.as_mut())
        else {
            return;
        };
        let (key, range_end) = match &self.trace.filter {
            Filter::Key(key) => (key.clone(), String::new()),
            Filter::Prefix(prefix) => (prefix.clone(), "k0".to_owned()),
        };
        let begin = match (outside.sabotage, self.trace.sessions.is_empty()) {
            (Some(Sabotage::ResumeTooLate), false) => self.next + 1,
            (Some(Sabotage::ResumeTooEarly), false) => self.next - 1,
            _ => self.next,
        };
        turn(process, outside);
        let id = process.hub.open_stream(clock(100), process.clock(outside.now));
        let create = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: begin,
            progress_notify: true,
            prev_kv: self.trace.wants_previous,
            ..Default::default()
        };
        request(process, id, RequestUnion::CreateRequest(create));
        self.trace.sessions.push(Session { start_revision: self.next, replies: Vec::new() });
        let (life, heard_at) = (process.life, outside.now);
        self.stream = Some(Stream { member, life, id, bytes: Vec::new(), heard_at });
    }

    fn note(&mut self, response: &WatchResponse, outside: &mut Outside) {
        let reply = Reply::from(response);
        outside.note(format_args!("watcher {} hears {reply:?}", self.trace.watcher));
        let next = match &reply {
            Reply::Compacted { revision } => {
                self.stream = None;
                *revision
            }
            Reply::Created { revision } if self.next == 0 => revision + 1,
            Reply::Created { .. } | Reply::Cancelled { .. } => self.next,
            Reply::Progress { revision } => revision + 1,
            Reply::Events(events) => events.last().map_or(0, |last| last.event.revision) + 1,
        };
        self.next = self.next.max(next);
        let session = self.trace.sessions.last_mut().expect("an answer belongs to a session");
        session.replies.push(reply);
    }

    pub(crate) fn events(&self) -> usize {
        let replies = self.trace.sessions.iter().flat_map(|session| &session.replies);
        let events =
            replies.map(|reply| if let Reply::Events(events) = reply { events.len() } else { 0 });
        events.sum()
    }
}

/// What a client thread's task does when there is news.
fn turn(process: &mut Process, outside: &mut Outside) {
    let now = process.clock(outside.now);
    let budget = 1 + outside.dice.index(20);
    let Process { hub, reader, .. } = process;
    let result = hub
        .advance(reader)
        .and_then(|()| hub.notify_progress(now, reader))
        .and_then(|()| hub.catch_up(reader, budget));
    result.expect("memory does not fail");
}

fn request(process: &mut Process, id: StreamId, request: RequestUnion) {
    let Process { hub, reader, .. } = process;
    let result = hub.request(id, WatchRequest { request_union: Some(request) }, reader);
    result.expect("memory does not fail");
}

/// The answers that are complete, each in a gRPC frame.
fn cut(bytes: &mut Vec<u8>) -> Vec<WatchResponse> {
    let mut responses = Vec::new();
    while let Some(([_, len @ ..], rest)) = bytes.split_first_chunk::<5>() {
        let len = u32::from_be_bytes(*len) as usize;
        let Some(message) = rest.get(..len) else { break };
        responses.push(WatchResponse::decode(message).expect("an answer of our own"));
        bytes.drain(..5 + len);
    }
    responses
}
