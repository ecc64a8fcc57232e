//! The sorted keys of one node, compressed.
//!
//! ```text
//! bytes   [ prefix | suffix 0 | suffix 1 | … ]
//! ends    [          ↑          ↑              one past each suffix, counted from the start of `bytes`
//! heads   [ first 8 bytes of each suffix, big-endian, padded with zeros ]
//! ```
//!
//! A smaller suffix never has a greater head, so a search over the heads finds the run of candidates, and only
//! those are compared in full. The prefix shrinks when a key comes that does not share it, and is measured anew
//! when a node splits.

use std::cmp::Ordering;
use std::ops::{self, AddAssign, Bound, SubAssign};
use std::slice;

use crate::key::{Key, common_len};

/// Spare places an array of entries grows by. Small steps keep the slack of a half-full node at a few entries.
pub(crate) const ENTRIES_SPARE: usize = 7;

/// Spare bytes the buffer of suffixes grows by.
const BYTES_SPARE: usize = 96;

/// A position in the bytes of a node. Leaves bound their bytes and take 4 bytes for it, inner nodes do not.
pub(crate) trait Offset: Copy + AddAssign + SubAssign {
    fn new(offset: usize) -> Self;
    fn get(self) -> usize;
}

impl Offset for u32 {
    fn new(offset: usize) -> Self {
        Self::try_from(offset).expect("the key limit and the split rule bound the bytes of a leaf")
    }

    fn get(self) -> usize {
        self as usize
    }
}

impl Offset for usize {
    fn new(offset: usize) -> Self {
        offset
    }

    fn get(self) -> usize {
        self
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Slots<O> {
    heads: Vec<u64>,
    bytes: Vec<u8>,
    ends: Vec<O>,
    prefix_len: usize,
}

/// Suffixes of a node in order.
#[derive(Debug)]
pub(crate) struct Suffixes<'a, O = u32> {
    bytes: &'a [u8],
    start: usize,
    ends: slice::Iter<'a, O>,
}

impl<O> Default for Suffixes<'_, O> {
    fn default() -> Self {
        Self { bytes: &[], start: 0, ends: [].iter() }
    }
}

impl<'a, O: Offset> Iterator for Suffixes<'a, O> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.ends.next()?.get();
        let suffix = &self.bytes[self.start..end];
        self.start = end;
        Some(suffix)
    }
}

impl<O: Offset> Slots<O> {
    pub(crate) fn new() -> Self {
        Self { heads: Vec::new(), bytes: Vec::new(), ends: Vec::new(), prefix_len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    pub(crate) fn prefix(&self) -> &[u8] {
        &self.bytes[..self.prefix_len]
    }

    pub(crate) fn suffix(&self, at: usize) -> &[u8] {
        &self.bytes[self.start(at)..self.ends[at].get()]
    }

    pub(crate) fn key(&self, at: usize) -> Key<'_> {
        Key::new(self.prefix(), self.suffix(at))
    }

    /// The suffixes of neighbouring positions, without looking each up.
    pub(crate) fn suffixes(&self, range: ops::Range<usize>) -> Suffixes<'_, O> {
        Suffixes {
            bytes: &self.bytes,
            start: self.start(range.start),
            ends: self.ends[range].iter(),
        }
    }

    /// Bytes of all suffixes together.
    pub(crate) fn suffix_bytes(&self) -> usize {
        self.bytes.len() - self.prefix_len
    }

    /// Bytes the suffixes of `at..` need, which is where a split by bytes looks.
    pub(crate) fn suffix_bytes_from(&self, at: usize) -> usize {
        self.bytes.len() - self.start(at)
    }

    /// Bytes of all suffixes together if the prefix had only `prefix_len` bytes.
    pub(crate) fn suffix_bytes_with(&self, prefix_len: usize) -> usize {
        self.suffix_bytes() + (self.prefix_len - prefix_len) * self.len()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * size_of::<O>()
            + self.heads.capacity() * size_of::<u64>()
    }

