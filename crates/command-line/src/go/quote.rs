//! Go's quoted strings (`%q`): bytes that are text stay readable, everything else is escaped.

use std::fmt::Write;

/// Quotes bytes that are usually UTF-8.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| escape(&mut out, c));
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").expect("a string takes everything");
        }
    }
    out.push('"');
    out
}

/// A list of strings as `%q` shows it: `["a" "b"]`.
pub fn quote_list(items: &[Vec<u8>]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

fn escape(out: &mut String, c: char) {
    let short = match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        _ => "",
    };
    let code = u32::from(c);
    let written = match c {
        _ if !short.is_empty() => out.write_str(short),
        _ if is_printable(c) => out.write_char(c),
        _ if code < 0x80 => write!(out, "\\x{code:02x}"),
        _ if code < 0x1_0000 => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    written.expect("a string takes everything");
}

/// Go prints letters, marks, numbers, punctuation, symbols and the plain space. Rust's debug escaping draws the same
/// line, if the character is not the first one (where combining marks are escaped as well).
fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        '\0'..='\x7f' => false,
        _ => {
            let mut text = String::from("a");
            text.push(c);
            text.escape_debug().nth(1) == Some(c)
        }
    }
}

/// Reads a quoted string at the start of `input`; returns its bytes and what follows. `"` takes escapes, a backquote
/// takes everything literally.
pub fn unquote_prefix(input: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    match input.split_first()? {
        (b'`', rest) => {
            let end = rest.iter().position(|byte| *byte == b'`')?;
            Some((rest[..end].to_vec(), &rest[end + 1..]))
        }
        (b'"', rest) => unquote_escaped(rest),
        _ => None,
    }
}

fn unquote_escaped(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    loop {
        let (byte, tail) = rest.split_first()?;
        rest = match byte {
            b'"' => return Some((out, tail)),
            b'\n' => return None,
            b'\\' => unescape(tail, &mut out)?,
            _ => {
                out.push(*byte);
                tail
            }
        };
    }
}

/// Reads what follows a backslash.
fn unescape<'a>(input: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (kind, rest) = input.split_first()?;
    let (digits, radix) = match kind {
        b'x' => (2, 16),
        b'u' => (4, 16),
        b'U' => (8, 16),
        b'0'..=b'7' => (3, 8),
        _ => {
            out.push(match kind {
                b'a' => 0x07,
                b'b' => 0x08,
                b'f' => 0x0c,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 0x0b,
                b'\\' | b'"' => *kind,
                _ => return None,
            });
            return Some(rest);
        }
    };
    let from = if radix == 8 { input } else { rest };
    let (text, rest) = from.split_at_checked(digits)?;
    let code = text.iter().try_fold(0_u32, |code, digit| {
        char::from(*digit).to_digit(radix).map(|digit| code.wrapping_mul(radix) + digit)
    })?;
    if matches!(kind, b'u' | b'U') {
        let c = char::from_u32(code)?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        out.push(u8::try_from(code).ok()?);
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_readable() {
        assert_eq!(quote(b"foo bar"), r#""foo bar""#);
        assert_eq!(quote("grüße 世界 e\u{301}".as_bytes()), "\"grüße 世界 e\u{301}\"");
        assert_eq!(quote(br#"a"b\c'd"#), r#""a\"b\\c'd""#);
    }

    #[test]
    fn everything_else_is_escaped() {
        assert_eq!(quote(b"\x07\x08\x0c\n\r\t\x0b\0\x1f\x7f"), r#""\a\b\f\n\r\t\v\x00\x1f\x7f""#);
        assert_eq!(quote(b"a\xffb\xe4\xb8"), r#""a\xffb\xe4\xb8""#);
        assert_eq!(
            quote("\u{a0}\u{200b}\u{e000}\u{10ffff}".as_bytes()),
            r#""\u00a0\u200b\ue000\U0010ffff""#
        );
    }

    #[test]
    fn quoted_strings_are_read_back() {
        for bytes in [&b""[..], b"plain", b"\0\x01\xff\"\\\n", "世界\u{200b}\u{10ffff}".as_bytes()]
        {
            let text = quote(bytes);
            assert_eq!(unquote_prefix(text.as_bytes()), Some((bytes.to_vec(), &b""[..])), "{text}");
        }
    }

    #[test]
    fn reading_stops_at_the_closing_quote() {
        assert_eq!(
            unquote_prefix(br#""a\101\x62\u00e9") > 1"#),
            Some(("aAb\u{e9}".into(), &b") > 1"[..]))
        );
        assert_eq!(unquote_prefix(br"`a\n`x"), Some((br"a\n".to_vec(), &b"x"[..])));
        for bad in [
            &b"a"[..],
            br#""a"#,
            br#""\q""#,
            br#""\x4""#,
            br#""\400""#,
            b"\"a\nb\"",
            br#""\ud800""#,
            b"",
        ] {
            assert_eq!(unquote_prefix(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
