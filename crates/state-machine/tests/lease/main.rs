//! The lessor: scripts in etcdctl's words, and random calls against a naive model.

#[cfg(test)]
mod model;
#[cfg(test)]
mod scripts;
