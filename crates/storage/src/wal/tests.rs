//! The log as a whole, on a simulated disk: what was acknowledged is there, what is read was written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use retcd_api::raftpb::{ConfState, Entry, EntryType, HardState};
use retcd_api::walpb;

use super::*;
use crate::fs::sim::{Faults, Tear};
use crate::fs::{Access, Fs, RealFs, SimFs, read_all};

const DIR: &str = "/data/member/wal";
const METADATA: &[u8] = b"who wrote this";

#[test]
fn what_was_flushed_is_read_back() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 4096);
    let state = HardState { term: 1, vote: 7, commit: 2 };
    append(&mut wal, Some(&state), &entries(1..4, 1));
    assert_eq!(wal.last_index(), 3);
    drop(wal);

    let (wal, replayed) = open(&fs, 0, 4096).unwrap();
    assert_eq!(replayed.metadata, METADATA);
    assert_eq!(replayed.hard_state, state);
    assert_eq!(replayed.entries, entries(1..4, 1));
    assert_eq!(replayed.torn_tail, None);
    assert_eq!((wal.last_index(), wal.metadata().as_ref()), (3, METADATA));
}

#[test]
fn what_was_not_flushed_is_not_written() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 4096);
    wal.append(None, entries(1..4, 1).iter().map(EntryRef::from)).unwrap();
    drop(wal);
    assert_eq!(open(&fs, 0, 4096).unwrap().1.entries, []);
}

#[test]
fn a_log_is_not_created_twice_nor_opened_when_absent() {
    let fs = SimFs::new(1);
    assert!(!exists(&fs, Path::new(DIR)));
    assert!(matches!(open(&fs, 0, 4096), Err(Error::NotFound { .. })));
    drop(create(&fs, 4096));
    assert!(exists(&fs, Path::new(DIR)));
    let again = Wal::create(Arc::new(fs), Path::new(DIR), METADATA, options(4096));
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
}

#[test]
fn a_log_is_written_by_one_at_a_time() {
    let fs = SimFs::new(1);
    let wal = create(&fs, 4096);
    assert!(matches!(open(&fs, 0, 4096), Err(Error::Locked { .. })));
    assert!(read(&fs, Path::new(DIR), &snapshot(0, 0)).is_ok(), "reading needs no lock");
    drop(wal);
    assert!(open(&fs, 0, 4096).is_ok());
}

#[test]
fn a_full_segment_is_followed_by_the_next() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 1024);
    let state = HardState { term: 3, vote: 1, commit: 0 };
    append(&mut wal, Some(&state), &[]);
    for index in 1..=100 {
        append(&mut wal, None, &entries(index..index + 1, 3));
    }
    let names = segments(&fs);
    assert!(names.len() > 4, "{names:?}");
    for (sequence, name) in names.iter().enumerate() {
        assert_eq!(name.sequence, sequence as u64);
        let size = file_bytes(&fs, &path_of(name)).len();
        assert!(size >= 1024, "full, or filled up with zeros: {size}");
    }
    drop(wal);
    let (wal, replayed) = open(&fs, 0, 1024).unwrap();
    assert_eq!(replayed.entries, entries(1..101, 3));
    assert_eq!(replayed.hard_state, state, "every segment repeats it");
    assert_eq!(wal.last_index(), 100);
}

#[test]
fn a_log_goes_on_after_each_restart() {
    let fs = SimFs::new(1);
    drop(create(&fs, 700));
    for round in 0..20 {
        let (mut wal, replayed) = open(&fs, 0, 700).unwrap();
        let first = 1 + round * 3;
        assert_eq!(replayed.entries, entries(1..first, 1));
        append(&mut wal, None, &entries(first..first + 3, 1));
        drop(wal);
        fs.restart_process();
    }
}

