//! Permissions against a naive model: a range is permitted when every key of it is, each looked up by itself.
//!
//! All ranges begin and end at a few keys, so it is enough to look at these, at the key that follows each of them, and at
//! no others: between two of them a range neither begins nor ends.

use proptest::prelude::*;
use prost::Message;
use retcd_api::authpb::{Permission, permission::Type};
use retcd_api::etcdserverpb as pb;
use retcd_state_machine::auth::{Action, Identity};
use retcd_state_machine::mvcc::KeyRange;
use retcd_state_machine::{Config, Rejection};

use super::member::{Member, request};

const KEYS: [&str; 6] = ["a", "aa", "b", "b\0", "c", "cc"];
const USERS: [&str; 3] = ["alice", "bob", "carol"];
const ROLES: [&str; 4] = ["r", "s", "t", "root"];

#[derive(Debug, Clone)]
enum Step {
    AddRole(usize),
    DeleteRole(usize),
    Grant { role: usize, kind: Type, range: (usize, usize) },
    Revoke { role: usize, range: (usize, usize) },
    GrantRole { user: usize, role: usize },
    RevokeRole { user: usize, role: usize },
    DeleteUser(usize),
    AddUser(usize),
    Restart,
}

/// The key, and an end: none, open, or a key, which may be before the first.
fn range() -> impl Strategy<Value = (usize, usize)> {
    (0..KEYS.len(), 0..KEYS.len() + 2)
}

fn key(index: usize) -> bytes::Bytes {
    KEYS[index].into()
}

