//! `lock`: only one at a time holds a lock of a name.
//!
//! With a command the lock is held while the command runs, and its exit code is passed on; signals are left to the
//! command. Without one it is held until somebody interrupts.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use retcd_api::etcdserverpb::RangeResponse;
use retcd_client::Client;
use retcd_client::concurrency;

use crate::failure;
use crate::interrupts::Interrupts;
use crate::line_up::{Place, revision};
use crate::print::Reply;
use crate::session::Session;
use retcd_command_line::go::quote::quote;
use retcd_command_line::{Action, Command, Flag, Invocation};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "<lockname> [exec-command arg1 arg2 ...]",
    short: "Acquires a named lock",
    flags: &[Flag::int_of(
        "ttl",
        "10",
        "seconds after which the lock is free when its holder is gone",
    )],
    ..Command::new("lock", "concurrency", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [name, program @ ..] = invocation.args.as_slice() else {
        return Err(Failure::bad_args(
            "lock takes a lock name argument and an optional command to execute",
        ));
    };
    // As in etcd's sessions, no time at all means the usual one.
    let ttl = match invocation.flags.int("ttl") {
        ttl if ttl > 0 => ttl,
        _ => 60,
    };
    let session = Session::open(invocation)?;
    session.block_on(lock(&session, name, program, ttl))
}

async fn lock(
    session: &Session,
    name: &[u8],
    program: &[Vec<u8>],
    ttl: i64,
) -> Result<(), Failure> {
    let client = session.endless_client();
    let mut interrupts = Interrupts::listen()?;
    let lease = client.lease_grant(ttl, 0).await.map_err(|error| failure::request(&error))?.id;
    let kept = concurrency::Session::with_lease(&client, lease);
    let place =
        Place::take(&client, name, b"", lease).await.map_err(|error| failure::request(&error))?;
    let held = tokio::select! {
        held = acquire(&client, &place) => held,
        () = kept.done() => Err(expired()),
        () = interrupts.next() => Err(Failure::new(Exit::Error, "context canceled")),
    };
    let result = match held {
        Err(failure) => Err(failure),
        Ok(held) if program.is_empty() => hold(session, &held, &kept, &mut interrupts).await,
        Ok(held) => execute(program, &place, &held, &kept).await,
    };
    let left = async {
        let client = session.renewed_client().await?;
        place.leave(&client, lease).await
    };
    // What went wrong first is what counts.
    result.and(left.await.map_err(|error| failure::request(&error)))
}

/// Waits for the lock, and makes sure that it is still there to be had.
async fn acquire(client: &Client, place: &Place) -> Result<RangeResponse, Failure> {
    place.until_first(client).await.map_err(|error| failure::request(&error))?;
    let own = place.read(client).await.map_err(|error| failure::request(&error))?;
    own.ok_or_else(expired)
}

fn expired() -> Failure {
    Failure::new(Exit::Error, "mutex: session is expired")
}

async fn hold(
    session: &Session,
    held: &RangeResponse,
    kept: &concurrency::Session,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    session.print(&Reply::Range(held))?;
    tokio::select! {
        () = interrupts.next() => Ok(()),
        () = kept.done() => Err(Failure::new(Exit::Error, "session expired")),
    }
}

/// Runs the command to its end. It may go on when the lease is lost: it alone knows whether it can stop halfway, and
/// has the revision to guard its writes with.
async fn execute(
    program: &[Vec<u8>],
    place: &Place,
    held: &RangeResponse,
    kept: &concurrency::Session,
) -> Result<(), Failure> {
    use std::os::unix::ffi::OsStrExt;
    let to_os = |bytes: &Vec<u8>| std::ffi::OsStr::from_bytes(bytes).to_owned();
    let command = tokio::process::Command::new(to_os(&program[0]))
        .args(program[1..].iter().map(to_os))
        .env("ETCD_LOCK_KEY", to_os(&place.key))
        .env("ETCD_LOCK_REV", revision(held.header.as_ref()).to_string())
        .stdin(Stdio::null())
        .status();
    tokio::pin!(command);
    let status = tokio::select! {
        status = &mut command => status,
        () = kept.done() => command.await,
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(unsuccessful(status)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let name = quote(&program[0]);
            Err(Failure::new(
                Exit::Error,
                format!("exec: {name}: executable file not found in $PATH"),
            ))
        }
        Err(error) => {
            Err(Failure::new(Exit::Error, format!("exec: {}: {error}", quote(&program[0]))))
        }
    }
}

fn unsuccessful(status: ExitStatus) -> Failure {
    match (status.code().and_then(|code| u8::try_from(code).ok()), status.signal()) {
        (Some(code), _) => Failure::new(Exit::Child(code), format!("exit status {code}")),
        (None, Some(signal)) => {
            Failure::new(Exit::Child(u8::MAX), format!("signal: {}", signal_name(signal)))
        }
        (None, None) => Failure::new(Exit::Child(u8::MAX), status.to_string()),
    }
}

/// As Go names the signals that usually end programs.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        6 => "aborted",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}
