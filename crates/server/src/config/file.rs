//! The configuration file: YAML, of which JSON is a part.
//!
//! The types of etcd's file differ from the command line: durations are integers of nanoseconds, lists are
//! lists, URL lists are comma separated texts, and a dot in [`Flag::file_key`](super::flags::Flag) is nesting.
//! Keys that no row names are ignored, as in etcd; keys of older releases count.

use std::path::Path;

use serde_json::{Map, Value as Node};

use super::error::Error;
use super::flags::{FLAGS, IGNORED, Known, OLD_NAMES};
use super::settings::{Refusal, Settings};
use super::value::Kind;

/// Adds what the file says.
pub(super) fn read(path: &Path, text: &str, settings: &mut Settings) -> Result<(), Error> {
    let root = match parse(text) {
        Ok(Node::Object(root)) => root,
        Ok(Node::Null) => return Ok(()),
        Ok(_) => {
            let reason = "the file is not a mapping".to_owned();
            return Err(Error::FileSyntax { path: path.to_owned(), reason });
        }
        Err(reason) => return Err(Error::FileSyntax { path: path.to_owned(), reason }),
    };
    for flag in FLAGS.iter().filter(|flag| !flag.file_key.is_empty()) {
        if let Some(node) = find(&root, flag.file_key)? {
            set(settings, Known::Flag(flag), flag.file_key, node)?;
        }
    }
    for (old, _) in OLD_NAMES.iter().filter(|(old, _)| !IGNORED.contains(old)) {
        if let Some(node) = root.get(*old) {
            let known = Known::find(old).expect("the name comes from the table");
            set(settings, known, old, node)?;
        }
    }
    Ok(())
}

fn parse(text: &str) -> Result<Node, String> {
    // An empty document, or one of comments only, is a file that sets nothing.
    let is_empty = text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#'));
    if is_empty {
        return Ok(Node::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// Follows the dots. A section that is no mapping is an error, a missing or null one sets nothing.
fn find<'a>(root: &'a Map<String, Node>, key: &str) -> Result<Option<&'a Node>, Error> {
    let mut section = root;
    let mut rest = key;
    while let Some((outer, inner)) = rest.split_once('.') {
        section = match section.get(outer) {
            None | Some(Node::Null) => return Ok(None),
            Some(Node::Object(section)) => section,
            Some(_) => return Err(Error::FileSection(outer.to_owned())),
        };
        rest = inner;
    }
    Ok(section.get(rest))
}

fn set(settings: &mut Settings, known: Known, key: &str, node: &Node) -> Result<(), Error> {
    let wrong =
        |reason: String| Error::FileValue { key: key.to_owned(), value: node.to_string(), reason };
    let Some(text) = to_text(known.kind(), node).map_err(|expected| wrong(expected.to_owned()))?
    else {
        return Ok(());
    };
    settings.set(known, &text).map_err(|refusal| match refusal {
        Refusal::Text(reason) => wrong(reason),
        Refusal::Gone(error) => error,
    })
}

/// The text that the command line would have had; none for null. Errors say what was expected.
fn to_text(kind: Kind, node: &Node) -> Result<Option<String>, &'static str> {
    let text = match (kind, node) {
        (_, Node::Null) => return Ok(None),
        // A text may look like a number or a boolean without being quoted.
        (Kind::Bool | Kind::Text | Kind::OneOf(_) | Kind::OneOfQuoted(_), Node::Bool(on)) => {
            on.to_string()
        }
        (Kind::Bool, _) => return Err("expected true or false"),
        (Kind::Int | Kind::Uint | Kind::Uint32, Node::Number(number)) if !number.is_f64() => {
            number.to_string()
        }
        (Kind::Int | Kind::Uint | Kind::Uint32, _) => return Err("expected an integer"),
        (Kind::Duration, Node::Number(nanos)) if nanos.is_u64() => format!("{nanos}ns"),
        (Kind::Duration, _) => return Err("expected a duration as an integer of nanoseconds"),
        (Kind::List, Node::Array(nodes)) => {
            let words: Option<Vec<_>> = nodes.iter().map(Node::as_str).collect();
            words.ok_or("expected a list of texts")?.join(",")
        }
        (_, Node::String(text)) => text.clone(),
        (Kind::Text | Kind::OneOf(_) | Kind::OneOfQuoted(_), Node::Number(number)) => {
            number.to_string()
        }
        _ => return Err("expected a text"),
    };
    Ok(Some(text))
}
