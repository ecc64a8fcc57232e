//! Users, roles and permissions, with real processes: our client and etcdctl, those of etcd 3.4 and of the release that
//! `ETCD_REAL` names, and curl.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use retcd_api::authpb::Permission;
use retcd_api::authpb::permission::Type;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest,
    AuthRoleGrantPermissionRequest, AuthStatusRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGrantRoleRequest, AuthenticateRequest,
    CompactionRequest, PutRequest, RangeRequest, WatchCreateRequest,
};
use retcd_client::{Client, Error};
use retcd_testkit::{
    Authority, Cluster, Member, PATIENCE, Plan, Port, Tool, binary, etcdctl_34, real_etcd,
    server_binary,
};

/// Between two looks at something that should change.
const POLL: Duration = Duration::from_millis(20);

fn client(endpoint: &str) -> Client {
    Client::builder([endpoint]).build().expect("the endpoint is an address")
}

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, Error>, expected: &RpcError) {
    let error = outcome.expect_err("it is not permitted");
    assert_eq!(error.rpc(), Some(expected), "{error}");
}

async fn add_user(client: &Client, name: &str, role: &str) {
    let (user, password) = (name.to_owned(), format!("{name}'s"));
    let add = AuthUserAddRequest { name: user.clone(), password, ..Default::default() };
    client.user_add(add).await.expect("a new user");
    let grant = AuthUserGrantRoleRequest { user, role: role.to_owned() };
    client.user_grant_role(grant).await.expect("a role that exists");
}

fn granting(key: &str, end: &str) -> AuthRoleGrantPermissionRequest {
    let perm = Permission {
        perm_type: Type::Readwrite.into(),
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
    };
    AuthRoleGrantPermissionRequest { name: "app".to_owned(), perm: Some(perm) }
}

/// A root, and alice, who may do everything with keys from `a` to `b`. Returns their clients.
async fn set_up(open: &Client) -> (Client, Client) {
    open.role_add(AuthRoleAddRequest { name: "app".to_owned() }).await.expect("a new role");
    open.role_grant_permission(granting("a", "b")).await.expect("a range");
    add_user(open, "root", "root").await;
    add_user(open, "alice", "app").await;
    open.auth_enable(AuthEnableRequest {}).await.expect("there is a root");
    (open.with_credentials("root", "root's"), open.with_credentials("alice", "alice's"))
}

async fn token_of(client: &Client, name: &str) -> String {
    let (name, password) = (name.to_owned(), format!("{name}'s"));
    client.authenticate(AuthenticateRequest { name, password }).await.expect("a login").token
}

