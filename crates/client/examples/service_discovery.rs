//! Starts two gRPC servers, registers them under leases, balances calls over them, kills one, and shows it leave.
//! `ETCD_ENDPOINT` says where the registry is, 127.0.0.1:2379 otherwise.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use retcd_api::health::health_client::HealthClient;
use retcd_api::health::{HealthCheckRequest, HealthCheckResponse};
use retcd_client::Client;
use retcd_client::concurrency::Session;
use retcd_client::naming::{Endpoint, Endpoints, ServiceChannel, resolve};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic_prost::ProstCodec;

/// Seconds after which the registry notices that a server is gone.
const TTL: i64 = 2;

/// A server that is registered for as long as it lives.
struct Server {
    serving: JoinHandle<()>,
    session: Session,
}

/// The standard health service. It also says who has answered.
#[derive(Clone, Copy)]
struct Health {
    name: &'static str,
}

impl UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = Ready<Result<tonic::Response<HealthCheckResponse>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let mut response = tonic::Response::new(HealthCheckResponse { status: 1 });
        let name = tonic::metadata::MetadataValue::from_static(self.name);
        response.metadata_mut().insert("served-by", name);
        ready(Ok(response))
    }
}

async fn serve(listener: TcpListener, health: Health) {
    // Connections end with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream, health));
    }
}

async fn converse(stream: TcpStream, health: Health) {
    let service = service_fn(move |request: Request<Incoming>| async move {
        let mut grpc = Grpc::new(ProstCodec::default());
        let response: Response<Body> = grpc.unary(health, request.map(Body::new)).await;
        Ok::<_, Infallible>(response)
    });
    let connection = http2::Builder::new(TokioExecutor::new());
    // A client that goes away is no news.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}

impl Server {
    async fn start(registry: &Client, name: &'static str) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let session = Session::with_ttl(registry, TTL).await?;
        let service = Endpoints::new(registry, "example-service")?;
        let key = format!("example-service/{address}");
        service.add(key, Endpoint::new(address), session.lease()).await?;
        Ok(Server { serving: tokio::spawn(serve(listener, Health { name })), session })
    }

    /// Dies as a crash would have it: without a word to the registry.
    async fn kill(self) {
        self.serving.abort();
        self.session.orphan().await;
    }
}

/// Who answers a number of calls.
async fn answering(service: ServiceChannel) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let mut stub = HealthClient::new(service);
    let mut names = BTreeSet::new();
    for _ in 0..10 {
        let response = stub.check(HealthCheckRequest::default()).await?;
        let name = response.metadata().get("served-by").ok_or("the server tells its name")?;
        names.insert(name.to_str()?.to_owned());
    }
    Ok(names)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("ETCD_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let registry = Client::builder([endpoint]).build()?;

    let one = Server::start(&registry, "one").await?;
    let other = Server::start(&registry, "other").await?;
    let service = resolve(&registry, "etcd:///example-service").await?;
    let mut endpoints = service.endpoints();
    endpoints.wait_for(|endpoints| endpoints.len() == 2).await?;
    // Calls only go to connections that stand, and the second one may still be on its way.
    while answering(service.channel()).await?.len() < 2 {}
    println!("answered by {:?}", answering(service.channel()).await?);

    one.kill().await;
    endpoints.wait_for(|endpoints| endpoints.len() == 1).await?;
    println!("after one was killed: {:?}", answering(service.channel()).await?);
    other.session.close().await?;
    endpoints.wait_for(BTreeMap::is_empty).await?;
    println!("after the other has gone: nobody");
    Ok(())
}
