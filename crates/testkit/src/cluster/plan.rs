//! What a cluster is to be made of.

use std::path::{Path, PathBuf};

use crate::server_binary;

/// How to make a cluster.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) members: Vec<MemberPlan>,
    pub(super) has_links: bool,
}

/// How to start one member.
#[derive(Debug, Clone)]
pub struct MemberPlan {
    pub binary: PathBuf,
    /// Flags beyond those that every member of a cluster needs.
    pub args: Vec<String>,
    /// Its peer URL is https.
    pub(super) has_peer_tls: bool,
}

impl MemberPlan {
    /// The server under test, without further flags.
    pub fn new() -> Self {
        Self::of(&server_binary())
    }

    /// Any server with etcd's flags.
    pub fn of(binary: &Path) -> Self {
        MemberPlan { binary: binary.to_owned(), args: Vec::new(), has_peer_tls: false }
    }

    /// The same with an https URL for other members, and flags that say how.
    #[must_use]
    pub fn with_peer_tls(self, args: &[&str]) -> Self {
        MemberPlan { has_peer_tls: true, ..self.with_args(args) }
    }

    #[must_use]
    pub fn with_args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(ToString::to_string));
        self
    }
}

impl Default for MemberPlan {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan {
    /// So many members, each the server under test.
    pub fn new(size: usize) -> Self {
        Self::of(vec![MemberPlan::new(); size])
    }

    /// Members that need not be alike.
    pub fn of(members: Vec<MemberPlan>) -> Self {
        Plan { members, has_links: false }
    }

    /// Further flags for every member.
    #[must_use]
    pub fn with_args(mut self, args: &[&str]) -> Self {
        self.members = self.members.into_iter().map(|member| member.with_args(args)).collect();
        self
    }

    /// Members talk to each other through [`crate::Links`].
    #[must_use]
    pub fn with_links(mut self) -> Self {
        self.has_links = true;
        self
    }
}
