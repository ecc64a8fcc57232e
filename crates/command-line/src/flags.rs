//! Flags: what a command may be told, and reading it from arguments.

use std::time::Duration;

use crate::go::number::{parse_bool, parse_int, parse_uint};
use crate::go::{duration, quote::quote};
use crate::suggest::{closest, did_you_mean};

/// What a flag holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int,
    /// A number of zero or more.
    Uint,
    Text,
    Duration,
    /// Separated by commas; giving the flag again adds to it.
    List,
}

/// The declaration of a flag.
#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub default: &'static str,
    pub usage: &'static str,
    /// The values that make sense, if there are few. For help in typing; the command that takes the flag checks it.
    pub values: &'static [&'static str],
    /// The command does not run without it.
    pub is_required: bool,
}

/// Every command has it, so nobody declares it.
pub static HELP: Flag = Flag::bool("help", "print this text").short('h');

impl Flag {
    const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        usage: &'static str,
    ) -> Self {
        Flag { name, short: None, kind, default, usage, values: &[], is_required: false }
    }

    pub const fn bool(name: &'static str, usage: &'static str) -> Self {
        Flag::new(name, Kind::Bool, "false", usage)
    }

    pub const fn on(name: &'static str, usage: &'static str) -> Self {
        Flag::new(name, Kind::Bool, "true", usage)
    }

    pub const fn int(name: &'static str, usage: &'static str) -> Self {
        Flag::new(name, Kind::Int, "0", usage)
    }

    /// A number that is not 0 by itself.
    pub const fn int_of(name: &'static str, default: &'static str, usage: &'static str) -> Self {
        Flag::new(name, Kind::Int, default, usage)
    }

    pub const fn uint_of(name: &'static str, default: &'static str, usage: &'static str) -> Self {
        Flag::new(name, Kind::Uint, default, usage)
    }

    pub const fn text(name: &'static str, default: &'static str, usage: &'static str) -> Self {
        Flag::new(name, Kind::Text, default, usage)
    }

    pub const fn duration(name: &'static str, default: &'static str, usage: &'static str) -> Self {
        Flag::new(name, Kind::Duration, default, usage)
    }

    pub const fn list(name: &'static str, default: &'static str, usage: &'static str) -> Self {
        Flag::new(name, Kind::List, default, usage)
    }

    #[must_use]
    pub const fn short(self, short: char) -> Self {
        Flag { short: Some(short), ..self }
    }

    #[must_use]
    pub const fn required(self) -> Self {
        Flag { is_required: true, ..self }
    }

    #[must_use]
    pub const fn one_of(self, values: &'static [&'static str]) -> Self {
        Flag { values, ..self }
    }

    /// Checks a value and brings it into the form that [`Flags`] keeps.
    fn check(&self, value: &str) -> Result<String, String> {
        match self.kind {
            Kind::Bool => parse_bool(value).map(|value| value.to_string()),
            Kind::Int => parse_int(value, 0).map(|value| value.to_string()),
            Kind::Uint => parse_uint(value, 0).map(|value| value.to_string()),
            Kind::Duration => duration::parse(value).map(duration::format),
            Kind::Text | Kind::List => Ok(value.to_owned()),
        }
    }
}

/// The flags of one command line, with their values.
#[derive(Debug, Clone)]
pub struct Flags {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    flag: &'static Flag,
    value: String,
    is_changed: bool,
}

/// A command line, taken apart.
#[derive(Debug)]
pub struct Parsed {
    pub flags: Flags,
    /// The arguments before `--`, then those after it.
    pub args: Vec<Vec<u8>>,
    /// How many of `args` came before `--`, if there was one.
    pub dash: Option<usize>,
}

