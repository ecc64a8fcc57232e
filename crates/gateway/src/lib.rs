//! The JSON gateway: etcd's gRPC API for clients that have HTTP and JSON only.
//!
//! Every route is a POST whose body is the whole request message, the same path on each of etcd's prefixes
//! ([`routes`]). [`handle`] turns the body into the encoded message, calls the method through [`Services`], and turns
//! what it answers into JSON; there is no connection to the server's own port in between, and this crate does not know
//! the server.
//!
//! A unary call reads one JSON value and answers with one. A streaming call reads any number of values, one after
//! another, while it writes a line `{"result":…}` for each answer; the end of the request body is the end of the
//! requests, not of the call. Both directions are pulled: the answer's body is polled when the client has room, which
//! polls the call, which polls the requests ([`Requests`]). So a slow reader holds up nobody but itself, and when the
//! client goes, all of it is dropped with its connection.
//!
//! What does not exist is answered as etcd's gateway does, with a gRPC status as JSON. Over WebSocket ([`Upgrade`]) the
//! same calls have messages where the body has lines. [`openapi`] describes all of it for programs.

mod call;
mod frames;
mod openapi;
mod reply;
mod requests;
mod routes;
mod values;
mod websocket;

pub use call::{Answers, Limits, Services, handle, serves};
pub use openapi::document as openapi;
pub use reply::{Body, Lines};
pub use requests::Requests;
pub use routes::{Route, all as routes};
pub use websocket::{Upgrade, is_upgrade, refuse as refuse_upgrade};
