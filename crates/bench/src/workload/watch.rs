//! One put, many watchers.
//!
//! `--watchers` watchers stand on `--streams` streams, which are spread over the connections. The clients put; what is
//! measured are the events that arrive. A put carries the time at which it was sent, so an event knows its way:
//! from the start of the put to its delivery.
//!
//! By default all watchers watch one key. A closed loop of putters keeps at most one put each on the way: it waits
//! until all events of its predecessors have arrived, so that no server can gain by falling behind. With `--own-keys`
//! every watcher has a key of its own, and a put wakes one of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use retcd_api::etcdserverpb::watch_request::RequestUnion;
use retcd_api::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::Notify;

use super::unexpected;
use crate::client::{CallError, Channel, Method, Stream};
use crate::engine::{Load, Operation, Run, Site, Tally, Workload, locked};
use crate::keys::{self, KeyStream};

/// Bytes of the time stamp at the head of every value.
const STAMP_BYTES: usize = 8;
/// How long all events of a put may take before some count as lost.
const DELIVERY_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Watch {
    /// Watchers in all
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// Streams that carry them
    #[arg(long, default_value_t = 10)]
    streams: usize,
    /// Give every watcher a key of its own, instead of one key for all
    #[arg(long)]
    own_keys: bool,
    #[arg(skip)]
    deliveries: Arc<Deliveries>,
}

/// Events that have arrived since the start, on all streams.
#[derive(Debug, Default)]
struct Deliveries {
    issued: AtomicU64,
    count: AtomicU64,
    arrived: Notify,
}

impl Deliveries {
    async fn reach(&self, target: u64) {
        loop {
            let arrived = self.arrived.notified();
            if self.count.load(Ordering::SeqCst) >= target {
                return;
            }
            arrived.await;
        }
    }

    /// Wakes putters only where a round may have ended, not with every event.
    fn add(&self, events: u64, round: u64) {
        let before = self.count.fetch_add(events, Ordering::SeqCst);
        if before / round != (before + events) / round {
            self.arrived.notify_waiters();
        }
    }
}

impl Watch {
    /// Events per put.
    fn fan_out(&self) -> u64 {
        if self.own_keys { 1 } else { self.watchers as u64 }
    }
}

impl Workload for Watch {
    const NAME: &'static str = "watch";
    const UNIT: &'static str = "event";
    const MEASURES_OPERATIONS: bool = false;
    type Operation = Putter;

    fn check(&self, load: &Load) -> Result<()> {
        ensure!(
            self.streams > 0 && self.watchers >= self.streams,
            "every stream needs at least one watcher"
        );
        ensure!(
            load.value_size >= STAMP_BYTES,
            "a watched value holds a time stamp of {STAMP_BYTES} bytes"
        );
        let own = !self.own_keys || self.watchers as u64 <= load.keys.count();
        ensure!(own, "there are fewer keys than watchers");
        Ok(())
    }

    async fn set_up(&self, site: &mut Site, load: &Load) -> Result<(), CallError> {
        for (place, number) in (site.thread..self.streams).step_by(site.threads).enumerate() {
            let connection = place % site.channels.len();
            let mut stream = site.channels[connection].stream(Method::Watch).await?;
            let watchers: Vec<_> = (number..self.watchers).step_by(self.streams).collect();
            for &watcher in &watchers {
                stream.send(&creation(load.keys.key(if self.own_keys {
                    watcher as u64
                } else {
                    0
                })))?;
            }
            for _ in &watchers {
                let created = WatchResponse::decode(stream.next().await?)?;
                if !created.created || created.canceled {
                    return Err(unexpected(format!(
                        "a watch was not created: {}",
                        created.cancel_reason
                    )));
                }
            }
            let sink = Sink {
                run: Arc::clone(&site.run),
                tally: Arc::clone(&site.tally),
                deliveries: Arc::clone(&self.deliveries),
                round: self.fan_out(),
            };
            tokio::spawn(sink.read(stream));
        }
        Ok(())
    }

