//! What the library costs its process: CPU of a put and a get against a bare tonic call, and memory of a watch.
//!
//! `cargo bench -p retcd-client --bench cost`, on a machine that does nothing else. The server is a process of its own
//! (`ETCD_SERVER`, or this workspace's) and does not count. CPU is user and system time of this process; the two ways
//! take turns, so that what disturbs one disturbs the other, and the median of all pairs is told.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::time::Duration;

use bytes::Bytes;
use retcd_api::etcdserverpb::kv_client::KvClient;
use retcd_api::etcdserverpb::{PutRequest, RangeRequest};
use retcd_client::{Client, Watch};
use retcd_testkit::{Member, server_binary};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Calls per measurement, and how many are under way at a time.
const CALLS: usize = 8_000;
const AT_ONCE: usize = 32;
const PAIRS: usize = 25;
const WATCHES: usize = 10_000;

fn put() -> PutRequest {
    PutRequest {
        key: Bytes::from_static(b"bench/some-key-of-usual-length"),
        value: Bytes::from_static(&[b'x'; 256]),
        ..Default::default()
    }
}

fn get() -> RangeRequest {
    RangeRequest { key: put().key, ..Default::default() }
}

/// CPU time of this process, which has one thread.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// Memory of this process that is in use, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// CPU time per call, of `CALLS` calls.
async fn measure<Call>(call: impl Fn() -> Call + Clone + Send + 'static) -> Duration
where
    Call: Future<Output = ()> + Send,
{
    let before = cpu();
    let mut callers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let call = call.clone();
        callers.spawn(async move {
            for _ in 0..CALLS / AT_ONCE {
                call().await;
            }
        });
    }
    callers.join_all().await;
    cpu().saturating_sub(before) / u32::try_from(CALLS).unwrap()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

async fn compare(channel: &Channel, client: &Client) {
    let (channel, client) = (channel.clone(), client.clone());
    let bare_put = {
        let channel = channel.clone();
        move || {
            let mut stub = KvClient::new(channel.clone());
            async move {
                stub.put(put()).await.unwrap();
            }
        }
    };
    let our_put = {
        let client = client.clone();
        move || {
            let client = client.clone();
            async move {
                client.put(put()).await.unwrap();
            }
        }
    };
    let bare_get = move || {
        let mut stub = KvClient::new(channel.clone());
        async move {
            stub.range(get()).await.unwrap();
        }
    };
    let our_get = move || {
        let client = client.clone();
        async move {
            client.range(get()).await.unwrap();
        }
    };
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let (bare, ours) = (measure(bare_put.clone()).await, measure(our_put.clone()).await);
        let (bare_g, ours_g) = (measure(bare_get.clone()).await, measure(our_get.clone()).await);
        println!("put {bare:?} bare, {ours:?} ours; get {bare_g:?} bare, {ours_g:?} ours");
        // The first pair warms up.
        if pair > 0 {
            puts.push(ours.as_secs_f64() / bare.as_secs_f64());
            gets.push(ours_g.as_secs_f64() / bare_g.as_secs_f64());
        }
    }
    println!("client CPU against a bare call: put {:.3}, get {:.3}", median(puts), median(gets));
}

async fn watch_many(client: &Client) {
    client.put(put()).await.unwrap();
    let before = resident();
    let mut watches = Vec::with_capacity(WATCHES);
    for number in 0..WATCHES {
        watches.push(client.watch(Watch::key(format!("bench/watched/{number:08}"))).await);
    }
    for watch in &mut watches {
        watch.created().await.unwrap();
    }
    let each = (resident() - before) / WATCHES;
    println!("{WATCHES} watches over one client: {each} bytes each");
}

fn main() {
    let member = Member::start(&server_binary(), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder([member.endpoint()]).build().unwrap();
        watch_many(&client.clone()).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", member.endpoint())).unwrap();
        compare(&endpoint.connect().await.unwrap(), &client).await;
    });
}
