//! What changed in a value, readable.
//!
//! Two JSON documents are compared field by field, two texts line by line, and everything else by size and first
//! difference.
//!
//! ```text
//!   ~ spec.replicas: 3 → 5      changed
//!   + spec.paused: true         new
//!   - status.old: "x"           gone
//! ```

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::decode::{Guess, guess};

/// Cells of the table that finds common lines; texts that would need more are shown as replaced.
const TABLE_MAX: usize = 4_000_000;

/// Describes the way from one value to another, one line per change. Without an old value everything is new.
pub(crate) fn describe(old: Option<&[u8]>, new: &[u8]) -> Vec<String> {
    let Some(old) = old else {
        return added(new);
    };
    match (guess(old), guess(new)) {
        _ if old == new => vec!["= same value".to_owned()],
        (Guess::Json(old), Guess::Json(new)) => of_json(old, new),
        (Guess::Json(old) | Guess::Text(old), Guess::Json(new) | Guess::Text(new)) => {
            of_text(old, new)
        }
        (Guess::Binary(_), _) | (_, Guess::Binary(_)) => vec![of_bytes(old, new)],
    }
}

fn added(new: &[u8]) -> Vec<String> {
    match guess(new) {
        Guess::Json(json) => of_json("{}", json),
        Guess::Text(text) => text.lines().map(|line| format!("+ {line}")).collect(),
        Guess::Binary(bytes) => vec![format!("+ {} bytes", bytes.len())],
    }
}

fn of_json(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (leaves(old), leaves(new));
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let line = |path: &String| match (old.get(path), new.get(path)) {
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) => Some(format!("~ {path}: {old} → {new}")),
        (Some(old), None) => Some(format!("- {path}: {old}")),
        (None, Some(new)) => Some(format!("+ {path}: {new}")),
        (None, None) => None,
    };
    let lines: Vec<String> = paths.into_iter().filter_map(line).collect();
    if lines.is_empty() { vec!["= same JSON, written differently".to_owned()] } else { lines }
}

/// The scalars of a document by their paths, as they are written. Empty objects and arrays count as scalars.
fn leaves(json: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if let Ok(value) = serde_json::from_str::<&RawValue>(json) {
        collect("", value, &mut all);
    }
    all
}

fn collect(path: &str, value: &RawValue, all: &mut BTreeMap<String, String>) {
    let json = value.get();
    if let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json)
        && (path.is_empty() || !fields.is_empty())
    {
        for (name, value) in fields {
            let separator = if path.is_empty() { "" } else { "." };
            collect(&format!("{path}{separator}{name}"), value, all);
        }
    } else if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json)
        && !items.is_empty()
    {
        for (position, value) in items.into_iter().enumerate() {
            collect(&format!("{path}[{position}]"), value, all);
        }
    } else {
        all.insert(path.to_owned(), json.to_owned());
    }
}

fn of_text(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[start..], &new[start..]);
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[..old.len() - end], &new[..new.len() - end]);
    if old.is_empty() && new.is_empty() {
        return vec!["= same lines, ended differently".to_owned()];
    }
    lines_between(old, new)
}

/// The shortest way from one list of lines to the other: keeps a longest common subsequence.
fn lines_between(old: &[&str], new: &[&str]) -> Vec<String> {
    let removed = |line: &&str| format!("- {line}");
    let added = |line: &&str| format!("+ {line}");
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > TABLE_MAX {
        return old.iter().map(removed).chain(new.iter().map(added)).collect();
    }
    // common[i * width + j]: how many lines old[i..] and new[j..] can have in common.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len()
            || i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]
        {
            lines.push(removed(&old[i]));
            i += 1;
        } else {
            lines.push(added(&new[j]));
            j += 1;
        }
    }
    lines
}

fn of_bytes(old: &[u8], new: &[u8]) -> String {
    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    format!("~ {} bytes → {} bytes, different from byte {same} on", old.len(), new.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(old: &str, new: &str) -> Vec<String> {
        describe(Some(old.as_bytes()), new.as_bytes())
    }

    #[test]
    fn json_is_compared_by_field() {
        let old =
            r#"{"spec": {"replicas": 3, "args": ["a", "b"], "old": {}}, "same": [1, {"x": 2}]}"#;
        let new =
            r#"{"same":[1,{"x":2}],"spec":{"args":["a","c","d"],"replicas":5,"new":{"y":null}}}"#;
        assert_eq!(
            described(old, new),
            [
                "~ spec.args[1]: \"b\" → \"c\"",
                "+ spec.args[2]: \"d\"",
                "+ spec.new.y: null",
                "- spec.old: {}",
                "~ spec.replicas: 3 → 5",
            ]
        );
        assert_eq!(described("{\"a\":1}", "{ \"a\": 1 }"), ["= same JSON, written differently"]);
        assert_eq!(
            described("[1]", "[12345678901234567890123]"),
            ["~ [0]: 1 → 12345678901234567890123"]
        );
        assert_eq!(describe(None, b"{\"a\":{\"b\":1}}"), ["+ a.b: 1"]);
    }

    #[test]
    fn text_is_compared_by_line() {
        assert_eq!(described("a\nb\nc\nd\n", "a\nc\nx\nd\n"), ["- b", "+ x"]);
        assert_eq!(described("a", "b"), ["- a", "+ b"]);
        assert_eq!(described("a\n", "a"), ["= same lines, ended differently"]);
        assert_eq!(described("a", "a"), ["= same value"]);
        assert_eq!(describe(None, b"a\nb"), ["+ a", "+ b"]);
    }

    #[test]
    fn large_texts_are_replaced() {
        let text = |letter: &str| {
            let lines: Vec<String> = (0..2_100).map(|n| format!("{letter}{n}")).collect();
            lines.join("\n")
        };
        let lines = described(&text("a"), &text("b"));
        assert_eq!(
            (lines.len(), lines[0].as_str(), lines[2_100].as_str()),
            (4_200, "- a0", "+ b0")
        );
    }

    #[test]
    fn bytes_are_counted() {
        assert_eq!(
            describe(Some(b"ab\0"), b"ax\0\0"),
            ["~ 3 bytes → 4 bytes, different from byte 1 on"]
        );
        assert_eq!(describe(None, b"\0"), ["+ 1 bytes"]);
    }
}
