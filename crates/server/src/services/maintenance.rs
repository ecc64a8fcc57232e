//! Maintenance: status, hashes, alarms.

use bytes::Bytes;
use prost::Message;
use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::alarm_request::AlarmAction;
use retcd_api::etcdserverpb::downgrade_request::DowngradeAction;
use retcd_api::{CLUSTER_VERSION, ETCD_VERSION, membershippb};

use super::{Answer, HeaderKind, Services, decode, guard};
use crate::background::Minor;
use crate::config::Gate;
use crate::grpc::Metadata;
use crate::node::Request;

pub(super) async fn status(services: &Services, metadata: &Metadata) -> Result<Answer, RpcError> {
    guard::somebody(services, metadata).await?;
    let status = services.node.status();
    let size = services.reader.size();
    let downgrade = services.reader.downgrade();
    let mut errors = Vec::new();
    if status.leader.is_none() {
        errors.push(RpcError::NoLeader.message().to_owned());
    }
    errors.extend(services.reader.alarms().iter().map(alarm_text));
    let response = pb::StatusResponse {
        header: None,
        version: ETCD_VERSION.to_owned(),
        db_size: size.total_bytes.cast_signed(),
        leader: status.leader.unwrap_or_default(),
        raft_index: status.committed,
        raft_term: status.term,
        raft_applied_index: services.reader.applied_index(),
        errors,
        db_size_in_use: size.in_use_bytes.cast_signed(),
        is_learner: status.is_learner,
        storage_version: CLUSTER_VERSION.to_owned(),
        db_size_quota: services.config.quota_backend_bytes.map_or(-1, u64::cast_signed),
        downgrade_info: Some(pb::DowngradeInfo {
            enabled: downgrade.is_enabled,
            target_version: downgrade.target_version,
        }),
    };
    Ok(Answer::message(HeaderKind::Full { revision: services.reader.revision() }, &response))
}

/// An alarm in protobuf's text form, as it stands among the errors of a status.
fn alarm_text(alarm: &pb::AlarmMember) -> String {
    let mut fields = Vec::new();
    if alarm.member_id != 0 {
        fields.push(format!("memberID:{}", alarm.member_id));
    }
    if alarm.alarm() != pb::AlarmType::None {
        fields.push(format!("alarm:{}", alarm.alarm().as_str_name()));
    }
    fields.join(" ")
}

pub(super) async fn alarm(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: pb::AlarmRequest = decode(message.clone())?;
    if request.action() == AlarmAction::Get {
        guard::somebody(services, metadata).await?;
        // The list is a linearizable read, as etcd sends it through the log.
        services.node.read_barrier().await?;
        let wanted = request.alarm();
        let alarms = services
            .reader
            .alarms()
            .into_iter()
            .filter(|alarm| wanted == pb::AlarmType::None || alarm.alarm() == wanted)
            .collect();
        let header = HeaderKind::Full { revision: services.reader.revision() };
        return Ok(Answer::message(header, &pb::AlarmResponse { header: None, alarms }));
    }
    guard::administrator(services, metadata).await?;
    services.node.propose(Request::Alarm, &message, None)?.await.map(Answer::from)
}

pub(super) async fn hash(services: &Services, metadata: &Metadata) -> Result<Answer, RpcError> {
    guard::administrator(services, metadata).await?;
    let hash = services.node.hash().await?;
    let header = HeaderKind::Full { revision: services.reader.revision() };
    Ok(Answer::message(header, &pb::HashResponse { header: None, hash }))
}

pub(super) async fn hash_kv(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    guard::administrator(services, metadata).await?;
    let request: pb::HashKvRequest = decode(message)?;
    let hash = services.node.hash_kv(request.revision).await?;
    let response = pb::HashKvResponse {
        header: None,
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    };
    Ok(Answer::message(HeaderKind::Full { revision: hash.current_revision }, &response))
}

pub(super) async fn defragment(
    services: &Services,
    metadata: &Metadata,
) -> Result<Answer, RpcError> {
    guard::administrator(services, metadata).await?;
    let stops = services.config.feature_gates.is_enabled(Gate::StopGrpcServiceOnDefrag);
    let _turned_away = stops.then(|| services.health.turn_away());
    services.node.defragment().await?;
    Ok(Answer { header: HeaderKind::None, body: Bytes::new() })
}

pub(super) async fn move_leader(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    guard::administrator(services, metadata).await?;
    let request: pb::MoveLeaderRequest = decode(message)?;
    let (node, to) = (&services.node, request.target_id);
    if !node.is_leader() {
        return Err(RpcError::NotLeader);
    }
    if services.reader.member(to).is_none_or(|member| member.is_learner) {
        return Err(RpcError::BadLeaderTransferee);
    }
    if to != node.member_id()
        && !node.transfer_leader_and_wait(to, services.config.request_timeout()).await
    {
        return Err(RpcError::other(
            Code::Unknown,
            "etcdserver: request timed out, leader transfer took too long",
        ));
    }
    Ok(Answer { header: HeaderKind::None, body: Bytes::new() })
}

pub(super) async fn downgrade(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    guard::administrator(services, metadata).await?;
    let request: pb::DowngradeRequest = decode(message)?;
    let action = DowngradeAction::try_from(request.action)
        .map_err(|_| RpcError::other(Code::Unknown, "etcdserver: unknown method"))?;
    match action {
        DowngradeAction::Validate => check_downgrade(services, &request.version).await.map(drop)?,
        DowngradeAction::Enable => {
            let target = check_downgrade(services, &request.version).await?;
            set_downgrade(services, true, target.text()).await?;
        }
        DowngradeAction::Cancel => set_downgrade(services, false, String::new()).await?,
    }
    let version = services.reader.cluster_version();
    let version = version.as_deref().and_then(Minor::parse).map(Minor::short_text);
    let response = pb::DowngradeResponse { header: None, version: version.unwrap_or_default() };
    Ok(Answer::message(HeaderKind::Full { revision: services.reader.revision() }, &response))
}

/// A cluster goes down by one minor release at a time.
async fn check_downgrade(services: &Services, target: &str) -> Result<Minor, RpcError> {
    services.node.read_barrier().await?;
    let target = Minor::parse(target).ok_or(RpcError::WrongDowngradeVersionFormat)?;
    let present = services.reader.cluster_version();
    let present = present.as_deref().and_then(Minor::parse);
    let present = present.ok_or(RpcError::ClusterVersionUnavailable)?;
    if target != present.one_below() {
        return Err(RpcError::InvalidDowngradeTargetVersion);
    }
    if services.reader.downgrade().is_enabled {
        return Err(RpcError::DowngradeInProcess);
    }
    Ok(target)
}

async fn set_downgrade(services: &Services, enabled: bool, ver: String) -> Result<(), RpcError> {
    let request = membershippb::DowngradeInfoSetRequest { enabled, ver };
    let pending =
        services.node.propose(Request::DowngradeInfoSet, &request.encode_to_vec(), None)?;
    pending.await.map(drop)
}
