//! Who we are to the cluster: nobody, the bearer of a token, or a user whose tokens are renewed.
//!
//! A user's token is fetched before the first call, again whenever the cluster says that it has had its day, and
//! before each long-lived stream (servers check the token of a watch only when it begins, and the old ones cannot say
//! what was wrong with it). Calls that are refused for their token were certainly not carried out, so even writes
//! are sent again with the next one.

use std::sync::{Mutex, PoisonError};

use http::HeaderValue;
use retcd_api::error::RpcError;

use crate::Error;

/// A name and its password. Passwords are not shown.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) enum Identity {
    Nobody,
    Token(HeaderValue),
    User(User),
}

/// A user and the token of the present login.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) credentials: Credentials,
    login: Mutex<Login>,
    /// Held while somebody logs in, so that a thousand refused calls cause one login.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// Guarded by `User::login`, never across a call.
#[derive(Debug, Default)]
struct Login {
    /// `None` before the first login, and when the cluster does not ask who we are.
    token: Option<HeaderValue>,
    /// How many logins there have been.
    count: u64,
}

impl Identity {
    /// Reads a token.
    ///
    /// # Errors
    /// `InvalidAuthToken` for one that no header can carry.
    pub(crate) fn with_token(token: &str) -> Result<Self, Error> {
        let mut token: HeaderValue =
            token.parse().map_err(|_| Error::Rpc(RpcError::InvalidAuthToken))?;
        token.set_sensitive(true);
        Ok(Identity::Token(token))
    }

    pub(crate) fn with_credentials(credentials: Credentials) -> Self {
        let (login, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Identity::User(User { credentials, login, turn })
    }

    /// What requests carry now.
    pub(crate) fn token(&self) -> Option<HeaderValue> {
        match self {
            Identity::Nobody => None,
            Identity::Token(token) => Some(token.clone()),
            Identity::User(user) => user.login().token.clone(),
        }
    }

    pub(crate) fn user(&self) -> Option<&User> {
        match self {
            Identity::User(user) => Some(user),
            Identity::Nobody | Identity::Token(_) => None,
        }
    }
}

impl User {
    /// How many logins there have been.
    pub(crate) fn logins(&self) -> u64 {
        self.login().count
    }

    /// Notes the outcome of a login; no token means that the cluster does not want one.
    pub(crate) fn logged_in(&self, token: Option<&str>) -> Result<(), Error> {
        let token = match token.map(Identity::with_token).transpose()? {
            Some(Identity::Token(token)) => Some(token),
            Some(Identity::Nobody | Identity::User(_)) | None => None,
        };
        let mut login = self.login();
        login.token = token;
        login.count += 1;
        Ok(())
    }

    fn login(&self) -> std::sync::MutexGuard<'_, Login> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another token could help against this error.
pub(crate) fn is_about_token(error: &Error) -> bool {
    matches!(
        error,
        Error::Rpc(RpcError::InvalidAuthToken | RpcError::AuthOldRevision | RpcError::UserEmpty)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let credentials = Credentials { name: "me".into(), password: "hush".into() };
        let identity = Identity::with_credentials(credentials);
        identity.user().unwrap().logged_in(Some("token.7")).unwrap();
        let text = format!("{identity:?}");
        assert!(text.contains("me"), "{text}");
        assert!(!text.contains("hush") && !text.contains("token.7"), "{text}");
    }

    #[test]
    fn each_login_counts() {
        let identity =
            Identity::with_credentials(Credentials { name: "me".into(), password: String::new() });
        let user = identity.user().unwrap();
        assert_eq!((user.logins(), identity.token()), (0, None));
        user.logged_in(Some("one")).unwrap();
        assert_eq!(identity.token().unwrap(), "one");
        user.logged_in(None).unwrap();
        assert_eq!((user.logins(), identity.token()), (2, None));
    }
}
