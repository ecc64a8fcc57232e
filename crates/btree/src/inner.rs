//! The levels above the leaves: separators, counts and children.

use crate::leaf::Weight;
use crate::node::{Node, Split};
use crate::slots::{ENTRIES_SPARE, Slots, give_back, insert_entry};

/// Most children of an inner node.
pub(crate) const INNER_MAX: usize = if cfg!(test) { 5 } else { 64 };

/// Below this an inner node looks for a neighbour to join. Two at least, so that no node stays without a sibling.
const INNER_MIN: usize = if cfg!(test) { 2 } else { INNER_MAX / 4 };

/// Child `i` holds the keys from separator `i - 1` (included) to separator `i` (excluded).
#[derive(Debug)]
pub(crate) struct Inner<V> {
    pub(crate) slots: Slots<usize>,
    /// Live entries below each child.
    pub(crate) counts: Vec<u64>,
    pub(crate) children: Vec<Node<V>>,
}

impl<V: Weight> Inner<V> {
    /// A parent of `first` and of what was split off it.
    pub(crate) fn new_root(first: Node<V>, split: Split<V>) -> Self {
        let mut root = Self::with_first(first);
        root.push(&split.separator, split.right);
        root
    }

    pub(crate) fn with_first(first: Node<V>) -> Self {
        Self { slots: Slots::new(), counts: vec![first.live()], children: vec![first] }
    }

    /// Adds a child behind all others.
    pub(crate) fn push(&mut self, separator: &[u8], child: Node<V>) {
        self.insert_child(self.children.len(), separator, child);
    }

    /// The child that holds `key`, if any does.
    pub(crate) fn child_of(&self, key: &[u8]) -> usize {
        self.slots.search(key).map_or_else(|at| at, |at| at + 1)
    }

    pub(crate) fn live(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn add_live(&mut self, child: usize, change: i64) {
        let count = &mut self.counts[child];
        *count = count
            .checked_add_signed(change)
            .expect("a child has as many live entries as were counted");
    }

    /// Takes in what child `at` split off; may split this node in turn.
    pub(crate) fn attach(&mut self, at: usize, split: Split<V>) -> Option<Split<V>> {
        self.counts[at] = self.children[at].live();
        self.insert_child(at + 1, &split.separator, split.right);
        self.split_if_overfull()
    }

    /// Restores the minimum fill of child `at` after a removal below it.
    pub(crate) fn mend(&mut self, at: usize) {
        if self.children[at].is_empty() {
            self.drop_child(at);
        } else if self.children[at].is_underfull() {
            let pairs = [at.checked_sub(1), Some(at)].into_iter().flatten();
            let fitting = pairs.into_iter().find(|left| {
                self.children
                    .get(left + 1)
                    .is_some_and(|right| self.children[*left].can_absorb(right))
            });
            if let Some(left) = fitting {
                self.join(left);
            }
        }
    }

    pub(crate) fn is_underfull(&self) -> bool {
        self.children.len() < INNER_MIN
    }

    /// Takes in the right neighbour, of which `separator` tells us apart.
    pub(crate) fn absorb(&mut self, separator: &[u8], mut right: Self) {
        self.slots.insert(self.slots.len(), separator);
        self.slots.append(right.slots);
        self.counts.append(&mut right.counts);
        self.children.append(&mut right.children);
    }

    pub(crate) fn split_if_overfull(&mut self) -> Option<Split<V>> {
        (self.children.len() > INNER_MAX).then(|| self.split_off(self.children.len() / 2))
    }

    fn insert_child(&mut self, at: usize, separator: &[u8], child: Node<V>) {
        self.slots.insert(at - 1, separator);
        insert_entry(&mut self.counts, at, child.live());
        insert_entry(&mut self.children, at, child);
    }

    fn remove_child(&mut self, at: usize) -> Node<V> {
        self.counts.remove(at);
        let child = self.children.remove(at);
        give_back(&mut self.counts, ENTRIES_SPARE);
        give_back(&mut self.children, ENTRIES_SPARE);
        child
    }

    /// Forgets an empty child; its left neighbour takes over its part of the key space, for the first the right.
    fn drop_child(&mut self, at: usize) {
        self.remove_child(at);
        if !self.slots.is_empty() {
            self.slots.remove(at.saturating_sub(1));
        }
    }

    /// Joins the children `left` and `left + 1`; when that is too much for one, deals it out evenly again.
    fn join(&mut self, left: usize) {
        let right = self.remove_child(left + 1);
        let separator = self.slots.key(left).to_vec();
        self.slots.remove(left);
        self.children[left].absorb(&separator, right);
        self.counts[left] = self.children[left].live();
        if let Some(split) = self.children[left].split_if_overfull() {
            let overflow = self.attach(left, split);
            debug_assert!(overflow.is_none(), "two children became two children");
        }
    }

    /// Keeps the children before `at`; the separator between both halves moves up.
    fn split_off(&mut self, at: usize) -> Split<V> {
        let right_slots = self.slots.split_off(at);
        let separator = self.slots.key(at - 1).to_vec();
        self.slots.remove(at - 1);
        let right = Self {
            slots: right_slots,
            counts: tail(&mut self.counts, at),
            children: tail(&mut self.children, at),
        };
        Split { separator, right: Node::Inner(right) }
    }
}

/// Moves the entries from `at` on into a vector of their own; both keep little slack.
fn tail<T>(entries: &mut Vec<T>, at: usize) -> Vec<T> {
    let mut right = Vec::with_capacity(entries.len() - at + ENTRIES_SPARE);
    right.extend(entries.drain(at..));
    give_back(entries, ENTRIES_SPARE);
    right
}
