//! `-w protobuf`: the reply's bytes, without any frame.

use prost::Message;
use retcd_api::etcdserverpb::{AuthEnableResponse, ResponseHeader, WatchResponse};

use super::{Output, Reply, unsupported};
use retcd_command_line::{Exit, Failure};

pub(super) fn render(reply: &Reply<'_>) -> Result<Output, Failure> {
    let header = |header: &Option<ResponseHeader>| header.unwrap_or_default().encode_to_vec();
    let out = match reply {
        Reply::Put(reply) => reply.encode_to_vec(),
        Reply::Range(reply) => reply.encode_to_vec(),
        Reply::DeleteRange(reply) => reply.encode_to_vec(),
        Reply::Txn(reply) => reply.encode_to_vec(),
        Reply::Watch(reply) => watch(reply).encode_to_vec(),
        Reply::MemberList(reply) => reply.encode_to_vec(),
        Reply::MemberAdd(reply) => reply.encode_to_vec(),
        Reply::MemberChange(change) => change.reply.encode_to_vec(),
        Reply::Downgrade(_, reply) => reply.encode_to_vec(),
        Reply::Alarm(reply) => reply.encode_to_vec(),
        Reply::RoleGet(_, reply) => reply.encode_to_vec(),
        Reply::RoleList(reply) => reply.encode_to_vec(),
        Reply::UserGet(_, reply) => reply.encode_to_vec(),
        Reply::UserList(reply) => reply.encode_to_vec(),
        Reply::AuthStatus(reply) => reply.encode_to_vec(),
        // All messages that have only a header are the same on the wire.
        Reply::MoveLeader(done) | Reply::Done(done) => {
            AuthEnableResponse { header: done.header }.encode_to_vec()
        }
        // etcd's client structs for leases are no messages, and only the header inside them is found.
        Reply::LeaseGrant(reply) => header(&reply.header),
        Reply::LeaseKeepAlive(reply) => header(&reply.header),
        Reply::LeaseTimeToLive(reply, _) => header(&reply.header),
        Reply::LeaseLeases(reply) => header(&reply.header),
        Reply::LeaseRevoke(..) => {
            return Err(Failure::new(
                Exit::BadFeature,
                "marshal unsupported for a lease revoke reply",
            ));
        }
        Reply::EndpointHealth(_) | Reply::EndpointStatus(_) | Reply::EndpointHashKv(_) => {
            return Err(unsupported("protobuf"));
        }
    };
    Ok(Output { out, err: Vec::new() })
}

/// What etcd's client keeps of a watch reply: no id, no reason, no fragments.
fn watch(reply: &WatchResponse) -> WatchResponse {
    WatchResponse {
        header: reply.header,
        events: reply.events.clone(),
        compact_revision: reply.compact_revision,
        canceled: reply.canceled,
        created: reply.created,
        ..Default::default()
    }
}
