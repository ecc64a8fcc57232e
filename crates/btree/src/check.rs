//! The invariants of the essay in `lib.rs`, checked.

use crate::inner::{INNER_MAX, Inner};
use crate::leaf::{LEAF_BYTES_MAX, LEAF_MAX, Leaf, Weight};
use crate::node::Node;
use crate::tree::BTree;

/// The part of the key space a subtree is responsible for: from the first key on, to below the second.
type Fences<'a> = (&'a [u8], Option<&'a [u8]>);

struct Subtree {
    len: usize,
    height: usize,
}

impl<V: Weight> BTree<V> {
    /// Panics unless every invariant of the tree holds. Walks everything; for tests.
    #[doc(hidden)]
    pub fn assert_valid(&self) {
        let whole = check_node(self.root(), (b"", None), true);
        assert_eq!(whole.len, self.len(), "the length is the number of entries");
    }
}

fn check_node<V: Weight>(node: &Node<V>, fences: Fences<'_>, is_root: bool) -> Subtree {
    match node {
        Node::Leaf(leaf) => {
            assert!(is_root || leaf.len() > 0, "only the root may be an empty leaf");
            check_leaf(leaf, fences);
            Subtree { len: leaf.len(), height: 0 }
        }
        Node::Inner(inner) => check_inner(inner, fences),
    }
}

fn check_leaf<V: Weight>(leaf: &Leaf<V>, (low, high): Fences<'_>) {
    leaf.slots.assert_valid();
    assert!(leaf.len() <= LEAF_MAX);
    assert_eq!(leaf.slots.len(), leaf.len());
    let longest = (0..leaf.len()).map(|at| leaf.slots.suffix(at).len()).max().unwrap_or(0);
    assert!(leaf.slots.suffix_bytes() - longest <= 2 * LEAF_BYTES_MAX, "one huge key at most");
    for at in 0..leaf.len() {
        let (key, value) = leaf.entry(at);
        assert!(key.cmp_bytes(low).is_ge(), "a key is not below its leaf");
        assert!(high.is_none_or(|high| key.cmp_bytes(high).is_lt()), "a key is not above its leaf");
        assert_eq!(leaf.live.get(at), value.is_live(), "a live bit says what its value says");
    }
    assert_eq!(
        leaf.live.count(),
        leaf.live.count_between(0, leaf.len()),
        "no bits without entries"
    );
}

fn check_inner<V: Weight>(inner: &Inner<V>, (low, high): Fences<'_>) -> Subtree {
    inner.slots.assert_valid();
    let children = inner.children.len();
    assert!((2..=INNER_MAX).contains(&children), "{children} children");
    assert_eq!((inner.slots.len(), inner.counts.len()), (children - 1, children));
    let separators: Vec<Vec<u8>> =
        (0..children - 1).map(|at| inner.slots.key(at).to_vec()).collect();
    let subtrees = inner.children.iter().enumerate().map(|(at, child)| {
        assert_eq!(inner.counts[at], child.live(), "a count is what lives below");
        let from = if at == 0 { low } else { &separators[at - 1] };
        check_node(child, (from, separators.get(at).map_or(high, |key| Some(key))), false)
    });
    let whole = subtrees.reduce(|left, right| {
        assert_eq!(left.height, right.height, "all leaves are equally deep");
        Subtree { len: left.len + right.len, height: left.height }
    });
    let whole = whole.expect("at least two children");
    Subtree { height: whole.height + 1, ..whole }
}
