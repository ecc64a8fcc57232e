//! Reads that never go back in time.
//!
//! Serializable reads, and reads after a fail-over, may be answered by a member that lags behind. A client that was
//! made by [`Client::ordered`] remembers the newest revision it has been told, and asks on when an answer is older.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use retcd_api::etcdserverpb::ResponseHeader;

use crate::client::{BACKOFF, jittered};
use crate::{Client, Error};

/// Rounds over all endpoints before a call gives up; as in etcd's client.
const ROUNDS_MAX: usize = 5;

/// The newest revision that any answer carried.
#[derive(Debug, Default)]
pub(crate) struct Order {
    newest: AtomicI64,
}

impl Client {
    /// The same client, whose reads are never older than what it, or a clone of it, has read or written before.
    ///
    /// An answer from a member that lags behind is thrown away and another member is asked. The call ends with
    /// [`Error::NoGreaterRevision`] when none of them is far enough.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), retcd_client::Error> {
    /// use retcd_client::{Client, Get, Put};
    ///
    /// let client = Client::builder(["10.0.0.1:2379", "10.0.0.2:2379"]).build()?.ordered();
    /// client.put(Put::new("k", "new")).await?;
    /// // Whoever answers this has seen the write, although nobody asks the leader.
    /// let read = client.range(Get::key("k").serializable()).await?;
    /// assert_eq!(read.kvs[0].value, "new");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn ordered(&self) -> Self {
        let mut client = self.clone();
        client.order = Some(Arc::default());
        client
    }

    /// Repeats `read` until its answer is not older than what was known before.
    pub(crate) async fn in_order<T, Reading>(
        &self,
        read: impl Fn() -> Reading,
        header: impl Fn(&T) -> Option<&ResponseHeader>,
    ) -> Result<T, Error>
    where
        Reading: Future<Output = Result<T, Error>>,
    {
        let Some(order) = &self.order else {
            return read().await;
        };
        let known = order.newest.load(Ordering::Acquire);
        for _ in 0..ROUNDS_MAX * self.endpoint_count() {
            let reply = read().await?;
            let revision = header(&reply).map_or(0, |header| header.revision);
            if revision >= known {
                order.newest.fetch_max(revision, Ordering::AcqRel);
                return Ok(reply);
            }
            tokio::time::sleep(jittered(BACKOFF)).await;
        }
        Err(Error::NoGreaterRevision)
    }

    /// Notes the revision of a write, which reads must then not go behind.
    pub(crate) fn note_written(&self, header: Option<&ResponseHeader>) {
        if let (Some(order), Some(header)) = (&self.order, header) {
            order.newest.fetch_max(header.revision, Ordering::AcqRel);
        }
    }
}
