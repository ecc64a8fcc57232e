//! What is written is read again, and is shaped as bbolt wants it; what is damaged is not believed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::format::{FLAG_BRANCH, KEY_LEN_MAX, PageHeader, PageSize};
use crate::{Database, Error, Fault, Layout, Sink, Writer};

pub(crate) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
pub(crate) type Content = BTreeMap<Vec<u8>, Entries>;

/// The page size of most tests: trees get deep with little in them.
pub(crate) const SMALL: PageSize = PageSize::new(1024).unwrap();

fn fill<S: Sink>(writer: &mut Writer<S>, content: &Content) -> Result<(), Error> {
    for (name, entries) in content {
        writer.bucket(name)?;
        for (key, value) in entries {
            writer.put(key, value)?;
        }
    }
    Ok(())
}

pub(crate) fn measure(page_size: PageSize, content: &Content) -> Layout {
    let mut writer = Writer::measuring(page_size);
    fill(&mut writer, content).unwrap();
    writer.finish().unwrap()
}

/// Writes in both ways, which must not differ.
pub(crate) fn write(page_size: PageSize, content: &Content) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), page_size).unwrap();
    fill(&mut writer, content).unwrap();
    let sought = writer.finish().unwrap().into_inner();

    let layout = measure(page_size, content);
    let mut writer = Writer::streaming(Vec::new(), layout).unwrap();
    fill(&mut writer, content).unwrap();
    let streamed = writer.finish().unwrap();
    assert_eq!(streamed.len() as u64, layout.size_bytes());
    assert!(sought == streamed, "a stream has the bytes of a file");
    streamed
}

pub(crate) fn read(bytes: &[u8]) -> Result<Content, Fault> {
    let database = Database::open(bytes)?;
    let mut content = Content::new();
    let mut buckets = database.buckets();
    while let Some(bucket) = buckets.next()? {
        let mut entries = Entries::new();
        let mut walk = database.entries(&bucket);
        while let Some((key, value)) = walk.next()? {
            let is_above = entries.last_key_value().is_none_or(|(last, _)| last.as_slice() < key);
            assert!(is_above, "keys ascend whatever the file is");
            entries.insert(key.to_vec(), value.to_vec());
        }
        content.insert(bucket.name().to_vec(), entries);
    }
    Ok(content)
}

#[test]
fn a_walk_may_begin_anywhere() {
    for count in [0, 1, 3, 40, 3000] {
        let content = one_bucket(entries(count, 60, 10));
        let bytes = write(SMALL, &content);
        let database = Database::open(&bytes[..]).unwrap();
        let bucket = database.bucket(b"bucket").unwrap().unwrap();
        let all = &content[&b"bucket".to_vec()];
        let between = all.keys().map(|key| [key.as_slice(), b"0"].concat());
        let places = all.keys().cloned().chain(between).chain([Vec::new(), b"z".to_vec()]);
        for place in places.step_by(1 + count / 100) {
            let mut walk = database.entries_from(&bucket, &place).unwrap();
            for expected in all.range(place..).take(40) {
                let found = walk.next().unwrap().map(|(key, value)| (key.to_vec(), value.to_vec()));
                assert_eq!(found, Some((expected.0.clone(), expected.1.clone())));
            }
        }
    }
}

/// `count` entries with keys and values of these lengths. Keys differ in their last bytes.
pub(crate) fn entries(count: usize, key_len: usize, value_len: usize) -> Entries {
    (0..count)
        .map(|i| {
            let mut key = vec![b'k'; key_len];
            key[key_len - 4..].copy_from_slice(&u32::try_from(i).unwrap().to_be_bytes());
            (key, vec![i.to_le_bytes()[0]; value_len])
        })
        .collect()
}

fn one_bucket(entries: Entries) -> Content {
    Content::from([(b"bucket".to_vec(), entries)])
}

