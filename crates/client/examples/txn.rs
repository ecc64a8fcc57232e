//! Writes a key only if nobody else has. `ETCD_ENDPOINT` says where, 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use retcd_api::etcdserverpb::PutRequest;
use retcd_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use retcd_client::{Client, Config, Error, Txn, compare};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(&Config { endpoints: vec![endpoint], ..Config::default() })?;

    for name in ["first", "second"] {
        let absent = compare("example-txn", CompareResult::Equal, TargetUnion::Version(0));
        let put =
            PutRequest { key: "example-txn".into(), value: name.into(), ..Default::default() };
        let reply = client.txn(Txn::new().when(absent).put(put).into_request()).await?;
        println!("{name}: {}", if reply.succeeded { "written" } else { "too late" });
    }
    Ok(())
}