#[tokio::test]
async fn whoever_asks_is_asked_who_it_is() {
    let member = Member::start(&server_binary(), &[]);
    let open = client(&member.endpoint());
    let login = AuthenticateRequest { name: "root".into(), password: "x".into() };
    assert_refused(open.authenticate(login).await, &RpcError::AuthNotEnabled);
    let (root, alice) = set_up(&open).await;

    assert_refused(open.put(put("a")).await, &RpcError::UserEmpty);
    assert_refused(open.range(range("a")).await, &RpcError::UserEmpty);
    let serializable = RangeRequest { serializable: true, ..range("a") };
    assert_refused(open.range(serializable).await, &RpcError::UserEmpty);
    assert_refused(open.lease_grant(60, 0).await, &RpcError::UserEmpty);
    assert!(open.auth_status(AuthStatusRequest {}).await.expect("for everybody").enabled);
    let liar = open.with_token("abcdefghijklmnop.1").expect("a token is text");
    assert_refused(liar.put(put("a")).await, &RpcError::InvalidAuthToken);
    assert_refused(liar.range(range("a")).await, &RpcError::InvalidAuthToken);

    alice.put(put("a")).await.expect("her own range");
    assert_refused(alice.put(put("b")).await, &RpcError::PermissionDenied);
    assert_refused(alice.range(range("b")).await, &RpcError::PermissionDenied);
    let whole = RangeRequest { range_end: b"c"[..].into(), ..range("a") };
    assert_refused(alice.range(whole).await, &RpcError::PermissionDenied);
    assert_refused(alice.auth_disable(AuthDisableRequest {}).await, &RpcError::PermissionDenied);
    let compaction = CompactionRequest { revision: 1, physical: false };
    assert_refused(alice.compact(compaction).await, &RpcError::PermissionDenied);
    root.put(put("b")).await.expect("root may do everything");
    let wrong = AuthenticateRequest { name: "alice".into(), password: "root's".into() };
    assert_refused(open.authenticate(wrong).await, &RpcError::AuthFailed);

    let lease = root.lease_grant(600, 0).await.expect("a lease").id;
    root.put(PutRequest { lease, ..put("b") }).await.expect("root's key");
    assert_refused(alice.lease_revoke(lease).await, &RpcError::PermissionDenied);
    assert_refused(alice.lease_keep_alive_once(lease).await, &RpcError::PermissionDenied);
    assert_refused(alice.put(PutRequest { lease, ..put("a") }).await, &RpcError::PermissionDenied);
    assert_refused(alice.lease_leases().await, &RpcError::PermissionDenied);
    root.lease_keep_alive_once(lease).await.expect("root may");
    alice.lease_time_to_live(lease, false).await.expect("anybody known may");
    assert_refused(alice.lease_time_to_live(lease, true).await, &RpcError::PermissionDenied);

    // Locks are keys.
    alice.lock("a/lock", 0).await.expect("below her range");
    let refused = alice.lock("b/lock", 0).await.expect_err("not hers").to_string();
    assert!(refused.contains("permission denied"), "{refused}");
}

#[tokio::test]
async fn a_watch_is_permitted_when_it_is_created() {
    let member = Member::start(&server_binary(), &[]);
    let (root, alice) = set_up(&client(&member.endpoint())).await;
    let mut watch = alice.watcher();
    let create = |key: &str, end: &str| WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        // Whenever it is created: the client logs in first.
        start_revision: 1,
        ..Default::default()
    };
    watch.create(create("a", "b")).await;
    alice.put(put("a1")).await.expect("her own range");
    let event = watch.next().await.expect("it is permitted");
    assert_eq!(event.events.len(), 1, "{event:?}");
    // What was created stays, whatever becomes of its creator.
    root.role_delete(AuthRoleDeleteRequest { role: "app".to_owned() }).await.expect("a role");
    assert_refused(alice.put(put("a1")).await, &RpcError::PermissionDenied);
    root.put(put("a2")).await.expect("root may do everything");
    assert_eq!(watch.next().await.expect("it goes on").events.len(), 1);

    let mut watch = alice.watcher();
    watch.create(create("a", "\0")).await;
    let refused = watch.next().await.expect("the stream goes on");
    assert!(refused.canceled, "nothing is hers any more: {refused:?}");
    let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!(refused.cancel_reason, reason);
}

#[tokio::test]
async fn all_members_know_who_may_do_what() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    let endpoints: Vec<String> =
        cluster.slots().into_iter().map(|slot| cluster.endpoint(slot)).collect();
    let opens: Vec<Client> = endpoints.iter().map(|endpoint| client(endpoint)).collect();
    let (root, alice) = set_up(&opens[0]).await;
    alice.put(put("a")).await.expect("her own range");

    // A token is known everywhere, at once, also where its entry has not arrived yet.
    for _ in 0..5 {
        let token = token_of(&opens[1], "alice").await;
        for open in &opens {
            let alice = open.with_token(&token).expect("a token is text");
            alice.put(put("a")).await.expect("her own range");
            alice.range(range("a")).await.expect("her own range");
            assert_refused(alice.range(range("b")).await, &RpcError::PermissionDenied);
        }
    }
    // A new password ends all her tokens, everywhere.
    let token = token_of(&opens[2], "alice").await;
    let change = AuthUserChangePasswordRequest {
        name: "alice".to_owned(),
        password: "new".to_owned(),
        ..Default::default()
    };
    root.user_change_password(change).await.expect("alice exists");
    for open in &opens {
        let alice = open.with_token(&token).expect("a token is text");
        assert_refused(alice.range(range("a")).await, &RpcError::InvalidAuthToken);
    }

    // Tokens are lost where they were known; users are not.
    cluster.stop(1).await;
    cluster.start_again(1);
    let alice = opens[1].with_credentials("alice", "new");
    let until = Instant::now() + PATIENCE;
    while let Err(error) = alice.put(put("a")).await {
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(POLL).await;
    }
    assert_refused(alice.put(put("b")).await, &RpcError::PermissionDenied);
    assert_refused(opens[1].put(put("a")).await, &RpcError::UserEmpty);
    let mut revisions = Vec::new();
    for open in &opens {
        revisions
            .push(open.auth_status(AuthStatusRequest {}).await.expect("all serve").auth_revision);
    }
    assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{revisions:?}");
}

