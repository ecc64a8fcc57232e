//! Users: a name, the hash of a password, and roles.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::Message;
use retcd_api::authpb;
use retcd_api::etcdserverpb as pb;

use super::permission::Permissions;
use super::{Auth, Changes, ROOT, User, change};
use crate::backend::Change;
use crate::rejection::Rejection;
use crate::schema::Bucket;

impl Auth {
    pub(super) fn user(&self, name: &str) -> Result<&User, Rejection> {
        self.users.get(name).ok_or_else(|| Rejection::UserNotFound(name.to_owned()))
    }

    /// The hash that a password is compared with.
    ///
    /// # Errors
    /// There is no such user, or one that has no password.
    pub(crate) fn password_hash(&self, name: &str) -> Result<Bytes, Rejection> {
        let user = self.users.get(name).ok_or(Rejection::AuthFailed)?;
        if has_no_password(&user.stored) {
            return Err(Rejection::NoPassword);
        }
        Ok(user.stored.password.clone())
    }

    pub(crate) fn has_same_password(&self, other: &Auth, name: &str) -> bool {
        self.password_hash(name).is_ok() && self.password_hash(name) == other.password_hash(name)
    }

    /// Whether a user may be given a token. The password was compared before.
    pub(super) fn check_login(&self, name: &str) -> Result<(), Rejection> {
        if !self.is_enabled {
            return Err(Rejection::AuthNotEnabled);
        }
        self.password_hash(name).map(drop).map_err(|_| Rejection::AuthFailed)
    }

    pub(super) fn add_user(&mut self, request: &pb::AuthUserAddRequest) -> Changes {
        if request.name.is_empty() {
            return Err(Rejection::UserNameEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(Rejection::UserExists(request.name.clone()));
        }
        let options = request.options.unwrap_or_default();
        let password =
            if options.no_password { Bytes::new() } else { hash(&request.hashed_password)? };
        let name = request.name.clone().into();
        let stored = authpb::User { name, password, roles: Vec::new(), options: Some(options) };
        let change = stored_user(&request.name, Some(&stored));
        self.users
            .insert(request.name.clone(), User { stored, permissions: Permissions::default() });
        Ok(self.changed([change]))
    }

    pub(super) fn delete_user(&mut self, name: &str) -> Changes {
        if self.is_enabled && name == ROOT {
            return Err(Rejection::InvalidAuthManagement);
        }
        self.user(name)?;
        self.users.remove(name);
        Ok(self.changed([stored_user(name, None)]))
    }

    /// An empty password is one that nothing equals.
    pub(super) fn change_password(
        &mut self,
        request: &pb::AuthUserChangePasswordRequest,
    ) -> Changes {
        let user = self.users.get_mut(&request.name);
        let user = user.ok_or_else(|| Rejection::UserNotFound(request.name.clone()))?;
        user.stored.password = if has_no_password(&user.stored) {
            Bytes::new()
        } else {
            hash(&request.hashed_password)?
        };
        let change = stored_user(&request.name, Some(&user.stored));
        Ok(self.changed([change]))
    }

    /// The role root need not exist.
    pub(super) fn grant_role(&mut self, name: &str, role: &str) -> Changes {
        self.user(name)?;
        if role != ROOT {
            self.role(role)?;
        }
        let user = self.users.get_mut(name).expect("it was found above");
        if user.has_role(role) {
            return Ok(Vec::new());
        }
        let place = user.stored.roles.partition_point(|held| held.as_str() < role);
        user.stored.roles.insert(place, role.to_owned());
        Ok(self.roles_changed(name))
    }

    pub(super) fn revoke_role(&mut self, name: &str, role: &str) -> Changes {
        if self.is_enabled && name == ROOT && role == ROOT {
            return Err(Rejection::InvalidAuthManagement);
        }
        if !self.user(name)?.has_role(role) {
            return Err(Rejection::RoleNotGranted);
        }
        let user = self.users.get_mut(name).expect("it was found above");
        user.stored.roles.retain(|held| held != role);
        Ok(self.roles_changed(name))
    }

    fn roles_changed(&mut self, name: &str) -> Vec<Change> {
        self.merge_permissions(|user| user.stored.name == name.as_bytes());
        let change = stored_user(name, self.users.get(name).map(|user| &user.stored));
        self.changed([change])
    }

    /// Takes a role that is gone from all who held it.
    pub(super) fn forget_role(&mut self, role: &str) -> Vec<Change> {
        let mut changes = Vec::new();
        let holders = self.users.iter_mut().filter(|(_, user)| user.has_role(role));
        for (name, user) in holders {
            user.stored.roles.retain(|held| held != role);
            changes.push(stored_user(name, Some(&user.stored)));
        }
        changes
    }

    pub(super) fn user_names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }
}

fn has_no_password(user: &authpb::User) -> bool {
    user.options.is_some_and(|options| options.no_password)
}

/// The hash as it came, in base64. Entries of etcd before 3.5 hold the password itself instead; no user can be made of
/// that here, since every member would have to choose the same salt. Such a user needs a new password.
fn hash(base64: &str) -> Result<Bytes, Rejection> {
    BASE64_STANDARD.decode(base64).map(Bytes::from).map_err(|_| Rejection::NoPassword)
}

fn stored_user(name: &str, user: Option<&authpb::User>) -> Change {
    change(Bucket::AuthUsers, name.as_bytes(), user.map(Message::encode_to_vec))
}
