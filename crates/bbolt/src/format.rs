//! The structures of a bbolt file as bytes. All numbers are little-endian, as on every machine etcd supports.

/// The longest key, and the longest name of a bucket.
pub const KEY_LEN_MAX: usize = 32_768;
/// The longest value: what fits into 31 bits, less one.
pub const VALUE_LEN_MAX: usize = (1 << 31) - 2;

pub(crate) const HEADER_BYTES: usize = 16;
pub(crate) const ELEMENT_BYTES: usize = 16;
pub(crate) const BUCKET_BYTES: usize = 16;
pub(crate) const META_BYTES: usize = 64;

/// The pages of the metas.
pub(crate) const META_PAGES: u64 = 2;
/// A page cannot count further; 0xFFFF means something else on freelist pages, so it is kept free everywhere.
pub(crate) const ELEMENTS_MAX: usize = 0xFFFE;

pub(crate) const FLAG_BRANCH: u16 = 0x01;
pub(crate) const FLAG_LEAF: u16 = 0x02;
pub(crate) const FLAG_META: u16 = 0x04;
pub(crate) const FLAG_FREELIST: u16 = 0x10;

/// The flags of a leaf element that holds a value, or a bucket.
pub(crate) const ELEMENT_VALUE: u32 = 0;
pub(crate) const ELEMENT_BUCKET: u32 = 1;

/// In place of the freelist's page id: there is none, free pages are found by a walk of the file.
pub(crate) const NO_FREELIST: u64 = u64::MAX;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// The size of all pages of a file: a power of two from 1 KiB to 16 MiB, the sizes for which bbolt looks.
///
/// bbolt takes that of the machine's memory pages when it makes a file, and reads any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageSize(u32);

impl PageSize {
    /// 4096, that of nearly every machine.
    pub const DEFAULT: Self = PageSize(4096);

    const MIN: u32 = 1 << 10;
    const MAX: u32 = 1 << 24;

    /// `None` for a number that is not a page size.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= Self::MIN && bytes <= Self::MAX {
            Some(PageSize(bytes))
        } else {
            None
        }
    }

    /// All of them, ascending.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (Self::MIN.ilog2()..=Self::MAX.ilog2()).map(|bits| PageSize(1 << bits))
    }

    /// In bytes.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Where a page starts in the file; saturates for ids that no file has.
    pub(crate) fn offset_of(self, page: u64) -> u64 {
        page.saturating_mul(u64::from(self.0))
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The start of every page: `id u64, flags u16, count u16, overflow u32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageHeader {
    /// 0 in a bucket that lies in line.
    pub(crate) id: u64,
    pub(crate) flags: u16,
    /// Elements.
    pub(crate) count: u16,
    /// Pages behind this one that belong to it.
    pub(crate) overflow: u32,
}

impl PageHeader {
    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }

    /// `bytes`: at least a header.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        PageHeader {
            id: u64_at(bytes, 0),
            flags: u16::from_le_bytes(array_at(bytes, 8)),
            count: u16::from_le_bytes(array_at(bytes, 10)),
            overflow: u32_at(bytes, 12),
        }
    }
}

/// A row in the table of a leaf: `flags u32, pos u32, key length u32, value length u32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeafElement {
    pub(crate) flags: u32,
    /// Where the key is, from the start of this element; the value follows the key.
    pub(crate) pos: u32,
    pub(crate) key_len: u32,
    pub(crate) value_len: u32,
}

impl LeafElement {
    pub(crate) fn encode(self) -> [u8; ELEMENT_BYTES] {
        let mut bytes = [0; ELEMENT_BYTES];
        bytes[..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.pos.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.key_len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.value_len.to_le_bytes());
        bytes
    }

    /// `bytes`: at least an element.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        LeafElement {
            flags: u32_at(bytes, 0),
            pos: u32_at(bytes, 4),
            key_len: u32_at(bytes, 8),
            value_len: u32_at(bytes, 12),
        }
    }
}

/// A row in the table of a branch: `pos u32, key length u32, page id u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BranchElement {
    pub(crate) pos: u32,
    pub(crate) key_len: u32,
    pub(crate) child: u64,
}