/// Takes a command line apart.
///
/// # Errors
/// A flag that is not declared, lacks its value or has a bad one; in pflag's words.
pub fn parse<'a>(
    declared: impl IntoIterator<Item = &'static Flag>,
    args: impl IntoIterator<Item = &'a Vec<u8>>,
) -> Result<Parsed, String> {
    let mut flags = Flags::defaults(declared);
    let (mut plain, mut dash) = (Vec::new(), None);
    let mut rest = args.into_iter();
    while let Some(arg) = rest.next() {
        let text = String::from_utf8_lossy(arg);
        if let Some(long) = text.strip_prefix("--") {
            if long.is_empty() {
                dash = Some(plain.len());
                plain.extend(rest.by_ref().cloned());
            } else {
                flags.read_long(long, &mut rest)?;
            }
        } else if text.len() > 1 && text.starts_with('-') {
            flags.read_short(&text[1..], &mut rest)?;
        } else {
            plain.push(arg.clone());
        }
    }
    Ok(Parsed { flags, args: plain, dash })
}

impl Flags {
    fn defaults(declared: impl IntoIterator<Item = &'static Flag>) -> Self {
        let entries = declared.into_iter().chain([&HELP]).map(|flag| Entry {
            flag,
            value: flag.default.to_owned(),
            is_changed: false,
        });
        Flags { entries: entries.collect() }
    }

    fn read_long<'a>(
        &mut self,
        text: &str,
        rest: &mut impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<(), String> {
        if text.starts_with(['-', '=']) {
            return Err(format!("bad flag syntax: --{text}"));
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let Some(flag) = self.find(|flag| flag.name == name) else {
            return Err(self.unknown(name));
        };
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => "true".to_owned(),
            None => {
                lossy(rest.next()).ok_or_else(|| format!("flag needs an argument: --{name}"))?
            }
        };
        self.set(flag, &value)
    }

    /// Reads `w=json`, `wjson`, `w` with the value following, or several truth flags at once.
    fn read_short<'a>(
        &mut self,
        cluster: &str,
        rest: &mut impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<(), String> {
        let mut letters = cluster.chars();
        while let Some(letter) = letters.next() {
            let Some(flag) = self.find(|flag| flag.short == Some(letter)) else {
                return Err(format!("unknown shorthand flag: '{letter}' in -{cluster}"));
            };
            let glued = letters.as_str();
            if let Some(value) = glued.strip_prefix('=') {
                return self.set(flag, value);
            }
            if flag.kind == Kind::Bool {
                self.set(flag, "true")?;
                continue;
            }
            if !glued.is_empty() {
                return self.set(flag, glued);
            }
            let Some(value) = lossy(rest.next()) else {
                return Err(format!("flag needs an argument: '{letter}' in -{cluster}"));
            };
            return self.set(flag, &value);
        }
        Ok(())
    }

    /// The error of a flag that nobody declared, with those that may have been meant.
    fn unknown(&self, name: &str) -> String {
        let known = self.entries.iter().map(|entry| entry.flag.name);
        let close: Vec<String> = closest(name, known).map(|name| format!("--{name}")).collect();
        format!("unknown flag: --{name}{}", did_you_mean(&close))
    }

    fn find(&self, is_wanted: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
        self.entries.iter().map(|entry| entry.flag).find(|flag| is_wanted(flag))
    }

    /// Gives a flag a value, from the command line or from the environment.
    ///
    /// # Errors
    /// The value is not of the flag's kind; in pflag's words.
    pub fn set(&mut self, flag: &'static Flag, value: &str) -> Result<(), String> {
        let checked = flag.check(value).map_err(|error| {
            let short = flag.short.map_or(String::new(), |short| format!("-{short}, "));
            format!(
                "invalid argument {} for \"{short}--{}\" flag: {error}",
                quote(value.as_bytes()),
                flag.name
            )
        })?;
        let entry = self.entry_mut(flag.name);
        if flag.kind == Kind::List && entry.is_changed {
            entry.value = format!("{},{checked}", entry.value);
        } else {
            entry.value = checked;
        }
        entry.is_changed = true;
        Ok(())
    }

    fn entry(&self, name: &str) -> &Entry {
        self.entries
            .iter()
            .find(|entry| entry.flag.name == name)
            .expect("commands ask for flags they declare")
    }

    fn entry_mut(&mut self, name: &str) -> &mut Entry {
        self.entries
            .iter_mut()
            .find(|entry| entry.flag.name == name)
            .expect("commands ask for flags they declare")
    }

