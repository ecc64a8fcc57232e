//! Which of many key ranges cover a key.
//!
//! An AVL tree of ranges, ordered by start, then end. Every node also knows the farthest end below it, so a search
//! for key `k` leaves out each subtree that ends before `k`, and everything right of a start above `k`:
//!
//! ```text
//!                 [g, p) farthest z
//!                /                 \
//!      [a, z) farthest z      [k, l) farthest q
//!                                    \
//!                                  [m, q)
//! ```
//!
//! Equal ranges share a node. Balanced by rule and not by chance: its depth is a promise, whatever clients ask for.

use std::cmp::Ordering;

const NIL: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct IntervalTree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
}

#[derive(Debug, Default)]
struct Node {
    start: Box<[u8]>,
    /// Not included; `None` is beyond every key.
    end: Option<Box<[u8]>>,
    /// What the caller keeps under the range.
    values: Vec<u32>,
    left: u32,
    right: u32,
    height: u8,
    /// The node with the farthest end in this subtree.
    farthest: u32,
}

impl IntervalTree {
    pub(super) fn new() -> Self {
        IntervalTree { nodes: Vec::new(), free: Vec::new(), root: NIL }
    }

    /// The values of a range, which is added when it is new.
    pub(super) fn values_mut(&mut self, start: &[u8], end: Option<&[u8]>) -> &mut Vec<u32> {
        let (root, found) = self.insert(self.root, start, end);
        self.root = root;
        &mut self.node_mut(found).values
    }

    /// Forgets a range; an unknown one is ignored.
    pub(super) fn remove(&mut self, start: &[u8], end: Option<&[u8]>) {
        self.root = self.remove_from(self.root, start, end);
    }

    /// Visits the values of all ranges that cover `key`.
    pub(super) fn visit(&self, key: &[u8], visit: &mut impl FnMut(&[u32])) {
        self.visit_below(self.root, key, visit);
    }

    fn visit_below(&self, at: u32, key: &[u8], visit: &mut impl FnMut(&[u32])) {
        if at == NIL {
            return;
        }
        let node = self.node(at);
        if !self.node(node.farthest).ends_after(key) {
            return;
        }
        self.visit_below(node.left, key, visit);
        if *node.start <= *key {
            if node.ends_after(key) {
                visit(&node.values);
            }
            self.visit_below(node.right, key, visit);
        }
    }

    /// Returns the new root of the subtree, and the node of the range.
    fn insert(&mut self, at: u32, start: &[u8], end: Option<&[u8]>) -> (u32, u32) {
        if at == NIL {
            let new = self.allocate(start, end);
            return (new, new);
        }
        let (left, right) = (self.node(at).left, self.node(at).right);
        let found = match self.node(at).compare(start, end) {
            Ordering::Equal => return (at, at),
            Ordering::Less => {
                let (child, found) = self.insert(left, start, end);
                self.node_mut(at).left = child;
                found
            }
            Ordering::Greater => {
                let (child, found) = self.insert(right, start, end);
                self.node_mut(at).right = child;
                found
            }
        };
        (self.balance(at), found)
    }

    /// Returns the new root of the subtree.
    fn remove_from(&mut self, at: u32, start: &[u8], end: Option<&[u8]>) -> u32 {
        if at == NIL {
            return NIL;
        }
        let (left, right) = (self.node(at).left, self.node(at).right);
        match self.node(at).compare(start, end) {
            Ordering::Less => self.node_mut(at).left = self.remove_from(left, start, end),
            Ordering::Greater => self.node_mut(at).right = self.remove_from(right, start, end),
            Ordering::Equal => {
                *self.node_mut(at) = Node::default();
                self.free.push(at);
                return self.join(left, right);
            }
        }
        self.balance(at)
    }

    /// One tree of two neighbours whose heights differ by one at most.
    fn join(&mut self, left: u32, right: u32) -> u32 {
        if left == NIL || right == NIL {
            return if left == NIL { right } else { left };
        }
        let (middle, right) = self.take_first(right);
        let node = self.node_mut(middle);
        (node.left, node.right) = (left, right);
        self.balance(middle)
    }

    /// Takes the leftmost node out of a subtree; returns it and the new root.
    fn take_first(&mut self, at: u32) -> (u32, u32) {
        let (left, right) = (self.node(at).left, self.node(at).right);
        if left == NIL {
            return (at, right);
        }
        let (first, rest) = self.take_first(left);
        self.node_mut(at).left = rest;
        (first, self.balance(at))
    }

    /// Restores the AVL rule at a node whose children obey it and differ by two at most. Returns the new root.
    fn balance(&mut self, at: u32) -> u32 {
        let (left, right) = (self.node(at).left, self.node(at).right);
        if self.height(left) > self.height(right) + 1 {
            if self.height(self.node(left).right) > self.height(self.node(left).left) {
                self.node_mut(at).left = self.rotate_left(left);
            }
            return self.rotate_right(at);
        }
        if self.height(right) > self.height(left) + 1 {
            if self.height(self.node(right).left) > self.height(self.node(right).right) {
                self.node_mut(at).right = self.rotate_right(right);
            }
            return self.rotate_left(at);
        }
        self.update(at);
        at
    }

