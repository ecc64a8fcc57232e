//! The lowest level: keys and their values.

use std::ops::Bound;

use crate::cursor::join;
use crate::key::{Key, common_len, separator};
use crate::live::LiveSet;
use crate::node::{Growth, Node, Slice, Split, Trim};
use crate::slots::{ENTRIES_SPARE, Slots, give_back, insert_entry};

/// Most entries of a leaf.
pub const LEAF_MAX: usize = if cfg!(test) { 8 } else { 48 };

/// A leaf of more than one entry splits when its suffixes exceed this, so that an insert never moves much.
pub const LEAF_BYTES_MAX: usize = if cfg!(test) { 160 } else { 16 << 10 };

/// Below this a leaf looks for a neighbour to join.
const LEAF_MIN: usize = LEAF_MAX / 4;

/// So many inserts, each right behind the one before, are taken for an ascending run.
const RUN_MIN: usize = LEAF_MAX / 4;

// A full leaf that takes in one below the minimum is split at once, but must be describable until then.
const _: () = assert!(LEAF_MAX + LEAF_MIN <= LiveSet::CAPACITY);

/// What the tree must know of its values.
pub trait Weight {
    /// Whether the entry counts. A tombstone does not, though it is still found and walked.
    ///
    /// The answer may depend on the value only, and may change only where the tree hands the value out as `&mut`.
    fn is_live(&self) -> bool;
}

/// What [`BTree::upsert`](crate::BTree::upsert) found under a key.
#[derive(Debug)]
pub enum Slot<'a, V> {
    /// The key exists. The value may be changed in any way, its liveness included.
    Occupied(&'a mut V),
    /// The key does not exist. Dropping this leaves it so.
    Vacant(Vacant<'a, V>),
}

/// The place of a key that does not exist yet.
#[derive(Debug)]
pub struct Vacant<'a, V> {
    value: &'a mut Option<V>,
}

impl<V> Vacant<'_, V> {
    /// Gives the key a value; it enters the tree when the closure returns.
    pub fn insert(self, value: V) {
        *self.value = Some(value);
    }
}

/// What [`BTree::retain_range`](crate::BTree::retain_range) shall do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The entry stays.
    Keep,
    /// The entry leaves the tree.
    Remove,
}

#[derive(Debug)]
pub(crate) struct Leaf<V> {
    pub(crate) slots: Slots<u32>,
    pub(crate) values: Vec<V>,
    pub(crate) live: LiveSet,
    run: Run,
}

/// Notices ascending inserts, so that a split can leave a full leaf behind instead of two halves that nobody
/// fills. Works for every run of its own, say one per directory of the key space, not only at the tree's end.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// Where the next insert of the run would go.
    next: u8,
    len: u8,
}

impl Run {
    fn note(&mut self, at: usize) {
        let continues = at == usize::from(self.next);
        self.len = if continues { self.len.saturating_add(1) } else { 0 };
        self.next = u8::try_from(at + 1).expect("a leaf has fewer than 64 entries");
    }

    /// A run stays with its next position when its leaf is split at `at`; returns the right side's.
    fn split_off(&mut self, at: usize) -> Self {
        let ahead = usize::from(self.next).saturating_sub(at);
        if ahead == 0 {
            return Self::default();
        }
        let run = std::mem::take(self);
        Self { next: u8::try_from(ahead).expect("a leaf has fewer than 64 entries"), len: run.len }
    }
}

