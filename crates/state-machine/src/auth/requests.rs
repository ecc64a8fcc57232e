//! What the entries about authentication do.

use prost::Message;
use retcd_api::etcdserverpb as pb;

use super::{Action, Changes};
use crate::apply::Applier;
use crate::machine::Response;
use crate::rejection::Rejection;

/// What a request about authentication needs. `None` for all others, and for what anybody may do.
pub(crate) fn needs(request: &pb::InternalRaftRequest) -> Option<Action<'_>> {
    if let Some(get) = &request.auth_user_get {
        return Some(Action::ReadUser(&get.name));
    }
    if let Some(get) = &request.auth_role_get {
        return Some(Action::ReadRole(&get.role));
    }
    let administers = request.auth_enable.is_some()
        || request.auth_disable.is_some()
        || request.auth_user_add.is_some()
        || request.auth_user_delete.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
        || request.auth_user_list.is_some()
        || request.auth_role_list.is_some()
        || request.auth_role_add.is_some()
        || request.auth_role_delete.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some();
    administers.then_some(Action::Administer)
}

impl Applier<'_> {
    /// Carries out a request about authentication; `None` when it is about something else.
    pub(crate) fn auth(
        &mut self,
        request: &pb::InternalRaftRequest,
        index: u64,
    ) -> Option<Result<Response, Rejection>> {
        Some(if request.auth_status.is_some() {
            Ok(self.auth_status())
        } else if let Some(login) = &request.authenticate {
            self.authenticate(login, index)
        } else if let Some(get) = &request.auth_user_get {
            self.user_get(&get.name)
        } else if let Some(get) = &request.auth_role_get {
            self.role_get(&get.role)
        } else if request.auth_user_list.is_some() {
            let users = self.store.auth.user_names();
            Ok(self.answer(&pb::AuthUserListResponse { header: None, users }))
        } else if request.auth_role_list.is_some() {
            let roles = self.store.auth.role_names();
            Ok(self.answer(&pb::AuthRoleListResponse { header: None, roles }))
        } else {
            let changes = self.change_auth(request)?;
            changes.map(|changes| self.changed(changes))
        })
    }

    fn change_auth(&mut self, request: &pb::InternalRaftRequest) -> Option<Changes> {
        let auth = &mut self.store.auth;
        Some(if request.auth_enable.is_some() {
            auth.enable()
        } else if request.auth_disable.is_some() {
            self.shared.tokens.lock().retain(|_| false);
            Ok(auth.disable())
        } else if let Some(add) = &request.auth_user_add {
            auth.add_user(add)
        } else if let Some(delete) = &request.auth_user_delete {
            let changes = auth.delete_user(&delete.name);
            self.take_tokens(changes, &delete.name)
        } else if let Some(change) = &request.auth_user_change_password {
            let changes = auth.change_password(change);
            self.take_tokens(changes, &change.name)
        } else if let Some(grant) = &request.auth_user_grant_role {
            auth.grant_role(&grant.user, &grant.role)
        } else if let Some(revoke) = &request.auth_user_revoke_role {
            auth.revoke_role(&revoke.name, &revoke.role)
        } else if let Some(add) = &request.auth_role_add {
            auth.add_role(&add.name)
        } else if let Some(delete) = &request.auth_role_delete {
            auth.delete_role(&delete.role)
        } else if let Some(grant) = &request.auth_role_grant_permission {
            auth.grant_permission(grant)
        } else if let Some(revoke) = &request.auth_role_revoke_permission {
            auth.revoke_permission(revoke)
        } else {
            return None;
        })
    }

    /// After a change that ends what the user was trusted with, all tokens of that user are void.
    fn take_tokens(&self, changes: Changes, user: &str) -> Changes {
        if changes.is_ok() {
            self.shared.tokens.lock().retain(|other| other != user);
        }
        changes
    }

    fn auth_status(&self) -> Response {
        let auth = &self.store.auth;
        let (enabled, auth_revision) = (auth.is_enabled(), auth.revision());
        self.answer(&pb::AuthStatusResponse { header: None, enabled, auth_revision })
    }

    /// A login whose password was found right before the proposal. Without letters the server makes another kind of token.
    fn authenticate(
        &self,
        login: &pb::InternalAuthenticateRequest,
        index: u64,
    ) -> Result<Response, Rejection> {
        self.store.auth.check_login(&login.name)?;
        let mut token = String::new();
        if !login.simple_token.is_empty() {
            // Members of etcd count so, and a token must be the same on all of them.
            token = format!("{}.{}", login.simple_token, index - 1);
            self.shared.tokens.lock().assign(&login.name, token.clone(), self.now);
        }
        Ok(self.answer(&pb::AuthenticateResponse { header: None, token }))
    }

    fn user_get(&self, name: &str) -> Result<Response, Rejection> {
        let roles = self.store.auth.user(name)?.stored.roles.clone();
        Ok(self.answer(&pb::AuthUserGetResponse { header: None, roles }))
    }

    fn role_get(&self, name: &str) -> Result<Response, Rejection> {
        let perm = self.store.auth.role_permissions(name)?;
        Ok(self.answer(&pb::AuthRoleGetResponse { header: None, perm }))
    }

    fn answer(&self, message: &impl Message) -> Response {
        Response { revision: self.store.revision, body: message.encode_to_vec() }
    }
}
