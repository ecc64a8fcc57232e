//! Building a tree from sorted entries, bottom up.

use crate::inner::{INNER_MAX, Inner};
use crate::key::separator;
use crate::leaf::{LEAF_BYTES_MAX, LEAF_MAX, Leaf, Weight};
use crate::node::Node;

/// Entries of a leaf and children of an inner node as built: 85 % full, so that the first inserts split nothing.
const LEAF_FILL: usize = LEAF_MAX * 85 / 100;
const INNER_FILL: usize = INNER_MAX * 85 / 100;

/// A node and the separator on its left; the first one's is empty and never used.
type Fenced<V> = (Vec<u8>, Node<V>);

/// Returns the root over the entries, which must ascend strictly, and how many there were.
pub(crate) fn build<K: AsRef<[u8]>, V: Weight>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> (Node<V>, usize) {
    let (mut level, len) = build_leaves(entries);
    while level.len() > 1 {
        level = build_level(level);
    }
    let root = level.pop().map_or_else(|| Node::Leaf(Leaf::new()), |(_, root)| root);
    (root, len)
}

fn build_leaves<K: AsRef<[u8]>, V: Weight>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> (Vec<Fenced<V>>, usize) {
    let mut leaves = Vec::new();
    let (mut fence, mut leaf) = (Vec::new(), Leaf::new());
    let mut last: Vec<u8> = Vec::new();
    let mut len = 0;
    for (key, value) in entries {
        let key = key.as_ref();
        assert!(len == 0 || last.as_slice() < key, "a bulk load needs strictly ascending keys");
        if is_filled(&leaf, key) {
            let next_fence = separator(&last, key);
            let full = std::mem::replace(&mut leaf, Leaf::with_room(LEAF_FILL));
            leaves.push((std::mem::replace(&mut fence, next_fence), Node::Leaf(full)));
        }
        leaf.insert(leaf.len(), key, value);
        last.clear();
        last.extend_from_slice(key);
        len += 1;
    }
    if leaf.len() > 0 {
        leaves.push((fence, Node::Leaf(leaf)));
    }
    (leaves, len)
}

/// Whether `key` should start a new leaf. Counts the whole key, since it may share nothing with the others.
fn is_filled<V: Weight>(leaf: &Leaf<V>, key: &[u8]) -> bool {
    leaf.len() >= LEAF_FILL
        || leaf.len() > 0 && leaf.slots.suffix_bytes_with(0) + key.len() > LEAF_BYTES_MAX
}

/// Puts parents over a level, all of nearly equal size: none is left with a single child.
fn build_level<V: Weight>(nodes: Vec<Fenced<V>>) -> Vec<Fenced<V>> {
    let total = nodes.len();
    let parents = total.div_ceil(INNER_FILL);
    let mut nodes = nodes.into_iter();
    (0..parents)
        .map(|i| {
            let children = total * (i + 1) / parents - total * i / parents;
            let (fence, first) = nodes.next().expect("the shares add up to all nodes");
            let mut parent = Inner::with_first(first);
            nodes
                .by_ref()
                .take(children - 1)
                .for_each(|(separator, child)| parent.push(&separator, child));
            (fence, Node::Inner(parent))
        })
        .collect()
}
