//! Hands work over, first come first served. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use retcd_client::Client;
use retcd_client::concurrency::Queue;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder([endpoint]).build()?;

    let jobs = Queue::new(&client, "example-queue");
    for job in ["compile", "test"] {
        jobs.enqueue(job).await?;
    }
    println!("first {:?}", jobs.dequeue().await?);
    println!("then {:?}", jobs.dequeue().await?);
    // Nothing is left, so this one waits for the next.
    let (job, added) = tokio::join!(jobs.dequeue(), jobs.enqueue("release"));
    added?;
    println!("at last {:?}", job?);
    Ok(())
}
