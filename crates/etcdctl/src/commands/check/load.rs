//! Many clients that write at a given pace, and what came of it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use retcd_api::etcdserverpb::PutRequest;
use retcd_client::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What to write.
#[derive(Debug, Clone)]
pub(super) struct Writes {
    pub(super) prefix: String,
    /// Bytes of a key after the prefix, and of a value.
    pub(super) key_bytes: usize,
    pub(super) value_bytes: usize,
}

/// When requests may leave. A request that is late does not make others early.
#[derive(Debug)]
pub(super) struct Pace {
    next: Instant,
    interval: Duration,
    end: End,
}

#[derive(Debug)]
enum End {
    At(Instant),
    /// After so many more.
    After(u64),
}

impl Pace {
    /// So many each second, for a while.
    pub(super) fn per_second(rate: u32, duration: Duration) -> Self {
        let next = Instant::now();
        Pace { next, interval: Duration::from_secs(1) / rate, end: End::At(next + duration) }
    }

    /// So many, as fast as possible.
    pub(super) fn unlimited(count: u64) -> Self {
        Pace { next: Instant::now(), interval: Duration::ZERO, end: End::After(count) }
    }

    /// The moment for the next request, if there is to be one.
    fn take(&mut self, now: Instant) -> Option<Instant> {
        let at = self.next.max(now);
        match &mut self.end {
            End::At(end) if at >= *end => return None,
            End::After(0) => return None,
            End::At(_) => {}
            End::After(left) => *left -= 1,
        }
        self.next = at + self.interval;
        Some(at)
    }

    fn stop(&mut self) {
        self.end = End::After(0);
    }
}

/// Writes under way.
pub(super) struct Load {
    pace: Arc<Mutex<Pace>>,
    written: Arc<AtomicU64>,
    workers: JoinSet<Summary>,
    start: Instant,
}

impl Load {
    /// Begins to write, with each client by itself. Must run inside a tokio runtime.
    pub(super) fn start(clients: Vec<Client>, writes: &Writes, pace: Pace) -> Self {
        let pace = Arc::new(Mutex::new(pace));
        let written = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        for client in clients {
            workers.spawn(work(client, writes.clone(), pace.clone(), written.clone()));
        }
        Load { pace, written, workers, start: Instant::now() }
    }

    /// How many requests have been answered.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Sends no more. What is under way goes on.
    pub(super) fn stop(&self) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).stop();
    }

    /// Waits for all answers.
    pub(super) async fn finish(mut self) -> Summary {
        let mut all = Summary::default();
        while let Some(part) = self.workers.join_next().await {
            // A worker can only fail by a bug, which its panic has told already.
            all.merge(part.unwrap_or_default());
        }
        all.took = self.start.elapsed();
        all
    }
}

async fn work(
    client: Client,
    writes: Writes,
    pace: Arc<Mutex<Pace>>,
    written: Arc<AtomicU64>,
) -> Summary {
    let take = || pace.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
    let value = Bytes::from(vec![0; writes.value_bytes]);
    let mut summary = Summary::default();
    while let Some(at) = take() {
        if at > Instant::now() {
            sleep_until(at).await;
        }
        let request =
            PutRequest { key: random_key(&writes), value: value.clone(), ..Default::default() };
        let sent = Instant::now();
        match client.put(request).await {
            Ok(_) => summary.latencies.push(sent.elapsed().as_secs_f64()),
            Err(error) => *summary.errors.entry(error.to_string()).or_default() += 1,
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
    summary
}

/// The prefix, a random number, and zeros. Each `RandomState` hashes differently.
fn random_key(writes: &Writes) -> Bytes {
    let mut key = writes.prefix.clone().into_bytes();
    let end = key.len() + writes.key_bytes;
    key.extend(RandomState::new().build_hasher().finish().to_be_bytes());
    key.resize(end, 0);
    key.into()
}

/// What came of many requests.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Of the requests that succeeded, in seconds.
    latencies: Vec<f64>,
    pub(super) errors: BTreeMap<String, u64>,
    took: Duration,
}

#[allow(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
impl Summary {
    #[cfg(test)]
    pub(super) fn of(latencies: &[f64], seconds: u64) -> Self {
        let took = Duration::from_secs(seconds);
        Summary { latencies: latencies.to_vec(), took, ..Default::default() }
    }

    fn merge(&mut self, part: Summary) {
        self.latencies.extend(part.latencies);
        for (error, count) in part.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    /// Successes per second.
    pub(super) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    pub(super) fn slowest(&self) -> f64 {
        self.latencies.iter().copied().fold(0.0, f64::max)
    }

    /// The standard deviation of the latencies.
    pub(super) fn deviation(&self) -> f64 {
        if self.latencies.is_empty() {
            return 0.0;
        }
        let count = self.latencies.len() as f64;
        let mean = self.latencies.iter().sum::<f64>() / count;
        let squares = self.latencies.iter().map(|latency| (latency - mean).powi(2)).sum::<f64>();
        (squares / count).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pace_does_not_catch_up() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::per_second(10, second);
        let start = pace.next;
        let mut at = |millis| {
            let now = start + Duration::from_millis(millis);
            pace.take(now).map(|at| at.duration_since(start).as_millis())
        };
        assert_eq!([at(0), at(0), at(50)], [Some(0), Some(100), Some(200)]);
        assert_eq!([at(850), at(850)], [Some(850), Some(950)], "the lost half second is lost");
        assert_eq!(at(900), None, "would be after the end");
    }

    #[tokio::test]
    async fn a_pace_ends_when_told() {
        let mut pace = Pace::unlimited(2);
        let now = Instant::now();
        assert!(pace.take(now).is_some() && pace.take(now).is_some());
        assert_eq!(pace.take(now), None);
        let mut pace = Pace::unlimited(2);
        pace.stop();
        assert_eq!(pace.take(now), None);
    }

    #[test]
    fn summaries_count() {
        let latencies = vec![0.1, 0.3];
        let took = Duration::from_secs(4);
        let mut summary = Summary { latencies, took, ..Default::default() };
        summary.merge(Summary { errors: [("e".to_owned(), 2)].into(), ..Default::default() });
        assert!((summary.rate() - 0.5).abs() < 1e-9);
        assert!((summary.slowest() - 0.3).abs() < 1e-9);
        assert!((summary.deviation() - 0.1).abs() < 1e-9);
        assert_eq!(summary.errors["e"], 2);
        assert!(Summary::default().deviation() < 1e-9, "nothing is no division");
    }

    #[test]
    fn keys_have_their_size() {
        let writes = Writes { prefix: "/p/".to_owned(), key_bytes: 256, value_bytes: 1 };
        let key = random_key(&writes);
        assert_eq!((key.len(), &key[..3]), (259, &b"/p/"[..]));
        assert_ne!(key, random_key(&writes));
    }
}
