//! `-w simple`: lines for people, and for the scripts that read them.

use std::fmt::Write;

use retcd_api::authpb::{Permission, permission::Type as PermType};
use retcd_api::etcdserverpb::{
    AlarmMember, AlarmType, LeaseTimeToLiveResponse, ResponseHeader, TxnResponse, WatchResponse,
    response_op::Response,
};
use retcd_api::mvccpb::KeyValue;
use retcd_client::prefix_end;

use super::table::{hash_kv_rows, member_rows, status_rows};
use super::{Health, Output, Reply, WithKeys};
use retcd_command_line::go::duration;

pub(super) fn render(reply: &Reply<'_>, hex: bool, values_only: bool) -> Output {
    let mut simple = Simple { output: Output::default(), hex, values_only };
    simple.reply(reply);
    simple.output
}

struct Simple {
    output: Output,
    hex: bool,
    values_only: bool,
}

impl Simple {
    fn reply(&mut self, reply: &Reply<'_>) {
        match reply {
            Reply::Put(reply) => {
                self.line("OK");
                self.key_values(reply.prev_kv.as_ref());
            }
            Reply::Range(reply) => self.key_values(&reply.kvs),
            Reply::DeleteRange(reply) => {
                self.line(reply.deleted.to_string());
                self.key_values(&reply.prev_kvs);
            }
            Reply::Txn(reply) => self.txn(reply),
            Reply::Watch(reply) => self.watch(reply),
            Reply::LeaseGrant(reply) => {
                self.line(format!("lease {:016x} granted with TTL({}s)", reply.id, reply.ttl));
            }
            Reply::LeaseRevoke(id, _) => self.line(format!("lease {id:016x} revoked")),
            Reply::LeaseKeepAlive(reply) => {
                self.line(format!("lease {:016x} keepalived with TTL({})", reply.id, reply.ttl));
            }
            Reply::LeaseTimeToLive(reply, with_keys) => self.time_to_live(reply, *with_keys),
            Reply::LeaseLeases(reply) => {
                self.line(format!("found {} leases", reply.leases.len()));
                reply.leases.iter().for_each(|lease| self.line(format!("{:016x}", lease.id)));
            }
            Reply::MemberList(reply) => self.rows(&member_rows(reply)),
            Reply::MemberAdd(reply) => {
                let added = reply.member.clone().unwrap_or_default();
                let role = if added.is_learner { " as learner " } else { " " };
                let cluster = cluster_id(reply.header.as_ref());
                self.line(format!("Member {:16x} added{role}to cluster {cluster:16x}", added.id));
            }
            Reply::MemberChange(change) => {
                let (id, done) = (change.id, change.done);
                let cluster = cluster_id(change.reply.header.as_ref());
                self.line(format!("Member {id:16x} {done} cluster {cluster:16x}"));
            }
            Reply::MoveLeader(done) | Reply::Done(done) => self.line(&done.sentence),
            Reply::Downgrade(action, reply) => {
                let version = &reply.version;
                self.line(format!("Downgrade {action} success, cluster version {version}"));
            }
            Reply::Alarm(reply) => reply.alarms.iter().for_each(|alarm| self.alarm(alarm)),
            Reply::RoleGet(name, reply) => self.role(name, &reply.perm),
            Reply::RoleList(reply) => reply.roles.iter().for_each(|role| self.line(role)),
            Reply::UserGet(name, reply) => {
                self.line(format!("User: {name}"));
                let roles = reply.roles.iter().map(|role| format!(" {role}"));
                self.line(format!("Roles:{}", roles.collect::<String>()));
            }
            Reply::UserList(reply) => reply.users.iter().for_each(|user| self.line(user)),
            Reply::AuthStatus(reply) => {
                self.line(format!("Authentication Status: {}", reply.enabled));
                self.line(format!("AuthRevision: {}", reply.auth_revision));
            }
            Reply::EndpointHealth(all) => all.iter().for_each(|health| self.health(health)),
            Reply::EndpointStatus(all) => self.rows(&status_rows(all)),
            Reply::EndpointHashKv(all) => self.rows(&hash_kv_rows(all)),
        }
    }

    fn line(&mut self, line: impl AsRef<[u8]>) {
        self.output.line(line);
    }

