//! Random histories: writes, compactions, installed snapshots, slow and parked streams. Whatever happens, every
//! watcher keeps what a watch guarantees: ordered, unique, atomic, reliable, resumable, bookmarkable, filtered, with
//! true previous values; and control answers come in order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use retcd_api::etcdserverpb::watch_request::RequestUnion;
use retcd_api::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use retcd_api::mvccpb::event::EventType;
use retcd_api::mvccpb::{Event, KeyValue};
use retcd_state_machine::mvcc::Record;
use retcd_state_machine::watch::{Config, History as _, Hub, StreamId};

use super::client::Reader;
use super::store::{Op, Store};

const STREAMS: usize = 3;
const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<Op>),
    /// Compacts at this part (of 8) of what can be compacted.
    Compact(i64),
    /// Writes, then maybe a compaction, that the hub does not see one by one.
    Install(Vec<Op>, bool),
    Create {
        stream: usize,
        create: Create,
    },
    /// Cancels the n-th watcher, or an id that nobody has.
    Cancel(usize, usize),
    Progress(usize),
    Reopen(usize),
    Advance,
    CatchUp(usize),
    Read(usize, usize),
    Tick(u64),
}

#[derive(Debug, Clone)]
struct Create {
    key: Vec<u8>,
    end: Vec<u8>,
    /// Relative to the current revision; `None` is 0.
    from: Option<i64>,
    id: i64,
    filters: Vec<i32>,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    (b'a'..b'f').prop_map(|key| vec![key])
}

/// Operations on different keys, as a transaction has them.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let one = prop_oneof![
        3 => (key(), 0_usize..30).prop_map(|(key, len)| Op::Put(key, vec![b'v'; len])),
        1 => key().prop_map(Op::Delete),
    ];
    let many = prop::collection::btree_map(key(), prop::option::weighted(0.7, 0_usize..30), 1..5)
        .prop_map(|keys| {
            let op = |(key, len): (Vec<u8>, Option<usize>)| match len {
                Some(len) => Op::Put(key, vec![b'v'; len]),
                None => Op::Delete(key),
            };
            keys.into_iter().map(op).collect()
        });
    let range = (key(), key())
        .prop_map(|(start, end)| vec![Op::DeleteRange(start.clone(), end.max(start))]);
    prop_oneof![6 => one.prop_map(|op| vec![op]), 3 => many, 1 => range]
}

