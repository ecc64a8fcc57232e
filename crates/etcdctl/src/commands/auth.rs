//! `auth`: whether users are asked for.

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthStatusRequest,
    AuthUserGrantRoleRequest,
};
use retcd_client::{Client, Error};

use crate::failure;
use crate::print::{Reply, write_out};
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, Invocation};

const ROOT: &str = "root";

pub(super) const COMMAND: Command = Command {
    operands: "<enable or disable>",
    short: "Enable or disable authentication. Use `etcdctl auth --help` to see subcommands",
    long: "Enable or disable authentication",
    subcommands: &[
        Command {
            short: "Enables authentication",
            ..Command::new("enable", "", Action::Run(enable))
        },
        Command {
            short: "Disables authentication",
            ..Command::new("disable", "", Action::Run(disable))
        },
        Command {
            short: "Returns authentication status",
            ..Command::new("status", "", Action::Run(status))
        },
    ],
    ..Command::new("auth", "auth", Action::Group)
};

fn enable(invocation: &Invocation) -> Result<(), Failure> {
    let session = open(invocation, "auth enable")?;
    session
        .block_on(enable_with_role(&session.client()))
        .map_err(|error| failure::request(&error))?;
    write_out(b"Authentication Enabled\n")
}

/// Somebody must be able to undo this, so the role `root` is made and given to the user `root` if that is missing.
async fn enable_with_role(client: &Client) -> Result<(), Error> {
    match client.auth_enable(AuthEnableRequest {}).await {
        Err(Error::Rpc(RpcError::RootRoleNotExist)) => {}
        result => return result.map(|_| ()),
    }
    client.role_add(AuthRoleAddRequest { name: ROOT.to_owned() }).await?;
    let grant = AuthUserGrantRoleRequest { user: ROOT.to_owned(), role: ROOT.to_owned() };
    client.user_grant_role(grant).await?;
    client.auth_enable(AuthEnableRequest {}).await?;
    Ok(())
}

fn disable(invocation: &Invocation) -> Result<(), Failure> {
    let session = open(invocation, "auth disable")?;
    session
        .block_on(session.client().auth_disable(AuthDisableRequest {}))
        .map_err(|error| failure::request(&error))?;
    write_out(b"Authentication Disabled\n")
}

fn status(invocation: &Invocation) -> Result<(), Failure> {
    let session = open(invocation, "auth status")?;
    let reply = session
        .block_on(session.client().auth_status(AuthStatusRequest {}))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::AuthStatus(&reply))
}

fn open(invocation: &Invocation, name: &str) -> Result<Session, Failure> {
    if invocation.args.is_empty() {
        return Session::open(invocation);
    }
    Err(Failure::bad_args(format!("{name} command does not accept any arguments")))
}
