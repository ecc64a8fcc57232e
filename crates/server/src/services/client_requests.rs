//! The counter of requests by client version, cheap enough for every call.

use std::cell::RefCell;
use std::sync::Arc;

use crate::metrics::Metrics;
use crate::metrics::registry::Counter;

/// Versions that a thread remembers. Clients of a cluster have few; whoever sends others pays for the look-up.
const REMEMBERED_MAX: usize = 16;

struct Remembered {
    is_unary: bool,
    version: Box<[u8]>,
    counter: Arc<Counter>,
}

thread_local! {
    static REMEMBERED: RefCell<Vec<Remembered>> = const { RefCell::new(Vec::new()) };
}

/// Counts one request of a client that says it speaks `version` of the API; empty when it says nothing.
pub(super) fn count(metrics: &Metrics, is_unary: bool, version: &[u8]) {
    REMEMBERED.with_borrow_mut(|remembered| {
        let found = remembered
            .iter()
            .find(|known| known.is_unary == is_unary && *known.version == *version);
        if let Some(found) = found {
            found.counter.increment();
            return;
        }
        let kind = if is_unary { "unary" } else { "stream" };
        let text = String::from_utf8_lossy(version);
        let label = if text.is_empty() { "unknown" } else { &text };
        let counter = metrics.server_client_requests_total.with([kind, label]);
        counter.increment();
        if remembered.len() < REMEMBERED_MAX {
            remembered.push(Remembered { is_unary, version: version.into(), counter });
        }
    });
}
