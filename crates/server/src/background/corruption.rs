//! Whether all members hold the same data: their hashes, compared.
//!
//! Three checks, each off unless asked for:
//! - before it serves, a member that was one before compares its data with every other member's, and does not start when
//!   they differ;
//! - the leader compares the hashes at its current revision now and then, which costs every member a walk over its data;
//! - the leader compares the hashes that each member has kept of its last compactions, which costs nearly nothing.
//!
//! A member whose data differ gets the alarm CORRUPT; what the alarm forbids is told at the state machine. Members that do
//! not answer are passed over: silence is no proof.

use std::collections::BTreeMap;
use std::time::Duration;

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_net::Url;
use retcd_state_machine::Reader;
use retcd_state_machine::mvcc::HashKv;

use crate::logging;
use crate::node::{NodeHandle, Request};
use crate::peer::Dialer;
use crate::peer::client::{self, Client};
use crate::peer::requests::HashAnswer;

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{member:x} failed to fetch hash ({reason})")]
    OwnHash { member: u64, reason: RpcError },
    #[error("{member:x} found data inconsistency with peers")]
    Inconsistent { member: u64 },
}

/// Another member's hash, or why there is none.
#[derive(Debug)]
struct PeerHash {
    id: u64,
    urls: Vec<String>,
    answer: Result<HashAnswer, client::Error>,
}

/// Compares the data of a member that has not served yet with all other members'. It may take `limit` for each of their
/// URLs.
pub(crate) async fn check_before_start(
    node: &NodeHandle,
    reader: &Reader,
    limit: Duration,
) -> Result<(), Error> {
    let member = node.member_id();
    let local_member_id = format!("{member:x}");
    let timeout = logging::took(limit);
    tracing::info!(local_member_id, %timeout, "starting initial corruption check");
    let own = node.hash_kv(0).await.map_err(|reason| Error::OwnHash { member, reason })?;
    let peers = ask_peers(node, reader, own.hash_revision, limit).await;
    let differing = peers.iter().filter(|peer| differs_at_start(member, &own, peer)).count();
    if differing > 0 {
        return Err(Error::Inconsistent { member });
    }
    tracing::info!(local_member_id, "initial corruption checking passed; no corruption");
    Ok(())
}

/// Whether a member has other data, by its answer. Whatever keeps them from being compared is only logged.
fn differs_at_start(member: u64, own: &HashKv, peer: &PeerHash) -> bool {
    let is_comparable = |answer: &HashAnswer| answer.compact_revision == own.compact_revision;
    let (message, answer) = match &peer.answer {
        Ok(answer) if answer.hash == own.hash => return false,
        Ok(answer) if is_comparable(answer) => {
            ("found different hash values from remote peer", Some(answer))
        }
        Ok(answer) => ("found different compact revision values from remote peer", Some(answer)),
        Err(client::Error::Rpc(RpcError::FutureRev)) => {
            ("cannot fetch hash from slow remote peer", None)
        }
        Err(client::Error::Rpc(RpcError::Compacted)) => {
            ("cannot fetch hash from remote peer; local member is behind", None)
        }
        Err(client::Error::Rpc(RpcError::ClusterIdMismatch)) => ("cluster ID mismatch", None),
        Err(_) => return false,
    };
    tracing::warn!(
        local_member_id = %format!("{member:x}"),
        local_member_revision = own.hash_revision,
        local_member_compact_revision = own.compact_revision,
        local_member_hash = own.hash,
        remote_peer_id = %format!("{:x}", peer.id),
        remote_peer_endpoints = %logging::strings(&peer.urls),
        remote_peer_revision = answer.map(|answer| answer.header.revision),
        remote_peer_compact_revision = answer.map(|answer| answer.compact_revision),
        remote_peer_hash = answer.map(|answer| answer.hash),
        "{message}"
    );
    answer.is_some_and(is_comparable)
}

/// Compares all data every `period`, while this member leads. Runs until it is dropped.
pub(crate) async fn check_data(
    node: NodeHandle,
    reader: Reader,
    period: Duration,
    limit: Duration,
) {
    tracing::info!(
        local_member_id = %format!("{:x}", node.member_id()),
        interval = %logging::took(period),
        "enabled corruption checking"
    );
    loop {
        tokio::time::sleep(period).await;
        if !node.is_leader() {
            continue;
        }
        if let Err(error) = compare_data(&node, &reader, limit).await {
            tracing::warn!(%error, "failed to check hash KV");
        }
    }
}