#[test]
fn a_start_behind_a_snapshot_reads_only_from_the_segment_it_needs() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 512);
    append(&mut wal, Some(&HardState { term: 1, vote: 1, commit: 60 }), &[]);
    for index in 1..=60 {
        append(&mut wal, None, &entries(index..index + 1, 1));
    }
    wal.save_snapshot(&snapshot(50, 1)).unwrap();
    append(&mut wal, None, &entries(61..70, 1));
    wal.release_to(50);
    let before = segments(&fs);
    let needed = before.iter().rposition(|name| name.first_index < 50).unwrap();
    assert!(needed > 2, "{before:?}");
    assert_eq!(purge(&fs, Path::new(DIR), 0).unwrap(), Vec::<String>::new());
    let removed = purge(&fs, Path::new(DIR), 1).unwrap();
    assert_eq!(removed.len(), needed, "the rest is locked");
    assert_eq!(segments(&fs), before[needed..]);
    drop(wal);

    assert!(matches!(open(&fs, 0, 1024), Err(Error::SnapshotNotFound { .. })));
    assert!(matches!(
        open_at(&fs, &snapshot(51, 1)),
        Err(Error::SnapshotNotFound { index: 51, .. })
    ));
    assert!(matches!(
        open_at(&fs, &snapshot(50, 2)),
        Err(Error::SnapshotMismatch { found: 1, .. })
    ));
    let (_, replayed) = open_at(&fs, &snapshot(50, 1)).unwrap();
    assert_eq!(replayed.entries, entries(51..70, 1));
}

#[test]
fn only_snapshots_that_are_committed_are_valid() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 4096);
    append(&mut wal, Some(&HardState { term: 1, vote: 1, commit: 2 }), &entries(1..5, 1));
    wal.save_snapshot(&snapshot(2, 1)).unwrap();
    wal.save_snapshot(&snapshot(4, 1)).unwrap();
    let valid = |fs: &SimFs| -> Vec<u64> {
        let valid = valid_snapshots(fs, Path::new(DIR)).unwrap();
        valid.iter().map(|snapshot| snapshot.index).collect()
    };
    assert_eq!(valid(&fs), [0, 2]);
    append(&mut wal, Some(&HardState { term: 1, vote: 1, commit: 4 }), &[]);
    assert_eq!(valid(&fs), [0, 2, 4]);
    let without = walpb::Snapshot { index: 9, term: 1, conf_state: None };
    assert!(matches!(
        wal.save_snapshot(&without),
        Err(Error::SnapshotWithoutConfState { index: 9 })
    ));
    append(&mut wal, None, &entries(5..6, 1));
}

#[test]
fn a_later_entry_of_the_same_index_replaces_all_from_there() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 4096);
    append(&mut wal, None, &entries(1..9, 1));
    append(&mut wal, None, &entries(4..6, 2));
    drop(wal);
    let expected = [entries(1..4, 1), entries(4..6, 2)].concat();
    assert_eq!(open(&fs, 0, 4096).unwrap().1.entries, expected);
}

#[test]
fn a_snapshot_of_another_member_replaces_the_entries_behind_it() {
    for (term, expected) in [(1, entries(4..6, 1)), (2, Vec::new())] {
        let fs = SimFs::new(1);
        let mut wal = create(&fs, 4096);
        append(&mut wal, Some(&HardState { term: 1, vote: 7, commit: 0 }), &entries(1..6, 1));
        wal.save_snapshot(&snapshot(3, term)).unwrap();
        append(&mut wal, Some(&HardState { term: 2, vote: 7, commit: 3 }), &[]);
        drop(wal);
        let replayed = read(&fs, Path::new(DIR), &snapshot(3, term)).unwrap();
        assert_eq!(replayed.entries, expected, "of term {term}");
    }
}

#[test]
fn an_entry_before_the_snapshot_replaces_those_behind_it() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 4096);
    append(&mut wal, Some(&HardState { term: 1, vote: 7, commit: 1 }), &entries(1..6, 1));
    append(&mut wal, Some(&HardState { term: 2, vote: 0, commit: 3 }), &entries(2..4, 2));
    wal.save_snapshot(&snapshot(3, 2)).unwrap();
    drop(wal);
    let replayed = read(&fs, Path::new(DIR), &snapshot(3, 2)).unwrap();
    assert_eq!(replayed.entries, []);
}

