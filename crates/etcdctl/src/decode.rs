//! Guessing what a value is, so that people can read it.
//!
//! JSON is laid out with one entry per line; numbers, order and escapes stay as they are. Text stays as it is. Everything
//! else is shown as bytes.

use std::fmt::Write;

/// Bytes per line of a dump.
const DUMP_WIDTH: usize = 16;

/// What a value seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guess<'a> {
    /// An object or an array. Numbers and words alone are text.
    Json(&'a str),
    Text(&'a str),
    Binary(&'a [u8]),
}

/// Guesses what a value is.
pub(crate) fn guess(value: &[u8]) -> Guess<'_> {
    let Ok(text) = std::str::from_utf8(value) else {
        return Guess::Binary(value);
    };
    if text.trim_start().starts_with(['{', '[']) && is_json(text) {
        return Guess::Json(text);
    }
    let is_readable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    if text.chars().all(is_readable) { Guess::Text(text) } else { Guess::Binary(value) }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// A value as people read it. Ends without a newline.
pub(crate) fn readable(value: &[u8]) -> String {
    match guess(value) {
        Guess::Json(json) => indented(json),
        Guess::Text(text) => text.to_owned(),
        Guess::Binary(bytes) => dump(bytes),
    }
}

/// Lays out JSON that is known to be valid.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut is_string, mut is_escaped) = (0, false, false);
    let mut letters = json.chars().filter(|c| !c.is_ascii_whitespace() || *c == ' ').peekable();
    let new_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    while let Some(c) = letters.next() {
        if is_string {
            out.push(c);
            is_string = is_escaped || c != '"';
            is_escaped = c == '\\' && !is_escaped;
            continue;
        }
        match c {
            ' ' => {}
            '{' | '[' => {
                out.push(c);
                while letters.next_if_eq(&' ').is_some() {}
                if let Some(close) = letters.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(',');
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => {
                out.push(c);
                is_string = c == '"';
            }
        }
    }
    out
}

/// Offset, bytes, and the letters among them.
fn dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (number, line) in bytes.chunks(DUMP_WIDTH).enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let letter = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' };
        let letters: String = line.iter().map(letter).collect();
        let (offset, width) = (number * DUMP_WIDTH, DUMP_WIDTH * 3 - 1);
        write!(out, "{offset:08x}  {:width$}  |{letters}|", hex.join(" "))
            .expect("a string takes everything");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_and_otherwise_left_alone() {
        let json = "{\"b\":1.50,\n \"a\": [ ],\"text\":\"x, {\\\"y\\\": [\\\\\",\"n\":[12345678901234567890123,{}, null]}";
        let expected = "{
  \"b\": 1.50,
  \"a\": [],
  \"text\": \"x, {\\\"y\\\": [\\\\\",
  \"n\": [
    12345678901234567890123,
    {},
    null
  ]
}";
        assert_eq!(readable(json.as_bytes()), expected);
    }

    #[test]
    fn guesses_are_careful() {
        assert_eq!(guess(b"12"), Guess::Text("12"));
        assert_eq!(guess(b"{not json"), Guess::Text("{not json"));
        assert_eq!(guess(b"[1]"), Guess::Json("[1]"));
        assert_eq!(guess("grüße\tx\n".as_bytes()), Guess::Text("grüße\tx\n"));
        assert_eq!(guess(b"a\0"), Guess::Binary(b"a\0"));
        assert_eq!(guess(b"\xff"), Guess::Binary(b"\xff"));
        assert_eq!(guess(b""), Guess::Text(""));
    }

    #[test]
    fn bytes_are_dumped_in_lines() {
        let bytes: Vec<u8> = (b'A'..b'A' + 16).chain([0, 0xff]).collect();
        let expected = "\
00000000  41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f 50  |ABCDEFGHIJKLMNOP|
00000010  00 ff                                            |..|";
        assert_eq!(readable(&bytes), expected);
    }
}