    /// What to say when required flags were not given.
    pub(crate) fn missing(&self) -> Option<String> {
        let missing =
            self.entries.iter().filter(|entry| entry.flag.is_required && !entry.is_changed);
        let mut names: Vec<String> =
            missing.map(|entry| format!("{:?}", entry.flag.name)).collect();
        names.sort();
        (!names.is_empty()).then(|| format!("required flag(s) {} not set", names.join(", ")))
    }

    pub fn is_changed(&self, name: &str) -> bool {
        self.entry(name).is_changed
    }

    pub fn text(&self, name: &str) -> &str {
        &self.entry(name).value
    }

    pub fn bool(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    pub fn int(&self, name: &str) -> i64 {
        self.text(name).parse().expect("checked when it was set")
    }

    pub fn uint(&self, name: &str) -> u64 {
        self.text(name).parse().expect("checked when it was set")
    }

    pub fn duration(&self, name: &str) -> Duration {
        duration::parse(self.text(name)).expect("checked when it was set")
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        let items = self.text(name).split(',').map(|item| item.trim().to_owned());
        items.filter(|item| !item.is_empty()).collect()
    }
}

fn lossy(arg: Option<&Vec<u8>>) -> Option<String> {
    arg.map(|arg| String::from_utf8_lossy(arg).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: [Flag; 5] = [
        Flag::bool("prefix", ""),
        Flag::int("rev", ""),
        Flag::text("write-out", "simple", "").short('w'),
        Flag::duration("dial-timeout", "2s", ""),
        Flag::list("endpoints", "127.0.0.1:2379", ""),
    ];

    fn parse_line(line: &str) -> Result<Parsed, String> {
        let args: Vec<Vec<u8>> =
            line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        parse(&FLAGS, &args)
    }

    #[test]
    fn flags_and_arguments_mix() {
        let parsed =
            parse_line("foo --prefix --rev 3 bar -w=json --endpoints a --endpoints=b,c -- --rev")
                .unwrap();
        assert_eq!(parsed.args, [b"foo".to_vec(), b"bar".to_vec(), b"--rev".to_vec()]);
        assert_eq!(parsed.dash, Some(2));
        let flags = parsed.flags;
        assert!(flags.bool("prefix"));
        assert_eq!((flags.int("rev"), flags.text("write-out")), (3, "json"));
        assert_eq!(flags.list("endpoints"), ["a", "b", "c"]);
        assert_eq!(flags.duration("dial-timeout"), Duration::from_secs(2));
        assert!(!flags.is_changed("dial-timeout"));
    }

    #[test]
    fn short_flags_take_glued_values() {
        assert_eq!(parse_line("-wjson").unwrap().flags.text("write-out"), "json");
        assert_eq!(parse_line("-w fields").unwrap().flags.text("write-out"), "fields");
        assert!(parse_line("-h").unwrap().flags.bool("help"));
        assert_eq!(parse_line("-").unwrap().args, [b"-".to_vec()]);
    }

    #[test]
    fn truth_flags_take_values_only_with_equals() {
        let parsed = parse_line("--prefix false").unwrap();
        assert!(parsed.flags.bool("prefix"));
        assert_eq!(parsed.args, [b"false".to_vec()]);
        assert!(!parse_line("--prefix=F").unwrap().flags.bool("prefix"));
    }

    #[test]
    fn errors_are_in_pflags_words() {
        let error = |line| parse_line(line).unwrap_err();
        assert_eq!(error("--foo"), "unknown flag: --foo");
        assert_eq!(error("--prefx"), "unknown flag: --prefx\n\nDid you mean this?\n\t--prefix\n");
        assert_eq!(error("-z"), "unknown shorthand flag: 'z' in -z");
        assert_eq!(error("--rev"), "flag needs an argument: --rev");
        assert_eq!(error("-w"), "flag needs an argument: 'w' in -w");
        assert_eq!(error("---x"), "bad flag syntax: ---x");
        assert_eq!(
            error("--rev x"),
            r#"invalid argument "x" for "--rev" flag: strconv.ParseInt: parsing "x": invalid syntax"#
        );
        assert_eq!(
            error("--dial-timeout 5"),
            r#"invalid argument "5" for "--dial-timeout" flag: time: missing unit in duration "5""#
        );
    }
}
