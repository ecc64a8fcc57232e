//! One branch or leaf in memory, checked as a whole before anyone looks into it.
//!
//! bbolt lays the keys and values of a page side by side, in the order of the elements. That is demanded here, so
//! nearly every flipped bit in the table of a page is noticed.
//!
//! The length of a page follows from its table, not from its overflow count alone: a wrong count does not make us
//! allocate what no element claims.

use super::{Damage, Fault, ReadAt};
use crate::format::{
    BranchElement, ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, HEADER_BYTES, KEY_LEN_MAX, LeafElement,
    META_PAGES, Meta, PageHeader, PageSize,
};

/// A buffer that a large value has made larger than this is given back.
const BUFFER_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Branch,
    Leaf,
}

/// The pages of a file.
#[derive(Debug)]
pub(super) struct Source<'a, R> {
    bytes: &'a R,
    pub(super) page_size: PageSize,
    /// Page ids are below this.
    pub(super) pages: u64,
}

impl<'a, R: ReadAt> Source<'a, R> {
    pub(super) fn new(bytes: &'a R, meta: &Meta) -> Self {
        Source { bytes, page_size: meta.page_size, pages: meta.high_water }
    }

    /// Reads and checks a page. `buffer`: an old one, to be used again.
    pub(super) fn load(&self, id: u64, buffer: Vec<u8>) -> Result<Page, Fault> {
        let offset = self.page_size.offset_of(id);
        let fault = |damage| Fault::Page { page: id, offset, damage };
        if !(META_PAGES..self.pages).contains(&id) {
            return Err(fault(Damage::OutOfRange { pages: self.pages }));
        }
        let mut bytes = buffer;
        bytes.truncate(self.page_size.bytes());
        bytes.shrink_to(BUFFER_BYTES_MAX);
        let mut read_to = {
            let mut filled = 0;
            move |bytes: &mut Vec<u8>, end: usize| {
                if end <= filled {
                    return Ok(());
                }
                bytes.resize(end, 0);
                let (part, at) = (&mut bytes[filled..], offset + filled as u64);
                filled = end;
                self.bytes.read_exact_at(part, at).map_err(|source| Fault::PageIo {
                    page: id,
                    offset,
                    source,
                })
            }
        };
        read_to(&mut bytes, self.page_size.bytes())?;

        let header = PageHeader::decode(&bytes);
        if header.id != id {
            return Err(fault(Damage::WrongId { found: header.id }));
        }
        let overflow = u64::from(header.overflow);
        if overflow >= self.pages - id {
            return Err(fault(Damage::Overflow { overflow: header.overflow }));
        }
        let run_bytes = self.page_size.offset_of(overflow + 1);
        let run_bytes = usize::try_from(run_bytes).expect("part of a file that memory addresses");
        let layout = Table::of_header(header, run_bytes).map_err(fault)?;
        read_to(&mut bytes, layout.end())?;
        let end = layout.check(&bytes, run_bytes).map_err(fault)?;
        read_to(&mut bytes, end)?;
        let page = Page { id, offset, kind: layout.kind, count: layout.count, bytes };
        page.check_order()?;
        Ok(page)
    }

    /// Checks a leaf that lies in line in the page `holder`.
    pub(super) fn inline(&self, holder: u64, bytes: Vec<u8>) -> Result<Page, Fault> {
        let offset = self.page_size.offset_of(holder);
        let fault = |damage| Fault::Page { page: holder, offset, damage };
        let table = Table::of_header(PageHeader::decode(&bytes), bytes.len()).map_err(fault)?;
        if table.kind != Kind::Leaf {
            return Err(fault(Damage::InlineKind));
        }
        table.check(&bytes, bytes.len()).map_err(fault)?;
        let page = Page { id: holder, offset, kind: table.kind, count: table.count, bytes };
        page.check_order()?;
        Ok(page)
    }
}

/// What a header says about the table of elements behind it.
#[derive(Debug, Clone, Copy)]
struct Table {
    kind: Kind,
    count: usize,
}

impl Table {
    /// `run_bytes`: the page with its overflow.
    fn of_header(header: PageHeader, run_bytes: usize) -> Result<Self, Damage> {
        let kind = match header.flags {
            FLAG_BRANCH => Kind::Branch,
            FLAG_LEAF => Kind::Leaf,
            flags => return Err(Damage::Kind { flags }),
        };
        let table = Table { kind, count: usize::from(header.count) };
        if table.end() > run_bytes {
            return Err(Damage::Table { count: header.count });
        }
        Ok(table)
    }

    fn end(self) -> usize {
        HEADER_BYTES + self.count * ELEMENT_BYTES
    }

    /// Checks the elements, and returns where the data of the last one ends. `bytes` reach to the end of the table.
    fn check(self, bytes: &[u8], run_bytes: usize) -> Result<usize, Damage> {
        let mut end = self.end();
        for element in 0..self.count {
            let at = HEADER_BYTES + element * ELEMENT_BYTES;
            let (pos, key_len, value_len) = match self.kind {
                Kind::Branch => {
                    let BranchElement { pos, key_len, .. } = BranchElement::decode(&bytes[at..]);
                    (pos, key_len, 0)
                }
                Kind::Leaf => {
                    let LeafElement { pos, key_len, value_len, .. } =
                        LeafElement::decode(&bytes[at..]);
                    (pos, key_len, value_len)
                }
            };
            if at + pos as usize != end {
                return Err(Damage::Position { element });
            }
            if key_len == 0 || key_len as usize > KEY_LEN_MAX {
                return Err(Damage::KeyLength { element, len: key_len });
            }
            end += key_len as usize + value_len as usize;
            if end > run_bytes {
                return Err(Damage::Length { element });
            }
        }
        Ok(end)
    }
}

/// A page, with what overflows from it; every element lies within and keys ascend.
#[derive(Debug)]
pub(super) struct Page {
    id: u64,
    offset: u64,
    kind: Kind,
    count: usize,
    bytes: Vec<u8>,
}

impl Page {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn fault(&self, damage: Damage) -> Fault {
        Fault::Page { page: self.id, offset: self.offset, damage }
    }

    pub(super) fn key(&self, element: usize) -> &[u8] {
        let at = self.at(element);
        let (pos, len) = match self.kind {
            Kind::Branch => {
                let element = BranchElement::decode(&self.bytes[at..]);
                (element.pos, element.key_len)
            }
            Kind::Leaf => {
                let element = LeafElement::decode(&self.bytes[at..]);
                (element.pos, element.key_len)
            }
        };
        &self.bytes[at + pos as usize..][..len as usize]
    }

    /// Of a leaf.
    pub(super) fn value(&self, element: usize) -> &[u8] {
        let at = self.at(element);
        let LeafElement { pos, key_len, value_len, .. } = LeafElement::decode(&self.bytes[at..]);
        &self.bytes[at + pos as usize + key_len as usize..][..value_len as usize]
    }

    /// Of a leaf.
    pub(super) fn flags(&self, element: usize) -> u32 {
        LeafElement::decode(&self.bytes[self.at(element)..]).flags
    }

    /// Of a branch.
    pub(super) fn child(&self, element: usize) -> u64 {
        BranchElement::decode(&self.bytes[self.at(element)..]).child
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    fn at(&self, element: usize) -> usize {
        assert!(element < self.count, "element {element} of {}", self.count);
        HEADER_BYTES + element * ELEMENT_BYTES
    }

    fn check_order(&self) -> Result<(), Fault> {
        match (1..self.count).find(|&element| self.key(element - 1) >= self.key(element)) {
            Some(element) => Err(self.fault(Damage::Order { element })),
            None => Ok(()),
        }
    }
}
