//! `-w json`: one line per reply, as Go's JSON encoder writes etcd's structs.
//!
//! Names and order are those of the structs: mostly those of the `.proto` files, but client structs differ, for
//! leases, watch and the endpoint commands.

use retcd_api::authpb::Permission;
use retcd_api::etcdserverpb::{
    AlarmMember, AlarmResponse, AuthRoleGetResponse, DeleteRangeResponse, HashKvResponse,
    LeaseLeasesResponse, LeaseTimeToLiveResponse, Member, MemberListResponse, PutResponse,
    RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
    response_op::Response,
};
use retcd_api::mvccpb::{Event, KeyValue};

use super::{Health, Of, Output, Reply};
use retcd_command_line::go::duration;
use retcd_command_line::go::json::{Fields, array, bytes, object, text};

pub(super) fn render(reply: &Reply<'_>, hex: bool) -> Output {
    let mut output = Output::default();
    output.line(to_json(reply, hex));
    output
}

fn to_json(reply: &Reply<'_>, hex: bool) -> String {
    match reply {
        Reply::Put(reply) => put(reply),
        Reply::Range(reply) => range(reply),
        Reply::DeleteRange(reply) => delete_range(reply),
        Reply::Txn(reply) => txn(reply),
        Reply::Watch(reply) => watch(reply),
        Reply::LeaseGrant(reply) => object(|fields| {
            header_fields(fields, reply.header.as_ref());
            fields.json("ID", reply.id);
            fields.json("TTL", reply.ttl);
            fields.string("Error", &reply.error);
        }),
        Reply::LeaseRevoke(_, reply) => object(|fields| header(fields, reply.header.as_ref())),
        Reply::LeaseKeepAlive(reply) => object(|fields| {
            header_fields(fields, reply.header.as_ref());
            fields.json("ID", reply.id);
            fields.json("TTL", reply.ttl);
        }),
        Reply::LeaseTimeToLive(reply, _) => time_to_live(reply),
        Reply::LeaseLeases(reply) => leases(reply),
        Reply::MemberList(reply) => member_list(reply, hex),
        Reply::MemberAdd(reply) => object(|fields| {
            members_header(fields, reply.header.as_ref(), hex);
            if let Some(added) = &reply.member {
                fields.json("member", member(added, hex));
            }
            members(fields, &reply.members, hex);
        }),
        Reply::MemberChange(change) => member_list(&change.reply, hex),
        Reply::MoveLeader(done) | Reply::Done(done) => {
            object(|fields| header(fields, done.header.as_ref()))
        }
        Reply::Downgrade(_, reply) => object(|fields| {
            header(fields, reply.header.as_ref());
            fields.string_unless_empty("version", &reply.version);
        }),
        Reply::Alarm(reply) => alarms(reply),
        Reply::RoleGet(_, reply) => role(reply),
        Reply::RoleList(reply) => names(reply.header.as_ref(), "roles", &reply.roles),
        Reply::UserGet(_, reply) => names(reply.header.as_ref(), "roles", &reply.roles),
        Reply::UserList(reply) => names(reply.header.as_ref(), "users", &reply.users),
        Reply::AuthStatus(reply) => object(|fields| {
            header(fields, reply.header.as_ref());
            fields.true_only("enabled", reply.enabled);
            fields.number_unless_zero("authRevision", reply.auth_revision);
        }),
        Reply::EndpointHealth(all) => array_or_null(all, health),
        Reply::EndpointStatus(all) => array_or_null(all, status),
        Reply::EndpointHashKv(all) => array_or_null(all, hash_kv),
    }
}

/// A list that nobody has put anything into is `null` in Go.
fn array_or_null<T>(items: &[T], to_json: impl Fn(&T) -> String) -> String {
    if items.is_empty() { "null".to_owned() } else { array(items.iter().map(to_json)) }
}

fn header(fields: &mut Fields, header: Option<&ResponseHeader>) {
    if header.is_some() {
        fields.json("header", object(|fields| header_fields(fields, header)));
    }
}

