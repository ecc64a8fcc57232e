//! Who wants this key.
//!
//! Watchers on the same keys with the same options get the same bytes; together they are one *interest*. A key finds
//! its interests in an ordered map (single keys) and in an interval tree (ranges), once per event, however many
//! watchers they have. An ordered map and no hash map: no client can choose keys that collide.
//!
//! The members of an interest lie in one list, each with all that a delivery needs, so that a delivery runs through
//! memory and not through pointers. A member that leaves is replaced by the last one: joining and leaving cost the
//! same with ten thousand watchers on one key.

use std::collections::BTreeMap;

use super::interval_tree::IntervalTree;
use super::slab::Slab;
use super::watcher::{End, KeyRange, Options};

#[derive(Debug)]
pub(super) struct Set {
    singles: BTreeMap<Box<[u8]>, Vec<u32>>,
    ranges: IntervalTree,
    interests: Slab<Interest>,
}

/// All watchers on the same keys with the same options.
#[derive(Debug)]
pub(super) struct Interest {
    pub(super) options: Options,
    pub(super) members: Vec<Member>,
    /// Scratch of a delivery: the records that match, by their position. Empty between two deliveries.
    pub(super) matched: Vec<u32>,
    /// Scratch of a delivery: whether this interest takes part. False between two deliveries.
    pub(super) is_chosen: bool,
    range: KeyRange,
}

/// What a delivery has to know about one watcher.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) watch_id: i64,
    /// Live events of this revision and above are for this watcher; `i64::MAX` when it is not synced.
    pub(super) from: i64,
    pub(super) watcher: u32,
    pub(super) stream: u32,
    pub(super) fragment: bool,
    /// It got events since the last periodic progress.
    pub(super) is_told: bool,
}

impl Set {
    pub(super) fn new() -> Self {
        Set { singles: BTreeMap::new(), ranges: IntervalTree::new(), interests: Slab::new() }
    }

    /// Returns the interest, and the member's place in it.
    pub(super) fn add(
        &mut self,
        range: &KeyRange,
        options: Options,
        member: Member,
    ) -> (u32, usize) {
        let Set { singles, ranges, interests } = self;
        let variants = match &range.end {
            End::Single => singles.entry(range.start.clone()).or_default(),
            End::Before(end) => ranges.values_mut(&range.start, Some(end)),
            End::Unbounded => ranges.values_mut(&range.start, None),
        };
        let known = variants.iter().copied().find(|id| interests[*id].options == options);
        let id = known.unwrap_or_else(|| {
            let id = interests.insert(Interest::new(range.clone(), options));
            variants.push(id);
            id
        });
        let members = &mut interests[id].members;
        members.push(member);
        (id, members.len() - 1)
    }

    /// Removes a member. Returns the watcher that sits in its place now, if any.
    pub(super) fn remove(&mut self, interest: u32, seat: usize) -> Option<u32> {
        let members = &mut self.interests[interest].members;
        members.swap_remove(seat);
        let moved = members.get(seat).map(|member| member.watcher);
        if members.is_empty() {
            self.forget(interest);
        }
        moved
    }

    fn forget(&mut self, interest: u32) {
        let KeyRange { start, end } = self.interests.remove(interest).range;
        if end == End::Single {
            let variants =
                self.singles.get_mut(&start).expect("an interest is listed under its key");
            variants.retain(|id| *id != interest);
            if variants.is_empty() {
                self.singles.remove(&start);
            }
            return;
        }
        let end = if let End::Before(end) = &end { Some(&**end) } else { None };
        let variants = self.ranges.values_mut(&start, end);
        variants.retain(|id| *id != interest);
        if variants.is_empty() {
            self.ranges.remove(&start, end);
        }
    }

    /// Visits the interests that cover a key.
    pub(super) fn visit(&mut self, key: &[u8], mut visit: impl FnMut(u32, &mut Interest)) {
        let Set { singles, ranges, interests } = self;
        let mut visit_all = |ids: &[u32]| ids.iter().for_each(|id| visit(*id, &mut interests[*id]));
        if let Some(ids) = singles.get(key) {
            visit_all(ids);
        }
        ranges.visit(key, &mut visit_all);
    }

    pub(super) fn interest(&mut self, id: u32) -> &mut Interest {
        &mut self.interests[id]
    }

    pub(super) fn member(&self, interest: u32, seat: usize) -> &Member {
        &self.interests[interest].members[seat]
    }

    pub(super) fn member_mut(&mut self, interest: u32, seat: usize) -> &mut Member {
        &mut self.interests[interest].members[seat]
    }
}

impl Interest {
    fn new(range: KeyRange, options: Options) -> Self {
        Interest { options, members: Vec::new(), matched: Vec::new(), is_chosen: false, range }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Options = Options { no_put: false, no_delete: false, prev_kv: false };

    fn member(watcher: u32) -> Member {
        Member { watch_id: 0, from: 0, watcher, stream: 0, fragment: false, is_told: false }
    }

    fn range(key: &str, end: &str) -> KeyRange {
        KeyRange::from_request(key.as_bytes(), end.as_bytes()).unwrap()
    }

    fn watchers_of(set: &mut Set, key: &str) -> Vec<u32> {
        let mut found = Vec::new();
        set.visit(key.as_bytes(), |_, interest| {
            found.extend(interest.members.iter().map(|member| member.watcher));
        });
        found.sort_unstable();
        found
    }

    #[test]
    fn single_keys_and_ranges_are_found_together() {
        let mut set = Set::new();
        set.add(&range("b", ""), PLAIN, member(0));
        set.add(&range("b", ""), Options { prev_kv: true, ..PLAIN }, member(1));
        set.add(&range("a", "c"), PLAIN, member(2));
        set.add(&range("b", "\0"), PLAIN, member(3));
        assert_eq!(watchers_of(&mut set, "a"), [2]);
        assert_eq!(watchers_of(&mut set, "b"), [0, 1, 2, 3]);
        assert_eq!(watchers_of(&mut set, "c"), [3]);
    }

    #[test]
    fn a_member_that_leaves_is_replaced_by_the_last() {
        let mut set = Set::new();
        for keys in [range("k", ""), range("k", "m"), range("k", "\0")] {
            let (interest, first) = set.add(&keys, PLAIN, member(0));
            let (_, second) = set.add(&keys, PLAIN, member(1));
            assert_eq!((first, second), (0, 1));
            assert_eq!(set.remove(interest, 0), Some(1));
            assert_eq!(watchers_of(&mut set, "k"), [1]);
            assert_eq!(set.remove(interest, 0), None);
            assert_eq!(watchers_of(&mut set, "k"), [0; 0]);
        }
        assert_eq!(set.interests.len(), 0);
        assert!(set.singles.is_empty());
    }
}
