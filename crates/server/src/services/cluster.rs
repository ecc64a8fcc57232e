//! Cluster: who the members are, and changes of that.
//!
//! A change is checked twice. Before it is proposed, whether the cluster could bear it (`--strict-reconfig-check`): enough
//! members must have started, and enough must be connected. When it is applied, whether it makes sense: ids and URLs that
//! are taken, members that do not exist. The second check is the log's and the same on all members.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_api::raftpb::{ConfChange, ConfChangeType};
use retcd_net::Url;
use retcd_state_machine::cluster::{Member, member_id};

use super::{Answer, HeaderKind, Services, decode, guard};
use crate::grpc::Metadata;
use crate::peer::client;

/// A member counts as connected when it has been so for this long.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// A learner is in step when it has this part of the leader's log, in percent.
const IN_STEP_PERCENT: u64 = 90;
/// Between two tries of what the present leader cannot do or does not answer.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn member_list(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::MemberListRequest = decode(message)?;
    guard::somebody(services, metadata).await?;
    if request.linearizable {
        services.node.read_barrier().await?;
    }
    let members = to_api_list(services.reader.members());
    Ok(answer(&pb::MemberListResponse { header: None, members }))
}

pub(super) async fn member_add(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::MemberAddRequest = decode(message)?;
    guard::administrator(services, metadata).await?;
    let peer_urls = checked_urls(&request.peer_ur_ls)?;
    let is_learner = request.is_learner;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let id = member_id(&peer_urls, &now.to_string());
    let member = Member { id, peer_urls, is_learner, ..Member::default() };
    let kind = if is_learner {
        ConfChangeType::ConfChangeAddLearnerNode
    } else {
        ConfChangeType::ConfChangeAddNode
    };
    let check = || check_addition(services, is_learner);
    change(services, kind, id, member.to_addition_context(false), check).await?;
    let members = to_api_list(services.reader.members());
    Ok(answer(&pb::MemberAddResponse { header: None, member: Some(to_api(member)), members }))
}

pub(super) async fn member_remove(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::MemberRemoveRequest = decode(message)?;
    guard::administrator(services, metadata).await?;
    let check = || check_removal(services, request.id);
    change(services, ConfChangeType::ConfChangeRemoveNode, request.id, Vec::new(), check).await?;
    let members = to_api_list(services.reader.members());
    Ok(answer(&pb::MemberRemoveResponse { header: None, members }))
}

pub(super) async fn member_update(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::MemberUpdateRequest = decode(message)?;
    guard::administrator(services, metadata).await?;
    let (id, peer_urls) = (request.id, request.peer_ur_ls);
    let member = Member { id, peer_urls, ..Member::default() };
    let context = member.to_json();
    change(services, ConfChangeType::ConfChangeUpdateNode, id, context, || Ok(())).await?;
    let members = to_api_list(services.reader.members());
    Ok(answer(&pb::MemberUpdateResponse { header: None, members }))
}

pub(super) async fn member_promote(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::MemberPromoteRequest = decode(message)?;
    guard::administrator(services, metadata).await?;
    let members = if services.node.is_leader() {
        promote(services, request.id).await?
    } else {
        forward_promotion(services, metadata, request.id).await?
    };
    Ok(answer(&pb::MemberPromoteResponse { header: None, members: to_api_list(members) }))
}

/// Makes a learner a voter. Only the leader knows whether it is in step.
pub(super) async fn promote(services: &Services, id: u64) -> Result<Vec<Member>, RpcError> {
    check_in_step(services, id)?;
    let learner = Member { id, ..Member::default() };
    let context = learner.to_addition_context(true);
    let check = || check_promotion(services);
    change(services, ConfChangeType::ConfChangeAddNode, id, context, check).await?;
    Ok(services.reader.members())
}

