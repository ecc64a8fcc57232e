//! Services by name, against real servers. The services are servers of etcd, too: each knows who it is.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::SOON;
use common::proxy::{Mode, Proxy};
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_api::etcdserverpb::{CompactionRequest, PutRequest, StatusRequest};
use retcd_client::naming::{
    Endpoint, Endpoints, Error, Policy, Resolver, ServiceChannel, Update, resolve, resolve_with,
};
use retcd_client::{Client, Config};
use retcd_testkit::{Member, server_binary};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Channel;

also_with_older_servers!();

fn member() -> Member {
    Member::start(&server_binary(), &[])
}

fn client(member: &Member) -> Client {
    let config = Config { endpoints: vec![member.endpoint()], ..Config::default() };
    Client::new(&config).unwrap().with_timeout(SOON)
}

fn added(key: &str, addr: &str, lease: i64) -> Update {
    Update::Add { key: key.to_owned(), endpoint: Endpoint::new(addr), lease }
}

fn deleted(key: &str) -> Update {
    Update::Delete { key: key.to_owned() }
}

async fn put(client: &Client, key: &'static str, value: &'static str) {
    let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    client.put(put).await.unwrap();
}

/// Waits until the channel knows `count` endpoints.
async fn until_known(known: &mut watch::Receiver<BTreeMap<String, Endpoint>>, count: usize) {
    let waiting = known.wait_for(|known| known.len() == count);
    timeout(SOON, waiting).await.expect("the endpoints must come or go").unwrap();
}

/// Calls until all of `expected` have answered. Every call must succeed.
async fn until_answered(channel: ServiceChannel, expected: &BTreeSet<u64>) {
    let mut stub = MaintenanceClient::new(channel);
    let mut answered = BTreeSet::new();
    let calling = async {
        while &answered != expected {
            let status = stub.status(StatusRequest {}).await.unwrap().into_inner();
            let id = status.header.unwrap().cluster_id;
            assert!(expected.contains(&id), "{id:x} is not among the endpoints");
            answered.insert(id);
        }
    };
    timeout(SOON, calling).await.expect("all endpoints get their share");
}

async fn cluster_id(member: &Member) -> u64 {
    client(member).status().await.unwrap().header.unwrap().cluster_id
}

