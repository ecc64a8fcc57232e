//! The tree of commands, as its users meet it.

use retcd_command_line::{
    Command, Exit, Failure, WIDTH, answer, flag_usages, resolve, synopsis, text,
};

use crate::commands::ROOT;
use crate::session::GLOBAL_FLAGS;

fn resolved(line: &str) -> Result<(String, Vec<String>), Failure> {
    let args: Vec<Vec<u8>> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
    let (path, rest) = resolve(&ROOT, &args)?;
    let names: Vec<&str> = path[1..].iter().map(|command| command.name).collect();
    Ok((names.join(" "), rest.into_iter().map(|word| String::from_utf8(word).unwrap()).collect()))
}

#[test]
fn commands_are_found_by_unique_prefixes() {
    let name = |line| resolved(line).unwrap().0;
    assert_eq!(name("mem li"), "member list");
    assert_eq!(name("compact 5"), "compaction");
    assert_eq!(name("le k 1"), "lease keep-alive");
    assert_eq!(name("endp stat"), "endpoint status");
    assert!(resolved("e").is_err(), "elect or endpoint");
    assert_eq!(name("t"), "txn", "etcd has no other with this letter");
    assert_eq!((name("to"), name("tr")), ("top".to_owned(), "tree".to_owned()));
    assert_eq!(name("lease xyz"), "lease", "a group swallows what it does not know");
}

#[test]
fn values_of_flags_are_not_commands() {
    assert_eq!(resolved("--endpoints get -w json put --lease 1 k v").unwrap().0, "put");
    let (name, rest) = resolved("--debug get lease").unwrap();
    assert_eq!((name.as_str(), rest), ("get", vec!["--debug".to_owned(), "lease".to_owned()]));
}

#[test]
fn near_misses_are_suggested() {
    assert_eq!(
        resolved("lese").unwrap_err(),
        Failure::new(
            Exit::Error,
            "unknown command \"lese\" for \"etcdctl\"\n\nDid you mean this?\n\tlease\n"
        )
        .with_usage("Run 'etcdctl --help' for usage.".to_owned())
    );
    assert_eq!(
        resolved("xyzzy").unwrap_err(),
        Failure::new(Exit::Error, "unknown command \"xyzzy\" for \"etcdctl\"")
            .with_usage("Run 'etcdctl --help' for usage.".to_owned())
    );
}

fn completed(line: &str) -> Vec<String> {
    let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    let answer = answer(&ROOT, &words);
    answer.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn commands_and_subcommands() {
    assert_eq!(completed("mem"), ["member", ":4"]);
    assert_eq!(completed("lease "), ["grant", "revoke", "timetolive", "list", "keep-alive", ":4"]);
    assert_eq!(completed("help lease re"), ["revoke", ":4"]);
    assert!(completed("").contains(&"get".to_owned()));
    assert!(!completed("").contains(&"__complete".to_owned()));
    assert_eq!(completed("nonsense "), [":4"]);
}

#[test]
fn flags_and_their_values() {
    assert_eq!(completed("get --pre"), ["--prefix", ":4"]);
    assert_eq!(completed("get foo --sort-by V"), ["VALUE", "VERSION", ":4"]);
    assert_eq!(completed("-w j"), ["json", ":4"]);
    assert_eq!(completed("get --write-out=f"), ["--write-out=fields", ":4"]);
    assert_eq!(completed("get --cacert "), [":0"], "a file");
    assert_eq!(completed("get --prefix "), [":4"], "this flag has no value");
}

#[test]
fn arguments() {
    assert_eq!(completed("completion z"), ["zsh", ":4"]);
    assert_eq!(completed("completion zsh "), [":4"]);
    assert_eq!(completed("snapshot save "), [":0"], "a file");
    assert_eq!(completed("watch foo -- ca"), [":0"], "a program");
}

/// Every command with the commands above it.
fn paths(path: &[&'static Command]) -> Vec<Vec<&'static Command>> {
    let command = path.last().unwrap();
    let below = command.subcommands.iter().filter(|command| !command.is_hidden());
    let below = below.flat_map(|command| paths(&[path, &[command]].concat()));
    std::iter::once(path.to_vec()).chain(below).collect()
}

#[test]
fn every_help_is_complete_and_fits_a_terminal() {
    for path in paths(&[&ROOT]) {
        let help = text(&path);
        let name = synopsis(&path);
        for line in help.lines() {
            assert!(line.chars().count() <= WIDTH, "{name}: {line}");
            assert_eq!(line.trim_end(), line, "{name}: spaces at the end");
        }
        assert!(help.ends_with("every command takes.\n"), "{name}");
        let command = path.last().unwrap();
        assert!(!command.short.is_empty(), "{name} says what it is for");
        let flags =
            command.flags.iter().chain(path[1..].iter().flat_map(|above| above.inherited_flags));
        for flag in flags {
            assert!(help.contains(&format!("--{}", flag.name)), "{name} --{}", flag.name);
            assert!(!flag.usage.is_empty(), "{name} --{} says what it does", flag.name);
        }
        for below in command.subcommands.iter().filter(|command| !command.is_hidden()) {
            assert!(help.contains(&format!("\n  {} ", below.name)), "{name} {}", below.name);
        }
    }
}

#[test]
fn the_options_of_every_command_fit_a_terminal() {
    for line in flag_usages(&GLOBAL_FLAGS).lines() {
        assert!(line.chars().count() <= WIDTH, "{line}");
    }
}