/// The leader asks by itself who wants it.
async fn forward_promotion(
    services: &Services,
    metadata: &Metadata,
    id: u64,
) -> Result<Vec<Member>, RpcError> {
    let node = &services.node;
    let token = metadata.token();
    let give_up = node.now() + services.config.request_timeout();
    while node.now() < give_up {
        for url in node.leader_urls() {
            let limit = give_up.saturating_sub(node.now());
            let client = client::Client { dialer: node.network().dialer(), url: &url, limit };
            match client.promote(id, token.as_deref()).await {
                Ok(members) => return Ok(members),
                Err(client::Error::Rpc(error)) => return Err(error),
                Err(error) => tracing::debug!(%error, "could not forward a promotion"),
            }
        }
        if node.is_leader() {
            return promote(services, id).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(RpcError::Timeout)
}

/// A learner that has not started, or lags, would cost the cluster its quorum. Of others the log says what is wrong with
/// them.
fn check_in_step(services: &Services, id: u64) -> Result<(), RpcError> {
    let status = services.node.raft_status();
    let peer = |id: u64| status.progress.iter().find(|peer| peer.id == id);
    let learner = peer(id).filter(|peer| peer.is_learner);
    match (learner, peer(status.id)) {
        (Some(learner), Some(leader))
            if learner.matched * 100 < leader.matched * IN_STEP_PERCENT =>
        {
            Err(RpcError::LearnerNotReady)
        }
        _ => Ok(()),
    }
}

/// Has the change carried out. While Raft takes none, since another one is under way or the leadership moves, it is
/// tried again, and checked again: the other one may have changed what the cluster can bear.
async fn change(
    services: &Services,
    kind: ConfChangeType,
    node_id: u64,
    context: Vec<u8>,
    check: impl Fn() -> Result<(), RpcError>,
) -> Result<(), RpcError> {
    let node = &services.node;
    let change = ConfChange { r#type: kind.into(), node_id, context: context.into(), id: 0 };
    let give_up = node.now() + services.config.request_timeout();
    loop {
        if services.config.strict_reconfig_check {
            check()?;
        }
        match node.propose_change(change.clone()).await {
            Err(RpcError::ProposalDropped) if node.now() < give_up => {
                tokio::time::sleep(PAUSE).await;
            }
            done => return done.map(drop),
        }
    }
}

/// A new voter makes the quorum larger; until it has started, the others must reach it.
fn check_addition(services: &Services, is_learner: bool) -> Result<(), RpcError> {
    let voters = voters(services);
    let started = voters.iter().filter(|member| member.is_started()).count();
    let total = voters.len() + 1;
    let is_second = started == 1 && total == 2;
    if !is_learner && !is_second && started < quorum(total) {
        return Err(RpcError::MemberNotEnoughStarted);
    }
    if voters.len() > 1 && connected(services, &voters) < quorum(total) {
        return Err(RpcError::Unhealthy);
    }
    Ok(())
}

/// The learner will count as started; enough of the voters must have, too.
fn check_promotion(services: &Services) -> Result<(), RpcError> {
    let voters = voters(services);
    let started = 1 + voters.iter().filter(|member| member.is_started()).count();
    if started < quorum(voters.len() + 1) {
        return Err(RpcError::MemberNotEnoughStarted);
    }
    Ok(())
}

/// A voter that is gone may be removed; one that is there only if the rest is a quorum without it.
fn check_removal(services: &Services, id: u64) -> Result<(), RpcError> {
    if services.reader.member(id).is_some_and(|member| member.is_learner) {
        return Ok(());
    }
    let voters = voters(services);
    let rest: Vec<&Member> = voters.iter().filter(|member| member.id != id).collect();
    let started = rest.iter().filter(|member| member.is_started()).count();
    if started < quorum(rest.len()) {
        return Err(RpcError::MemberNotEnoughStarted);
    }
    let is_away =
        id != services.node.member_id() && services.node.network().active_since(id).is_none();
    if !is_away && connected(services, &voters) < 1 + quorum(voters.len() - 1) {
        return Err(RpcError::Unhealthy);
    }
    Ok(())
}

fn voters(services: &Services) -> Vec<Member> {
    let mut members = services.reader.members();
    members.retain(|member| !member.is_learner);
    members
}

/// How many of these have been connected for a while, this member included.
fn connected(services: &Services, members: &[Member]) -> usize {
    let is_connected = |member: &&Member| {
        let since = services.node.network().active_since(member.id);
        member.id == services.node.member_id()
            || since.is_some_and(|since| since.elapsed() >= HEALTHY_AFTER)
    };
    members.iter().filter(is_connected).count()
}

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

/// Sorted, in the form in which URLs are compared.
fn checked_urls(urls: &[String]) -> Result<Vec<String>, RpcError> {
    let check = |text: &String| {
        let url = Url::parse(text).map_err(|_| RpcError::MemberBadUrls)?;
        url.check_advertisable().map_err(|_| RpcError::MemberBadUrls)?;
        Ok(url.to_string())
    };
    let mut urls = urls.iter().map(check).collect::<Result<Vec<_>, RpcError>>()?;
    urls.sort();
    if urls.is_empty() { Err(RpcError::MemberBadUrls) } else { Ok(urls) }
}

fn answer(message: &impl prost::Message) -> Answer {
    Answer::message(HeaderKind::WithoutRevision, message)
}

fn to_api_list(members: Vec<Member>) -> Vec<pb::Member> {
    members.into_iter().map(to_api).collect()
}

fn to_api(member: Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_members_need_a_host_and_a_port_and_are_sorted() {
        let check =
            |urls: &[&str]| checked_urls(&urls.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            check(&["http://b:1", "http://a:1"]).unwrap(),
            ["http://a:1".to_owned(), "http://b:1".to_owned()]
        );
        for bad in ["", "a:1", "http://a", "ftp://a:1", "http://a:1/path"] {
            assert!(matches!(check(&[bad]), Err(RpcError::MemberBadUrls)), "{bad}");
        }
        assert!(matches!(check(&[]), Err(RpcError::MemberBadUrls)));
    }

    #[test]
    fn a_quorum_is_more_than_half() {
        assert_eq!([1, 2, 3, 4, 5].map(quorum), [1, 2, 2, 3, 3]);
    }
}
