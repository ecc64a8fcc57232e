//! The watch hub against a small store: scripts that say what clients receive, and random histories.

mod client;
mod model;
mod scripts;
mod store;
