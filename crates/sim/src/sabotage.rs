//! Mistakes on purpose: what the checkers must find.

use retcd_api::raftpb::{Entry, EntryType};

/// A mistake that a server could make around the pure parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// What was only written counts as synced.
    AcknowledgeBeforeSync,
    /// Votes are not in the log.
    ForgetVotes,
    /// One member leaves out an entry now and then.
    SkipApply,
    /// Linearizable reads look at the state at once.
    ReadWithoutIndex,
    /// A leader renews leases without asking whether it still leads, or whether a revoke is in the log.
    RenewWithoutIndex,
    /// A watcher that reconnects begins one revision too late.
    ResumeTooLate,
    /// A watcher that reconnects begins one revision too early, and takes everything for new.
    ResumeTooEarly,
    /// The leader's clock is ahead when it looks for leases that are over.
    ExpireEarly,
}

impl Sabotage {
    pub const ALL: [Sabotage; 8] = [
        Sabotage::AcknowledgeBeforeSync,
        Sabotage::ForgetVotes,
        Sabotage::SkipApply,
        Sabotage::ReadWithoutIndex,
        Sabotage::RenewWithoutIndex,
        Sabotage::ResumeTooLate,
        Sabotage::ResumeTooEarly,
        Sabotage::ExpireEarly,
    ];
}

/// The entries as a member applies them.
pub(crate) fn entries(sabotage: Option<Sabotage>, member: u64, entries: &[Entry]) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    if sabotage == Some(Sabotage::SkipApply) && member == 2 {
        for entry in &mut entries {
            if entry.index.is_multiple_of(16) && entry.r#type() == EntryType::EntryNormal {
                entry.data.clear();
            }
        }
    }
    entries
}
