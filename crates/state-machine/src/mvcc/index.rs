//! The key index: for each key its newest version, and where the older ones are.
//!
//! The index is rebuilt from the backend at start and never written, so its shape may change freely. A deleted key
//! stays as an entry that does not count, until compaction drops the tombstone.

use std::collections::VecDeque;

use retcd_btree::{BTree, Weight};

use super::Revision;
use crate::backend::Encoded;

/// All keys. Only live ones are counted.
pub(crate) type Index = BTree<Entry>;

/// One version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) main: i64,
    pub(crate) sub: u32,
    /// Bytes of the encoded record; 0 for a tombstone.
    put_bytes: u32,
}

impl Version {
    /// `record_bytes`: the size of the encoded record, which in a put is never empty.
    pub(crate) fn new(revision: Revision, is_tombstone: bool, record_bytes: usize) -> Self {
        let sub = u32::try_from(revision.sub).expect("a request makes fewer than 2^32 changes");
        let record_bytes = u32::try_from(record_bytes).expect("a message is smaller than 4 GiB");
        let put_bytes = if is_tombstone { 0 } else { record_bytes.max(1) };
        Version { main: revision.main, sub, put_bytes }
    }

    pub(crate) fn is_tombstone(self) -> bool {
        self.put_bytes == 0
    }

    /// Bytes of the record; 0 for a tombstone.
    pub(crate) fn put_bytes(self) -> u64 {
        u64::from(self.put_bytes)
    }

    pub(crate) fn revision(self) -> Revision {
        Revision::new(self.main, i64::from(self.sub))
    }

    /// The lowest revision above this one.
    pub(crate) fn next(self) -> Revision {
        Revision::new(self.main, i64::from(self.sub) + 1)
    }
}

/// What the index holds of one key.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) newest: Version,
    /// Main revision in which the key was created; 0 for a tombstone.
    pub(crate) create: i64,
    /// Puts since then; 0 for a tombstone.
    pub(crate) version: i64,
    /// The encoded newest value. `None`: a tombstone, or on disk only.
    pub(crate) value: Option<Encoded>,
    extra: Option<Box<Extra>>,
}

/// What most keys do not have.
#[derive(Debug, Default)]
struct Extra {
    lease: i64,
    /// Versions before the newest one that compaction has not dropped, ascending. There may be millions between two
    /// compactions; those are dropped one by one from the front.
    older: VecDeque<Version>,
}

/// What an entry has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// It did not have the version.
    Nothing,
    One,
    /// All of it is to go: its newest version was the one.
    Last,
}

impl Weight for Entry {
    fn is_live(&self) -> bool {
        !self.newest.is_tombstone()
    }
}

impl Entry {
    pub(crate) fn new(newest: Version, create: i64, version: i64, value: Option<Encoded>) -> Self {
        Entry { newest, create, version, value, extra: None }
    }

    pub(crate) fn is_live(&self) -> bool {
        !self.newest.is_tombstone()
    }

    pub(crate) fn lease(&self) -> i64 {
        self.extra.as_ref().map_or(0, |extra| extra.lease)
    }

    pub(crate) fn set_lease(&mut self, lease: i64) {
        if lease != 0 || self.extra.is_some() {
            self.extra.get_or_insert_default().lease = lease;
        }
    }

