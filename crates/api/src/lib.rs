//! The words of etcd: wire types without behaviour, and the errors that clients know by their text.
//!
//! The types are generated from `proto/` at build time. Field and message names are etcd's, in Rust's case.

pub mod error;
#[cfg(feature = "json")]
pub mod json;

/// Includes one generated package. Its code is not ours to lint.
macro_rules! package {
    ($name:ident, $path:literal, $doc:literal) => {
        #[doc = $doc]
        #[allow(
            clippy::all,
            clippy::allow_attributes_without_reason,
            clippy::pedantic,
            missing_docs,
            rustdoc::all,
            unreachable_pub,
            unused_qualifications,
            elided_lifetimes_in_paths,
            reason = "generated code"
        )]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $path, ".rs"));
        }
    };
}

package!(etcdserverpb, "etcdserverpb", "The gRPC API, and what the Raft log holds.");
package!(mvccpb, "mvccpb", "Keys with their revisions, and events.");
package!(authpb, "authpb", "Users, roles and permissions.");
package!(membershippb, "membershippb", "Member attributes in the Raft log.");
package!(leasepb, "leasepb", "Leases as stored.");
package!(v3lockpb, "v3lockpb", "The lock service.");
package!(v3electionpb, "v3electionpb", "The election service.");
package!(raftpb, "raftpb", "Raft messages and entries.");
package!(walpb, "walpb", "Records of the write-ahead log.");
package!(snappb, "snappb", "The envelope of a `.snap` file.");
package!(health, "grpc.health.v1", "The standard gRPC health service.");

/// The release of etcd whose contract this project keeps.
pub const ETCD_VERSION: &str = "3.7.1";
/// The cluster and storage version that goes with [`ETCD_VERSION`].
pub const CLUSTER_VERSION: &str = "3.7.0";
/// The API version that goes with [`ETCD_VERSION`].
pub const API_VERSION: &str = "3.7";
/// The release of this project.
pub const RETCD_VERSION: &str = env!("CARGO_PKG_VERSION");