/// Every etcdctl that there is.
fn ctls() -> Vec<PathBuf> {
    let released = real_etcd().map(|dir| dir.join("etcdctl"));
    [Some(binary("etcdctl")), released, etcdctl_34()].into_iter().flatten().collect()
}

#[test]
fn every_etcdctl_manages_users() {
    for binary in ctls() {
        let member = Member::start(&server_binary(), &[]);
        let open = Tool::new(&binary, &member.endpoint()).with_env("ETCDCTL_API", "3");
        for args in [
            &["user", "add", "root:secret"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "reader"],
            &["role", "grant-permission", "--prefix", "reader", "read", "app/"],
            &["user", "add", "bob:b"],
            &["user", "grant-role", "bob", "reader"],
            &["put", "app/x", "1"],
            &["auth", "enable"],
        ] {
            // etcdctl makes the root itself if it must, and so may find it made.
            open.expect(args);
        }
        let (root, bob) =
            (open.with_env("ETCDCTL_USER", "root:secret"), open.with_env("ETCDCTL_USER", "bob:b"));
        assert_eq!(bob.expect(&["get", "app/x"]), "app/x\n1\n", "{}", binary.display());
        assert_eq!(bob.expect(&["get", "--prefix", "app/", "--keys-only"]), "app/x\n\n");
        let refused = bob.run(&["put", "app/x", "2"]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.code != 0 && text.contains("permission denied"), "{text}");
        let nobody = String::from_utf8(open.run(&["get", "app/x"]).stderr).expect("text");
        assert!(nobody.contains("user name is empty"), "{nobody}");
        assert_eq!(root.expect(&["user", "list"]), "bob\nroot\n");
        assert!(root.expect(&["role", "get", "reader"]).contains("[app/, app0) (prefix app/)"));
        root.expect(&["auth", "disable"]);
        open.expect(&["put", "app/x", "2"]);
    }
}