async fn compare_data(node: &NodeHandle, reader: &Reader, limit: Duration) -> Result<(), RpcError> {
    let before = node.hash_kv(0).await?;
    let peers = ask_peers(node, reader, before.hash_revision, limit).await;
    // Whatever a follower knows by now, the leader knows after this.
    node.read_barrier().await?;
    let after = node.hash_kv(0).await?;
    let answers: Vec<_> =
        peers.iter().filter_map(|peer| Some((peer.id, *peer.answer.as_ref().ok()?))).collect();
    if let Some(id) = suspect(node.member_id(), &before, &after, &answers) {
        raise_alarm(node, id);
    }
    tracing::info!(number_of_peers_checked = answers.len(), "finished peer corruption check");
    Ok(())
}

/// The first member whose data cannot be right, by the leader's hashes before and after the others gave theirs.
fn suspect(
    leader: u64,
    before: &HashKv,
    after: &HashKv,
    peers: &[(u64, HashAnswer)],
) -> Option<u64> {
    let at = |hash: &HashKv| (hash.hash_revision, hash.compact_revision);
    if at(before) == at(after) && before.hash != after.hash {
        tracing::warn!(
            revision_1 = before.hash_revision,
            compact_revision_1 = before.compact_revision,
            hash_1 = before.hash,
            revision_2 = after.hash_revision,
            compact_revision_2 = after.compact_revision,
            hash_2 = after.hash,
            "found hash mismatch"
        );
        return Some(leader);
    }
    peers.iter().find_map(|(id, peer)| {
        let follower_peer_id = format!("{id:x}");
        if peer.header.revision > after.current_revision {
            tracing::warn!(
                leader_revision = after.current_revision,
                follower_revision = peer.header.revision,
                follower_peer_id,
                "revision from follower must be less than or equal to leader's"
            );
        } else if peer.compact_revision > after.compact_revision {
            tracing::warn!(
                leader_compact_revision = after.compact_revision,
                follower_compact_revision = peer.compact_revision,
                follower_peer_id,
                "compact revision from follower must be less than or equal to leader's"
            );
        } else if peer.compact_revision == before.compact_revision && peer.hash != before.hash {
            tracing::warn!(
                leader_compact_revision = after.compact_revision,
                leader_hash = before.hash,
                follower_compact_revision = peer.compact_revision,
                follower_hash = peer.hash,
                follower_peer_id,
                "same compact revision then hashes must match"
            );
        } else {
            return None;
        }
        Some(*id)
    })
}

/// Compares the hashes of compactions every `period`, while this member leads. Runs until it is dropped.
pub(crate) async fn check_compactions(
    node: NodeHandle,
    reader: Reader,
    period: Duration,
    limit: Duration,
) {
    // Revisions up to this one were found the same everywhere.
    let mut checked = 0;
    loop {
        tokio::time::sleep(period).await;
        if node.is_leader() {
            compare_compactions(&node, &reader, limit, &mut checked).await;
        }
    }
}

/// Goes back from the newest compaction to the first that could be compared on all members.
async fn compare_compactions(
    node: &NodeHandle,
    reader: &Reader,
    limit: Duration,
    checked: &mut i64,
) {
    let local_member_id = format!("{:x}", node.member_id());
    let timeout = logging::took(limit);
    tracing::info!(local_member_id, %timeout, "starting compact hash check");
    let hashes = reader.compaction_hashes();
    let mut number_of_hashes_checked = 0;
    for hash in hashes.iter().take_while(|hash| hash.hash_revision > *checked) {
        let peers = ask_peers(node, reader, hash.hash_revision, limit).await;
        number_of_hashes_checked += 1;
        let verdict = judge(node.member_id(), hash, &peers);
        match &verdict {
            // A cluster of one has nobody to compare with.
            Verdict::Unknown => continue,
            Verdict::Equal => *checked = (*checked).max(hash.hash_revision),
            Verdict::Corrupt(members) => members.iter().for_each(|id| raise_alarm(node, *id)),
        }
        break;
    }
    tracing::info!(number_of_hashes_checked, "finished compaction hash check");
}

/// What the hashes of one compaction say.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Equal,
    /// Some member could not be compared, and the others are equal.
    Unknown,
    /// These members differ from the majority; 0 when there is no majority.
    Corrupt(Vec<u64>),
}

