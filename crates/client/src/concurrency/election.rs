//! Choosing one of many, and telling everybody who it is.

use std::collections::VecDeque;

use bytes::Bytes;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::{WatchCreateRequest, WatchResponse};
use retcd_api::mvccpb::KeyValue;
use retcd_api::mvccpb::event::EventType;

use super::claim::{Claim, first_claim, prefix};
use super::{Error, Session};
use crate::{Client, Subscription, prefix_end};

/// A named election, as in Go's `concurrency.Election`.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use retcd_client::concurrency::{Election, Session};
/// use retcd_client::{Client, Config};
///
/// let session = Session::start(&Client::new(&Config::default())?).await?;
/// let leadership = Election::new(&session, "scheduler").campaign("10.0.0.7:80").await?;
/// leadership.proclaim("10.0.0.7:8080").await?;
/// leadership.resign().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Election {
    session: Session,
    prefix: Bytes,
}

/// A won election. Dropping it resigns in the background; [`Self::resign`] waits for that.
#[derive(Debug)]
#[must_use = "the leadership is given up when this is dropped"]
pub struct Leadership {
    claim: Claim,
}

impl Election {
    /// The election `name`.
    pub fn new(session: &Session, name: &str) -> Self {
        Election { session: session.clone(), prefix: prefix(name) }
    }

    /// Stands for election with `value` and waits to be elected. Dropping the future withdraws.
    ///
    /// A session stands once: a second campaign of it replaces the value and keeps the place in the queue.
    ///
    /// # Errors
    /// [`Error::SessionExpired`] when the session ends while waiting.
    pub async fn campaign(&self, value: impl Into<Bytes>) -> Result<Leadership, Error> {
        let value = value.into();
        let staked = Claim::stake(&self.session, &self.prefix, value.clone()).await?;
        let leadership = Leadership { claim: staked.claim };
        if staked.earlier_value.is_some_and(|earlier| earlier != value) {
            leadership.proclaim(value).await?;
        }
        if !staked.is_first {
            leadership.claim.wait_turn().await?;
        }
        Ok(leadership)
    }

    /// Takes up a leadership again that is known by its key and the revision of its creation, for instance after a
    /// restart that kept the lease alive. Asks nobody: [`Leadership::proclaim`] tells whether it still holds.
    pub fn resume(&self, key: impl Into<Bytes>, create_revision: i64) -> Leadership {
        let prefix = self.prefix.clone();
        Leadership { claim: Claim::resume(&self.session, prefix, key.into(), create_revision) }
    }

    /// The key and value of the present leader.
    ///
    /// # Errors
    /// [`Error::NoLeader`] when there is none.
    pub async fn leader(&self) -> Result<KeyValue, Error> {
        let reply = self.session.client().range(first_claim(&self.prefix)).await?;
        reply.kvs.into_iter().next().ok_or(Error::NoLeader)
    }

    /// Follows the leaders and what they proclaim. Does not need the session to stay alive.
    pub fn observe(&self) -> Observer {
        Observer {
            client: self.session.client().clone(),
            prefix: self.prefix.clone(),
            subscription: None,
            has_leader: false,
            unread: VecDeque::new(),
            last_revision: 0,
        }
    }
}

impl Leadership {
    /// The key that stands for the leadership.
    pub fn key(&self) -> &Bytes {
        self.claim.key()
    }

    /// The revision at which the leader entered the election; higher for each further leader.
    pub fn create_revision(&self) -> i64 {
        self.claim.create_revision()
    }

    /// Announces another value without another election.
    ///
    /// # Errors
    /// [`Error::NotLeader`] when the leadership has been lost.
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<(), Error> {
        if self.claim.set(value.into()).await? { Ok(()) } else { Err(Error::NotLeader) }
    }

    /// Lets the next candidate lead. Having lost the leadership before is no error.
    pub async fn resign(self) -> Result<(), Error> {
        self.claim.release().await.map(|_| ())
    }
}

/// The leaders of an election, one after the other.
///
/// Each answer is newer than the one before. Values that were replaced quickly may be left out; the newest never is.
#[derive(Debug)]
pub struct Observer {
    client: Client,
    prefix: Bytes,
    /// The leader's key, or all candidates while there is no leader. `None` when one has to look who leads.
    subscription: Option<Subscription>,
    has_leader: bool,
    unread: VecDeque<KeyValue>,
    /// The newest revision that was handed out or is about to be.
    last_revision: i64,
}

impl Observer {
    /// Waits for the next leader, or the next value of this one. May be dropped at any point and called again.
    pub async fn next(&mut self) -> Result<KeyValue, Error> {
        loop {
            if let Some(kv) = self.unread.pop_front() {
                return Ok(kv);
            }
            match &mut self.subscription {
                None => self.look().await?,
                Some(subscription) => match subscription.next().await {
                    Ok(reply) => self.note(reply),
                    Err(error) => {
                        self.subscription = None;
                        // What happened is forgotten; what is now can still be seen.
                        if error != crate::Error::Rpc(RpcError::Compacted) {
                            return Err(error.into());
                        }
                    }
                },
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let reply = self.client.range(first_claim(&self.prefix)).await?;
        let start_revision = reply.header.map_or(0, |header| header.revision) + 1;
        let leader = reply.kvs.into_iter().next();
        let request = match &leader {
            Some(kv) => {
                WatchCreateRequest { key: kv.key.clone(), start_revision, ..Default::default() }
            }
            None => WatchCreateRequest {
                key: self.prefix.clone(),
                range_end: prefix_end(&self.prefix).into(),
                start_revision,
                ..Default::default()
            },
        };
        let subscription = self.client.watch(request).await;
        self.subscription = Some(subscription);
        self.has_leader = leader.is_some();
        self.unread.extend(leader.filter(|kv| kv.mod_revision > self.last_revision));
        self.last_revision = self.unread.back().map_or(self.last_revision, |kv| kv.mod_revision);
        Ok(())
    }

    fn note(&mut self, reply: WatchResponse) {
        for event in reply.events {
            let is_delete = event.r#type() == EventType::Delete;
            // A leader that goes, or anybody who comes while there is none, changes who leads.
            if is_delete == self.has_leader {
                self.subscription = None;
                return;
            }
            if self.has_leader
                && let Some(kv) = event.kv
            {
                self.last_revision = kv.mod_revision;
                self.unread.push_back(kv);
            }
        }
    }
}
