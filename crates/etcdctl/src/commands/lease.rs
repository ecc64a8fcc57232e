//! `lease`: grants, renews and ends leases.

use retcd_client::Error;

use super::lease_id;
use crate::failure;
use crate::print::{Format, Reply, WithKeys, write_out};
use crate::session::Session;
use retcd_command_line::go::number::parse_int;
use retcd_command_line::{Action, Command, Flag, Invocation};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "<subcommand>",
    short: "Lease related commands. Use `etcdctl lease --help` to see subcommands",
    long: "Lease related commands",
    subcommands: &[GRANT, REVOKE, TIME_TO_LIVE, LIST, KEEP_ALIVE],
    ..Command::new("lease", "kv", Action::Group)
};

const GRANT: Command = Command {
    operands: "<ttl>",
    short: "Creates leases",
    ..Command::new("grant", "", Action::Run(grant))
};

const REVOKE: Command = Command {
    operands: "<leaseID>",
    short: "Revokes leases",
    ..Command::new("revoke", "", Action::Run(revoke))
};

const TIME_TO_LIVE: Command = Command {
    operands: "<leaseID> [options]",
    short: "Get lease information",
    flags: &[Flag::bool("keys", "get the keys that are attached to the lease")],
    ..Command::new("timetolive", "", Action::Run(time_to_live))
};

const LIST: Command =
    Command { short: "List all active leases", ..Command::new("list", "", Action::Run(list)) };

const KEEP_ALIVE: Command = Command {
    operands: "[options] <leaseID>",
    short: "Keeps leases alive (renew)",
    flags: &[Flag::bool("once", "renew the lease once and exit")],
    ..Command::new("keep-alive", "", Action::Run(keep_alive))
};

fn grant(invocation: &Invocation) -> Result<(), Failure> {
    let [ttl] = invocation.args.as_slice() else {
        return Err(Failure::bad_args("lease grant command needs TTL argument"));
    };
    let ttl = parse_int(&String::from_utf8_lossy(ttl), 10)
        .map_err(|error| Failure::bad_args(format!("bad TTL ({error})")))?;
    let session = Session::open(invocation)?;
    let reply = session.block_on(session.client().lease_grant(ttl, 0)).map_err(|error| {
        failure::request(&error).in_words(|error| format!("failed to grant lease ({error})"))
    })?;
    session.print(&Reply::LeaseGrant(&reply))
}

fn revoke(invocation: &Invocation) -> Result<(), Failure> {
    let id = only_id(invocation, "lease revoke command needs 1 argument")?;
    let session = Session::open(invocation)?;
    let reply = session.block_on(session.client().lease_revoke(id)).map_err(|error| {
        failure::request(&error).in_words(|error| format!("failed to revoke lease ({error})"))
    })?;
    session.print(&Reply::LeaseRevoke(id, &reply))
}

fn time_to_live(invocation: &Invocation) -> Result<(), Failure> {
    let id = only_id(invocation, "lease timetolive command needs lease ID as argument")?;
    let with_keys = WithKeys(invocation.flags.bool("keys"));
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.patient_client().lease_time_to_live(id, with_keys.0))
        .map_err(|error| bad_connection(&error))?;
    session.print(&Reply::LeaseTimeToLive(&reply, with_keys))
}

fn list(invocation: &Invocation) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let reply = session
        .block_on(session.patient_client().lease_leases())
        .map_err(|error| bad_connection(&error))?;
    session.print(&Reply::LeaseLeases(&reply))
}

fn keep_alive(invocation: &Invocation) -> Result<(), Failure> {
    let id = only_id(invocation, "lease keep-alive command needs lease ID as argument")?;
    let session = Session::open(invocation)?;
    if invocation.flags.bool("once") {
        let reply = session
            .block_on(session.patient_client().lease_keep_alive_once(id))
            .map_err(|error| bad_connection(&error))?;
        return session.print(&Reply::LeaseKeepAlive(&reply));
    }
    session.block_on(async {
        let mut renewals = session.endless_client().lease_keep_alive(id);
        while let Some(reply) = renewals.next().await.map_err(|error| bad_connection(&error))? {
            session.print(&Reply::LeaseKeepAlive(&reply))?;
        }
        Ok(())
    })?;
    match session.printer.format {
        Format::Simple { .. } => {
            write_out(format!("lease {id:016x} expired or revoked.\n").as_bytes())
        }
        Format::Fields | Format::Json | Format::Protobuf | Format::Table => Ok(()),
    }
}

/// The id that is the only argument.
fn only_id(invocation: &Invocation, otherwise: &str) -> Result<i64, Failure> {
    match invocation.args.as_slice() {
        [id] => lease_id(id, "lease ID arg"),
        _ => Err(Failure::bad_args(otherwise)),
    }
}

/// etcdctl calls every failed question about a lease a bad connection.
fn bad_connection(error: &Error) -> Failure {
    failure::request_with(Exit::BadConnection, error)
}
