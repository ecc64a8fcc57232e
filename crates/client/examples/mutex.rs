//! Two sessions take turns with a mutex. `ETCD_ENDPOINT` says where, 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use retcd_client::concurrency::{Error, Mutex, Session};
use retcd_client::{Client, Config};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(&Config { endpoints: vec![endpoint], ..Config::default() })?;

    let (one, other) = (Session::start(&client).await?, Session::start(&client).await?);
    let locked = Mutex::new(&one, "example-mutex").lock().await?;
    println!("one has it, with token {}", locked.fencing_token());
    let refusal = Mutex::new(&other, "example-mutex").try_lock().await.err();
    println!(
        "the other: {}",
        refusal.map_or_else(|| "has it".to_owned(), |error| error.to_string())
    );
    locked.unlock().await?;
    let locked = Mutex::new(&other, "example-mutex").lock().await?;
    println!("then the other has it, with token {}", locked.fencing_token());
    locked.unlock().await?;
    one.close().await?;
    other.close().await?;
    Ok(())
}
