//! Finding services by name, as etcd's Go packages `naming/endpoints` and `naming/resolver` do.
//!
//! An instance of service `my-service` is a key below `my-service/` whose value is
//! `{"Op":0,"Addr":"10.0.0.7:80","Metadata":…}`; under the lease of the instance, so that it disappears with its
//! host. [`Endpoints`] writes, lists and watches such keys; [`resolve`] makes a channel that follows them, for any tonic
//! client stub, with gRPC's policies round-robin and pick-first.
//!
//! What is known stays known while the cluster is away: endpoints only go when their keys do.

mod endpoints;
mod pool;
mod resolver;

pub use endpoints::{Endpoint, EndpointWatch, Endpoints, Update};
pub use resolver::{BalancedChannel, Policy, Resolver, ServiceChannel, resolve, resolve_with};

/// Why naming could not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A call failed.
    #[error(transparent)]
    Client(#[from] crate::Error),
    /// The name of the service is empty.
    #[error("invalid target")]
    InvalidTarget,
    /// The key of an endpoint is not below the name of its service.
    #[error("endpoints: endpoint key should be prefixed with '{target}/' got: '{key}'")]
    ForeignKey {
        /// The name of the service.
        target: String,
        /// The key that is not below it.
        key: String,
    },
}
