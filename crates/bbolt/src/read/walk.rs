//! From one leaf element of a tree to the next, with a stack of pages.
//!
//! A branch promises that the keys below its element lie from that element's key up to the next element's. Every page
//! is held to the promise of its parents; as keys ascend within each page, they ascend over the whole walk.
//!
//! A page belongs to one parent, so a walk that has read as many pages as the file has is going in circles.

use super::page::Source;
use super::{Damage, Fault, Kind, Page, ReadAt};

/// Two children per branch are the least, so no file of less than 2^64 pages is deeper.
const DEPTH_MAX: usize = 64;

/// Where a tree starts.
#[derive(Debug, Clone)]
pub(super) enum Root {
    Page(u64),
    /// A leaf in line, in the value of an element of page `holder`.
    Inline {
        holder: u64,
        bytes: Vec<u8>,
    },
}

/// A position in a tree.
#[derive(Debug)]
pub(super) struct Walk<'a, R> {
    pages: Source<'a, R>,
    /// Until the first step. After an error the walk is over: no root and no stack.
    root: Option<Root>,
    stack: Vec<Frame>,
    /// Pages that may still be read.
    pages_left: u64,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Frame {
    page: Page,
    /// The element to be visited next.
    next: usize,
}

impl<'a, R: ReadAt> Walk<'a, R> {
    pub(super) fn new(pages: Source<'a, R>, root: Root) -> Self {
        let pages_left = pages.pages;
        Walk { pages, root: Some(root), stack: Vec::new(), pages_left, buffer: Vec::new() }
    }

    /// A walk that begins with the first element whose key is `from` or above.
    pub(super) fn starting_at(
        pages: Source<'a, R>,
        root: Root,
        from: &[u8],
    ) -> Result<Self, Fault> {
        let mut walk = Walk::new(pages, root);
        walk.enter_root()?;
        while let Some(frame) = walk.stack.last_mut() {
            let page = &frame.page;
            let before = lower_bound(page, from);
            match page.kind() {
                Kind::Leaf => {
                    frame.next = before;
                    break;
                }
                Kind::Branch => {
                    // The child before the first key above `from` may hold it; the very first child takes what is below all.
                    let is_there = before < page.count() && page.key(before) == from;
                    let element = if is_there { before } else { before.saturating_sub(1) };
                    let child = page.child(element);
                    frame.next = element + 1;
                    walk.descend(child)?;
                }
            }
        }
        Ok(walk)
    }

    /// The next leaf element, as its page and its number there.
    pub(super) fn next(&mut self) -> Result<Option<(&Page, usize)>, Fault> {
        match self.advance() {
            Ok(true) => {
                let frame = self.stack.last_mut().expect("the leaf that was found");
                frame.next += 1;
                Ok(Some((&frame.page, frame.next - 1)))
            }
            Ok(false) => Ok(None),
            Err(fault) => {
                self.stack.clear();
                Err(fault)
            }
        }
    }

    /// Brings a leaf with an element to visit to the top of the stack; false at the end.
    fn advance(&mut self) -> Result<bool, Fault> {
        self.enter_root()?;
        while let Some(frame) = self.stack.last_mut() {
            if frame.next == frame.page.count() {
                let done = self.stack.pop().expect("the frame just looked at");
                self.buffer = done.page.into_buffer();
                continue;
            }
            match frame.page.kind() {
                Kind::Leaf => return Ok(true),
                Kind::Branch => {
                    let child = frame.page.child(frame.next);
                    frame.next += 1;
                    self.descend(child)?;
                }
            }
        }
        Ok(false)
    }

    /// Puts the root on the stack, at the first step.
    fn enter_root(&mut self) -> Result<(), Fault> {
        match self.root.take() {
            Some(Root::Page(id)) => self.descend(id)?,
            Some(Root::Inline { holder, bytes }) => {
                let page = self.pages.inline(holder, bytes)?;
                self.stack.push(Frame { page, next: 0 });
            }
            None => {}
        }
        Ok(())
    }

    /// Puts a page on the stack, below the element that its parent has just passed.
    fn descend(&mut self, id: u64) -> Result<(), Fault> {
        let page = self.pages.load(id, std::mem::take(&mut self.buffer))?;
        if self.stack.iter().any(|frame| frame.page.id() == id) {
            return Err(page.fault(Damage::Cycle));
        }
        if self.pages_left == 0 || self.stack.len() == DEPTH_MAX {
            return Err(page.fault(Damage::TooMany));
        }
        self.pages_left -= 1;
        let may_be_empty = self.stack.is_empty() && page.kind() == Kind::Leaf;
        if page.count() == 0 && !may_be_empty {
            return Err(page.fault(Damage::Empty));
        }
        if !self.is_within_bounds(&page) {
            return Err(page.fault(Damage::Bounds));
        }
        self.stack.push(Frame { page, next: 0 });
        Ok(())
    }

    fn is_within_bounds(&self, page: &Page) -> bool {
        let Some(parent) = self.stack.last() else { return true };
        // The nearest ancestor with one more element bounds all that is below the element before it.
        let above = self.stack.iter().rev().find(|frame| frame.next < frame.page.count());
        parent.page.key(parent.next - 1) <= page.key(0)
            && above.is_none_or(|frame| page.key(page.count() - 1) < frame.page.key(frame.next))
    }
}

/// How many elements of a page, whose keys ascend, have keys below `key`.
fn lower_bound(page: &Page, key: &[u8]) -> usize {
    let (mut low, mut high) = (0, page.count());
    while low < high {
        let middle = low + (high - low) / 2;
        if page.key(middle) < key {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
