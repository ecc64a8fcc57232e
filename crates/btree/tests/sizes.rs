//! What the real node sizes promise: full leaves, memory that comes back, and keys of any length.

use std::ops::Bound::{Excluded, Included, Unbounded};

use retcd_btree::{BTree, LEAF_BYTES_MAX, Verdict, Weight};

/// As large as the record of a key index.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Record([u64; 4]);

impl Weight for Record {
    fn is_live(&self) -> bool {
        true
    }
}

const RECORD: Record = Record([7; 4]);

/// Bytes of an entry that no fill can save: the record, its head, its end, and up to 6 bytes of suffix.
const ENTRY_BYTES: usize = 32 + 8 + 4 + 6;

fn key(n: usize) -> Vec<u8> {
    format!("/registry/pods/{:04}/{:06}", n / 1000, n % 1000).into_bytes()
}

/// A permutation of `0..n` for any `n` that 7919 does not divide.
fn shuffled(n: usize) -> impl Iterator<Item = usize> {
    (0..n).map(move |i| i * 7919 % n)
}

fn bytes_per_entry(tree: &BTree<Record>) -> usize {
    tree.assert_valid();
    tree.heap_bytes() / tree.len()
}

#[test]
fn ascending_inserts_fill_their_leaves() {
    let mut tree = BTree::new();
    (0..50_000).for_each(|n| assert_eq!(tree.insert(&key(n), RECORD), None));
    assert!(bytes_per_entry(&tree) < ENTRY_BYTES * 125 / 100, "{} bytes", bytes_per_entry(&tree));
}

#[test]
fn ascending_inserts_in_many_places_fill_their_leaves() {
    let mut tree = BTree::new();
    for low in 0..1000 {
        (0..50).for_each(|high| assert_eq!(tree.insert(&key(high * 1000 + low), RECORD), None));
    }
    assert!(bytes_per_entry(&tree) < ENTRY_BYTES * 150 / 100, "{} bytes", bytes_per_entry(&tree));
}

#[test]
fn random_inserts_leave_little_slack() {
    let mut tree = BTree::new();
    shuffled(50_000).for_each(|n| assert_eq!(tree.insert(&key(n), RECORD), None));
    assert!(bytes_per_entry(&tree) < ENTRY_BYTES * 150 / 100, "{} bytes", bytes_per_entry(&tree));
}

#[test]
fn a_bulk_load_is_as_small() {
    let tree = BTree::from_sorted((0..50_000).map(|n| (key(n), RECORD)));
    assert!(bytes_per_entry(&tree) < ENTRY_BYTES * 140 / 100, "{} bytes", bytes_per_entry(&tree));
}

#[test]
fn memory_comes_back_when_keys_go_one_by_one() {
    let mut tree = BTree::from_sorted((0..50_000).map(|n| (key(n), RECORD)));
    let before = tree.heap_bytes();
    shuffled(50_000).skip(2_500).for_each(|n| assert_eq!(tree.remove(&key(n)), Some(RECORD)));
    tree.assert_valid();
    assert!(
        tree.heap_bytes() < before / 7,
        "5 % of the keys hold {} of {before} bytes",
        tree.heap_bytes()
    );
}

#[test]
fn memory_comes_back_in_slices() {
    let mut tree = BTree::from_sorted((0..50_000).map(|n| (key(n), RECORD)));
    let before = tree.heap_bytes();
    let (mut slices, mut visited) = (0, 0);
    let mut resume = Some(Vec::new());
    while let Some(from) = resume {
        resume = tree.retain_range(Included(&from), 1000, |_, _| {
            visited += 1;
            if visited % 20 == 0 { Verdict::Keep } else { Verdict::Remove }
        });
        slices += 1;
    }
    assert_eq!((visited, tree.len(), tree.live_len()), (50_000, 2_500, 2_500));
    assert!((50..=51).contains(&slices), "{slices} slices");
    tree.assert_valid();
    assert!(
        tree.heap_bytes() < before / 7,
        "5 % of the keys hold {} of {before} bytes",
        tree.heap_bytes()
    );
}

#[test]
fn counts_agree_with_ranks() {
    let mut tree = BTree::new();
    shuffled(30_011).for_each(|n| assert_eq!(tree.insert(&key(n), RECORD), None));
    for (from, to) in shuffled(30_011).zip(shuffled(30_011).skip(11)) {
        let expected = to.saturating_sub(from) as u64;
        assert_eq!(tree.count_range(Included(&key(from)), Excluded(&key(to))), expected);
    }
    assert_eq!(tree.count_range(Unbounded, Excluded(&key(17))), 17);
    assert_eq!(tree.count_range(Excluded(&key(30_000)), Unbounded), 10);
    assert_eq!(tree.count_range(Unbounded, Unbounded), 30_011);
}

#[test]
fn keys_of_megabytes_live_beside_short_ones() {
    const HUGE: usize = 3 << 20;
    let stem = vec![b'm'; HUGE];
    let mut keys: Vec<Vec<u8>> = (0..60_u8).map(|n| [stem.as_slice(), &[n]].concat()).collect();
    keys.extend((1..8).map(|n| stem[..HUGE / n].to_vec()));
    keys.extend((0..400).map(key));
    keys.extend((0..400_u16).map(|n| format!("z{n}").into_bytes()));
    keys.push(Vec::new());

    let mut tree = BTree::new();
    for (n, at) in shuffled(keys.len()).enumerate() {
        assert_eq!(tree.insert(&keys[at], Record([n as u64; 4])), None);
    }
    tree.assert_valid();
    assert!(keys.iter().all(|key| tree.get(key).is_some()));
    assert_eq!(tree.get(&[stem.as_slice(), &[60]].concat()), None);
    assert_eq!(tree.count_range(Included(&stem), Excluded(b"n")), 61);
    assert!(tree.heap_bytes() < 40 * HUGE, "a long prefix is shared: {} bytes", tree.heap_bytes());

    keys.sort();
    assert!(tree.range(Unbounded, Unbounded).map(|(key, _)| key.to_vec()).eq(keys.iter().cloned()));
    for key in &keys {
        assert!(tree.remove(key).is_some());
    }
    tree.assert_valid();
    assert!(tree.is_empty() && tree.heap_bytes() < LEAF_BYTES_MAX, "{} bytes", tree.heap_bytes());
}
