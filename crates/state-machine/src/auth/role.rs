//! Roles: a name, and permissions on ranges of keys.

use prost::Message;
use retcd_api::authpb::{self, permission::Type};
use retcd_api::etcdserverpb as pb;

use super::{Auth, Changes, ROOT, change};
use crate::backend::Change;
use crate::mvcc::KeyRange;
use crate::rejection::Rejection;
use crate::schema::Bucket;

impl Auth {
    pub(super) fn role(&self, name: &str) -> Result<&authpb::Role, Rejection> {
        self.roles.get(name).ok_or_else(|| Rejection::RoleNotFound(name.to_owned()))
    }

    /// Sorted by key. Those of the role root do not matter: it may do everything, and says so.
    pub(super) fn role_permissions(
        &self,
        name: &str,
    ) -> Result<Vec<authpb::Permission>, Rejection> {
        let role = self.role(name)?;
        if name == ROOT {
            let everything = authpb::Permission {
                perm_type: Type::Readwrite.into(),
                key: bytes::Bytes::new(),
                range_end: bytes::Bytes::from_static(b"\0"),
            };
            return Ok(vec![everything]);
        }
        Ok(role.key_permission.clone())
    }

    pub(super) fn add_role(&mut self, name: &str) -> Changes {
        if name.is_empty() {
            return Err(Rejection::RoleNameEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(Rejection::RoleExists(name.to_owned()));
        }
        let role = authpb::Role { name: name.to_owned().into(), key_permission: Vec::new() };
        let change = stored_role(name, Some(&role));
        self.roles.insert(name.to_owned(), role);
        Ok(self.changed([change]))
    }

    pub(super) fn delete_role(&mut self, name: &str) -> Changes {
        if self.is_enabled && name == ROOT {
            return Err(Rejection::InvalidAuthManagement);
        }
        self.role(name)?;
        self.roles.remove(name);
        // Before it is taken from them: afterwards nobody knows whose it was.
        self.merge_permissions(|user| user.has_role(name));
        let mut changes = vec![stored_role(name, None)];
        changes.extend(self.forget_role(name));
        Ok(self.changed(changes))
    }

    /// The first permission with this key is replaced when its end is the same; else there is one more.
    pub(super) fn grant_permission(
        &mut self,
        request: &pb::AuthRoleGrantPermissionRequest,
    ) -> Changes {
        let granted = request.perm.as_ref().ok_or(Rejection::PermissionNotGiven)?;
        if granted.key.is_empty() || KeyRange::new(&granted.key, &granted.range_end).is_empty() {
            return Err(Rejection::InvalidAuthManagement);
        }
        self.role(&request.name)?;
        let role = self.roles.get_mut(&request.name).expect("it was found above");
        let permissions = &mut role.key_permission;
        let first = permissions.partition_point(|held| held.key < granted.key);
        match permissions.get_mut(first) {
            Some(held) if held.key == granted.key && held.range_end == granted.range_end => {
                held.perm_type = granted.perm_type;
            }
            _ => {
                let behind = permissions.partition_point(|held| held.key <= granted.key);
                permissions.insert(behind, granted.clone());
            }
        }
        Ok(self.permissions_changed(&request.name))
    }

    /// The kind of the permission does not matter.
    pub(super) fn revoke_permission(
        &mut self,
        request: &pb::AuthRoleRevokePermissionRequest,
    ) -> Changes {
        self.role(&request.role)?;
        let role = self.roles.get_mut(&request.role).expect("it was found above");
        let before = role.key_permission.len();
        role.key_permission
            .retain(|held| held.key != request.key || held.range_end != request.range_end);
        if role.key_permission.len() == before {
            return Err(Rejection::PermissionNotGranted);
        }
        Ok(self.permissions_changed(&request.role))
    }

    fn permissions_changed(&mut self, role: &str) -> Vec<Change> {
        self.merge_permissions(|user| user.has_role(role));
        let change = stored_role(role, self.roles.get(role));
        self.changed([change])
    }

    pub(super) fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }
}

fn stored_role(name: &str, role: Option<&authpb::Role>) -> Change {
    change(Bucket::AuthRoles, name.as_bytes(), role.map(Message::encode_to_vec))
}
