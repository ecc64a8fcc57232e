//! The map itself: what callers see.

use std::fmt;
use std::ops::{Bound, ControlFlow};

use crate::bulk;
use crate::cursor::{Cursor, Range};
use crate::inner::Inner;
use crate::leaf::{Leaf, Slot, Verdict, Weight};
use crate::node::{Node, Slice};

/// Longest key in bytes, far above what any request may carry. Longer ones cannot be inserted.
pub const KEY_LEN_MAX: usize = 512 << 20;

/// An ordered map from byte strings to `V` that counts its live entries in O(log n). See the crate's essay.
///
/// ```
/// use std::ops::Bound::{Excluded, Included, Unbounded};
/// use retcd_btree::{BTree, Slot, Weight};
///
/// struct Record { deleted: bool }
/// impl Weight for Record {
///     fn is_live(&self) -> bool { !self.deleted }
/// }
///
/// let mut tree: BTree<Record> = BTree::new();
/// for key in ["a", "b", "c"] {
///     tree.upsert(key.as_bytes(), |slot| match slot {
///         Slot::Occupied(record) => record.deleted = false,
///         Slot::Vacant(place) => place.insert(Record { deleted: false }),
///     });
/// }
/// tree.upsert(b"b", |slot| if let Slot::Occupied(record) = slot { record.deleted = true });
/// assert_eq!((tree.len(), tree.live_len()), (3, 2));
/// assert_eq!(tree.count_range(Included(b"a"), Excluded(b"c")), 1);
/// assert_eq!(tree.range(Included(b"b"), Unbounded).count(), 2);
/// ```
pub struct BTree<V> {
    root: Node<V>,
    len: usize,
}

impl<V: Weight> BTree<V> {
    /// An empty map.
    pub fn new() -> Self {
        Self { root: Node::Leaf(Leaf::new()), len: 0 }
    }

    /// Builds a map from entries in strictly ascending key order, in linear time, with nodes 85 % full.
    ///
    /// # Panics
    /// When the keys do not ascend.
    pub fn from_sorted<K: AsRef<[u8]>>(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        let (root, len) = bulk::build(entries);
        Self { root, len }
    }

    /// How many entries there are, live or not.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry at all, not even a dead one.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many entries are live.
    pub fn live_len(&self) -> u64 {
        self.root.live()
    }

    /// The value of `key`, live or not.
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        self.root.get(key)
    }

    /// Looks `key` up and lets `f` change its value or, where there is none, insert one: the whole put in one descent.
    ///
    /// Counts follow whatever `f` does to the value's liveness. Should `f` panic after changing it, the counts
    /// are no longer right and the map must be given up.
    ///
    /// # Panics
    /// When a key longer than [`KEY_LEN_MAX`] is given.
    pub fn upsert<R>(&mut self, key: &[u8], f: impl FnOnce(Slot<'_, V>) -> R) -> R {
        assert!(key.len() <= KEY_LEN_MAX, "a key has at most {KEY_LEN_MAX} bytes");
        let (result, growth) = self.root.upsert(key, f);
        self.len += usize::from(growth.added);
        if let Some(split) = growth.split {
            let first = std::mem::replace(&mut self.root, Node::Leaf(Leaf::new()));
            self.root = Node::Inner(Inner::new_root(first, *split));
        }
        result
    }

    /// Sets the value of `key` and returns the one before.
    pub fn insert(&mut self, key: &[u8], value: V) -> Option<V> {
        self.upsert(key, |slot| match slot {
            Slot::Occupied(old) => Some(std::mem::replace(old, value)),
            Slot::Vacant(place) => {
                place.insert(value);
                None
            }
        })
    }

    /// Removes `key` altogether, live or not, and returns its value.
    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        let value = self.root.remove(key)?;
        self.len -= 1;
        self.lower_root();
        Some(value)
    }

    /// The entries of a range in key order, live or not; nothing when the bounds cross.
    ///
    /// To walk in pieces, remember the last key and go on from `Bound::Excluded` of it: that costs one look-up.
    pub fn range<'a>(&'a self, from: Bound<&[u8]>, to: Bound<&'a [u8]>) -> Range<'a, V> {
        Range::new(&self.root, from, to)
    }

    /// As [`BTree::range`], with whole keys lent from a buffer.
    pub fn cursor<'a>(&'a self, from: Bound<&[u8]>, to: Bound<&'a [u8]>) -> Cursor<'a, V> {
        Cursor::new(self.range(from, to))
    }

    /// Shows every entry of a range to `f` until it breaks.
    pub fn for_each_range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        mut f: impl FnMut(&[u8], &V) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut cursor = self.cursor(from, to);
        while let Some((key, value)) = cursor.next() {
            f(key, value)?;
        }
        ControlFlow::Continue(())
    }

    /// Lends every entry of a range to `f` for changes until it breaks. Liveness may change: counts follow, as
    /// with [`BTree::upsert`].
    pub fn for_each_range_mut(
        &mut self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        mut f: impl FnMut(&[u8], &mut V) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.root.visit_mut((from, to), &mut Vec::new(), &mut f).0
    }

    /// Shows at most `entries_max` entries from `from` on to `f`, which may change them and decides which stay.
    ///
    /// Returns where the next slice begins, to be given as `Bound::Included`, or `None` when the end was reached.
    /// That string need not be a key of the map. Counts follow changes of liveness, as with [`BTree::upsert`].
    ///
    /// # Panics
    /// When `entries_max` is zero: such a slice could not go on.
    pub fn retain_range(
        &mut self,
        from: Bound<&[u8]>,
        entries_max: usize,
        f: impl FnMut(&[u8], &mut V) -> Verdict,
    ) -> Option<Vec<u8>> {
        assert!(entries_max > 0, "a slice needs room for one entry");
        let mut slice = Slice { budget: entries_max, resume: None, buffer: Vec::new(), visit: f };
        self.retain_leaf(from, &mut slice);
        while slice.budget > 0 {
            let Some(next) = slice.resume.take() else { break };
            self.retain_leaf(Bound::Included(&next), &mut slice);
        }
        slice.resume
    }

    fn retain_leaf<F>(&mut self, from: Bound<&[u8]>, slice: &mut Slice<F>)
    where
        F: FnMut(&[u8], &mut V) -> Verdict,
    {
        self.len -= self.root.retain(from, slice).removed;
        self.lower_root();
    }

    /// How many live entries a range has, in O(log n); zero when the bounds cross.
    pub fn count_range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> u64 {
        self.root.count(from, to)
    }

    /// Estimate of the memory the map holds, without what values own elsewhere and the allocator's own overhead.
    /// Looks at every node, not at every entry.
    pub fn heap_bytes(&self) -> usize {
        self.root.heap_bytes()
    }

    pub(crate) fn root(&self) -> &Node<V> {
        &self.root
    }

    /// Takes away roots that tell no children apart any more.
    fn lower_root(&mut self) {
        while let Node::Inner(inner) = &mut self.root
            && inner.children.len() < 2
        {
            self.root = inner.children.pop().unwrap_or_else(|| Node::Leaf(Leaf::new()));
        }
    }
}

impl<V: Weight> Default for BTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Weight> fmt::Debug for BTree<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BTree")
            .field("len", &self.len)
            .field("live_len", &self.live_len())
            .finish_non_exhaustive()
    }
}
