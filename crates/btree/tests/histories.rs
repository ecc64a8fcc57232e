//! Random histories against a `BTreeMap`: every answer, every count and every invariant after every step.
//!
//! Compiled twice: here against the real node sizes, and within the crate against tiny nodes, where a history of a
//! few hundred keys splits and joins nodes on four levels.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use proptest::collection::vec;
use proptest::prelude::*;
use retcd_btree::{BTree, Slot, Verdict, Weight};

#[derive(Debug, Clone, PartialEq)]
struct Record {
    stamp: u32,
    is_deleted: bool,
}

impl Weight for Record {
    fn is_live(&self) -> bool {
        !self.is_deleted
    }
}

type Edge = Bound<Vec<u8>>;

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>),
    /// Many keys `stem` + number, ascending, descending or shuffled by the stride.
    PutMany {
        stem: Vec<u8>,
        first: u16,
        count: u16,
        stride: u16,
    },
    /// Makes a live key dead or a dead key live.
    Toggle(Vec<u8>),
    /// Looks at a key through `upsert` without inserting it.
    Decline(Vec<u8>),
    Remove(Vec<u8>),
    /// Removes the n-th key that exists, which a random key rarely hits.
    RemoveNth(usize),
    ToggleNth(usize),
    Retain {
        from: Edge,
        entries_max: usize,
        remove_one_in: u32,
    },
    Mutate {
        from: Edge,
        to: Edge,
        entries_max: usize,
    },
    Walk {
        from: Edge,
        to: Edge,
    },
    Rebuild,
}

struct Pair {
    tree: BTree<Record>,
    model: BTreeMap<Vec<u8>, Record>,
    clock: u32,
}

