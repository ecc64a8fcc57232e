//! Copies what is there, and follows what becomes of it. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use std::collections::BTreeMap;

use retcd_client::{Client, Mirror, Put};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder([endpoint]).build()?;

    client.put(Put::new("example-mirror/a", "1")).await?;
    let mirror = Mirror::new(&client, "example-mirror/").await?;
    let mut copy = BTreeMap::new();
    let mut base = mirror.base();
    while let Some(page) = base.next().await? {
        copy.extend(page.kvs.into_iter().map(|kv| (kv.key, kv.value)));
    }
    println!("at first: {copy:?}");
    client.put(Put::new("example-mirror/b", "2")).await?;
    let mut changes = mirror.changes().await;
    for kv in changes.next().await?.events.into_iter().filter_map(|event| event.kv) {
        copy.insert(kv.key, kv.value);
    }
    println!("then: {copy:?}");
    Ok(())
}
