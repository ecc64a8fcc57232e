//! `completion`: scripts with which shells complete command lines.
//!
//! The scripts know nothing about commands and flags; they ask the hidden command `__complete`, so they stay right when
//! the program changes.

use crate::go::quote::quote;
use crate::{Action, Command, Exit, Failure, Invocation, write_out};

/// Each shell with its script, in which the program is called `PROGRAM`.
const SCRIPTS: [(&str, &str); 4] = [
    ("bash", include_str!("completion/bash.sh")),
    ("zsh", include_str!("completion/zsh.sh")),
    ("fish", include_str!("completion/fish.fish")),
    ("powershell", include_str!("completion/powershell.ps1")),
];

/// To be given a text and, where there are any, a section.
pub const COMMAND: Command = Command {
    operands: "<bash|zsh|fish|powershell>",
    short: "Generates a completion script for a shell",
    words: &["bash", "zsh", "fish", "powershell"],
    ..Command::new("completion", "utility", Action::Run(run))
};

/// What the scripts call.
pub const COMPLETE: Command = Command {
    operands: "[word]...",
    short: "Answers a shell that completes a command line",
    ..Command::new("__complete", "", Action::Complete)
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [shell] = invocation.args.as_slice() else {
        return Err(invocation.wrong_count("1"));
    };
    let program = invocation.program();
    if let Some((_, script)) = SCRIPTS.iter().find(|(name, _)| name.as_bytes() == shell) {
        return write_out(script.replace("PROGRAM", program).as_bytes());
    }
    let message = format!("invalid argument {} for \"{program} completion\"", quote(shell));
    Err(Failure::new(Exit::Error, message).with_usage(invocation.usage()))
}
