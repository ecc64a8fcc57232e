//! Answers reads from memory, and is never stale. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use retcd_client::{Client, Leasing, Put};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder([endpoint]).build()?;

    let (one, other) = (
        Leasing::start(&client, "example-leasing/", 60).await?,
        Leasing::start(&client, "example-leasing/", 60).await?,
    );
    one.put(Put::new("example-color", "red")).await?;
    one.get("example-color").await?;
    println!("from memory: {:?}", one.get("example-color").await?.kvs[0].value);
    // Makes the first one forget before it writes.
    other.put(Put::new("example-color", "blue")).await?;
    println!("after another has written: {:?}", one.get("example-color").await?.kvs[0].value);
    one.close().await?;
    other.close().await?;
    Ok(())
}
