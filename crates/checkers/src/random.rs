//! Randomness for tests, from a seed.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A stream of random numbers: `SplitMix64`, which is small, fast and even enough for tests.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Another stream each time.
    pub fn random() -> Self {
        Self::from_seed(RandomState::new().build_hasher().finish())
    }

    pub fn from_seed(seed: u64) -> Self {
        Dice { state: seed }
    }

    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, but without, `end`. The bias of the remainder does not matter for small ends.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// An index into something of this length.
    pub fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).expect("a length fits into 64 bits");
        usize::try_from(self.below(len)).expect("below a length")
    }

    /// True in one of `times` cases.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_stream() {
        let take = |mut dice: Dice| std::iter::repeat_with(move || dice.number()).take(8);
        assert!(take(Dice::from_seed(7)).eq(take(Dice::from_seed(7))));
        assert!(!take(Dice::from_seed(7)).eq(take(Dice::from_seed(8))));
    }

    #[test]
    fn chances_come_true_as_often_as_they_say() {
        let mut dice = Dice::from_seed(1);
        let hits = (0..10_000).filter(|_| dice.chance(50)).count();
        assert!((4_500..5_500).contains(&hits), "{hits}");
        assert!(!dice.chance(0));
        assert!(dice.chance(100));
    }
}
