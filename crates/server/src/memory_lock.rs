//! `--memory-mlock`: what this process has in memory stays there.
//!
//! Pages are locked as they are used, not when their addresses are taken. The map of the database is as long as the
//! database may ever become, so it must not be locked as a whole: of the file, those pages stay that were read. Stacks and
//! the allocator's reserves are likewise longer than what they hold.
//!
//! The kernel counts addresses against the limit all the same. A process with a finite one could start and then fail at
//! an allocation, so only those without a limit get this.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Why memory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "--memory-mlock: this process may lock {0} bytes of memory, which is not enough; allow it any amount \
         (ulimit -l unlimited, LimitMEMLOCK=infinity) or give it the capability CAP_IPC_LOCK"
    )]
    Limit(u64),
    #[error("--memory-mlock: the system refuses to lock memory: {0}")]
    Refused(#[source] io::Error),
}

/// Locks what the process has in memory and whatever it will have.
pub(crate) fn lock() -> Result<(), Error> {
    let is_privileged = capabilities(None)
        .is_ok_and(|capabilities| capabilities.effective.contains(CapabilitySet::IPC_LOCK));
    check(getrlimit(Resource::Memlock).current, is_privileged)?;
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|error| Error::Refused(error.into()))?;
    tracing::info!("memory is locked: pages that are in use stay in RAM");
    Ok(())
}

/// `limit`: none is no limit.
fn check(limit: Option<u64>, is_privileged: bool) -> Result<(), Error> {
    match limit {
        Some(bytes) if !is_privileged => Err(Error::Limit(bytes)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finite_limit_is_refused_to_the_unprivileged() {
        check(None, false).unwrap();
        check(Some(0), true).unwrap();
        let error = check(Some(8 << 20), false).unwrap_err().to_string();
        assert!(
            error.starts_with("--memory-mlock: this process may lock 8388608 bytes"),
            "{error}"
        );
    }
}