/// Holds a file against what bbolt's own check and its later changes demand. Returns the most pages on a path.
fn assert_shape(bytes: &[u8]) -> usize {
    let database = Database::open(bytes).unwrap();
    let page_size = database.page_size();
    let page_bytes = page_size.bytes();
    let mut used = BTreeSet::from([0, 1, 2]);
    let mut depth_max = 0;
    let mut visit = |root: u64| {
        let mut stack = vec![(root, 1)];
        while let Some((id, depth)) = stack.pop() {
            depth_max = depth_max.max(depth);
            let at = usize::try_from(id).unwrap() * page_bytes;
            let header = PageHeader::decode(&bytes[at..]);
            for page in id..=id + u64::from(header.overflow) {
                assert!(used.insert(page), "page {page} is used twice");
            }
            if header.flags == FLAG_BRANCH {
                assert!(header.count >= 2, "page {id} has an only child");
                for element in 0..usize::from(header.count) {
                    let row = &bytes[at + 16 + element * 16..][..16];
                    stack.push((u64::from_le_bytes(row[8..].try_into().unwrap()), depth + 1));
                }
            }
        }
    };
    visit(database.root_page());
    let mut buckets = database.buckets();
    while let Some(bucket) = buckets.next().unwrap() {
        if let Some(root) = bucket.root_page() {
            visit(root);
        }
    }
    let pages = bytes.len() as u64 / page_bytes as u64;
    assert_eq!(bytes.len() % page_bytes, 0);
    assert!(used.into_iter().eq(0..pages), "a page is lost");
    depth_max
}

#[test]
fn an_empty_file_is_a_file() {
    let bytes = write(PageSize::DEFAULT, &Content::new());
    assert_eq!(bytes.len(), 4 * 4096, "metas, freelist, root");
    assert_eq!(read(&bytes).unwrap(), Content::new());
    assert_shape(&bytes);
}

#[test]
fn small_buckets_cost_no_page() {
    let mut content: Content =
        (0..10).map(|i| (format!("bucket {i}").into_bytes(), entries(i, 8, 8))).collect();
    let bytes = write(PageSize::DEFAULT, &content);
    assert_eq!(bytes.len(), 4 * 4096);
    assert_eq!(read(&bytes).unwrap(), content);

    // 16 for the page, 16 and 992 for the entry: exactly a quarter. One byte more takes a page.
    content = one_bucket(entries(1, 8, 984));
    assert_eq!(write(PageSize::DEFAULT, &content).len(), 4 * 4096);
    content = one_bucket(entries(1, 8, 985));
    assert_eq!(write(PageSize::DEFAULT, &content).len(), 5 * 4096);
}

/// Every number of entries, so that the right edge of the tree is met in every state.
#[test]
fn every_edge_of_a_tree_is_well_formed() {
    for (key_len, value_len, count_max) in
        [(17, 300, 600), (200, 700, 300), (400, 1000, 200), (900, 0, 150), (3000, 5000, 60)]
    {
        for count in (0..40).chain((40..count_max).step_by(7)) {
            let content = one_bucket(entries(count, key_len, value_len));
            let bytes = write(SMALL, &content);
            assert_shape(&bytes);
            assert!(read(&bytes).unwrap() == content, "{count} keys of {key_len} bytes");
        }
    }
}

#[test]
fn trees_get_deep_and_come_back() {
    let content = one_bucket(entries(5000, 300, 500));
    let bytes = write(SMALL, &content);
    assert!(assert_shape(&bytes) > 7);
    assert!(read(&bytes).unwrap() == content);

    let content: Content =
        (0..2000).map(|i| (format!("bucket {i:04}").into_bytes(), entries(i % 5, 9, 40))).collect();
    let bytes = write(SMALL, &content);
    assert!(assert_shape(&bytes) > 2, "the bucket tree has branches too");
    assert!(read(&bytes).unwrap() == content);
}

#[test]
fn the_longest_keys_and_long_values_fit() {
    let mut long = entries(20, KEY_LEN_MAX, 10);
    long.insert(vec![0xff], vec![7; 9 << 20]);
    long.insert(vec![0xff, 0xff], vec![8; 3]);
    let content = one_bucket(long);
    for page_size in [SMALL, PageSize::DEFAULT, PageSize::new(1 << 20).unwrap()] {
        let bytes = write(page_size, &content);
        assert_shape(&bytes);
        assert!(read(&bytes).unwrap() == content);
    }
}

/// A page counts its elements in 16 bits.
#[test]
fn the_largest_pages_are_not_overcounted() {
    let content = one_bucket(entries(70_000, 4, 0));
    let bytes = write(PageSize::new(16 << 20).unwrap(), &content);
    assert!(read(&bytes).unwrap() == content);
}

