//! Runs the scripts of `tests/scripts/watch`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use retcd_api::etcdserverpb::watch_request::RequestUnion;
use retcd_api::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use retcd_api::mvccpb::event::EventType;
use retcd_api::mvccpb::{Event, KeyValue};
use retcd_state_machine::watch::{Config, Hub, StreamId};

use super::client::Reader;
use super::store::{Op, RAFT_TERM, Store};

const CLUSTER_ID: u64 = 0xc;
const MEMBER_ID: u64 = 0xa;

/// What a script may say. Writes reach clients by `advance` and `catch_up`; `sync` is both, then `read` of all.
#[derive(goldenscript::Command)]
enum Command {
    /// Puts keys, each as its own request.
    Put(Vec<(String, String)>),
    /// Puts a key that many times, with values of that many bytes.
    Fill {
        key: String,
        times: usize,
        bytes: usize,
    },
    /// Deletes keys, each as its own request.
    Del(Vec<String>),
    /// Runs one request: `"put KEY VALUE"`, `"del KEY"`, `"del START END"`.
    Txn(Vec<String>),
    Compact(i64),
    /// Gets the state of a leader: writes that this member never applied one by one, and its compaction.
    Install {
        #[arg(key)]
        compacted: i64,
        #[arg(pos, many)]
        puts: Vec<String>,
    },
    /// Starts over with other limits.
    Limits {
        #[arg(key)]
        buffer: Option<usize>,
        #[arg(key)]
        fragment: Option<usize>,
    },
    /// Opens a stream, with periodic progress after that many seconds (600).
    Open {
        stream: String,
        #[arg(key)]
        progress: Option<u64>,
    },
    Close(String),
    /// Options: noput nodelete prev fragment progress, and one that nobody knows.
    Watch {
        stream: String,
        key: String,
        #[arg(optional)]
        options: Vec<String>,
        #[arg(key)]
        end: Option<String>,
        #[arg(key)]
        from: Option<i64>,
        #[arg(key)]
        id: Option<i64>,
    },
    Cancel {
        stream: String,
        id: i64,
    },
    /// Requests progress.
    Progress(String),
    /// Sends a request without content.
    Nothing(String),
    Refuse {
        stream: String,
        reason: String,
    },
    Advance,
    CatchUp {
        budget: Option<usize>,
    },
    /// Prints what a client receives, at most that many bytes.
    Read {
        stream: String,
        bytes: Option<usize>,
    },
    Sync,
    /// Moves the clock on by seconds and sends the periodic progress that is due.
    Tick(u64),
    /// Prints the streams to be woken.
    Ready,
    Counters,
    /// Prints how often the history was read, and how many previous values were looked up, since the last time.
    Cost,
}

struct Runner {
    store: Store,
    hub: Hub,
    now: Duration,
    streams: BTreeMap<String, (StreamId, Reader)>,
}

impl Runner {
    fn new(buffer: usize, fragment: usize) -> Self {
        let config = Config {
            cluster_id: CLUSTER_ID,
            member_id: MEMBER_ID,
            fragment_bytes: fragment,
            stream_buffer_bytes: buffer,
        };
        let store = Store::new();
        Runner {
            hub: Hub::new(config, store.current),
            store,
            now: Duration::ZERO,
            streams: BTreeMap::new(),
        }
    }

    fn stream(&self, name: &str) -> Result<StreamId, Box<dyn Error>> {
        Ok(self.streams.get(name).ok_or("no such stream")?.0)
    }

    fn request(
        &mut self,
        stream: &str,
        request: Option<RequestUnion>,
    ) -> Result<(), Box<dyn Error>> {
        let stream = self.stream(stream)?;
        let request = WatchRequest { request_union: request };
        Ok(self.hub.request(stream, request, &self.store)?)
    }

    fn advance(&mut self) -> Result<(), Box<dyn Error>> {
        self.hub.advance(&self.store)?;
        self.store.tail = self.store.current + 1;
        Ok(())
    }

