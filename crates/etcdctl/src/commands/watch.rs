//! `watch`: prints what happens to keys, or runs a program for each event.
//!
//! With `-i` the watches come from stdin, one a line, and share one stream.

use std::collections::BTreeMap;

use retcd_api::etcdserverpb::{WatchCreateRequest, WatchResponse};
use retcd_api::mvccpb::Event;
use retcd_api::mvccpb::event::EventType;
use retcd_client::{Error, Watcher, cancellation, is_progress_notify, prefix_range};
use tokio::sync::mpsc;

use crate::input::Lines;
use crate::interrupts::Interrupts;
use crate::print::{Printer, Reply, shown, write_out};
use crate::session::Session;
use crate::terminal::is_interactive;
use crate::{diff, words};
use retcd_command_line::go::quote::{quote, quote_list};
use retcd_command_line::{Action, Command, Flag, Flags, Invocation, parse};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    short: "Watches events stream on keys or prefixes",
    flags: &[
        Flag::bool("interactive", "read watches from standard input").short('i'),
        Flag::bool("prefix", "watch the keys that begin with the given one"),
        Flag::int("rev", "revision to begin with"),
        Flag::bool("prev-kv", "show key and value from before each event, too"),
        Flag::bool("progress-notify", "let the server report its progress now and then"),
        Flag::bool("diff", "show what changed in values (simple format only)"),
    ],
    ..Command::new("watch", "kv", Action::Run(run))
};

/// Lines of stdin that wait while a reply is being printed. A full queue makes the reader wait.
const LINES_MAX: usize = 16;
/// What shells report for programs that were interrupted.
const INTERRUPTED: u8 = 130;

/// What to watch, and what to do with each event.
#[derive(Debug, PartialEq)]
struct Plan {
    request: WatchCreateRequest,
    treatment: Treatment,
}

#[derive(Debug, Default, PartialEq)]
struct Treatment {
    /// Shows what changed, instead of keys and values.
    shows_diff: bool,
    /// What to run; empty for nothing.
    program: Vec<Vec<u8>>,
}

/// Why there is no plan.
#[derive(Debug, PartialEq)]
enum Refusal {
    /// The line cannot be read; ends `watch -i`, too.
    BadArgs(String),
    /// The line can be read, but means no watch.
    NoWatch(&'static str),
}

/// The key, and perhaps the range end, that the environment names.
#[derive(Debug, Default)]
struct Environment {
    keys: Vec<Vec<u8>>,
}

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let environment = Environment::read()?;
    if invocation.flags.bool("interactive") {
        let session = Session::open(invocation)?;
        return session.block_on(interactive(&session, &environment));
    }
    let plan = plan(&invocation.flags, &invocation.args, invocation.dash, &environment).map_err(
        |refusal| match refusal {
            Refusal::BadArgs(text) => Failure::bad_args(text),
            Refusal::NoWatch(text) => Failure::bad_args(text),
        },
    )?;
    let session = Session::open(invocation)?;
    if plan.treatment.shows_diff {
        session.printer.simple_only()?;
    }
    session.block_on(single(&session, plan))
}

impl Environment {
    fn read() -> Result<Self, Failure> {
        use std::os::unix::ffi::OsStringExt;
        let read = |name| {
            std::env::var_os(name)
                .map(OsStringExt::into_vec)
                .filter(|value: &Vec<u8>| !value.is_empty())
        };
        match (read("ETCDCTL_WATCH_KEY"), read("ETCDCTL_WATCH_RANGE_END")) {
            (None, Some(range_end)) => Err(Failure::bad_args(format!(
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
                quote(&range_end)
            ))),
            (key, range_end) => {
                Ok(Environment { keys: key.into_iter().chain(range_end).collect() })
            }
        }
    }
}

/// Reads what to watch from the arguments, of which the first `dash` came before a `--`.
fn plan(
    flags: &Flags,
    args: &[Vec<u8>],
    dash: Option<usize>,
    environment: &Environment,
) -> Result<Plan, Refusal> {
    let bad_args = |text: &str| Err(Refusal::BadArgs(text.to_owned()));
    let (keys, program) = args.split_at(dash.unwrap_or(args.len()));
    if dash.is_some() && program.is_empty() {
        return bad_args("bad number of arguments (found separator --, but no commands)");
    }
    if !keys.is_empty() && !environment.keys.is_empty() {
        return bad_args("bad number of arguments (found conflicting environment key)");
    }
    let keys = if keys.is_empty() { &environment.keys } else { keys };
    let (key, range_end) = match keys {
        [] if program.is_empty() => return bad_args("bad number of arguments"),
        [] => return Err(Refusal::NoWatch("bad number of arguments")),
        [_, _] if flags.bool("prefix") => {
            return Err(Refusal::NoWatch("`range_end` and `--prefix` are mutually exclusive"));
        }
        [key, ..] if flags.bool("prefix") => prefix_range(key.clone()),
        [key, range_end] => (key.clone(), range_end.clone()),
        [key, ..] => (key.clone(), Vec::new()),
    };
    let request = WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision: flags.int("rev"),
        progress_notify: flags.bool("progress-notify"),
        prev_kv: flags.bool("prev-kv") || flags.bool("diff"),
        ..Default::default()
    };
    let treatment = Treatment { shows_diff: flags.bool("diff"), program: program.to_vec() };
    Ok(Plan { request, treatment })
}

