//! Tokens that say by themselves whose they are: JSON Web Tokens.
//!
//! A token is three parts in base64 with dots between: a header that names the way to sign, claims (user, auth revision,
//! end), and the signature of the two. Whoever has the private key can make them, also outside of the cluster; a member
//! with the public key alone only believes them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use retcd_state_machine::auth::Identity;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use ring::{error::KeyRejected, hmac};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde_json::{Value, json};

use super::der::{self, EcKey};

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("auth: invalid auth options")]
    Options,
    #[error("auth: invalid auth signature method")]
    Method,
    #[error("auth: missing key data")]
    NoKey,
    #[error("auth: public and private keys don't match")]
    KeysDiffer,
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: no key that can be used: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("auth: token signing attempted with verify-only key")]
    VerifyOnly,
    #[error("a token could not be signed")]
    Sign,
}

/// What follows `jwt` in `--auth-token`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub(crate) method: Method,
    pub(crate) public_key: Option<PathBuf>,
    pub(crate) private_key: Option<PathBuf>,
    /// Life of a token.
    pub(crate) ttl: Duration,
}

/// A way to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Method {
    const ALL: [Method; 12] = [
        Method::Hs256,
        Method::Hs384,
        Method::Hs512,
        Method::Rs256,
        Method::Rs384,
        Method::Rs512,
        Method::Ps256,
        Method::Ps384,
        Method::Ps512,
        Method::Es256,
        Method::Es384,
        Method::EdDsa,
    ];

    fn name(self) -> &'static str {
        match self {
            Method::Hs256 => "HS256",
            Method::Hs384 => "HS384",
            Method::Hs512 => "HS512",
            Method::Rs256 => "RS256",
            Method::Rs384 => "RS384",
            Method::Rs512 => "RS512",
            Method::Ps256 => "PS256",
            Method::Ps384 => "PS384",
            Method::Ps512 => "PS512",
            Method::Es256 => "ES256",
            Method::Es384 => "ES384",
            Method::EdDsa => "EdDSA",
        }
    }

    /// The one with this name. There is none for ES512, whose curve the library does not have.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Method::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// Makes tokens, and tells whose they are.
pub(crate) struct Signer {
    method: Method,
    ttl: Duration,
    key: Key,
    random: SystemRandom,
}

enum Key {
    Secret(hmac::Key),
    Public(PublicKey, Option<PrivateKey>),
}

struct PublicKey {
    algorithm: &'static dyn signature::VerificationAlgorithm,
    bytes: Vec<u8>,
}

enum PrivateKey {
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads the keys.
    pub(crate) fn load(options: &Options) -> Result<Self, Error> {
        let key = match secret(options.method) {
            Some(algorithm) => {
                let path = options.private_key.as_ref().ok_or(Error::NoKey)?;
                Key::Secret(hmac::Key::new(algorithm, &read(path)?))
            }
            None => key_pair(options)?,
        };
        let Options { method, ttl, .. } = *options;
        Ok(Signer { method, ttl, key, random: SystemRandom::new() })
    }

