//! `user`: who may talk to the cluster.

use retcd_api::authpb::UserAddOptions;
use retcd_api::etcdserverpb::{
    AuthRoleGetRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest,
};

use super::access::{change, names, no_arguments, only_name};
use super::text;
use crate::failure;
use crate::password;
use crate::print::{Reply, write_out};
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, Flag, Flags, Invocation};

pub(super) const COMMAND: Command = Command {
    operands: "<subcommand>",
    short: "User related commands. Use `etcdctl user --help` to see subcommands",
    long: "User related commands",
    subcommands: &[ADD, DELETE, GET, LIST, PASSWD, GRANT_ROLE, REVOKE_ROLE],
    ..Command::new("user", "auth", Action::Group)
};

const INTERACTIVE: Flag = Flag::on("interactive", "ask for the password, instead of reading stdin");

const ADD: Command = Command {
    operands: "<user name or user:password> [options]",
    short: "Adds a new user",
    flags: &[
        INTERACTIVE,
        Flag::text("new-user-password", "", "password of the new user"),
        Flag::bool("no-password", "add a user without password, known by certificate only"),
    ],
    ..Command::new("add", "", Action::Run(add))
};

const DELETE: Command = Command {
    operands: "<user name>",
    short: "Deletes a user",
    ..Command::new("delete", "", Action::Run(delete))
};

const GET: Command = Command {
    operands: "<user name> [options]",
    short: "Gets detailed information of a user",
    flags: &[Flag::bool("detail", "show what the roles of the user permit")],
    ..Command::new("get", "", Action::Run(get))
};

const LIST: Command =
    Command { short: "Lists all users", ..Command::new("list", "", Action::Run(list)) };

const PASSWD: Command = Command {
    operands: "<user name> [options]",
    short: "Changes password of user",
    flags: &[INTERACTIVE],
    ..Command::new("passwd", "", Action::Run(change_password))
};

const GRANT_ROLE: Command = Command {
    operands: "<user name> <role name>",
    short: "Grants a role to a user",
    ..Command::new("grant-role", "", Action::Run(grant_role))
};

const REVOKE_ROLE: Command = Command {
    operands: "<user name> <role name>",
    short: "Revokes a role from a user",
    ..Command::new("revoke-role", "", Action::Run(revoke_role))
};

fn add(invocation: &Invocation) -> Result<(), Failure> {
    let [argument] = invocation.args.as_slice() else {
        return Err(Failure::bad_args("user add command requires user name as its argument"));
    };
    let request = new_user(&text(argument)?, &invocation.flags)?;
    change(invocation, format!("User {} created", request.name), async |client| {
        Ok(client.user_add(request).await?.header)
    })
}

/// The password comes from a flag, from behind a colon in the argument, or from whoever runs this.
fn new_user(argument: &str, flags: &Flags) -> Result<AuthUserAddRequest, Failure> {
    let no_password = flags.bool("no-password");
    let from_flag = flags.text("new-user-password");
    let (name, password) = if no_password {
        (argument, String::new())
    } else if !from_flag.is_empty() {
        (argument, from_flag.to_owned())
    } else if let Some((name, password)) = argument.split_once(':') {
        if name.is_empty() {
            return Err(Failure::bad_args("empty user name is not allowed"));
        }
        (name, password.to_owned())
    } else {
        (argument, ask(argument, flags)?)
    };
    let options = Some(UserAddOptions { no_password });
    Ok(AuthUserAddRequest { name: name.to_owned(), password, options, ..Default::default() })
}

fn ask(user: &str, flags: &Flags) -> Result<String, Failure> {
    if flags.bool(INTERACTIVE.name) { password::ask_for_new(user) } else { password::read_word() }
}

fn delete(invocation: &Invocation) -> Result<(), Failure> {
    let name = only_name(invocation, "user delete command requires user name as its argument")?;
    change(invocation, format!("User {name} deleted"), async |client| {
        Ok(client.user_delete(AuthUserDeleteRequest { name }).await?.header)
    })
}

fn get(invocation: &Invocation) -> Result<(), Failure> {
    let name = only_name(invocation, "user get command requires user name as its argument")?;
    let session = Session::open(invocation)?;
    let client = session.patient_client();
    let reply = session
        .block_on(client.user_get(AuthUserGetRequest { name: name.clone() }))
        .map_err(|error| failure::request(&error))?;
    if !invocation.flags.bool("detail") {
        return session.print(&Reply::UserGet(&name, &reply));
    }
    write_out(format!("User: {name}\n").as_bytes())?;
    for role in reply.roles {
        write_out(b"\n")?;
        let permissions = session
            .block_on(client.role_get(AuthRoleGetRequest { role: role.clone() }))
            .map_err(|error| failure::request(&error))?;
        session.print(&Reply::RoleGet(&role, &permissions))?;
    }
    Ok(())
}

fn list(invocation: &Invocation) -> Result<(), Failure> {
    no_arguments(invocation, "user list command requires no arguments")?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.patient_client().user_list(AuthUserListRequest {}))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::UserList(&reply))
}

fn change_password(invocation: &Invocation) -> Result<(), Failure> {
    let name = only_name(invocation, "user passwd command requires user name as its argument")?;
    let password = ask(&name, &invocation.flags)?;
    let request = AuthUserChangePasswordRequest { name, password, ..Default::default() };
    change(invocation, "Password updated", async |client| {
        Ok(client.user_change_password(request).await?.header)
    })
}

fn grant_role(invocation: &Invocation) -> Result<(), Failure> {
    let otherwise = "user grant command requires user name and role name as its argument";
    let [user, role] = names(invocation, otherwise)?;
    change(invocation, format!("Role {role} is granted to user {user}"), async |client| {
        Ok(client.user_grant_role(AuthUserGrantRoleRequest { user, role }).await?.header)
    })
}

fn revoke_role(invocation: &Invocation) -> Result<(), Failure> {
    let otherwise = "user revoke-role requires user name and role name as its argument";
    let [name, role] = names(invocation, otherwise)?;
    change(invocation, format!("Role {role} is revoked from user {name}"), async |client| {
        Ok(client.user_revoke_role(AuthUserRevokeRoleRequest { name, role }).await?.header)
    })
}
