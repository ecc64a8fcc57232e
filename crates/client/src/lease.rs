//! Leases, and keeping one alive.

use std::time::Duration;

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::lease_client::LeaseClient;
use retcd_api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::channel::Channel;
use crate::client::{Retry, within};
use crate::error::Failure;
use crate::identity::is_about_token;
use crate::namespace::Leave;
use crate::{Client, Error};

/// How long the first answer may take. Until it comes the lease's time to live is unknown.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Pause before a broken stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

impl Client {
    /// Grants a lease of `ttl` seconds; the server chooses the id when `id` is 0.
    ///
    /// Repeated when the answer is lost, as in etcd's client: at worst a second lease is left to expire.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_client::Put;
    ///
    /// let lease = client.lease_grant(60, 0).await?.id;
    /// client.put(Put::new("host/7", "here").lease(lease)).await?;
    /// let mut renewals = client.lease_keep_alive(lease);
    /// while let Some(renewal) = renewals.next().await? {
    ///     println!("{} more seconds", renewal.ttl);
    /// }
    /// println!("the lease is lost");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lease_grant(&self, ttl: i64, id: i64) -> Result<LeaseGrantResponse, Error> {
        self.unary(
            Retry::Repeatable,
            "/etcdserverpb.Lease/LeaseGrant",
            &LeaseGrantRequest { ttl, id },
        )
        .await
    }

    /// Ends a lease and deletes its keys.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// let lease = client.lease_grant(60, 0).await?.id;
    /// client.lease_revoke(lease).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        self.unary(Retry::Repeatable, "/etcdserverpb.Lease/LeaseRevoke", &LeaseRevokeRequest { id })
            .await
    }

    /// What is left of a lease; a time to live of -1 means that there is no such lease.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// let lease = client.lease_time_to_live(0x1234, true).await?;
    /// println!("{} of {} seconds, {} keys", lease.ttl, lease.granted_ttl, lease.keys.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        let request = LeaseTimeToLiveRequest { id, keys };
        let mut reply: LeaseTimeToLiveResponse =
            self.unary(Retry::Repeatable, "/etcdserverpb.Lease/LeaseTimeToLive", &request).await?;
        reply.leave(&self.namespace);
        Ok(reply)
    }

    /// All leases.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// for lease in client.lease_leases().await?.leases {
    ///     println!("{:x}", lease.id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lease_leases(&self) -> Result<LeaseLeasesResponse, Error> {
        self.unary(Retry::Repeatable, "/etcdserverpb.Lease/LeaseLeases", &LeaseLeasesRequest {})
            .await
    }

    /// Renews a lease once.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// println!("{} more seconds", client.lease_keep_alive_once(0x1234).await?.ttl);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `LeaseNotFound` when there is no such lease.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        within(self.timeout, self.renew_once(id))
            .await
            .unwrap_or(Err(Error::DeadlineExceeded { last_attempt: None }))
    }

    async fn renew_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        loop {
            let renewed = match Renewals::open(self, id).await {
                Ok(mut renewals) => renewals.receive().await,
                Err(error) => Err(error),
            };
            match renewed {
                Ok(reply) if reply.ttl > 0 => return Ok(reply),
                Ok(_) => return Err(Error::Rpc(RpcError::LeaseNotFound)),
                Err(error) if error.is_passing() => tokio::time::sleep(REOPEN_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Renews a lease again and again, each time after a third of its time to live.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// let mut renewals = client.lease_keep_alive(0x1234);
    /// while renewals.next().await?.is_some() {}
    /// println!("the lease is lost");
    /// # Ok(())
    /// # }
    /// ```
    pub fn lease_keep_alive(&self, id: i64) -> KeepAlive {
        let now = Instant::now();
        KeepAlive {
            client: self.clone(),
            id,
            expires: now + FIRST_ANSWER,
            due: now,
            renewals: None,
            certain_until: now,
        }
    }

    fn lease(&self, channel: Channel) -> LeaseClient<Channel> {
        LeaseClient::new(channel).max_decoding_message_size(self.response_bytes_max)
    }
}

/// A lease that is being kept alive for as long as [`Self::next`] is called in time.
#[derive(Debug)]
pub struct KeepAlive {
    client: Client,
    id: i64,
    /// When the lease ends if no further renewal succeeds.
    expires: Instant,
    /// The same, counted from before the last renewal was sent: until then the lease exists for certain.
    certain_until: Instant,
    /// When the next renewal is to be sent.
    due: Instant,
    renewals: Option<Renewals>,
}

impl KeepAlive {
    /// Waits until a renewal is due, renews, and returns the answer; `None` when the lease is gone or could not be
    /// renewed in time.
    pub async fn next(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Error> {
        loop {
            tokio::time::sleep_until(self.due.min(self.expires)).await;
            let sent = Instant::now();
            match tokio::time::timeout_at(self.expires, self.renew()).await {
                Err(_) => return Ok(None),
                Ok(Ok(reply)) => return Ok(self.accept(reply, sent)),
                // The next stream begins with another token.
                Ok(Err(error)) if error.is_passing() || self.is_about_token(&error) => {
                    self.renewals = None;
                    self.due = Instant::now() + REOPEN_PAUSE;
                }
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    async fn renew(&mut self) -> Result<LeaseKeepAliveResponse, Error> {
        if let Some(renewals) = &mut self.renewals {
            renewals.send(self.id).await?;
            return renewals.receive().await;
        }
        let renewals = Renewals::open(&self.client, self.id).await?;
        self.renewals.insert(renewals).receive().await
    }

    fn is_about_token(&self, error: &Error) -> bool {
        self.client.is_user() && is_about_token(error)
    }

    /// Until when the lease exists for certain, whatever happens to the connection: its time to live, counted from
    /// before the last successful renewal was sent. Clocks are assumed to run equally fast here and there.
    pub fn certain_until(&self) -> Instant {
        self.certain_until
    }

    fn accept(
        &mut self,
        reply: LeaseKeepAliveResponse,
        sent: Instant,
    ) -> Option<LeaseKeepAliveResponse> {
        let ttl = Duration::from_secs(u64::try_from(reply.ttl).ok().filter(|ttl| *ttl > 0)?);
        let now = Instant::now();
        self.expires = now + ttl;
        self.certain_until = sent + ttl;
        self.due = now + ttl / 3;
        Some(reply)
    }
}

/// One stream of renewals, used for one lease and strictly in turns.
#[derive(Debug)]
struct Renewals {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    replies: Streaming<LeaseKeepAliveResponse>,
}

impl Renewals {
    /// Opens the stream with a first request, because servers do not even say hello before they have an answer.
    async fn open(client: &Client, id: i64) -> Result<Self, Error> {
        client.renew_token().await?;
        let mut requests = None;
        let replies = client
            .attempt(Retry::Repeatable, |channel| {
                // One request is under way at a time, so the queue never holds more than that.
                let (sender, receiver) = mpsc::channel(1);
                sender.try_send(LeaseKeepAliveRequest { id }).expect("a new queue has room");
                requests = Some(sender);
                let request = client.stream_request(ReceiverStream::new(receiver));
                async move { client.lease(channel).lease_keep_alive(request).await }
            })
            .await?;
        Ok(Renewals { requests: requests.expect("a successful attempt was made"), replies })
    }

    async fn send(&self, id: i64) -> Result<(), Error> {
        self.requests.send(LeaseKeepAliveRequest { id }).await.map_err(|_| ended())
    }

    async fn receive(&mut self) -> Result<LeaseKeepAliveResponse, Error> {
        match self.replies.message().await {
            Ok(reply) => reply.ok_or_else(ended),
            Err(status) => Err(Failure::from(status).into()),
        }
    }
}

fn ended() -> Error {
    Error::ConnectionLost("lease keep-alive stream ended".to_owned())
}
