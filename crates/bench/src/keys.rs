//! Which keys a workload touches, and what it writes.
//!
//! A key is `k` and a decimal number, padded with zeros to the wished size: key order is number order, so that a
//! range over n neighbours holds exactly n preloaded keys, and all keys of a run lie in `[k, l)`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};

/// The keys with numbers `0..count`, all of `size` bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeySpace {
    size: usize,
    count: u64,
}

impl KeySpace {
    /// # Errors
    /// When there are no keys, or when the largest number does not fit into `size` bytes.
    pub(crate) fn new(size: usize, count: u64) -> Result<Self> {
        ensure!(count > 0, "the key space is empty");
        let digits = (count - 1).max(1).ilog10() as usize + 1;
        ensure!(size > digits, "{count} keys need a key size of at least {} bytes", digits + 1);
        Ok(KeySpace { size, count })
    }

    pub(crate) fn count(self) -> u64 {
        self.count
    }

    pub(crate) fn key(self, number: u64) -> Bytes {
        let mut out = BytesMut::with_capacity(self.size);
        self.write(number, &mut out);
        out.freeze()
    }

    fn write(self, number: u64, out: &mut BytesMut) {
        let start = out.len();
        out.resize(start + self.size, b'0');
        let key = &mut out[start..];
        key[0] = b'k';
        let mut rest = number;
        for digit in key[1..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
}

/// The range that holds every key of every [`KeySpace`].
pub(crate) const ALL_KEYS: (Bytes, Bytes) = (Bytes::from_static(b"k"), Bytes::from_static(b"l"));

/// The next key of one client: random, or in order over all clients together.
#[derive(Debug)]
pub(crate) struct KeyStream {
    space: KeySpace,
    random: Random,
    cursor: Option<Arc<AtomicU64>>,
    scratch: BytesMut,
}

impl KeyStream {
    /// With a `cursor`, shared by all clients, keys come in order and start again after the last one.
    pub(crate) fn new(space: KeySpace, cursor: Option<Arc<AtomicU64>>, client: usize) -> Self {
        KeyStream { space, random: Random::new(client as u64), cursor, scratch: BytesMut::new() }
    }

    pub(crate) fn next_key(&mut self) -> Bytes {
        let number = match &self.cursor {
            Some(cursor) => cursor.fetch_add(1, Ordering::Relaxed) % self.space.count,
            None => self.random.below(self.space.count),
        };
        self.key(number)
    }

    /// The ends of a random range that holds `len` keys.
    pub(crate) fn next_range(&mut self, len: u64) -> (Bytes, Bytes) {
        let start = self.random.below(self.space.count - len + 1);
        (self.key(start), self.end(start + len))
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// The scratch memory is used again as soon as the last key has been sent and dropped.
    fn key(&mut self, number: u64) -> Bytes {
        self.scratch.reserve(self.space.size);
        self.space.write(number, &mut self.scratch);
        self.scratch.split().freeze()
    }

    fn end(&mut self, number: u64) -> Bytes {
        if number == self.space.count { ALL_KEYS.1 } else { self.key(number) }
    }
}

/// `SplitMix64`: fast, and the same sequence in every run, so that two servers get the same load.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; the bias of the multiplication is below `bound / 2^64`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Bytes without a pattern, so that no layer can gain by compressing them.
pub(crate) fn value(size: usize) -> Bytes {
    let mut random = Random::new(size as u64);
    (0..size).map(|_| (random.next() >> 56) as u8).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn key_order_is_number_order() {
        let space = KeySpace::new(8, 1_000).unwrap();
        assert_eq!(space.key(7), "k0000007");
        assert!(space.key(99) < space.key(100));
        assert!(ALL_KEYS.0 < space.key(0) && space.key(999) < ALL_KEYS.1);
    }

    #[test]
    fn a_key_size_too_small_for_the_numbers_is_refused() {
        assert!(KeySpace::new(4, 1_000).is_ok());
        assert!(KeySpace::new(4, 1_001).is_err());
        assert!(KeySpace::new(8, 0).is_err());
        assert!(KeySpace::new(2, 1).is_ok());
    }

    #[test]
    fn clients_that_share_a_cursor_cover_every_key_once() {
        let space = KeySpace::new(8, 100).unwrap();
        let cursor = Arc::new(AtomicU64::new(0));
        let mut clients: Vec<_> =
            (0..3).map(|client| KeyStream::new(space, Some(Arc::clone(&cursor)), client)).collect();
        let keys: BTreeSet<_> = (0..100).map(|turn| clients[turn % 3].next_key()).collect();
        assert_eq!(keys.len(), 100);
        assert_eq!(clients[0].next_key(), space.key(0), "the cursor starts again");
    }

    #[test]
    fn random_ranges_stay_inside_and_reach_both_ends() {
        let space = KeySpace::new(8, 10).unwrap();
        let mut keys = KeyStream::new(space, None, 1);
        let ranges: BTreeSet<_> = (0..200).map(|_| keys.next_range(9)).collect();
        let first = (space.key(0), space.key(9));
        let last = (space.key(1), ALL_KEYS.1);
        assert_eq!(ranges, BTreeSet::from([first, last]));
    }

    #[test]
    fn random_numbers_spread_over_the_bound() {
        let mut random = Random::new(1);
        let seen: BTreeSet<_> = (0..1_000).map(|_| random.below(10)).collect();
        assert_eq!(seen, (0..10).collect());
    }
}
