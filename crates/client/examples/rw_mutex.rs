//! Two readers share a lock, and a writer waits for both. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use retcd_client::Client;
use retcd_client::concurrency::{RwMutex, Session};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder([endpoint]).build()?;

    let (one, other) = (Session::start(&client).await?, Session::start(&client).await?);
    let config = RwMutex::new(&one, "example-rw-mutex");
    let readers = (config.read().await?, RwMutex::new(&other, "example-rw-mutex").read().await?);
    println!("two read at once");
    let (writing, _) = tokio::join!(config.write(), async {
        println!("the writer waits");
        readers.0.unlock().await?;
        readers.1.unlock().await
    });
    let writing = writing?;
    println!("then it writes, with token {}", writing.fencing_token());
    writing.unlock().await?;
    one.close().await?;
    other.close().await?;
    Ok(())
}
