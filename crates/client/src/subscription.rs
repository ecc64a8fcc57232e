//! One watch, for those who want no more than that.
//!
//! A [`Watcher`](crate::Watcher) carries many watches over one stream and hands out whatever the server says. A
//! subscription is a single watch on a stream that all subscriptions of a client share: its answers are events only,
//! and the end of the watch is an error.

use std::sync::Arc;

use bytes::Bytes;
use retcd_api::etcdserverpb::{WatchCreateRequest, WatchResponse};
use tokio::sync::mpsc;

use crate::hub::{Command, Slot, Taken};
use crate::{Client, Error, namespace};

/// A single watch, which goes on across broken connections without loss or repetition. Ends when it is dropped.
///
/// A reader that is slow does not disturb others, and need not fear for memory: see [`Self::next`].
#[derive(Debug)]
pub struct Subscription {
    slot: Arc<Slot>,
    commands: mpsc::UnboundedSender<Command>,
    namespace: Bytes,
}

impl Client {
    /// Watches one key or range. The timeout of the client does not matter: a watch waits until something happens.
    ///
    /// Returns at once. Without a start revision the watch sees what happens after the server has got it, which
    /// [`Subscription::created`] waits for.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), retcd_client::Error> {
    /// use retcd_client::{Client, Watch};
    ///
    /// let client = Client::builder(["127.0.0.1:2379"]).build()?;
    /// let mut job = client.watch(Watch::key("job")).await;
    /// for event in job.next().await?.events {
    ///     println!("{event:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[allow(clippy::unused_async, reason = "callers should not depend on that it need not wait")]
    pub async fn watch(&self, request: impl Into<WatchCreateRequest>) -> Subscription {
        let mut request = request.into();
        namespace::add_to_range(&self.namespace, &mut request.key, &mut request.range_end);
        let commands = self.hubs.commands(self);
        let slot = Arc::<Slot>::default();
        // A task that ends at this very moment would be one whose runtime ends, and ours with it.
        let _ = commands.send(Command::Create(request, slot.clone()));
        Subscription { slot, commands, namespace: self.namespace.clone() }
    }
}

impl Subscription {
    /// The next events: at least one, and all of a revision together. May be dropped at any point and called again.
    ///
    /// What comes while nobody calls this waits here, up to a limit; beyond it the server keeps the rest, as long as it
    /// is not compacted.
    ///
    /// # Errors
    /// Why the watch has ended, for instance `Compacted` when the events it would go on with are forgotten. After
    /// that there is nothing more to come, and this waits forever.
    pub async fn next(&mut self) -> Result<WatchResponse, Error> {
        loop {
            let reply = self.next_or_progress().await?;
            if !reply.events.is_empty() {
                return Ok(reply);
            }
        }
    }

    /// As [`Self::next`], and tells of progress, too: an answer without events, whose header names a revision up to
    /// which everything has been told. Comes now and then with `progress_notify` in the request, and soon after
    /// [`Self::request_progress`].
    pub async fn next_or_progress(&mut self) -> Result<WatchResponse, Error> {
        loop {
            let mut reply = match self.slot.take() {
                None => {
                    self.slot.changed().await;
                    continue;
                }
                Some(Taken::Answer(reply)) => reply,
                Some(Taken::LastAnswer(reply)) => {
                    let _ = self.commands.send(Command::Resume(self.slot.clone()));
                    reply
                }
                Some(Taken::End(error)) => return Err(error),
            };
            namespace::strip_events(&self.namespace, &mut reply.events);
            return Ok(reply);
        }
    }

    /// Waits until the server watches, and returns its revision at that time. Later changes are certain to be seen.
    ///
    /// # Errors
    /// Why the server refuses to watch.
    pub async fn created(&mut self) -> Result<i64, Error> {
        loop {
            match self.slot.created() {
                Some(created) => return created,
                None => self.slot.changed().await,
            }
        }
    }

    /// Asks the server how far it is. The answer comes once no watch on this stream lags behind.
    pub fn request_progress(&self) {
        let _ = self.commands.send(Command::Progress);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Cancel(self.slot.clone()));
    }
}
