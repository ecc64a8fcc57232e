//! The lock and election services of the server: it queues up on our behalf, under a lease of ours.
//!
//! The recipes in [`crate::concurrency`] do the same from here, with less trust in connections: a lost connection
//! takes a call of these services with it, while a recipe looks again. Both use the same keys, so they exclude each
//! other.

use bytes::Bytes;
use retcd_api::v3electionpb::election_client::ElectionClient;
use retcd_api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use retcd_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::Streaming;

use crate::channel::Channel;
use crate::client::Retry;
use crate::error::Failure;
use crate::{Client, Error, namespace};

/// Pause before a broken stream is opened again.
const REOPEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

impl Client {
    /// Waits until the lock `name` belongs to the lease. The answer names the key that stands for the ownership; it
    /// ends with the lease, or by [`Self::unlock`]. Dropping the future makes the server give up.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// let lease = client.lease_grant(30, 0).await?.id;
    /// let key = client.lock("jobs", lease).await?.key;
    /// client.unlock(key).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// After one that [may have happened](Error::may_have_happened) the lock may be held: revoke the lease.
    pub async fn lock(&self, name: impl Into<Bytes>, lease: i64) -> Result<LockResponse, Error> {
        let request = LockRequest { name: self.inside(&name.into()), lease };
        let mut reply: LockResponse =
            self.unary(Retry::Once, "/v3lockpb.Lock/Lock", &request).await?;
        namespace::strip(&self.namespace, &mut reply.key);
        Ok(reply)
    }

    /// Gives up a lock, named by the key that [`Self::lock`] has returned. One that is not held is no error.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// client.unlock("jobs/694d7c2a").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn unlock(&self, key: impl Into<Bytes>) -> Result<UnlockResponse, Error> {
        let request = UnlockRequest { key: self.inside(&key.into()) };
        self.unary(Retry::Repeatable, "/v3lockpb.Lock/Unlock", &request).await
    }

    /// Stands for the election `name` with `value`, and waits until the lease has won.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// let lease = client.lease_grant(30, 0).await?.id;
    /// let leader = client.campaign("scheduler", lease, "10.0.0.7").await?.leader.unwrap_or_default();
    /// client.proclaim(leader.clone(), "10.0.0.7:80").await?;
    /// client.resign(leader).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// After one that [may have happened](Error::may_have_happened) the lease may lead: revoke it.
    pub async fn campaign(
        &self,
        name: impl Into<Bytes>,
        lease: i64,
        value: impl Into<Bytes>,
    ) -> Result<CampaignResponse, Error> {
        let name = self.inside(&name.into());
        let request = CampaignRequest { name, lease, value: value.into() };
        let mut reply: CampaignResponse =
            self.unary(Retry::Once, "/v3electionpb.Election/Campaign", &request).await?;
        if let Some(leader) = &mut reply.leader {
            namespace::strip(&self.namespace, &mut leader.name);
            namespace::strip(&self.namespace, &mut leader.key);
        }
        Ok(reply)
    }

    /// Announces another value without another election.
    ///
    /// # Errors
    /// `ElectionNotLeader` when the leadership has been lost.
    pub async fn proclaim(
        &self,
        leader: LeaderKey,
        value: impl Into<Bytes>,
    ) -> Result<ProclaimResponse, Error> {
        let request =
            ProclaimRequest { leader: Some(self.inside_key(&leader)), value: value.into() };
        self.unary(Retry::Once, "/v3electionpb.Election/Proclaim", &request).await
    }

    /// The key and value of the present leader.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// println!("{:?}", client.leader("scheduler").await?.kv);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `ElectionNoLeader` when there is none.
    pub async fn leader(&self, name: impl Into<Bytes>) -> Result<LeaderResponse, Error> {
        let request = LeaderRequest { name: self.inside(&name.into()) };
        let mut reply: LeaderResponse =
            self.unary(Retry::Repeatable, "/v3electionpb.Election/Leader", &request).await?;
        strip_leader(&self.namespace, &mut reply);
        Ok(reply)
    }

    /// Follows the leaders of an election and what they proclaim.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// let mut leaders = client.observe("scheduler");
    /// loop {
    ///     println!("{:?}", leaders.next().await?.kv);
    /// }
    /// # }
    /// ```
    pub fn observe(&self, name: impl Into<Bytes>) -> LeaderStream {
        let request = LeaderRequest { name: self.inside(&name.into()) };
        LeaderStream { client: self.without_timeout(), request, replies: None, last_revision: 0 }
    }

    /// Lets the next candidate lead. Having lost the leadership before is no error.
    pub async fn resign(&self, leader: LeaderKey) -> Result<ResignResponse, Error> {
        let request = ResignRequest { leader: Some(self.inside_key(&leader)) };
        self.unary(Retry::Repeatable, "/v3electionpb.Election/Resign", &request).await
    }

    fn inside(&self, name: &Bytes) -> Bytes {
        if self.namespace.is_empty() {
            return name.clone();
        }
        namespace::joined(&self.namespace, name)
    }

    fn inside_key(&self, leader: &LeaderKey) -> LeaderKey {
        let (name, key) = (self.inside(&leader.name), self.inside(&leader.key));
        LeaderKey { name, key, ..*leader }
    }
}

/// The leaders of an election, one after the other; made by [`Client::observe`].
#[derive(Debug)]
pub struct LeaderStream {
    client: Client,
    request: LeaderRequest,
    replies: Option<Streaming<LeaderResponse>>,
    /// What a stream tells first may have been told by the one before.
    last_revision: i64,
}

impl LeaderStream {
    /// Waits for the next leader, or the next value of this one. Goes on across broken connections; values that were
    /// replaced meanwhile are left out. May be dropped at any point and called again.
    ///
    /// # Errors
    /// Those that no other endpoint could help with.
    pub async fn next(&mut self) -> Result<LeaderResponse, Error> {
        loop {
            match self.receive().await {
                Ok(mut reply) => {
                    let revision = reply.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                    if revision > self.last_revision {
                        self.last_revision = revision;
                        strip_leader(&self.client.namespace, &mut reply);
                        return Ok(reply);
                    }
                }
                Err(error) => {
                    self.replies = None;
                    if !error.is_passing() {
                        return Err(error);
                    }
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<LeaderResponse, Error> {
        let replies = if let Some(replies) = &mut self.replies {
            replies
        } else {
            let replies = open(&self.client, self.request.clone()).await?;
            self.replies.insert(replies)
        };
        match replies.message().await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Error::ConnectionLost("election stream ended".to_owned())),
            Err(status) => Err(Failure::from(status).into()),
        }
    }
}

async fn open(client: &Client, request: LeaderRequest) -> Result<Streaming<LeaderResponse>, Error> {
    client
        .attempt(Retry::Repeatable, |channel: Channel| {
            let request = client.stream_request(request.clone());
            async move { ElectionClient::new(channel).observe(request).await }
        })
        .await
}

fn strip_leader(namespace: &Bytes, reply: &mut LeaderResponse) {
    if let Some(kv) = &mut reply.kv {
        namespace::strip(namespace, &mut kv.key);
    }
}