fn create() -> impl Strategy<Value = Create> {
    let end = prop_oneof![3 => Just(Vec::new()), 1 => Just(vec![0]), 3 => key()];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let filters = prop_oneof![4 => Just(Vec::new()), 2 => prop::collection::vec(0_i32..3, 1..3)];
    let id = prop_oneof![4 => Just(0), 1 => 1_i64..4];
    (key(), end, prop::option::of(-12_i64..4), id, filters, flags).prop_map(
        |(key, end, from, id, filters, (prev_kv, fragment, progress_notify))| Create {
            key,
            end,
            from,
            id,
            filters,
            prev_kv,
            fragment,
            progress_notify,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let stream = || 0..STREAMS;
    prop_oneof![
        10 => ops().prop_map(Step::Write),
        1 => (0_i64..=8).prop_map(Step::Compact),
        1 => (ops(), any::<bool>()).prop_map(|(ops, compacts)| Step::Install(ops, compacts)),
        5 => (stream(), create()).prop_map(|(stream, create)| Step::Create { stream, create }),
        2 => (stream(), 0_usize..4).prop_map(|(stream, nth)| Step::Cancel(stream, nth)),
        2 => stream().prop_map(Step::Progress),
        1 => stream().prop_map(Step::Reopen),
        5 => Just(Step::Advance),
        4 => (1_usize..20).prop_map(Step::CatchUp),
        5 => (stream(), 1_usize..400).prop_map(|(stream, bytes)| Step::Read(stream, bytes)),
        1 => (1_u64..15).prop_map(Step::Tick),
    ]
}

/// What a client expects next of the control answers of its stream.
#[derive(Debug, PartialEq)]
enum Control {
    Created(i64),
    Refused,
    Canceled(i64),
}

struct World {
    store: Store,
    hub: Hub,
    now: Duration,
    streams: Vec<Stream>,
}

struct Stream {
    id: StreamId,
    reader: Reader,
    /// As the server knows them at this moment.
    server_ids: BTreeMap<i64, Create>,
    next_id: i64,
    controls: VecDeque<Control>,
    /// As the client knows them from what it has read.
    watchers: BTreeMap<i64, Watcher>,
    /// Creates that the client has not read the answer of.
    creating: VecDeque<(i64, Watcher)>,
    /// Its buffer was full once, or a snapshot was installed: its watchers may be overtaken by a compaction.
    may_lag: bool,
    progress_seen: i64,
}

#[derive(Clone)]
struct Watcher {
    create: Create,
    /// The first revision that it wants.
    start: i64,
    /// Asked for a revision below the current one.
    starts_in_past: bool,
    /// The records that it wants and has not got, from this position of the log on.
    position: usize,
    last_revision: i64,
    progress: i64,
    is_compacted: bool,
}

impl Watcher {
    fn wants(&self, record: &Record) -> bool {
        let Create { key, end, filters, .. } = &self.create;
        let in_range = match end.as_slice() {
            b"" => record.key() == key,
            b"\0" => record.key() >= key.as_slice(),
            end => record.key() >= key.as_slice() && record.key() < end,
        };
        let filtered = filters.contains(&i32::from(record.is_tombstone));
        in_range && !filtered && record.revision.main >= self.start
    }

    /// The next record of the log that it wants.
    fn next<'a>(&mut self, log: &'a [Record]) -> Option<&'a Record> {
        while let Some(record) = log.get(self.position) {
            if self.wants(record) {
                return Some(record);
            }
            self.position += 1;
        }
        None
    }

    fn receive(&mut self, response: &WatchResponse, store: &Store) {
        let first = response.events[0].kv.as_ref().unwrap().mod_revision;
        assert!(first > self.last_revision, "a revision is one answer");
        assert!(first > self.progress, "no event at or below a progress");
        for event in &response.events {
            let record = self.next(&store.log).expect("no event that nobody wrote");
            self.check(event, record, store);
            self.last_revision = record.revision.main;
            self.position += 1;
        }
        let next = self.next(&store.log).map(|record| record.revision.main);
        assert_ne!(next, Some(self.last_revision), "a revision is complete");
        assert!(response.header.unwrap().revision >= self.last_revision);
    }

    fn check(&self, event: &Event, record: &Record, store: &Store) {
        let mut kv = KeyValue::decode(&*record.kv).unwrap();
        if record.is_tombstone {
            kv.mod_revision = record.revision.main;
        }
        assert_eq!(event.kv.as_ref(), Some(&kv));
        assert_eq!(event.r#type() == EventType::Delete, record.is_tombstone);
        let is_created = !record.is_tombstone && kv.create_revision == kv.mod_revision;
        let before = record.revision.main - 1;
        let end = store.log.partition_point(|older| older.revision.main <= before);
        let older = store.log[..end].iter().rev().find(|older| older.key() == record.key());
        let truth = older
            .filter(|older| !older.is_tombstone && self.create.prev_kv && !is_created)
            .map(|older| KeyValue::decode(&*older.kv).unwrap());
        let may_be_missing = before < store.compacted;
        assert!(event.prev_kv == truth || (event.prev_kv.is_none() && may_be_missing));
    }

    fn progress_to(&mut self, revision: i64, store: &Store) {
        assert!(revision >= self.progress.max(self.last_revision), "progress never falls");
        assert!(revision >= self.create_start(), "no progress before the start");
        let next = self.next(&store.log).map(|record| record.revision.main);
        assert!(next.is_none_or(|next| next > revision), "progress over a missing event");
        self.progress = revision;
    }

    fn create_start(&self) -> i64 {
        if self.create.from.is_some() { self.start } else { 0 }
    }
}

impl World {
    fn new(buffer: usize, fragment: usize, slice: usize) -> Self {
        let mut store = Store::new();
        store.slice = slice;
        let config = Config {
            cluster_id: 1,
            member_id: 2,
            fragment_bytes: fragment,
            stream_buffer_bytes: buffer,
        };
        let mut world = World {
            hub: Hub::new(config, store.current),
            store,
            now: Duration::ZERO,
            streams: Vec::new(),
        };
        for _ in 0..STREAMS {
            let stream = world.open();
            world.streams.push(stream);
        }
        world
    }

    fn open(&mut self) -> Stream {
        Stream {
            id: self.hub.open_stream(INTERVAL, self.now),
            reader: Reader::default(),
            server_ids: BTreeMap::new(),
            next_id: 0,
            controls: VecDeque::new(),
            watchers: BTreeMap::new(),
            creating: VecDeque::new(),
            may_lag: false,
            progress_seen: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(ops) => self.store.apply(&ops),
            Step::Compact(part) => {
                let oldest = self.store.compacted.max(0);
                self.store.compact(oldest + (self.store.current - oldest) * part / 8);
            }
            Step::Install(ops, compacts) => {
                self.store.apply(&ops);
                if compacts {
                    self.store.compact(self.store.current);
                }
                self.store.tail = self.store.current + 1;
                self.streams.iter_mut().for_each(|stream| stream.may_lag = true);
            }
            Step::Create { stream, create } => self.create(stream, create),
            Step::Cancel(stream, nth) => self.cancel(stream, nth),
            Step::Progress(stream) => {
                self.request(stream, RequestUnion::ProgressRequest(WatchProgressRequest {}));
            }
            Step::Reopen(stream) => {
                let old = self.streams[stream].id;
                self.hub.close_stream(old);
                assert!(self.hub.take_output(old, usize::MAX).is_none());
                self.streams[stream] = self.open();
            }
            Step::Advance => self.advance(),
            Step::CatchUp(budget) => {
                self.hub.catch_up(&self.store, budget).unwrap();
            }
            Step::Read(stream, bytes) => self.read(stream, bytes),
            Step::Tick(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.hub.notify_progress(self.now, &self.store).unwrap();
            }
        }
        self.note_full_streams();
    }

    fn note_full_streams(&mut self) {
        for stream in &mut self.streams {
            stream.may_lag |= !self.hub.accepts_requests(stream.id);
        }
    }

    fn advance(&mut self) {
        self.hub.advance(&self.store).unwrap();
        self.store.tail = self.store.current + 1;
    }

    fn request(&mut self, stream: usize, request: RequestUnion) {
        let request = WatchRequest { request_union: Some(request) };
        self.hub.request(self.streams[stream].id, request, &self.store).unwrap();
    }

    fn create(&mut self, stream: usize, create: Create) {
        let current = self.store.current;
        let start_revision = create.from.map_or(0, |from| (current + from).max(1));
        let request = WatchCreateRequest {
            key: create.key.clone().into(),
            range_end: create.end.clone().into(),
            start_revision,
            progress_notify: create.progress_notify,
            filters: create.filters.clone(),
            prev_kv: create.prev_kv,
            watch_id: create.id,
            fragment: create.fragment,
        };
        self.request(stream, RequestUnion::CreateRequest(request));
        let of = &mut self.streams[stream];
        let is_empty = create.end.len() == 1 && create.end != [0] && create.end <= create.key;
        if is_empty || (create.id != 0 && of.server_ids.contains_key(&create.id)) {
            of.controls.push_back(Control::Refused);
            return;
        }
        let id = if create.id == 0 {
            while of.server_ids.contains_key(&of.next_id) {
                of.next_id += 1;
            }
            of.next_id += 1;
            of.next_id - 1
        } else {
            create.id
        };
        of.server_ids.insert(id, create.clone());
        of.controls.push_back(Control::Created(id));
        let start = if start_revision == 0 { current + 1 } else { start_revision };
        let watcher = Watcher {
            create,
            start,
            starts_in_past: start <= current,
            position: 0,
            last_revision: 0,
            progress: 0,
            is_compacted: false,
        };
        of.creating.push_back((id, watcher));
    }

    fn cancel(&mut self, stream: usize, nth: usize) {
        let of = &mut self.streams[stream];
        let id = of.server_ids.keys().nth(nth).copied().unwrap_or(99);
        if of.server_ids.remove(&id).is_some() {
            of.controls.push_back(Control::Canceled(id));
        }
        self.request(stream, RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id }));
    }

    fn read(&mut self, stream: usize, bytes: usize) {
        let of = &mut self.streams[stream];
        let Some(output) = self.hub.take_output(of.id, bytes) else { return };
        for response in of.reader.read(&output) {
            if let Some(response) = of.reader.join(response) {
                of.receive(&response, &self.store);
            }
        }
    }

    /// Everybody gets everything; then nothing is missing anywhere, and progress can be told.
    fn settle(&mut self) {
        loop {
            self.advance();
            self.note_full_streams();
            while self.hub.catch_up(&self.store, 7).unwrap() {}
            let ready: Vec<StreamId> = self.hub.ready_streams().collect();
            (0..STREAMS).for_each(|stream| self.read(stream, usize::MAX));
            if ready.is_empty() && !self.hub.is_behind() {
                break;
            }
        }
        let current = self.store.current;
        for stream in 0..STREAMS {
            self.streams[stream].check_complete(&self.store);
            self.request(stream, RequestUnion::ProgressRequest(WatchProgressRequest {}));
            self.read(stream, usize::MAX);
            let of = &self.streams[stream];
            let can_progress =
                |watcher: &Watcher| !watcher.is_compacted && watcher.create_start() <= current;
            let is_told = of.progress_seen == current;
            let expected = !of.watchers.is_empty() && of.watchers.values().all(can_progress);
            assert!(is_told || !expected, "progress is told when everybody is up to date");
        }
        let counters = self.hub.counters();
        assert_eq!(counters.slow_watchers, 0);
        assert_eq!(counters.pending_events, 0);
        let watchers: usize = self.streams.iter().map(|stream| stream.watchers.len()).sum();
        assert_eq!(counters.watchers, watchers);
        let next = (watchers > 0).then(|| self.store.current_revision() + 1);
        assert_eq!(counters.next_revision, next, "nobody waits for anything");
    }
}

