//! The completion scripts, in real shells.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use retcd_testkit::{Process, Tool};

/// Runs a script in a shell in which `etcdctl` is ours. `None` when this machine does not have the shell.
fn run(shell: &str, args: &[&str], script: &str) -> Option<String> {
    let is_there = Command::new(shell)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if is_there.is_err() {
        println!("skipped: no {shell} on this machine");
        return None;
    }
    let program_dir = PathBuf::from(env!("CARGO_BIN_EXE_etcdctl")).parent().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new(shell);
    command.args(args).arg(script).env("PATH", format!("{}:{path}", program_dir.display()));
    let mut process = Process::spawn(&mut command);
    process.send_all(b"");
    let status = process.wait(std::time::Duration::from_secs(60));
    let stderr = String::from_utf8(process.stderr()).unwrap();
    assert!(status.success() && stderr.is_empty(), "{shell}: {status}\n{stderr}");
    Some(String::from_utf8(process.stdout()).unwrap())
}

#[test]
fn bash_completes() {
    let script = r#"
        set -u
        source <(etcdctl completion bash)
        complete -p etcdctl
        for COMP_LINE in "etcdctl mem" "etcdctl get --pre" "etcdctl -w j" "etcdctl get --write-out=f" "etcdctl lease "; do
            COMP_POINT=${#COMP_LINE}
            __etcdctl_complete
            echo "$COMP_LINE -> ${COMPREPLY[*]}"
        done
    "#;
    let Some(said) = run("bash", &["--norc", "--noprofile", "-c"], script) else { return };
    let expected = "\
complete -F __etcdctl_complete etcdctl
etcdctl mem -> member
etcdctl get --pre -> --prefix
etcdctl -w j -> json
etcdctl get --write-out=f -> fields
etcdctl lease  -> grant revoke timetolive list keep-alive
";
    assert_eq!(said, expected);
}

#[test]
fn zsh_loads() {
    let script = r#"
        autoload -U compinit && compinit -u -D
        source <(etcdctl completion zsh)
        print -r -- "${_comps[etcdctl]}"
        # What the script hands to zsh, without a line editor around it.
        _describe() { print -rl -- "${(@P)2}" }
        words=(etcdctl get --pre) CURRENT=3
        _etcdctl
        words=(etcdctl "") CURRENT=2
        _etcdctl | head -n 1
    "#;
    let Some(said) = run("zsh", &["-f", "-c"], script) else { return };
    let expected = "\
_etcdctl
--prefix:get the keys that begin with <key>
get:Gets the key or a range of keys
";
    assert_eq!(said, expected);
}

#[test]
fn fish_completes() {
    let script = "etcdctl completion fish | source; complete -C 'etcdctl mem'";
    let Some(said) = run("fish", &["--no-config", "-c"], script) else { return };
    assert!(said.starts_with("member\tMembership related commands"), "{said}");
}

#[test]
fn other_shells_are_refused() {
    let tool = Tool::new(Path::new(env!("CARGO_BIN_EXE_etcdctl")), "127.0.0.1:1");
    let refused = tool.run(&["completion", "tcsh"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        text.starts_with("Error: invalid argument \"tcsh\" for \"etcdctl completion\"\nUsage:\n"),
        "{text}"
    );
    assert_eq!((refused.code, tool.run(&["completion"]).code), (1, 1));
    let powershell = tool.expect(&["completion", "powershell"]);
    assert!(powershell.contains("Register-ArgumentCompleter"), "{powershell}");
}
