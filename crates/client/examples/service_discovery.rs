//! Registers a service under a lease, calls it through a balanced channel, and shows it leave.
//!
//! The service is etcd itself, as the one gRPC server that is certainly there. `ETCD_ENDPOINT` says where,
//! 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use retcd_api::etcdserverpb::StatusRequest;
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_client::concurrency::Session;
use retcd_client::naming::{Endpoint, Endpoints, resolve};
use retcd_client::{Client, Config};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(&Config { endpoints: vec![endpoint.clone()], ..Config::default() })?;

    let session = Session::with_ttl(&client, 10).await?;
    let key = format!("example-service/{endpoint}");
    let service = Endpoints::new(&client, "example-service")?;
    service.add(key, Endpoint::new(endpoint), session.lease()).await?;

    let resolved = resolve(&client, "etcd:///example-service").await?;
    let mut stub = MaintenanceClient::new(resolved.channel());
    let status = stub.status(StatusRequest {}).await?.into_inner();
    println!("version {} answers", status.version);

    let mut endpoints = resolved.endpoints();
    println!("endpoints: {:?}", endpoints.borrow_and_update().keys());
    session.close().await?;
    endpoints.changed().await?;
    println!("after the lease has ended: {:?}", endpoints.borrow().keys());
    Ok(())
}
