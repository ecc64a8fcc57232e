//! Measures the tree beside `BTreeMap<Box<[u8]>, V>`: a million keys of 43 bytes, a record of 32 bytes.
//!
//!     cargo run --release -p retcd-btree --example index_costs [keys]
//!
//! Each map runs in a process of its own, so that the resident size tells what it takes.
#![allow(clippy::print_stdout, reason = "printing figures is what it is for")]
#![allow(clippy::cast_precision_loss, reason = "no figure needs 52 bits")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::time::Instant;

use retcd_btree::{BTree, Slot, Weight};

#[derive(Clone, Copy)]
struct Record {
    revision: u64,
    created: u64,
    version: u64,
    place: u64,
}

impl Weight for Record {
    fn is_live(&self) -> bool {
        self.version != 0
    }
}

fn record(n: usize) -> Record {
    Record { revision: n as u64, created: 1, version: 1, place: 0 }
}

/// What is measured of either map.
trait Map {
    fn new() -> Self;
    fn put(&mut self, key: &[u8], record: Record);
    fn get(&self, key: &[u8]) -> Option<&Record>;
    fn scan(&self) -> u64;
    fn count(&self, from: &[u8], to: &[u8]) -> u64;
    fn remove(&mut self, key: &[u8]) -> bool;
    fn load(entries: &[Vec<u8>]) -> Self;
    fn note(&self) -> String;
}

impl Map for BTree<Record> {
    fn new() -> Self {
        Self::new()
    }

    fn put(&mut self, key: &[u8], record: Record) {
        self.upsert(key, |slot| match slot {
            Slot::Occupied(old) => {
                old.revision = record.revision;
                old.version += 1;
            }
            Slot::Vacant(place) => place.insert(record),
        });
    }

    fn get(&self, key: &[u8]) -> Option<&Record> {
        self.get(key)
    }

    fn scan(&self) -> u64 {
        let records = self.range(Unbounded, Unbounded);
        records.map(|(key, r)| black_box(key).len() as u64 + r.revision + r.created + r.place).sum()
    }

    fn count(&self, from: &[u8], to: &[u8]) -> u64 {
        self.count_range(Included(from), Excluded(to))
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        self.remove(key).is_some()
    }

    fn load(entries: &[Vec<u8>]) -> Self {
        Self::from_sorted(entries.iter().enumerate().map(|(n, key)| (key, record(n))))
    }

    fn note(&self) -> String {
        let start = Instant::now();
        let mut sum = 0;
        let mut cursor = self.cursor(Unbounded, Unbounded);
        while let Some((key, record)) = cursor.next() {
            sum += black_box(key).len() as u64 + record.revision + record.created + record.place;
        }
        black_box(sum);
        let per_key = ns(start, self.len());
        format!(
            "{} B/key by its own estimate; scan with whole keys {per_key:.1} ns/key",
            self.heap_bytes() / self.len()
        )
    }
}

impl Map for BTreeMap<Box<[u8]>, Record> {
    fn new() -> Self {
        Self::new()
    }

    fn put(&mut self, key: &[u8], record: Record) {
        if let Some(old) = self.get_mut(key) {
            old.revision = record.revision;
            old.version += 1;
        } else {
            self.insert(key.into(), record);
        }
    }

    fn get(&self, key: &[u8]) -> Option<&Record> {
        self.get(key)
    }

    fn scan(&self) -> u64 {
        self.iter()
            .map(|(key, r)| black_box(key).len() as u64 + r.revision + r.created + r.place)
            .sum()
    }

    fn count(&self, from: &[u8], to: &[u8]) -> u64 {
        self.range::<[u8], _>((Included(from), Excluded(to))).count() as u64
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        self.remove(key).is_some()
    }

    fn load(entries: &[Vec<u8>]) -> Self {
        entries.iter().enumerate().map(|(n, key)| (key.as_slice().into(), record(n))).collect()
    }

    fn note(&self) -> String {
        String::new()
    }
}

/// `SplitMix64`: the figures must not depend on a crate or a seed of the day.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let other = usize::try_from(self.next() % (i as u64 + 1)).expect("below a usize");
            items.swap(i, other);
        }
    }
}

fn key(namespace: u64, name: u64) -> Vec<u8> {
    format!("/registry/pods/ns-{namespace:04}/pod-{name:016x}").into_bytes()
}

fn ns(start: Instant, times: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / times as f64
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()).unwrap_or(0)
        * 1024
}

fn print_note(map: &impl Map) {
    let note = map.note();
    if !note.is_empty() {
        println!("                  {note}");
    }
}

fn measure<M: Map>(count: usize) {
    let mut random = Random(1);
    let mut keys: Vec<Vec<u8>> =
        (0..count).map(|_| key(random.next() % 1000, random.next())).collect();
    let before = resident_bytes();

    let start = Instant::now();
    let mut map = M::new();
    keys.iter().enumerate().for_each(|(n, key)| map.put(key, record(n)));
    println!("insert, random    {:8.0} ns", ns(start, count));
    println!("resident          {:8.0} B/key", (resident_bytes() - before) as f64 / count as f64);

    random.shuffle(&mut keys);
    let start = Instant::now();
    let found = keys.iter().filter(|key| map.get(key).is_some()).count();
    println!("get, random       {:8.0} ns", ns(start, count));
    assert_eq!(found, count);

    let start = Instant::now();
    keys.iter().enumerate().for_each(|(n, key)| map.put(key, record(n)));
    println!("update, random    {:8.0} ns", ns(start, count));

    let start = Instant::now();
    black_box(map.scan());
    println!("scan              {:8.1} ns/key", ns(start, count));

    for (label, width, times) in [("count, 1 % wide ", 10, 2000), ("count, half     ", 500, 20)] {
        let ranges: Vec<_> = (0..times).map(|_| random.next() % (1000 - width)).collect();
        let bounds: Vec<_> = ranges
            .iter()
            .map(|n| (key(*n, random.next()), key(n + width, random.next())))
            .collect();
        let start = Instant::now();
        black_box(bounds.iter().map(|(from, to)| map.count(from, to)).sum::<u64>());
        println!("{label}  {:8.0} ns", ns(start, times));
    }
    print_note(&map);

    let start = Instant::now();
    let removed = keys.iter().filter(|key| map.remove(key)).count();
    println!("remove, random    {:8.0} ns", ns(start, count));
    assert_eq!(removed, count);
    drop(map);

    keys.sort();
    let start = Instant::now();
    let mut map = M::new();
    keys.iter().enumerate().for_each(|(n, key)| map.put(key, record(n)));
    println!("insert, ascending {:8.0} ns", ns(start, count));
    print_note(&map);
    drop(map);

    let start = Instant::now();
    let map = M::load(&keys);
    println!("bulk load         {:8.0} ns/key", ns(start, count));
    print_note(&map);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("tree") => measure::<BTree<Record>>(arguments[1].parse().expect("a number of keys")),
        Some("std") => {
            measure::<BTreeMap<Box<[u8]>, Record>>(arguments[1].parse().expect("a number of keys"));
        }
        count => {
            let count = count.unwrap_or("1000000");
            let program = std::env::current_exe().expect("the path of this program");
            for which in ["tree", "std", "tree", "std"] {
                println!("--- {which}, {count} keys");
                let status = std::process::Command::new(&program).args([which, count]).status();
                assert!(status.expect("this program starts").success());
            }
        }
    }
}
