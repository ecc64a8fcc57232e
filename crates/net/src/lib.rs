//! Where members are: etcd's URLs, the sockets behind them, TLS over these, and how DNS leads to them.
//!
//! [`url`] knows which texts are addresses; [`listener`] turns one into an open socket, [`tls`] encrypts what passes there;
//! [`dns`] finds hosts and ports under a domain's name, [`initial_cluster`] reads who starts together. None knows what is spoken over the connection.

pub mod der;
pub mod dns;
pub mod initial_cluster;
pub mod listener;
pub mod tls;
pub mod url;

pub use initial_cluster::InitialCluster;
pub use listener::{Bound, Listener, Socket, Stream};
pub use url::{Url, UrlList};
