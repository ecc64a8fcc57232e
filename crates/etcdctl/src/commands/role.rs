//! `role`: what users may do.

use bytes::Bytes;
use retcd_api::authpb::{Permission, permission::Type as PermType};
use retcd_api::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest,
    AuthRoleListRequest, AuthRoleRevokePermissionRequest,
};
use retcd_client::prefix_end;

use super::access::{change, no_arguments, only_name};
use super::text;
use crate::failure;
use crate::print::{Reply, range};
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, Flag, Flags, Invocation};

/// As an end: no end. As a key: the first one.
const ZERO: &[u8] = b"\0";

pub(super) const COMMAND: Command = Command {
    operands: "<subcommand>",
    short: "Role related commands. Use `etcdctl role --help` to see subcommands",
    long: "Role related commands",
    subcommands: &[ADD, DELETE, GET, LIST, GRANT, REVOKE],
    ..Command::new("role", "auth", Action::Group)
};

const ADD: Command = Command {
    operands: "<role name>",
    short: "Adds a new role",
    ..Command::new("add", "", Action::Run(add))
};

const DELETE: Command = Command {
    operands: "<role name>",
    short: "Deletes a role",
    ..Command::new("delete", "", Action::Run(delete))
};

const GET: Command = Command {
    operands: "<role name>",
    short: "Gets detailed information of a role",
    ..Command::new("get", "", Action::Run(get))
};

const LIST: Command =
    Command { short: "Lists all roles", ..Command::new("list", "", Action::Run(list)) };

const GRANT: Command = Command {
    operands: "[options] <role name> <permission type> <key> [endkey]",
    short: "Grants a key to a role",
    flags: &[
        Flag::bool("prefix", "grant the keys that begin with <key>"),
        Flag::bool("from-key", "grant the keys from <key> on, in byte order"),
    ],
    ..Command::new("grant-permission", "", Action::Run(grant))
};

const REVOKE: Command = Command {
    operands: "<role name> <key> [endkey]",
    short: "Revokes a key from a role",
    flags: &[
        Flag::bool("prefix", "revoke the keys that begin with <key>"),
        Flag::bool("from-key", "revoke the keys from <key> on, in byte order"),
    ],
    ..Command::new("revoke-permission", "", Action::Run(revoke))
};

fn add(invocation: &Invocation) -> Result<(), Failure> {
    let name = only_name(invocation, "role add command requires role name as its argument")?;
    change(invocation, format!("Role {name} created"), async |client| {
        Ok(client.role_add(AuthRoleAddRequest { name }).await?.header)
    })
}

fn delete(invocation: &Invocation) -> Result<(), Failure> {
    let role = only_name(invocation, "role delete command requires role name as its argument")?;
    change(invocation, format!("Role {role} deleted"), async |client| {
        Ok(client.role_delete(AuthRoleDeleteRequest { role }).await?.header)
    })
}

fn get(invocation: &Invocation) -> Result<(), Failure> {
    let role = only_name(invocation, "role get command requires role name as its argument")?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.patient_client().role_get(AuthRoleGetRequest { role: role.clone() }))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::RoleGet(&role, &reply))
}

fn list(invocation: &Invocation) -> Result<(), Failure> {
    no_arguments(invocation, "role list command requires no arguments")?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.patient_client().role_list(AuthRoleListRequest {}))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::RoleList(&reply))
}

fn grant(invocation: &Invocation) -> Result<(), Failure> {
    let [role, kind, keys @ ..] = invocation.args.as_slice() else {
        return Err(grant_arguments());
    };
    if keys.is_empty() {
        return Err(grant_arguments());
    }
    let kind = permission_type(&String::from_utf8_lossy(kind))?;
    let (key, range_end) = permission_range(keys, &invocation.flags)?;
    let perm = Some(Permission { perm_type: kind.into(), key, range_end });
    let name = text(role)?;
    change(invocation, format!("Role {name} updated"), async |client| {
        let request = AuthRoleGrantPermissionRequest { name, perm };
        Ok(client.role_grant_permission(request).await?.header)
    })
}

fn grant_arguments() -> Failure {
    Failure::bad_args(
        "role grant command requires role name, permission type, and key [endkey] as its argument",
    )
}

fn revoke(invocation: &Invocation) -> Result<(), Failure> {
    let (role, keys) = match invocation.args.as_slice() {
        [role, keys @ ..] if !keys.is_empty() => (text(role)?, keys),
        _ => {
            return Err(Failure::bad_args(
                "role revoke-permission command requires role name and key [endkey] as its argument",
            ));
        }
    };
    let (key, range_end) = permission_range(keys, &invocation.flags)?;
    // The key is named as it was given, also where an empty one means the first key.
    let what = if range_end.is_empty() {
        [b"key ", keys[0].as_slice()].concat()
    } else {
        [b"range ", range(&keys[0], &range_end).as_slice()].concat()
    };
    let sentence =
        [b"Permission of ", what.as_slice(), b" is revoked from role ", role.as_bytes()].concat();
    change(invocation, sentence, async |client| {
        let request = AuthRoleRevokePermissionRequest { role, key, range_end };
        Ok(client.role_revoke_permission(request).await?.header)
    })
}

fn permission_type(name: &str) -> Result<PermType, Failure> {
    PermType::from_str_name(&name.to_uppercase())
        .ok_or_else(|| Failure::bad_args(format!("invalid permission type: {name}")))
}

/// The key and the end of a permission. There is no empty key, so an empty one stands for the first.
fn permission_range(keys: &[Vec<u8>], flags: &Flags) -> Result<(Bytes, Bytes), Failure> {
    let (is_prefix, is_from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    let key = keys[0].as_slice();
    let is_single = keys.len() == 1 || key.is_empty();
    if is_single && is_prefix && is_from_key {
        return Err(Failure::bad_args("--from-key and --prefix flags are mutually exclusive"));
    }
    let end = match keys.get(1) {
        _ if key.is_empty() && (is_prefix || is_from_key) => ZERO.to_vec(),
        _ if key.is_empty() => Vec::new(),
        Some(_) if is_prefix => return Err(unexpected_end("--prefix")),
        Some(_) if is_from_key => return Err(unexpected_end("--from-key")),
        Some(end) => end.clone(),
        None if is_prefix => prefix_end(key),
        None if is_from_key => ZERO.to_vec(),
        None => Vec::new(),
    };
    let key = if key.is_empty() { ZERO } else { key };
    Ok((Bytes::copy_from_slice(key), end.into()))
}

fn unexpected_end(flag: &str) -> Failure {
    Failure::bad_args(format!("unexpected endkey argument with {flag} flag"))
}