impl Stream {
    fn receive(&mut self, response: &WatchResponse, store: &Store) {
        let id = response.watch_id;
        let revision = response.header.unwrap().revision;
        if response.compact_revision != 0 {
            self.overtaken(id, response);
        } else if response.created || response.canceled {
            self.control(response);
        } else if !response.events.is_empty() {
            let watcher =
                self.watchers.get_mut(&id).expect("events after created, before canceled");
            assert!(!watcher.is_compacted);
            watcher.receive(response, store);
        } else if id == -1 {
            assert!(!self.watchers.is_empty());
            self.watchers.values_mut().for_each(|watcher| watcher.progress_to(revision, store));
            self.progress_seen = revision;
        } else {
            let watcher = self.watchers.get_mut(&id).expect("progress of a watcher");
            assert!(watcher.create.progress_notify);
            watcher.progress_to(revision, store);
        }
    }

    /// A compaction took what the watcher had not got.
    fn overtaken(&mut self, id: i64, response: &WatchResponse) {
        assert!(response.canceled && !response.created && response.cancel_reason.is_empty());
        assert_eq!(response.header.unwrap().revision, 0);
        let watcher = self.watchers.get_mut(&id).expect("overtaken after created");
        let reached = watcher.last_revision.max(watcher.progress);
        assert!(watcher.start.max(reached) < response.compact_revision, "it was not behind");
        assert!(watcher.starts_in_past || self.may_lag, "a compaction spares who is up to date");
        watcher.is_compacted = true;
    }

    fn control(&mut self, response: &WatchResponse) {
        let id = response.watch_id;
        let control = match (response.created, response.canceled) {
            (true, true) => Control::Refused,
            (true, false) => Control::Created(id),
            _ => Control::Canceled(id),
        };
        assert_eq!(self.controls.pop_front(), Some(control), "control answers come in order");
        assert_eq!(response.cancel_reason.is_empty(), !(response.created && response.canceled));
        if response.created && !response.canceled {
            let (created, watcher) = self.creating.pop_front().unwrap();
            assert_eq!(created, id);
            self.watchers.insert(id, watcher);
        } else if !response.created {
            self.watchers.remove(&id).expect("only live watchers are cancelled");
        }
    }

    fn check_complete(&mut self, store: &Store) {
        assert!(self.controls.is_empty(), "every request is answered");
        for watcher in self.watchers.values_mut().filter(|watcher| !watcher.is_compacted) {
            assert_eq!(watcher.next(&store.log), None, "an event is missing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_watcher_keeps_its_guarantees(
        buffer in 1_usize..400,
        fragment in 20_usize..200,
        slice in 1_usize..12,
        steps in prop::collection::vec(step(), 1..70),
    ) {
        let mut world = World::new(buffer, fragment, slice);
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}