impl<V: Weight> Leaf<V> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Slots::new(),
            values: Vec::new(),
            live: LiveSet::default(),
            run: Run::default(),
        }
    }

    pub(crate) fn with_room(entries: usize) -> Self {
        let mut leaf = Self::new();
        leaf.slots.reserve(entries);
        leaf.values.reserve_exact(entries);
        leaf
    }

    /// Gives all spare room back, for a leaf that is not expected to grow.
    pub(crate) fn shrink(&mut self) {
        self.slots.shrink();
        self.values.shrink_to_fit();
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn entry(&self, at: usize) -> (Key<'_>, &V) {
        (self.slots.key(at), &self.values[at])
    }

    pub(crate) fn upsert<R>(
        &mut self,
        key: &[u8],
        f: impl FnOnce(Slot<'_, V>) -> R,
    ) -> (R, Growth<V>) {
        match self.slots.search(key) {
            Ok(at) => {
                let result = f(Slot::Occupied(&mut self.values[at]));
                (result, Growth { live: self.refresh_live(at), added: false, split: None })
            }
            Err(at) => {
                let mut value = None;
                let result = f(Slot::Vacant(Vacant { value: &mut value }));
                (result, value.map_or_else(Growth::none, |value| self.grow(at, key, value)))
            }
        }
    }

    fn grow(&mut self, at: usize, key: &[u8], value: V) -> Growth<V> {
        let live = i64::from(value.is_live());
        let split = if self.would_bloat(key) {
            Some(self.split_beside(at, key, value))
        } else {
            self.insert(at, key, value);
            self.split_point(at).map(|point| self.split_off(point))
        };
        Growth { live, added: true, split: split.map(Box::new) }
    }

    pub(crate) fn insert(&mut self, at: usize, key: &[u8], value: V) {
        self.slots.insert(at, key);
        self.live.insert(at, value.is_live());
        insert_entry(&mut self.values, at, value);
        self.run.note(at);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<V> {
        let at = self.slots.search(key).ok()?;
        self.slots.remove(at);
        self.live.remove(at);
        self.run = Run::default();
        let value = self.values.remove(at);
        give_back(&mut self.values, ENTRIES_SPARE);
        Some(value)
    }

    /// Shows the entries from `from` on to the closure of `slice` and removes those it refuses.
    pub(crate) fn retain<F>(&mut self, from: Bound<&[u8]>, slice: &mut Slice<F>) -> Trim
    where
        F: FnMut(&[u8], &mut V) -> Verdict,
    {
        let start = self.slots.lower(from);
        let end = self.len().min(start.saturating_add(slice.budget));
        slice.budget -= end - start;
        slice.resume = (end < self.len()).then(|| self.slots.key(end).to_vec());

        let live_before = self.live.count();
        let mut marked = 0_u64;
        for at in start..end {
            let key = join(&mut slice.buffer, self.slots.key(at));
            let verdict = (slice.visit)(key, &mut self.values[at]);
            self.refresh_live(at);
            marked |= u64::from(verdict == Verdict::Remove) << at;
        }
        self.remove_marked(marked);
        Trim {
            live: self.live.count().cast_signed() - live_before.cast_signed(),
            removed: marked.count_ones() as usize,
        }
    }

    fn remove_marked(&mut self, marked: u64) {
        if marked == 0 {
            return;
        }
        self.slots.remove_marked(marked);
        self.live.remove_marked(marked);
        self.run = Run::default();
        let mut at = 0;
        self.values.retain(|_| {
            at += 1;
            marked >> (at - 1) & 1 == 0
        });
        give_back(&mut self.values, ENTRIES_SPARE);
    }

    /// Brings the live bit of `at` up to date; returns by how much the live count changed.
    pub(crate) fn refresh_live(&mut self, at: usize) -> i64 {
        let (before, now) = (self.live.get(at), self.values[at].is_live());
        self.live.set(at, now);
        i64::from(now) - i64::from(before)
    }

    pub(crate) fn is_underfull(&self) -> bool {
        self.len() < LEAF_MIN
    }

    /// Whether both leaves' suffixes fit one leaf. Their number does not matter: too many are dealt out evenly.
    pub(crate) fn can_absorb(&self, right: &Self) -> bool {
        let shared = common_len(self.slots.prefix(), right.slots.prefix());
        self.slots.suffix_bytes_with(shared) + right.slots.suffix_bytes_with(shared)
            <= LEAF_BYTES_MAX
    }

    pub(crate) fn absorb(&mut self, mut right: Self) {
        self.live.append(self.len(), right.live);
        self.slots.append(right.slots);
        self.values.reserve_exact(right.values.len() + ENTRIES_SPARE);
        self.values.append(&mut right.values);
        self.run = Run::default();
    }

    pub(crate) fn split_if_overfull(&mut self) -> Option<Split<V>> {
        (self.len() > LEAF_MAX).then(|| self.split_off(self.len() / 2))
    }

    /// Where to split after an insert at `inserted`, if at all.
    fn split_point(&self, inserted: usize) -> Option<usize> {
        let bytes = self.slots.suffix_bytes();
        if self.len() <= LEAF_MAX && (bytes <= LEAF_BYTES_MAX || self.len() < 2) {
            return None;
        }
        // Runs first, but not where huge keys could gather: those are always torn apart.
        if usize::from(self.run.len) >= RUN_MIN && bytes <= 2 * LEAF_BYTES_MAX {
            let is_last = inserted + 1 == self.len();
            return Some(if is_last { inserted } else { inserted + 1 });
        }
        Some(if bytes > LEAF_BYTES_MAX { self.byte_middle() } else { self.len() / 2 })
    }

    /// The position that divides the suffix bytes most evenly. Two huge keys always end up on different sides.
    fn byte_middle(&self) -> usize {
        let half = self.slots.suffix_bytes() / 2;
        (1..self.len())
            .min_by_key(|at| self.slots.suffix_bytes_from(*at).abs_diff(half))
            .expect("two entries at least")
    }

    /// Whether a key outside a long prefix would multiply that prefix beyond what a leaf may hold.
    fn would_bloat(&self, key: &[u8]) -> bool {
        self.slots.suffix_bytes_with(0) > LEAF_BYTES_MAX && {
            let shared = common_len(self.slots.prefix(), key);
            shared < self.slots.prefix().len()
                && self.slots.suffix_bytes_with(shared) > LEAF_BYTES_MAX
        }
    }

    /// Puts the key into a leaf of its own. A key outside the prefix belongs to an edge, so it needs no split.
    fn split_beside(&mut self, at: usize, key: &[u8], value: V) -> Split<V> {
        let mut alone = Self::new();
        alone.insert(0, key, value);
        if at == 0 {
            let separator = separator(key, &self.slots.key(0).to_vec());
            let right = std::mem::replace(self, alone);
            Split { separator, right: Node::Leaf(right) }
        } else {
            let separator = separator(&self.slots.key(at - 1).to_vec(), key);
            Split { separator, right: Node::Leaf(alone) }
        }
    }

    fn split_off(&mut self, at: usize) -> Split<V> {
        let separator = separator(&self.slots.key(at - 1).to_vec(), &self.slots.key(at).to_vec());
        let mut values = Vec::with_capacity(self.len() - at + ENTRIES_SPARE);
        values.extend(self.values.drain(at..));
        give_back(&mut self.values, ENTRIES_SPARE);
        let right = Self {
            slots: self.slots.split_off(at),
            values,
            live: self.live.split_off(at),
            run: self.run.split_off(at),
        };
        if self.len() == LEAF_MAX {
            // The run that filled this leaf has moved on.
            self.shrink();
        }
        Split { separator, right: Node::Leaf(right) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weight for usize {
        fn is_live(&self) -> bool {
            true
        }
    }

    /// Inserts in the given order; returns what the last insert split off.
    fn fill(
        leaf: &mut Leaf<usize>,
        keys: impl IntoIterator<Item = Vec<u8>>,
    ) -> Option<Split<usize>> {
        let mut split = None;
        for key in keys {
            assert!(split.is_none(), "only the last insert may split");
            let put = |slot: Slot<'_, usize>| {
                if let Slot::Vacant(place) = slot {
                    place.insert(0);
                }
            };
            split = leaf.upsert(&key, put).1.split.map(|split| *split);
        }
        split
    }

    fn right_leaf(split: Option<Split<usize>>) -> Leaf<usize> {
        match split.expect("the leaf splits").right {
            Node::Leaf(leaf) => leaf,
            Node::Inner(_) => panic!("a leaf splits off a leaf"),
        }
    }

    fn numbered(stem: &str, numbers: std::ops::Range<usize>) -> impl Iterator<Item = Vec<u8>> {
        numbers.map(move |n| format!("{stem}{n:03}").into_bytes())
    }

    #[test]
    fn an_ascending_run_leaves_a_full_leaf_and_goes_on_in_the_next() {
        let mut leaf = Leaf::new();
        let mut right = right_leaf(fill(&mut leaf, numbered("k", 0..LEAF_MAX + 1)));
        assert_eq!((leaf.len(), right.len()), (LEAF_MAX, 1));
        assert_eq!((leaf.run.len, right.run.next), (0, 1), "the run moved into the new leaf");
        assert!(fill(&mut right, numbered("k", LEAF_MAX + 1..2 * LEAF_MAX)).is_none());
    }

    #[test]
    fn a_run_before_other_keys_is_cut_behind_its_last_insert() {
        let mut leaf = Leaf::new();
        assert!(fill(&mut leaf, [b"z2".to_vec(), b"z1".to_vec()]).is_none());
        let right = right_leaf(fill(&mut leaf, numbered("k", 0..LEAF_MAX - 1)));
        assert_eq!((leaf.len(), right.len()), (LEAF_MAX - 1, 2));
        assert_eq!(
            usize::from(leaf.run.next),
            leaf.len(),
            "the run goes on at the left leaf's end"
        );
    }

    #[test]
    fn other_inserts_halve_the_leaf() {
        let mut leaf = Leaf::new();
        let right = right_leaf(fill(
            &mut leaf,
            numbered("k", 0..LEAF_MAX + 1).collect::<Vec<_>>().into_iter().rev(),
        ));
        assert_eq!((leaf.len(), right.len()), (LEAF_MAX / 2, LEAF_MAX / 2 + 1));
    }

    #[test]
    fn a_stranger_does_not_multiply_a_long_prefix() {
        let stem = "m".repeat(LEAF_BYTES_MAX);
        for (stranger, lens) in [("z", (3, 1)), ("a", (1, 3)), ("mz", (3, 1)), ("m", (1, 3))] {
            let mut leaf = Leaf::new();
            let keys = numbered(&stem, 0..3).chain([stranger.as_bytes().to_vec()]);
            let right = right_leaf(fill(&mut leaf, keys));
            assert_eq!((leaf.len(), right.len()), lens, "{stranger}");
        }
    }

    #[test]
    fn huge_keys_are_torn_apart_even_in_a_run() {
        let huge = |letter: u8| vec![letter; 3 * LEAF_BYTES_MAX];
        let mut leaf = Leaf::new();
        let small = numbered("a", 0..RUN_MIN + 1);
        assert!(fill(&mut leaf, [b"z".to_vec()].into_iter().chain(small)).is_none());
        let right = right_leaf(fill(&mut leaf, [huge(b'b')]));
        assert_eq!(
            (leaf.len(), right.len()),
            (RUN_MIN + 1, 2),
            "the small keys are rid of the huge one"
        );
    }
}
