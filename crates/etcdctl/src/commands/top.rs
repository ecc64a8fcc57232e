//! `top`: a live view of members and keys.
//!
//! ```text
//!   members.rs   asks each member how it is, and for its counters       ┐
//!   keys.rs      follows all changes, and measures prefixes by and by   ├→  view.rs  one frame of text
//!   screen.rs    the terminal: a frame at a time, and the keys pressed  ┘
//! ```
//!
//! Counters only grow, so rates are the difference of two samples. Where stdout is no terminal the frames come one below
//! the other, without any escapes.

mod keys;
mod members;
mod screen;
mod view;

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use self::keys::Keys;
use self::members::Members;
use self::screen::{Input, Screen};
use super::endpoint::{CLUSTER, endpoints};
use crate::interrupts::Interrupts;
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, EXTRA, Flag, Invocation};

pub(super) const COMMAND: Command = Command {
    operands: "[options]",
    short: "Shows members, rates and prefixes, live",
    long: "Shows members, rates and prefixes, live.\n\n\
           The upper half has one line per endpoint: role, version, size of the database and the part in use, applied \
           index and how far it is behind, puts, reads and transactions per second, slow requests per second, mean time \
           of a sync to disk, watchers and memory. Rates and memory are read from the endpoints' /metrics.\n\n\
           The lower half has the prefixes with the most changes, and the largest ones. To know them, all changes are \
           watched and all keys are read, page by page; --no-keys does without.\n\n\
           q or Ctrl-C ends it, the space bar asks at once. Where the output is no terminal, frames follow each other.",
    flags: &[
        Flag::duration("interval", "2s", "pause between two frames"),
        Flag::int("count", "frames to show (0 means until interrupted)"),
        Flag::int_of("depth", "2", "parts of a key that make a prefix"),
        Flag::text("separator", "/", "what ends the parts of a key"),
        Flag::bool("no-keys", "show members only, and read no keys"),
        CLUSTER,
    ],
    ..Command::new("top", EXTRA, Action::Run(run))
};

/// Faster is only load.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let flags = &invocation.flags;
    if !invocation.args.is_empty() {
        return Err(Failure::bad_args("top command does not accept any arguments"));
    }
    let pause = flags.duration("interval").max(INTERVAL_MIN);
    let frames = u64::try_from(flags.int("count")).ok().filter(|count| *count > 0);
    let depth = usize::try_from(flags.int("depth")).unwrap_or(0).max(1);
    let separator = flags.text("separator").to_owned();
    if separator.is_empty() {
        return Err(Failure::bad_args("--separator must not be empty"));
    }
    let session = Session::open(invocation)?;
    session.printer.simple_only()?;
    let mut members = Members::new(&session, &endpoints(&session, flags.bool(CLUSTER.name))?)?;
    session.block_on(async {
        let keys = (!flags.bool("no-keys"))
            .then(|| Keys::start(&session.endless_client(), separator.into_bytes(), depth));
        show(&mut members, keys.as_ref(), pause, frames).await
    })
}

async fn show(
    members: &mut Members,
    keys: Option<&Keys>,
    pause: Duration,
    frames: Option<u64>,
) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    let (mut screen, mut input) = Screen::open();
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = interrupts.next() => return Ok(()),
            pressed = input.next() => match pressed {
                Input::End => return Ok(()),
                Input::Refresh => ticks.reset(),
            },
        }
        tokio::select! {
            () = members.ask() => {}
            () = interrupts.next() => return Ok(()),
        }
        let prefixes = keys.map(Keys::take);
        screen.show(&view::frame(members, prefixes.as_ref(), screen.size()))?;
        shown += 1;
        if frames == Some(shown) {
            return Ok(());
        }
    }
}
