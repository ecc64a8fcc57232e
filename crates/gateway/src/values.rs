//! Cuts a request body into JSON values.

use bytes::{Bytes, BytesMut};

/// Finds where each of several JSON values ends, however the bytes are cut.
///
/// Each byte is looked at once. Only brackets and strings are understood: a value may still be no JSON, which its
/// parser tells.
#[derive(Debug, Default)]
pub(crate) struct Values {
    buffer: BytesMut,
    /// Bytes of `buffer` that belong to the value at its start and have been looked at.
    scanned: usize,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Between,
    /// A number or a word: it ends where something else begins.
    Plain,
    /// Inside of brackets, or of a string at depth 0.
    Nested { depth: usize, string: Text },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Outside,
    Inside,
    /// After a backslash.
    Escaped,
}

/// The bytes ended within a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unfinished;

impl Values {
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// Bytes that wait for the end of their value.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The next value, or `None` until more bytes come.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if self.state == State::Between {
            let is_space = |byte: &u8| b" \t\r\n".contains(byte);
            let spaces = self.buffer.iter().take_while(|byte| is_space(byte)).count();
            let _ = self.buffer.split_to(spaces);
        }
        while let Some(&byte) = self.buffer.get(self.scanned) {
            if self.state == State::Plain && b" \t\r\n{[\"".contains(&byte) {
                return Some(self.take());
            }
            self.scanned += 1;
            self.state = self.state.after(byte);
            if self.state == State::Between {
                return Some(self.take());
            }
        }
        None
    }

    /// The value that only the end of the bytes ends.
    pub(crate) fn finish(&mut self) -> Result<Option<Bytes>, Unfinished> {
        match self.state {
            State::Between => Ok(None),
            State::Plain => Ok(Some(self.take())),
            State::Nested { .. } => Err(Unfinished),
        }
    }

    fn take(&mut self) -> Bytes {
        self.state = State::Between;
        let value = self.buffer.split_to(std::mem::take(&mut self.scanned)).freeze();
        if self.buffer.is_empty() {
            // A stream that waits holds no memory for what it has read.
            self.buffer = BytesMut::new();
        }
        value
    }
}

impl State {
    /// The state after one more byte; `Between` when that was the last of the value.
    fn after(self, byte: u8) -> Self {
        let nested = |depth, string| State::Nested { depth, string };
        let State::Nested { depth, string } = self else {
            return match (self, byte) {
                (State::Between, b'"') => nested(0, Text::Inside),
                (State::Between, b'{' | b'[') => nested(1, Text::Outside),
                _ => State::Plain,
            };
        };
        match (string, byte) {
            (Text::Inside, b'"') if depth == 0 => State::Between,
            (Text::Inside, b'"') => nested(depth, Text::Outside),
            (Text::Inside, b'\\') => nested(depth, Text::Escaped),
            (Text::Escaped, _) | (Text::Outside, b'"') => nested(depth, Text::Inside),
            (Text::Outside, b'{' | b'[') => nested(depth + 1, Text::Outside),
            (Text::Outside, b'}' | b']') if depth == 1 => State::Between,
            (Text::Outside, b'}' | b']') => nested(depth - 1, Text::Outside),
            (Text::Inside | Text::Outside, _) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(json: &str, size: usize) -> (Vec<String>, bool) {
        let mut values = Values::default();
        let mut seen = Vec::new();
        for chunk in json.as_bytes().chunks(size) {
            values.push(chunk);
            seen.extend(std::iter::from_fn(|| values.next()));
        }
        let last = values.finish();
        let is_whole = last.is_ok();
        seen.extend(last.ok().flatten());
        let text = |value: Bytes| String::from_utf8(value.into()).unwrap();
        (seen.into_iter().map(text).collect(), is_whole)
    }

    #[test]
    fn values_come_whole_however_the_bytes_were_cut() {
        let values = [
            r#"{"a":{"b":["c",{}]}}"#,
            "{}",
            r#"{"brackets in strings":"}]\"}\\"}"#,
            r#"["x",[[]]]"#,
            r#""text with \" and {""#,
            "17",
            "null",
        ];
        for separator in ["\n", " \r\n\t ", ""] {
            let json = values.join(separator);
            // Nothing tells `17null` from one word.
            let expected = match separator {
                "" => [&values[..5], &["17null"]].concat(),
                _ => values.to_vec(),
            };
            for size in 1..=json.len() {
                assert_eq!(
                    cut(&json, size),
                    (expected.iter().map(ToString::to_string).collect(), true)
                );
            }
        }
    }

    #[test]
    fn the_end_within_a_value_is_told() {
        for json in ["{", r#"{"a":"}"#, r#""text"#, "{} [", r#"{"a\"}"#] {
            assert!(!cut(json, 1).1, "{json}");
        }
        assert_eq!(cut("", 1), (Vec::new(), true));
        assert_eq!(cut(" \n", 1), (Vec::new(), true));
    }

    #[test]
    fn what_is_no_json_still_ends() {
        assert_eq!(cut("}} x", 1).0, ["}}", "x"]);
    }
}
