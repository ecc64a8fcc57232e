//! `-w table`, and the rows that tables and simple lines share.

use retcd_api::etcdserverpb::{HashKvResponse, MemberListResponse, StatusResponse};

use super::units::{percent_not_in_use, size};
use super::{Health, Of, Output, Reply, unsupported};
use crate::failure::Failure;
use crate::go::duration;

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

/// Draws a box of light lines: header centred, cells to the right.
fn draw<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].as_str());
        cells.chain([header[column]]).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let rule = |left: &str, middle: &str, right: &str| {
        let lines = widths.map(|width| "─".repeat(width + 2));
        format!("{left}{}{right}\n", lines.join(middle))
    };
    let line = |cells: [String; N]| format!("│ {} │\n", cells.join(" │ "));
    let mut table = rule("┌", "┬", "┐");
    table += &line(std::array::from_fn(|column| format!("{:^1$}", header[column], widths[column])));
    table += &rule("├", "┼", "┤");
    for row in rows {
        table +=
            &line(std::array::from_fn(|column| format!("{:>1$}", row[column], widths[column])));
    }
    table + &rule("└", "┴", "┘")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_light_boxes() {
        let rows = [
            ["8211f1d0f64f3269", "started", "n1", "http://h1:2380", "http://h1:2379", "false"]
                .map(str::to_owned),
            ["1", "unstarted", "", "http://h2:2380", "", "true"].map(str::to_owned),
        ];
        let expected = "\
┌──────────────────┬───────────┬──────┬────────────────┬────────────────┬────────────┐
│        ID        │  STATUS   │ NAME │   PEER ADDRS   │  CLIENT ADDRS  │ IS LEARNER │
├──────────────────┼───────────┼──────┼────────────────┼────────────────┼────────────┤
│ 8211f1d0f64f3269 │   started │   n1 │ http://h1:2380 │ http://h1:2379 │      false │
│                1 │ unstarted │      │ http://h2:2380 │                │       true │
└──────────────────┴───────────┴──────┴────────────────┴────────────────┴────────────┘
";
        assert_eq!(draw(&MEMBERS, &rows), expected);
    }

    #[test]
    fn odd_space_goes_to_the_right_of_the_header() {
        let rows = [["902327963".to_owned()]];
        assert_eq!(
            draw(&["HASH"], &rows),
            "┌───────────┐\n│   HASH    │\n├───────────┤\n│ 902327963 │\n└───────────┘\n"
        );
    }
}
