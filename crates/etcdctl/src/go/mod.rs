//! How Go writes and reads values, where etcdctl's users can see it.

pub(crate) mod duration;
pub(crate) mod json;
pub(crate) mod number;
pub(crate) mod quote;
