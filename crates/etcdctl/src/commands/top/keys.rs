//! Which prefixes change most, and which are largest.
//!
//! Changes are counted from a watch on everything. Sizes come from reading all keys, a page now and then, so that
//! looking at a large cluster does not load it; a round over all keys replaces the one before when it is complete.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use retcd_api::etcdserverpb::{RangeRequest, WatchCreateRequest};
use retcd_client::{Client, Error, cancellation, from_key_range};
use tokio::task::AbortHandle;

/// Keys per request.
const PAGE: i64 = 500;
/// Pause between two pages, and after an error.
const PAUSE: Duration = Duration::from_millis(200);
/// Pause between two rounds.
const REST: Duration = Duration::from_secs(30);

/// The tasks that look at keys. They end with this.
pub(super) struct Keys {
    found: Arc<Mutex<Found>>,
    tasks: [AbortHandle; 2],
}

/// What the tasks have found. Never locked across a wait.
struct Found {
    /// Changes per prefix since they were last taken.
    changes: BTreeMap<Vec<u8>, u64>,
    since: Instant,
    sizes: Sizes,
    is_complete: bool,
}

pub(super) type Sizes = BTreeMap<Vec<u8>, Size>;

/// What lies below a prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) keys: u64,
    pub(super) bytes: u64,
}

/// What is known about prefixes at one moment.
pub(super) struct Prefixes {
    /// Changes per second, most first.
    pub(super) hottest: Vec<(Vec<u8>, f64)>,
    /// Most bytes first.
    pub(super) largest: Vec<(Vec<u8>, Size)>,
    /// Whether all keys have been read.
    pub(super) is_complete: bool,
}

impl Keys {
    /// Begins to look. Must run inside a tokio runtime.
    pub(super) fn start(client: &Client, separator: Vec<u8>, depth: usize) -> Self {
        let found = Arc::new(Mutex::new(Found {
            changes: BTreeMap::new(),
            since: Instant::now(),
            sizes: Sizes::new(),
            is_complete: false,
        }));
        let split = Split { separator, depth };
        let following = tokio::spawn(follow(client.clone(), split.clone(), found.clone()));
        let measuring = tokio::spawn(measure(client.clone(), split, found.clone()));
        Keys { found, tasks: [following.abort_handle(), measuring.abort_handle()] }
    }

    /// What is known now; counting changes begins anew.
    pub(super) fn take(&self) -> Prefixes {
        let mut found = lock(&self.found);
        let seconds = found.since.elapsed().as_secs_f64();
        found.since = Instant::now();
        let changes = std::mem::take(&mut found.changes);
        let mut largest: Vec<_> = found.sizes.clone().into_iter().collect();
        let is_complete = found.is_complete;
        drop(found);
        largest.sort_by_key(|(_, size)| std::cmp::Reverse(size.bytes));
        Prefixes { hottest: per_second(changes, seconds), largest, is_complete }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a few seconds are far below 2^52")]
fn per_second(changes: BTreeMap<Vec<u8>, u64>, seconds: f64) -> Vec<(Vec<u8>, f64)> {
    let mut changes: Vec<_> = changes.into_iter().collect();
    changes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rate = |count: u64| count as f64 / seconds.max(f64::EPSILON);
    changes.into_iter().map(|(prefix, count)| (prefix, rate(count))).collect()
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How keys are put together under prefixes.
#[derive(Debug, Clone)]
struct Split {
    separator: Vec<u8>,
    depth: usize,
}

impl Split {
    /// The part of a key up to and with the last separator that counts; a leading one does not. A key without any is its
    /// own prefix.
    fn prefix<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        let mut end = 0;
        let start = if key.starts_with(&self.separator) { self.separator.len() } else { 0 };
        let mut rest = start;
        for _ in 0..self.depth {
            let mut windows = key[rest..].windows(self.separator.len());
            let Some(at) = windows.position(|window| window == self.separator) else {
                break;
            };
            rest += at + self.separator.len();
            end = rest;
        }
        if end == 0 { key } else { &key[..end] }
    }
}

/// Counts changes, for as long as there is somebody to ask.
async fn follow(client: Client, split: Split, found: Arc<Mutex<Found>>) {
    loop {
        let (key, range_end) = from_key_range(Vec::new());
        let mut watcher = client.watcher();
        let request = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            ..Default::default()
        };
        watcher.create(request).await;
        while let Ok(reply) = watcher.next().await {
            let mut found = lock(&found);
            for kv in reply.events.iter().filter_map(|event| event.kv.as_ref()) {
                *found.changes.entry(split.prefix(&kv.key).to_vec()).or_default() += 1;
            }
            if cancellation(&reply).is_some() {
                break;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Measures prefixes, round after round.
async fn measure(client: Client, split: Split, found: Arc<Mutex<Found>>) {
    loop {
        let mut sizes = Sizes::new();
        let round = read_all(&client, &split, &mut sizes, |sizes| {
            let mut found = lock(&found);
            // The first round is shown while it goes on.
            if !found.is_complete {
                found.sizes.clone_from(sizes);
            }
        });
        if round.await.is_ok() {
            let mut found = lock(&found);
            found.sizes = sizes;
            found.is_complete = true;
        }
        tokio::time::sleep(REST).await;
    }
}

async fn read_all(
    client: &Client,
    split: &Split,
    sizes: &mut Sizes,
    mut after_page: impl FnMut(&Sizes),
) -> Result<(), Error> {
    let (mut key, range_end) = from_key_range(Vec::new());
    loop {
        let request = RangeRequest {
            key: key.into(),
            range_end: range_end.clone().into(),
            limit: PAGE,
            // Any member will do, and being a little behind is no matter.
            serializable: true,
            ..Default::default()
        };
        let page = client.range(request).await?;
        for kv in &page.kvs {
            let size = sizes.entry(split.prefix(&kv.key).to_vec()).or_default();
            size.keys += 1;
            size.bytes += (kv.key.len() + kv.value.len()) as u64;
        }
        after_page(sizes);
        let Some(last) = page.kvs.last().filter(|_| page.more) else {
            return Ok(());
        };
        key = [last.key.as_ref(), b"\0"].concat();
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_prefixes() {
        let prefix = |depth, key: &str| {
            let split = Split { separator: b"/".to_vec(), depth };
            String::from_utf8(split.prefix(key.as_bytes()).to_vec()).unwrap()
        };
        assert_eq!(prefix(2, "/registry/pods/default/x"), "/registry/pods/");
        assert_eq!(prefix(1, "/registry/pods/default/x"), "/registry/");
        assert_eq!(prefix(2, "/registry/x"), "/registry/");
        assert_eq!(prefix(2, "a/b/c"), "a/b/");
        assert_eq!(prefix(2, "plain"), "plain");
        assert_eq!(prefix(2, "/"), "/");
        assert_eq!(prefix(2, ""), "");
    }

    #[test]
    fn the_most_changed_comes_first() {
        let changes = [(b"a".to_vec(), 2), (b"b".to_vec(), 6)].into();
        assert_eq!(per_second(changes, 2.0), [(b"b".to_vec(), 3.0), (b"a".to_vec(), 1.0)]);
    }
}
