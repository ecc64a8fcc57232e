//! Words of the command line, by the rules of Go's `flag` package.
//!
//! One or two dashes; the value follows `=` or is the next word; a boolean without `=` is true and never takes
//! the next word. Reading ends at the first word that is no flag, or behind `--`; what is left is a mistake.

use super::error::Error;
use super::flags::Known;
use super::value::Kind;

/// What the words say.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) given: Vec<(Known, String)>,
    pub(super) wants_help: bool,
}

/// Reads the words behind the program's name. Stops at a request for help.
pub(super) fn read(words: impl IntoIterator<Item = String>) -> Result<Words, Error> {
    let mut words = words.into_iter();
    let mut read = Words::default();
    while let Some(word) = words.next() {
        if word == "--" {
            return words.next().map_or(Ok(read), |word| Err(Error::LeftoverWord(word)));
        }
        let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
            return Err(Error::LeftoverWord(word));
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        if flag.starts_with(['-', '=']) {
            return Err(Error::FlagSyntax(word));
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let Some(known) = Known::find(name) else {
            if name == "h" || name == "help" {
                read.wants_help = true;
                return Ok(read);
            }
            return Err(Error::UnknownFlag(name.to_owned()));
        };
        let value = match value {
            Some(value) => value,
            None if known.kind() == Kind::Bool => "true".to_owned(),
            None => words.next().ok_or_else(|| Error::MissingArgument(known.name()))?,
        };
        read.given.push((known, value));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<(&'static str, String)>, String> {
        read(line.split_whitespace().map(str::to_owned))
            .map(|read| {
                read.given.into_iter().map(|(known, value)| (known.name(), value)).collect()
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_or_two_dashes_with_or_without_equals() {
        for line in ["--name a", "-name a", "--name=a", "-name=a"] {
            assert_eq!(words(line), Ok(vec![("name", "a".to_owned())]), "{line}");
        }
        assert_eq!(words("--name=a=b"), Ok(vec![("name", "a=b".to_owned())]));
        assert_eq!(words("--name -x"), Ok(vec![("name", "-x".to_owned())]));
        assert_eq!(words("--name="), Ok(vec![("name", String::new())]));
    }

    #[test]
    fn booleans_take_no_word() {
        assert_eq!(words("--pre-vote"), Ok(vec![("pre-vote", "true".to_owned())]));
        assert_eq!(words("--pre-vote=false"), Ok(vec![("pre-vote", "false".to_owned())]));
        assert_eq!(words("--pre-vote false"), Err("\"false\" is not a valid flag".to_owned()));
        assert_eq!(words("-v --force"), Ok(vec![("v", "true".into()), ("force", "true".into())]));
    }

    #[test]
    fn mistakes_in_go_words() {
        for (line, message) in [
            ("--nope", "flag provided but not defined: -nope"),
            ("-nope=1", "flag provided but not defined: -nope"),
            ("---name a", "bad flag syntax: ---name"),
            ("--=a", "bad flag syntax: --=a"),
            ("--name", "flag needs an argument: -name"),
            ("serve", "\"serve\" is not a valid flag"),
            ("- --name a", "\"-\" is not a valid flag"),
            ("-- x", "\"x\" is not a valid flag"),
        ] {
            assert_eq!(words(line), Err(message.to_owned()), "{line}");
        }
        assert_eq!(words("--name a --"), Ok(vec![("name", "a".to_owned())]));
    }

    #[test]
    fn help_ends_reading() {
        for line in ["-h", "--help", "-help --nope"] {
            assert!(read(line.split(' ').map(str::to_owned)).unwrap().wants_help, "{line}");
        }
    }
}
