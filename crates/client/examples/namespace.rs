//! Lives in a part of the key space as if it were all of it. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use retcd_client::{Client, Get, Put};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder([endpoint]).build()?;

    let app = client.namespaced("example-namespace/");
    app.put(Put::new("color", "red")).await?;
    println!("within: {:?}", app.range(Get::all()).await?.kvs[0].key);
    println!("without: {:?}", client.range(Get::prefix("example-namespace/")).await?.kvs[0].key);
    Ok(())
}
