//! Each kind of damage is named.

use crate::format::{FLAG_BRANCH, HEADER_BYTES, Meta, PageHeader};
use crate::tests::{SMALL, read, sample, write};
use crate::{Damage, Database, Fault};

/// A sample file with places to damage.
struct Sample {
    bytes: Vec<u8>,
    /// The page ids of: the bucket tree, the root of `tree` (a branch), its first leaf, the leaf with overflow.
    root: u64,
    branch: u64,
    leaf: u64,
    large: u64,
}

impl Sample {
    fn new() -> Self {
        let bytes = write(SMALL, &sample());
        let database = Database::open(bytes.as_slice()).unwrap();
        let root_of = |name: &[u8]| database.bucket(name).unwrap().unwrap().root_page().unwrap();
        let (root, branch, large) = (database.root_page(), root_of(b"tree"), root_of(b"large"));
        let mut sample = Sample { bytes, root, branch, leaf: 0, large };
        assert_eq!(PageHeader::decode(&sample.bytes[sample.at(branch, 0)..]).flags, FLAG_BRANCH);
        sample.leaf = sample.child(branch, 0);
        let header = PageHeader::decode(&sample.bytes[sample.at(sample.leaf, 0)..]);
        assert!(header.flags != FLAG_BRANCH && header.count > 2);
        // A bucket of three large values: a branch over leaves that overflow.
        sample.large = sample.child(large, 0);
        sample
    }

    fn at(&self, page: u64, offset: usize) -> usize {
        let start = usize::try_from(SMALL.offset_of(page)).unwrap();
        assert!(start < self.bytes.len());
        start + offset
    }

