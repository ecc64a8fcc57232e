//! What the member does on its own: one task each, on the background runtime.

mod compactor;
mod corruption;
mod leases;
mod versions;

pub(crate) use compactor::{Compactor, Retention};
pub(crate) use corruption::Error as Inconsistent;
pub(crate) use corruption::{check_before_start, check_compactions, check_data};
pub(crate) use leases::expire_leases;
pub(crate) use versions::{Minor, monitor_downgrade, monitor_versions, set_own_version};