    fn key_values<'a>(&mut self, key_values: impl IntoIterator<Item = &'a KeyValue>) {
        for kv in key_values {
            if !self.values_only {
                self.bytes(&kv.key);
            }
            self.bytes(&kv.value);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.hex {
            let mut escaped = String::with_capacity(bytes.len() * 4);
            for byte in bytes {
                write!(escaped, "\\x{byte:02x}").expect("a string takes everything");
            }
            self.line(escaped);
        } else {
            self.line(bytes);
        }
    }

    fn txn(&mut self, reply: &TxnResponse) {
        self.line(if reply.succeeded { "SUCCESS" } else { "FAILURE" });
        for response in reply.responses.iter().filter_map(|response| response.response.as_ref()) {
            self.line("");
            match response {
                Response::ResponseRange(reply) => self.reply(&Reply::Range(reply)),
                Response::ResponsePut(reply) => self.reply(&Reply::Put(reply)),
                Response::ResponseDeleteRange(reply) => self.reply(&Reply::DeleteRange(reply)),
                Response::ResponseTxn(reply) => self.txn(reply),
            }
        }
    }

    fn watch(&mut self, reply: &WatchResponse) {
        for event in &reply.events {
            self.line(event.r#type().as_str_name());
            self.key_values(event.prev_kv.as_ref());
            self.key_values(event.kv.as_ref());
        }
    }

    fn time_to_live(&mut self, reply: &LeaseTimeToLiveResponse, with_keys: WithKeys) {
        if reply.granted_ttl == 0 && reply.ttl == -1 {
            return self.line(format!("lease {:016x} already expired", reply.id));
        }
        let (id, granted, left) = (reply.id, reply.granted_ttl, reply.ttl);
        let mut line = format!("lease {id:016x} granted with TTL({granted}s), remaining({left}s)")
            .into_bytes();
        if with_keys.0 {
            line.extend_from_slice(b", attached keys([");
            line.extend_from_slice(&reply.keys.join(&b' '));
            line.extend_from_slice(b"])");
        }
        self.line(line);
    }

    /// As protobuf's text format, in one line.
    fn alarm(&mut self, alarm: &AlarmMember) {
        let member = (alarm.member_id != 0).then(|| format!("memberID:{}", alarm.member_id));
        let kind = (alarm.alarm() != AlarmType::None)
            .then(|| format!("alarm:{}", alarm.alarm().as_str_name()));
        let parts: Vec<String> = member.into_iter().chain(kind).collect();
        self.line(parts.join(" "));
    }

    fn role(&mut self, name: &str, permissions: &[Permission]) {
        self.line(format!("Role {name}"));
        for (title, only) in [("KV Read:", PermType::Read), ("KV Write:", PermType::Write)] {
            self.line(title);
            if name == "root" && permissions.is_empty() {
                self.line("\t[, <open ended>");
            }
            for permission in permissions {
                if permission.perm_type() == only || permission.perm_type() == PermType::Readwrite {
                    self.permission(permission);
                }
            }
        }
    }

    fn permission(&mut self, permission: &Permission) {
        let (key, end) = (&permission.key, &permission.range_end);
        let mut line = b"\t".to_vec();
        if end.is_empty() {
            line.extend_from_slice(key);
        } else {
            line.extend(range(key, end));
        }
        if !end.is_empty() && !key.is_empty() && prefix_end(key) == *end {
            line.extend_from_slice(b" (prefix ");
            line.extend_from_slice(key);
            line.push(b')');
        }
        self.line(line);
    }

    fn health(&mut self, health: &Health) {
        let endpoint = &health.endpoint;
        match &health.error {
            None => {
                let took = duration::format(health.took);
                self.line(format!(
                    "{endpoint} is healthy: successfully committed proposal: took = {took}"
                ));
            }
            Some(error) => {
                let line = format!("{endpoint} is unhealthy: failed to commit proposal: {error}\n");
                self.output.err.extend_from_slice(line.as_bytes());
            }
        }
    }

    fn rows<const N: usize>(&mut self, rows: &[[String; N]]) {
        for row in rows {
            self.line(row.join(", "));
        }
    }
}

/// `[from, to)`, or without an end to everything from a key on.
pub(crate) fn range(key: &[u8], end: &[u8]) -> Vec<u8> {
    let end = if end == b"\0" { b"<open ended>".to_vec() } else { [end, b")"].concat() };
    [b"[", key, b", ", &end].concat()
}

fn cluster_id(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.cluster_id)
}

#[cfg(test)]
mod tests {
    use super::super::MemberChange;
    use super::*;
    use retcd_api::etcdserverpb::{
        DowngradeResponse, Member, MemberAddResponse, MemberListResponse,
    };

    fn rendered(reply: &Reply<'_>) -> String {
        String::from_utf8(render(reply, false, false).out).unwrap()
    }

    fn header(cluster_id: u64) -> ResponseHeader {
        ResponseHeader { cluster_id, ..Default::default() }
    }

    #[test]
    fn ids_of_members_are_padded_with_blanks_to_sixteen_digits() {
        let change = |id, cluster_id| {
            let reply =
                MemberListResponse { header: Some(header(cluster_id)), ..Default::default() };
            rendered(&Reply::MemberChange(&MemberChange { id, done: "removed from", reply }))
        };
        let whole = 0xc4b1_a2b3_c4d5_e6f7;
        assert_eq!(
            change(whole, 0x1a2b),
            "Member c4b1a2b3c4d5e6f7 removed from cluster             1a2b\n"
        );
        assert_eq!(
            change(0x0c4b_1a2b_3c4d_5e6f, whole),
            "Member  c4b1a2b3c4d5e6f removed from cluster c4b1a2b3c4d5e6f7\n"
        );
        let member = |id, is_learner| Some(Member { id, is_learner, ..Default::default() });
        let added = |member| {
            let reply =
                MemberAddResponse { header: Some(header(0xf)), member, ..Default::default() };
            rendered(&Reply::MemberAdd(&reply))
        };
        assert_eq!(
            added(member(0xa, false)),
            "Member                a added to cluster                f\n"
        );
        assert_eq!(
            added(member(whole, true)),
            "Member c4b1a2b3c4d5e6f7 added as learner to cluster                f\n"
        );
    }

    #[test]
    fn steps_of_a_downgrade_name_the_version() {
        let reply = DowngradeResponse { header: Some(header(1)), version: "3.6.0".to_owned() };
        for action in ["validate", "enable", "cancel"] {
            assert_eq!(
                rendered(&Reply::Downgrade(action, &reply)),
                format!("Downgrade {action} success, cluster version 3.6.0\n")
            );
        }
    }
}
