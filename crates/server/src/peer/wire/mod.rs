//! Bytes and headers between members: etcd's rafthttp. No IO here.

pub(crate) mod append;
pub(crate) mod frame;
pub(crate) mod headers;

#[cfg(test)]
mod properties;