#[test]
fn entries_that_cannot_follow_each_other_are_refused() {
    for (second, reason) in [(5..6, "entry 5 follows entry 3"), (3..4, "has term 1")] {
        let fs = SimFs::new(1);
        let mut wal = create(&fs, 4096);
        append(&mut wal, None, &entries(1..4, 2));
        append(&mut wal, None, &entries(second, 1));
        drop(wal);
        let error = open(&fs, 0, 4096).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("0000000000000000-0000000000000000.wal"), "{error}");
    }
}

#[test]
fn a_missing_segment_is_noticed() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 512);
    for index in 1..40 {
        append(&mut wal, None, &entries(index..index + 1, 1));
    }
    drop(wal);
    let names = segments(&fs);
    fs.remove(&path_of(&names[1])).unwrap();
    assert!(matches!(open(&fs, 0, 512), Err(Error::MissingSegment { sequence: 1, .. })));
}

#[test]
fn a_segment_of_another_log_is_noticed() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 512);
    for index in 1..40 {
        append(&mut wal, None, &entries(index..index + 1, 1));
    }
    drop(wal);
    let names = segments(&fs);
    let other = file_bytes(&fs, &path_of(&names[2]));
    let file = fs.open(&path_of(&names[1]), Access::Replace).unwrap();
    file.write_at(&other, 0).unwrap();
    let error = open(&fs, 0, 512).unwrap_err();
    assert!(matches!(error, Error::Damaged { offset: 0, .. }), "{error}");
}

#[test]
fn after_a_failure_the_log_refuses_all_use() {
    let faults = [
        Faults { sync_error_per_million: 1_000_000, ..Faults::default() },
        Faults { write_error_per_million: 1_000_000, ..Faults::default() },
        Faults { no_space_per_million: 1_000_000, ..Faults::default() },
    ];
    for fault in faults {
        let fs = SimFs::new(1);
        let mut wal = create(&fs, 4096);
        wal.append(None, entries(1..2, 1).iter().map(EntryRef::from)).unwrap();
        fs.set_faults(fault);
        let error = wal.flush(true).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains(".wal at offset"), "{error}");
        fs.set_faults(Faults::default());
        assert!(matches!(wal.flush(true), Err(Error::Poisoned { .. })));
        assert!(matches!(wal.append(None, std::iter::empty()), Err(Error::Poisoned { .. })));
        assert!(matches!(wal.save_snapshot(&snapshot(0, 0)), Err(Error::Poisoned { .. })));
    }
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let fs = SimFs::new(1);
    let change = Entry { r#type: EntryType::EntryConfChange.into(), ..entry(2, 1, Vec::new()) };
    for refused in [entry(2, 0, vec![1]), change] {
        let mut wal = open_or_create(&fs);
        let written = wal.append(None, [EntryRef::from(&refused)].into_iter());
        assert!(matches!(written, Err(Error::Unwritable { .. })));
        assert!(matches!(wal.flush(true), Err(Error::Poisoned { .. })));
    }
    let mut wal = open_or_create(&fs);
    let state = HardState { term: 0, vote: 0, commit: 3 };
    let written = wal.append(Some(&state), std::iter::empty());
    assert!(matches!(written, Err(Error::Unwritable { .. })));
}

fn open_or_create(fs: &SimFs) -> Wal {
    if exists(fs, Path::new(DIR)) { open(fs, 0, 4096).unwrap().0 } else { create(fs, 4096) }
}

#[test]
fn files_and_directory_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("member/wal");
    let wal = Wal::create(Arc::new(RealFs), &dir, METADATA, options(4096)).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(wal.dir()), 0o700);
    assert_eq!(mode(&dir.join("0000000000000000-0000000000000000.wal")), 0o600);
}

