//! Users, roles and permissions, and becoming one of the users.
//!
//! Names travel as they are; passwords do too, so they belong on connections that nobody else can read.

use retcd_api::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
};

use crate::client::Retry;
use crate::{Client, Error};

/// Declares one method per call, which all do the same.
macro_rules! calls {
    ($($(#[$doc:meta])* $retry:ident $name:ident($request:ty) -> $response:ty = $rpc:literal;)*) => {
        impl Client {
            $($(#[$doc])*
            pub async fn $name(&self, request: $request) -> Result<$response, Error> {
                self.unary(Retry::$retry, concat!("/etcdserverpb.Auth/", $rpc), &request).await
            })*
        }
    };
}

calls! {
    /// Asks who may do what from now on. Needs a user `root` with the role `root`.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_api::etcdserverpb::{AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest};
    ///
    /// let (name, password) = ("root".to_owned(), "secret".to_owned());
    /// client.user_add(AuthUserAddRequest { name, password, ..Default::default() }).await?;
    /// client.user_grant_role(AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() }).await?;
    /// client.auth_enable(AuthEnableRequest {}).await?;
    /// let root = client.with_credentials("root", "secret");
    /// # let _ = root;
    /// # Ok(())
    /// # }
    /// ```
    Once auth_enable(AuthEnableRequest) -> AuthEnableResponse = "AuthEnable";
    /// Lets everybody do everything again.
    Once auth_disable(AuthDisableRequest) -> AuthDisableResponse = "AuthDisable";
    /// Whether users are asked for.
    Repeatable auth_status(AuthStatusRequest) -> AuthStatusResponse = "AuthStatus";
    /// Exchanges a name and a password for a token, which [`Client::with_token`] takes.
    Repeatable authenticate(AuthenticateRequest) -> AuthenticateResponse = "Authenticate";
    /// Makes a user.
    Once user_add(AuthUserAddRequest) -> AuthUserAddResponse = "UserAdd";
    /// The roles of a user.
    Repeatable user_get(AuthUserGetRequest) -> AuthUserGetResponse = "UserGet";
    /// The names of all users.
    Repeatable user_list(AuthUserListRequest) -> AuthUserListResponse = "UserList";
    /// Removes a user.
    Once user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse = "UserDelete";
    /// Gives a user another password; tokens of the user end.
    Once user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse
        = "UserChangePassword";
    /// Gives a user a role.
    Once user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse = "UserGrantRole";
    /// Takes a role from a user.
    Once user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse
        = "UserRevokeRole";
    /// Makes a role, which permits nothing yet.
    Once role_add(AuthRoleAddRequest) -> AuthRoleAddResponse = "RoleAdd";
    /// What a role permits.
    Repeatable role_get(AuthRoleGetRequest) -> AuthRoleGetResponse = "RoleGet";
    /// The names of all roles.
    Repeatable role_list(AuthRoleListRequest) -> AuthRoleListResponse = "RoleList";
    /// Removes a role, also from the users who have it.
    Once role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse = "RoleDelete";
    /// Adds a permission to a role.
    Once role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse
        = "RoleGrantPermission";
    /// Takes a permission from a role. The range must be the one that was granted.
    Once role_revoke_permission(AuthRoleRevokePermissionRequest)
        -> AuthRoleRevokePermissionResponse = "RoleRevokePermission";
}
