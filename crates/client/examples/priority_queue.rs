//! Hands work over, the most urgent first. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use retcd_client::Client;
use retcd_client::concurrency::PriorityQueue;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder([endpoint]).build()?;

    let jobs = PriorityQueue::new(&client, "example-priority-queue");
    jobs.enqueue("clean up", 9).await?;
    jobs.enqueue("put out the fire", 0).await?;
    println!("first {:?}", jobs.dequeue().await?);
    println!("then {:?}", jobs.dequeue().await?);
    Ok(())
}
