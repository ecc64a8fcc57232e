//! A lease that lives as long as its process.
//!
//! A background task renews the lease. It ends when the lease is lost, when the session is closed, or when the last
//! clone of the session (every claim holds one) is dropped; the lease of a dropped session ends by itself once its
//! time to live is over.

use std::sync::Arc;

use retcd_api::error::RpcError;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::{Client, Error, KeepAlive};

/// Time to live of a session's lease in seconds, unless told otherwise; as in etcd's Go package.
pub const SESSION_TTL: i64 = 60;

/// A lease, kept alive in the background. Clones share it.
///
/// ```no_run
/// # async fn example() -> Result<(), retcd_client::Error> {
/// use retcd_client::concurrency::Session;
/// use retcd_client::{Client, Config};
///
/// let client = Client::new(&Config::default())?;
/// let session = Session::start(&client).await?;
/// tokio::select! {
///     () = session.done() => println!("the lease is lost, and with it all that was held"),
///     _ = tokio::signal::ctrl_c() => session.close().await?,
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    lease: i64,
    /// Until when the lease exists for certain. Closed when the renewing task has ended.
    alive: watch::Receiver<Instant>,
    renewing: AbortHandle,
    runtime: Handle,
    /// How many claims are being made or released right now.
    changes: watch::Sender<usize>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Session {
    /// Grants a lease of [`SESSION_TTL`] seconds and keeps it alive.
    pub async fn start(client: &Client) -> Result<Self, Error> {
        Self::with_ttl(client, SESSION_TTL).await
    }

    /// Grants a lease of `ttl` seconds and keeps it alive. A crashed owner is noticed after that time.
    pub async fn with_ttl(client: &Client, ttl: i64) -> Result<Self, Error> {
        let lease = client.lease_grant(ttl, 0).await?.id;
        Ok(Self::with_lease(client, lease))
    }

    /// Keeps a lease alive that exists already. Must run inside a tokio runtime.
    pub fn with_lease(client: &Client, lease: i64) -> Self {
        // Not the timeout of single calls decides when the lease is lost, but its time to live.
        let renewals = client.without_timeout().lease_keep_alive(lease);
        let (sender, alive) = watch::channel(renewals.certain_until());
        let renewing = tokio::spawn(renew(renewals, sender)).abort_handle();
        let shared = Shared {
            client: client.clone(),
            lease,
            alive,
            renewing,
            runtime: Handle::current(),
            changes: watch::Sender::new(0),
        };
        Session { shared: Arc::new(shared) }
    }

    /// The client that the session was started with.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The id of the lease.
    pub fn lease(&self) -> i64 {
        self.shared.lease
    }

    /// Waits until the session is over: closed, or its lease lost.
    pub fn done(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut alive = self.shared.alive.clone();
        async move { while alive.changed().await.is_ok() {} }
    }

    /// Whether the session is over.
    pub fn is_done(&self) -> bool {
        self.shared.alive.has_changed().is_err()
    }

    /// Whether the lease exists for certain at this moment. Unlike [`Self::is_done`] this is true to a process that was
    /// paused: it looks at the clock, not at whether somebody has had the time to notice. `false` before the first
    /// renewal is through, and when renewals are late.
    pub fn is_certain(&self) -> bool {
        !self.is_done() && Instant::now() < *self.shared.alive.borrow()
    }

    /// Ends the session and revokes its lease, which deletes the keys under it. Clones are closed as well.
    ///
    /// # Errors
    /// Those of the revocation. The lease ends by itself then. A lease that is gone already is no error.
    pub async fn close(&self) -> Result<(), Error> {
        self.orphan().await;
        match self.client().lease_revoke(self.lease()).await {
            Ok(_) | Err(Error::Rpc(RpcError::LeaseNotFound)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends the session but leaves its lease to expire, or to be kept alive by someone else.
    pub async fn orphan(&self) {
        self.shared.renewing.abort();
        self.done().await;
    }

    /// Counts a change to a claim until the returned value is dropped.
    pub(super) fn begin_change(&self) -> Change {
        self.shared.changes.send_modify(|count| *count += 1);
        Change { session: self.clone() }
    }

    /// Waits until no claim is being made or released. A claim that is made while an older one for the same key is
    /// still on its way out would be taken along.
    pub(super) async fn unchanging(&self) {
        let mut changes = self.shared.changes.subscribe();
        // The sender lives in the session, so it cannot be gone.
        let _ = changes.wait_for(|count| *count == 0).await;
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }
}

/// A claim is being made or released.
#[derive(Debug)]
pub(super) struct Change {
    session: Session,
}

impl Drop for Change {
    fn drop(&mut self) {
        self.session.shared.changes.send_modify(|count| *count -= 1);
    }
}

/// Renews until the lease is lost. The drop of `alive` tells those who wait.
async fn renew(mut renewals: KeepAlive, alive: watch::Sender<Instant>) {
    while let Ok(Some(_)) = renewals.next().await {
        alive.send_replace(renewals.certain_until());
    }
}
