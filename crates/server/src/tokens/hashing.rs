//! Hashes of passwords: slow on purpose, so they have threads of their own, and few.
//!
//! Comparing a password takes a processor for some 50 ms at the usual cost. As many as there are processors less one are
//! compared at the same time, at a lower priority; who comes then waits. So logins never hold up other calls.

use std::sync::Arc;

use bytes::Bytes;
use retcd_api::error::{Code, RpcError};
use tokio::sync::{Semaphore, oneshot};

/// bcrypt looks at no more bytes of a password.
const PASSWORD_BYTES_MAX: usize = 72;
/// Of 0 to 19: a third of the processor that others get, when they want it, too.
const NICE: i32 = 5;

pub(crate) struct Hashing {
    cost: u32,
    turns: Arc<Semaphore>,
}

impl Hashing {
    /// `cost`: the binary logarithm of the rounds, 4 to 31.
    pub(crate) fn new(cost: u32) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Hashing { cost, turns: Arc::new(Semaphore::new(processors.saturating_sub(1).max(1))) }
    }

    /// # Errors
    /// The password is too long.
    pub(crate) async fn hash(&self, password: String) -> Result<String, RpcError> {
        if password.len() > PASSWORD_BYTES_MAX {
            let text = "bcrypt: password length exceeds 72 bytes";
            return Err(RpcError::other(Code::Unknown, text));
        }
        let cost = self.cost;
        let hashed = self.run(move || bcrypt::hash_with_result(password, cost)).await?;
        let parts = hashed.map_err(|error| RpcError::other(Code::Unknown, error.to_string()))?;
        // As Go writes it.
        Ok(parts.format_for_version(bcrypt::Version::TwoA))
    }

    /// Whether this is the password with that hash. No password has a hash that is none.
    pub(crate) async fn is_password(
        &self,
        password: String,
        hash: Bytes,
    ) -> Result<bool, RpcError> {
        let compare = move || {
            let hash = std::str::from_utf8(&hash).unwrap_or_default();
            bcrypt::verify(password, hash).unwrap_or(false)
        };
        self.run(compare).await
    }

    /// Runs it on a thread of its own when it is its turn. A caller that goes away while it waits gives its turn up.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RpcError> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| RpcError::Stopped)?;
        let (done, result) = oneshot::channel();
        let started = std::thread::Builder::new().name("hash".to_owned()).spawn(move || {
            let _turn = turn;
            // On Linux this is the thread's, not the process's.
            let _ = rustix::process::nice(NICE);
            // Who has asked may have gone.
            let _ = done.send(work());
        });
        started.map_err(|error| RpcError::other(Code::Internal, error.to_string()))?;
        result.await.map_err(|_| RpcError::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_what_was_hashed() {
        let hashing = Hashing::new(4);
        let hash = Bytes::from(hashing.hash("secret".into()).await.unwrap());
        assert!(hash.starts_with(b"$2a$04$"));
        assert!(hashing.is_password("secret".into(), hash.clone()).await.unwrap());
        assert!(!hashing.is_password("Secret".into(), hash).await.unwrap());
        assert!(!hashing.is_password(String::new(), Bytes::new()).await.unwrap());
        assert!(hashing.hash("x".repeat(72)).await.is_ok());
        let error = hashing.hash("x".repeat(73)).await.unwrap_err();
        assert_eq!(error.message(), "bcrypt: password length exceeds 72 bytes");
        // Made by Go's library.
        let hash =
            Bytes::from_static(b"$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga");
        assert!(hashing.is_password("allmine".into(), hash).await.unwrap());
    }
}
