//! What a flag can hold, and how its text is read: by the rules of Go's `flag` and `strconv`.

use std::time::Duration;

use retcd_net::UrlList;

use super::duration;
use super::gates::FeatureGates;

/// The type of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int,
    Uint,
    Uint32,
    Duration,
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these words; a refusal repeats the wrong one.
    OneOfQuoted(&'static [&'static str]),
    /// Comma separated words.
    List,
    Urls,
    /// `Name=bool` pairs; given twice they add up, where every other flag is replaced.
    Gates,
}

/// A value of a [`Kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Duration(Duration),
    /// Also of kinds `OneOf`, `OneOfQuoted` and `Gates`.
    Text(String),
    List(Vec<String>),
    Urls(UrlList),
}

impl Kind {
    /// # Errors
    /// The reason in Go's words, such as `parse error`.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let parse_error = || "parse error".to_owned();
        Ok(match self {
            Self::Bool => Value::Bool(parse_bool(text).ok_or_else(parse_error)?),
            Self::Int => Value::Int(parse_int(text)?),
            Self::Uint => Value::Uint(parse_uint(text, u64::MAX)?),
            Self::Uint32 => Value::Uint(parse_uint(text, u32::MAX.into())?),
            Self::Duration => Value::Duration(duration::parse(text).ok_or_else(parse_error)?),
            Self::OneOf(words) if !words.contains(&text) => return Err("invalid value".to_owned()),
            Self::OneOfQuoted(words) if !words.contains(&text) => {
                return Err(format!("invalid value {text:?}"));
            }
            Self::Text | Self::OneOf(_) | Self::OneOfQuoted(_) => Value::Text(text.to_owned()),
            Self::Gates => {
                FeatureGates::read(text).map_err(|error| error.to_string())?;
                Value::Text(text.to_owned())
            }
            Self::List if text.is_empty() => Value::List(Vec::new()),
            Self::List => Value::List(text.split(',').map(str::to_owned).collect()),
            Self::Urls => Value::Urls(UrlList::parse(text).map_err(|error| error.to_string())?),
        })
    }

    /// The word for it in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "integer",
            Self::Uint | Self::Uint32 => "unsigned integer",
            Self::Duration => "duration",
            Self::Text => "text",
            Self::OneOf(_) | Self::OneOfQuoted(_) => "choice",
            Self::List => "list",
            Self::Urls => "URL list",
            Self::Gates => "Name=bool list",
        }
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let limit = i64::MAX.unsigned_abs() + u64::from(negative);
    let size = i128::from(parse_uint(digits, limit)?);
    i64::try_from(if negative { -size } else { size }).map_err(|_| out_of_range())
}

/// Base from the prefix (`0x`, `0o`, `0b`, `0` for octal), underscores between digits.
fn parse_uint(text: &str, max: u64) -> Result<u64, String> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err("parse error".to_owned());
    }
    u64::from_str_radix(&digits, radix)
        .ok()
        .filter(|number| *number <= max)
        .ok_or_else(out_of_range)
}

fn out_of_range() -> String {
    "value out of range".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, number) in
            [("0", 0), ("10", 10), ("0x10", 16), ("010", 8), ("0b11", 3), ("1_000", 1000)]
        {
            assert_eq!(Kind::Uint.parse(text), Ok(Value::Uint(number)), "{text}");
        }
        assert_eq!(Kind::Int.parse("-9223372036854775808"), Ok(Value::Int(i64::MIN)));
        for text in ["", "x", "-1", "1.5", "0x", " 1"] {
            assert_eq!(Kind::Uint.parse(text), Err("parse error".to_owned()), "{text}");
        }
        assert_eq!(Kind::Uint32.parse("4294967295"), Ok(Value::Uint(u32::MAX.into())));
        for (kind, text) in [
            (Kind::Uint32, "4294967296"),
            (Kind::Int, "9223372036854775808"),
            (Kind::Uint, "99999999999999999999"),
        ] {
            assert_eq!(kind.parse(text), Err("value out of range".to_owned()), "{text}");
        }
    }

    #[test]
    fn the_other_kinds() {
        assert_eq!(Kind::Bool.parse("T"), Ok(Value::Bool(true)));
        assert!(Kind::Bool.parse("yes").is_err());
        assert_eq!(Kind::List.parse(""), Ok(Value::List(vec![])));
        assert_eq!(Kind::List.parse("a,b"), Ok(Value::List(vec!["a".into(), "b".into()])));
        assert_eq!(Kind::OneOf(&["new"]).parse("old"), Err("invalid value".to_owned()));
        assert!(Kind::Urls.parse("x").unwrap_err().starts_with("URL scheme"));
        assert!(Kind::Duration.parse("10").is_err());
    }
}
