//! What applying a put costs: `cargo run --release -p retcd-state-machine --example put_rate`.
//!
//! Puts to 100,000 keys of 43 bytes with values of 256, in batches of 32 entries, as the commit thread applies them.
//! Decoding, index, tail and marks are measured; flushes happen between the measured parts.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "a measurement prints, and needs a clock"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use retcd_api::etcdserverpb as pb;
use retcd_api::raftpb::Entry;
use retcd_state_machine::backend::{Backend, Batch, MemoryBackend};
use retcd_state_machine::mvcc::{KeyValue, RecordKey, Revision};
use retcd_state_machine::{Config, StateMachine};

const KEYS: u64 = 100_000;
const PUTS: u64 = 1_000_000;
const BATCH: u64 = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let config = Config { quota_bytes: None, ..Config::default() };
    let mut machine = StateMachine::open(Arc::clone(&backend), config)?;
    let reader = machine.reader();
    let mut out = Vec::new();
    let mut index = 0;
    let (mut spent, mut since_compaction) = (Duration::ZERO, 0);
    for round in 0..PUTS / KEYS {
        let mut took = Duration::ZERO;
        for _ in 0..KEYS / BATCH {
            let entries: Vec<_> = (0..BATCH)
                .map(|_| {
                    index += 1;
                    entry(index)
                })
                .collect();
            let start = Instant::now();
            machine.apply(&entries, |_| true, Duration::ZERO, &mut out)?;
            took += start.elapsed();
            out.clear();
        }
        while let Some(flush) = reader.take_flush(32 << 20) {
            // Without a disk behind it the copy is not needed.
            reader.flushed(flush)?;
        }
        println!("round {round}: {:.0} ns a put", nanos(took) / nanos_divisor(KEYS));
        if round > 0 {
            spent += took;
            since_compaction += KEYS;
        }
    }
    println!("overwrites: {:.0} ns a put", nanos(spent) / nanos_divisor(since_compaction));
    let everything =
        pb::RangeRequest { key: "/".into(), range_end: "\0".into(), ..Default::default() };
    let start = Instant::now();
    let bytes = reader.range(&everything)?.body.len();
    println!(
        "range of all: {:.0} ns a key, {bytes} bytes",
        nanos(start.elapsed()) / nanos_divisor(KEYS)
    );
    open()
}

/// What a restart costs: a million keys, read back.
fn open() -> Result<(), Box<dyn std::error::Error>> {
    const RECORDS: i64 = 1_000_000;
    let backend = MemoryBackend::new();
    let mut batch = Batch::default();
    for number in 0..RECORDS {
        let revision = Revision::new(number + 2, 0);
        let key = format!("/registry/pods/namespace-{:04}/pod-{number:012}", number * 7 % 997);
        let kv = KeyValue {
            key: key.as_bytes(),
            create_revision: revision.main,
            mod_revision: revision.main,
            version: 1,
            value: &[b'v'; 256],
            lease: 0,
        };
        batch.records.push((RecordKey::new(revision, false), kv.to_encoded(&mut Vec::new())));
    }
    backend.commit(&batch)?;
    drop(batch);
    let start = Instant::now();
    let machine = StateMachine::open(Arc::new(backend), Config::default())?;
    println!("open {} keys: {:?}", machine.reader().census().live_versions, start.elapsed());
    Ok(())
}

fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

#[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
fn nanos_divisor(count: u64) -> f64 {
    count as f64
}

/// A put of a key that looks chosen at random, as its proposer encodes it.
fn entry(index: u64) -> Entry {
    let number = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS;
    let put = pb::PutRequest {
        key: format!("/registry/pods/namespace-{:04}/pod-{number:012}", number % 997).into(),
        value: vec![b'v'; 256].into(),
        ..Default::default()
    };
    let header = pb::RequestHeader { id: index, ..Default::default() };
    let request =
        pb::InternalRaftRequest { header: Some(header), put: Some(put), ..Default::default() };
    Entry { index, term: 1, data: request.encode_to_vec().into(), ..Entry::default() }
}
