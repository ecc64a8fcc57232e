//! A node of either kind, and every operation that walks down through both.
//!
//! Each writing operation is one recursion: the leaf does the work, and on the way back every parent adjusts its
//! count of that child and takes in a split or mends an underfull child.

use std::ops::{Bound, ControlFlow};

use crate::cursor::join;
use crate::inner::Inner;
use crate::leaf::{Leaf, Slot, Verdict, Weight};

/// Lies in its parent's array; an enum by value spares the pointer between a parent's array and the child's parts.
#[derive(Debug)]
pub(crate) enum Node<V> {
    Leaf(Leaf<V>),
    Inner(Inner<V>),
}

/// A new right neighbour, and the string that tells it from the node it was split off.
#[derive(Debug)]
pub(crate) struct Split<V> {
    pub(crate) separator: Vec<u8>,
    pub(crate) right: Node<V>,
}

/// What an upsert did to a subtree.
#[derive(Debug)]
pub(crate) struct Growth<V> {
    /// Change of the live count: -1, 0 or 1.
    pub(crate) live: i64,
    /// Whether there is one more entry.
    pub(crate) added: bool,
    /// Boxed because it is rare and large.
    pub(crate) split: Option<Box<Split<V>>>,
}

impl<V> Growth<V> {
    pub(crate) fn none() -> Self {
        Self { live: 0, added: false, split: None }
    }
}

/// The state of one bounded slice of `retain_range`.
pub(crate) struct Slice<F> {
    /// How many entries may still be visited.
    pub(crate) budget: usize,
    /// Where the next leaf, or the rest of this one, begins; `None` at the end of the tree.
    pub(crate) resume: Option<Vec<u8>>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) visit: F,
}

/// What a slice did to a subtree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trim {
    /// Change of the live count.
    pub(crate) live: i64,
    /// Entries removed.
    pub(crate) removed: usize,
}

impl<V: Weight> Node<V> {
    pub(crate) fn live(&self) -> u64 {
        match self {
            Self::Leaf(leaf) => leaf.live.count(),
            Self::Inner(inner) => inner.live(),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&V> {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(leaf) => return leaf.slots.search(key).ok().map(|at| &leaf.values[at]),
                Self::Inner(inner) => node = &inner.children[inner.child_of(key)],
            }
        }
    }

