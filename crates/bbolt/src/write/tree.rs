//! A B+tree that grows at its right edge only.
//!
//! Entries fill a leaf. A full leaf is written, and its first key and page id go into the branch above; a full branch
//! likewise, one level further up:
//!
//! ```text
//! level 1      [ held            ] [ open · ·  ]        written when a third one starts
//! level 0   …  [ held            ] [ open ·    ]
//! leaf      written written written [ being filled    ]
//! ```
//!
//! bbolt asserts, when it deletes from such a tree later on, that a branch has at least two children. A branch that
//! has just been started has one, and nobody knows whether another will come. So the last full branch of each
//! level is held back: at the end it gives its last child to a neighbour that has only one.
//!
//! A branch element repeats the first key below it exactly. bbolt looks for that key when it rewrites the child.

use super::{Error, Pages, Sink};
use crate::format::{
    BUCKET_BYTES, BranchElement, BucketHeader, ELEMENT_BYTES, ELEMENTS_MAX, FLAG_BRANCH, FLAG_LEAF,
    HEADER_BYTES, LeafElement, PageHeader, PageSize,
};

/// bbolt asserts it.
const CHILDREN_MIN: usize = 2;
/// bbolt keeps a bucket in line up to a quarter of a page.
const INLINE_PAGE_FRACTION: usize = 4;
/// A buffer that a large value has made larger than this is given back.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// A tree that is being written.
#[derive(Debug, Default)]
pub(super) struct Tree {
    leaf: Leaf,
    /// From the one above the leaves on.
    levels: Vec<Level>,
    last_key: Vec<u8>,
}

impl Tree {
    /// Whether the tree can take that key: it is above all others.
    pub(super) fn is_next(&self, key: &[u8]) -> bool {
        key > self.last_key.as_slice()
    }

    /// Adds an entry at the right edge.
    pub(super) fn put<S: Sink>(
        &mut self,
        pages: &mut Pages<S>,
        flags: u32,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Error> {
        assert!(self.is_next(key), "keys ascend");
        if !self.leaf.fits(pages.page_size, key.len() + value.len()) {
            self.write_leaf(pages)?;
        }
        self.leaf.push::<S>(flags, key, value);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        Ok(())
    }

    /// Writes what is left and returns the id of the root page. An empty tree is an empty leaf.
    pub(super) fn finish<S: Sink>(mut self, pages: &mut Pages<S>) -> Result<u64, Error> {
        if self.levels.is_empty() {
            return self.leaf.write(pages);
        }
        // There are entries, and none stays behind without one in the leaf: a leaf is written when the next starts.
        self.write_leaf(pages)?;
        let mut level = 0;
        loop {
            let last = std::mem::take(&mut self.levels[level]).into_last();
            let is_top = level + 1 == self.levels.len();
            if let ([branch], true) = (last.as_slice(), is_top) {
                return branch.write(pages);
            }
            for branch in last {
                let page = branch.write(pages)?;
                self.promote(pages, level + 1, branch.first_key(), page)?;
            }
            level += 1;
        }
    }

    /// As [`Self::finish`], for the tree of a bucket: returns the bucket's value in the bucket tree. A bucket that is
    /// small enough lies in there and has no page.
    pub(super) fn finish_as_bucket<S: Sink>(self, pages: &mut Pages<S>) -> Result<Vec<u8>, Error> {
        let inline_max = pages.page_size.bytes() / INLINE_PAGE_FRACTION;
        if self.levels.is_empty() && self.leaf.len() <= inline_max {
            let mut value = Vec::with_capacity(BUCKET_BYTES + self.leaf.len());
            value.extend_from_slice(&BucketHeader { root: 0 }.encode());
            self.leaf.encode_inline(&mut value);
            return Ok(value);
        }
        let root = self.finish(pages)?;
        Ok(BucketHeader { root }.encode().to_vec())
    }

    fn write_leaf<S: Sink>(&mut self, pages: &mut Pages<S>) -> Result<(), Error> {
        let page = self.leaf.write(pages)?;
        let first_key = std::mem::take(&mut self.leaf.first_key);
        self.leaf.clear();
        self.promote(pages, 0, first_key, page)
    }

    /// Makes a written page a child at `level`; what is pushed out there goes one level up, and so on.
    fn promote<S: Sink>(
        &mut self,
        pages: &mut Pages<S>,
        level: usize,
        first_key: Vec<u8>,
        page: u64,
    ) -> Result<(), Error> {
        let mut child = Child { first_key, page };
        for level in level.. {
            if level == self.levels.len() {
                self.levels.push(Level::default());
            }
            let Some(full) = self.levels[level].push(pages.page_size, child) else { break };
            child = Child { first_key: full.first_key(), page: full.write(pages)? };
        }
        Ok(())
    }
}

/// The leaf that is being filled.
#[derive(Debug, Default)]
struct Leaf {
    /// Flags, key length, value length.
    elements: Vec<(u32, u32, u32)>,
    /// Keys and values, each key before its value. Empty where the sink keeps no bytes.
    data: Vec<u8>,
    data_len: usize,
    first_key: Vec<u8>,
}

impl Leaf {
    /// The bytes of the page so far.
    fn len(&self) -> usize {
        HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + self.data_len
    }

    /// Whether an entry of `entry_len` bytes goes in here. Up to the end of the last page, where a large value has
    /// made the leaf longer than one.
    fn fits(&self, page_size: PageSize, entry_len: usize) -> bool {
        let room = self.len().next_multiple_of(page_size.bytes());
        self.elements.is_empty()
            || (self.len() + ELEMENT_BYTES + entry_len <= room
                && self.elements.len() < ELEMENTS_MAX)
    }

