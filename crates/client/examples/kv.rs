//! Writes, reads and deletes keys. `ETCD_ENDPOINT` says where, 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use retcd_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use retcd_client::{Client, Config, Error, prefix_end};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(&Config { endpoints: vec![endpoint], ..Config::default() })?;

    for (key, value) in [("example/a", "1"), ("example/b", "2")] {
        let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        client.put(put).await?;
    }
    let range_end = prefix_end(b"example/");
    let all = RangeRequest {
        key: "example/".into(),
        range_end: range_end.clone().into(),
        ..Default::default()
    };
    for kv in client.range(all).await?.kvs {
        println!("{:?} = {:?} at revision {}", kv.key, kv.value, kv.mod_revision);
    }
    let all = DeleteRangeRequest {
        key: "example/".into(),
        range_end: range_end.into(),
        ..Default::default()
    };
    println!("deleted {}", client.delete_range(all).await?.deleted);
    Ok(())
}