    fn child(&self, branch: u64, element: usize) -> u64 {
        let at = self.at(branch, HEADER_BYTES + element * 16 + 8);
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    /// Writes `value` over what is there, reads all, and returns the damage with its page.
    fn damaged(&self, page: u64, offset: usize, value: &[u8]) -> (u64, Damage) {
        let mut bytes = self.bytes.clone();
        let at = self.at(page, offset);
        assert_ne!(bytes[at..at + value.len()], *value, "nothing is damaged");
        bytes[at..at + value.len()].copy_from_slice(value);
        match read(&bytes) {
            Err(Fault::Page { page, offset, damage }) => {
                assert_eq!(offset, SMALL.offset_of(page));
                (page, damage)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn damage_of_a_page_is_named() {
    let s = Sample::new();
    let pages = s.bytes.len() as u64 / 1024;
    let other_leaf = s.child(s.branch, 1);
    let cases = [
        (s.damaged(s.leaf, 0, &[99]), s.leaf, Damage::WrongId { found: 99 }),
        (s.damaged(s.leaf, 8, &[4]), s.leaf, Damage::Kind { flags: 4 }),
        (s.damaged(s.leaf, 10, &[0]), s.leaf, Damage::Empty),
        (s.damaged(s.leaf, 10, &[255, 255]), s.leaf, Damage::Table { count: 0xffff }),
        (s.damaged(s.leaf, 15, &[1]), s.leaf, Damage::Overflow { overflow: 1 << 24 }),
        (s.damaged(s.leaf, 16, &[1]), s.leaf, Damage::NestedBucket { element: 0 }),
        (
            s.damaged(s.leaf, 16 + 3, &[1]),
            s.leaf,
            Damage::ElementKind { element: 0, flags: 1 << 24 },
        ),
        (s.damaged(s.leaf, 32 + 4, &[0]), s.leaf, Damage::Position { element: 1 }),
        (s.damaged(s.leaf, 16 + 8, &[0]), s.leaf, Damage::KeyLength { element: 0, len: 0 }),
        (
            s.damaged(s.leaf, 16 + 10, &[1]),
            s.leaf,
            Damage::KeyLength { element: 0, len: (1 << 16) + 60 },
        ),
        (s.damaged(s.leaf, 16 + 15, &[127]), s.leaf, Damage::Length { element: 0 }),
        (s.damaged(s.large, 12, &[0]), s.large, Damage::Length { element: 0 }),
        (s.damaged(s.branch, 16 + 8, &[0, 1]), 256, Damage::OutOfRange { pages }),
        (s.damaged(s.branch, 16 + 8, &[1]), 1, Damage::OutOfRange { pages }),
        (s.damaged(s.branch, 16 + 8, &s.branch.to_le_bytes()), s.branch, Damage::Cycle),
        (s.damaged(s.branch, 16 + 8, &other_leaf.to_le_bytes()), other_leaf, Damage::Bounds),
        (s.damaged(s.branch, 32 + 8, &s.leaf.to_le_bytes()), s.leaf, Damage::Bounds),
        (s.damaged(s.branch, 16 + 8, &2u64.to_le_bytes()), 2, Damage::Kind { flags: 0x10 }),
        (s.damaged(s.root, 16, &[0]), s.root, Damage::NotABucket { element: 0 }),
        (s.damaged(s.root, 16, &[2]), s.root, Damage::ElementKind { element: 0, flags: 2 }),
    ];
    for (case, (found, page, damage)) in cases.into_iter().enumerate() {
        assert_eq!(found, (page, damage), "case {case}");
    }
}

#[test]
fn damage_of_keys_and_buckets_is_named() {
    let s = Sample::new();
    let page = &s.bytes[s.at(s.leaf, 0)..];
    let count = usize::from(PageHeader::decode(page).count);
    // The first key starts behind the table; its last byte counts up from element to element.
    let first_key = HEADER_BYTES + count * 16;
    assert_eq!(s.damaged(s.leaf, first_key + 59, &[1]), (s.leaf, Damage::Order { element: 1 }));

    // The bucket in line lies in the root page behind its name: root 0, sequence, then a page.
    let inline = HEADER_BYTES + 3 * 16 + b"inline".len();
    assert_eq!(s.damaged(s.root, inline + 16 + 8, &[1]), (s.root, Damage::InlineKind));
    assert_eq!(s.damaged(s.root, inline + 16 + 8, &[8]), (s.root, Damage::Kind { flags: 8 }));
    assert_eq!(s.damaged(s.root, inline + 16 + 10, &[99]), (s.root, Damage::Table { count: 99 }));
    let (page, damage) = s.damaged(s.root, inline, &[200]);
    assert_eq!((page, damage), (200, Damage::OutOfRange { pages: s.bytes.len() as u64 / 1024 }));

    // The last bucket's value has 16 bytes; one less is no bucket.
    let value_len = HEADER_BYTES + 2 * 16 + 12;
    let expected = Damage::BucketValue { element: 2, len: 15 };
    assert_eq!(s.damaged(s.root, value_len, &[15]), (s.root, expected));
    // Root 0 in it calls for a page in line, and there is none.
    let name_end = s.bytes[s.at(s.root, 0)..].windows(4).position(|w| w == b"tree").unwrap() + 4;
    let expected = Damage::BucketValue { element: 2, len: 16 };
    assert_eq!(s.damaged(s.root, name_end, &[0]), (s.root, expected));
}

/// A walk that is sent down the same pages again and again ends.
#[test]
fn a_chain_deeper_than_any_tree_is_refused() {
    let pages = 200;
    let mut bytes = vec![0; 200 * 1024];
    let put = |bytes: &mut Vec<u8>, page: u64, at: usize, part: &[u8]| {
        let at = usize::try_from(SMALL.offset_of(page)).unwrap() + at;
        bytes[at..at + part.len()].copy_from_slice(part);
    };
    for txid in 0..2 {
        let meta = Meta { page_size: SMALL, root: 3, freelist: 2, high_water: pages, txid };
        let header =
            PageHeader { id: txid, flags: crate::format::FLAG_META, count: 0, overflow: 0 };
        put(&mut bytes, txid, 0, &header.encode());
        put(&mut bytes, txid, HEADER_BYTES, &meta.encode());
    }
    for id in 3..pages {
        let header = PageHeader { id, flags: FLAG_BRANCH, count: 1, overflow: 0 };
        let element = crate::format::BranchElement { pos: 16, key_len: 1, child: id + 1 };
        put(&mut bytes, id, 0, &header.encode());
        put(&mut bytes, id, HEADER_BYTES, &element.encode());
        put(&mut bytes, id, HEADER_BYTES + 16, b"k");
    }
    let fault = read(&bytes).unwrap_err();
    assert!(matches!(fault, Fault::Page { damage: Damage::TooMany, .. }), "{fault}");
}

#[test]
fn the_newer_valid_meta_counts() {
    let s = Sample::new();
    let meta = |root, high_water, txid| {
        Meta { page_size: SMALL, root, freelist: u64::MAX, high_water, txid }.encode()
    };
    let pages = s.bytes.len() as u64 / 1024;
    let with = |page: usize, meta: [u8; 64]| {
        let mut bytes = s.bytes.clone();
        bytes[page * 1024 + 16..][..64].copy_from_slice(&meta);
        bytes
    };
    // Page 0 with a newer transaction than page 1, in which the bucket tree is one of the others.
    let newer = read(&with(0, meta(s.leaf, pages, 8)));
    assert!(matches!(newer, Err(Fault::Page { damage: Damage::NotABucket { .. }, .. })));
    // The same, torn.
    let mut torn = meta(s.leaf, pages, 8);
    torn[60] ^= 1;
    assert_eq!(read(&with(0, torn)).unwrap(), sample());
    assert_eq!(read(&with(1, torn)).unwrap(), sample());

    let fault = read(&with(0, meta(s.root, pages + 1, 8))).unwrap_err();
    assert!(matches!(fault, Fault::Truncated { .. }), "{fault}");
    let fault = read(&with(0, meta(pages, pages, 8))).unwrap_err();
    assert!(matches!(fault, Fault::MetaRange { page: 0, what: "root", .. }), "{fault}");
    let fault = read(&with(1, meta(1, pages, 9))).unwrap_err();
    assert!(matches!(fault, Fault::MetaRange { page: 1, what: "root", .. }), "{fault}");

    // Without page 0 the page size has to be found.
    let mut bytes = write(crate::PageSize::new(65_536).unwrap(), &sample());
    bytes[..100].fill(0);
    assert_eq!(read(&bytes).unwrap(), sample());
    bytes[65_536 + 16] ^= 1;
    assert!(matches!(read(&bytes), Err(Fault::NoMeta)));
}