#[test]
fn a_log_cut_at_any_byte_of_its_last_record_is_repaired() {
    let (fs, path, start, end) = log_of_three();
    let image = file_bytes(&fs, &path);
    for cut in start..end {
        replace(&fs, &path, &image[..cut]);
        let (_, replayed) = open(&fs, 0, 4096).unwrap();
        assert_eq!(replayed.entries, entries(1..3, 1), "cut at {cut}");
        let is_torn = cut > start;
        let expected = is_torn.then(|| Tail { file: path.clone(), offset: start as u64 });
        assert_eq!(replayed.torn_tail, expected);
        let broken = PathBuf::from(format!("{}.broken", path.display()));
        if is_torn {
            assert_eq!(file_bytes(&fs, &broken), image[..cut], "a copy is kept");
            fs.remove(&broken).unwrap();
        }
        let repaired = file_bytes(&fs, &path);
        assert_eq!(repaired.len(), 4096);
        assert!(repaired[start..].iter().all(|byte| *byte == 0));
        assert_eq!(open(&fs, 0, 4096).unwrap().1.torn_tail, None, "once");
    }
}

#[test]
fn zeros_from_any_byte_of_the_last_record_on_give_a_prefix_or_an_error() {
    let (fs, path, start, end) = log_of_three();
    let image = file_bytes(&fs, &path);
    for cut in start..end {
        let mut torn = image.clone();
        torn[cut..].fill(0);
        replace(&fs, &path, &torn);
        check_prefix_or_error(&fs, &entries(1..4, 1), 4096);
    }
}

#[test]
fn a_sector_that_never_reached_the_disk_is_a_torn_tail() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 16_384);
    append(&mut wal, None, &entries(1..3, 1));
    let large = entry(3, 1, vec![9; 3000]);
    append(&mut wal, None, &[large]);
    drop(wal);
    let path = path_of(&segments(&fs)[0]);
    let image = file_bytes(&fs, &path);
    let mut torn = image.clone();
    torn[1024..1536].fill(0);
    replace(&fs, &path, &torn);
    let (_, replayed) = open(&fs, 0, 16_384).unwrap();
    assert_eq!(replayed.entries, entries(1..3, 1));
    assert!(replayed.torn_tail.is_some());

    let mut damaged = image;
    damaged[1024..1100].fill(0);
    replace(&fs, &path, &damaged);
    let error = open(&fs, 0, 16_384).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn zeros_that_end_a_value_do_not_make_damage_a_torn_tail() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 16_384);
    append(&mut wal, None, &entries(1..3, 1));
    let mut data = vec![9; 100];
    data.extend_from_slice(&[0; 400]);
    append(&mut wal, None, &[entry(3, 1, data)]);
    append(&mut wal, None, &entries(4..5, 1));
    drop(wal);
    let path = path_of(&segments(&fs)[0]);
    let image = file_bytes(&fs, &path);
    let nines = image.windows(50).position(|bytes| bytes == [9; 50]).unwrap();
    assert!(fs.flip(&path, nines, 1));
    let error = open(&fs, 0, 16_384).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn damage_before_the_last_segment_is_never_repaired() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 512);
    for index in 1..60 {
        append(&mut wal, None, &entries(index..index + 1, 1));
    }
    drop(wal);
    let names = segments(&fs);
    assert!(names.len() > 2);
    let path = path_of(&names[0]);
    let image = file_bytes(&fs, &path);
    replace(&fs, &path, &image[..image.len() - 3]);
    let error = open(&fs, 0, 512).unwrap_err();
    assert!(matches!(&error, Error::Damaged { file, .. } if *file == path), "{error}");
    replace(&fs, &path, &image[..image.len() - 64]);
    let error = open(&fs, 0, 512).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "a whole record less: {error}");
}

