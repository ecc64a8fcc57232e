//! Finding services by name, as etcd's Go packages `naming/endpoints` and `naming/resolver` do.
//!
//! An instance of service `my-service` is a key below `my-service/` whose value is
//! `{"Op":0,"Addr":"10.0.0.7:80","Metadata":…}`; under the lease of the instance, so that it disappears with its
//! host. [`Endpoints`] writes, lists and watches such keys; [`resolve`] feeds them to a tonic channel that spreads
//! its calls over them.
//!
//! What is known stays known while the cluster is away: endpoints only go when their keys do.

mod endpoints;
mod resolver;

pub use endpoints::{Endpoint, EndpointWatch, Endpoints, Update};
pub use resolver::{BalancedChannel, resolve, resolve_with};

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
    ForeignKey { target: String, key: String },
}