impl BranchElement {
    pub(crate) fn encode(self) -> [u8; ELEMENT_BYTES] {
        let mut bytes = [0; ELEMENT_BYTES];
        bytes[..4].copy_from_slice(&self.pos.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.key_len.to_le_bytes());
        bytes[8..].copy_from_slice(&self.child.to_le_bytes());
        bytes
    }

    /// `bytes`: at least an element.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        BranchElement { pos: u32_at(bytes, 0), key_len: u32_at(bytes, 4), child: u64_at(bytes, 8) }
    }
}

/// The start of a bucket's value in the bucket tree: `root u64, sequence u64`. etcd does not use the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BucketHeader {
    /// 0: the root is a leaf that follows in line.
    pub(crate) root: u64,
}

impl BucketHeader {
    pub(crate) fn encode(self) -> [u8; BUCKET_BYTES] {
        let mut bytes = [0; BUCKET_BYTES];
        bytes[..8].copy_from_slice(&self.root.to_le_bytes());
        bytes
    }

    /// `bytes`: at least a bucket header.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        BucketHeader { root: u64_at(bytes, 0) }
    }
}

/// What a meta page says behind its header: `magic u32, version u32, page size u32, flags u32, root bucket (root u64,
/// sequence u64), freelist u64, high-water mark u64, transaction id u64, checksum u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_size: PageSize,
    /// The root page of the bucket tree.
    pub(crate) root: u64,
    pub(crate) freelist: u64,
    /// The first page id that was never used: the pages of the file.
    pub(crate) high_water: u64,
    pub(crate) txid: u64,
}

impl Meta {
    pub(crate) fn encode(self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.high_water.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.txid.to_le_bytes());
        let checksum = fnv1a_64(&bytes[..META_BYTES - 8]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` when this is no meta, or a damaged one.
    pub(crate) fn decode(bytes: &[u8; META_BYTES]) -> Option<Self> {
        let is_valid = u32_at(bytes, 0) == MAGIC
            && u32_at(bytes, 4) == VERSION
            && u64_at(bytes, 56) == fnv1a_64(&bytes[..META_BYTES - 8]);
        if !is_valid {
            return None;
        }
        Some(Meta {
            page_size: PageSize::new(u32_at(bytes, 8))?,
            root: u64_at(bytes, 16),
            freelist: u64_at(bytes, 32),
            high_water: u64_at(bytes, 40),
            txid: u64_at(bytes, 48),
        })
    }
}

fn fnv1a_64(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(OFFSET, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_powers_of_two_within_bounds() {
        for bytes in [0, 512, 1000, 4095, 1 << 25, u32::MAX] {
            assert_eq!(PageSize::new(bytes), None, "{bytes}");
        }
        let all: Vec<_> = PageSize::all().map(PageSize::bytes).collect();
        assert_eq!((all.len(), all[0], all[14]), (15, 1024, 16 << 20));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn structures_come_back_from_their_bytes() {
        let header =
            PageHeader { id: 0x0102_0304_0506_0708, flags: 0x0a0b, count: 0x0c0d, overflow: 77 };
        assert_eq!(PageHeader::decode(&header.encode()), header);
        assert_eq!(header.encode()[..12], [8, 7, 6, 5, 4, 3, 2, 1, 0x0b, 0x0a, 0x0d, 0x0c]);
        let leaf = LeafElement { flags: 1, pos: 2, key_len: 3, value_len: u32::MAX };
        assert_eq!(LeafElement::decode(&leaf.encode()), leaf);
        let branch = BranchElement { pos: 1, key_len: 2, child: u64::MAX - 1 };
        assert_eq!(BranchElement::decode(&branch.encode()), branch);
        let bucket = BucketHeader { root: 99 };
        assert_eq!(BucketHeader::decode(&bucket.encode()), bucket);
    }

    #[test]
    fn a_meta_with_any_flipped_bit_is_none() {
        let meta = Meta {
            page_size: PageSize::DEFAULT,
            root: 5,
            freelist: NO_FREELIST,
            high_water: 6,
            txid: 7,
        };
        let bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Some(meta));
        for bit in 0..META_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Meta::decode(&flipped), None, "bit {bit}");
        }
    }
}
