//! Help texts in cobra's layout.

use std::fmt::Write;

use super::command::{Action, Command};
use super::flags::{Flag, HELP, Kind};

/// The order in which the program lists its commands.
const SECTIONS: [(&str, &str); 5] = [
    ("kv", "Key-value commands"),
    ("cluster", "Cluster maintenance commands"),
    ("concurrency", "Concurrency commands"),
    ("auth", "Authentication commands"),
    ("utility", "Utility commands"),
];

/// The columns that command names take, at least.
const NAME_WIDTH_MIN: usize = 11;

/// What `--help` prints for the last command of the path.
pub(super) fn text(path: &[&'static Command]) -> String {
    let command = path.last().expect("a path begins with the program");
    let about = if command.long.is_empty() { command.short } else { command.long };
    let program = path[0].name;
    format!(
        "{}\n\n{}Use \"{program} options\" for a list of global command-line options (applies to all commands).\n",
        about.trim_end(),
        usage(path)
    )
}

/// How the last command of the path is used.
pub(super) fn usage(path: &[&'static Command]) -> String {
    let command = path.last().expect("a path begins with the program");
    let names: Vec<&str> = path.iter().map(|command| command.name).collect();
    let full_name = names.join(" ");
    let mut out = String::from("Usage:");
    if matches!(command.action, Action::Run(_) | Action::Help | Action::Later) {
        let operands = if command.operands.is_empty() { "" } else { " " };
        let flags = if command.operands.contains("[flags]") { "" } else { " [flags]" };
        add(&mut out, format_args!("\n  {full_name}{operands}{}{flags}", command.operands));
    }
    if !command.subcommands.is_empty() {
        add(&mut out, format_args!("\n  {full_name} [command]"));
        list_commands(&mut out, command, path.len() == 1);
    }
    // The program's own flags are the global ones, which `options` lists.
    if path.len() > 1 {
        let own = command.flags.iter().chain(command.inherited_flags).chain([&HELP]);
        add(&mut out, format_args!("\n\nFlags:\n{}", flag_usages(own).trim_end()));
    }
    let from_groups: Vec<&Flag> =
        path.iter().skip(1).rev().skip(1).flat_map(|command| command.inherited_flags).collect();
    if !from_groups.is_empty() {
        add(&mut out, format_args!("\n\nGlobal Flags:\n{}", flag_usages(from_groups).trim_end()));
    }
    if !command.subcommands.is_empty() {
        add(
            &mut out,
            format_args!(
                "\n\nUse \"{full_name} [command] --help\" for more information about a command."
            ),
        );
    }
    out.push('\n');
    out
}

fn list_commands(out: &mut String, command: &'static Command, by_section: bool) {
    let mut commands: Vec<&Command> = command.subcommands.iter().collect();
    commands.sort_by_key(|command| command.name);
    let longest = commands.iter().map(|command| command.name.len()).max().unwrap_or(0);
    let width = longest.max(NAME_WIDTH_MIN);
    let sections: &[(&str, &str)] =
        if by_section { &SECTIONS } else { &[("", "Available Commands:")] };
    for (section, title) in sections {
        add(out, format_args!("\n\n{title}"));
        for command in commands.iter().filter(|command| !by_section || command.section == *section)
        {
            add(out, format_args!("\n  {:width$} {}", command.name, command.short));
        }
    }
}

/// One line per flag, sorted by name.
pub(crate) fn flag_usages(flags: impl IntoIterator<Item = &'static Flag>) -> String {
    let mut flags: Vec<&Flag> = flags.into_iter().collect();
    flags.sort_by_key(|flag| flag.name);
    let heads: Vec<String> = flags.iter().map(|flag| head(flag)).collect();
    let width = heads.iter().map(String::len).max().unwrap_or(0);
    let mut out = String::new();
    for (flag, head) in flags.iter().zip(&heads) {
        add(&mut out, format_args!("{head:width$}   {}{}\n", flag.usage, default(flag)));
    }
    out
}

fn head(flag: &Flag) -> String {
    let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    let kind = match flag.kind {
        Kind::Bool => "",
        Kind::Int => " int",
        Kind::Text => " string",
        Kind::Duration => " duration",
        Kind::List => " strings",
    };
    format!("  {short}--{}{kind}", flag.name)
}

fn default(flag: &Flag) -> String {
    match (flag.kind, flag.default) {
        (_, "" | "false") | (Kind::Int, "0") => String::new(),
        (Kind::Text, default) => format!(" (default {default:?})"),
        (Kind::List, default) => format!(" (default [{default}])"),
        (_, default) => format!(" (default {default})"),
    }
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
}