#[test]
fn a_damaged_length_is_not_a_torn_tail() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 65_536);
    append(&mut wal, None, &entries(1..2, 1));
    let start = used_bytes(&fs, &path_of(&segments(&fs)[0]));
    append(&mut wal, None, &entries(2..9, 1));
    drop(wal);
    let path = path_of(&segments(&fs)[0]);
    for bit in 0..56 {
        assert!(fs.flip(&path, start + bit / 8, 1 << (bit % 8)));
        let error = open(&fs, 0, 65_536).unwrap_err();
        assert!(
            matches!(error, Error::Damaged { offset, .. } if offset == start as u64),
            "bit {bit}: {error}"
        );
        assert!(fs.flip(&path, start + bit / 8, 1 << (bit % 8)));
    }
    assert_eq!(open(&fs, 0, 65_536).unwrap().1.entries, entries(1..9, 1));
}

#[test]
fn the_next_segment_is_prepared_by_a_thread() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, prepares_in_background: true };
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let mut wal = Wal::create(Arc::clone(&fs), dir.path(), METADATA, options).unwrap();
    for index in 1..=300 {
        append(&mut wal, None, &[entry(index, 1, vec![5; 20_000])]);
    }
    let names = fs.list(dir.path()).unwrap();
    assert_eq!(names.iter().filter_map(|name| SegmentName::parse(name)).count(), 6, "{names:?}");
    drop(wal);
    let names = fs.list(dir.path()).unwrap();
    assert!(
        names.iter().all(|name| SegmentName::parse(name).is_some()),
        "what is not used is removed: {names:?}"
    );
    let (_, replayed) = Wal::open(fs, dir.path(), &snapshot(0, 0), options).unwrap();
    assert_eq!(replayed.entries.len(), 300);
    assert!(replayed.entries.iter().all(|entry| entry.data == vec![5; 20_000]));
}

