//! `member`: who belongs to the cluster.

use retcd_api::etcdserverpb::{MemberAddResponse, MemberListResponse};

use super::{is_serializable, member_id, text};
use crate::failure;
use crate::print::{Format, MemberChange, Reply, write_out};
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::go::quote::quote;
use retcd_command_line::{Action, Command, Flag, Invocation};

pub(super) const COMMAND: Command = Command {
    operands: "<subcommand>",
    short: "Membership related commands. Use `etcdctl member --help` to see subcommands",
    long: "Membership related commands",
    subcommands: &[ADD, REMOVE, UPDATE, LIST, PROMOTE],
    ..Command::new("member", "cluster", Action::Group)
};

const PEER_URLS: Flag =
    Flag::text("peer-urls", "", "where its peers find the member (separated by commas)");

const ADD: Command = Command {
    operands: "<memberName> [options]",
    short: "Adds a member into the cluster",
    flags: &[PEER_URLS, Flag::bool("learner", "add it as a learner, which has no vote")],
    ..Command::new("add", "", Action::Run(add))
};

const REMOVE: Command = Command {
    operands: "<memberID>",
    short: "Removes a member from the cluster",
    ..Command::new("remove", "", Action::Run(remove))
};

const UPDATE: Command = Command {
    operands: "<memberID> [options]",
    short: "Updates a member in the cluster",
    flags: &[PEER_URLS],
    ..Command::new("update", "", Action::Run(update))
};

const PROMOTE: Command = Command {
    operands: "<memberID>",
    short: "Promotes a non-voting member in the cluster",
    long: "Promotes a non-voting learner member to a voting one in the cluster.",
    ..Command::new("promote", "", Action::Run(promote))
};

const LIST: Command = Command {
    short: "Lists all members in the cluster",
    long: "Lists all members in the cluster.\n\nThe simple format has one line per member: \
           ID, status, name, peer addresses, client addresses, is learner.",
    flags: &[super::CONSISTENCY],
    ..Command::new("list", "", Action::Run(list))
};

fn list(invocation: &Invocation) -> Result<(), Failure> {
    let serializable = is_serializable(invocation.flags.text("consistency"))?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().member_list(!serializable))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::MemberList(&reply))
}

fn add(invocation: &Invocation) -> Result<(), Failure> {
    let name = match invocation.args.as_slice() {
        [] => return Err(Failure::bad_args("member name not provided")),
        [name] => text(name)?,
        all => return Err(too_many_arguments(all)),
    };
    let urls = peer_urls(invocation)?;
    let is_learner = invocation.flags.bool("learner");
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().member_add(urls, is_learner))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::MemberAdd(&reply))?;
    match session.printer.format {
        Format::Simple { .. } => {
            write_out(environment(&name, invocation.flags.text(PEER_URLS.name), &reply).as_bytes())
        }
        Format::Fields | Format::Json | Format::Protobuf | Format::Table => Ok(()),
    }
}

/// Who forgot the flag gave the URLs as arguments.
fn too_many_arguments(args: &[Vec<u8>]) -> Failure {
    let mut message = "too many arguments".to_owned();
    for arg in args {
        let arg = String::from_utf8_lossy(arg);
        if arg.to_lowercase().starts_with("http") {
            message = message + ", did you mean --peer-urls=" + &arg;
        }
    }
    Failure::bad_args(message)
}

/// What the new member's server should find in its environment.
fn environment(name: &str, peer_urls: &str, reply: &MemberAddResponse) -> String {
    let added = reply.member.as_ref().map_or(0, |member| member.id);
    let cluster: Vec<String> = reply
        .members
        .iter()
        .flat_map(|member| {
            let name = if member.id == added { name } else { member.name.as_str() };
            member.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
        })
        .collect();
    let quoted = |text: &str| quote(text.as_bytes());
    format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quoted(name),
        quoted(&cluster.join(",")),
        quoted(peer_urls)
    )
}

fn remove(invocation: &Invocation) -> Result<(), Failure> {
    let id = only_id(invocation)?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().member_remove(id))
        .map_err(|error| failure::request(&error))?;
    let reply = MemberListResponse { header: reply.header, members: reply.members };
    session.print(&Reply::MemberChange(&MemberChange { id, done: "removed from", reply }))
}

fn update(invocation: &Invocation) -> Result<(), Failure> {
    let id = only_id(invocation)?;
    let urls = peer_urls(invocation)?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().member_update(id, urls))
        .map_err(|error| failure::request(&error))?;
    let reply = MemberListResponse { header: reply.header, members: reply.members };
    session.print(&Reply::MemberChange(&MemberChange { id, done: "updated in", reply }))
}

fn promote(invocation: &Invocation) -> Result<(), Failure> {
    let id = only_id(invocation)?;
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.client().member_promote(id))
        .map_err(|error| failure::request(&error))?;
    let reply = MemberListResponse { header: reply.header, members: reply.members };
    session.print(&Reply::MemberChange(&MemberChange { id, done: "promoted in", reply }))
}

fn only_id(invocation: &Invocation) -> Result<u64, Failure> {
    let [id] = invocation.args.as_slice() else {
        return Err(Failure::bad_args("member ID is not provided"));
    };
    member_id(id).map_err(|error| {
        Failure::bad_args(format!("bad member ID arg ({error}), expecting ID in Hex"))
    })
}

fn peer_urls(invocation: &Invocation) -> Result<Vec<String>, Failure> {
    let urls = invocation.flags.text(PEER_URLS.name);
    if urls.is_empty() {
        return Err(Failure::bad_args("member peer urls not provided"));
    }
    Ok(urls.split(',').map(ToOwned::to_owned).collect())
}
