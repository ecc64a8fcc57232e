//! Random numbers from a seed: `SplitMix64` (Steele, Lea, Flood 2014).
//!
//! The library draws election timeouts from the thread's generator, which no seed reaches. The node draws its own here
//! and sets them over the library's.

use std::ops::Range;

#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `range`, which must not be empty. The bias of the remainder is far below one tick.
    pub(crate) fn in_range(&mut self, range: Range<usize>) -> usize {
        let width = (range.end - range.start) as u64;
        let offset = usize::try_from(self.next() % width).expect("smaller than a usize range");
        range.start + offset
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn numbers_follow_from_the_seed_and_fill_the_range() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..1000).map(|_| random.in_range(10..20)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let numbers = draw(3);
        for expected in 10..20 {
            assert!(numbers.contains(&expected), "{expected} is never drawn");
        }
        assert!(numbers.iter().all(|number| (10..20).contains(number)));
    }
}