#[test]
fn pages_are_filled() {
    let payload = 20_000 * (17 + 256);
    let size = measure(PageSize::DEFAULT, &one_bucket(entries(20_000, 17, 256))).size_bytes();
    assert!(size < payload * 112 / 100, "{size} bytes for {payload}");
}

#[test]
fn what_bbolt_does_not_take_is_refused() {
    let mut writer = Writer::measuring(SMALL);
    assert!(matches!(writer.put(b"k", b"v"), Err(Error::NoBucket)));
    assert!(matches!(writer.bucket(b""), Err(Error::KeyEmpty)));
    writer.bucket(b"b").unwrap().put(b"k", b"v").unwrap();
    assert!(matches!(writer.put(b"k", b"v"), Err(Error::Order)));
    assert!(matches!(writer.put(b"j", b"v"), Err(Error::Order)));
    assert!(matches!(writer.put(b"", b"v"), Err(Error::KeyEmpty)));
    let long = vec![b'x'; KEY_LEN_MAX + 1];
    assert!(matches!(writer.put(&long, b""), Err(Error::KeyTooLong { len: 32_769 })));
    assert!(matches!(writer.bucket(b"b"), Err(Error::Order)));
    assert!(matches!(writer.bucket(b"a"), Err(Error::Order)));
    // None of this has left a trace.
    writer.put(b"l", b"v").unwrap();
    let expected = one_bucket([(b"k".to_vec(), b"v".to_vec())].into());
    assert_eq!(writer.finish().unwrap(), measure(SMALL, &expected));
}

#[test]
fn a_stream_is_never_longer_than_announced() {
    let layout = measure(SMALL, &one_bucket(entries(100, 17, 100)));
    let mut writer = Writer::streaming(Vec::new(), layout).unwrap();
    let error = fill(&mut writer, &one_bucket(entries(200, 17, 100))).unwrap_err();
    assert!(matches!(error, Error::Changed));
    assert!(matches!(writer.put(&[0xff; 20], b""), Err(Error::Broken)));
    assert!(matches!(writer.finish(), Err(Error::Broken)));

    let mut writer = Writer::streaming(Vec::new(), layout).unwrap();
    fill(&mut writer, &one_bucket(entries(50, 17, 100))).unwrap();
    assert!(matches!(writer.finish(), Err(Error::Changed)));
}

#[test]
fn a_file_may_start_anywhere_and_is_invalid_until_its_end() {
    let content = one_bucket(entries(2000, 17, 100));
    let older = write(SMALL, &content);
    let mut out = Cursor::new([vec![9; 100], older].concat());
    out.set_position(100);
    let mut writer = Writer::new(&mut out, SMALL).unwrap();
    fill(&mut writer, &content).unwrap();
    drop(writer);
    assert!(matches!(read(&out.get_ref()[100..]), Err(Fault::NoMeta)));

    out.set_position(100);
    let mut writer = Writer::new(out, SMALL).unwrap();
    fill(&mut writer, &content).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    assert_eq!(bytes[..100], [9; 100]);
    assert!(read(&bytes[100..]).unwrap() == content);
}

#[test]
fn buckets_are_found_by_name() {
    let content = Content::from([
        (b"alarm".to_vec(), Entries::new()),
        (b"key".to_vec(), entries(500, 17, 50)),
        (b"meta".to_vec(), entries(2, 17, 50)),
    ]);
    let bytes = write(SMALL, &content);
    let database = Database::open(bytes.as_slice()).unwrap();
    let bucket = database.bucket(b"key").unwrap().unwrap();
    let mut walk = database.entries(&bucket);
    let (key, value) = walk.next().unwrap().unwrap();
    let first = content[bucket.name()].first_key_value().unwrap();
    assert_eq!((key, value), (first.0.as_slice(), first.1.as_slice()));
    assert!(database.bucket(b"lease").unwrap().is_none());
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => vec(any::<u8>(), 1..24),
        3 => vec(0..3u8, 1..12),
        2 => (vec(any::<u8>(), 1..4), 1..1500usize).prop_map(|(tail, len)| {
            [vec![b'p'; len], tail].concat()
        }),
        1 => (vec(any::<u8>(), 4), Just(KEY_LEN_MAX - 4))
            .prop_map(|(tail, len)| [vec![b'p'; len], tail].concat()),
    ]
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => vec(any::<u8>(), 0..60),
        3 => (any::<u8>(), 900..1100usize).prop_map(|(byte, len)| vec![byte; len]),
        2 => (any::<u8>(), 4000..4200usize).prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), 0..40_000usize).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn any_content() -> impl Strategy<Value = Content> {
    btree_map(vec(any::<u8>(), 1..20), btree_map(any_key(), any_value(), 0..120), 0..5)
}

