//! Splitting a line of `txn` or `watch -i` into words.

use retcd_command_line::go::quote::unquote_prefix;
use retcd_command_line::{Exit, Failure};

/// Splits at spaces; `"..."` takes Go's escapes and `'...'` takes everything literally.
///
/// Follows etcdctl, where a word also ends at a quote inside it, unless the quote comes after non-space characters.
///
/// # Errors
/// A double-quoted word with an unknown escape.
pub(crate) fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.first() {
        let length = match first {
            b'"' => double_quoted(rest),
            b'\'' => rest[1..].iter().position(|byte| *byte == b'\'').map(|end| end + 2),
            byte if byte.is_ascii_whitespace() => None,
            _ => Some(rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len())),
        };
        // A space, or a quote that nothing closes, belongs to no word.
        let Some(length) = length else {
            rest = &rest[1..];
            continue;
        };
        let (word, tail) = rest.split_at(length);
        words.push(match first {
            b'"' => unquoted(word)?,
            b'\'' => word[1..word.len() - 1].to_vec(),
            _ => word.to_vec(),
        });
        rest = tail;
    }
    Ok(words)
}

/// The length of the double-quoted word at the start, both quotes included.
fn double_quoted(input: &[u8]) -> Option<usize> {
    let mut position = 1;
    loop {
        match input.get(position)? {
            b'"' => return Some(position + 1),
            b'\\' => position += 2,
            _ => position += 1,
        }
    }
}

fn unquoted(word: &[u8]) -> Result<Vec<u8>, Failure> {
    match unquote_prefix(word) {
        Some((bytes, _)) => Ok(bytes),
        None => Err(Failure::new(Exit::InvalidInput, "invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line.as_bytes())
            .unwrap()
            .into_iter()
            .map(|word| String::from_utf8(word).unwrap())
            .collect()
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("put foo bar"), ["put", "foo", "bar"]);
        assert_eq!(words(r#"  put "a b"   'c "d" e' "#), ["put", "a b", "c \"d\" e"]);
        assert_eq!(words(r#"put "tab\there" "q\"q" """#), ["put", "tab\there", "q\"q", ""]);
        assert_eq!(
            words("put key --lease=12 --prev-kv"),
            ["put", "key", "--lease=12", "--prev-kv"]
        );
        assert_eq!(words(""), Vec::<String>::new());
    }

    #[test]
    fn stray_quotes_are_dropped() {
        assert_eq!(words(r#"put "open"#), ["put", "open"]);
        assert_eq!(words("put 'open"), ["put", "open"]);
    }

    #[test]
    fn unknown_escapes_are_invalid_input() {
        assert_eq!(split(br#"put "\q""#).unwrap_err().exit, Exit::InvalidInput);
    }
}
