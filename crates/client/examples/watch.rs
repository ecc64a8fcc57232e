//! Watches a key while it changes. `ETCD_ENDPOINT` says where, 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use retcd_api::etcdserverpb::{PutRequest, WatchCreateRequest};
use retcd_client::{Client, Config, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(&Config { endpoints: vec![endpoint], ..Config::default() })?;

    let put = |value: &'static str| PutRequest {
        key: "example-watch".into(),
        value: value.into(),
        ..Default::default()
    };
    let start = client.put(put("one")).await?.header.map_or(0, |header| header.revision);
    client.put(put("two")).await?;
    // From a known revision on, nothing is missed, even what happened before the watch began.
    let request = WatchCreateRequest {
        key: "example-watch".into(),
        start_revision: start,
        ..Default::default()
    };
    let mut subscription = client.watch(request).await;
    let mut seen = 0;
    while seen < 2 {
        for kv in subscription.next().await?.events.into_iter().filter_map(|event| event.kv) {
            println!("{:?} at revision {}", kv.value, kv.mod_revision);
            seen += 1;
        }
    }
    Ok(())
}