fn judge(leader: u64, own: &HashKv, peers: &[PeerHash]) -> Verdict {
    let leader_id = format!("{leader:x}");
    let mut holders = BTreeMap::from([(own.hash, vec![leader])]);
    let mut number_of_peers_checked = 0;
    for peer in peers {
        let reason = match &peer.answer {
            Ok(answer) if answer.compact_revision == own.compact_revision => {
                holders.entry(answer.hash).or_default().push(peer.id);
                number_of_peers_checked += 1;
                continue;
            }
            Ok(answer) => format!(
                "the peer's CompactRevision {} doesn't match leader's CompactRevision {}",
                answer.compact_revision, own.compact_revision
            ),
            Err(_) => "no response".to_owned(),
        };
        tracing::warn!(
            number_of_peers = peers.len(),
            leader_id,
            peer_id = %format!("{:x}", peer.id),
            reason,
            "Skipped peer's hash"
        );
    }
    let (revision, compact_revision) = (own.hash_revision, own.compact_revision);
    if holders.len() == 1 {
        if peers.is_empty() {
            return Verdict::Unknown;
        }
        if number_of_peers_checked == peers.len() {
            tracing::info!(
                number_of_peers_checked,
                revision,
                compactRevision = compact_revision,
                "successfully checked hash on whole cluster"
            );
            return Verdict::Equal;
        }
        tracing::warn!(
            number_of_peers_checked,
            number_of_peers = peers.len(),
            revision,
            compactRevision = compact_revision,
            "skipped revision in compaction hash check; was not able to check all peers"
        );
        return Verdict::Unknown;
    }
    let quorum = peers.len().div_ceil(2) + 1;
    let majority = holders.iter().find(|(_, members)| members.len() >= quorum);
    let majority = majority.map(|(hash, _)| *hash);
    if let Some(hash) = majority {
        holders.remove(&hash);
    } else {
        tracing::error!(
            leader_id,
            leader_revision = revision,
            leader_compact_revision = compact_revision,
            leader_hash = own.hash,
            "Detected compaction hash mismatch but cannot identify the corrupted members, so intentionally set the memberID as 0"
        );
    }
    for (peer_hash, members) in &holders {
        let ids: Vec<String> = members.iter().map(|id| format!("{id:x}")).collect();
        tracing::error!(
            leader_id,
            leader_revision = revision,
            leader_compact_revision = compact_revision,
            leader_hash = own.hash,
            peer_hash,
            peer_ids = ids.join(","),
            quorum_exist = majority.is_some(),
            "Detected compaction hash mismatch"
        );
    }
    Verdict::Corrupt(match majority {
        Some(_) => holders.into_values().flatten().collect(),
        None => vec![0],
    })
}

fn raise_alarm(node: &NodeHandle, member_id: u64) {
    let request = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate as i32,
        member_id,
        alarm: pb::AlarmType::Corrupt as i32,
    };
    if let Err(error) = node.propose_unattended(Request::Alarm, &request, None) {
        tracing::warn!(
            %error,
            corrupt_member_id = %format!("{member_id:x}"),
            "could not raise the alarm CORRUPT; the next check tries again"
        );
    }
}

/// Asks all other members for their hash at a revision, at once. In order of their ids.
async fn ask_peers(
    node: &NodeHandle,
    reader: &Reader,
    revision: i64,
    limit: Duration,
) -> Vec<PeerHash> {
    let mut asked = tokio::task::JoinSet::new();
    for member in reader.members() {
        if member.id == node.member_id() || member.peer_urls.is_empty() {
            continue;
        }
        let (dialer, cluster_id) = (node.network().dialer().clone(), node.cluster_id());
        asked.spawn(async move {
            let answer = ask(&dialer, cluster_id, &member.peer_urls, revision, limit).await;
            if let Err(error) = &answer {
                tracing::warn!(
                    requested_revision = revision,
                    remote_peer_id = %format!("{:x}", member.id),
                    %error,
                    "failed hash kv request"
                );
            }
            PeerHash { id: member.id, urls: member.peer_urls, answer }
        });
    }
    let mut hashes = asked.join_all().await;
    hashes.sort_unstable_by_key(|peer| peer.id);
    hashes
}

