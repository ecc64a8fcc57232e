//! Lets the server queue up on our behalf, for a lock and in an election. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use retcd_client::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder([endpoint]).build()?;

    let lease = client.lease_grant(60, 0).await?.id;
    let key = client.lock("example-lock", lease).await?.key;
    println!("locked");
    client.unlock(key).await?;

    let won = client.campaign("example-vote", lease, "10.0.0.7:80").await?;
    let leader = won.leader.ok_or("a winner is a leader")?;
    client.proclaim(leader.clone(), "10.0.0.7:8080").await?;
    let told = client.observe("example-vote").next().await?;
    println!("leader: {:?}", told.kv.unwrap_or_default().value);
    client.resign(leader).await?;
    client.lease_revoke(lease).await?;
    Ok(())
}
