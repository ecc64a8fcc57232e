//! `completion`: scripts with which shells complete command lines.
//!
//! The scripts know nothing about commands and flags; they ask the hidden command `__complete`, so they stay right when
//! the program changes.

use crate::cli::{Action, Command, Invocation};
use crate::failure::{Exit, Failure};
use crate::go::quote::quote;
use crate::print::write_out;

/// Each shell with its script.
const SCRIPTS: [(&str, &str); 4] = [
    ("bash", include_str!("completion/bash.sh")),
    ("zsh", include_str!("completion/zsh.sh")),
    ("fish", include_str!("completion/fish.fish")),
    ("powershell", include_str!("completion/powershell.ps1")),
];

pub(super) const COMMAND: Command = Command {
    operands: "<bash|zsh|fish|powershell>",
    short: "Generates a completion script for a shell",
    long: "Generates a completion script for a shell.\n\n\
           For this session:\n\n  \
           bash:        source <(etcdctl completion bash)\n  \
           zsh:         source <(etcdctl completion zsh)\n  \
           fish:        etcdctl completion fish | source\n  \
           PowerShell:  etcdctl completion powershell | Out-String |\n               \
           Invoke-Expression\n\n\
           For every session:\n\n  \
           etcdctl completion bash > /etc/bash_completion.d/etcdctl\n  \
           etcdctl completion zsh > \"${fpath[1]}/_etcdctl\"\n  \
           etcdctl completion fish > ~/.config/fish/completions/etcdctl.fish",
    words: &["bash", "zsh", "fish", "powershell"],
    ..Command::new("completion", "utility", Action::Run(run))
};

/// What the scripts call.
pub(super) const COMPLETE: Command = Command {
    operands: "[word]...",
    short: "Answers a shell that completes a command line",
    ..Command::new("__complete", "", Action::Complete)
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [shell] = invocation.args.as_slice() else {
        let count = invocation.args.len();
        return Err(Failure::new(Exit::Error, format!("accepts 1 arg(s), received {count}"))
            .with_usage(invocation.usage()));
    };
    if let Some((_, script)) = SCRIPTS.iter().find(|(name, _)| name.as_bytes() == shell) {
        return write_out(script.as_bytes());
    }
    let message = format!("invalid argument {} for \"etcdctl completion\"", quote(shell));
    Err(Failure::new(Exit::Error, message).with_usage(invocation.usage()))
}
