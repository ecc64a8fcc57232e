//! Real processes for tests: members that serve, and tools that talk to them.
//!
//! Everything started here ends with its handle, so a failed test leaves nothing behind. Nothing sleeps for a fixed
//! time: waiting means waiting for a line of output or for an exit, with a deadline, and a deadline that passes
//! panics with all the output so far.
//!
//! Which programs take part is decided by the environment:
//!
//! | variable | meaning |
//! |---|---|
//! | `ETCD_SERVER` | the server to test against, instead of this workspace's `etcd` |
//! | `ETCD_REAL` | directory with a release of etcd to compare with; without it comparisons are skipped |
//! | `ETCDCTL_34` | an `etcdctl` of etcd 3.4, instead of the distribution's `/usr/bin/etcdctl` |

mod binaries;
mod member;
mod process;
mod tool;

pub use binaries::{binary, etcdctl_34, real_etcd, server_binary};
pub use member::{Member, free_port};
pub use process::Process;
pub use tool::{Outcome, Tool};

use std::time::Duration;

/// How long tests wait for something that should happen soon. Long, because machines for tests are busy.
pub const SOON: Duration = Duration::from_secs(30);
