//! A Go program with etcd's own client excludes, elects and finds us, and we it.
//!
//! Needs Go and its modules. Without them the test says so and passes.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::process::Command;

use common::{SOON, go_program};

use retcd_client::concurrency::{Election, Error, Mutex, Session};
use retcd_client::naming::{Endpoint, Endpoints};
use retcd_client::{Client, Config};
use retcd_testkit::{Member, Process, server_binary};
use serde_json::json;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_languages_mean_the_same_keys() {
    let Some(program) = go_program("recipes") else { return };
    let member = Member::start(&server_binary(), &[]);
    let config = Config { endpoints: vec![member.endpoint()], ..Config::default() };
    let client = Client::new(&config).unwrap().with_timeout(SOON);
    let session = Session::start(&client).await.unwrap();
    let service = Endpoints::new(&client, "s").unwrap();
    let here = Endpoint { addr: "1:1".to_owned(), metadata: json!({"zone": "a"}) };
    service.add("s/rust", here, session.lease()).await.unwrap();

    let mut go = Process::spawn(Command::new(program).arg(member.endpoint()));
    go.expect("holds the mutex", SOON);
    let mutex = Mutex::new(&session, "m");
    assert_eq!(mutex.try_lock().await.unwrap_err(), Error::Locked);
    let waiting = tokio::spawn(async move { mutex.lock().await });
    go.send_line("release it");
    let locked = timeout(SOON, waiting).await.expect("our turn").unwrap().unwrap();

    let election = Election::new(&session, "e");
    let leadership = election.campaign("rust").await.unwrap();
    let mut observer = election.observe();
    assert_eq!(observer.next().await.unwrap().value, "rust");
    go.send_line("look around");
    go.expect("trying: mutex: Locked by another session", SOON);
    go.expect("leader: rust", SOON);
    go.expect("endpoints: map[s/rust:{1:1 map[zone:a]}]", SOON);
    go.expect("added", SOON);
    let there = Endpoint { addr: "2:2".to_owned(), metadata: json!("<&>") };
    assert_eq!(service.list().await.unwrap().get("s/go"), Some(&there));

    leadership.resign().await.unwrap();
    let leader = timeout(SOON, observer.next()).await.expect("another leader").unwrap();
    assert_eq!(leader.value, "go");
    locked.unlock().await.unwrap();
}
