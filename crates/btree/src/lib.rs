//! An ordered map in memory that counts.
//!
//! The key index of a multi-version store asks four things of its map: look a key up, walk a range, say *how
//! many* keys a range has, and do all that with few bytes per key. `BTreeMap` cannot count without walking and
//! keeps every key in an allocation of its own. [`BTree`] is a B+tree over byte strings made for these questions.
//!
//! A deleted key stays in the index as a tombstone until compaction, so entries have a [`Weight`]: every entry is
//! found and walked, only *live* ones are counted.
//!
//! ```text
//! inner   separators  [ "c"    "pod-7"  …  ]            up to 64 children, in line, without a pointer between
//!         counts      [ 40     17     38 … ]            live entries below each child
//!         children    [ leaf   leaf   leaf … ]
//!                       │
//! leaf    bytes       [ /registry/pods/ | a1 | a2 | b ] prefix shared by all keys once, then the suffixes
//!         ends        [                  17   19   20 ] where each suffix ends
//!         heads       [ "a1⁰…" "a2⁰…" "b⁰…" ]           first 8 bytes of each suffix, as big-endian numbers
//!         values      [ V      V      V     ]
//!         live        0b101                             one bit per entry
//! ```
//!
//! **Why it is fast.** A cold lookup is a chain of cache misses, and a binary search over boxed keys makes one per
//! comparison. Here the search runs over the heads, six cache lines that lie side by side; bytes of a key are only
//! looked at among equal heads, once as a rule. Inner nodes have the same form and hold truncated separators:
//! the shortest string that tells two neighbours apart. Child nodes lie in their parent's array, which saves one
//! more dependent miss per level.
//!
//! **Why it is small.** The common prefix is stored once per node, suffixes lie in one buffer, arrays grow in
//! small steps, and a run of ascending inserts leaves full leaves behind. With a million keys of 43 bytes
//! and a record of 32 bytes on a shared two-core machine (`cargo run --release --example index_costs`):
//!
//! | ns, random order   | this tree  | `BTreeMap<Box<[u8]>, V>` |
//! |--------------------|------------|--------------------------|
//! | resident per key   | 77 B       | 140 B                    |
//! | get                | 700–970    | 1,140–1,250              |
//! | insert             | 760–1,050  | 1,180–1,430              |
//! | update             | 840–1,220  | 1,100–1,450              |
//! | remove             | 1,130–1,470 | 1,040–1,150             |
//! | scan, per key      | 12 in parts, 15–22 with joined keys | 25–38 |
//! | the same after an ordered load | 11–12 joined | – |
//! | count, 1 % of keys | 1,130–1,590 | 205,000–300,000         |
//! | count, half        | 1,290–1,810 | 11,400,000–13,900,000   |
//! | ascending insert   | 310–400, 64 B | 430–530               |
//! | bulk load          | 190–240    | 130–150                  |
//!
//! A removal closes gaps in four arrays and joins leaves; it is the one operation that is no quicker.
//!
//! **How it counts.** A parent keeps the number of live entries of each child, a leaf one bit per entry.
//! [`BTree::count_range`] walks the two edges of the range and adds up what lies between them.
//!
//! **Long keys.** A leaf splits at [`LEAF_BYTES_MAX`] of suffixes even when it has few entries, so a huge key ends
//! up with a leaf of its own and never makes its neighbours expensive.
//!
//! Invariants (checked by `BTree::assert_valid`)
//! - keys ascend strictly, within a leaf and across leaves; all leaves are equally deep;
//! - `separator[i]` is above every key of child `i` and not above any key of child `i + 1`;
//! - the prefix of a node is a prefix of all its keys, not always the longest one;
//! - `counts[i]` is the number of set live bits below child `i`, and a bit is set when its value is live;
//! - only the root may be an empty leaf, and every inner node has at least two children;
//! - a node that a removal leaves below a quarter of its capacity is joined with a neighbour where the bytes
//!   allow it, so memory comes back.
//!
//! Sizes are far smaller in the crate's own unit tests, so that short histories reach deep trees; the same tests
//! run once more against the real sizes as an integration test.

mod bulk;
mod check;
mod cursor;
mod inner;
mod key;
mod leaf;
mod live;
mod node;
mod slots;
mod tree;

pub use cursor::{Cursor, Range};
pub use key::Key;
pub use leaf::{LEAF_BYTES_MAX, LEAF_MAX, Slot, Vacant, Verdict, Weight};
pub use tree::{BTree, KEY_LEN_MAX};

#[cfg(test)]
extern crate self as retcd_btree;

#[cfg(test)]
#[path = "../tests/histories.rs"]
mod histories;
