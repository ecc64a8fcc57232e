//! What the member does on its own: one task each, on the background runtime.

mod compactor;
mod leases;
mod versions;

pub(crate) use compactor::{Compactor, Retention};
pub(crate) use leases::expire_leases;
pub(crate) use versions::{Minor, monitor_downgrade, monitor_versions, set_own_version};