fn end(index: usize) -> bytes::Bytes {
    match index {
        0 => bytes::Bytes::new(),
        1 => bytes::Bytes::from_static(b"\0"),
        index => key(index - 2),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (user, role) = (0..USERS.len(), 0..ROLES.len());
    let kind = prop_oneof![Just(Type::Read), Just(Type::Write), Just(Type::Readwrite)];
    prop_oneof![
        2 => role.clone().prop_map(Step::AddRole),
        1 => role.clone().prop_map(Step::DeleteRole),
        8 => (role.clone(), kind, range()).prop_map(|(role, kind, range)| Step::Grant { role, kind, range }),
        4 => (role.clone(), range()).prop_map(|(role, range)| Step::Revoke { role, range }),
        4 => (user.clone(), role.clone()).prop_map(|(user, role)| Step::GrantRole { user, role }),
        2 => (user.clone(), role).prop_map(|(user, role)| Step::RevokeRole { user, role }),
        1 => user.clone().prop_map(Step::DeleteUser),
        1 => user.prop_map(Step::AddUser),
        1 => Just(Step::Restart),
    ]
}

fn add_user(name: &str) -> pb::InternalRaftRequest {
    let add = pb::AuthUserAddRequest { name: name.into(), ..Default::default() };
    request(|request| request.auth_user_add = Some(add))
}

fn grant_role(user: &str, role: &str) -> pb::InternalRaftRequest {
    let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
    request(|request| request.auth_user_grant_role = Some(grant))
}

fn start() -> Member {
    let mut member = Member::new(Config::default());
    for request in [add_user("root"), grant_role("root", "root")] {
        member.propose(request).unwrap();
    }
    member
        .propose(request(|request| request.auth_enable = Some(pb::AuthEnableRequest {})))
        .unwrap();
    for user in USERS {
        become_root(&mut member);
        member.propose(add_user(user)).unwrap();
    }
    member
}

fn become_root(member: &mut Member) {
    member.caller = Some(identity(member, "root"));
}

fn identity(member: &Member, user: &str) -> Identity {
    Identity { user: user.into(), revision: member.reader().auth_revision() }
}

/// Does it, or is refused: both are fine, as long as what is told afterwards is what counts.
fn take(member: &mut Member, step: &Step) {
    become_root(member);
    let role = |role: &usize| ROLES[*role].to_owned();
    let request = match step {
        Step::AddRole(name) => {
            let add = pb::AuthRoleAddRequest { name: role(name) };
            request(|request| request.auth_role_add = Some(add))
        }
        Step::DeleteRole(name) => {
            let delete = pb::AuthRoleDeleteRequest { role: role(name) };
            request(|request| request.auth_role_delete = Some(delete))
        }
        Step::Grant { role: name, kind, range } => {
            let (perm_type, key, range_end) = ((*kind).into(), key(range.0), end(range.1));
            let perm = Some(Permission { perm_type, key, range_end });
            let grant = pb::AuthRoleGrantPermissionRequest { name: role(name), perm };
            request(|request| request.auth_role_grant_permission = Some(grant))
        }
        Step::Revoke { role: name, range } => {
            let (key, range_end) = (key(range.0), end(range.1));
            let revoke = pb::AuthRoleRevokePermissionRequest { role: role(name), key, range_end };
            request(|request| request.auth_role_revoke_permission = Some(revoke))
        }
        Step::GrantRole { user, role } => grant_role(USERS[*user], ROLES[*role]),
        Step::RevokeRole { user, role: name } => {
            let (name, role) = (USERS[*user].to_owned(), role(name));
            let revoke = pb::AuthUserRevokeRoleRequest { name, role };
            request(|request| request.auth_user_revoke_role = Some(revoke))
        }
        Step::DeleteUser(user) => {
            let delete = pb::AuthUserDeleteRequest { name: USERS[*user].into() };
            request(|request| request.auth_user_delete = Some(delete))
        }
        Step::AddUser(user) => add_user(USERS[*user]),
        Step::Restart => {
            member.flush(usize::MAX, 1);
            return member.restart();
        }
    };
    let before = member.reader().auth_revision();
    let refused = member.propose(request).is_err();
    assert!(!refused || member.reader().auth_revision() == before, "{step:?}");
}

/// What a user may do, as the answers about the user and the roles say. `None`: everything.
fn permissions(member: &mut Member, user: &str) -> Option<Vec<Permission>> {
    become_root(member);
    let get = pb::AuthUserGetRequest { name: user.into() };
    let Ok(answer) = member.propose(request(|request| request.auth_user_get = Some(get))) else {
        return Some(Vec::new());
    };
    let mut all = Vec::new();
    for role in pb::AuthUserGetResponse::decode(&answer.body[..]).unwrap().roles {
        if role == "root" {
            return None;
        }
        let get = pb::AuthRoleGetRequest { role };
        let answer = member.propose(request(|request| request.auth_role_get = Some(get))).unwrap();
        all.extend(pb::AuthRoleGetResponse::decode(&answer.body[..]).unwrap().perm);
    }
    Some(all)
}

fn holds(permissions: Option<&[Permission]>, kind: Type, wanted: KeyRange<'_>) -> bool {
    let Some(permissions) = permissions else { return true };
    let followers = KEYS.iter().map(|key| format!("{key}\0"));
    let keys: Vec<_> = KEYS.iter().map(ToString::to_string).chain(followers).collect();
    let mut asked: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
    asked.retain(|key| wanted.contains(key) || *key == wanted.start);
    asked.iter().all(|key| {
        permissions.iter().any(|held| {
            let is_kind = held.perm_type() == kind || held.perm_type() == Type::Readwrite;
            is_kind && KeyRange::new(&held.key, &held.range_end).contains(key)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn permitted_is_what_is_granted_key_by_key(steps in prop::collection::vec(step(), 1..60)) {
        let mut member = start();
        for (number, taken) in steps.iter().enumerate() {
            take(&mut member, taken);
            if number % 5 != 0 && number + 1 != steps.len() {
                continue;
            }
            for user in USERS {
                let granted = permissions(&mut member, user);
                let identity = identity(&member, user);
                let reader = member.reader();
                for (first, last) in (0..KEYS.len()).flat_map(|first| {
                    (0..KEYS.len() + 2).map(move |last| (first, last))
                }) {
                    let (key, range_end) = (key(first), end(last));
                    let range = KeyRange::new(&key, &range_end);
                    let expected = |kind| {
                        let holds = holds(granted.as_deref(), kind, range);
                        if holds { Ok(()) } else { Err(Rejection::PermissionDenied) }
                    };
                    let read = Action::Read { key: &key, range_end: &range_end };
                    prop_assert_eq!(reader.permit(Some(&identity), read), expected(Type::Read));
                    let delete = pb::DeleteRangeRequest {
                        key: key.clone(),
                        range_end: range_end.clone(),
                        prev_kv: false,
                    };
                    let write = Action::DeleteRange(&delete);
                    prop_assert_eq!(reader.permit(Some(&identity), write), expected(Type::Write));
                }
            }
        }
    }
}
