//! The commands of scripts that are about users and roles.

use std::error::Error;
use std::fmt::Write as _;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use retcd_api::authpb;
use retcd_api::etcdserverpb as pb;
use retcd_state_machine::auth::{Action, Identity};
use retcd_state_machine::schema::{self, Bucket};

use super::scripts::{Command, Runner, range_end, refusal, text};

pub(crate) fn run(runner: &mut Runner, command: &Command) -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    match command {
        Command::As { user, revision } => {
            let current = runner.member.reader().auth_revision();
            let revision = if *revision == 0 { current } else { *revision };
            let is_nobody = user == "nobody";
            runner.member.caller = (!is_nobody).then(|| Identity { user: user.clone(), revision });
        }
        Command::AuthEnable => {
            return runner
                .run_simple(|request| request.auth_enable = Some(pb::AuthEnableRequest {}));
        }
        Command::AuthDisable => {
            return runner
                .run_simple(|request| request.auth_disable = Some(pb::AuthDisableRequest {}));
        }
        Command::AuthStatus => {
            let response =
                runner.propose(|request| request.auth_status = Some(pb::AuthStatusRequest {}))?;
            let status = pb::AuthStatusResponse::decode(&response.body[..])?;
            let reader = runner.member.reader();
            assert_eq!(reader.auth_is_enabled(), status.enabled);
            assert_eq!(reader.auth_revision(), status.auth_revision);
            writeln!(out, "enabled {} auth revision {}", status.enabled, status.auth_revision)?;
        }
        Command::UserAdd { name, password } => {
            let no_password = password.is_none();
            let add = pb::AuthUserAddRequest {
                name: name.clone(),
                password: String::new(),
                options: Some(authpb::UserAddOptions { no_password }),
                hashed_password: BASE64_STANDARD.encode(password.as_deref().unwrap_or_default()),
            };
            return runner.run_simple(|request| request.auth_user_add = Some(add));
        }
        Command::UserDelete(name) => {
            let delete = pb::AuthUserDeleteRequest { name: name.clone() };
            return runner.run_simple(|request| request.auth_user_delete = Some(delete));
        }
        Command::UserGet(name) => {
            let get = pb::AuthUserGetRequest { name: name.clone() };
            let response = runner.propose(|request| request.auth_user_get = Some(get))?;
            let user = pb::AuthUserGetResponse::decode(&response.body[..])?;
            writeln!(out, "roles {:?}", user.roles)?;
        }
        Command::UserList => {
            let response = runner
                .propose(|request| request.auth_user_list = Some(pb::AuthUserListRequest {}))?;
            let list = pb::AuthUserListResponse::decode(&response.body[..])?;
            writeln!(out, "users {:?}", list.users)?;
        }
        Command::UserPasswd { name, password } => {
            let change = pb::AuthUserChangePasswordRequest {
                name: name.clone(),
                password: String::new(),
                hashed_password: BASE64_STANDARD.encode(password),
            };
            return runner.run_simple(|request| request.auth_user_change_password = Some(change));
        }
        Command::UserGrantRole { user, role } => {
            let grant = pb::AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
            return runner.run_simple(|request| request.auth_user_grant_role = Some(grant));
        }
        Command::UserRevokeRole { user, role } => {
            let revoke = pb::AuthUserRevokeRoleRequest { name: user.clone(), role: role.clone() };
            return runner.run_simple(|request| request.auth_user_revoke_role = Some(revoke));
        }
        Command::RoleAdd(name) => {
            let add = pb::AuthRoleAddRequest { name: name.clone() };
            return runner.run_simple(|request| request.auth_role_add = Some(add));
        }
        Command::RoleDelete(role) => {
            let delete = pb::AuthRoleDeleteRequest { role: role.clone() };
            return runner.run_simple(|request| request.auth_role_delete = Some(delete));
        }
        Command::RoleGet(role) => {
            let get = pb::AuthRoleGetRequest { role: role.clone() };
            let response = runner.propose(|request| request.auth_role_get = Some(get))?;
            for permission in pb::AuthRoleGetResponse::decode(&response.body[..])?.perm {
                writeln!(out, "{}", show(&permission))?;
            }
        }
        Command::RoleList => {
            let response = runner
                .propose(|request| request.auth_role_list = Some(pb::AuthRoleListRequest {}))?;
            let list = pb::AuthRoleListResponse::decode(&response.body[..])?;
            writeln!(out, "roles {:?}", list.roles)?;
        }
        Command::RoleGrant { role, kind, key, end } => {
            let kind = authpb::permission::Type::from_str_name(kind);
            let perm = kind.map(|kind| authpb::Permission {
                perm_type: kind.into(),
                key: key.clone().into(),
                range_end: range_end(end.as_deref()),
            });
            let grant = pb::AuthRoleGrantPermissionRequest { name: role.clone(), perm };
            return runner.run_simple(|request| request.auth_role_grant_permission = Some(grant));
        }
        Command::RoleRevoke { role, key, end } => {
            let revoke = pb::AuthRoleRevokePermissionRequest {
                role: role.clone(),
                key: key.clone().into(),
                range_end: range_end(end.as_deref()),
            };
            return runner.run_simple(|request| request.auth_role_revoke_permission = Some(revoke));
        }
        Command::Login { user, letters } => {
            let login = pb::InternalAuthenticateRequest {
                name: user.clone(),
                password: String::new(),
                simple_token: letters.clone(),
            };
            let response = runner.propose(|request| request.authenticate = Some(login))?;
            let answer = pb::AuthenticateResponse::decode(&response.body[..])?;
            writeln!(out, "token {:?}", answer.token)?;
        }
        Command::Token { token, after } => {
            runner.member.now += std::time::Duration::from_secs(*after);
            match runner.member.reader().token_user(token, runner.member.now) {
                Some(identity) => writeln!(out, "{} at {}", identity.user, identity.revision)?,
                None => writeln!(out, "nobody's")?,
            }
        }
        Command::May { what, lease } => {
            let action = match &what[..] {
                "administer" => Action::Administer,
                "renew" => Action::ChangeLease(*lease),
                "see_lease" => Action::ReadLease(*lease),
                "see_leases" => Action::ReadAllLeases,
                other => return Err(format!("unknown action {other}").into()),
            };
            let permitted = runner.member.reader().permit(runner.member.caller.as_ref(), action);
            permitted.map_err(|rejection| refusal(&rejection))?;
            writeln!(out, "yes")?;
        }
        Command::AuthRecords => {
            for (bucket, key, value) in runner.member.backend.contents() {
                let name = text(&key);
                match bucket {
                    Bucket::Auth if key == schema::auth::REVISION => {
                        writeln!(out, "{name} {}", value[7])?;
                    }
                    Bucket::Auth => writeln!(out, "{name} {value:?}")?,
                    Bucket::AuthUsers => {
                        let user = authpb::User::decode(&value[..])?;
                        assert_eq!(user.name, name.as_bytes());
                        let password = text(&user.password);
                        writeln!(out, "user {name} password {password:?} roles {:?}", user.roles)?;
                    }
                    Bucket::AuthRoles => {
                        let role = authpb::Role::decode(&value[..])?;
                        let permissions: Vec<_> = role.key_permission.iter().map(show).collect();
                        writeln!(out, "role {name} {}", permissions.join(", "))?;
                    }
                    _ => {}
                }
            }
        }
        other => unreachable!("{other:?} is not about users"),
    }
    Ok(out)
}

fn show(permission: &authpb::Permission) -> String {
    let kind = permission.perm_type().as_str_name();
    let key = permission.key.escape_ascii();
    match &permission.range_end[..] {
        [] => format!("{kind} {key}"),
        end => format!("{kind} [{key},{})", end.escape_ascii()),
    }
}
