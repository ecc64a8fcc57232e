//! Reads from any member, but never something older than before. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use retcd_client::{Client, Get, Put};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder([endpoint]).build()?;

    let client = client.ordered();
    let written = client.put(Put::new("example-ordering", "new")).await?;
    let read = client.range(Get::key("example-ordering").serializable()).await?;
    let revision = |header: Option<retcd_api::etcdserverpb::ResponseHeader>| {
        header.map_or(0, |header| header.revision)
    };
    println!("not older: {}", revision(read.header) >= revision(written.header));
    Ok(())
}
