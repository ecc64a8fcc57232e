//! `completion`: scripts with which shells complete command lines.

use retcd_command_line::{Command, completion};

pub(super) const COMMAND: Command = Command {
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
    ..completion::COMMAND
};
