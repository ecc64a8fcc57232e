//! Commands: finding the one that is meant, and running it.

use crate::failure::{Exit, Failure};
use crate::flags::{Flag, Flags, HELP, Kind, Parsed, parse};
use crate::suggest::{closest, did_you_mean};
use crate::write_out;
use crate::{complete, help};

/// The section of commands that etcd's own tool does not have.
pub const EXTRA: &str = "extra";

/// A command, or a group of them.
#[derive(Debug)]
pub struct Command {
    pub name: &'static str,
    /// What follows the name in the usage line.
    pub operands: &'static str,
    pub short: &'static str,
    /// Shown instead of `short` in the command's own help, if not empty.
    pub long: &'static str,
    /// Under which heading the command is listed.
    pub section: &'static str,
    /// Of a program with many commands and flags: the headings, by section. The flags are listed apart then.
    pub headings: &'static [(&'static str, &'static str)],
    pub flags: &'static [Flag],
    /// Flags that the commands below take, too.
    pub inherited_flags: &'static [Flag],
    pub subcommands: &'static [Command],
    /// What the first argument may be, if there are few possibilities.
    pub words: &'static [&'static str],
    /// Whether arguments name files.
    pub takes_files: bool,
    pub action: Action,
}

/// What a command does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    Run(fn(&Invocation) -> Result<(), Failure>),
    /// Prints the help of the command that the arguments name.
    Help,
    /// Nothing by itself.
    Group,
    /// Answers a shell that wants to complete a command line.
    Complete,
}

impl Command {
    /// A command without flags and texts; the place to start a declaration from.
    pub const fn new(name: &'static str, section: &'static str, action: Action) -> Self {
        Command {
            name,
            operands: "",
            short: "",
            long: "",
            section,
            headings: &[],
            flags: &[],
            inherited_flags: &[],
            subcommands: &[],
            words: &[],
            takes_files: false,
            action,
        }
    }

    /// Whether nobody is told about it.
    pub fn is_hidden(&self) -> bool {
        matches!(self.action, Action::Complete)
    }
}

/// One use of a command.
#[derive(Debug)]
pub struct Invocation {
    /// From the program down to the command.
    path: Vec<&'static Command>,
    pub flags: Flags,
    pub args: Vec<Vec<u8>>,
    /// How many arguments came before `--`, if there was one.
    pub dash: Option<usize>,
}

impl Invocation {
    pub fn command(&self) -> &'static Command {
        self.path.last().expect("a path begins with the program")
    }

    pub fn program(&self) -> &'static str {
        self.path[0].name
    }

    /// The failure of a command that takes another number of arguments.
    pub fn wrong_count(&self, wanted: &str) -> Failure {
        let message = format!("accepts {wanted} arg(s), received {}", self.args.len());
        Failure::new(Exit::Error, message).with_usage(self.usage())
    }

    /// How the command is used, for those who used it otherwise.
    pub fn usage(&self) -> String {
        help::usage(&self.path)
    }

    /// The flags that the commands above handed down; those that have an environment variable.
    pub fn inherited_flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        inherited(&self.path[..self.path.len() - 1])
    }
}

/// Runs what the arguments say.
pub fn run(root: &'static Command, args: &[Vec<u8>]) -> Result<(), Failure> {
    let (path, rest) = resolve(root, args)?;
    let command = *path.last().expect("a path begins with the program");
    if matches!(command.action, Action::Complete) {
        // The words of an unfinished line are for nobody else to judge.
        return write_out(complete::answer(root, &rest).as_bytes());
    }
    let Parsed { flags, args, dash } = parse(declared(&path), &rest)
        .map_err(|error| Failure::new(Exit::Error, error).with_usage(help::usage(&path)))?;
    if flags.bool(HELP.name) {
        return write_out(help::text(&path).as_bytes());
    }
    if let Some(missing) = flags.missing() {
        return Err(Failure::new(Exit::Error, missing).with_usage(help::usage(&path)));
    }
    match command.action {
        Action::Run(run) => run(&Invocation { path, flags, args, dash }),
        Action::Help => print_help(root, &args),
        Action::Group | Action::Complete => write_out(help::text(&path).as_bytes()),
    }
}

