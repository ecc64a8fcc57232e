//! A lock across processes.

use bytes::Bytes;
use retcd_api::etcdserverpb::Compare;

use super::claim::{Claim, prefix};
use super::{Error, Session};

/// A named lock, as in Go's `concurrency.Mutex`.
///
/// It belongs to the session: taking it again within the same session succeeds at once. Tasks of one process that
/// must exclude each other use a session each, or a local lock in front of this one.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use retcd_client::concurrency::{Mutex, Session};
/// use retcd_client::{Client, Config};
///
/// let session = Session::start(&Client::new(&Config::default())?).await?;
/// let locked = Mutex::new(&session, "jobs").lock().await?;
/// println!("everything we write carries the token {}", locked.fencing_token());
/// locked.unlock().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Mutex {
    session: Session,
    prefix: Bytes,
}

/// A mutex that is held. Dropping it releases it in the background; [`Self::unlock`] waits for that.
#[derive(Debug)]
#[must_use = "the mutex is released when this is dropped"]
pub struct Locked {
    pub(super) claim: Claim,
}

impl Mutex {
    /// The mutex `name`. Names are prefixes of keys: a waiter for `a` also waits for the owners of `a/b`.
    pub fn new(session: &Session, name: &str) -> Self {
        Mutex { session: session.clone(), prefix: prefix(name) }
    }

    /// Waits for the mutex. Dropping the future leaves the queue, so a time limit goes around it.
    ///
    /// # Errors
    /// [`Error::SessionExpired`] when the session ends while waiting.
    pub async fn lock(&self) -> Result<Locked, Error> {
        let staked = Claim::stake(&self.session, &self.prefix, Bytes::new()).await?;
        if !staked.is_first {
            staked.claim.wait_turn().await?;
        }
        Ok(Locked { claim: staked.claim })
    }

    /// Takes the mutex if it is free.
    ///
    /// # Errors
    /// [`Error::Locked`] when it is not.
    pub async fn try_lock(&self) -> Result<Locked, Error> {
        let staked = Claim::stake(&self.session, &self.prefix, Bytes::new()).await?;
        if staked.is_first {
            return Ok(Locked { claim: staked.claim });
        }
        staked.claim.release().await?;
        Err(Error::Locked)
    }
}

impl Locked {
    /// The key that stands for the ownership.
    pub fn key(&self) -> &Bytes {
        self.claim.key()
    }

    /// A number that is higher for each further owner: the create revision of [`Self::key`]. Storage that remembers
    /// the highest one it has seen can refuse owners that do not know yet that they have lost the mutex.
    pub fn fencing_token(&self) -> i64 {
        self.claim.create_revision()
    }

    /// The condition that the mutex is still held, for a transaction that must not happen otherwise.
    pub fn is_owner(&self) -> Compare {
        self.claim.exists()
    }

    /// Releases the mutex.
    ///
    /// # Errors
    /// [`Error::SessionExpired`] when it had been lost before. After any other error the release is tried on in the
    /// background.
    pub async fn unlock(self) -> Result<(), Error> {
        if self.claim.release().await? { Ok(()) } else { Err(Error::SessionExpired) }
    }
}
