//! Two processes (tasks, here) begin together and end together. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use retcd_client::Client;
use retcd_client::concurrency::{DoubleBarrier, Error as RecipeError, Session};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder([endpoint]).build()?;

    let work = async |name: &str| {
        let session = Session::start(&client).await?;
        let entered = DoubleBarrier::new(&session, "example-barrier", 2).enter().await?;
        println!("{name} works");
        entered.leave().await?;
        session.close().await?;
        Ok::<(), RecipeError>(())
    };
    let (one, other) = tokio::join!(work("one"), work("the other"));
    one?;
    other?;
    println!("both are done");
    Ok(())
}
