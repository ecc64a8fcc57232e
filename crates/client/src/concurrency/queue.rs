//! Work that is handed over between processes: first come first served, or by priority.
//!
//! An item is a key; who deletes it has it. Each item is handed out at most once: an answer that is lost, or a call that
//! is dropped, while an item is being taken may take the item with it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::RangeRequest;
use retcd_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use retcd_api::mvccpb::KeyValue;

use super::Error;
use crate::{Client, Delete, Get, Put, Txn, Watch, key};

/// A queue whose items come out in the order in which they went in, as in Go's package `recipes`.
///
/// ```no_run
/// # async fn example(client: retcd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use retcd_client::concurrency::Queue;
///
/// let jobs = Queue::new(&client, "jobs");
/// jobs.enqueue("compile").await?;
/// assert_eq!(jobs.dequeue().await?, "compile");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    name: String,
}

impl Queue {
    /// The queue `name`.
    pub fn new(client: &Client, name: &str) -> Self {
        Queue { client: client.clone(), name: name.to_owned() }
    }

    /// Adds an item.
    ///
    /// # Errors
    /// One that [may have happened](crate::Error::may_have_happened) may have added it.
    pub async fn enqueue(&self, item: impl Into<Bytes>) -> Result<(), Error> {
        let item = item.into();
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let name = format!("{}/{}", self.name, now.as_nanos());
            let put = Put::new(name.clone(), item.clone());
            let txn = Txn::new().when(key(name).is_absent()).put(put);
            if self.client.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
    }

    /// Takes the oldest item, and waits for one if there is none.
    pub async fn dequeue(&self) -> Result<Bytes, Error> {
        let prefix = format!("{}/", self.name);
        let first = Get::prefix(prefix.clone()).sorted_by(SortTarget::Mod, SortOrder::Ascend);
        take_first(&self.client, prefix, first).await
    }
}

/// A queue whose items come out by priority, lowest number first, and in order within one priority; as in Go's package
/// `recipes`.
///
/// ```no_run
/// # async fn example(client: retcd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use retcd_client::concurrency::PriorityQueue;
///
/// let jobs = PriorityQueue::new(&client, "jobs");
/// jobs.enqueue("clean up", 9).await?;
/// jobs.enqueue("put out the fire", 0).await?;
/// assert_eq!(jobs.dequeue().await?, "put out the fire");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PriorityQueue {
    client: Client,
    name: String,
}

impl PriorityQueue {
    /// The queue `name`.
    pub fn new(client: &Client, name: &str) -> Self {
        PriorityQueue { client: client.clone(), name: name.to_owned() }
    }

    /// Adds an item.
    ///
    /// # Errors
    /// [`Error::ForeignItem`] when the last key of this priority has no number, so that there is no next one. One that
    /// [may have happened](crate::Error::may_have_happened) may have added the item.
    pub async fn enqueue(&self, item: impl Into<Bytes>, priority: u16) -> Result<(), Error> {
        let item = item.into();
        let prefix = format!("{}/{priority:05}", self.name);
        // Written along with each item. Without it a number could be given twice: to the item after the last one, and,
        // once that is taken, to the next.
        let counter = format!("__{prefix}");
        loop {
            let last = Get::prefix(format!("{prefix}/"))
                .sorted_by(SortTarget::Key, SortOrder::Descend)
                .limit(1);
            let reply = self.client.range(last).await?;
            let number = match reply.kvs.first() {
                Some(kv) => number(kv)? + 1,
                None => 0,
            };
            let revision = reply.header.map_or(0, |header| header.revision);
            let is_current = key(counter.clone())
                .compare(CompareResult::Less, TargetUnion::ModRevision(revision + 1));
            let txn = Txn::new()
                .when(is_current)
                .put(Put::new(counter.clone(), ""))
                .put(Put::new(format!("{prefix}/{number:016}"), item.clone()));
            if self.client.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
    }

    /// Takes the item with the lowest priority number, and waits for one if there is none.
    pub async fn dequeue(&self) -> Result<Bytes, Error> {
        let prefix = format!("{}/", self.name);
        let first = Get::prefix(prefix.clone()).sorted_by(SortTarget::Key, SortOrder::Ascend);
        take_first(&self.client, prefix, first).await
    }
}

/// The number at the end of an item's key.
fn number(kv: &KeyValue) -> Result<u64, Error> {
    let text = std::str::from_utf8(&kv.key).ok();
    let number = text.and_then(|text| text.rsplit('/').next()?.parse().ok());
    number.ok_or_else(|| Error::ForeignItem(kv.key.clone()))
}

/// Takes the item that `first` finds, and waits for one below `prefix` if there is none.
async fn take_first(client: &Client, prefix: String, first: Get) -> Result<Bytes, Error> {
    let first = RangeRequest::from(first.limit(1));
    loop {
        let reply = client.range(first.clone()).await?;
        let Some(kv) = reply.kvs.into_iter().next() else {
            let revision = reply.header.map_or(0, |header| header.revision);
            let watch = Watch::prefix(prefix.clone()).from_revision(revision + 1).no_delete();
            match client.watch(watch).await.next().await {
                // What happened is forgotten; what is now can be seen.
                Ok(_) | Err(crate::Error::Rpc(RpcError::Compacted)) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        let is_there = key(kv.key.clone()).mod_revision_is(kv.mod_revision);
        let take = Txn::new().when(is_there).delete_range(Delete::key(kv.key));
        if client.txn(take).await?.succeeded {
            return Ok(kv.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_the_end_of_a_key() {
        let item = |key: &'static str| KeyValue { key: key.into(), ..Default::default() };
        assert_eq!(number(&item("q/00001/0000000000000041")), Ok(41));
        assert_eq!(number(&item("q/00001/x")), Err(Error::ForeignItem("q/00001/x".into())));
    }
}
