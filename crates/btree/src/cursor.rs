//! Walking a range in key order.

use std::iter::FusedIterator;
use std::ops::Bound;
use std::slice;

use crate::inner::Inner;
use crate::key::Key;
use crate::leaf::{Leaf, Weight};
use crate::node::Node;
use crate::slots::Suffixes;

/// The entries of a range in key order, each key in its two parts.
///
/// The cheapest way to walk: nothing is copied. [`Cursor`] joins the keys into a buffer.
#[derive(Debug)]
pub struct Range<'a, V> {
    path: Vec<Step<'a, V>>,
    /// What is left of the current leaf.
    entries: Entries<'a, V>,
    to: Bound<&'a [u8]>,
}

/// Some neighbouring entries of one leaf.
#[derive(Debug)]
struct Entries<'a, V> {
    prefix: &'a [u8],
    suffixes: Suffixes<'a>,
    values: slice::Iter<'a, V>,
}

impl<'a, V> Entries<'a, V> {
    fn none() -> Self {
        Self { prefix: &[], suffixes: Suffixes::default(), values: [].iter() }
    }

    fn is_empty(&self) -> bool {
        self.values.as_slice().is_empty()
    }

    #[inline]
    fn next(&mut self) -> Option<(Key<'a>, &'a V)> {
        let value = self.values.next()?;
        Some((Key::new(self.prefix, self.suffixes.next()?), value))
    }
}

/// Which children of an inner node are still to come.
#[derive(Debug)]
struct Step<'a, V> {
    inner: &'a Inner<V>,
    next: usize,
    /// The last child of the range here.
    last: usize,
    /// Whether the range's end lies in this subtree, hence in `last`. If not, all children belong to it.
    is_edge: bool,
}

impl<'a, V: Weight> Range<'a, V> {
    pub(crate) fn new(root: &'a Node<V>, from: Bound<&[u8]>, to: Bound<&'a [u8]>) -> Self {
        let mut range = Self { path: Vec::new(), entries: Entries::none(), to };
        range.descend(root, from, true);
        range
    }

    /// Goes down to the first leaf of `node` that may hold keys from `from` on.
    fn descend(&mut self, mut node: &'a Node<V>, from: Bound<&[u8]>, mut is_edge: bool) {
        loop {
            let to = if is_edge { self.to } else { Bound::Unbounded };
            match node {
                Node::Leaf(leaf) => {
                    self.entries = entries(leaf, from, to);
                    return;
                }
                Node::Inner(inner) => {
                    let (first, last) = (inner.first_child(from), inner.last_child(to));
                    self.path.push(Step { inner, next: first + 1, last, is_edge });
                    if first > last {
                        return;
                    }
                    is_edge = is_edge && first == last;
                    node = &inner.children[first];
                }
            }
        }
    }

    /// Moves on until the current leaf has an entry left; false at the end of the range.
    fn find_entry(&mut self) -> bool {
        while self.entries.is_empty() {
            let Some(step) = self.path.last_mut() else { return false };
            if step.next > step.last {
                self.path.pop();
                continue;
            }
            let (child, is_edge) = (step.next, step.is_edge && step.next == step.last);
            step.next += 1;
            let node = &step.inner.children[child];
            self.descend(node, Bound::Unbounded, is_edge);
        }
        true
    }
}

impl<'a, V: Weight> Iterator for Range<'a, V> {
    type Item = (Key<'a>, &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.entries.is_empty() && !self.find_entry() {
            return None;
        }
        self.entries.next()
    }
}

impl<V: Weight> FusedIterator for Range<'_, V> {}

/// Walks a range and lends each key as one string, joined in a buffer that the next call overwrites.
#[derive(Debug)]
pub struct Cursor<'a, V> {
    range: Range<'a, V>,
    buffer: Vec<u8>,
    /// How much of the buffer is the prefix of the current leaf.
    prefix_len: usize,
}

impl<'a, V: Weight> Cursor<'a, V> {
    pub(crate) fn new(range: Range<'a, V>) -> Self {
        let prefix = range.entries.prefix;
        Self { buffer: prefix.to_vec(), prefix_len: prefix.len(), range }
    }

    /// The next entry, or `None` at the end of the range.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend its own buffer")]
    #[inline]
    pub fn next(&mut self) -> Option<(&[u8], &'a V)> {
        let is_new_leaf = self.range.entries.is_empty();
        let (key, value) = self.range.next()?;
        if is_new_leaf {
            self.buffer.clear();
            self.buffer.extend_from_slice(key.prefix());
            self.prefix_len = key.prefix().len();
        }
        self.buffer.truncate(self.prefix_len);
        self.buffer.extend_from_slice(key.suffix());
        Some((&self.buffer, value))
    }
}

fn entries<'a, V: Weight>(
    leaf: &'a Leaf<V>,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
) -> Entries<'a, V> {
    let (first, end) = (leaf.slots.lower(from), leaf.slots.upper(to));
    if first >= end {
        return Entries::none();
    }
    let values = leaf.values[first..end].iter();
    Entries { prefix: leaf.slots.prefix(), suffixes: leaf.slots.suffixes(first..end), values }
}

/// Joins a key in `buffer`.
pub(crate) fn join<'b>(buffer: &'b mut Vec<u8>, key: Key<'_>) -> &'b [u8] {
    buffer.clear();
    key.append_to(buffer);
    buffer
}