    fn read(&mut self, name: &str, max_bytes: usize) -> Result<String, Box<dyn Error>> {
        let (stream, reader) = self.streams.get_mut(name).ok_or("no such stream")?;
        let mut output = String::new();
        if let Some(bytes) = self.hub.take_output(*stream, max_bytes) {
            for response in reader.read(&bytes) {
                writeln!(output, "{name}: {}", show(&response))?;
            }
        }
        Ok(output)
    }

    fn sync(&mut self) -> Result<String, Box<dyn Error>> {
        let mut output = String::new();
        loop {
            self.advance()?;
            while self.hub.catch_up(&self.store, 1000)? {}
            let before = output.len();
            let names: Vec<String> = self.streams.keys().cloned().collect();
            for name in names {
                output += &self.read(&name, usize::MAX)?;
            }
            if output.len() == before {
                return Ok(output);
            }
        }
    }

    fn ready(&mut self) -> String {
        let ready: Vec<StreamId> = self.hub.ready_streams().collect();
        let named = self.streams.iter().filter(|(_, (stream, _))| ready.contains(stream));
        let names: Vec<&str> = named.map(|(name, _)| name.as_str()).collect();
        format!("{}\n", names.join(" "))
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        match command {
            Command::Put(puts) => {
                for (key, value) in puts {
                    self.store.apply(&[Op::Put(key.as_bytes().into(), value.as_bytes().into())]);
                }
            }
            Command::Fill { key, times, bytes } => {
                for _ in 0..*times {
                    self.store.apply(&[Op::Put(key.as_bytes().into(), vec![b'x'; *bytes])]);
                }
            }
            Command::Del(keys) => {
                for key in keys {
                    self.store.apply(&[Op::Delete(key.as_bytes().into())]);
                }
            }
            Command::Txn(ops) => {
                let ops: Vec<Op> = ops.iter().map(|op| parse(op)).collect::<Result<_, _>>()?;
                self.store.apply(&ops);
            }
            Command::Compact(revision) => self.store.compact(*revision),
            Command::Install { compacted, puts } => {
                for put in puts {
                    self.store.apply(&[parse(put)?]);
                }
                self.store.compact(*compacted);
                self.store.tail = self.store.current + 1;
            }
            Command::Limits { buffer, fragment } => {
                *self = Runner::new(buffer.unwrap_or(usize::MAX), fragment.unwrap_or(usize::MAX));
            }
            Command::Open { stream, progress } => {
                let interval = Duration::from_secs(progress.unwrap_or(600));
                let id = self.hub.open_stream(interval, self.now);
                self.streams.insert(stream.clone(), (id, Reader::default()));
            }
            Command::Close(stream) => {
                let (id, _) = self.streams.remove(stream).ok_or("no such stream")?;
                self.hub.close_stream(id);
            }
            Command::Watch { stream, key, options, end, from, id } => {
                let mut create = create_with(options)?;
                create.key = key.clone().into();
                create.range_end = end.clone().unwrap_or_default().into();
                create.start_revision = from.unwrap_or_default();
                create.watch_id = id.unwrap_or_default();
                self.request(stream, Some(RequestUnion::CreateRequest(create)))?;
            }
            Command::Cancel { stream, id } => {
                let cancel = WatchCancelRequest { watch_id: *id };
                self.request(stream, Some(RequestUnion::CancelRequest(cancel)))?;
            }
            Command::Progress(stream) => {
                self.request(stream, Some(RequestUnion::ProgressRequest(WatchProgressRequest {})))?;
            }
            Command::Nothing(stream) => self.request(stream, None)?,
            Command::Refuse { stream, reason } => {
                self.hub.refuse(self.stream(stream)?, reason, &self.store);
            }
            Command::Advance => self.advance()?,
            Command::CatchUp { budget } => {
                let more = self.hub.catch_up(&self.store, budget.unwrap_or(usize::MAX))?;
                return Ok(if more { "more to do\n".into() } else { String::new() });
            }
            Command::Read { stream, bytes } => {
                return self.read(stream, bytes.unwrap_or(usize::MAX));
            }
            Command::Sync => return self.sync(),
            Command::Tick(seconds) => {
                self.now += Duration::from_secs(*seconds);
                self.hub.notify_progress(self.now, &self.store)?;
            }
            Command::Ready => return Ok(self.ready()),
            Command::Counters => return Ok(format!("{:?}\n", self.hub.counters())),
            Command::Cost => {
                let (reads, look_ups) = (self.store.reads.take(), self.store.look_ups.take());
                return Ok(format!("{reads} reads, {look_ups} previous values\n"));
            }
        }
        Ok(String::new())
    }
}

