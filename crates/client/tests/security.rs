//! Encryption, certificates, and logins that have to be renewed.
//!
//! Encryption is that of a proxy in front of a server, so it does not depend on what the server can do. Logins need a
//! server that asks for them: releases of etcd, if this machine has any.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::proxy::Proxy;
use common::{SOON, client, member, older_servers, soon};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use retcd_api::authpb::Permission;
use retcd_api::authpb::permission::Type as PermissionType;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGrantRoleRequest,
};
use retcd_client::{Client, Error, Get, Put, Tls, Watch};
use retcd_testkit::Member;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// An authority that signs certificates.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
struct Identity {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        Self::named(&[])
    }

    /// One whose certificate could be that of a server.
    fn named(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// What a server with a certificate for `name` speaks. It wants one from its clients if `wants_identity`.
    fn acceptor(&self, name: &str, wants_identity: bool) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        self.acceptor_with(cert.der(), &key, wants_identity)
    }

    /// What the authority speaks when it is a server, too.
    fn own_acceptor(&self) -> TlsAcceptor {
        self.acceptor_with(self.issuer.der(), self.issuer.key(), false)
    }

    fn acceptor_with(
        &self,
        cert: &CertificateDer<'static>,
        key: &KeyPair,
        wants_identity: bool,
    ) -> TlsAcceptor {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if wants_identity {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(vec![cert.clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Whether a client can write through `proxy`; why not, if not.
async fn attempt(proxy: &Proxy, scheme: &str, tls: Option<Tls>) -> Result<(), String> {
    let mut builder = Client::builder([format!("{scheme}{}", proxy.endpoint())]);
    if let Some(tls) = tls {
        builder = builder.tls(tls);
    }
    let client = builder.timeout(SOON).build().unwrap();
    // What is refused is tried again, so the time limit of the first refusal is the one of this call.
    let hurried = client.with_timeout(Duration::from_secs(3));
    let Err(mut last) = hurried.put(Put::new("k", "v")).await else {
        return Ok(());
    };
    if matches!(last, Error::DeadlineExceeded { last_attempt: None }) {
        // A slow machine: once more, with patience.
        match client.with_timeout(Duration::from_secs(30)).put(Put::new("k", "v")).await {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    match last {
        Error::DeadlineExceeded { last_attempt: Some(text) } => Err(text),
        error => Err(error.to_string()),
    }
}

#[tokio::test]
async fn servers_are_believed_if_an_authority_says_so() {
    let member = member();
    let authority = Authority::new();
    let acceptor = authority.acceptor("127.0.0.1", false);
    let proxy = Proxy::start_with(&member.endpoint(), Some(acceptor)).await;
    let trusting = || Tls::new().ca_pem(authority.pem());
    attempt(&proxy, "https://", Some(trusting())).await.unwrap();
    attempt(&proxy, "", Some(trusting())).await.expect("without a scheme TLS is used, too");
    attempt(&proxy, "https://", Some(Tls::new().insecure_skip_verify())).await.unwrap();

    let other = Tls::new().ca_pem(Authority::new().pem());
    let unknown = attempt(&proxy, "https://", Some(other)).await.unwrap_err();
    assert!(unknown.contains("invalid peer certificate"), "{unknown}");
    let untold = attempt(&proxy, "https://", None).await.unwrap_err();
    assert!(untold.contains("invalid peer certificate"), "{untold}");
    let misnamed = attempt(&proxy, "https://", Some(trusting().server_name("etcd.test"))).await;
    assert!(misnamed.as_ref().unwrap_err().contains("not valid for name"), "{misnamed:?}");
}

#[tokio::test]
async fn an_authority_may_be_the_server() {
    let member = member();
    let authority = Authority::named(&["127.0.0.1"]);
    let proxy = Proxy::start_with(&member.endpoint(), Some(authority.own_acceptor())).await;
    let trusting = || Tls::new().ca_pem(authority.pem());
    attempt(&proxy, "https://", Some(trusting())).await.unwrap();
    let misnamed = attempt(&proxy, "https://", Some(trusting().server_name("etcd.test"))).await;
    assert!(misnamed.as_ref().unwrap_err().contains("not valid for name"), "{misnamed:?}");
    let other = Tls::new().ca_pem(Authority::named(&["127.0.0.1"]).pem());
    let unknown = attempt(&proxy, "https://", Some(other)).await.unwrap_err();
    assert!(unknown.contains("invalid peer certificate"), "{unknown}");
}

#[tokio::test]
async fn names_may_differ_from_addresses() {
    let member = member();
    let authority = Authority::new();
    let acceptor = authority.acceptor("etcd.test", false);
    let proxy = Proxy::start_with(&member.endpoint(), Some(acceptor)).await;
    let tls = Tls::new().ca_pem(authority.pem()).server_name("etcd.test");
    attempt(&proxy, "https://", Some(tls)).await.unwrap();
}

#[tokio::test]
async fn clients_prove_who_they_are_and_may_change_it() {
    let member = member();
    let authority = Authority::new();
    let acceptor = authority.acceptor("127.0.0.1", true);
    let proxy = Proxy::start_with(&member.endpoint(), Some(acceptor)).await;
    let trusting = || Tls::new().ca_pem(authority.pem());
    attempt(&proxy, "https://", Some(trusting())).await.expect_err("nobody is not let in");
    let me = authority.sign("me");
    attempt(&proxy, "https://", Some(trusting().identity_pem(me.cert, me.key))).await.unwrap();

    // Files are read for each connection, so a certificate can be replaced.
    let dir = tempfile::TempDir::new().unwrap();
    let paths = ["ca", "cert", "key"].map(|name| dir.path().join(name));
    let write = |identity: &Identity| {
        std::fs::write(&paths[0], authority.pem()).unwrap();
        std::fs::write(&paths[1], &identity.cert).unwrap();
        std::fs::write(&paths[2], &identity.key).unwrap();
    };
    write(&Authority::new().sign("me"));
    let tls = Tls::new().ca_file(&paths[0]).identity_files(&paths[1], &paths[2]);
    let client = Client::builder([format!("https://{}", proxy.endpoint())]).tls(tls);
    let client = client.timeout(SOON).build().unwrap();
    let hurried = client.with_timeout(Duration::from_secs(2));
    hurried.put(Put::new("k", "v")).await.expect_err("signed by somebody else");
    write(&authority.sign("me"));
    let patient = async { while client.put(Put::new("k", "v")).await.is_err() {} };
    soon("the new certificate", patient).await;
}

#[test]
fn what_cannot_work_is_told_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let missing = Tls::new().ca_file("/nowhere/ca.crt");
    let error = Client::builder(["https://127.0.0.1:1"]).tls(missing).build().unwrap_err();
    assert!(matches!(error, Error::BadTls(_)), "{error:?}");
}

/// A cluster that asks who we are: `root` may do everything, `me` whatever begins with `mine/`.
async fn guarded(server: &std::path::Path) -> Member {
    let member = Member::start(server, &[]);
    let client = client(&member);
    for name in ["root", "me"] {
        let user =
            AuthUserAddRequest { name: name.into(), password: "pw".into(), ..Default::default() };
        client.user_add(user).await.unwrap();
        client.role_add(AuthRoleAddRequest { name: name.into() }).await.unwrap();
        let grant = AuthUserGrantRoleRequest { user: name.into(), role: name.into() };
        client.user_grant_role(grant).await.unwrap();
    }
    let perm = Some(Permission {
        perm_type: PermissionType::Readwrite.into(),
        key: "mine/".into(),
        range_end: "mine0".into(),
    });
    let grant = AuthRoleGrantPermissionRequest { name: "me".into(), perm };
    client.role_grant_permission(grant).await.unwrap();
    client.auth_enable(AuthEnableRequest {}).await.unwrap();
    member
}

/// Notices that connections are broken, and makes others, without need of a token. A write that goes out on a dying
/// connection would not be sent again.
async fn settle(client: &Client) {
    let nobody = client.with_token("of nobody").unwrap();
    nobody.range(Get::key("mine/k")).await.expect_err("nobody may read that");
}

#[tokio::test]
async fn logins_are_renewed_when_the_server_has_forgotten_them() {
    for server in older_servers() {
        let mut member = guarded(&server).await;
        let anonymous = client(&member);
        let refused = anonymous.put(Put::new("mine/k", "0")).await.unwrap_err();
        assert_eq!(refused.rpc(), Some(&RpcError::UserEmpty));

        let me = anonymous.with_credentials("me", "pw");
        me.put(Put::new("mine/k", "1")).await.unwrap();
        let denied = me.put(Put::new("k", "1")).await.unwrap_err();
        assert_eq!(denied.rpc(), Some(&RpcError::PermissionDenied));
        let mut changes = me.watch(Watch::prefix("mine/")).await;
        soon("a watch", changes.created()).await.unwrap();
        let lease = me.lease_grant(60, 0).await.unwrap().id;
        let mut renewals = me.lease_keep_alive(lease);
        assert!(soon("a renewal", renewals.next()).await.unwrap().is_some());

        // Simple tokens live in the memory of the server, so all of them are gone now.
        member.crash_and_restart();
        settle(&anonymous).await;
        me.put(Put::new("mine/k", "2")).await.expect("refused, logged in, sent again");
        let event = soon("the watch goes on", changes.next()).await.unwrap().events.remove(0);
        assert_eq!(event.kv.unwrap().value, "2");
        let kv = me.range(Get::key("mine/k")).await.unwrap().kvs.remove(0);
        assert_eq!(kv.version, 2, "each write was done once");
        assert!(soon("renewals go on", renewals.next()).await.unwrap().is_some());

        // A change of passwords makes tokens old, too.
        let root = anonymous.with_credentials("root", "pw");
        let change = AuthUserChangePasswordRequest {
            name: "root".into(),
            password: "other".into(),
            ..Default::default()
        };
        root.user_change_password(change).await.unwrap();
        me.put(Put::new("mine/k", "3")).await.expect("with another token, if need be");
        let wrong = anonymous.with_credentials("me", "wrong");
        let refused = wrong.put(Put::new("mine/k", "4")).await.unwrap_err();
        assert_eq!(refused.rpc(), Some(&RpcError::AuthFailed));
        assert!(!refused.may_have_happened());
    }
}

#[tokio::test]
async fn a_thousand_refused_calls_cause_one_login_at_a_time() {
    for server in older_servers() {
        let mut member = guarded(&server).await;
        let me = client(&member).with_credentials("me", "pw");
        me.put(Put::new("mine/k", "0")).await.unwrap();
        member.crash_and_restart();
        settle(&me).await;
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..1000 {
            let me = me.clone();
            calls.spawn(async move { me.put(Put::new(format!("mine/{number}"), "")).await });
        }
        for answer in soon("all are answered", calls.join_all()).await {
            answer.unwrap();
        }
    }
}

#[tokio::test]
async fn who_is_not_asked_may_introduce_himself() {
    for server in older_servers() {
        let member = Member::start(&server, &[]);
        let polite = client(&member).with_credentials("me", "pw");
        polite.put(Put::new("k", "v")).await.expect("the cluster does not care");
    }
}
