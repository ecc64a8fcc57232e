//! Keeps a key for as long as this process lives. `ETCD_ENDPOINT` says where, 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use retcd_api::etcdserverpb::{PutRequest, RangeRequest};
use retcd_client::concurrency::Session;
use retcd_client::{Client, Config, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(&Config { endpoints: vec![endpoint], ..Config::default() })?;

    let session = Session::with_ttl(&client, 10).await?;
    let put = PutRequest {
        key: "example-session".into(),
        value: "here".into(),
        lease: session.lease(),
        ..Default::default()
    };
    client.put(put).await?;
    let read = || RangeRequest { key: "example-session".into(), ..Default::default() };
    println!("while the session lives: {} key", client.range(read()).await?.count);
    session.close().await?;
    println!("after it: {} keys", client.range(read()).await?.count);
    Ok(())
}
