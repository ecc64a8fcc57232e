//! `/debug/vars`: what Go's `expvar` shows of etcd, as far as there is such a thing here.

use serde_json::{Value, json};

/// Raft, as this member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RaftVars {
    pub(crate) id: u64,
    pub(crate) term: u64,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
    pub(crate) leader: Option<u64>,
    pub(crate) is_learner: bool,
}

impl RaftVars {
    fn state(&self) -> &'static str {
        match self.leader {
            Some(leader) if leader == self.id => "StateLeader",
            Some(_) => "StateFollower",
            None if self.is_learner => "StateFollower",
            None => "StateCandidate",
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "id": format!("{:x}", self.id),
            "term": self.term,
            "commit": self.commit,
            "applied": self.applied,
            "lead": format!("{:x}", self.leader.unwrap_or_default()),
            "raftState": self.state(),
        })
    }
}

/// The whole object. `memstats` has the two rows of Go's that mean something without its runtime.
pub(super) fn vars(raft: &RaftVars) -> String {
    let (resident, reserved, fd_limit) = crate::metrics::memory_and_files();
    let arguments: Vec<_> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let vars = json!({
        "cmdline": arguments,
        "file_descriptor_limit": fd_limit,
        "memstats": {"HeapInuse": resident, "Sys": reserved},
        "raft.status": raft.to_json(),
    });
    format!("{vars:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vars_have_etcd_s_keys() {
        let raft = RaftVars {
            id: 0xab,
            term: 2,
            commit: 7,
            applied: 6,
            leader: Some(0xab),
            is_learner: false,
        };
        let vars: Value = serde_json::from_str(&vars(&raft)).unwrap();
        let keys: Vec<_> = vars.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["cmdline", "file_descriptor_limit", "memstats", "raft.status"]);
        assert_eq!(vars["raft.status"]["id"], "ab");
        assert_eq!(vars["raft.status"]["raftState"], "StateLeader");
        assert!(vars["memstats"]["HeapInuse"].as_u64().unwrap() > 100_000);
        assert!(vars["file_descriptor_limit"].as_u64().unwrap() > 2);
        let follower = RaftVars { leader: Some(1), ..raft };
        assert_eq!(follower.state(), "StateFollower");
    }
}