    /// Where `key` is, or where it belongs.
    pub(crate) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        let Some(suffix) = key.strip_prefix(prefix) else {
            return Err(if key < prefix { 0 } else { self.len() });
        };
        let head = head(suffix);
        let first = self.heads.partition_point(|h| *h < head);
        if self.heads.get(first) != Some(&head) {
            return Err(first);
        }
        match self.suffix(first).cmp(suffix) {
            Ordering::Equal => Ok(first),
            Ordering::Greater => Err(first),
            Ordering::Less => self.search_run(first + 1, head, suffix),
        }
    }

    /// Searches the rest of a run of equal heads.
    fn search_run(&self, from: usize, head: u64, suffix: &[u8]) -> Result<usize, usize> {
        let mut low = from;
        let mut high = from + self.heads[from..].partition_point(|h| *h == head);
        while low < high {
            let middle = low.midpoint(high);
            match self.suffix(middle).cmp(suffix) {
                Ordering::Equal => return Ok(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The first position within a range that starts at `from`.
    pub(crate) fn lower(&self, from: Bound<&[u8]>) -> usize {
        match from {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.search(key).unwrap_or_else(|at| at),
            Bound::Excluded(key) => self.search(key).map_or_else(|at| at, |at| at + 1),
        }
    }

    /// One past the last position within a range that ends at `to`.
    pub(crate) fn upper(&self, to: Bound<&[u8]>) -> usize {
        match to {
            Bound::Unbounded => self.len(),
            Bound::Excluded(key) => self.search(key).unwrap_or_else(|at| at),
            Bound::Included(key) => self.search(key).map_or_else(|at| at, |at| at + 1),
        }
    }

    /// Inserts `key` at the position that [`Slots::search`] gave for it.
    pub(crate) fn insert(&mut self, at: usize, key: &[u8]) {
        if self.is_empty() {
            return self.start_with(key);
        }
        let shared = common_len(self.prefix(), key);
        if shared < self.prefix_len {
            self.set_prefix_len(shared);
        }
        let suffix = &key[self.prefix_len..];
        let start = self.start(at);
        let added = O::new(suffix.len());
        insert_bytes(&mut self.bytes, start, suffix);
        // The last end is the greatest: when it fits, the sums below do not wrap.
        let _ = O::new(self.bytes.len());
        self.ends[at..].iter_mut().for_each(|end| *end += added);
        insert_entry(&mut self.ends, at, O::new(start + suffix.len()));
        insert_entry(&mut self.heads, at, head(suffix));
    }

    pub(crate) fn remove(&mut self, at: usize) {
        let (start, end) = (self.start(at), self.ends[at].get());
        self.bytes.drain(start..end);
        self.ends.remove(at);
        self.heads.remove(at);
        let gone = O::new(end - start);
        self.ends[at..].iter_mut().for_each(|end| *end -= gone);
        self.give_back();
    }

    /// Removes every position whose bit is set in `marked`, in one pass; for nodes of at most 64 entries.
    pub(crate) fn remove_marked(&mut self, marked: u64) {
        let (mut start, mut written, mut kept) = (self.prefix_len, self.prefix_len, 0);
        for at in 0..self.len() {
            let end = self.ends[at].get();
            if marked >> at & 1 == 0 {
                self.bytes.copy_within(start..end, written);
                written += end - start;
                self.ends[kept] = O::new(written);
                self.heads[kept] = self.heads[at];
                kept += 1;
            }
            start = end;
        }
        self.bytes.truncate(written);
        self.ends.truncate(kept);
        self.heads.truncate(kept);
        self.give_back();
    }

    /// Keeps the keys before `at` and returns the rest; neither side may be empty. Both get their longest prefix.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let last = self.len() - 1;
        let more = common_len(self.suffix(at), self.suffix(last));
        let count = self.len() - at;
        let mut right = Self {
            heads: Vec::with_capacity(count + ENTRIES_SPARE),
            bytes: Vec::with_capacity(
                self.prefix_len + more + self.suffix_bytes_from(at) - more * count + BYTES_SPARE,
            ),
            ends: Vec::with_capacity(count + ENTRIES_SPARE),
            prefix_len: self.prefix_len + more,
        };
        right.bytes.extend_from_slice(self.prefix());
        right.bytes.extend_from_slice(&self.suffix(at)[..more]);
        (at..=last).for_each(|i| right.push(&[], &self.suffix(i)[more..]));

        self.bytes.truncate(self.start(at));
        self.ends.truncate(at);
        self.heads.truncate(at);
        let more = common_len(self.suffix(0), self.suffix(at - 1));
        self.set_prefix_len(self.prefix_len + more);
        self.give_back();
        right
    }

    /// Puts all keys of `right`, which must be above all of ours, behind ours.
    pub(crate) fn append(&mut self, right: Self) {
        if right.is_empty() {
            return;
        }
        if self.is_empty() {
            *self = right;
            return;
        }
        let shared = common_len(self.prefix(), right.prefix());
        self.set_prefix_len(shared);
        self.bytes.reserve_exact(right.suffix_bytes_with(shared) + BYTES_SPARE);
        self.ends.reserve_exact(right.len() + ENTRIES_SPARE);
        self.heads.reserve_exact(right.len() + ENTRIES_SPARE);
        let gap = &right.prefix()[shared..];
        (0..right.len()).for_each(|i| self.push(gap, right.suffix(i)));
    }

    fn start(&self, at: usize) -> usize {
        if at == 0 { self.prefix_len } else { self.ends[at - 1].get() }
    }

    /// Makes room for exactly `entries` more keys, for who knows how many will come.
    pub(crate) fn reserve(&mut self, entries: usize) {
        self.ends.reserve_exact(entries);
        self.heads.reserve_exact(entries);
    }

    /// Gives all spare room back, for a node that is not expected to grow.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.heads.shrink_to_fit();
    }

    /// The first key is all prefix.
    fn start_with(&mut self, key: &[u8]) {
        self.bytes.clear();
        insert_bytes(&mut self.bytes, 0, key);
        self.prefix_len = key.len();
        insert_entry(&mut self.ends, 0, O::new(key.len()));
        insert_entry(&mut self.heads, 0, 0);
    }

    /// Appends the suffix `gap` + `rest`.
    fn push(&mut self, gap: &[u8], rest: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(gap);
        self.bytes.extend_from_slice(rest);
        self.ends.push(O::new(self.bytes.len()));
        self.heads.push(head(&self.bytes[start..]));
    }

    /// Moves the cut between prefix and suffixes. All keys must share `len` bytes.
    fn set_prefix_len(&mut self, len: usize) {
        if len == self.prefix_len {
            return;
        }
        let old = std::mem::replace(self, Self::new());
        let shorter = old.prefix_len.min(len);
        let more = len - shorter;
        let suffix_bytes =
            old.suffix_bytes() + (old.prefix_len - shorter) * old.len() - more * old.len();
        self.prefix_len = len;
        self.bytes.reserve_exact(len + suffix_bytes + BYTES_SPARE);
        self.ends.reserve_exact(old.len() + ENTRIES_SPARE);
        self.heads.reserve_exact(old.len() + ENTRIES_SPARE);
        self.bytes.extend_from_slice(&old.prefix()[..shorter]);
        self.bytes.extend_from_slice(&old.suffix(0)[..more]);
        let gap = &old.prefix()[shorter..];
        (0..old.len()).for_each(|i| self.push(gap, &old.suffix(i)[more..]));
    }

    fn give_back(&mut self) {
        give_back(&mut self.bytes, BYTES_SPARE);
        give_back(&mut self.ends, ENTRIES_SPARE);
        give_back(&mut self.heads, ENTRIES_SPARE);
    }

    /// Panics unless keys ascend and every derived field agrees with the bytes.
    pub(crate) fn assert_valid(&self) {
        assert_eq!(self.ends.len(), self.heads.len());
        assert!(self.prefix_len <= self.bytes.len());
        assert_eq!(
            self.start(self.len()),
            self.bytes.len(),
            "the last suffix ends where the bytes end"
        );
        for at in 0..self.len() {
            assert!(self.start(at) <= self.ends[at].get(), "ends ascend");
            assert_eq!(self.heads[at], head(self.suffix(at)), "a head is the start of its suffix");
            assert!(at == 0 || self.suffix(at - 1) < self.suffix(at), "keys ascend");
        }
    }
}

/// The first 8 bytes of a suffix as a number that orders like them; what is missing counts as zero.
fn head(suffix: &[u8]) -> u64 {
    if let Some(first) = suffix.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let mut padded = [0; 8];
    padded[..suffix.len()].copy_from_slice(suffix);
    u64::from_be_bytes(padded)
}

fn insert_bytes(bytes: &mut Vec<u8>, at: usize, added: &[u8]) {
    let len = bytes.len();
    if bytes.capacity() - len < added.len() {
        bytes.reserve_exact(added.len() + BYTES_SPARE);
    }
    bytes.resize(len + added.len(), 0);
    bytes.copy_within(at..len, at + added.len());
    bytes[at..at + added.len()].copy_from_slice(added);
}

/// Inserts into one of the arrays beside each other in a node, which grow in small steps.
pub(crate) fn insert_entry<T>(entries: &mut Vec<T>, at: usize, entry: T) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact(1 + ENTRIES_SPARE);
    }
    entries.insert(at, entry);
}