    /// A token for a user, as of an auth revision.
    pub(crate) fn sign(&self, user: &str, revision: u64) -> Result<String, Error> {
        let header = json!({ "alg": self.method.name(), "typ": "JWT" });
        let end = SystemTime::now() + self.ttl;
        let exp = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = json!({ "username": user, "revision": revision, "exp": exp });
        let mut token = [header, claims].map(|part| BASE64.encode(part.to_string())).join(".");
        let signature = self.signature(token.as_bytes())?;
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        Ok(token)
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let pair = match &self.key {
            Key::Secret(key) => return Ok(hmac::sign(key, message).as_ref().to_vec()),
            Key::Public(_, pair) => pair.as_ref().ok_or(Error::VerifyOnly)?,
        };
        match pair {
            PrivateKey::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let signed = pair.sign(*encoding, &self.random, message, &mut signature);
                signed.map(|()| signature).map_err(|_| Error::Sign)
            }
            PrivateKey::Ecdsa(pair) => {
                let signature = pair.sign(&self.random, message).map_err(|_| Error::Sign)?;
                Ok(signature.as_ref().to_vec())
            }
            PrivateKey::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// Whose token this is, if it was signed with this member's key and has not ended.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Option<Identity> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let parse = |part: &str| serde_json::from_slice::<Value>(&BASE64.decode(part).ok()?).ok();
        // The method is ours to choose, not the token's.
        if parse(header)?.get("alg")? != self.method.name() {
            return None;
        }
        let signature = BASE64.decode(signature).ok()?;
        match &self.key {
            Key::Secret(key) => hmac::verify(key, message.as_bytes(), &signature).ok()?,
            Key::Public(PublicKey { algorithm, bytes }, _) => {
                let key = UnparsedPublicKey::new(*algorithm, bytes);
                key.verify(message.as_bytes(), &signature).ok()?;
            }
        }
        let claims = parse(claims)?;
        if !holds_now(&claims, now)? {
            return None;
        }
        let user = claims.get("username")?.as_str()?.to_owned();
        let revision = claims.get("revision")?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "JSON may write a whole number as 3.0 or 3e0; whatever else it is, it is no current revision"
        )]
        let revision =
            revision.as_u64().or_else(|| revision.as_f64().map(|number| number as u64))?;
        Some(Identity { user, revision })
    }
}

/// Whether the time is within what the claims say about it. `None` when they do not say a time.
fn holds_now(claims: &Value, now: SystemTime) -> Option<bool> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let time = |name| match claims.get(name) {
        None => Some(None),
        Some(time) => time.as_f64().map(Some),
    };
    let (begin, end) = (time("nbf")?, time("exp")?);
    Some(begin.is_none_or(|begin| begin <= now) && end.is_none_or(|end| now < end))
}

fn secret(method: Method) -> Option<hmac::Algorithm> {
    match method {
        Method::Hs256 => Some(hmac::HMAC_SHA256),
        Method::Hs384 => Some(hmac::HMAC_SHA384),
        Method::Hs512 => Some(hmac::HMAC_SHA512),
        Method::Rs256
        | Method::Rs384
        | Method::Rs512
        | Method::Ps256
        | Method::Ps384
        | Method::Ps512
        | Method::Es256
        | Method::Es384
        | Method::EdDsa => None,
    }
}

/// The keys of a method that has two.
fn key_pair(options: &Options) -> Result<Key, Error> {
    use signature as s;
    let family = match options.method {
        Method::Rs256 => Family::Rsa(&s::RSA_PKCS1_SHA256, &s::RSA_PKCS1_2048_8192_SHA256),
        Method::Rs384 => Family::Rsa(&s::RSA_PKCS1_SHA384, &s::RSA_PKCS1_2048_8192_SHA384),
        Method::Rs512 => Family::Rsa(&s::RSA_PKCS1_SHA512, &s::RSA_PKCS1_2048_8192_SHA512),
        Method::Ps256 => Family::Rsa(&s::RSA_PSS_SHA256, &s::RSA_PSS_2048_8192_SHA256),
        Method::Ps384 => Family::Rsa(&s::RSA_PSS_SHA384, &s::RSA_PSS_2048_8192_SHA384),
        Method::Ps512 => Family::Rsa(&s::RSA_PSS_SHA512, &s::RSA_PSS_2048_8192_SHA512),
        Method::Es256 => {
            Family::Ecdsa(&s::ECDSA_P256_SHA256_FIXED_SIGNING, &s::ECDSA_P256_SHA256_FIXED)
        }
        Method::Es384 => {
            Family::Ecdsa(&s::ECDSA_P384_SHA384_FIXED_SIGNING, &s::ECDSA_P384_SHA384_FIXED)
        }
        Method::EdDsa | Method::Hs256 | Method::Hs384 | Method::Hs512 => Family::Ed25519,
    };
    let private = match &options.private_key {
        Some(path) => family.private(&read_pem(path)?).map_err(|reason| unusable(path, &reason))?,
        None => None,
    };
    let public = match &options.public_key {
        Some(path) => {
            Some(public_key(&read_pem(path)?).ok_or_else(|| unusable(path, "no public key"))?)
        }
        None => None,
    };
    let of_private = private.as_ref().map(PrivateKey::public);
    let bytes = match (public, of_private) {
        (None, None) => return Err(Error::NoKey),
        (Some(public), Some(own)) if public != own => return Err(Error::KeysDiffer),
        (Some(bytes), _) | (None, Some(bytes)) => bytes,
    };
    Ok(Key::Public(PublicKey { algorithm: family.verification(), bytes }, private))
}