#[test]
fn what_stands_behind_the_last_record_is_zeroed() {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 4096);
    append(&mut wal, None, &entries(1..3, 1));
    drop(wal);
    let path = path_of(&segments(&fs)[0]);
    let mut image = file_bytes(&fs, &path);
    image[3000..3100].fill(0xff);
    replace(&fs, &path, &image);
    drop(open(&fs, 0, 4096).unwrap());
    assert!(file_bytes(&fs, &path)[3000..].iter().all(|byte| *byte == 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whatever bit flips: all that was written is read, or the error names file and offset. (But when a length becomes
    /// zero, which is what ends a log: then a prefix.)
    #[test]
    fn a_flipped_bit_never_gives_a_wrong_entry(at in any::<prop::sample::Index>(), bit in 0..8) {
        let fs = SimFs::new(1);
        let written = varied_log(&fs);
        let names = segments(&fs);
        let sizes: Vec<usize> = names.iter().map(|name| used_bytes(&fs, &path_of(name))).collect();
        let mut offset = at.index(sizes.iter().sum());
        let mut file = 0;
        while offset >= sizes[file] {
            offset -= sizes[file];
            file += 1;
        }
        let path = path_of(&names[file]);
        prop_assert!(fs.flip(&path, offset, 1_u8 << bit));
        let word = offset / 8 * 8;
        let is_zero = file_bytes(&fs, &path)[word..word + 8] == [0; 8];
        let read = check_prefix_or_error(&fs, &written, 2048);
        prop_assert!(is_zero || read.is_none_or(|count| count == written.len()), "{read:?}");
    }
}

#[test]
fn a_crash_at_any_step_loses_nothing_that_was_acknowledged() {
    crash_at_every_step(Tear::Sector);
}

#[test]
fn a_disk_that_tears_within_sectors_gives_what_was_acknowledged_or_an_error() {
    crash_at_every_step(Tear::Byte);
}

#[test]
fn random_faults_never_lose_what_was_acknowledged() {
    for seed in 0..300 {
        let fs = SimFs::new(seed);
        let mut wal = create(&fs, 1024);
        fs.set_faults(Faults {
            no_space_per_million: 20_000,
            write_error_per_million: 20_000,
            sync_error_per_million: 20_000,
        });
        let mut acknowledged = 0;
        while acknowledged < 200 {
            let next = entries(acknowledged + 1..acknowledged + 2, 1);
            wal.append(None, next.iter().map(EntryRef::from)).unwrap();
            if wal.flush(true).is_err() {
                break;
            }
            acknowledged += 1;
        }
        drop(wal);
        fs.set_faults(Faults::default());
        fs.crash();
        let (_, replayed) = open(&fs, 0, 1024).unwrap();
        let read = replayed.entries;
        assert!(read.len() as u64 >= acknowledged, "seed {seed}: {} < {acknowledged}", read.len());
        assert_eq!(read, entries(1..read.len() as u64 + 1, 1), "seed {seed}");
    }
}

/// Runs one history again and again, stopping the machine in each of its steps, and reads what is left; then goes on
/// from there and reads again.
fn crash_at_every_step(tear: Tear) {
    let fs = SimFs::new(0);
    let total = history(&fs, &mut 0).map(|()| fs.operations()).unwrap();
    assert!(total > 100, "{total}");
    let mut recovered = 0;
    for step in 0..total {
        for seed in 0..8 {
            let fs = SimFs::new(seed * 10_007 + step);
            fs.set_tear(tear);
            fs.stop_at(step);
            let mut acknowledged = 0;
            history(&fs, &mut acknowledged).unwrap_err();
            fs.crash();
            let context = format!("step {step} seed {seed}");
            if acknowledged == 0 && !exists(&fs, Path::new(DIR)) {
                continue;
            }
            let (mut wal, replayed) = match open(&fs, 0, 1024) {
                Ok(opened) => opened,
                Err(Error::Damaged { .. }) if tear == Tear::Byte => continue,
                Err(error) => panic!("{context}: {error}"),
            };
            recovered += 1;
            let read = replayed.entries;
            let last = read.len() as u64;
            assert!(last >= acknowledged, "{context}: {last} < {acknowledged}");
            assert_eq!(read, entries(1..last + 1, 1), "{context}");
            append(&mut wal, None, &entries(last + 1..last + 4, 1));
            drop(wal);
            fs.crash();
            let read = open(&fs, 0, 1024).unwrap().1.entries;
            assert_eq!(read, entries(1..last + 4, 1), "{context}");
        }
    }
    assert!(recovered > total, "{recovered}");
}

/// Batches of one to five entries, some without a sync, over several segments.
fn history(fs: &SimFs, acknowledged: &mut u64) -> Result<(), Error> {
    let mut wal = Wal::create(Arc::new(fs.clone()), Path::new(DIR), METADATA, options(1024))?;
    let mut next = 1;
    for batch in 0..40 {
        let count = 1 + batch % 5;
        let state = HardState { term: 1, vote: 1, commit: next - 1 };
        let batch_entries = entries(next..next + count, 1);
        wal.append(Some(&state), batch_entries.iter().map(EntryRef::from))?;
        next += count;
        let sync = batch % 3 != 1;
        wal.flush(sync)?;
        if sync {
            *acknowledged = next - 1;
        }
    }
    Ok(())
}

/// Returns how many entries were read; `None` for an error.
fn check_prefix_or_error(fs: &SimFs, written: &[Entry], segment_bytes: u64) -> Option<usize> {
    match open(fs, 0, segment_bytes) {
        Ok((_, replayed)) => {
            assert!(written.starts_with(&replayed.entries), "{:?}", replayed.entries);
            assert_eq!(replayed.metadata, METADATA);
            assert!(replayed.hard_state.term <= 9 && replayed.hard_state.vote <= 3);
            return Some(replayed.entries.len());
        }
        Err(Error::Damaged { file, offset, .. }) => {
            assert!(offset <= file_bytes(fs, &file).len() as u64);
        }
        Err(Error::SnapshotNotFound { dir, index: 0 }) => assert_eq!(dir, Path::new(DIR)),
        Err(Error::SnapshotMismatch { file, .. }) => assert!(file.starts_with(DIR)),
        Err(error) => panic!("{error}"),
    }
    None
}

/// Entries of all kinds and sizes, states and a snapshot, over several segments.
fn varied_log(fs: &SimFs) -> Vec<Entry> {
    let mut wal = create(fs, 2048);
    let mut written = Vec::new();
    for index in 1..60 {
        let term = 1 + index / 8;
        let len = usize::try_from(index * 37 % 301).unwrap();
        let mut entry =
            entry(index, term, (0..len).map(|i| 1 + u8::try_from(i * 7 % 251).unwrap()).collect());
        if index % 11 == 3 {
            entry.r#type = EntryType::EntryConfChange.into();
        }
        if index % 8 == 0 {
            entry.data = Bytes::new();
            entry.r#type = EntryType::EntryNormal.into();
        }
        let state = HardState { term, vote: 1 + term % 3, commit: index - 1 };
        append(&mut wal, (index % 4 == 0).then_some(&state), std::slice::from_ref(&entry));
        written.push(entry);
    }
    wal.save_snapshot(&snapshot(20, 3)).unwrap();
    written
}

fn log_of_three() -> (SimFs, PathBuf, usize, usize) {
    let fs = SimFs::new(1);
    let mut wal = create(&fs, 4096);
    append(&mut wal, None, &entries(1..3, 1));
    let path = path_of(&segments(&fs)[0]);
    let start = used_bytes(&fs, &path);
    append(&mut wal, None, &[entry(3, 1, vec![0xab; 700])]);
    let end = used_bytes(&fs, &path);
    drop(wal);
    (fs, path, start, end)
}

fn options(segment_bytes: u64) -> Options {
    Options { segment_bytes, prepares_in_background: false }
}

fn create(fs: &SimFs, segment_bytes: u64) -> Wal {
    let fs = Arc::new(fs.clone());
    Wal::create(fs, Path::new(DIR), METADATA, options(segment_bytes)).unwrap()
}

fn open(fs: &SimFs, index: u64, segment_bytes: u64) -> Result<(Wal, Replayed), Error> {
    let fs = Arc::new(fs.clone());
    Wal::open(fs, Path::new(DIR), &snapshot(index, 0), options(segment_bytes))
}

fn open_at(fs: &SimFs, from: &walpb::Snapshot) -> Result<(Wal, Replayed), Error> {
    Wal::open(Arc::new(fs.clone()), Path::new(DIR), from, options(1024))
}

fn append(wal: &mut Wal, state: Option<&HardState>, entries: &[Entry]) {
    wal.append(state, entries.iter().map(EntryRef::from)).unwrap();
    wal.flush(true).unwrap();
}

fn entries(indexes: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    indexes.map(|index| entry(index, term, format!("data of {index}").into_bytes())).collect()
}

fn entry(index: u64, term: u64, data: Vec<u8>) -> Entry {
    Entry { term, index, r#type: EntryType::EntryNormal.into(), data: data.into() }
}

fn snapshot(index: u64, term: u64) -> walpb::Snapshot {
    let conf_state = ConfState { voters: vec![1, 2], ..ConfState::default() };
    walpb::Snapshot { index, term, conf_state: (index > 0).then_some(conf_state) }
}

fn segments(fs: &SimFs) -> Vec<SegmentName> {
    let names = fs.list(Path::new(DIR)).unwrap();
    names.iter().filter_map(|name| SegmentName::parse(name)).collect()
}

fn path_of(name: &SegmentName) -> PathBuf {
    Path::new(DIR).join(name.to_string())
}

fn file_bytes(fs: &SimFs, path: &Path) -> Vec<u8> {
    read_all(fs.open(path, Access::Read).unwrap().as_ref()).unwrap()
}

/// Bytes up to the last one that is not zero, in whole frames.
fn used_bytes(fs: &SimFs, path: &Path) -> usize {
    let bytes = file_bytes(fs, path);
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    used.next_multiple_of(8)
}

fn replace(fs: &SimFs, path: &Path, bytes: &[u8]) {
    let file = fs.open(path, Access::Replace).unwrap();
    file.write_at(bytes, 0).unwrap();
}
