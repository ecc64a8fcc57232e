//! JSON as Go's `encoding/json` writes it: compact, fields in the given order, HTML characters escaped, bytes as
//! base64, 64-bit integers as plain numbers.
//!
//! Most of etcd's fields are `omitempty`; the methods without a suffix write always, those named `*_unless_empty`
//! leave zero values out.

use std::fmt::{Display, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The fields of an object, or the items of an array, as they are written.
pub struct Fields {
    out: String,
    is_first: bool,
}

/// Writes an object.
pub fn object(fill: impl FnOnce(&mut Fields)) -> String {
    enclosed('{', '}', fill)
}

/// Writes an array of values that are JSON already.
pub fn array(items: impl IntoIterator<Item = String>) -> String {
    let write = |fields: &mut Fields| {
        for item in items {
            fields.separate();
            fields.out.push_str(&item);
        }
    };
    enclosed('[', ']', write)
}

fn enclosed(open: char, close: char, fill: impl FnOnce(&mut Fields)) -> String {
    let mut fields = Fields { out: String::from(open), is_first: true };
    fill(&mut fields);
    fields.out.push(close);
    fields.out
}

impl Fields {
    /// A value that is JSON already.
    pub fn json(&mut self, name: &str, value: impl Display) {
        self.separate();
        write!(self.out, "{}:{value}", text(name)).expect("a string takes everything");
    }

    pub fn string(&mut self, name: &str, value: &str) {
        self.json(name, text(value));
    }

    pub fn string_unless_empty(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.string(name, value);
        }
    }

    pub fn strings_unless_empty(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            self.json(name, array(values.iter().map(|value| text(value))));
        }
    }

    pub fn bytes_unless_empty(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            self.json(name, bytes(value));
        }
    }

    pub fn number_unless_zero<N: Display + Default + PartialEq>(&mut self, name: &str, value: N) {
        if value != N::default() {
            self.json(name, value);
        }
    }

    pub fn true_only(&mut self, name: &str, value: bool) {
        if value {
            self.json(name, true);
        }
    }

    fn separate(&mut self) {
        if !self.is_first {
            self.out.push(',');
        }
        self.is_first = false;
    }
}

/// Bytes as base64.
pub fn bytes(value: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(value))
}

/// A string with Go's escapes.
pub fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes everything");
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_leave_zero_values_out_when_told() {
        let json = object(|object| {
            object.number_unless_zero("cluster_id", u64::MAX);
            object.number_unless_zero("revision", 0_i64);
            object.string("Error", "");
            object.bytes_unless_empty("key", b"foo");
            object.bytes_unless_empty("value", b"");
            object.true_only("more", false);
            object.json("keys", "null");
            object.strings_unless_empty("urls", &["a".to_owned(), "b".to_owned()]);
        });
        assert_eq!(
            json,
            r#"{"cluster_id":18446744073709551615,"Error":"","key":"Zm9v","keys":null,"urls":["a","b"]}"#
        );
        assert_eq!(object(|_| {}), "{}");
        assert_eq!(array([]), "[]");
    }

    #[test]
    fn strings_are_safe_inside_html() {
        assert_eq!(
            text("<a href=\"x\">&</a>"),
            r#""\u003ca href=\"x\"\u003e\u0026\u003c/a\u003e""#
        );
        assert_eq!(
            text("tab\t nul\0 \x7f é \u{2028} \\"),
            "\"tab\\t nul\\u0000 \x7f é \\u2028 \\\\\""
        );
    }
}