/// Shrinks a buffer that has become much too large, with room left so that the next inserts do not pay.
pub(crate) fn give_back<T>(buffer: &mut Vec<T>, spare: usize) {
    if buffer.capacity() - buffer.len() > 3 * spare {
        buffer.shrink_to(buffer.len() + spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(keys: &[&[u8]]) -> Slots<u32> {
        let mut slots = Slots::new();
        for key in keys {
            let at = slots.search(key).expect_err("keys of a test are distinct");
            slots.insert(at, key);
            slots.assert_valid();
        }
        slots
    }

    fn keys<O: Offset>(slots: &Slots<O>) -> Vec<Vec<u8>> {
        (0..slots.len()).map(|i| slots.key(i).to_vec()).collect()
    }

    #[test]
    fn the_common_prefix_is_stored_once() {
        let slots = slots(&[b"/pods/b", b"/pods/a", b"/pods/ab"]);
        assert_eq!(slots.prefix(), b"/pods/");
        assert_eq!(slots.bytes, b"/pods/aabb");
        assert_eq!(slots.ends, [7, 9, 10]);
        assert_eq!(slots.heads, [0x61 << 56, 0x6162 << 48, 0x62 << 56]);
    }

    #[test]
    fn a_stranger_shortens_the_prefix() {
        let mut slots = slots(&[b"/pods/a", b"/pods/b"]);
        slots.insert(2, b"/pot");
        slots.assert_valid();
        assert_eq!(slots.prefix(), b"/po");
        assert_eq!(keys(&slots), [&b"/pods/a"[..], b"/pods/b", b"/pot"]);
        slots.insert(0, b"");
        slots.assert_valid();
        assert_eq!(slots.prefix(), b"");
        assert_eq!(slots.search(b""), Ok(0));
        assert_eq!(slots.search(b"/pods/b"), Ok(2));
    }

    #[test]
    fn equal_heads_are_told_apart_by_their_bytes() {
        let all: [&[u8]; 7] = [
            b"",
            b"\0",
            b"\0\0",
            b"\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0a",
            b"a",
        ];
        let slots = slots(&all);
        for (at, key) in all.iter().enumerate() {
            assert_eq!(slots.search(key), Ok(at));
        }
        assert_eq!(slots.search(b"\0\0\0"), Err(3));
        assert_eq!(slots.search(b"\0\0\0\0\0\0\0\0\0\0"), Err(5));
        assert_eq!(slots.search(b"\xff"), Err(7));
    }

    #[test]
    fn keys_outside_the_prefix_belong_to_an_edge() {
        let slots = slots(&[b"mm1", b"mm2"]);
        for (key, at) in
            [(&b""[..], 0), (b"m", 0), (b"mm", 0), (b"ml9", 0), (b"mn", 2), (b"n", 2), (b"mm15", 1)]
        {
            assert_eq!(slots.search(key), Err(at), "{key:?}");
        }
        assert_eq!(
            (slots.lower(Bound::Excluded(b"mm1")), slots.upper(Bound::Included(b"mm1"))),
            (1, 1)
        );
        assert_eq!(
            (slots.lower(Bound::Included(b"mm1")), slots.upper(Bound::Excluded(b"mm1"))),
            (0, 0)
        );
        assert_eq!((slots.lower(Bound::Unbounded), slots.upper(Bound::Unbounded)), (0, 2));
    }

    #[test]
    fn a_split_lengthens_both_prefixes_and_append_undoes_it() {
        let all: [&[u8]; 5] = [b"/a/1", b"/a/2", b"/b", b"/b/1", b"/b/1/x"];
        let mut left = slots(&all);
        let right = left.split_off(2);
        left.assert_valid();
        right.assert_valid();
        assert_eq!((left.prefix(), right.prefix()), (&b"/a/"[..], &b"/b"[..]));
        left.append(right);
        left.assert_valid();
        assert_eq!(keys(&left), all);
    }

    #[test]
    fn removal_leaves_no_trace() {
        let all: [&[u8]; 5] = [b"k", b"k1", b"k22", b"k333", b"k4444"];
        let mut one = slots(&all);
        one.remove(2);
        one.assert_valid();
        assert_eq!(keys(&one), [all[0], all[1], all[3], all[4]]);
        let mut many = slots(&all);
        many.remove_marked(0b10101);
        many.assert_valid();
        assert_eq!(keys(&many), [all[1], all[3]]);
        many.remove_marked(0b11);
        many.insert(0, b"other");
        many.assert_valid();
        assert_eq!(keys(&many), [b"other"]);
    }
}