    fn operation(&self, client: usize, load: &Load) -> Putter {
        Putter {
            keys: load.key_stream(client),
            only_key: (!self.own_keys).then(|| load.keys.key(0)),
            watched: self.watchers as u64,
            value: keys::value(load.value_size),
            scratch: BytesMut::new(),
            deliveries: Arc::clone(&self.deliveries),
            fan_out: self.fan_out(),
            at_once: load.rate.is_none().then_some(load.clients as u64),
            space: load.keys,
        }
    }
}

fn creation(key: Bytes) -> WatchRequest {
    let create = WatchCreateRequest { key, ..WatchCreateRequest::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// Nanoseconds on a clock that starts with the first call and is one for all threads.
fn stamp(at: Instant) -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(Instant::now);
    u64::try_from(at.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX)
}

/// Where the events of one stream go.
struct Sink {
    run: Arc<Run>,
    tally: Arc<Mutex<Tally>>,
    deliveries: Arc<Deliveries>,
    round: u64,
}

impl Sink {
    async fn read(self, mut stream: Stream) {
        if let Err(error) = self.take_all(&mut stream).await {
            self.run.fail(&error);
        }
    }

    async fn take_all(&self, stream: &mut Stream) -> Result<(), CallError> {
        loop {
            let response = WatchResponse::decode(stream.next().await?)?;
            if response.canceled {
                return Err(unexpected(format!(
                    "a watch was cancelled: {}",
                    response.cancel_reason
                )));
            }
            self.take(&response)?;
            self.deliveries.add(response.events.len() as u64, self.round);
        }
    }

    fn take(&self, response: &WatchResponse) -> Result<(), CallError> {
        if !self.run.is_measuring() {
            return Ok(());
        }
        let now = stamp(Instant::now());
        let mut tally = locked(&self.tally);
        for event in &response.events {
            let value = event.kv.as_ref().map(|kv| &kv.value);
            let sent = value.and_then(|value| value.first_chunk::<STAMP_BYTES>());
            let sent = sent.ok_or_else(|| {
                unexpected("an event without a time stamp: does somebody else write?")
            })?;
            tally.record(Duration::from_nanos(now.saturating_sub(u64::from_be_bytes(*sent))), 1);
        }
        Ok(())
    }
}

/// A client that puts watched keys.
pub(crate) struct Putter {
    keys: KeyStream,
    only_key: Option<Bytes>,
    watched: u64,
    value: Bytes,
    scratch: BytesMut,
    deliveries: Arc<Deliveries>,
    fan_out: u64,
    /// In a closed loop, how many puts may be on their way at the same time.
    at_once: Option<u64>,
    space: keys::KeySpace,
}

impl Putter {
    fn request(&mut self) -> PutRequest {
        let key = match &self.only_key {
            Some(key) => key.clone(),
            None => self.space.key(self.keys.random().below(self.watched)),
        };
        self.scratch.reserve(self.value.len());
        self.scratch.put_u64(stamp(Instant::now()));
        self.scratch.extend_from_slice(&self.value[STAMP_BYTES..]);
        PutRequest { key, value: self.scratch.split().freeze(), ..PutRequest::default() }
    }
}

impl Operation for Putter {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        let request = self.request();
        let number = self.deliveries.issued.fetch_add(1, Ordering::SeqCst) + 1;
        channel.call(Method::Put, &request).await?;
        if let Some(at_once) = self.at_once {
            let before = (number + 1).saturating_sub(at_once) * self.fan_out;
            let all = tokio::time::timeout(DELIVERY_LIMIT, self.deliveries.reach(before)).await;
            all.map_err(|_| {
                unexpected(format!("events are missing {DELIVERY_LIMIT:?} after their put"))
            })?;
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_round_ends_when_all_its_events_have_arrived() {
        let deliveries = Arc::new(Deliveries::default());
        let waiting = Arc::clone(&deliveries);
        let round = tokio::spawn(async move { waiting.reach(10).await });
        deliveries.add(9, 10);
        tokio::task::yield_now().await;
        assert!(!round.is_finished());
        deliveries.add(1, 10);
        tokio::time::timeout(Duration::from_secs(10), round).await.unwrap().unwrap();
    }
}
