//! Auth: logins, users, roles. All of it goes through the log, also what only asks: so it is answered as of its entry.
//!
//! A password ends here. Its hash goes into the log, and a login only says that the password was right: the hash is
//! compared before the proposal, as of an auth revision that must still hold when the login is applied.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::Message;
use retcd_api::error::{Code, RpcError};
use retcd_api::etcdserverpb as pb;

use super::kv::encoded;
use super::{Answer, Rpc, Services, decode, guard};
use crate::grpc::Metadata;
use crate::node::Request;
use crate::tokens::{Tokens, random_letters};

/// Carries out any call of this service.
pub(super) async fn unary(
    rpc: Rpc,
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    use Request as To;
    let call = Call { services, metadata };
    match rpc {
        Rpc::Authenticate => authenticate(services, decode(message)?).await,
        Rpc::UserAdd => call.user_add(decode(message)?).await,
        Rpc::UserChangePassword => call.user_change_password(decode(message)?).await,
        Rpc::AuthEnable => call.pass::<pb::AuthEnableRequest>(To::AuthEnable, message).await,
        Rpc::AuthDisable => call.pass::<pb::AuthDisableRequest>(To::AuthDisable, message).await,
        Rpc::AuthStatus => call.pass::<pb::AuthStatusRequest>(To::AuthStatus, message).await,
        Rpc::UserGet => call.pass::<pb::AuthUserGetRequest>(To::AuthUserGet, message).await,
        Rpc::UserList => call.pass::<pb::AuthUserListRequest>(To::AuthUserList, message).await,
        Rpc::UserDelete => {
            call.pass::<pb::AuthUserDeleteRequest>(To::AuthUserDelete, message).await
        }
        Rpc::UserGrantRole => {
            call.pass::<pb::AuthUserGrantRoleRequest>(To::AuthUserGrantRole, message).await
        }
        Rpc::UserRevokeRole => {
            call.pass::<pb::AuthUserRevokeRoleRequest>(To::AuthUserRevokeRole, message).await
        }
        Rpc::RoleAdd => call.pass::<pb::AuthRoleAddRequest>(To::AuthRoleAdd, message).await,
        Rpc::RoleGet => call.pass::<pb::AuthRoleGetRequest>(To::AuthRoleGet, message).await,
        Rpc::RoleList => call.pass::<pb::AuthRoleListRequest>(To::AuthRoleList, message).await,
        Rpc::RoleDelete => {
            call.pass::<pb::AuthRoleDeleteRequest>(To::AuthRoleDelete, message).await
        }
        Rpc::RoleGrantPermission => {
            let to = To::AuthRoleGrantPermission;
            call.pass::<pb::AuthRoleGrantPermissionRequest>(to, message).await
        }
        Rpc::RoleRevokePermission => {
            let to = To::AuthRoleRevokePermission;
            call.pass::<pb::AuthRoleRevokePermissionRequest>(to, message).await
        }
        other => unreachable!("{other:?} is of another service"),
    }
}

struct Call<'a> {
    services: &'a Services,
    metadata: &'a Metadata,
}

impl Call<'_> {
    /// Sends a request of this type into the log as it is.
    async fn pass<M: Message + Default>(
        &self,
        request: Request,
        message: Bytes,
    ) -> Result<Answer, RpcError> {
        decode::<M>(message.clone())?;
        let caller = guard::caller(self.services, self.metadata).await?;
        let pending = self.services.node.propose(request, &message, caller.as_ref())?;
        pending.await.map(Answer::from)
    }

    async fn user_add(&self, mut request: pb::AuthUserAddRequest) -> Result<Answer, RpcError> {
        let caller = guard::caller(self.services, self.metadata).await?;
        if !request.options.is_some_and(|options| options.no_password) {
            request.hashed_password = self.hash(std::mem::take(&mut request.password)).await?;
        }
        let node = &self.services.node;
        let pending = node.propose(Request::AuthUserAdd, &encoded(&request), caller.as_ref())?;
        pending.await.map(Answer::from)
    }

    /// Without a password there is none from now on.
    async fn user_change_password(
        &self,
        mut request: pb::AuthUserChangePasswordRequest,
    ) -> Result<Answer, RpcError> {
        let caller = guard::caller(self.services, self.metadata).await?;
        if !request.password.is_empty() {
            request.hashed_password = self.hash(std::mem::take(&mut request.password)).await?;
        }
        let node = &self.services.node;
        let message = encoded(&request);
        let pending = node.propose(Request::AuthUserChangePassword, &message, caller.as_ref())?;
        pending.await.map(Answer::from)
    }

    /// In the form that the log has it in.
    async fn hash(&self, password: String) -> Result<String, RpcError> {
        Ok(BASE64_STANDARD.encode(self.services.hashing.hash(password).await?))
    }
}

async fn authenticate(
    services: &Services,
    request: pb::AuthenticateRequest,
) -> Result<Answer, RpcError> {
    services.node.read_barrier().await?;
    let pb::AuthenticateRequest { name, password } = request;
    let simple_token =
        if matches!(services.tokens, Tokens::Simple) { random_letters() } else { String::new() };
    let login = pb::InternalAuthenticateRequest { name, password: String::new(), simple_token };
    loop {
        let found = services.reader.password_hash(&login.name);
        let (hash, revision) = found.map_err(|rejection| {
            tracing::warn!(user = login.name, error = %rejection, "invalid authentication was requested");
            RpcError::from(&rejection)
        })?;
        if !services.hashing.is_password(password.clone(), hash).await? {
            tracing::warn!(user = login.name, "invalid authentication was requested");
            return Err(RpcError::AuthFailed);
        }
        let pending = services.node.propose(Request::Authenticate, &encoded(&login), None)?;
        let response = pending.await?;
        // Else the password, or the user, may be another one by now.
        if services.reader.auth_revision() != revision {
            continue;
        }
        let token = match &services.tokens {
            Tokens::Simple => return Ok(response.into()),
            Tokens::None => return Err(RpcError::AuthFailed),
            Tokens::Signed(signer) => signer.sign(&login.name, revision),
        };
        let token = token.map_err(|error| RpcError::other(Code::Unknown, error.to_string()))?;
        let answer = pb::AuthenticateResponse { header: None, token };
        return Ok(Answer::at(response.revision, answer.encode_to_vec()));
    }
}
