//! How the members of a new cluster find each other when `--initial-cluster` does not list them.
//!
//! - [`registry`]: another etcd cluster keeps a list under a token. Every new member adds itself and waits until the list
//!   is complete;
//! - [`dns`]: the SRV records of a domain are the list.
//!
//! Either way ends in the text that `--initial-cluster` would have had. Nothing of this is used once there is a log.

pub(crate) mod dns;
pub(crate) mod registry;

/// Why the members of a new cluster were not found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to join discovery cluster ({0})")]
    Registry(#[from] registry::Error),
    #[error(transparent)]
    Dns(#[from] dns::Error),
    /// A list says who begins a cluster, not who is in it by now.
    #[error("discovery URL should not be set when joining existing initial cluster")]
    ExistingCluster,
}
