//! `-w fields`: one `"Name" : value` line per field.

use std::fmt::Display;

use retcd_api::authpb::Permission;
use retcd_api::etcdserverpb::{
    AlarmMember, DeleteRangeResponse, HashKvResponse, LeaseTimeToLiveResponse, Member, PutResponse,
    RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
    response_op::Response,
};
use retcd_api::mvccpb::KeyValue;

use super::{Health, Of, Output, Reply, unsupported};
use retcd_command_line::Failure;
use retcd_command_line::go::duration;
use retcd_command_line::go::quote::quote;

pub(super) fn render(reply: &Reply<'_>, hex: bool) -> Result<Output, Failure> {
    let mut fields = Fields { output: Output::default(), hex };
    fields.reply(reply)?;
    Ok(fields.output)
}

struct Fields {
    output: Output,
    hex: bool,
}

impl Fields {
    fn reply(&mut self, reply: &Reply<'_>) -> Result<(), Failure> {
        match reply {
            Reply::Put(reply) => self.put(reply),
            Reply::Range(reply) => self.range(reply),
            Reply::DeleteRange(reply) => self.delete_range(reply),
            Reply::Txn(reply) => self.txn(reply),
            Reply::Watch(reply) => self.watch(reply),
            Reply::LeaseGrant(reply) => self.lease(reply.header.as_ref(), reply.id, reply.ttl),
            Reply::LeaseRevoke(_, reply) => self.header(reply.header.as_ref()),
            Reply::LeaseKeepAlive(reply) => self.lease(reply.header.as_ref(), reply.id, reply.ttl),
            Reply::LeaseTimeToLive(reply, _) => self.time_to_live(reply),
            Reply::LeaseLeases(reply) => {
                self.header(reply.header.as_ref());
                reply.leases.iter().for_each(|lease| self.lease_id("ID", lease.id));
            }
            Reply::MemberList(reply) => {
                self.header(reply.header.as_ref());
                reply.members.iter().for_each(|member| self.member(member));
            }
            Reply::EndpointHealth(all) => all.iter().for_each(|health| self.health(health)),
            Reply::EndpointStatus(all) => all.iter().for_each(|status| self.status(status)),
            Reply::EndpointHashKv(all) => all.iter().for_each(|hash| self.hash_kv(hash)),
            Reply::Alarm(reply) => {
                self.header(reply.header.as_ref());
                reply.alarms.iter().for_each(|alarm| self.alarm(alarm));
            }
            Reply::Done(done) => self.header(done.header.as_ref()),
            Reply::RoleGet(_, reply) => {
                self.header(reply.header.as_ref());
                reply.perm.iter().for_each(|permission| self.permission(permission));
            }
            Reply::RoleList(reply) => {
                self.header(reply.header.as_ref());
                let names = reply.roles.iter().map(|role| format!(" {}", quote(role.as_bytes())));
                self.output.line(format!("\"Roles\" :{}", names.collect::<String>()));
            }
            Reply::MemberAdd(_)
            | Reply::MemberChange(_)
            | Reply::MoveLeader(_)
            | Reply::Downgrade(..)
            | Reply::UserGet(..)
            | Reply::UserList(_)
            | Reply::AuthStatus(_) => return Err(unsupported("fields")),
        }
        Ok(())
    }

    fn field(&mut self, name: &str, value: impl Display) {
        self.output.line(format!("\"{name}\" : {value}"));
    }

    fn quoted(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.field(name, quote(value.as_ref()));
    }

    /// The id of a member or cluster.
    fn id(&mut self, name: &str, id: u64) {
        if self.hex { self.field(name, format!("{id:x}")) } else { self.field(name, id) }
    }

    fn lease_id(&mut self, name: &str, id: i64) {
        if self.hex { self.field(name, format!("{id:016x}")) } else { self.field(name, id) }
    }

    fn header(&mut self, header: Option<&ResponseHeader>) {
        let header = header.copied().unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        // Replies about members have no revision.
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }

    fn key_values<'a>(&mut self, prefix: &str, key_values: impl IntoIterator<Item = &'a KeyValue>) {
        for kv in key_values {
            self.quoted(&format!("{prefix}Key"), &kv.key);
            self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
            self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
            self.field(&format!("{prefix}Version"), kv.version);
            self.quoted(&format!("{prefix}Value"), &kv.value);
            self.lease_id(&format!("{prefix}Lease"), kv.lease);
        }
    }

    fn put(&mut self, reply: &PutResponse) {
        self.header(reply.header.as_ref());
        self.key_values("Prev", reply.prev_kv.as_ref());
    }

    fn delete_range(&mut self, reply: &DeleteRangeResponse) {
        self.header(reply.header.as_ref());
        self.field("Deleted", reply.deleted);
        self.key_values("Prev", &reply.prev_kvs);
    }

    fn range(&mut self, reply: &RangeResponse) {
        self.header(reply.header.as_ref());
        self.key_values("", &reply.kvs);
        self.field("More", reply.more);
        self.field("Count", reply.count);
    }

    fn txn(&mut self, reply: &TxnResponse) {
        self.header(reply.header.as_ref());
        self.field("Succeeded", reply.succeeded);
        for response in reply.responses.iter().filter_map(|response| response.response.as_ref()) {
            match response {
                Response::ResponseRange(reply) => self.range(reply),
                Response::ResponsePut(reply) => self.put(reply),
                Response::ResponseDeleteRange(reply) => self.delete_range(reply),
                Response::ResponseTxn(reply) => self.txn(reply),
            }
        }
    }

    fn watch(&mut self, reply: &WatchResponse) {
        self.header(reply.header.as_ref());
        for event in &reply.events {
            self.field("Type", event.r#type().as_str_name());
            self.key_values("Prev", event.prev_kv.as_ref());
            self.key_values("", event.kv.as_ref());
        }
    }

    fn lease(&mut self, header: Option<&ResponseHeader>, id: i64, ttl: i64) {
        self.header(header);
        self.lease_id("ID", id);
        self.field("TTL", ttl);
    }

    fn time_to_live(&mut self, reply: &LeaseTimeToLiveResponse) {
        self.lease(reply.header.as_ref(), reply.id, reply.ttl);
        self.field("GrantedTTL", reply.granted_ttl);
        reply.keys.iter().for_each(|key| self.quoted("Key", key));
    }

    fn member(&mut self, member: &Member) {
        self.id("ID", member.id);
        self.quoted("Name", &member.name);
        member.peer_ur_ls.iter().for_each(|url| self.quoted("PeerURL", url));
        member.client_ur_ls.iter().for_each(|url| self.quoted("ClientURL", url));
        self.field("IsLearner", member.is_learner);
        self.output.line("");
    }

    fn health(&mut self, health: &Health) {
        self.quoted("Endpoint", &health.endpoint);
        self.field("Health", health.error.is_none());
        self.field("Took", duration::format(health.took));
        self.field("Error", health.error.as_deref().unwrap_or_default());
        self.output.line("");
    }

    fn status(&mut self, status: &Of<StatusResponse>) {
        let reply = &status.reply;
        self.header(reply.header.as_ref());
        self.quoted("Version", &reply.version);
        self.quoted("StorageVersion", &reply.storage_version);
        self.field("DBSize", reply.db_size);
        self.field("DBSizeInUse", reply.db_size_in_use);
        self.field("DBSizeQuota", reply.db_size_quota);
        self.field("Leader", reply.leader);
        self.field("IsLearner", reply.is_learner);
        self.field("RaftIndex", reply.raft_index);
        self.field("RaftTerm", reply.raft_term);
        self.field("RaftAppliedIndex", reply.raft_applied_index);
        self.field("Errors", format!("[{}]", reply.errors.join(" ")));
        self.quoted("Endpoint", &status.endpoint);
        let downgrade = reply.downgrade_info.clone().unwrap_or_default();
        self.quoted("DowngradeTargetVersion", &downgrade.target_version);
        self.field("DowngradeEnabled", downgrade.enabled);
        self.output.line("");
    }

    fn hash_kv(&mut self, hash: &Of<HashKvResponse>) {
        self.header(hash.reply.header.as_ref());
        self.quoted("Endpoint", &hash.endpoint);
        self.field("Hash", hash.reply.hash);
        self.field("HashRevision", hash.reply.hash_revision);
        self.output.line("");
    }

    fn alarm(&mut self, alarm: &AlarmMember) {
        self.id("MemberID", alarm.member_id);
        self.field("AlarmType", alarm.alarm().as_str_name());
        self.output.line("");
    }

    fn permission(&mut self, permission: &Permission) {
        // etcd has a space too many here.
        self.field("PermType", format!(" {}", permission.perm_type().as_str_name()));
        self.quoted("Key", &permission.key);
        self.quoted("RangeEnd", &permission.range_end);
    }
}