/// Asks one member at one of its URLs after the other.
async fn ask(
    dialer: &Dialer,
    cluster_id: u64,
    urls: &[String],
    revision: i64,
    limit: Duration,
) -> Result<HashAnswer, client::Error> {
    let mut answer = Err(client::Error::Rpc(RpcError::MemberBadUrls));
    for url in urls.iter().filter_map(|url| Url::parse(url).ok()) {
        answer = Client { dialer, url: &url, limit }.hash_kv(cluster_id, revision).await;
        if answer.is_ok() {
            break;
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::requests::HashHeader;

    const LEADER: u64 = 1;

    /// The leader's, with 9 as current revision.
    fn own(hash: u32, hash_revision: i64, compact_revision: i64) -> HashKv {
        HashKv { hash, compact_revision, hash_revision, current_revision: 9 }
    }

    fn answer(hash: u32, revision: i64, compact_revision: i64) -> HashAnswer {
        HashAnswer {
            header: HashHeader { revision },
            hash,
            compact_revision,
            hash_revision: revision.min(9),
        }
    }

    fn peer(id: u64, answer: Option<HashAnswer>) -> PeerHash {
        let answer = answer.ok_or(client::Error::Rpc(RpcError::FutureRev));
        PeerHash { id, urls: Vec::new(), answer }
    }

    #[test]
    fn a_start_fails_only_for_other_data_with_the_same_compaction() {
        let own = own(7, 9, 4);
        let differs = |answer| differs_at_start(LEADER, &own, &peer(2, answer));
        assert!(differs(Some(answer(8, 9, 4))));
        assert!(!differs(Some(answer(7, 9, 4))));
        assert!(!differs(Some(answer(8, 9, 5))), "it has compacted more");
        assert!(!differs(None), "it lags behind");
    }

    #[test]
    fn the_leader_suspects_whoever_cannot_be_right() {
        let (before, after) = (own(7, 9, 4), own(7, 9, 4));
        let suspected = |peers: &[(u64, HashAnswer)]| suspect(LEADER, &before, &after, peers);
        assert_eq!(suspected(&[(2, answer(7, 9, 4)), (3, answer(7, 8, 4))]), None);
        assert_eq!(suspected(&[(2, answer(7, 9, 4)), (3, answer(8, 9, 4))]), Some(3));
        assert_eq!(suspected(&[(2, answer(7, 10, 4))]), Some(2), "ahead of the leader");
        assert_eq!(suspected(&[(2, answer(8, 9, 5))]), Some(2), "compacted before the leader");
        assert_eq!(suspected(&[(2, answer(8, 9, 3))]), None, "not comparable");
        assert_eq!(suspect(LEADER, &own(7, 9, 4), &own(8, 9, 4), &[]), Some(LEADER));
        assert_eq!(suspect(LEADER, &own(7, 9, 4), &own(8, 9, 5), &[]), None, "it has compacted");
    }

    #[test]
    fn the_minority_of_a_compactions_hashes_is_corrupt() {
        let judged = |peers: &[(u64, Option<HashAnswer>)]| {
            let peers: Vec<_> = peers.iter().map(|(id, answer)| peer(*id, *answer)).collect();
            judge(LEADER, &own(7, 8, 8), &peers)
        };
        let same = Some(answer(7, 9, 8));
        let other = Some(answer(6, 9, 8));
        let third = Some(answer(5, 9, 8));
        let elsewhere = Some(answer(6, 9, 4));
        assert_eq!(judged(&[]), Verdict::Unknown);
        assert_eq!(judged(&[(2, same), (3, same)]), Verdict::Equal);
        assert_eq!(judged(&[(2, same), (3, None)]), Verdict::Unknown);
        assert_eq!(judged(&[(2, same), (3, elsewhere)]), Verdict::Unknown);
        assert_eq!(judged(&[(2, same), (3, other)]), Verdict::Corrupt(vec![3]));
        assert_eq!(judged(&[(2, other), (3, other)]), Verdict::Corrupt(vec![LEADER]));
        assert_eq!(judged(&[(2, other)]), Verdict::Corrupt(vec![0]), "one against one");
        assert_eq!(judged(&[(2, other), (3, third)]), Verdict::Corrupt(vec![0]));
        assert_eq!(judged(&[(2, other), (3, None)]), Verdict::Corrupt(vec![0]));
        let five = [(2, same), (3, same), (4, other), (5, third)];
        assert_eq!(judged(&five), Verdict::Corrupt(vec![5, 4]), "by their hashes");
    }
}
