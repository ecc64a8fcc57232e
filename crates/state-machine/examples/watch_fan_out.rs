//! What one delivered watch event costs the hub: `cargo run --release -p retcd-state-machine --example watch_fan_out`.
//!
//! Puts of 256 bytes to one key; every watcher gets each. Streams are read after every put, as idle clients would.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "a measurement prints, and needs a clock"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use retcd_api::etcdserverpb::watch_request::RequestUnion;
use retcd_api::etcdserverpb::{WatchCreateRequest, WatchRequest};
use retcd_api::mvccpb::KeyValue;
use retcd_state_machine::backend::{Encoded, Failure};
use retcd_state_machine::mvcc::{Record, Revision};
use retcd_state_machine::watch::{Config, History, HistoryError, Hub, StreamId};

/// As the server has it. An allocator that gives memory back at once makes the kernel most of the cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PUTS: i64 = 2_000;
const KEY: &[u8] = b"/registry/pods/default/nginx";

/// A history whose every revision is a put of the same bytes.
struct Puts {
    current: i64,
    kv: Encoded,
}

impl History for Puts {
    fn current_revision(&self) -> i64 {
        self.current
    }

    fn compacted_revision(&self) -> i64 {
        -1
    }

    fn raft_term(&self) -> u64 {
        3
    }

    fn records(&self, from: i64, limit: usize, out: &mut Vec<Record>) -> Result<i64, HistoryError> {
        let revisions = (from..=self.current).take(limit);
        out.extend(revisions.map(|main| Record {
            revision: Revision { main, sub: 0 },
            is_tombstone: false,
            kv: Arc::clone(&self.kv),
        }));
        Ok(out.last().map_or(self.current, |record| record.revision.main) + 1)
    }

    fn value_at(&self, _key: &[u8], _main: i64) -> Result<Option<Encoded>, Failure> {
        Ok(Some(Arc::clone(&self.kv)))
    }
}

fn main() -> Result<(), Failure> {
    for (streams, watchers) in [(10, 1_000), (1_000, 1_000), (100, 10_000), (1, 10_000)] {
        measure(streams, watchers)?;
    }
    Ok(())
}

fn measure(streams: usize, watchers: usize) -> Result<(), Failure> {
    let kv = KeyValue {
        key: KEY.into(),
        create_revision: 2,
        mod_revision: 1_000_000,
        version: 1_000,
        value: vec![b'v'; 256].into(),
        lease: 0,
    };
    let mut history = Puts { current: 1, kv: kv.encode_to_vec().into() };
    let config = Config {
        cluster_id: u64::MAX / 3,
        member_id: u64::MAX / 5,
        fragment_bytes: 2 << 20,
        stream_buffer_bytes: 8 << 20,
    };
    let mut hub = Hub::new(config, history.current);
    let interval = Duration::from_secs(600);
    let ids: Vec<StreamId> =
        (0..streams).map(|_| hub.open_stream(interval, Duration::ZERO)).collect();
    for stream in ids.iter().cycle().take(watchers) {
        let create = WatchCreateRequest { key: KEY.into(), ..Default::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        hub.request(*stream, request, &history)?;
    }
    for stream in &ids {
        drop(hub.take_output(*stream, usize::MAX));
    }
    let mut bytes = 0;
    let start = Instant::now();
    for _ in 0..PUTS {
        history.current += 1;
        hub.advance(&history)?;
        for stream in hub.ready_streams() {
            while let Some(output) = hub.take_output(stream, 16 << 10) {
                bytes += output.len();
            }
        }
    }
    let nanos = start.elapsed().as_nanos();
    let events = u128::from(hub.counters().events_sent);
    println!(
        "{watchers} watchers on {streams} streams: {} ns an event, {} bytes",
        nanos / events,
        bytes as u128 / events
    );
    Ok(())
}