fn unusable(path: &Path, reason: &str) -> Error {
    Error::Key { path: path.to_owned(), reason: reason.to_owned() }
}

/// The methods that share a kind of key.
enum Family {
    Rsa(&'static dyn signature::RsaEncoding, &'static signature::RsaParameters),
    Ecdsa(
        &'static signature::EcdsaSigningAlgorithm,
        &'static signature::EcdsaVerificationAlgorithm,
    ),
    Ed25519,
}

impl Family {
    fn verification(&self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Family::Rsa(_, parameters) => *parameters,
            Family::Ecdsa(_, algorithm) => *algorithm,
            Family::Ed25519 => &signature::ED25519,
        }
    }

    /// The key pair in a private key's file.
    fn private(&self, (kind, der): &(SectionKind, Vec<u8>)) -> Result<Option<PrivateKey>, String> {
        let rejected = |error: KeyRejected| error.to_string();
        let pair = match (self, kind) {
            (Family::Rsa(encoding, _), SectionKind::RsaPrivateKey) => {
                PrivateKey::Rsa(RsaKeyPair::from_der(der).map_err(rejected)?, *encoding)
            }
            (Family::Rsa(encoding, _), SectionKind::PrivateKey) => {
                PrivateKey::Rsa(RsaKeyPair::from_pkcs8(der).map_err(rejected)?, *encoding)
            }
            (Family::Ecdsa(algorithm, _), SectionKind::EcPrivateKey | SectionKind::PrivateKey) => {
                let is_wrapped = *kind == SectionKind::PrivateKey;
                let inner = if is_wrapped { der::private_key(der) } else { Some(&der[..]) };
                let EcKey { private, public } =
                    inner.and_then(EcKey::parse).ok_or("not both halves of a key")?;
                let random = SystemRandom::new();
                let pair = EcdsaKeyPair::from_private_key_and_public_key(
                    algorithm, private, public, &random,
                );
                PrivateKey::Ecdsa(pair.map_err(rejected)?)
            }
            (Family::Ed25519, SectionKind::PrivateKey) => PrivateKey::Ed25519(
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(rejected)?,
            ),
            (_, kind) => return Err(format!("it has a {kind:?}")),
        };
        Ok(Some(pair))
    }
}

