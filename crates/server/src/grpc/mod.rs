//! gRPC on hyper, as much of it as an etcd server needs.
//!
//! A call is a path, metadata and messages; an answer is messages and a status. [`serve`](connection::serve) runs one
//! connection, finds the method by its path and hands the work to [`services`](crate::services). Unary calls are a plain
//! function from bytes to bytes; a streaming call is one object, [`MessageStream`], that the connection polls for output
//! whenever the peer has room for more, which is also where it reads its requests: no task, no channel, and the
//! back-pressure of HTTP/2 reaches every stream by itself.
//!
//! Beside gRPC the same port serves the JSON gateway and HTTP for operators (`/health`, `/metrics`, ...), over HTTP/2 from
//! here and over HTTP/1.1 from [`http1`](crate::http1).

mod body;
pub(crate) mod connection;
mod framing;
mod metadata;

pub(crate) use body::{Body, MessageStream};
pub(crate) use framing::{FRAME_PREFIX_BYTES, MessageReader, frame_prefix};
pub(crate) use metadata::{Credentials, Metadata};