impl Pair {
    fn new() -> Self {
        Self { tree: BTree::new(), model: BTreeMap::new(), clock: 0 }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Put(key) => self.put(key),
            Step::PutMany { stem, first, count, stride } => {
                for i in 0..*count {
                    let number = first.wrapping_add(i.wrapping_mul(*stride));
                    self.put(&[stem, format!("{number:05}").as_bytes()].concat());
                }
            }
            Step::Toggle(key) => self.toggle(key),
            Step::Decline(key) => self.decline(key),
            Step::Remove(key) => self.remove(key),
            Step::RemoveNth(n) => {
                if let Some(key) = self.nth(*n) {
                    self.remove(&key);
                }
            }
            Step::ToggleNth(n) => {
                if let Some(key) = self.nth(*n) {
                    self.toggle(&key);
                }
            }
            Step::Retain { from, entries_max, remove_one_in } => {
                self.retain(from, *entries_max, *remove_one_in);
            }
            Step::Mutate { from, to, entries_max } => self.mutate(from, to, *entries_max),
            Step::Walk { from, to } => self.walk(from, to),
            Step::Rebuild => self.tree = BTree::from_sorted(self.model.clone()),
        }
        self.tree.assert_valid();
        assert_eq!(self.tree.len(), self.model.len());
        assert_eq!(self.tree.live_len(), live(self.model.values()));
    }

    fn nth(&self, n: usize) -> Option<Vec<u8>> {
        self.model.keys().nth(n % self.model.len().max(1)).cloned()
    }

    fn put(&mut self, key: &[u8]) {
        self.clock += 1;
        let record = Record { stamp: self.clock, is_deleted: self.clock.is_multiple_of(4) };
        assert_eq!(
            self.tree.insert(key, record.clone()),
            self.model.insert(key.to_vec(), record.clone())
        );
        assert_eq!(self.tree.get(key), Some(&record));
    }

    fn toggle(&mut self, key: &[u8]) {
        let found = self.tree.upsert(key, |slot| match slot {
            Slot::Occupied(record) => {
                record.is_deleted = !record.is_deleted;
                Some(record.clone())
            }
            Slot::Vacant(_) => None,
        });
        let expected = self.model.get_mut(key).map(|record| {
            record.is_deleted = !record.is_deleted;
            record.clone()
        });
        assert_eq!(found, expected);
    }

    fn decline(&mut self, key: &[u8]) {
        let exists = self.tree.upsert(key, |slot| matches!(slot, Slot::Occupied(_)));
        assert_eq!(exists, self.model.contains_key(key));
        assert_eq!(self.tree.get(key), self.model.get(key));
    }

    fn remove(&mut self, key: &[u8]) {
        assert_eq!(self.tree.remove(key), self.model.remove(key));
        assert_eq!(self.tree.get(key), None);
    }

    fn retain(&mut self, from: &Edge, entries_max: usize, remove_one_in: u32) {
        let verdict = |record: &mut Record| {
            record.is_deleted ^= record.stamp.is_multiple_of(3);
            if record.stamp.is_multiple_of(remove_one_in) { Verdict::Remove } else { Verdict::Keep }
        };
        let expected: Vec<Vec<u8>> =
            self.selected(from, &Bound::Unbounded).into_iter().take(entries_max).collect();
        let mut visited = Vec::new();
        let resume = self.tree.retain_range(borrow(from), entries_max, |key, record| {
            visited.push(key.to_vec());
            verdict(record)
        });
        assert_eq!(visited, expected);
        if let Some(last) = expected.last() {
            let rest = self
                .model
                .range::<[u8], _>((Bound::Excluded(last.as_slice()), Bound::Unbounded))
                .next();
            match &resume {
                Some(resume) => {
                    assert!(last < resume, "a slice does not visit an entry twice");
                    assert!(
                        rest.is_none_or(|(key, _)| resume <= key),
                        "a slice does not skip an entry"
                    );
                }
                None => assert_eq!(rest, None, "only the end of the map ends the slices"),
            }
        }
        for key in expected {
            if verdict(self.model.get_mut(&key).expect("it was selected")) == Verdict::Remove {
                self.model.remove(&key);
            }
        }
    }

    fn mutate(&mut self, from: &Edge, to: &Edge, entries_max: usize) {
        let expected: Vec<Vec<u8>> =
            self.selected(from, to).into_iter().take(entries_max).collect();
        let mut visited = Vec::new();
        let flow = self.tree.for_each_range_mut(borrow(from), borrow(to), |key, record| {
            record.is_deleted = !record.is_deleted;
            visited.push(key.to_vec());
            if visited.len() == entries_max {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(visited, expected);
        assert_eq!(flow.is_break(), expected.len() == entries_max);
        for key in expected {
            let record = self.model.get_mut(&key).expect("it was selected");
            record.is_deleted = !record.is_deleted;
        }
    }

    fn walk(&self, from: &Edge, to: &Edge) {
        let expected: Vec<(Vec<u8>, Record)> = self
            .selected(from, to)
            .into_iter()
            .map(|key| (key.clone(), self.model[&key].clone()))
            .collect();
        let (from, to) = (borrow(from), borrow(to));

        let by_parts: Vec<_> =
            self.tree.range(from, to).map(|(key, record)| (key.to_vec(), record.clone())).collect();
        assert_eq!(by_parts, expected);

        let mut by_cursor = Vec::new();
        let mut cursor = self.tree.cursor(from, to);
        while let Some((key, record)) = cursor.next() {
            by_cursor.push((key.to_vec(), record.clone()));
        }
        assert_eq!(by_cursor, expected);
        assert_eq!(self.in_pieces(from, to), expected);
        assert_eq!(
            self.tree.count_range(from, to),
            live(expected.iter().map(|(_, record)| record))
        );
    }

    /// Walks three entries at a time, each piece from behind the last key of the one before.
    fn in_pieces(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Vec<(Vec<u8>, Record)> {
        let mut all = Vec::new();
        let mut from: Edge = from.map(<[u8]>::to_vec);
        loop {
            let before = all.len();
            let flow = self.tree.for_each_range(borrow(&from), to, |key, record| {
                all.push((key.to_vec(), record.clone()));
                if all.len() == before + 3 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            if flow.is_continue() {
                return all;
            }
            from = Bound::Excluded(all[all.len() - 1].0.clone());
        }
    }

    fn selected(&self, from: &Edge, to: &Edge) -> Vec<Vec<u8>> {
        let is_after = |key: &Vec<u8>| match from {
            Bound::Included(from) => key >= from,
            Bound::Excluded(from) => key > from,
            Bound::Unbounded => true,
        };
        let is_before = |key: &Vec<u8>| match to {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        self.model.keys().filter(|key| is_after(key) && is_before(key)).cloned().collect()
    }
}

fn live<'a>(records: impl Iterator<Item = &'a Record>) -> u64 {
    records.filter(|record| record.is_live()).count() as u64
}

fn borrow(edge: &Edge) -> Bound<&[u8]> {
    edge.as_ref().map(Vec::as_slice)
}

/// Keys made to hurt: few letters, so that they meet; zeros and 0xff; prefixes of each other; long ones.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let letters = || prop::sample::select(vec![0x00, 0x01, b'a', b'b', 0xfe, 0xff]);
    let padded =
        |stem: &'static [u8]| vec(letters(), 0..4).prop_map(move |tail| [stem, &tail].concat());
    prop_oneof![
        6 => vec(letters(), 0..6),
        3 => padded(b"/registry/pods/default/"),
        2 => (0..24_usize).prop_map(|zeros| vec![0; zeros]),
        2 => (0..2000_u16).prop_map(|n| format!("{n:05}").into_bytes()),
        1 => (stem(), 0..2000_u16).prop_map(|(stem, n)| [stem, format!("{n:05}").into_bytes()].concat()),
        1 => (1..20_usize, vec(letters(), 0..3)).prop_map(|(n, tail)| [vec![b'x'; n * n * 5], tail].concat()),
    ]
}

fn stem() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        b"".to_vec(),
        b"a".to_vec(),
        b"/registry/pods/default/".to_vec(),
        vec![0xff; 60],
        vec![b'x'; 500],
    ])
}

fn edge() -> impl Strategy<Value = Edge> {
    prop_oneof![
        2 => Just(Bound::Unbounded),
        5 => key().prop_map(Bound::Included),
        5 => key().prop_map(Bound::Excluded),
    ]
}

fn step(many: u16) -> impl Strategy<Value = Step> {
    let stride = prop::sample::select(vec![1, 2, 7, 7919, u16::MAX]);
    let put_many = (stem(), 0..2000_u16, 1..many, stride)
        .prop_map(|(stem, first, count, stride)| Step::PutMany { stem, first, count, stride });
    let retain = (edge(), 1..200_usize, 1..5_u32).prop_map(|(from, entries_max, remove_one_in)| {
        Step::Retain { from, entries_max, remove_one_in }
    });
    let mutate = (edge(), edge(), 1..100_usize).prop_map(|(from, to, entries_max)| Step::Mutate {
        from,
        to,
        entries_max,
    });
    prop_oneof![
        8 => key().prop_map(Step::Put),
        3 => put_many,
        2 => key().prop_map(Step::Toggle),
        1 => key().prop_map(Step::Decline),
        3 => key().prop_map(Step::Remove),
        8 => any::<usize>().prop_map(Step::RemoveNth),
        2 => any::<usize>().prop_map(Step::ToggleNth),
        2 => retain,
        2 => mutate,
        5 => (edge(), edge()).prop_map(|(from, to)| Step::Walk { from, to }),
        1 => Just(Step::Rebuild),
    ]
}

fn run(steps: &[Step]) {
    let mut pair = Pair::new();
    for step in steps {
        pair.apply(step);
    }
    pair.walk(&Bound::Unbounded, &Bound::Unbounded);
    // What was built up must come down again, in an order that is neither ascending nor descending.
    while let Some(key) = pair.nth(pair.model.len() / 3) {
        pair.remove(&key);
        if pair.model.len().is_multiple_of(16) {
            pair.tree.assert_valid();
        }
    }
    assert_eq!((pair.tree.len(), pair.tree.live_len()), (0, 0));
    pair.tree.assert_valid();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn short_histories_agree_with_a_model(steps in vec(step(40), 1..60)) {
        run(&steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn crowded_histories_agree_with_a_model(steps in vec(step(600), 20..80)) {
        run(&steps);
    }
}
