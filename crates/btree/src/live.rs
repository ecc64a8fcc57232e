//! Which entries of a leaf are live: one bit each.
//!
//! Counting the live entries before a position is then one instruction, instead of a walk over the values.

/// A bit per entry, entry 0 lowest. Bits at and above the entry count are zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LiveSet(u64);

impl LiveSet {
    /// Most entries a set can describe. Positions are below it, so no shift is ever by the full width.
    pub(crate) const CAPACITY: usize = 63;

    pub(crate) fn get(self, at: usize) -> bool {
        self.0 >> at & 1 == 1
    }

    pub(crate) fn set(&mut self, at: usize, live: bool) {
        self.0 = self.0 & !(1 << at) | u64::from(live) << at;
    }

    pub(crate) fn insert(&mut self, at: usize, live: bool) {
        let above = self.0 & !below(at);
        self.0 = self.0 & below(at) | u64::from(live) << at | above << 1;
    }

    pub(crate) fn remove(&mut self, at: usize) {
        let above = self.0 >> 1 & !below(at);
        self.0 = self.0 & below(at) | above;
    }

    /// Removes every position whose bit is set in `marked`.
    pub(crate) fn remove_marked(&mut self, marked: u64) {
        let mut rest = marked;
        while rest != 0 {
            let highest = rest.ilog2();
            self.remove(highest as usize);
            rest &= !(1 << highest);
        }
    }

    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let right = Self(self.0 >> at);
        self.0 &= below(at);
        right
    }

    /// Puts `other` behind the first `len` positions, which are all that this set describes.
    pub(crate) fn append(&mut self, len: usize, other: Self) {
        self.0 |= other.0 << len;
    }

    pub(crate) fn count(self) -> u64 {
        u64::from(self.0.count_ones())
    }

    /// How many of the positions `from..to` are live; zero when they are out of order.
    pub(crate) fn count_between(self, from: usize, to: usize) -> u64 {
        Self(self.0 & below(to) & !below(from)).count()
    }
}

/// All positions before `at`, which is below 64.
fn below(at: usize) -> u64 {
    (1 << at) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_moves_bits_like_a_vector_of_booleans() {
        let mut set = LiveSet::default();
        let mut model: Vec<bool> = Vec::new();
        for step in 0..LiveSet::CAPACITY {
            let (at, live) = (step * 7 % (step + 1), step % 3 != 0);
            set.insert(at, live);
            model.insert(at, live);
            assert_eq!((0..model.len()).map(|i| set.get(i)).collect::<Vec<_>>(), model);
        }
        for (from, to) in [(0, 63), (5, 9), (9, 5), (62, 63), (0, 0)] {
            let expected =
                model.get(from..to).map_or(0, |bits| bits.iter().filter(|b| **b).count());
            assert_eq!(set.count_between(from, to), expected as u64);
        }
        let mut left = set;
        let right = left.split_off(20);
        assert_eq!(
            (left.count(), right.count()),
            (set.count_between(0, 20), set.count_between(20, 63))
        );
        left.append(20, right);
        assert_eq!(left, set);

        let marked = 0x5A5A_1234_8765_F00F >> 1;
        set.remove_marked(marked);
        let kept: Vec<bool> = model
            .iter()
            .enumerate()
            .filter(|(i, _)| marked >> i & 1 == 0)
            .map(|(_, b)| *b)
            .collect();
        assert_eq!((0..kept.len()).map(|i| set.get(i)).collect::<Vec<_>>(), kept);
        assert_eq!(set.count_between(0, kept.len()), set.count());
    }
}
