//! Help texts in cobra's layout, for terminals of 80 columns.

use std::fmt::Write;

use crate::command::{Action, Command};
use crate::flags::{Flag, HELP, Kind};

/// The columns of a line.
pub const WIDTH: usize = 80;
/// The columns that command names take, at least.
const NAME_WIDTH_MIN: usize = 11;

/// What `--help` prints for the last command of the path.
pub fn text(path: &[&'static Command]) -> String {
    let program = path[0].name;
    if path[0].headings.is_empty() {
        return usage(path);
    }
    let mut out = String::new();
    for line in about(path).trim_end().lines() {
        // Indented lines are examples, which stay as they are.
        let line = if line.starts_with(' ') { line.to_owned() } else { wrapped(line, 0, 0) };
        add(&mut out, format_args!("{line}\n"));
    }
    add(&mut out, format_args!("\n{}", usage(path)));
    add(
        &mut out,
        format_args!("Use \"{program} options\" for the options that every command takes.\n"),
    );
    out
}

/// What the last command of the path is for.
pub fn about(path: &[&'static Command]) -> &'static str {
    let command = path.last().expect("a path begins with the program");
    if command.long.is_empty() { command.short } else { command.long }
}

/// How the last command of the path is written, without the word that stands for flags.
pub fn synopsis(path: &[&'static Command]) -> String {
    let command = path.last().expect("a path begins with the program");
    let mut words: Vec<&str> = path.iter().map(|command| command.name).collect();
    words.extend(Some(command.operands).filter(|operands| !operands.is_empty()));
    words.join(" ")
}

/// How the last command of the path is used.
pub(crate) fn usage(path: &[&'static Command]) -> String {
    let command = path.last().expect("a path begins with the program");
    let names: Vec<&str> = path.iter().map(|command| command.name).collect();
    let full_name = names.join(" ");
    let mut out = String::from("Usage:");
    if matches!(command.action, Action::Run(_) | Action::Help) {
        let flags = if command.operands.contains("[flags]") { "" } else { " [flags]" };
        let line = format!("{}{flags}", synopsis(path));
        add(&mut out, format_args!("\n{}", wrapped(&line, 2, 6)));
    }
    if !command.subcommands.is_empty() {
        add(&mut out, format_args!("\n  {full_name} [command]"));
        list_commands(&mut out, command);
    }
    // A large program has a command that lists its own flags, which are those of every command.
    let is_large = !path[0].headings.is_empty();
    if path.len() > 1 || !is_large {
        let own = command.flags.iter().chain(command.inherited_flags).chain([&HELP]);
        add(&mut out, format_args!("\n\nFlags:\n{}", flag_usages(own).trim_end()));
    }
    let from_groups: Vec<&Flag> = path
        .iter()
        .skip(usize::from(is_large))
        .rev()
        .skip(1)
        .flat_map(|command| command.inherited_flags)
        .collect();
    if !from_groups.is_empty() {
        add(&mut out, format_args!("\n\nGlobal Flags:\n{}", flag_usages(from_groups).trim_end()));
    }
    if !command.subcommands.is_empty() {
        let hint =
            format!("Use \"{full_name} [command] --help\" for more information about a command.");
        add(&mut out, format_args!("\n\n{}", wrapped(&hint, 0, 0)));
    }
    out.push('\n');
    out
}

fn list_commands(out: &mut String, command: &'static Command) {
    let by_section = !command.headings.is_empty();
    let mut commands: Vec<&Command> =
        command.subcommands.iter().filter(|command| !command.is_hidden()).collect();
    commands.sort_by_key(|command| command.name);
    let longest = commands.iter().map(|command| command.name.len()).max().unwrap_or(0);
    let width = longest.max(NAME_WIDTH_MIN);
    let sections: &[(&str, &str)] =
        if by_section { command.headings } else { &[("", "Available Commands:")] };
    for (section, title) in sections {
        add(out, format_args!("\n\n{title}"));
        for command in commands.iter().filter(|command| !by_section || command.section == *section)
        {
            let head = format!("  {:width$} ", command.name);
            let short = wrapped(command.short, head.len(), head.len());
            add(out, format_args!("\n{head}{}", short.trim_start()));
        }
    }
}

/// One entry per flag, sorted by name.
pub fn flag_usages(flags: impl IntoIterator<Item = &'static Flag>) -> String {
    let mut flags: Vec<&Flag> = flags.into_iter().collect();
    flags.sort_by_key(|flag| flag.name);
    let heads: Vec<String> = flags.iter().map(|flag| head(flag)).collect();
    let width = heads.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut out = String::new();
    for (flag, head) in flags.iter().zip(&heads) {
        let usage = wrapped(&format!("{}{}", flag.usage, default(flag)), width, width);
        add(&mut out, format_args!("{head:width$}{}\n", usage.trim_start()));
    }
    out
}

fn head(flag: &Flag) -> String {
    let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    format!("  {short}--{}{}", flag.name, kind(flag))
}

/// The kind of value that a flag takes, with a space in front; empty for truth flags.
pub fn kind(flag: &Flag) -> &'static str {
    match flag.kind {
        Kind::Bool => "",
        Kind::Int => " int",
        Kind::Uint => " uint",
        Kind::Text => " string",
        Kind::Duration => " duration",
        Kind::List => " strings",
    }
}

/// What a flag is when nobody gives it, with a space in front; empty when that goes without saying.
pub fn default(flag: &Flag) -> String {
    match (flag.kind, flag.default) {
        (_, "" | "false") | (Kind::Int | Kind::Uint, "0") => String::new(),
        (Kind::Text, default) => format!(" (default {default:?})"),
        (Kind::List, default) => format!(" (default [{default}])"),
        (_, default) => format!(" (default {default})"),
    }
}

/// Breaks a text into lines that begin with `first` spaces, or `rest` after the first line. A word that is too long
/// for any line stays whole.
pub(crate) fn wrapped(text: &str, first: usize, rest: usize) -> String {
    let mut out = " ".repeat(first);
    let mut column = first;
    let mut is_at_start = true;
    for word in text.split(' ') {
        let length = word.chars().count();
        if !is_at_start && column + 1 + length > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(rest));
            column = rest;
        } else if !is_at_start {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        is_at_start = false;
    }
    out
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_line_up() {
        static FLAGS: [Flag; 4] = [
            Flag::text("write-out", "simple", "the format").short('w'),
            Flag::bool("hex", "escape bytes"),
            Flag::duration("dial-timeout", "2s", "wait"),
            Flag::int("rev", "the revision"),
        ];
        let expected = "      \
            --dial-timeout duration   wait (default 2s)\n      \
            --hex                     escape bytes\n      \
            --rev int                 the revision\n  \
            -w, --write-out string        the format (default \"simple\")\n";
        assert_eq!(flag_usages(&FLAGS), expected);
    }

    #[test]
    fn long_texts_hang() {
        let text = "a text that is longer than what is left of the line, which has eighty columns";
        let expected = "      a text that is longer than what is left of the line, which has eighty\n          columns";
        assert_eq!(wrapped(text, 6, 10), expected);
        assert_eq!(wrapped("short", 2, 6), "  short");
        let word = "x".repeat(100);
        assert_eq!(wrapped(&format!("a {word}"), 0, 1), format!("a\n {word}"));
    }
}
