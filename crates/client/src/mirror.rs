//! Following a part of the key space from elsewhere, as etcd's Go package `mirror` does.

use bytes::Bytes;
use retcd_api::etcdserverpb::RangeResponse;
use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};

use crate::{Client, Error, Get, Subscription, Watch, prefix_range};

/// Keys that one answer of the base brings.
const PAGE_KEYS: i64 = 1000;

/// All keys with a prefix: first as they are at some revision, then every change since.
///
/// ```no_run
/// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
/// use retcd_client::Mirror;
///
/// let mirror = Mirror::new(&client, "config/").await?;
/// let mut base = mirror.base();
/// while let Some(page) = base.next().await? {
///     println!("{} keys", page.kvs.len());
/// }
/// let mut changes = mirror.changes().await;
/// loop {
///     for event in changes.next().await?.events {
///         println!("{event:?}");
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Mirror {
    client: Client,
    prefix: Bytes,
    revision: i64,
}

impl Mirror {
    /// The keys with `prefix` as they are now; an empty prefix means all keys.
    pub async fn new(client: &Client, prefix: impl Into<Bytes>) -> Result<Self, Error> {
        // Any read tells the revision; this one asks for as little as possible.
        let reply = client.range(Get::key("\0").count_only()).await?;
        let revision = reply.header.map_or(0, |header| header.revision);
        Ok(Self::at(client, prefix, revision))
    }

    /// The keys with `prefix` as they were at `revision`, for instance where an earlier mirror has stopped.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_client::Mirror;
    ///
    /// let mut page = Mirror::at(&client, "config/", 1000).base();
    /// println!("{:?}", page.next().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn at(client: &Client, prefix: impl Into<Bytes>, revision: i64) -> Self {
        Mirror { client: client.clone(), prefix: prefix.into(), revision }
    }

    /// The revision of the base. Changes begin after it.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The keys at the revision of the mirror, page by page in key order.
    pub fn base(&self) -> Base {
        let (next, end) = prefix_range(self.prefix.to_vec());
        Base { mirror: self.clone(), next: Some(next.into()), end: end.into() }
    }

    /// What has changed since, in order, without end.
    pub async fn changes(&self) -> Subscription {
        let watch = Watch::prefix(self.prefix.clone()).from_revision(self.revision + 1);
        self.client.watch(watch).await
    }
}

/// The keys of a [`Mirror`] at its revision.
#[derive(Debug)]
pub struct Base {
    mirror: Mirror,
    /// Where the next page begins; `None` after the last one.
    next: Option<Bytes>,
    end: Bytes,
}

impl Base {
    /// The next page; `None` after the last one. After an error it may be asked for again.
    ///
    /// # Errors
    /// `Compacted` when the revision of the mirror is forgotten meanwhile; then only another mirror helps.
    pub async fn next(&mut self) -> Result<Option<RangeResponse>, Error> {
        let Some(next) = &self.next else {
            return Ok(None);
        };
        let page = Get::range(next.clone(), self.end.clone())
            .at(self.mirror.revision)
            .limit(PAGE_KEYS)
            .sorted_by(SortTarget::Key, SortOrder::Ascend);
        let reply = self.mirror.client.range(page).await?;
        let last = reply.kvs.last().filter(|_| reply.more);
        // The smallest key that is greater.
        self.next = last.map(|kv| [&kv.key[..], &[0]].concat().into());
        Ok(Some(reply))
    }
}