    pub(crate) fn upsert<R>(
        &mut self,
        key: &[u8],
        f: impl FnOnce(Slot<'_, V>) -> R,
    ) -> (R, Growth<V>) {
        match self {
            Self::Leaf(leaf) => leaf.upsert(key, f),
            Self::Inner(inner) => {
                let at = inner.child_of(key);
                let (result, growth) = inner.children[at].upsert(key, f);
                inner.add_live(at, growth.live);
                let split = growth.split.and_then(|split| inner.attach(at, *split)).map(Box::new);
                (result, Growth { split, ..growth })
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<V> {
        match self {
            Self::Leaf(leaf) => leaf.remove(key),
            Self::Inner(inner) => {
                let at = inner.child_of(key);
                let value = inner.children[at].remove(key)?;
                inner.add_live(at, -i64::from(value.is_live()));
                inner.mend(at);
                Some(value)
            }
        }
    }

    /// Live entries of a range. Where a bound lies outside this node the caller passes `Unbounded`.
    pub(crate) fn count(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> u64 {
        match self {
            Self::Leaf(leaf) => {
                leaf.live.count_between(leaf.slots.lower(from), leaf.slots.upper(to))
            }
            Self::Inner(inner) => {
                let (first, last) = (inner.first_child(from), inner.last_child(to));
                if first == last {
                    return inner.count_child(first, from, to);
                }
                if first > last {
                    return 0;
                }
                let between: u64 = inner.counts[first + 1..last].iter().sum();
                inner.count_child(first, from, Bound::Unbounded)
                    + between
                    + inner.count_child(last, Bound::Unbounded, to)
            }
        }
    }

    /// Visits a range mutably; returns how it ended and by how much the live count changed.
    pub(crate) fn visit_mut<F>(
        &mut self,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        buffer: &mut Vec<u8>,
        f: &mut F,
    ) -> (ControlFlow<()>, i64)
    where
        F: FnMut(&[u8], &mut V) -> ControlFlow<()>,
    {
        let mut change = 0;
        match self {
            Self::Leaf(leaf) => {
                for at in leaf.slots.lower(from)..leaf.slots.upper(to) {
                    let flow = f(join(buffer, leaf.slots.key(at)), &mut leaf.values[at]);
                    change += leaf.refresh_live(at);
                    if flow.is_break() {
                        return (flow, change);
                    }
                }
            }
            Self::Inner(inner) => {
                let (first, last) = (inner.first_child(from), inner.last_child(to));
                for at in first..=last {
                    let from = if at == first { from } else { Bound::Unbounded };
                    let to = if at == last { to } else { Bound::Unbounded };
                    let (flow, below) = inner.children[at].visit_mut((from, to), buffer, f);
                    inner.add_live(at, below);
                    change += below;
                    if flow.is_break() {
                        return (flow, change);
                    }
                }
            }
        }
        (ControlFlow::Continue(()), change)
    }

    /// Goes on with `slice` in the one leaf where `from` is.
    pub(crate) fn retain<F>(&mut self, from: Bound<&[u8]>, slice: &mut Slice<F>) -> Trim
    where
        F: FnMut(&[u8], &mut V) -> Verdict,
    {
        match self {
            Self::Leaf(leaf) => leaf.retain(from, slice),
            Self::Inner(inner) => {
                let at = inner.first_child(from);
                let trim = inner.children[at].retain(from, slice);
                // The leaf is done: its right neighbour starts at the nearest separator above.
                if slice.resume.is_none() && at < inner.slots.len() {
                    slice.resume = Some(inner.slots.key(at).to_vec());
                }
                inner.add_live(at, trim.live);
                if trim.removed > 0 {
                    inner.mend(at);
                }
                trim
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.len() == 0,
            Self::Inner(inner) => inner.children.is_empty(),
        }
    }

    pub(crate) fn is_underfull(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.is_underfull(),
            Self::Inner(inner) => inner.is_underfull(),
        }
    }

    /// Whether the right neighbour's entries fit in beside ours, as far as bytes go.
    pub(crate) fn can_absorb(&self, right: &Self) -> bool {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => left.can_absorb(right),
            _ => true,
        }
    }

    pub(crate) fn absorb(&mut self, separator: &[u8], right: Self) {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => left.absorb(right),
            (Self::Inner(left), Self::Inner(right)) => left.absorb(separator, right),
            (Self::Leaf(_), Self::Inner(_)) | (Self::Inner(_), Self::Leaf(_)) => {
                unreachable!("all children of a node are of one kind")
            }
        }
    }

    pub(crate) fn split_if_overfull(&mut self) -> Option<Split<V>> {
        match self {
            Self::Leaf(leaf) => leaf.split_if_overfull(),
            Self::Inner(inner) => inner.split_if_overfull(),
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.slots.heap_bytes() + leaf.values.capacity() * size_of::<V>(),
            Self::Inner(inner) => {
                let arrays = inner.counts.capacity() * size_of::<u64>()
                    + inner.children.capacity() * size_of::<Self>();
                let below: usize = inner.children.iter().map(Self::heap_bytes).sum();
                inner.slots.heap_bytes() + arrays + below
            }
        }
    }
}

impl<V: Weight> Inner<V> {
    /// The first child that may hold keys of a range that starts at `from`.
    pub(crate) fn first_child(&self, from: Bound<&[u8]>) -> usize {
        match from {
            Bound::Unbounded => 0,
            Bound::Included(key) | Bound::Excluded(key) => self.child_of(key),
        }
    }

    /// The last child that may hold keys of a range that ends at `to`.
    pub(crate) fn last_child(&self, to: Bound<&[u8]>) -> usize {
        self.slots.upper(to)
    }

    /// Live entries of a range within one child; a child that lies inside it altogether is not looked at.
    fn count_child(&self, at: usize, from: Bound<&[u8]>, to: Bound<&[u8]>) -> u64 {
        match (from, to) {
            (Bound::Unbounded, Bound::Unbounded) => self.counts[at],
            _ => self.children[at].count(from, to),
        }
    }
}