impl PrivateKey {
    fn public(&self) -> Vec<u8> {
        match self {
            PrivateKey::Rsa(pair, _) => pair.public_key().as_ref().to_vec(),
            PrivateKey::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
            PrivateKey::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }
}

/// The key in a public key's file, which may be a certificate.
fn public_key((kind, der): &(SectionKind, Vec<u8>)) -> Option<Vec<u8>> {
    match kind {
        SectionKind::Certificate => der::certified_key(der),
        SectionKind::PublicKey => der::public_key(der),
        _ => None,
    }
    .map(<[u8]>::to_vec)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// The first section of the file.
fn read_pem(path: &Path) -> Result<(SectionKind, Vec<u8>), Error> {
    let text = read(path)?;
    let section = <(SectionKind, Vec<u8>) as PemObject>::from_pem_slice(&text);
    section.map_err(|error| unusable(path, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::tests::TestKeys;

    fn signer(
        method: &str,
        public: Option<&Path>,
        private: Option<&Path>,
    ) -> Result<Signer, Error> {
        Signer::load(&Options {
            method: Method::parse(method).unwrap(),
            public_key: public.map(Path::to_owned),
            private_key: private.map(Path::to_owned),
            ttl: Duration::from_secs(300),
        })
    }

    #[test]
    fn a_token_is_believed_with_the_public_key_alone() {
        let keys = TestKeys::new();
        for (method, name) in [
            ("ES256", "p256"),
            ("ES384", "p384"),
            ("EdDSA", "ed25519"),
            ("RS256", "rsa"),
            ("PS512", "rsa"),
        ] {
            let (public, private) = (keys.path(name, "pub"), keys.path(name, "key"));
            let both = signer(method, Some(&public), Some(&private)).unwrap();
            let token = both.sign("alice", 7).unwrap();
            let now = SystemTime::now();
            let alice = Some(Identity { user: "alice".into(), revision: 7 });
            for verifier in [
                &both,
                &signer(method, Some(&public), None).unwrap(),
                &signer(method, Some(&keys.path(name, "crt")), None).unwrap(),
                &signer(method, None, Some(&private)).unwrap(),
            ] {
                assert_eq!(verifier.verify(&token, now), alice, "{method}");
                assert_eq!(verifier.verify(&token, now + Duration::from_secs(301)), None);
                let mut other = token.clone();
                other.insert(token.rfind('.').unwrap() + 1, 'A');
                assert_eq!(verifier.verify(&other, now), None);
                assert_eq!(verifier.verify("a.b.c", now), None);
                assert_eq!(verifier.verify("abc.7", now), None);
            }
            let verifier = signer(method, Some(&public), None).unwrap();
            assert!(matches!(verifier.sign("alice", 7), Err(Error::VerifyOnly)));
        }
        let (a, b) = (keys.path("p256", "pub"), keys.path("other", "key"));
        assert!(matches!(signer("ES256", Some(&a), Some(&b)), Err(Error::KeysDiffer)));
        assert!(matches!(signer("ES256", None, None), Err(Error::NoKey)));
        assert!(matches!(signer("RS256", None, Some(&b)), Err(Error::Key { .. })));
        assert!(matches!(signer("ES256", None, Some(Path::new("/none"))), Err(Error::Read { .. })));
    }

    #[test]
    fn a_secret_signs_and_verifies() {
        let keys = TestKeys::new();
        let secret = keys.path("p256", "key");
        let signer = |method| signer(method, None, Some(&secret)).unwrap();
        let token = signer("HS256").sign("bob", 3).unwrap();
        let now = SystemTime::now();
        assert_eq!(signer("HS256").verify(&token, now).unwrap().user, "bob");
        assert_eq!(signer("HS512").verify(&token, now), None, "another method");
        assert!(Method::parse("none").is_none() && Method::parse("ES512").is_none());
    }

    #[test]
    fn claims_must_be_whole() {
        let keys = TestKeys::new();
        let signer = signer("HS256", None, Some(&keys.path("p256", "key"))).unwrap();
        let verify = |claims: &str| {
            let header = BASE64.encode(r#"{"alg":"HS256"}"#);
            let message = format!("{header}.{}", BASE64.encode(claims));
            let signature = BASE64.encode(signer.signature(message.as_bytes()).unwrap());
            signer.verify(&format!("{message}.{signature}"), UNIX_EPOCH + Duration::from_secs(100))
        };
        let found = Some(Identity { user: "u".into(), revision: 2 });
        assert_eq!(verify(r#"{"username":"u","revision":2.0}"#), found);
        assert_eq!(verify(r#"{"username":"u","revision":2,"exp":101,"nbf":100}"#), found);
        for bad in [
            r#"{"username":"u","revision":2,"exp":100}"#,
            r#"{"username":"u","revision":2,"nbf":101}"#,
            r#"{"username":"u","revision":2,"exp":"101"}"#,
            r#"{"username":"u","revision":"2"}"#,
            r#"{"username":7,"revision":2}"#,
            r#"{"revision":2}"#,
            "[]",
        ] {
            assert_eq!(verify(bad), None, "{bad}");
        }
    }
}