fn create_with(options: &[String]) -> Result<WatchCreateRequest, Box<dyn Error>> {
    let mut create = WatchCreateRequest::default();
    for option in options {
        match option.as_str() {
            "noput" => create.filters.push(0),
            "nodelete" => create.filters.push(1),
            "nothing_known" => create.filters.push(77),
            "prev" => create.prev_kv = true,
            "fragment" => create.fragment = true,
            "progress" => create.progress_notify = true,
            option => return Err(format!("unknown option {option}").into()),
        }
    }
    Ok(create)
}

fn parse(op: &str) -> Result<Op, Box<dyn Error>> {
    let words: Vec<Vec<u8>> = op.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    match words.as_slice() {
        [verb, key, value] if verb == b"put" => Ok(Op::Put(key.clone(), value.clone())),
        [verb, key] if verb == b"del" => Ok(Op::Delete(key.clone())),
        [verb, start, end] if verb == b"del" => Ok(Op::DeleteRange(start.clone(), end.clone())),
        _ => Err(format!("unknown operation {op}").into()),
    }
}

fn show(response: &WatchResponse) -> String {
    let header = response.header.expect("every answer has a header");
    assert_eq!((header.cluster_id, header.member_id), (CLUSTER_ID, MEMBER_ID));
    assert_eq!(header.raft_term, RAFT_TERM);
    let mut parts = vec![format!("id={} rev={}", response.watch_id, header.revision)];
    for (flag, name) in [
        (response.created, "created"),
        (response.canceled, "canceled"),
        (response.fragment, "fragment"),
    ] {
        if flag {
            parts.push(name.into());
        }
    }
    if response.compact_revision != 0 {
        parts.push(format!("compact={}", response.compact_revision));
    }
    if !response.cancel_reason.is_empty() {
        parts.push(format!("\"{}\"", response.cancel_reason));
    }
    if let ([first, .., last], true) = (response.events.as_slice(), response.events.len() > 20) {
        let revisions =
            [first, last].map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision));
        parts.push(format!("{} events of {revisions:?}", response.events.len()));
    } else {
        parts.extend(response.events.iter().map(show_event));
    }
    parts.join(" ")
}

fn show_event(event: &Event) -> String {
    let kind = match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    };
    let kv = show_kv(event.kv.as_ref().expect("events have a kv"));
    let before = event.prev_kv.as_ref().map(|before| format!(" (was {})", show_kv(before)));
    format!("| {kind} {kv}{}", before.unwrap_or_default())
}

fn show_kv(kv: &KeyValue) -> String {
    let KeyValue { key, mod_revision, create_revision, version, .. } = kv;
    let value = match kv.value.len() {
        0 => String::new(),
        len @ 20.. => format!("=<{len} bytes>"),
        _ => format!("={}", kv.value.escape_ascii()),
    };
    let origin = match version {
        0 => String::new(),
        _ => format!(" create={create_revision} version={version}"),
    };
    format!("{}{value} mod={mod_revision}{origin}", key.escape_ascii())
}

#[test]
fn scripts() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/watch");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        goldenscript::run(&mut Runner::new(usize::MAX, usize::MAX), &path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        count += 1;
    }
    assert!(count > 20, "only {count} scripts");
}
