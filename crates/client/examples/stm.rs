//! Moves money between two accounts, whatever else happens to them. `ETCD_ENDPOINT` says where, 127.0.0.1:2379
//! otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use retcd_client::concurrency::{Isolation, Stm, transact};
use retcd_client::{Client, Config, Error};

async fn balance(stm: &mut Stm, account: &'static str) -> Result<i64, Error> {
    let text = stm.get(account).await?.unwrap_or_default();
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).unwrap_or(100))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(&Config { endpoints: vec![endpoint], ..Config::default() })?;

    let moved = transact(&client, Isolation::SerializableSnapshot, async |stm: &mut Stm| {
        let from = balance(stm, "example-stm/alice").await? - 10;
        let to = balance(stm, "example-stm/bob").await? + 10;
        stm.put("example-stm/alice", from.to_string());
        stm.put("example-stm/bob", to.to_string());
        Ok::<_, Error>((from, to))
    })
    .await?;
    println!("alice has {}, bob has {}", moved.value.0, moved.value.1);
    Ok(())
}
