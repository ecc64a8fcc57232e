//! The cluster version: the least that all members can do.
//!
//! The leader asks every member which release it runs, and proposes the lowest minor release as the cluster version: at
//! first as soon as it leads, later only ever higher, or lower by one while a downgrade is enabled. That has finished when
//! every member runs the release that it leads to.

use std::time::{Duration, Instant};

use prost::Message;
use retcd_api::{CLUSTER_VERSION, ETCD_VERSION, membershippb};
use retcd_net::Url;
use retcd_state_machine::Reader;
use retcd_state_machine::cluster::Member;

use crate::node::{NodeHandle, Request};
use crate::peer::Dialer;
use crate::peer::client::Client;

/// How often the leader asks.
const INTERVAL: Duration = Duration::from_secs(4);
/// How often it does while the version could be higher, but some member has not told its own.
const RETRY: Duration = Duration::from_millis(500);
/// How often a member looks whether it leads.
const POLL: Duration = Duration::from_millis(100);
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// What a cluster is taken for while some member does not tell its version.
const MINIMUM: Minor = Minor { major: 3, minor: 0 };

/// A release without its patch number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Minor {
    major: u64,
    minor: u64,
}

impl Minor {
    /// From `3.7`, `3.7.1` or `3.7.1-rc.0`.
    pub(crate) fn parse(text: &str) -> Option<Minor> {
        let numbers = text.split_once('-').map_or(text, |(numbers, _)| numbers);
        let numbers: Option<Vec<u64>> =
            numbers.split('.').map(|number| number.parse().ok()).collect();
        match *numbers? {
            [major, minor] | [major, minor, _] => Some(Minor { major, minor }),
            _ => None,
        }
    }

    /// The only release that a cluster may be downgraded to.
    pub(crate) fn one_below(self) -> Minor {
        Minor { minor: self.minor.saturating_sub(1), ..self }
    }

    /// As a cluster version is written: `3.7.0`.
    pub(crate) fn text(self) -> String {
        format!("{}.{}.0", self.major, self.minor)
    }

    /// `3.7`.
    pub(crate) fn short_text(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }
}

/// Keeps the cluster version true. Runs until it is dropped.
pub(crate) async fn monitor_versions(node: NodeHandle, reader: Reader) {
    let mut due: Option<Instant> = None;
    let mut told = reader.cluster_version();
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = node.term_began() => due = None,
        }
        tell(&node, &mut told, reader.cluster_version());
        // A member alone says it with its first words.
        if !node.is_leader() || node.is_sole_voter() && reader.cluster_version().is_none() {
            due = None;
            continue;
        }
        if due.is_some_and(|due| Instant::now() < due) {
            continue;
        }
        let lowest = lowest_version(&node, &reader.members()).await;
        let present = reader.cluster_version().as_deref().and_then(Minor::parse);
        let may_rise = present < Minor::parse(CLUSTER_VERSION);
        let wait = if lowest.is_none() && may_rise { RETRY } else { INTERVAL };
        due = Some(Instant::now() + wait);
        let downgrade = reader.downgrade();
        let target = Minor::parse(&downgrade.target_version).filter(|_| downgrade.is_enabled);
        if let Some(version) = decide(present, lowest, target) {
            set_version(&node, version).await;
        }
    }
}

/// Ends a downgrade that has finished. Looks at every `period`; runs until it is dropped.
pub(crate) async fn monitor_downgrade(node: NodeHandle, reader: Reader, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        let downgrade = reader.downgrade();
        let target = Minor::parse(&downgrade.target_version).filter(|_| downgrade.is_enabled);
        let Some(target) = target.filter(|_| node.is_leader()) else { continue };
        let versions = versions(&node, &reader.members()).await;
        if has_finished(target, &versions) {
            let cluster_version = downgrade.target_version;
            tracing::info!(cluster_version, "the cluster has been downgraded");
            let done = membershippb::DowngradeInfoSetRequest { enabled: false, ver: String::new() };
            let _ = node.propose_as_leader(Request::DowngradeInfoSet, &done);
        }
    }
}

fn has_finished(target: Minor, versions: &[(u64, Option<Minor>)]) -> bool {
    let other = versions.iter().find(|(_, version)| *version != Some(target));
    if let Some((id, Some(version))) = other {
        tracing::warn!(
            remote_member_id = %format!("{id:x}"),
            current_server_version = version.text(),
            target_version = target.text(),
            "remotes server has mismatching etcd version"
        );
    }
    other.is_none()
}