fn any_page_size() -> impl Strategy<Value = PageSize> {
    proptest::sample::select(vec![1024, 2048, 4096, 65_536])
        .prop_map(|bytes| PageSize::new(bytes).unwrap())
}

/// Some of everything: a bucket in line, one with branches, one with values that overflow.
pub(crate) fn sample() -> Content {
    Content::from([
        (b"inline".to_vec(), entries(3, 8, 5)),
        (b"large".to_vec(), entries(3, 8, 2500)),
        (b"tree".to_vec(), entries(40, 60, 60)),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn content_comes_back(content in any_content(), page_size in any_page_size()) {
        let bytes = write(page_size, &content);
        assert_shape(&bytes);
        prop_assert!(read(&bytes).unwrap() == content);
    }

    /// A file that was cut is an error; what is behind the pages does not matter.
    #[test]
    fn a_cut_file_is_an_error(cut in any::<proptest::sample::Index>(), more in vec(any::<u8>(), 0..99)) {
        let bytes = write(SMALL, &sample());
        prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
        prop_assert_eq!(read(&[bytes, more].concat()).unwrap(), sample());
    }

    #[test]
    fn damage_ends_in_an_error_or_in_order(
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = write(SMALL, &sample());
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // No panic, no endless walk, and keys in order as `read` asserts.
        let _ = read(&bytes);
    }

    #[test]
    fn garbage_is_an_error(bytes in vec(any::<u8>(), 0..5000)) {
        prop_assert!(read(&bytes).is_err());
    }
}

/// Every single bit. A damaged meta costs nothing, there are two; in the tables of pages the damage is noticed.
#[test]
fn a_flipped_bit_in_the_structure_is_noticed() {
    let content = sample();
    let mut bytes = write(SMALL, &content);
    let page_bytes = SMALL.bytes();
    let silent = silent_places(&bytes);
    let mut noticed = 0;
    for bit in 0..bytes.len() * 8 {
        let at = bit / 8;
        bytes[at] ^= 1 << (bit % 8);
        match read(&bytes) {
            Err(_) => {
                assert!(at >= 2 * page_bytes, "the other meta is good: byte {at}");
                noticed += 1;
            }
            Ok(found) => {
                assert!(
                    found == content || silent.contains(&at),
                    "bit {bit} of byte {at} is not noticed"
                );
            }
        }
        bytes[at] ^= 1 << (bit % 8);
    }
    assert!(noticed > 5000, "{noticed}");
}

/// The bytes whose damage cannot be seen: keys and values themselves; in the last element of a page the lengths, as
/// nothing follows that would be displaced, and the child, which has no bound above; the count of a root, which may be
/// zero.
fn silent_places(bytes: &[u8]) -> BTreeSet<usize> {
    let database = Database::open(bytes).unwrap();
    let page_bytes = SMALL.bytes();
    let mut roots = vec![database.root_page()];
    let mut buckets = database.buckets();
    while let Some(bucket) = buckets.next().unwrap() {
        roots.extend(bucket.root_page());
    }
    let mut places = BTreeSet::new();
    let mut id = 3;
    while id * page_bytes < bytes.len() {
        let at = id * page_bytes;
        let header = PageHeader::decode(&bytes[at..]);
        let run = usize::try_from(header.overflow).unwrap() + 1;
        let table_end = at + 16 + usize::from(header.count) * 16;
        places.extend(table_end..at + run * page_bytes);
        let last = if header.flags == FLAG_BRANCH { 4..16 } else { 8..16 };
        places.extend(last.map(|byte| table_end - 16 + byte));
        if roots.contains(&(id as u64)) {
            places.extend(at + 10..at + 12);
        }
        id += run;
    }
    places
}
