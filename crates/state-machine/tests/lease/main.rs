//! The lessor: scripts in etcdctl's words, and random calls against a naive model.

mod model;
mod scripts;