/// One watch, until the server ends it.
async fn single(session: &Session, plan: Plan) -> Result<(), Failure> {
    let mut watcher = session.endless_client().needing_leader().watcher();
    watcher.create(plan.request).await;
    loop {
        let reply = match watcher.next().await {
            Ok(reply) => reply,
            Err(error) => over(&error),
        };
        treat(session.printer, &plan.treatment, &reply).await?;
        if reply.canceled {
            return Err(Failure::new(Exit::Interrupted, "watch is canceled by the server"));
        }
    }
}

/// Watches as stdin demands them, until it ends.
async fn interactive(session: &Session, environment: &Environment) -> Result<(), Failure> {
    let mut lines = lines_of_stdin();
    // While a line is edited the terminal is not as it was, so a signal cannot just end the program.
    let mut interrupts = is_interactive().then(Interrupts::listen).transpose()?;
    let mut watcher = session.endless_client().needing_leader().watcher();
    let mut treatments = BTreeMap::new();
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(Ok(line)) => obey(&line, &mut watcher, &mut treatments, environment).await?,
                Some(Err(failure)) => return Err(failure),
                None => return Err(Failure::new(Exit::InvalidInput, "error reading watch request line: EOF")),
            },
            reply = watcher.next() => match reply {
                Ok(reply) => show_shared(session.printer, &watcher, &reply, &treatments).await?,
                Err(error) => {
                    // The stream is gone, and every watch with it.
                    for _ in std::mem::take(&mut treatments) {
                        show(session.printer, &over(&error))?;
                    }
                }
            },
            () = interrupted(&mut interrupts) => return Err(Failure::silent(Exit::Child(INTERRUPTED))),
        }
    }
}

async fn interrupted(interrupts: &mut Option<Interrupts>) {
    match interrupts {
        Some(interrupts) => interrupts.next().await,
        None => std::future::pending().await,
    }
}

/// Does what a line says; lines that make no sense are answered, and the next one is awaited.
async fn obey(
    line: &[u8],
    watcher: &mut Watcher,
    treatments: &mut BTreeMap<i64, Treatment>,
    environment: &Environment,
) -> Result<(), Failure> {
    let shown = String::from_utf8_lossy(line);
    let words = words::split(line)?;
    let Some((command, args)) = words.split_first() else {
        eprintln!("Invalid command: {shown} (watch and progress supported)");
        return Ok(());
    };
    match command.as_slice() {
        b"watch" if args.is_empty() && environment.keys.is_empty() => {
            eprintln!("Invalid command {shown} (command type or key is not provided)");
        }
        b"watch" => match plan_of_line(args, environment) {
            Ok(plan) => {
                let id = watcher.create(plan.request).await;
                treatments.insert(id, plan.treatment);
            }
            Err(Refusal::NoWatch(text)) => eprintln!("Invalid command {shown} ({text})"),
            Err(Refusal::BadArgs(text)) => return Err(Failure::bad_args(text)),
        },
        b"progress" => watcher.request_progress().await,
        _ => eprintln!("Invalid command {shown} (only support watch)"),
    }
    Ok(())
}

fn plan_of_line(args: &[Vec<u8>], environment: &Environment) -> Result<Plan, Refusal> {
    let parsed = parse(COMMAND.flags, args).map_err(Refusal::BadArgs)?;
    plan(&parsed.flags, &parsed.args, parsed.dash, environment)
}