fn header_fields(fields: &mut Fields, header: Option<&ResponseHeader>) {
    let header = header.copied().unwrap_or_default();
    fields.number_unless_zero("cluster_id", header.cluster_id);
    fields.number_unless_zero("member_id", header.member_id);
    fields.number_unless_zero("revision", header.revision);
    fields.number_unless_zero("raft_term", header.raft_term);
}

fn key_value(kv: &KeyValue) -> String {
    object(|fields| {
        fields.bytes_unless_empty("key", &kv.key);
        fields.number_unless_zero("create_revision", kv.create_revision);
        fields.number_unless_zero("mod_revision", kv.mod_revision);
        fields.number_unless_zero("version", kv.version);
        fields.bytes_unless_empty("value", &kv.value);
        fields.number_unless_zero("lease", kv.lease);
    })
}

fn key_values(fields: &mut Fields, name: &str, key_values: &[KeyValue]) {
    if !key_values.is_empty() {
        fields.json(name, array(key_values.iter().map(key_value)));
    }
}

fn put(reply: &PutResponse) -> String {
    object(|fields| {
        header(fields, reply.header.as_ref());
        if let Some(kv) = &reply.prev_kv {
            fields.json("prev_kv", key_value(kv));
        }
    })
}

fn range(reply: &RangeResponse) -> String {
    object(|fields| {
        header(fields, reply.header.as_ref());
        key_values(fields, "kvs", &reply.kvs);
        fields.true_only("more", reply.more);
        fields.number_unless_zero("count", reply.count);
    })
}

fn delete_range(reply: &DeleteRangeResponse) -> String {
    object(|fields| {
        header(fields, reply.header.as_ref());
        fields.number_unless_zero("deleted", reply.deleted);
        key_values(fields, "prev_kvs", &reply.prev_kvs);
    })
}

fn txn(reply: &TxnResponse) -> String {
    let response = |response: &Response| {
        let (name, inner) = match response {
            Response::ResponseRange(reply) => ("response_range", range(reply)),
            Response::ResponsePut(reply) => ("response_put", put(reply)),
            Response::ResponseDeleteRange(reply) => ("response_delete_range", delete_range(reply)),
            Response::ResponseTxn(reply) => ("response_txn", txn(reply)),
        };
        object(|fields| fields.json(name, inner))
    };
    object(|fields| {
        header(fields, reply.header.as_ref());
        fields.true_only("succeeded", reply.succeeded);
        if !reply.responses.is_empty() {
            let responses = reply.responses.iter().map(|op| {
                let inner = op.response.as_ref().map_or_else(|| "{}".to_owned(), response);
                object(|fields| fields.json("Response", inner))
            });
            fields.json("responses", array(responses));
        }
    })
}