/// Logs a cluster version that is new, whoever has set it.
fn tell(node: &NodeHandle, told: &mut Option<String>, version: Option<String>) {
    let Some(now) = version.as_deref().filter(|_| version != *told) else { return };
    let short = Minor::parse(now).map_or_else(|| now.to_owned(), Minor::short_text);
    let cluster_id = format!("{:x}", node.cluster_id());
    let local_member_id = format!("{:x}", node.member_id());
    if let Some(from) = told.as_deref().and_then(Minor::parse) {
        let from = from.short_text();
        tracing::info!(cluster_id, local_member_id, from, to = short, "updated cluster version");
    } else {
        tracing::info!(
            cluster_id,
            local_member_id,
            cluster_version = short,
            "set initial cluster version"
        );
    }
    tracing::info!(cluster_version = short, "cluster version is updated");
    *told = version;
}

/// The next cluster version, if it changes.
fn decide(present: Option<Minor>, lowest: Option<Minor>, target: Option<Minor>) -> Option<Minor> {
    match (present, lowest) {
        (None, lowest) => Some(lowest.unwrap_or(MINIMUM)),
        (Some(_), None) => None,
        (Some(present), Some(lowest)) if lowest > present => target.is_none().then_some(lowest),
        (Some(present), Some(lowest)) => {
            (lowest < present && target == Some(lowest)).then_some(lowest)
        }
    }
}

/// The version of a cluster whose only member is this one.
pub(crate) async fn set_own_version(node: &NodeHandle) {
    let version = Minor::parse(CLUSTER_VERSION).expect("a constant of this form");
    set_version(node, version).await;
}

async fn set_version(node: &NodeHandle, version: Minor) {
    let request = membershippb::ClusterVersionSetRequest { ver: version.text() };
    let outcome = match node.propose(Request::ClusterVersionSet, &request.encode_to_vec(), None) {
        Ok(pending) => pending.await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        tracing::warn!(%error, "could not set the cluster version, trying again");
    }
}

/// None while some member does not answer.
async fn lowest_version(node: &NodeHandle, members: &[Member]) -> Option<Minor> {
    let versions = versions(node, members).await;
    versions.into_iter().map(|(_, version)| version).min().flatten()
}

/// What each member runs, this one first; none of one that does not answer.
async fn versions(node: &NodeHandle, members: &[Member]) -> Vec<(u64, Option<Minor>)> {
    let mut asked = tokio::task::JoinSet::new();
    for member in members.iter().filter(|member| member.id != node.member_id()) {
        let urls: Vec<Url> =
            member.peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
        let id = member.id;
        let dialer = node.network().dialer().clone();
        asked.spawn(async move { (id, ask(&dialer, &urls).await) });
    }
    let mut versions = vec![(node.member_id(), Minor::parse(ETCD_VERSION))];
    versions.extend(asked.join_all().await);
    versions
}

async fn ask(dialer: &Dialer, urls: &[Url]) -> Option<Minor> {
    for url in urls {
        if let Ok(answer) = (Client { dialer, url, limit: ASK_LIMIT }).version().await {
            return Minor::parse(&answer.etcdserver);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_written() {
        let version = Minor::parse("3.6.4").unwrap();
        assert_eq!((version.text().as_str(), version.short_text().as_str()), ("3.6.0", "3.6"));
        assert_eq!(Minor::parse("3.10"), Some(Minor { major: 3, minor: 10 }));
        assert!(Minor::parse("3.10") > Minor::parse("3.9"));
        for wrong in ["3", "", "a.b", "3.6.x", "3.6.1.2"] {
            assert_eq!(Minor::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Minor::parse("3.7.1-rc.0"), Minor::parse("3.7"));
        assert_eq!(version.one_below(), Minor::parse("3.5").unwrap());
    }

    #[test]
    fn a_downgrade_has_finished_when_every_member_is_there() {
        let target = Minor::parse("3.6").unwrap();
        let finished = |versions: &[&str]| {
            let versions = versions.iter().map(|version| (7, Minor::parse(version)));
            has_finished(target, &versions.collect::<Vec<_>>())
        };
        assert!(finished(&["3.6.4", "3.6.9"]));
        assert!(!finished(&["3.6.4", "3.7.1"]));
        assert!(!finished(&["3.6.4", ""]));
    }

    #[test]
    fn the_version_rises_when_all_can_do_more_and_falls_only_in_a_downgrade() {
        assert_eq!(decide(None, Minor::parse("3.5"), None), Minor::parse("3.5"));
        assert_eq!(decide(None, None, None), Some(MINIMUM));
        assert_eq!(decide(Minor::parse("3.0"), Minor::parse("3.7"), None), Minor::parse("3.7"));
        assert_eq!(decide(Minor::parse("3.7"), Minor::parse("3.7"), None), None);
        assert_eq!(decide(Minor::parse("3.7"), None, None), None);
        assert_eq!(decide(Minor::parse("3.7"), Minor::parse("3.6"), None), None);
        assert_eq!(
            decide(Minor::parse("3.7"), Minor::parse("3.6"), Minor::parse("3.6")),
            Minor::parse("3.6")
        );
        assert_eq!(decide(Minor::parse("3.6"), Minor::parse("3.7"), Minor::parse("3.6")), None);
    }
}