#[tokio::test]
async fn endpoints_are_listed_and_followed() {
    let member = member();
    let client = client(&member);
    let service = Endpoints::new(&client, "s").unwrap();
    service.add("s/a", Endpoint::new("1:1"), 0).await.unwrap();
    let mut watch = service.watch().await.unwrap();
    let lease = client.lease_grant(60, 0).await.unwrap().id;
    let zone = Endpoint { addr: "2:2".to_owned(), metadata: json!({"zone": "b", "weight": 3}) };
    let update =
        vec![Update::Add { key: "s/b".to_owned(), endpoint: zone.clone(), lease }, deleted("s/a")];
    service.update(update.clone()).await.unwrap();
    let mut next = async || timeout(SOON, watch.next()).await.expect("a change").unwrap();
    assert_eq!(next().await, [added("s/a", "1:1", 0)], "what was there comes first");
    assert_eq!(next().await, update, "changes of one transaction stay together");

    // Written by hand, written by somebody else for another purpose, and a service whose name only begins alike.
    put(&client, "s/c", r#"{"Addr":"3:3"}"#).await;
    put(&client, "s/d", "not JSON").await;
    put(&client, "s2/e", r#"{"Addr":"5:5"}"#).await;
    let listed = service.list().await.unwrap();
    let expected = [("s/b".to_owned(), zone), ("s/c".to_owned(), Endpoint::new("3:3"))];
    assert_eq!(listed, BTreeMap::from(expected));

    client.lease_revoke(lease).await.unwrap();
    // These may come in one answer or in two.
    let mut later = next().await;
    while later.len() < 2 {
        later.extend(next().await);
    }
    assert_eq!(later, [added("s/c", "3:3", 0), deleted("s/b")]);
}

#[tokio::test]
async fn foreign_keys_are_refused() {
    let member = member();
    let client = client(&member);
    assert_eq!(Endpoints::new(&client, "").unwrap_err(), Error::InvalidTarget);
    let service = Endpoints::new(&client, "s").unwrap();
    let both = vec![added("s/a", "1:1", 0), deleted("t/a")];
    let error = service.update(both).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "endpoints: endpoint key should be prefixed with 's/' got: 't/a'"
    );
    assert!(service.list().await.unwrap().is_empty(), "all or nothing");
}

#[tokio::test]
async fn a_watch_that_was_away_reports_what_has_changed() {
    let member = member();
    let client = client(&member);
    let service = Endpoints::new(&client, "s").unwrap();
    service.add("s/a", Endpoint::new("1:1"), 0).await.unwrap();
    service.add("s/b", Endpoint::new("2:2"), 0).await.unwrap();
    let proxy = Proxy::start(&member.endpoint()).await;
    let away = common::client_of(&[proxy.endpoint()]);
    let mut watch = Endpoints::new(&away, "s").unwrap().watch().await.unwrap();
    let first = timeout(SOON, watch.next()).await.unwrap().unwrap();
    assert_eq!(first, [added("s/a", "1:1", 0), added("s/b", "2:2", 0)]);

    proxy.set(Mode::Refuse);
    proxy.cut();
    service.delete("s/a").await.unwrap();
    service.add("s/c", Endpoint::new("3:3"), 0).await.unwrap();
    let revision = client
        .range(retcd_api::etcdserverpb::RangeRequest { key: "s/c".into(), ..Default::default() });
    let revision = revision.await.unwrap().header.unwrap().revision;
    client.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    proxy.set(Mode::Pass);
    let changes = timeout(SOON, watch.next()).await.unwrap().unwrap();
    assert_eq!(changes, [deleted("s/a"), added("s/c", "3:3", 0)]);
}

#[tokio::test]
async fn calls_are_spread_over_those_who_are_there() {
    let registry = member();
    let hosts = [member(), member()];
    let ids = [cluster_id(&hosts[0]).await, cluster_id(&hosts[1]).await];
    let client = client(&registry);
    let service = Endpoints::new(&client, "my/service").unwrap();
    let resolved = resolve(&client, "etcd:///my/service").await.unwrap();
    let mut known = resolved.endpoints();

    // The call is made before there is anybody to answer it.
    let early = resolved.channel();
    let early =
        tokio::spawn(async move { MaintenanceClient::new(early).status(StatusRequest {}).await });
    let lease = client.lease_grant(60, 0).await.unwrap().id;
    service.add("my/service/0", Endpoint::new(hosts[0].endpoint()), lease).await.unwrap();
    let answer = timeout(SOON, early).await.expect("an endpoint").unwrap().unwrap().into_inner();
    assert_eq!(answer.header.unwrap().cluster_id, ids[0]);

    service.add("my/service/1", Endpoint::new(hosts[1].endpoint()), 0).await.unwrap();
    until_known(&mut known, 2).await;
    until_answered(resolved.channel(), &ids.into()).await;

    client.lease_revoke(lease).await.unwrap();
    until_known(&mut known, 1).await;
    until_answered(resolved.channel(), &[ids[1]].into()).await;
}

#[tokio::test]
async fn the_last_known_endpoints_stay_while_the_registry_is_away() {
    let mut registry = member();
    let host = member();
    let id = cluster_id(&host).await;
    let client = client(&registry);
    let service = Endpoints::new(&client, "s").unwrap();
    service.add("s/0", Endpoint::new(host.endpoint()), 0).await.unwrap();
    let resolved = resolve(&client, "s").await.unwrap();
    let mut known = resolved.endpoints();
    until_known(&mut known, 1).await;
    registry.process().kill();
    registry.process().wait(SOON);
    until_answered(resolved.channel(), &[id].into()).await;
    registry.crash_and_restart();
    while service.add("s/1", Endpoint::new(host.endpoint()), 0).await.is_err() {}
    until_known(&mut known, 2).await;
}

#[tokio::test]
async fn a_host_that_dies_is_left_out_before_its_lease_ends() {
    let registry = member();
    let mut hosts = [member(), member()];
    let ids = [cluster_id(&hosts[0]).await, cluster_id(&hosts[1]).await];
    let client = client(&registry);
    let service = Endpoints::new(&client, "s").unwrap();
    service.add("s/0", Endpoint::new(hosts[0].endpoint()), 0).await.unwrap();
    service.add("s/1", Endpoint::new(hosts[1].endpoint()), 0).await.unwrap();
    let resolved = resolve(&client, "s").await.unwrap();
    until_answered(resolved.channel(), &ids.into()).await;

    hosts[0].process().kill();
    hosts[0].process().wait(SOON);
    // Calls on the dying connection may fail; soon nobody calls there any more.
    let mut stub = MaintenanceClient::new(resolved.channel());
    let mut in_a_row = 0;
    let calling = async {
        while in_a_row < 10 {
            let answered = stub.status(StatusRequest {}).await;
            in_a_row = if answered.is_ok() { in_a_row + 1 } else { 0 };
        }
    };
    timeout(SOON, calling).await.expect("the other one answers all calls");
    until_answered(resolved.channel(), &[ids[1]].into()).await;

    // It is still registered, so it is used again as soon as it is back.
    hosts[0].crash_and_restart();
    until_answered(resolved.channel(), &ids.into()).await;
}

#[tokio::test]
async fn the_first_is_picked_until_it_goes() {
    let registry = member();
    let mut hosts = [member(), member()];
    let ids = [cluster_id(&hosts[0]).await, cluster_id(&hosts[1]).await];
    let client = client(&registry);
    let service = Endpoints::new(&client, "s").unwrap();
    service.add("s/0", Endpoint::new("127.0.0.1:1"), 0).await.unwrap();
    service.add("s/1", Endpoint::new(hosts[0].endpoint()), 0).await.unwrap();
    service.add("s/2", Endpoint::new(hosts[1].endpoint()), 0).await.unwrap();
    let resolver = Resolver::new(&client, "etcd:///s").policy(Policy::PickFirst);
    let resolved = resolver.resolve().await.unwrap();
    let mut stub = MaintenanceClient::new(resolved.channel());
    let mut who = async || {
        let status = stub.status(StatusRequest {}).await?.into_inner();
        Ok::<_, tonic::Status>(status.header.unwrap().cluster_id)
    };
    for _ in 0..10 {
        assert_eq!(who().await.unwrap(), ids[0], "the first that can be reached");
    }
    hosts[0].process().kill();
    hosts[0].process().wait(SOON);
    let moving = async { while who().await.ok() != Some(ids[1]) {} };
    timeout(SOON, moving).await.expect("the next one takes over");
    hosts[0].crash_and_restart();
    for _ in 0..10 {
        assert_eq!(who().await.unwrap(), ids[1], "what works is kept");
    }
    service.delete("s/2").await.unwrap();
    let moving = async { while who().await.ok() != Some(ids[0]) {} };
    timeout(SOON, moving).await.expect("what is removed is not");
}

#[tokio::test]
async fn calls_fail_when_nobody_can_be_reached_and_wait_when_nobody_is_known() {
    let registry = member();
    let client = client(&registry);
    let service = Endpoints::new(&client, "s").unwrap();
    for policy in [Policy::RoundRobin, Policy::PickFirst] {
        service.add("s/0", Endpoint::new("127.0.0.1:1"), 0).await.unwrap();
        let resolved = Resolver::new(&client, "s").policy(policy).resolve().await.unwrap();
        let mut stub = MaintenanceClient::new(resolved.channel());
        let refused = timeout(SOON, stub.status(StatusRequest {})).await.expect("an answer");
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
        assert!(refused.message().contains("refused"), "{refused:?}");

        service.delete("s/0").await.unwrap();
        until_known(&mut resolved.endpoints(), 0).await;
        let waiting = tokio::spawn(async move {
            // One that was not sent yet may be told of the old failure.
            loop {
                if let Ok(status) = stub.status(StatusRequest {}).await {
                    return status.into_inner().header.unwrap().cluster_id;
                }
            }
        });
        service.add("s/0", Endpoint::new(registry.endpoint()), 0).await.unwrap();
        let answered = timeout(SOON, waiting).await.expect("an answer").unwrap();
        assert_eq!(answered, cluster_id(&registry).await);
    }
}

#[tokio::test]
async fn endpoints_may_be_turned_down() {
    let registry = member();
    let client = client(&registry);
    let service = Endpoints::new(&client, "s").unwrap();
    let near = Endpoint { metadata: json!("near"), ..Endpoint::new(registry.endpoint()) };
    service.add("s/near", near, 0).await.unwrap();
    service.add("s/far", Endpoint::new("127.0.0.1:1"), 0).await.unwrap();
    let resolved = resolve_with(&client, "s", |endpoint| {
        let is_near = endpoint.metadata == json!("near");
        is_near.then(|| Channel::from_shared(format!("http://{}", endpoint.addr)).unwrap())
    });
    let resolved = resolved.await.unwrap();
    until_known(&mut resolved.endpoints(), 1).await;
    let ids = [cluster_id(&registry).await];
    for _ in 0..10 {
        until_answered(resolved.channel(), &ids.into()).await;
    }
}