    /// Bytes of the cached value.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, |value| value.len())
    }

    /// Makes `version` the newest one. The caller sets what goes with it.
    pub(crate) fn supersede(&mut self, version: Version) {
        assert!(self.newest.revision() < version.revision(), "revisions of a key grow");
        self.extra.get_or_insert_default().older.push_back(self.newest);
        self.newest = version;
    }

    /// The version that a read at main revision `at` sees, be it a tombstone.
    pub(crate) fn at(&self, at: i64) -> Option<Version> {
        if self.newest.main <= at {
            return Some(self.newest);
        }
        let older = &self.extra.as_ref()?.older;
        let count = older.partition_point(|version| version.main <= at);
        older.get(count.checked_sub(1)?).copied()
    }

    /// Whether a compaction at main revision `compacted` keeps this version of the key.
    ///
    /// The newest version at or below it stays, since a read there must still find it; a tombstone stays only when
    /// it stands exactly there, for watchers that begin at the compaction.
    pub(crate) fn survives(&self, version: Version, compacted: i64) -> bool {
        if version.main > compacted {
            return true;
        }
        if version.is_tombstone() {
            version.main == compacted
        } else {
            self.at(compacted) == Some(version)
        }
    }

    /// Forgets an older version. The newest one stays, for the caller to remove the entry.
    pub(crate) fn forget(&mut self, version: Version) -> Forgotten {
        if self.newest == version {
            return Forgotten::Last;
        }
        let mut forgotten = Forgotten::Nothing;
        if let Some(extra) = &mut self.extra {
            let older = &mut extra.older;
            let position = older.partition_point(|older| older.revision() < version.revision());
            if older.get(position) == Some(&version) {
                older.remove(position);
                forgotten = Forgotten::One;
            }
            if older.len() * 4 < older.capacity() {
                older.shrink_to(older.len() * 2);
            }
            if older.is_empty() && extra.lease == 0 {
                self.extra = None;
            }
        }
        forgotten
    }

    /// Takes in a version that was read from the backend, in revision order.
    pub(crate) fn restore(&mut self, version: Version, create: i64, number: i64, lease: i64) {
        self.supersede(version);
        self.create = create;
        self.version = number;
        self.set_lease(lease);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(main: i64, is_tombstone: bool) -> Version {
        Version::new(Revision::new(main, 0), is_tombstone, 7)
    }

    /// put@2 put@4 delete@5 put@8
    fn entry() -> Entry {
        let mut entry = Entry::new(version(2, false), 2, 1, None);
        entry.restore(version(4, false), 2, 2, 0);
        entry.restore(version(5, true), 0, 0, 0);
        entry.restore(version(8, false), 8, 1, 0);
        entry
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 56, "{} bytes", size_of::<Entry>());
    }

    #[test]
    fn a_read_sees_the_newest_version_at_its_revision() {
        let entry = entry();
        let seen: Vec<_> = (1..=9).map(|at| entry.at(at).map(|version| version.main)).collect();
        assert_eq!(
            seen,
            [None, Some(2), Some(2), Some(4), Some(5), Some(5), Some(5), Some(8), Some(8)]
        );
    }

    #[test]
    fn compaction_keeps_what_reads_at_its_revision_need() {
        let entry = entry();
        let kept = |compacted| {
            let all = [version(2, false), version(4, false), version(5, true), version(8, false)];
            all.into_iter()
                .filter(|v| entry.survives(*v, compacted))
                .map(|v| v.main)
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(1), [2, 4, 5, 8]);
        assert_eq!(kept(3), [2, 4, 5, 8]);
        assert_eq!(kept(4), [4, 5, 8]);
        assert_eq!(kept(5), [5, 8]);
        assert_eq!(kept(6), [8]);
        assert_eq!(kept(9), [8]);
    }

    #[test]
    fn many_versions_are_forgotten_one_by_one() {
        let mut entry = Entry::new(version(2, false), 2, 1, None);
        (3..300_000).for_each(|main| entry.restore(version(main, false), 2, 1, 0));
        for main in 2..299_999 {
            assert_eq!(entry.at(main), Some(version(main, false)));
            assert!(
                !entry.survives(version(main, false), 299_999)
                    && entry.forget(version(main, false)) == Forgotten::One
            );
        }
        assert!(entry.extra.is_none());
    }

    #[test]
    fn forgetting_the_newest_version_ends_the_entry() {
        let mut entry = entry();
        assert_eq!(entry.forget(version(4, false)), Forgotten::One);
        assert_eq!(entry.forget(version(4, false)), Forgotten::Nothing);
        assert_eq!(entry.at(4).map(|version| version.main), Some(2));
        assert_eq!(entry.forget(version(2, false)), Forgotten::One);
        assert_eq!(entry.forget(version(5, true)), Forgotten::One);
        assert!(entry.extra.is_none());
        assert_eq!(entry.forget(version(8, false)), Forgotten::Last);
    }
}
