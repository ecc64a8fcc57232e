//! A lock across processes that readers share.

use bytes::Bytes;

use super::claim::{Claim, unique_prefix};
use super::{Error, Locked, Session};

/// A named lock for many readers or one writer, as in Go's package `recipes`.
///
/// First come, first served: a reader waits for the writers who came before it, a writer for everybody who did. So
/// neither starves. Each call queues up anew, also within one session: who holds the lock for reading and asks for it
/// for writing waits for itself.
///
/// ```no_run
/// # async fn example(client: retcd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use retcd_client::concurrency::{RwMutex, Session};
///
/// let session = Session::start(&client).await?;
/// let config = RwMutex::new(&session, "config");
/// let reading = config.read().await?;
/// reading.unlock().await?;
/// let writing = config.write().await?;
/// println!("everything we write carries the token {}", writing.fencing_token());
/// writing.unlock().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RwMutex {
    session: Session,
    name: String,
}

impl RwMutex {
    /// The lock `name`.
    pub fn new(session: &Session, name: &str) -> Self {
        RwMutex { session: session.clone(), name: name.to_owned() }
    }

    /// Waits until no writer is before us. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`Error::SessionExpired`] when the session ends while waiting.
    pub async fn read(&self) -> Result<Locked, Error> {
        self.lock("read", &format!("{}/write", self.name).into()).await
    }

    /// Waits until nobody is before us. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`Error::SessionExpired`] when the session ends while waiting.
    pub async fn write(&self) -> Result<Locked, Error> {
        self.lock("write", &format!("{}/", self.name).into()).await
    }

    async fn lock(&self, kind: &str, others: &Bytes) -> Result<Locked, Error> {
        let place = unique_prefix(&format!("{}/{kind}", self.name));
        let claim = Claim::stake(&self.session, &place, Bytes::new()).await?.claim;
        claim.wait_turn_behind(others).await?;
        Ok(Locked { claim })
    }
}
