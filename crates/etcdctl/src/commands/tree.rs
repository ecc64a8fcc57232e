//! `tree`: which prefixes hold how many keys and bytes.
//!
//! Keys are read in pages at one revision, so the picture is consistent and neither side holds all of it. What is kept
//! here is one node per name, down to the depth that is shown.

use std::collections::BTreeMap;
use std::fmt::Write;

use retcd_api::etcdserverpb::RangeRequest;
use retcd_api::mvccpb::KeyValue;
use retcd_client::{Client, Error, prefix_range};

use crate::failure;
use crate::print::{shown, size, write_out};
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::{Action, Command, EXTRA, Flag, Invocation};

pub(super) const COMMAND: Command = Command {
    operands: "[options] [prefix]",
    short: "Shows keys as a tree, with counts and sizes",
    long: "Shows keys as a tree, with counts and sizes.\n\n\
           A line has the number of keys, the bytes of keys and values, and a part of the key. \
           Keys are split after each separator; a name that ends with one stands for all keys below it.",
    flags: &[
        Flag::int("depth", "levels to show below the prefix (0 means all)"),
        Flag::text("separator", "/", "what ends the parts of a key"),
        Flag::int("rev", "revision to read at (0 means the latest)"),
    ],
    ..Command::new("tree", EXTRA, Action::Run(run))
};

/// Keys per request.
const PAGE: i64 = 1_000;

/// A part of keys, with what lies below it.
#[derive(Debug, Default, PartialEq)]
struct Node {
    keys: u64,
    bytes: u64,
    below: BTreeMap<Vec<u8>, Node>,
}

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let prefix = match invocation.args.as_slice() {
        [] => &[][..],
        [prefix] => prefix.as_slice(),
        _ => return Err(Failure::bad_args("tree command takes one prefix at most")),
    };
    let separator = invocation.flags.text("separator").as_bytes();
    if separator.is_empty() {
        return Err(Failure::bad_args("--separator must not be empty"));
    }
    let depth = match usize::try_from(invocation.flags.int("depth")) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(depth) => depth,
    };
    let session = Session::open(invocation)?;
    session.printer.simple_only()?;
    let mut root = Node::default();
    let add = |kv: &KeyValue| root.add(&kv.key[prefix.len()..], separator, depth, kv_bytes(kv));
    let revision = invocation.flags.int("rev").max(0);
    session
        .block_on(for_each_key(&session.client(), prefix, revision, add))
        .map_err(|error| failure::request(&error))?;
    let name = if prefix.is_empty() { "(all keys)".to_owned() } else { shown(prefix) };
    write_out(root.drawn(&name).as_bytes())
}

fn kv_bytes(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64
}

/// Reads all keys of a prefix, at one revision.
async fn for_each_key(
    client: &Client,
    prefix: &[u8],
    mut revision: i64,
    mut each: impl FnMut(&KeyValue),
) -> Result<(), Error> {
    let (mut key, range_end) = prefix_range(prefix.to_vec());
    loop {
        let request = RangeRequest {
            key: key.into(),
            range_end: range_end.clone().into(),
            limit: PAGE,
            revision,
            ..Default::default()
        };
        let reply = client.range(request).await?;
        reply.kvs.iter().for_each(&mut each);
        if revision == 0 {
            revision = reply.header.map_or(0, |header| header.revision);
        }
        let Some(last) = reply.kvs.last().filter(|_| reply.more) else {
            return Ok(());
        };
        key = [last.key.as_ref(), b"\0"].concat();
    }
}

impl Node {
    fn add(&mut self, key: &[u8], separator: &[u8], depth: usize, bytes: u64) {
        self.keys += 1;
        self.bytes += bytes;
        if depth == 0 || key.is_empty() {
            return;
        }
        let at = key.windows(separator.len()).position(|window| window == separator);
        let (name, rest) = key.split_at(at.map_or(key.len(), |at| at + separator.len()));
        let node = self.below.entry(name.to_vec()).or_default();
        node.add(rest, separator, depth - 1, bytes);
    }

    fn drawn(&self, name: &str) -> String {
        let mut out = format!("{:>9} {:>8}\n", "KEYS", "SIZE");
        self.draw(&mut out, "", name, "");
        out
    }

    /// Draws this node behind `branch`, and those below it behind `indent`.
    fn draw(&self, out: &mut String, branch: &str, name: &str, indent: &str) {
        let size = size(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        writeln!(out, "{:>9} {size:>8}  {branch}{name}", self.keys)
            .expect("a string takes everything");
        for (position, (name, node)) in self.below.iter().enumerate() {
            let is_last = position + 1 == self.below.len();
            let (branch, deeper) =
                if is_last { ("└── ", "    ") } else { ("├── ", "│   ") };
            let (branch, deeper) = (format!("{indent}{branch}"), format!("{indent}{deeper}"));
            node.draw(out, &branch, &shown(name), &deeper);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(keys: &[&str], depth: usize) -> String {
        let mut root = Node::default();
        for key in keys {
            root.add(key.as_bytes(), b"/", depth, 10);
        }
        root.drawn("/")
    }

    #[test]
    fn keys_are_counted_below_every_part() {
        let keys = ["a", "a/", "a/b/c", "a/b/d", "e"];
        let expected = "     KEYS     SIZE
        5     50 B  /
        1     10 B  ├── a
        3     30 B  ├── a/
        2     20 B  │   └── b/
        1     10 B  │       ├── c
        1     10 B  │       └── d
        1     10 B  └── e
";
        assert_eq!(drawn(&keys, usize::MAX), expected);
    }

    #[test]
    fn depth_cuts_the_picture_not_the_sums() {
        let expected = "     KEYS     SIZE
        2     20 B  /
        2     20 B  └── a/
";
        assert_eq!(drawn(&["a/b/c", "a/d"], 1), expected);
    }
}
