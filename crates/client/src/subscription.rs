//! One watch, for those who want no more than that.
//!
//! A [`Watcher`] carries many watches over one stream and hands out whatever the server says. A subscription is a
//! watcher with a single watch: its answers are events only, and the end of the watch is an error.

use retcd_api::etcdserverpb::{WatchCreateRequest, WatchResponse};

use crate::{Client, Error, Watcher, cancellation};

/// A single watch, which goes on across broken connections without loss or repetition.
#[derive(Debug)]
pub struct Subscription {
    watcher: Watcher,
}

impl Client {
    /// Watches one key or range. The timeout of the client does not matter: a watch waits until something happens.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), retcd_client::Error> {
    /// use retcd_api::etcdserverpb::WatchCreateRequest;
    /// use retcd_client::{Client, Config};
    ///
    /// let client = Client::new(&Config::default())?;
    /// let request = WatchCreateRequest { key: "job".into(), ..Default::default() };
    /// let mut job = client.watch(request).await;
    /// for event in job.next().await?.events {
    ///     println!("{event:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn watch(&self, request: WatchCreateRequest) -> Subscription {
        let mut watcher = self.without_timeout().watcher();
        watcher.create(request).await;
        Subscription { watcher }
    }
}

impl Subscription {
    /// The next events: at least one, and all of a revision together. May be dropped at any point and called again.
    ///
    /// # Errors
    /// Why the watch has ended, for instance `Compacted` when the events it would go on with are forgotten. After
    /// that there is nothing more to come, and this waits forever.
    pub async fn next(&mut self) -> Result<WatchResponse, Error> {
        loop {
            let reply = self.watcher.next().await?;
            if let Some(error) = cancellation(&reply) {
                return Err(error);
            }
            if !reply.events.is_empty() {
                return Ok(reply);
            }
        }
    }
}
