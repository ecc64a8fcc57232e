//! Real processes for tests: members and clusters that serve, tools that talk to them, and what it takes to break them.
//!
//! ```text
//!   Process     a program whose output can be waited for
//!   Tool        etcdctl, run to its end              Member    a server alone
//!   Cluster     servers that form a cluster: stopped, killed, paused, restarted, added, replaced
//!   Links       the network between them: cut, silent, slow, lossy, in each direction
//!   Workload    clients that write down what they do ─► history ─► checkers: was all of it allowed?
//! ```
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

mod authority;
mod binaries;
mod cluster;
mod dns;
mod links;
mod member;
mod ports;
mod process;
mod tool;
mod workload;

pub use authority::Authority;
pub use binaries::{binary, etcdctl_34, real_etcd, server_binary};
pub use cluster::{Cluster, MemberPlan, PATIENCE, Plan};
pub use dns::name_server;
pub use links::{Fault, Links, SLOW};
pub use member::Member;
pub use ports::Port;
pub use process::Process;
pub use tool::{Outcome, Tool};
pub use workload::{Load, Report, Workload};

use std::time::Duration;

/// How long tests wait for something that should happen soon. Long, because machines for tests are busy.
pub const SOON: Duration = Duration::from_secs(30);