fn watch(reply: &WatchResponse) -> String {
    let event = |event: &Event| {
        object(|fields| {
            fields.number_unless_zero("type", event.r#type);
            if let Some(kv) = &event.kv {
                fields.json("kv", key_value(kv));
            }
            if let Some(kv) = &event.prev_kv {
                fields.json("prev_kv", key_value(kv));
            }
        })
    };
    object(|fields| {
        fields.json("Header", object(|fields| header_fields(fields, reply.header.as_ref())));
        fields.json("Events", array_or_null(&reply.events, event));
        fields.json("CompactRevision", reply.compact_revision);
        fields.json("Canceled", reply.canceled);
        fields.json("Created", reply.created);
        fields.string("CancelReason", &reply.cancel_reason);
    })
}

fn time_to_live(reply: &LeaseTimeToLiveResponse) -> String {
    object(|fields| {
        header_fields(fields, reply.header.as_ref());
        fields.json("id", reply.id);
        fields.json("ttl", reply.ttl);
        fields.json("granted-ttl", reply.granted_ttl);
        if reply.keys.is_empty() {
            fields.json("keys", "null");
        } else {
            fields.json("keys", array(reply.keys.iter().map(|key| bytes(key))));
        }
    })
}

fn leases(reply: &LeaseLeasesResponse) -> String {
    object(|fields| {
        header_fields(fields, reply.header.as_ref());
        fields.json(
            "leases",
            array(reply.leases.iter().map(|lease| object(|fields| fields.json("id", lease.id)))),
        );
    })
}

fn member_list(reply: &MemberListResponse, hex: bool) -> String {
    object(|fields| {
        members_header(fields, reply.header.as_ref(), hex);
        members(fields, &reply.members, hex);
    })
}

/// With `hex` the ids are strings, which no reader of JSON can round.
fn members_header(fields: &mut Fields, of_reply: Option<&ResponseHeader>, hex: bool) {
    let Some(ids) = of_reply.filter(|_| hex) else {
        return header(fields, of_reply);
    };
    let inner = object(|fields| {
        fields.string("cluster_id", &format!("{:x}", ids.cluster_id));
        fields.string("member_id", &format!("{:x}", ids.member_id));
        fields.number_unless_zero("revision", ids.revision);
        fields.number_unless_zero("raft_term", ids.raft_term);
    });
    fields.json("header", inner);
}

fn members(fields: &mut Fields, members: &[Member], hex: bool) {
    if !members.is_empty() {
        fields.json("members", array(members.iter().map(|one| member(one, hex))));
    }
}

fn member(member: &Member, hex: bool) -> String {
    object(|fields| {
        if hex {
            fields.string("ID", &format!("{:x}", member.id));
        } else {
            fields.number_unless_zero("ID", member.id);
        }
        fields.string_unless_empty("name", &member.name);
        fields.strings_unless_empty("peerURLs", &member.peer_ur_ls);
        fields.strings_unless_empty("clientURLs", &member.client_ur_ls);
        fields.true_only("isLearner", member.is_learner);
    })
}

fn health(health: &Health) -> String {
    object(|fields| {
        fields.string("endpoint", &health.endpoint);
        fields.json("health", health.error.is_none());
        fields.json("took", text(&duration::format(health.took)));
        fields.string_unless_empty("error", health.error.as_deref().unwrap_or_default());
    })
}

fn status(status: &Of<StatusResponse>) -> String {
    let reply = &status.reply;
    let inner = object(|fields| {
        header(fields, reply.header.as_ref());
        fields.string_unless_empty("version", &reply.version);
        fields.number_unless_zero("dbSize", reply.db_size);
        fields.number_unless_zero("leader", reply.leader);
        fields.number_unless_zero("raftIndex", reply.raft_index);
        fields.number_unless_zero("raftTerm", reply.raft_term);
        fields.number_unless_zero("raftAppliedIndex", reply.raft_applied_index);
        fields.strings_unless_empty("errors", &reply.errors);
        fields.number_unless_zero("dbSizeInUse", reply.db_size_in_use);
        fields.true_only("isLearner", reply.is_learner);
        fields.string_unless_empty("storageVersion", &reply.storage_version);
        fields.number_unless_zero("dbSizeQuota", reply.db_size_quota);
        if let Some(downgrade) = &reply.downgrade_info {
            let inner = object(|fields| {
                fields.true_only("enabled", downgrade.enabled);
                fields.string_unless_empty("targetVersion", &downgrade.target_version);
            });
            fields.json("downgradeInfo", inner);
        }
    });
    object(|fields| {
        fields.string("Endpoint", &status.endpoint);
        fields.json("Status", inner);
    })
}

fn hash_kv(hash: &Of<HashKvResponse>) -> String {
    let reply = &hash.reply;
    let inner = object(|fields| {
        header(fields, reply.header.as_ref());
        fields.number_unless_zero("hash", reply.hash);
        fields.number_unless_zero("compact_revision", reply.compact_revision);
        fields.number_unless_zero("hash_revision", reply.hash_revision);
    });
    object(|fields| {
        fields.string("Endpoint", &hash.endpoint);
        fields.json("HashKV", inner);
    })
}

fn alarms(reply: &AlarmResponse) -> String {
    let alarm = |alarm: &AlarmMember| {
        object(|fields| {
            fields.number_unless_zero("memberID", alarm.member_id);
            fields.number_unless_zero("alarm", alarm.alarm);
        })
    };
    object(|fields| {
        header(fields, reply.header.as_ref());
        if !reply.alarms.is_empty() {
            fields.json("alarms", array(reply.alarms.iter().map(alarm)));
        }
    })
}

fn role(reply: &AuthRoleGetResponse) -> String {
    let permission = |permission: &Permission| {
        object(|fields| {
            fields.number_unless_zero("permType", permission.perm_type);
            fields.bytes_unless_empty("key", &permission.key);
            fields.bytes_unless_empty("range_end", &permission.range_end);
        })
    };
    object(|fields| {
        header(fields, reply.header.as_ref());
        if !reply.perm.is_empty() {
            fields.json("perm", array(reply.perm.iter().map(permission)));
        }
    })
}

fn names(of_reply: Option<&ResponseHeader>, name: &str, names: &[String]) -> String {
    object(|fields| {
        header(fields, of_reply);
        fields.strings_unless_empty(name, names);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: ResponseHeader =
        ResponseHeader { cluster_id: u64::MAX, member_id: 2, revision: 9, raft_term: 4 };

    #[test]
    fn watch_replies_are_client_structs() {
        let kv = KeyValue { key: "a<".into(), mod_revision: 9, ..Default::default() };
        let deleted = Event { r#type: 1, kv: Some(kv.clone()), prev_kv: Some(kv) };
        let reply =
            WatchResponse { header: Some(HEADER), events: vec![deleted], ..Default::default() };
        assert_eq!(
            to_json(&Reply::Watch(&reply), false),
            r#"{"Header":{"cluster_id":18446744073709551615,"member_id":2,"revision":9,"raft_term":4},"Events":[{"type":1,"kv":{"key":"YTw=","mod_revision":9},"prev_kv":{"key":"YTw=","mod_revision":9}}],"CompactRevision":0,"Canceled":false,"Created":false,"CancelReason":""}"#
        );
    }

    #[test]
    fn nested_transactions_keep_their_shape() {
        let nested = TxnResponse { succeeded: true, ..Default::default() };
        let op = |response| retcd_api::etcdserverpb::ResponseOp { response: Some(response) };
        let responses = vec![
            op(Response::ResponseTxn(nested)),
            op(Response::ResponsePut(PutResponse::default())),
        ];
        let reply = TxnResponse { header: None, succeeded: false, responses };
        assert_eq!(
            to_json(&Reply::Txn(&reply), false),
            r#"{"responses":[{"Response":{"response_txn":{"succeeded":true}}},{"Response":{"response_put":{}}}]}"#
        );
    }

    #[test]
    fn hexadecimal_ids_are_strings() {
        let member =
            Member { id: u64::MAX, name: "n1".into(), is_learner: true, ..Default::default() };
        let reply = MemberListResponse { header: Some(HEADER), members: vec![member] };
        assert_eq!(
            to_json(&Reply::MemberList(&reply), true),
            r#"{"header":{"cluster_id":"ffffffffffffffff","member_id":"2","revision":9,"raft_term":4},"members":[{"ID":"ffffffffffffffff","name":"n1","isLearner":true}]}"#
        );
    }

    #[test]
    fn lease_replies_spread_the_header() {
        let keys = vec!["foo".into()];
        let reply =
            LeaseTimeToLiveResponse { header: Some(HEADER), id: 5, ttl: 42, granted_ttl: 60, keys };
        assert_eq!(
            time_to_live(&reply),
            r#"{"cluster_id":18446744073709551615,"member_id":2,"revision":9,"raft_term":4,"id":5,"ttl":42,"granted-ttl":60,"keys":["Zm9v"]}"#
        );
        assert_eq!(leases(&LeaseLeasesResponse::default()), r#"{"leases":[]}"#);
    }
}