fn curl(url: &str, token: &str, body: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--data-binary", body]);
    if !token.is_empty() {
        command.args(["--header", &format!("Authorization: {token}")]);
    }
    let output = command.arg(url).output().expect("curl can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("answers are text")
}

#[tokio::test]
async fn the_gateway_carries_the_token() {
    let member = Member::start(&server_binary(), &[]);
    set_up(&client(&member.endpoint())).await;
    let url = |path: &str| format!("http://{}{path}", member.endpoint());
    let login = r#"{"name":"alice","password":"alice's"}"#;
    let answer: serde_json::Value =
        serde_json::from_str(&curl(&url("/v3/auth/authenticate"), "", login)).expect("JSON");
    let token = answer["token"].as_str().expect("a token");
    let a = r#"{"key":"YQ==","value":"dg=="}"#;
    assert!(curl(&url("/v3/kv/put"), token, a).contains("revision"));
    assert!(curl(&url("/v3/kv/put"), &format!("Bearer {token}"), a).contains("revision"));
    assert!(curl(&url("/v3/kv/put"), "", a).contains("user name is empty"));
    assert!(curl(&url("/v3/kv/put"), "x.1", a).contains("invalid auth token"));
    let b = r#"{"key":"Yg==","value":"dg=="}"#;
    assert!(curl(&url("/v3/kv/put"), token, b).contains("permission denied"));
    let user = curl(&url("/v3/auth/user/get"), token, r#"{"name":"alice"}"#);
    assert!(user.contains(r#""roles":["app"]"#), "{user}");
}

#[tokio::test]
async fn a_signed_token_is_void_after_a_change() {
    let authority = Authority::new();
    authority.sign("server", &[]);
    let flag = format!(
        "--auth-token=jwt,pub-key={},priv-key={},sign-method=ES256,ttl=1m",
        authority.file("server.crt"),
        authority.file("server.key")
    );
    let mut member = Member::start(&server_binary(), &[&flag]);
    let open = client(&member.endpoint());
    let (root, alice) = set_up(&open).await;
    alice.put(put("a")).await.expect("her own range");
    let token = token_of(&open, "alice").await;
    assert_eq!(token.split('.').count(), 3, "{token}");
    let with_token = open.with_token(&token).expect("a token is text");
    with_token.put(put("a")).await.expect("her own range");
    member.restart();
    let until = Instant::now() + PATIENCE;
    while let Err(error) = with_token.put(put("a")).await {
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(POLL).await;
    }
    root.role_grant_permission(granting("x", "y")).await.expect("a range");
    assert_refused(with_token.put(put("a")).await, &RpcError::AuthOldRevision);
    assert_refused(with_token.range(range("a")).await, &RpcError::AuthOldRevision);
    alice.put(put("x")).await.expect("she logs in again by herself");
    let forged = open.with_token(&format!("{token}x")).expect("a token is text");
    assert_refused(forged.put(put("a")).await, &RpcError::InvalidAuthToken);
}

#[tokio::test]
async fn a_certificate_names_its_user() {
    let authority = Authority::new();
    authority.sign("server", &["127.0.0.1"]);
    authority.sign("alice", &[]);
    authority.sign("root", &[]);
    authority.sign("mallory", &[]);
    let port = Port::claim();
    let url = port.https_url();
    let file = |flag: &str, file: &str| format!("--{flag}={}", authority.file(file));
    let member = Member::start(
        &server_binary(),
        &[
            "--client-cert-auth",
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
            &file("cert-file", "server.crt"),
            &file("key-file", "server.key"),
            &file("trusted-ca-file", "ca.crt"),
        ],
    );
    let ctl = |name: &str| {
        Tool::new(&binary("etcdctl"), &url)
            .with_env("ETCDCTL_CACERT", &authority.file("ca.crt"))
            .with_env("ETCDCTL_CERT", &authority.file(&format!("{name}.crt")))
            .with_env("ETCDCTL_KEY", &authority.file(&format!("{name}.key")))
    };
    let (root, alice, mallory) = (ctl("root"), ctl("alice"), ctl("mallory"));
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "--no-password", "alice"],
        &["role", "add", "app"],
        &["role", "grant-permission", "app", "readwrite", "a"],
        &["user", "grant-role", "alice", "app"],
        &["auth", "enable"],
    ] {
        root.expect(args);
    }
    alice.expect(&["put", "a", "1"]);
    root.expect(&["put", "b", "1"]);
    let refused = |tool: &Tool, args: &[&str]| {
        String::from_utf8(tool.run(args).stderr).expect("errors are text")
    };
    assert!(refused(&alice, &["put", "b", "1"]).contains("permission denied"));
    assert!(refused(&mallory, &["put", "a", "1"]).contains("permission denied"));
    assert!(refused(&mallory, &["user", "list"]).contains("user name not found"));
    // A token counts more.
    alice.with_env("ETCDCTL_USER", "root:secret").expect(&["put", "b", "2"]);

    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "30", "--data", "{}"]);
    for (flag, file) in [("--cacert", "ca.crt"), ("--cert", "root.crt"), ("--key", "root.key")] {
        curl.arg(flag).arg(authority.path(file));
    }
    let output = curl.arg(format!("{url}/v3/auth/user/list")).output().expect("curl can be run");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "CommonName of client sending a request against gateway will be ignored and not used as expected\n"
    );
    drop(member);
}
