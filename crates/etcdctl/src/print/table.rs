//! `-w table`, and the rows that tables and simple lines share.

use retcd_api::etcdserverpb::{HashKvResponse, MemberListResponse, StatusResponse};

use super::{Health, Of, Output, Reply, unsupported};
use retcd_command_line::Failure;
use retcd_command_line::go::duration;
use retcd_command_line::table::draw;
use retcd_command_line::units::{percent_not_in_use, size};

const MEMBERS: [&str; 6] = ["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"];
const HEALTH: [&str; 4] = ["ENDPOINT", "HEALTH", "TOOK", "ERROR"];
const HASH_KV: [&str; 3] = ["ENDPOINT", "HASH", "HASH REVISION"];
const STATUS: [&str; 16] = [
    "ENDPOINT",
    "ID",
    "VERSION",
    "STORAGE VERSION",
    "DB SIZE",
    "IN USE",
    "PERCENTAGE NOT IN USE",
    "QUOTA",
    "IS LEADER",
    "IS LEARNER",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
    "ERRORS",
    "DOWNGRADE TARGET VERSION",
    "DOWNGRADE ENABLED",
];

pub(super) fn render(reply: &Reply<'_>) -> Result<Output, Failure> {
    let table = match reply {
        Reply::MemberList(reply) => draw(&MEMBERS, &member_rows(reply)),
        Reply::EndpointHealth(all) => draw(&HEALTH, &health_rows(all)),
        Reply::EndpointStatus(all) => draw(&STATUS, &status_rows(all)),
        Reply::EndpointHashKv(all) => draw(&HASH_KV, &hash_kv_rows(all)),
        Reply::Put(_)
        | Reply::Range(_)
        | Reply::DeleteRange(_)
        | Reply::Txn(_)
        | Reply::Watch(_)
        | Reply::LeaseGrant(_)
        | Reply::LeaseRevoke(..)
        | Reply::LeaseKeepAlive(_)
        | Reply::LeaseTimeToLive(..)
        | Reply::LeaseLeases(_)
        | Reply::MemberAdd(_)
        | Reply::MemberChange(_)
        | Reply::MoveLeader(_)
        | Reply::Downgrade(..)
        | Reply::Alarm(_)
        | Reply::Done(_)
        | Reply::RoleGet(..)
        | Reply::RoleList(_)
        | Reply::UserGet(..)
        | Reply::UserList(_)
        | Reply::AuthStatus(_) => return Err(unsupported("table")),
    };
    Ok(Output { out: table.into_bytes(), err: Vec::new() })
}

pub(super) fn member_rows(reply: &MemberListResponse) -> Vec<[String; 6]> {
    let row = |member: &retcd_api::etcdserverpb::Member| {
        [
            format!("{:x}", member.id),
            if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    reply.members.iter().map(row).collect()
}

fn health_rows(all: &[Health]) -> Vec<[String; 4]> {
    let row = |health: &Health| {
        [
            health.endpoint.clone(),
            health.error.is_none().to_string(),
            duration::format(health.took),
            health.error.clone().unwrap_or_default(),
        ]
    };
    all.iter().map(row).collect()
}

pub(super) fn status_rows(all: &[Of<StatusResponse>]) -> Vec<[String; 16]> {
    let row = |status: &Of<StatusResponse>| {
        let reply = &status.reply;
        let id = reply.header.map_or(0, |header| header.member_id);
        let downgrade = reply.downgrade_info.clone().unwrap_or_default();
        [
            status.endpoint.clone(),
            format!("{id:x}"),
            reply.version.clone(),
            reply.storage_version.clone(),
            size(reply.db_size),
            size(reply.db_size_in_use),
            percent_not_in_use(reply.db_size, reply.db_size_in_use),
            size(reply.db_size_quota),
            (reply.leader == id).to_string(),
            reply.is_learner.to_string(),
            reply.raft_term.to_string(),
            reply.raft_index.to_string(),
            reply.raft_applied_index.to_string(),
            reply.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    };
    all.iter().map(row).collect()
}

pub(super) fn hash_kv_rows(all: &[Of<HashKvResponse>]) -> Vec<[String; 3]> {
    let row = |hash: &Of<HashKvResponse>| {
        [hash.endpoint.clone(), hash.reply.hash.to_string(), hash.reply.hash_revision.to_string()]
    };
    all.iter().map(row).collect()
}
