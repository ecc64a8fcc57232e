//! Cluster: who the members are.

use bytes::Bytes;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_state_machine::cluster::Member;

use super::{Answer, HeaderKind, Services, decode};

pub(super) async fn member_list(services: &Services, message: Bytes) -> Result<Answer, RpcError> {
    let request: pb::MemberListRequest = decode(message)?;
    if request.linearizable {
        services.node.read_barrier().await?;
    }
    let members = services.reader.members().into_iter().map(to_api).collect();
    Ok(Answer::message(
        HeaderKind::WithoutRevision,
        &pb::MemberListResponse { header: None, members },
    ))
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
