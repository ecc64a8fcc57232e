//! What clients show to say who they are, and what they prove it with: tokens and passwords.
//!
//! | kind | who knows it |
//! |---|---|
//! | simple | every member, since a log entry gave it out: see the state machine's `auth` |
//! | signed (JWT) | nobody: it says by itself whose it is, and a signature proves it |

mod der;
mod hashing;
mod jwt;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

pub(crate) use self::hashing::Hashing;
use self::jwt::Method;
pub(crate) use self::jwt::Signer;
pub use self::jwt::{Error, Options};
use crate::config::duration;

/// Where tokens come from (`--auth-token`).
pub(crate) enum Tokens {
    /// There are none: callers are known by their certificates.
    None,
    Simple,
    Signed(Box<Signer>),
}

const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const TOKEN_LETTERS: usize = 16;

/// The secret part of a simple token.
pub(crate) fn random_letters() -> String {
    let random = SystemRandom::new();
    let mut letters = String::with_capacity(TOKEN_LETTERS);
    let mut bytes = [0; 2 * TOKEN_LETTERS];
    while letters.len() < TOKEN_LETTERS {
        random.fill(&mut bytes).expect("the system has random numbers");
        // Numbers beyond the last multiple would make some letters likelier than others.
        let fair = bytes
            .iter()
            .map(|byte| usize::from(*byte))
            .filter(|number| *number < 4 * LETTERS.len());
        let missing = TOKEN_LETTERS - letters.len();
        letters
            .extend(fair.take(missing).map(|number| char::from(LETTERS[number % LETTERS.len()])));
    }
    letters
}

impl Tokens {
    /// Reads the keys, if there are any to be read.
    pub(crate) fn load(auth_token: &AuthToken) -> Result<Self, Error> {
        match auth_token {
            AuthToken::None => Ok(Tokens::None),
            AuthToken::Simple => {
                tracing::warn!("simple token is not cryptographically signed");
                Ok(Tokens::Simple)
            }
            AuthToken::Signed(options) => Ok(Tokens::Signed(Box::new(Signer::load(options)?))),
        }
    }
}

/// `--auth-token`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthToken {
    None,
    Simple,
    Signed(Options),
}

/// How long a signed token lives if nothing else is said.
const SIGNED_TTL: Duration = Duration::from_secs(300);

impl AuthToken {
    /// Reads `simple`, `jwt,pub-key=F,priv-key=F,sign-method=M,ttl=D`, or nothing. Unknown options of a kind are passed
    /// over, with a word in the log.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let (kind, rest) =
            text.split_once(',').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        let mut options = BTreeMap::new();
        for option in rest.into_iter().flat_map(|rest| rest.split(',')) {
            let (name, value) = option.split_once('=').ok_or(Error::Options)?;
            if value.contains('=') || options.insert(name, value).is_some() {
                return Err(Error::Options);
            }
        }
        match kind {
            "" => Ok(AuthToken::None),
            "simple" => Ok(AuthToken::Simple),
            "jwt" => Self::signed(&options).map(AuthToken::Signed),
            _ => Err(Error::Options),
        }
    }

    fn signed(options: &BTreeMap<&str, &str>) -> Result<Options, Error> {
        let known = ["sign-method", "pub-key", "priv-key", "ttl"];
        let unknown: Vec<_> = options.keys().filter(|name| !known.contains(name)).collect();
        if !unknown.is_empty() {
            tracing::warn!(keys = ?unknown, "unknown JWT options");
        }
        let get = |name| options.get(name).copied().unwrap_or_default();
        let file = |name| Some(get(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
        let ttl = match get("ttl") {
            "" => SIGNED_TTL,
            text => duration::parse(text).ok_or(Error::Options)?,
        };
        let method = Method::parse(get("sign-method")).ok_or(Error::Options)?;
        Ok(Options { method, public_key: file("pub-key"), private_key: file("priv-key"), ttl })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    };

    use super::*;

    /// Keys in files, as `NAME.key`, `NAME.pub` and, in a certificate, `NAME.crt`.
    pub(super) struct TestKeys(tempfile::TempDir);

    impl TestKeys {
        pub(super) fn new() -> Self {
            let keys = TestKeys(tempfile::tempdir().unwrap());
            keys.add("p256", &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
            keys.add("p384", &KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
            keys.add("ed25519", &KeyPair::generate_for(&PKCS_ED25519).unwrap());
            keys.add("other", &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
            // The library makes no keys of this kind.
            keys.add("rsa", &KeyPair::from_pem(include_str!("test_keys/rsa.pem")).unwrap());
            keys
        }

        fn add(&self, name: &str, pair: &KeyPair) {
            std::fs::write(self.path(name, "key"), pair.serialize_pem()).unwrap();
            std::fs::write(self.path(name, "pub"), pair.public_key_pem()).unwrap();
            let certificate = CertificateParams::default().self_signed(pair).unwrap();
            std::fs::write(self.path(name, "crt"), certificate.pem()).unwrap();
        }

        pub(super) fn path(&self, name: &str, kind: &str) -> PathBuf {
            self.0.path().join(format!("{name}.{kind}"))
        }
    }

    #[test]
    fn letters_are_many_and_differ() {
        let (one, other) = (random_letters(), random_letters());
        assert!(one.len() == TOKEN_LETTERS && one.bytes().all(|byte| LETTERS.contains(&byte)));
        assert_ne!(one, other);
    }
}
