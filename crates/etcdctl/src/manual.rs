//! The documents that describe the command line: `docs/etcdctl.md` and the man pages.
//!
//! They are made from the same declarations as the parser, by the test below, which fails when they are not what it would
//! write. `UPDATE_GOLDENFILES=1` writes them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use retcd_command_line::{Action, Command, EXTRA, Flag, HELP, about, default, kind, synopsis};

use crate::commands::{HEADINGS, ROOT};
use crate::session::GLOBAL_FLAGS;

/// From the program down to a command.
type Names = [&'static Command];

const EXIT_CODES: [(&str, &str); 8] = [
    ("0", "success"),
    ("1", "the request failed, or the command line cannot be read"),
    ("2", "no connection; also a failed question about a lease"),
    ("3", "what standard input says makes no sense"),
    ("4", "a value of a flag, or an output format, that is not supported"),
    ("5", "the server ended a watch, or a snapshot could not be saved"),
    ("128", "arguments that the command cannot take"),
    ("other", "that of the command which `lock` has run"),
];

#[test]
fn documents_say_what_the_parser_does() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut expected = vec![(docs.join("etcdctl.md"), markdown())];
    for path in paths(&[&ROOT]) {
        expected.push((docs.join("man").join(format!("{}.1", page_name(&path))), man_page(&path)));
    }
    let is_update = std::env::var_os("UPDATE_GOLDENFILES").is_some();
    let known: Vec<PathBuf> = expected.iter().map(|(path, _)| path.clone()).collect();
    for (path, text) in expected {
        if is_update {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "{} is outdated; see the head of this file", path.display());
    }
    for entry in std::fs::read_dir(docs.join("man")).unwrap() {
        let path = entry.unwrap().path();
        let is_ours = path.file_name().unwrap().to_string_lossy().starts_with("etcdctl");
        assert!(!is_ours || known.contains(&path), "{} describes no command", path.display());
    }
}

/// Every command that people may use, with the ones above it.
fn paths(path: &Names) -> Vec<Vec<&'static Command>> {
    let command = path.last().unwrap();
    let below = command.subcommands.iter().filter(|command| !command.is_hidden());
    let below = below.flat_map(|command| paths(&[path, &[command]].concat()));
    std::iter::once(path.to_vec()).chain(below).collect()
}

fn page_name(path: &Names) -> String {
    path.iter().map(|command| command.name).collect::<Vec<_>>().join("-")
}

/// The flags of a command, sorted, without the global ones.
fn own_flags(path: &Names) -> Vec<&'static Flag> {
    let own = path.last().unwrap().flags.iter();
    let from_groups = path.iter().skip(1).flat_map(|command| command.inherited_flags);
    let mut flags: Vec<&Flag> = own.chain(from_groups).chain([&HELP]).collect();
    flags.sort_by_key(|flag| flag.name);
    flags
}

fn sorted_global_flags() -> Vec<&'static Flag> {
    let mut flags: Vec<&Flag> = GLOBAL_FLAGS.iter().collect();
    flags.sort_by_key(|flag| flag.name);
    flags
}

fn spelled(flag: &Flag) -> String {
    let short = flag.short.map_or_else(String::new, |short| format!("-{short}, "));
    format!("{short}--{}{}", flag.name, kind(flag))
}

fn variable(flag: &Flag) -> String {
    format!("ETCDCTL_{}", flag.name.to_uppercase().replace('-', "_"))
}

fn is_runnable(command: &Command) -> bool {
    matches!(command.action, Action::Run(_) | Action::Help)
}

fn markdown() -> String {
    let mut out = String::from(
        "# etcdctl\n\n\
         The command line client. Commands, flags, environment, output and exit codes are those of etcd 3.7.1's etcdctl.\n\n\
         This document is generated from the program's own definitions; `crates/etcdctl/src/manual.rs` says how.\n",
    );
    out.push_str("\n## Options of every command\n\n");
    out.push_str(
        "Each may also be given by an environment variable, but not by both. Commands can be shortened to any prefix \
         that no other command of etcd shares.\n\n",
    );
    out.push_str("| option | environment | meaning |\n|---|---|---|\n");
    for flag in sorted_global_flags() {
        let usage = format!("{}{}", flag.usage, default(flag));
        writeln!(out, "| `{}` | `{}` | {} |", spelled(flag), variable(flag), in_table(&usage))
            .unwrap();
    }
    out.push_str("\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for (code, meaning) in EXIT_CODES {
        writeln!(out, "| {code} | {meaning} |").unwrap();
    }
    for (section, title) in HEADINGS {
        writeln!(out, "\n## {title}").unwrap();
        let of_section =
            |path: &Vec<&'static Command>| path.len() > 1 && path[1].section == section;
        for path in paths(&[&ROOT]).into_iter().filter(of_section) {
            out.push_str(&markdown_of(&path));
        }
    }
    out
}

