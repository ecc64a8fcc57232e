//! Where a member listens: etcd's URLs and the sockets behind them.
//!
//! [`url`] knows which texts are addresses; [`listener`] turns one into an open socket. Neither knows what
//! is spoken over the connection.

pub mod listener;
pub mod url;

pub use listener::{Bound, Listener, Socket, Stream};
pub use url::{Url, UrlList};
