//! A meeting point: all come in together, and all go out together.

use bytes::Bytes;
use retcd_api::mvccpb::KeyValue;

use super::claim::{Claim, unique_prefix, wait_deleted};
use super::{Error, Session};
use crate::{Delete, Get, Put, Txn, Watch};

/// A barrier for a known number of processes, as in Go's package `recipes`.
///
/// Those who have entered leave together, too: [`Entered::leave`] waits until all others are leaving. Who dies is
/// counted as having left once its lease ends.
///
/// ```no_run
/// # async fn example(client: retcd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use retcd_client::concurrency::{DoubleBarrier, Session};
///
/// let session = Session::start(&client).await?;
/// let entered = DoubleBarrier::new(&session, "phase-1", 3).enter().await?;
/// println!("all three are here");
/// entered.leave().await?;
/// println!("all three are done");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DoubleBarrier {
    session: Session,
    name: String,
    count: usize,
}

/// Being within a [`DoubleBarrier`]. Dropping it leaves without waiting for the others.
#[derive(Debug)]
#[must_use = "the barrier is left when this is dropped"]
pub struct Entered {
    barrier: DoubleBarrier,
    claim: Claim,
}

impl DoubleBarrier {
    /// The barrier `name`, which opens when `count` have come. All of them must name the same count.
    pub fn new(session: &Session, name: &str, count: usize) -> Self {
        DoubleBarrier { session: session.clone(), name: name.to_owned(), count }
    }

    /// Waits until as many have come as the barrier wants. Dropping the future leaves again.
    ///
    /// # Errors
    /// [`Error::TooManyClients`] when they have come already, [`Error::SessionExpired`] when the session ends while
    /// waiting.
    pub async fn enter(&self) -> Result<Entered, Error> {
        if self.waiters().await?.len() >= self.count {
            return Err(Error::TooManyClients);
        }
        let place = unique_prefix(&format!("{}/waiters", self.name));
        let claim = Claim::stake(&self.session, &place, Bytes::new()).await?.claim;
        let entered = Entered { barrier: self.clone(), claim };
        let mine = entered.claim.create_revision();
        let last =
            self.waiters().await?.get(self.count.wrapping_sub(1)).map(|kv| kv.create_revision);
        match last {
            Some(last) if mine > last => {
                entered.claim.release().await?;
                Err(Error::TooManyClients)
            }
            Some(last) if mine == last => {
                self.session.client().put(Put::new(self.ready_key(), "")).await?;
                Ok(entered)
            }
            Some(_) | None => {
                tokio::select! {
                    ready = self.until_ready(mine) => ready?,
                    () = self.session.done() => return Err(Error::SessionExpired),
                }
                Ok(entered)
            }
        }
    }

    /// Everybody within, in the order of their coming.
    async fn waiters(&self) -> Result<Vec<KeyValue>, Error> {
        let waiters = Get::prefix(format!("{}/waiters", self.name)).oldest_first();
        Ok(self.session.client().range(waiters).await?.kvs)
    }

    async fn until_ready(&self, since: i64) -> Result<(), Error> {
        let client = self.session.client();
        let mut since = since;
        loop {
            let watch = Watch::key(self.ready_key()).from_revision(since).no_delete();
            match client.watch(watch).await.next().await {
                Ok(_) => return Ok(()),
                Err(crate::Error::Rpc(retcd_api::error::RpcError::Compacted)) => {
                    let now = client.range(Get::key(self.ready_key())).await?;
                    if now.kvs.iter().any(|kv| kv.mod_revision >= since) {
                        return Ok(());
                    }
                    since = now.header.map_or(0, |header| header.revision) + 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn ready_key(&self) -> String {
        format!("{}/ready", self.name)
    }
}

impl Entered {
    /// Waits until everybody leaves.
    ///
    /// The first who came goes last: it waits for the others one by one, and each of them goes and waits for the first.
    ///
    /// # Errors
    /// [`Error::SessionExpired`] when the session ends while waiting.
    pub async fn leave(self) -> Result<(), Error> {
        let session = self.claim.session().clone();
        tokio::select! {
            left = self.leave_in_turn() => left,
            () = session.done() => Err(Error::SessionExpired),
        }
    }

    async fn leave_in_turn(self) -> Result<(), Error> {
        let Entered { barrier, claim } = self;
        let client = barrier.session.client();
        let own_key = claim.key().clone();
        let mut claim = Some(claim);
        loop {
            let waiters = barrier.waiters().await?;
            let (Some(first), Some(last)) = (waiters.first(), waiters.last()) else {
                return Ok(());
            };
            let next = if first.key != own_key {
                if let Some(claim) = claim.take() {
                    claim.release().await?;
                }
                first
            } else if waiters.len() > 1 {
                last
            } else {
                let Some(claim) = claim.take() else { return Ok(()) };
                let ready = Delete::key(barrier.ready_key());
                client.txn(Txn::new().when(claim.exists()).delete_range(ready)).await?;
                claim.release().await?;
                return Ok(());
            };
            wait_deleted(client, next.key.clone(), next.mod_revision + 1).await?;
        }
    }
}