    fn rotate_left(&mut self, at: u32) -> u32 {
        let up = self.node(at).right;
        self.node_mut(at).right = self.node(up).left;
        self.node_mut(up).left = at;
        self.update(at);
        self.update(up);
        up
    }

    fn rotate_right(&mut self, at: u32) -> u32 {
        let up = self.node(at).left;
        self.node_mut(at).left = self.node(up).right;
        self.node_mut(up).right = at;
        self.update(at);
        self.update(up);
        up
    }

    /// Computes what a node knows of its subtree from its children.
    fn update(&mut self, at: u32) {
        let node = self.node(at);
        let height = 1 + self.height(node.left).max(self.height(node.right));
        let mut farthest = at;
        for child in [node.left, node.right] {
            if child != NIL && self.reaches_beyond(self.node(child).farthest, farthest) {
                farthest = self.node(child).farthest;
            }
        }
        let node = self.node_mut(at);
        (node.height, node.farthest) = (height, farthest);
    }

    fn reaches_beyond(&self, one: u32, other: u32) -> bool {
        compare_ends(self.node(one).end.as_deref(), self.node(other).end.as_deref()).is_gt()
    }

    fn height(&self, at: u32) -> u8 {
        if at == NIL { 0 } else { self.node(at).height }
    }

    fn allocate(&mut self, start: &[u8], end: Option<&[u8]>) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            u32::try_from(self.nodes.len() - 1).expect("memory ends before four billion ranges")
        });
        *self.node_mut(index) = Node {
            start: start.into(),
            end: end.map(Into::into),
            values: Vec::new(),
            left: NIL,
            right: NIL,
            height: 1,
            farthest: index,
        };
        index
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }
}

impl Node {
    /// Where a range lies, seen from this node.
    fn compare(&self, start: &[u8], end: Option<&[u8]>) -> Ordering {
        start.cmp(&self.start).then_with(|| compare_ends(end, self.end.as_deref()))
    }

    fn ends_after(&self, key: &[u8]) -> bool {
        self.end.as_deref().is_none_or(|end| key < end)
    }
}

fn compare_ends(one: Option<&[u8]>, other: Option<&[u8]>) -> Ordering {
    match (one, other) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(one), Some(other)) => one.cmp(other),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Range = (Vec<u8>, Option<Vec<u8>>);

    #[derive(Debug, Clone)]
    enum Step {
        Add(Range),
        Remove(Range),
        Visit(Vec<u8>),
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0_u8..4, 1..4)
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = || (key(), prop::option::weighted(0.9, key()));
        prop_oneof![
            4 => range().prop_map(Step::Add),
            3 => range().prop_map(Step::Remove),
            3 => key().prop_map(Step::Visit),
        ]
    }

    /// Height of the subtree; fails when a node breaks a rule of the tree.
    fn check(tree: &IntervalTree, at: u32) -> u8 {
        if at == NIL {
            return 0;
        }
        let node = tree.node(at);
        let (left, right) = (check(tree, node.left), check(tree, node.right));
        assert!(left.abs_diff(right) <= 1, "out of balance");
        assert_eq!(node.height, 1 + left.max(right));
        for child in [node.left, node.right] {
            assert!(child == NIL || !tree.reaches_beyond(tree.node(child).farthest, node.farthest));
        }
        node.height
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn finds_what_a_list_of_ranges_finds(steps in prop::collection::vec(step(), 1..60)) {
            let mut tree = IntervalTree::new();
            let mut model = BTreeMap::<Range, u32>::new();
            for (step, number) in steps.into_iter().zip(0..) {
                match step {
                    Step::Add(range) => {
                        let values = tree.values_mut(&range.0, range.1.as_deref());
                        let expected = *model.entry(range).or_insert(number);
                        if values.is_empty() {
                            values.push(number);
                        }
                        prop_assert_eq!(&*values, &[expected]);
                    }
                    Step::Remove(range) => {
                        tree.remove(&range.0, range.1.as_deref());
                        model.remove(&range);
                    }
                    Step::Visit(key) => {
                        let mut found = Vec::new();
                        tree.visit(&key, &mut |values| found.extend_from_slice(values));
                        let mut expected: Vec<u32> = model
                            .iter()
                            .filter(|((start, end), _)| {
                                *start <= key && end.as_ref().is_none_or(|end| key < *end)
                            })
                            .map(|(_, number)| *number)
                            .collect();
                        found.sort_unstable();
                        expected.sort_unstable();
                        prop_assert_eq!(found, expected);
                    }
                }
                check(&tree, tree.root);
                prop_assert_eq!(tree.nodes.len() - tree.free.len(), model.len());
            }
        }
    }
}