    fn push<S: Sink>(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        if self.elements.is_empty() {
            self.first_key = key.to_vec();
        }
        self.elements.push((flags, len_u32(key.len()), len_u32(value.len())));
        self.data_len += key.len() + value.len();
        if S::KEEPS_BYTES {
            self.data.extend_from_slice(key);
            self.data.extend_from_slice(value);
        }
    }

    fn clear(&mut self) {
        self.elements.clear();
        self.data.clear();
        self.data.shrink_to(BUFFER_BYTES_MAX);
        self.data_len = 0;
    }

    fn write<S: Sink>(&self, pages: &mut Pages<S>) -> Result<u64, Error> {
        pages.write(FLAG_LEAF, self.count(), &self.table(), &self.data, self.data_len)
    }

    /// Appends the leaf as it lies in a bucket's value, or as many zeros where the sink keeps no bytes.
    fn encode_inline(&self, value: &mut Vec<u8>) {
        let end = value.len() + self.len();
        let header = PageHeader { id: 0, flags: FLAG_LEAF, count: self.count(), overflow: 0 };
        value.extend_from_slice(&header.encode());
        value.extend_from_slice(&self.table());
        value.extend_from_slice(&self.data);
        value.resize(end, 0);
    }

    fn count(&self) -> u16 {
        u16::try_from(self.elements.len()).expect("at most ELEMENTS_MAX")
    }

    fn table(&self) -> Vec<u8> {
        let mut table = Vec::with_capacity(self.elements.len() * ELEMENT_BYTES);
        let mut positions = Positions::new(self.elements.len());
        for &(flags, key_len, value_len) in &self.elements {
            let pos = positions.next(key_len as usize + value_len as usize);
            let element = LeafElement { flags, pos, key_len, value_len };
            table.extend_from_slice(&element.encode());
        }
        table
    }
}

/// The branches of a level that are not written yet.
#[derive(Debug, Default)]
struct Level {
    /// A full one, while it may have to give a child away.
    held: Option<Branch>,
    open: Branch,
}

impl Level {
    /// Adds a child; returns the branch that is pushed out by it.
    fn push(&mut self, page_size: PageSize, child: Child) -> Option<Branch> {
        if self.open.fits(page_size, &child) {
            self.open.push(child);
            return None;
        }
        let mut started = Branch::default();
        started.push(child);
        let full = std::mem::replace(&mut self.open, started);
        self.held.replace(full)
    }

    /// The branches that end the level, each with children enough.
    fn into_last(self) -> Vec<Branch> {
        let Level { held, mut open } = self;
        let Some(mut held) = held else { return vec![open] };
        if open.children.len() >= CHILDREN_MIN {
            return vec![held, open];
        }
        if held.children.len() > CHILDREN_MIN {
            open.push_front(held.pop());
            return vec![held, open];
        }
        // Keys so long that two fill a page: one branch of three, over the end of its page.
        for child in open.children {
            held.push(child);
        }
        vec![held]
    }
}

/// A page of the tree, as its parent knows it.
#[derive(Debug)]
struct Child {
    first_key: Vec<u8>,
    page: u64,
}

/// A branch page in memory.
#[derive(Debug, Default)]
struct Branch {
    children: Vec<Child>,
    keys_len: usize,
}

impl Branch {
    fn first_key(&self) -> Vec<u8> {
        self.children[0].first_key.clone()
    }

    fn fits(&self, page_size: PageSize, child: &Child) -> bool {
        let count = self.children.len() + 1;
        let len = HEADER_BYTES + count * ELEMENT_BYTES + self.keys_len + child.first_key.len();
        count <= CHILDREN_MIN || (len <= page_size.bytes() && count <= ELEMENTS_MAX)
    }

    fn push(&mut self, child: Child) {
        self.keys_len += child.first_key.len();
        self.children.push(child);
    }

    fn push_front(&mut self, child: Child) {
        self.keys_len += child.first_key.len();
        self.children.insert(0, child);
    }

    fn pop(&mut self) -> Child {
        let child = self.children.pop().expect("a full branch has children");
        self.keys_len -= child.first_key.len();
        child
    }

    fn write<S: Sink>(&self, pages: &mut Pages<S>) -> Result<u64, Error> {
        assert!(self.children.len() >= CHILDREN_MIN, "bbolt refuses to change an only child");
        let mut table = Vec::with_capacity(self.children.len() * ELEMENT_BYTES);
        let mut keys = Vec::with_capacity(self.keys_len);
        let mut positions = Positions::new(self.children.len());
        for Child { first_key, page } in &self.children {
            let pos = positions.next(first_key.len());
            let element = BranchElement { pos, key_len: len_u32(first_key.len()), child: *page };
            table.extend_from_slice(&element.encode());
            keys.extend_from_slice(first_key);
        }
        let count = u16::try_from(self.children.len()).expect("at most ELEMENTS_MAX");
        pages.write(FLAG_BRANCH, count, &table, &keys, keys.len())
    }
}

/// Where the data of each element lies, counted from the element.
struct Positions {
    next: usize,
}

impl Positions {
    fn new(elements: usize) -> Self {
        Positions { next: elements * ELEMENT_BYTES }
    }

    /// The position of the next element, whose data has `len` bytes.
    fn next(&mut self, len: usize) -> u32 {
        let pos = len_u32(self.next);
        self.next = self.next + len - ELEMENT_BYTES;
        pos
    }
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("a page run has less than 4 GiB")
}
