//! Elects a leader and observes what it proclaims. `ETCD_ENDPOINT` says where, 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use retcd_client::concurrency::{Election, Error, Session};
use retcd_client::{Client, Config};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(&Config { endpoints: vec![endpoint], ..Config::default() })?;

    let session = Session::start(&client).await?;
    let election = Election::new(&session, "example-election");
    let leadership = election.campaign("10.0.0.7:80").await?;
    let mut observer = election.observe();
    println!("leader: {:?}", observer.next().await?.value);
    leadership.proclaim("10.0.0.7:8080").await?;
    println!("it moved: {:?}", observer.next().await?.value);
    leadership.resign().await?;
    println!("after it resigned: {:?}", election.leader().await.err());
    session.close().await?;
    Ok(())
}
