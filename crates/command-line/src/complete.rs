//! Completing a command line, for the scripts that `completion` prints.
//!
//! A shell calls `PROGRAM __complete WORD...` with the words so far, of which the last one is unfinished and may be
//! empty. The answer is in cobra's protocol, so scripts that came with etcd's tools work with these as well: one
//! candidate per line, with a tab and a description, then a line with `:` and what the shell should do when there is
//! none.

use std::fmt::Write;

use crate::command::{Action, Command, declared, resolve};
use crate::flags::{Flag, Kind};

/// The shell completes names of files.
const FILES: u8 = 0;
/// The shell completes nothing by itself.
const NOTHING: u8 = 4;

/// Flags whose values are files or directories.
const FILE_FLAGS: [&str; 9] = [
    "cert",
    "key",
    "cacert",
    "dest-cert",
    "dest-key",
    "dest-cacert",
    "data-dir",
    "wal-dir",
    "output-dir",
];

/// What a word could be.
struct Answer {
    /// Each with a description.
    candidates: Vec<(String, &'static str)>,
    otherwise: u8,
}

/// Answers a shell.
pub fn answer(root: &'static Command, words: &[Vec<u8>]) -> String {
    let (unfinished, before) = match words.split_last() {
        Some((last, before)) => (String::from_utf8_lossy(last).into_owned(), before),
        None => (String::new(), &[][..]),
    };
    let answer = candidates(root, before, &unfinished);
    let mut out = String::new();
    for (word, description) in answer.candidates {
        if word.starts_with(&unfinished) {
            writeln!(out, "{word}\t{description}").expect("a string takes everything");
        }
    }
    writeln!(out, ":{}", answer.otherwise).expect("a string takes everything");
    out
}

fn candidates(root: &'static Command, before: &[Vec<u8>], unfinished: &str) -> Answer {
    let nothing = Answer { candidates: Vec::new(), otherwise: NOTHING };
    if before.iter().any(|word| word == b"--") {
        // What follows is a value, or a program to run.
        return Answer { otherwise: FILES, ..nothing };
    }
    let Ok((path, rest)) = resolve(root, before) else {
        return nothing;
    };
    let flags: Vec<&'static Flag> = declared(&path).collect();
    if let Some(flag) = rest.last().and_then(|word| awaiting_value(&flags, word)) {
        return values(flag, "");
    }
    if let Some((name, _)) = unfinished.split_once('=') {
        let named = flags.iter().find(|flag| name.strip_prefix("--") == Some(flag.name));
        return named.map_or(nothing, |flag| values(flag, &format!("{name}=")));
    }
    if unfinished.starts_with('-') {
        return Answer {
            candidates: flags.iter().flat_map(|flag| spellings(flag)).collect(),
            ..nothing
        };
    }
    arguments(root, &path, &rest)
}

/// The flag that `word` gives, if its value is the next word.
fn awaiting_value(flags: &[&'static Flag], word: &[u8]) -> Option<&'static Flag> {
    let word = String::from_utf8_lossy(word);
    let is_named = |flag: &&&Flag| match word.strip_prefix("--") {
        Some(name) => name == flag.name,
        None => word.strip_prefix('-').is_some_and(|letters| {
            flag.short.is_some_and(|short| letters.chars().eq(std::iter::once(short)))
        }),
    };
    flags.iter().find(is_named).copied().filter(|flag| flag.kind != Kind::Bool)
}

fn values(flag: &'static Flag, prefix: &str) -> Answer {
    let values: &[&str] = if flag.kind == Kind::Bool { &["true", "false"] } else { flag.values };
    let candidates = values.iter().map(|value| (format!("{prefix}{value}"), "")).collect();
    Answer { candidates, otherwise: if FILE_FLAGS.contains(&flag.name) { FILES } else { NOTHING } }
}

fn spellings(flag: &'static Flag) -> impl Iterator<Item = (String, &'static str)> {
    let short = flag.short.map(|short| (format!("-{short}"), flag.usage));
    std::iter::once((format!("--{}", flag.name), flag.usage)).chain(short)
}

/// What may stand where no flag is.
fn arguments(root: &'static Command, path: &[&'static Command], rest: &[Vec<u8>]) -> Answer {
    let command = *path.last().expect("a path begins with the program");
    let group = match command.action {
        // The arguments of `help` name a command.
        Action::Help => resolve(root, rest).map_or(command, |(path, _)| path[path.len() - 1]),
        Action::Run(_) | Action::Group | Action::Complete => command,
    };
    let subcommands = group.subcommands.iter().filter(|command| !command.is_hidden());
    let named = subcommands.map(|command| (command.name.to_owned(), command.short));
    let words = command.words.iter().map(|word| ((*word).to_owned(), ""));
    let is_first = rest.iter().all(|word| word.starts_with(b"-"));
    let candidates = named.chain(words.filter(|_| is_first)).collect();
    let otherwise = if command.takes_files { FILES } else { NOTHING };
    Answer { candidates, otherwise }
}