/// Lines of stdin, edited on a terminal.
fn lines_of_stdin() -> mpsc::Receiver<Result<Vec<u8>, Failure>> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    // Reading stdin cannot be interrupted. The thread ends with the program.
    std::thread::spawn(move || {
        let mut lines = Lines::of_stdin(true);
        while let Some(line) = lines.next().transpose() {
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// Prints a reply; one that is about the whole stream, once for each watch on it.
async fn show_shared(
    printer: Printer,
    watcher: &Watcher,
    reply: &WatchResponse,
    treatments: &BTreeMap<i64, Treatment>,
) -> Result<(), Failure> {
    if let Some(treatment) = treatments.get(&reply.watch_id) {
        return treat(printer, treatment, reply).await;
    }
    let times = if reply.watch_id < 0 && !reply.canceled { watcher.ids().count() } else { 1 };
    for _ in 0..times {
        show(printer, reply)?;
    }
    Ok(())
}

/// Prints a reply, and does for each event what its watch asks for.
async fn treat(
    printer: Printer,
    treatment: &Treatment,
    reply: &WatchResponse,
) -> Result<(), Failure> {
    if treatment.shows_diff && !reply.events.is_empty() {
        write_out(reply.events.iter().map(changes).collect::<String>().as_bytes())?;
    } else {
        show(printer, reply)?;
    }
    for event in &reply.events {
        execute(&treatment.program, reply, event).await?;
    }
    Ok(())
}

/// What an event changed, for people.
fn changes(event: &Event) -> String {
    let kv = event.kv.clone().unwrap_or_default();
    let (kind, key) = (event.r#type(), shown(&kv.key));
    let mut out = format!("{} {key} at revision {}\n", kind.as_str_name(), kv.mod_revision);
    if kind == EventType::Put {
        let before = event.prev_kv.as_ref().map(|kv| kv.value.as_ref());
        for line in diff::describe(before, &kv.value) {
            out.extend(["  ", &line, "\n"]);
        }
    }
    out
}

fn show(printer: Printer, reply: &WatchResponse) -> Result<(), Failure> {
    if let Some(reason) = cancellation(reply) {
        eprintln!("watch was canceled ({reason})");
    }
    if is_progress_notify(reply) {
        let revision = reply.header.map_or(0, |header| header.revision);
        write_out(format!("progress notify: {revision}\n").as_bytes())?;
    }
    let refused = reply.canceled && reply.created;
    if refused {
        // etcd's client keeps nothing of such a reply but the reason.
        let over = WatchResponse { canceled: true, ..Default::default() };
        return printer.print(&Reply::Watch(&over));
    }
    printer.print(&Reply::Watch(reply))
}

/// The last reply of a watch that ended with an error.
fn over(error: &Error) -> WatchResponse {
    WatchResponse {
        canceled: true,
        created: true,
        cancel_reason: error.to_string(),
        ..Default::default()
    }
}

/// Runs the program for an event, which it finds in its environment.
async fn execute(program: &[Vec<u8>], reply: &WatchResponse, event: &Event) -> Result<(), Failure> {
    use std::os::unix::ffi::OsStrExt;
    let Some((name, args)) = program.split_first() else {
        return Ok(());
    };
    let to_os = |bytes: &Vec<u8>| std::ffi::OsStr::from_bytes(bytes).to_owned();
    let kv = event.kv.clone().unwrap_or_default();
    let status = tokio::process::Command::new(to_os(name))
        .args(args.iter().map(to_os))
        .env("ETCD_WATCH_REVISION", reply.header.map_or(0, |header| header.revision).to_string())
        .env("ETCD_WATCH_EVENT_TYPE", quote(event.r#type().as_str_name().as_bytes()))
        .env("ETCD_WATCH_KEY", quote(&kv.key))
        .env("ETCD_WATCH_VALUE", quote(&kv.value))
        .stdin(std::process::Stdio::null())
        .status()
        .await;
    let problem = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => match status.code() {
            Some(code) => format!("exit status {code}"),
            None => status.to_string(),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("exec: {}: executable file not found in $PATH", quote(name))
        }
        Err(error) => format!("exec: {}: {error}", quote(name)),
    };
    eprintln!("command {} error ({problem})", quote_list(program));
    Err(Failure::silent(Exit::Error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str, environment: &[&str]) -> Result<Plan, Refusal> {
        let args = words::split(line.as_bytes()).unwrap();
        let keys = environment.iter().map(|key| key.as_bytes().to_vec()).collect();
        plan_of_line(&args, &Environment { keys })
    }

    #[test]
    fn keys_come_before_the_program() {
        let plan = planned("foo --rev 3 bar --prev-kv -- echo hi", &[]).unwrap();
        assert_eq!(plan.request.key.as_ref(), b"foo");
        assert_eq!(plan.request.range_end.as_ref(), b"bar");
        assert_eq!((plan.request.start_revision, plan.request.prev_kv), (3, true));
        assert_eq!(plan.treatment.program, [b"echo".to_vec(), b"hi".to_vec()]);
        assert!(planned("foo --diff", &[]).unwrap().request.prev_kv, "needs the old value");
        assert_eq!(planned("foo --prefix", &[]).unwrap().request.range_end.as_ref(), b"fop");
    }

    #[test]
    fn keys_may_come_from_the_environment() {
        let plan = planned("-- echo", &["a", "b"]).unwrap();
        assert_eq!(plan.request.key.as_ref(), b"a");
        assert_eq!(plan.request.range_end.as_ref(), b"b");
        let conflict = "bad number of arguments (found conflicting environment key)";
        assert_eq!(planned("foo", &["a"]), Err(Refusal::BadArgs(conflict.to_owned())));
    }

    #[test]
    fn incomplete_lines_are_refused() {
        let bad = |text: &str| Err(Refusal::BadArgs(text.to_owned()));
        assert_eq!(planned("", &[]), bad("bad number of arguments"));
        let no_program = "bad number of arguments (found separator --, but no commands)";
        assert_eq!(planned("foo --", &[]), bad(no_program));
        assert_eq!(planned("foo --nope", &[]), bad("unknown flag: --nope"));
        assert_eq!(planned("-- echo", &[]), Err(Refusal::NoWatch("bad number of arguments")));
        let exclusive = "`range_end` and `--prefix` are mutually exclusive";
        assert_eq!(planned("foo bar --prefix", &[]), Err(Refusal::NoWatch(exclusive)));
    }
}
