//! Members, learners and the cluster version.

/// A member as the log made it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    pub id: u64,
    /// Empty until the member has started and published itself.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// The state of a downgrade.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Downgrade {
    pub is_enabled: bool,
    /// Text such as `3.6.0`; empty when not enabled.
    pub target_version: String,
}

impl Member {
    /// The context of a conf change that adds this member (or, with `is_promotion`, makes a learner a voter).
    pub fn to_conf_change_context(&self, is_promotion: bool) -> Vec<u8> {
        let _ = is_promotion;
        unimplemented!()
    }
}
