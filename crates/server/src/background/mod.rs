//! What the member does on its own: one task each, on the background runtime.

mod compactor;
mod leases;

pub(crate) use compactor::{Compactor, Retention};
pub(crate) use leases::expire_leases;