/// Goes down the tree as far as the arguments name commands; returns the path and the arguments without the names.
pub fn resolve(
    root: &'static Command,
    args: &[Vec<u8>],
) -> Result<(Vec<&'static Command>, Vec<Vec<u8>>), Failure> {
    let mut path = vec![root];
    let mut rest = args.to_vec();
    loop {
        let command = *path.last().expect("a path begins with the program");
        let Some(position) = first_plain(&rest, &path).filter(|_| !command.subcommands.is_empty())
        else {
            return Ok((path, rest));
        };
        let word = String::from_utf8_lossy(&rest[position]).into_owned();
        match find(command, &word) {
            Some(subcommand) => {
                path.push(subcommand);
                rest.remove(position);
            }
            None if path.len() == 1 => return Err(unknown_command(root, &word)),
            None => return Ok((path, rest)),
        }
    }
}

/// Where the first argument is that is neither a flag nor the value of one. Flags that are not known yet are taken to
/// have a value.
fn first_plain(args: &[Vec<u8>], path: &[&'static Command]) -> Option<usize> {
    let is_switch = |wanted: &dyn Fn(&Flag) -> bool| {
        declared(path).any(|flag| flag.kind == Kind::Bool && wanted(flag))
    };
    let mut position = 0;
    while position < args.len() {
        let arg = String::from_utf8_lossy(&args[position]);
        if arg == "--" {
            return None;
        }
        let takes_next = if let Some(name) = arg.strip_prefix("--") {
            !name.contains('=') && !is_switch(&|flag| flag.name == name)
        } else if let Some(letter) =
            arg.strip_prefix('-').filter(|letters| letters.chars().count() == 1)
        {
            !is_switch(&|flag| flag.short == letter.chars().next())
        } else if arg.is_empty() || arg.starts_with('-') {
            false
        } else {
            return Some(position);
        };
        position += if takes_next { 2 } else { 1 };
    }
    None
}

/// The subcommand that `word` names: in full, or by a prefix that no other shares. Commands that etcd does not have
/// stand back, so every prefix means what it means there.
fn find(command: &'static Command, word: &str) -> Option<&'static Command> {
    if let Some(exact) = command.subcommands.iter().find(|subcommand| subcommand.name == word) {
        return Some(exact);
    }
    let matching = |section_is_extra: bool| {
        let mut named = command.subcommands.iter().filter(move |subcommand| {
            subcommand.name.starts_with(word) && (subcommand.section == EXTRA) == section_is_extra
        });
        (named.next(), named.next())
    };
    let (first, second) = match matching(false) {
        (None, _) => matching(true),
        of_etcd => of_etcd,
    };
    first.filter(|_| second.is_none())
}

/// Every flag that the last command of the path understands.
pub(super) fn declared<'a>(
    path: &'a [&'static Command],
) -> impl Iterator<Item = &'static Flag> + use<'a> {
    let own = path.last().map_or(&[][..], |command| command.flags);
    own.iter().chain(inherited(path)).chain(std::iter::once(&HELP))
}

fn inherited(path: &[&'static Command]) -> impl Iterator<Item = &'static Flag> + use<> {
    let lists: Vec<&'static [Flag]> =
        path.iter().rev().map(|command| command.inherited_flags).collect();
    lists.into_iter().flatten()
}

fn print_help(root: &'static Command, topic: &[Vec<u8>]) -> Result<(), Failure> {
    match resolve(root, topic) {
        Ok((path, rest)) if rest.is_empty() => write_out(help::text(&path).as_bytes()),
        _ => {
            let words: Vec<String> =
                topic.iter().map(|word| format!("`{}`", String::from_utf8_lossy(word))).collect();
            eprintln!("Unknown help topic [{}]\n{}", words.join(" "), help::usage(&[root]));
            Ok(())
        }
    }
}

fn unknown_command(root: &'static Command, word: &str) -> Failure {
    let mut message = format!("unknown command {word:?} for {:?}", root.name);
    let names = root.subcommands.iter().map(|command| command.name);
    let close: Vec<&str> = closest(word, names).collect();
    message.push_str(&did_you_mean(&close));
    Failure::new(Exit::Error, message).with_usage(format!("Run '{} --help' for usage.", root.name))
}
