//! HTTP/1.1 (RFC 9112) as a server speaks it, in little memory.
//!
//! A watch over the JSON gateway has a connection of its own and mostly waits, so what a waiting connection holds is what
//! ten thousand of them cost. Here that is its state and nothing else: bytes are read into the stack of the thread that
//! reads and kept only until they are used, and an answer's buffer is gone with the write that emptied it.
//!
//! One task serves one connection, one request after the other:
//!
//! ```text
//!   next_head ──► service(request) ──► head and body of the answer ──► what is left of the request ──► next_head
//!                     │  ▲                   │  ▲
//!                     ▼  │ polls             ▼  │ polls
//!                    RequestBody ────────► Wire ◄──── has the client gone?
//! ```
//!
//! - The socket and what was read of it are the [`Wire`](wire::Wire). The call reads its body from there when it wants
//!   more, also while its answer is being written; nobody reads ahead, so back-pressure reaches the client.
//! - While a call has its whole body, the wire is read to see whether the client has gone, which drops the call. A client
//!   that ends its direction counts as gone, as with etcd. The next request on the same connection (pipelining) waits in
//!   the wire; behind it nobody looks.
//! - The answer's body is polled for more when what it gave is written.
//!
//! `head` has the first lines and the header fields, `body` the bodies of requests, `connection` the task.

mod body;
mod connection;
mod head;
mod wire;

pub(crate) use connection::serve;

#[cfg(test)]
mod tests;
