//! etcd's Go resolver finds what we register, and ours finds what Go, or somebody at a shell, registers.
//!
//! The services are servers of etcd, which know who they are. Needs Go and its modules; without them the test says so
//! and passes.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::{SOON, client, go_program, member, soon};
use retcd_api::etcdserverpb::StatusRequest;
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_client::Client;
use retcd_client::concurrency::Session;
use retcd_client::naming::{BalancedChannel, Endpoint, Endpoints, resolve};
use retcd_testkit::{Member, Process, Tool, binary};
use serde_json::json;

also_with_older_servers!();

/// Both resolvers, and all ways to register.
struct World {
    registry: Member,
    hosts: [Member; 2],
    ids: [u64; 2],
    client: Client,
    service: Endpoints,
    resolved: BalancedChannel,
    go: Process,
}

impl World {
    /// `None` when there is no Go.
    async fn new() -> Option<Self> {
        let program = go_program("naming")?;
        let (registry, hosts) = (member(), [member(), member()]);
        let id = async |host| client(host).status().await.unwrap().header.unwrap().cluster_id;
        let ids = [id(&hosts[0]).await, id(&hosts[1]).await];
        let client = client(&registry);
        let service = Endpoints::new(&client, "my-service").unwrap();
        let resolved = resolve(&client, "etcd:///my-service").await.unwrap();
        let go = Process::spawn(Command::new(program).arg(registry.endpoint()));
        Some(World { registry, hosts, ids, client, service, resolved, go })
    }

    /// Waits until calls of both languages are answered by just these hosts.
    async fn until_answered_by(&mut self, hosts: &[usize]) {
        let ids: BTreeSet<u64> = hosts.iter().map(|host| self.ids[*host]).collect();
        let mut texts: Vec<String> = ids.iter().map(|id| format!("{id:x}")).collect();
        texts.sort_unstable();
        let expected = if texts.is_empty() { "nobody".to_owned() } else { texts.join(",") };
        self.go.send_line(&format!("until {expected}"));
        tokio::task::block_in_place(|| self.go.expect(&format!("reached {expected}"), SOON));

        let mut known = self.resolved.endpoints();
        let waiting = known.wait_for(|known| known.len() == hosts.len());
        soon("our resolver", waiting).await.unwrap();
        let mut stub = MaintenanceClient::new(self.resolved.channel());
        let mut answered = BTreeSet::new();
        let calling = async {
            while answered != ids {
                let status = stub.status(StatusRequest {}).await.unwrap().into_inner();
                answered.insert(status.header.unwrap().cluster_id);
                assert!(answered.is_subset(&ids), "{answered:x?} instead of {ids:x?}");
            }
        };
        soon("all endpoints answer", calling).await;
    }

    /// Gives Go a command and waits until it has been carried out.
    fn go(&mut self, command: &str, answer: &str) {
        self.go.send_line(command);
        tokio::task::block_in_place(|| self.go.expect(answer, SOON));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_language_resolves_what_the_other_registers() {
    let Some(mut world) = World::new().await else { return };
    let addresses = [world.hosts[0].endpoint(), world.hosts[1].endpoint()];
    let here = Endpoint { addr: addresses[0].clone(), metadata: json!({"zone": "a"}) };
    world.service.add("my-service/rust", here, 0).await.unwrap();
    world.until_answered_by(&[0]).await;
    world.go(&format!("add my-service/go {}", addresses[1]), "added my-service/go");
    world.until_answered_by(&[0, 1]).await;
    let listed = world.service.list().await.unwrap();
    assert_eq!(listed["my-service/go"].metadata, json!("by Go"));
    world.go("delete my-service/rust", "deleted my-service/rust");
    world.until_answered_by(&[1]).await;
    world.service.delete("my-service/go").await.unwrap();
    world.until_answered_by(&[]).await;

    // Under leases: one of ours, one of Go's. Who dies, leaves.
    let session = Session::with_ttl(&world.client, 2).await.unwrap();
    let here = Endpoint::new(addresses[0].clone());
    world.service.add("my-service/rust", here, session.lease()).await.unwrap();
    world.go(&format!("add-leased my-service/go {}", addresses[1]), "added my-service/go");
    world.until_answered_by(&[0, 1]).await;
    drop(session);
    world.until_answered_by(&[1]).await;
    world.go.send_line("die");
    world.until_answered_by(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_registered_at_a_shell_is_found() {
    let Some(mut world) = World::new().await else { return };
    let etcdctl = Tool::new(&binary("etcdctl"), &world.registry.endpoint());
    let run = |args: &[&str]| tokio::task::block_in_place(|| etcdctl.expect(args));
    let value = |host: &Member| json!({"Addr": host.endpoint(), "Metadata": "by hand"}).to_string();
    let values = [value(&world.hosts[0]), value(&world.hosts[1])];

    assert_eq!(run(&["put", "my-service/1.2.3.4", &values[0]]), "OK\n");
    world.until_answered_by(&[0]).await;
    assert_eq!(run(&["put", "my-service/1.2.3.5", &values[1]]), "OK\n");
    world.until_answered_by(&[0, 1]).await;
    assert_eq!(run(&["del", "my-service/1.2.3.4"]), "1\n");
    world.until_answered_by(&[1]).await;
    assert_eq!(run(&["del", "my-service/1.2.3.5"]), "1\n");
    world.until_answered_by(&[]).await;

    let granted = run(&["lease", "grant", "2"]);
    let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(
        run(&["put", &format!("--lease={lease}"), "my-service/1.2.3.4", &values[0]]),
        "OK\n"
    );
    let mut keeping = etcdctl.spawn(&["lease", "keep-alive", &lease]);
    for _ in 0..4 {
        tokio::task::block_in_place(|| keeping.expect("keepalived with TTL(2)", SOON));
    }
    world.until_answered_by(&[0]).await;
    keeping.kill();
    world.until_answered_by(&[]).await;
}