fn markdown_of(path: &Names) -> String {
    let command = path.last().unwrap();
    let names: Vec<&str> = path[1..].iter().map(|command| command.name).collect();
    let mut out = format!("\n### {}\n\n", names.join(" "));
    if is_runnable(command) {
        write!(out, "```text\n{}\n```\n\n", synopsis(path)).unwrap();
    }
    out.push_str(&prose(about(path)));
    if is_runnable(command) {
        out.push_str("\n| option | meaning |\n|---|---|\n");
        for flag in own_flags(path) {
            let usage = format!("{}{}", flag.usage, default(flag));
            writeln!(out, "| `{}` | {} |", spelled(flag), in_table(&usage)).unwrap();
        }
    }
    out
}

fn in_table(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<")
}

/// A piece of a help text.
struct Part {
    /// Indented lines, which stay as they are.
    is_block: bool,
    lines: Vec<&'static str>,
}

fn parts(text: &'static str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut empty = 0;
    for line in text.trim_end().lines() {
        if line.is_empty() {
            empty += 1;
            continue;
        }
        let is_block = line.starts_with(' ');
        match parts.last_mut().filter(|part| part.is_block == is_block) {
            Some(part) => part.lines.extend(std::iter::repeat_n("", empty).chain([line])),
            None => parts.push(Part { is_block, lines: vec![line] }),
        }
        empty = 0;
    }
    parts
}

fn prose(text: &'static str) -> String {
    let part = |part: Part| {
        if part.is_block {
            let lines = part.lines.iter().map(|line| line.strip_prefix("  ").unwrap_or(line));
            format!("```text\n{}\n```\n", lines.collect::<Vec<_>>().join("\n"))
        } else {
            format!("{}\n", in_table(&part.lines.join("\n")))
        }
    };
    parts(text).into_iter().map(part).collect::<Vec<_>>().join("\n")
}

fn man_page(path: &Names) -> String {
    let command = path.last().unwrap();
    let mut out = format!(
        ".TH {} 1 \"\" \"etcdctl {}\" \"etcd\"\n.SH NAME\n{} \\- {}\n",
        quoted(&page_name(path).to_uppercase()),
        retcd_api::ETCD_VERSION,
        roff(&page_name(path)),
        roff(command.short)
    );
    out.push_str(".SH SYNOPSIS\n");
    if is_runnable(command) {
        writeln!(out, ".B {}", roff(&synopsis(path))).unwrap();
    } else {
        writeln!(out, ".B {}\n.I command", roff(&synopsis(&path[..path.len()]))).unwrap();
    }
    write!(out, ".SH DESCRIPTION\n{}", roff_prose(about(path))).unwrap();
    let below: Vec<&Command> =
        command.subcommands.iter().filter(|command| !command.is_hidden()).collect();
    if !below.is_empty() {
        out.push_str(".SH COMMANDS\n");
        for command in below {
            write!(out, ".TP\n.B {}\n{}\n", roff(command.name), roff(command.short)).unwrap();
        }
    }
    if path.len() > 1 {
        out.push_str(".SH OPTIONS\n");
        out.extend(own_flags(path).into_iter().map(|flag| man_flag(flag, false)));
    } else {
        out.push_str(".SH OPTIONS OF EVERY COMMAND\n");
        out.extend(sorted_global_flags().into_iter().map(|flag| man_flag(flag, true)));
        out.push_str(".SH EXIT STATUS\n");
        for (code, meaning) in EXIT_CODES {
            write!(out, ".TP\n.B {code}\n{}\n", roff(meaning)).unwrap();
        }
    }
    if path.iter().any(|command| command.section == EXTRA) {
        out.push_str(".SH NOTES\netcd's own etcdctl does not have this command.\n");
    }
    let mut others: Vec<String> = Vec::new();
    if path.len() > 1 {
        others.push(page_name(&path[..path.len() - 1]));
    }
    others.extend(
        command
            .subcommands
            .iter()
            .filter(|command| !command.is_hidden())
            .map(|below| page_name(&[path, &[below]].concat())),
    );
    let others: Vec<String> =
        others.iter().map(|name| format!("\\fB{}\\fP(1)", roff(name))).collect();
    if !others.is_empty() {
        write!(out, ".SH SEE ALSO\n{}\n", others.join(", ")).unwrap();
    }
    out
}

fn man_flag(flag: &Flag, has_variable: bool) -> String {
    let usage = format!("{}{}", flag.usage, default(flag));
    let mut out = format!(".TP\n.B {}\n{}\n", roff(&spelled(flag)), roff(&usage));
    if has_variable {
        writeln!(out, "(environment: {})", roff(&variable(flag))).unwrap();
    }
    out
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", roff(text))
}

/// Text that roff shows as it is. A line must not begin with a dot or an apostrophe.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

fn roff_prose(text: &'static str) -> String {
    let part = |part: Part| {
        let line = |line: &&str| {
            if line.is_empty() && !part.is_block { ".PP".to_owned() } else { roff(line) }
        };
        let lines = part.lines.iter().map(line).collect::<Vec<_>>().join("\n");
        if part.is_block { format!(".nf\n{lines}\n.fi\n") } else { format!("{lines}\n") }
    };
    parts(text).into_iter().map(part).collect::<Vec<_>>().join(".PP\n")
}
