//! The state out of a backend.
//!
//! Records are read in revision order, but the index wants keys in key order. So the scan gathers rows, which are
//! sorted by key and then folded, key by key, into entries. The sort compares eight bytes behind what all keys have
//! in common, and whole keys only when those are equal.
//!
//! With many records, the older half of the revisions and the newer one are read at the same time, and halves of the rows
//! are sorted at the same time: a start has all cores to itself. What comes out is the same.

use std::ops::ControlFlow;
use std::sync::Arc;

use prost::Message;
use retcd_api::etcdserverpb::AlarmMember;
use retcd_api::leasepb;

use crate::alarm::Alarms;
use crate::auth::Auth;
use crate::backend::{Backend, Failure};
use crate::cluster::Cluster;
use crate::flush::Pending;
use crate::lease::Lessor;
use crate::mvcc::index::{Entry, Index, Version};
use crate::mvcc::tail::Tail;
use crate::mvcc::{Compactions, KeyValue, RecordKey, Revision};
use crate::schema::{Bucket, meta, parse_conf_state};
use crate::store::{Sizes, Store, Tally};

/// Reads everything. The leases go to `lessor`, with their keys.
pub(crate) fn open(backend: Arc<dyn Backend>, lessor: &mut Lessor) -> Result<Store, Failure> {
    let rows = Rows::read(&*backend)?;
    let finished = compact_revision(&*backend, meta::FINISHED_COMPACT_REVISION)?;
    let scheduled = compact_revision(&*backend, meta::SCHEDULED_COMPACT_REVISION)?;
    let compacted = finished.max(scheduled);
    // The newest records may have been compacted away, and then the compaction is what remains of their revision.
    let revision = rows.last.main.max(compacted).max(1);

    lessor.restore(stored_leases(&*backend)?);
    let (index, sizes) = rows.into_index(lessor);

    let mut compactions = Compactions::new(finished);
    if scheduled > finished {
        compactions.resume(scheduled);
    }
    let applied_index = number(&*backend, meta::CONSISTENT_INDEX)?;
    Ok(Store {
        index,
        tail: Tail::new(revision),
        pending: Pending::new(applied_index),
        revision,
        newest: revision,
        compacted,
        compactions,
        applied_index,
        applied_term: number(&*backend, meta::TERM)?,
        conf_state: backend
            .get(Bucket::Meta, meta::CONF_STATE)?
            .map(|json| parse_conf_state(&json))
            .transpose()?,
        cluster: stored_cluster(&*backend)?,
        alarms: stored_alarms(&*backend)?,
        auth: stored_auth(&*backend)?,
        cached_bytes: 0,
        scratch: Vec::new(),
        tally: Tally::default(),
        sizes,
        generation: 0,
        backend,
    })
}

/// One stored record, as the index needs it. There may be many millions of them at once, so every byte counts.
struct Row {
    /// Where the key stands in the buffer of all keys.
    key_start: u64,
    key_len: u32,
    version: Version,
    create: i64,
    number: i64,
    lease: i64,
}

#[derive(Default)]
struct Rows {
    keys: Vec<u8>,
    all: Vec<Row>,
    bytes: u64,
    last: Revision,
}

impl Rows {
    /// Reads all records. Values stay where they are: the first reads, or warming, bring them in.
    fn read(backend: &dyn Backend) -> Result<Self, Failure> {
        let count = backend.count(Bucket::Key)?;
        let middle = if count < FORK_MIN { None } else { middle_revision(backend)? };
        let Some(middle) = middle else { return Self::read_part(backend, 0, None, count) };
        let (older, newer) = std::thread::scope(|scope| {
            let newer = scope.spawn(|| Self::read_part(backend, middle, None, count / 2));
            (Self::read_part(backend, 0, Some(middle), count), newer.join())
        });
        let newer =
            newer.map_err(|_| Failure::new("the thread that reads half of the records"))??;
        Ok(older?.followed_by(newer))
    }

    /// Reads the records from main revision `from` on, up to but without `until`.
    fn read_part(
        backend: &dyn Backend,
        from: i64,
        until: Option<i64>,
        capacity: usize,
    ) -> Result<Self, Failure> {
        let until = until.map(record_key);
        let from = if from == 0 { Vec::new() } else { record_key(from) };
        let mut rows = Rows { all: Vec::with_capacity(capacity), ..Rows::default() };
        let mut outcome = Ok(());
        backend.scan(Bucket::Key, &from, &mut |key, kv| {
            if until.as_ref().is_some_and(|until| key >= until.as_slice()) {
                return ControlFlow::Break(());
            }
            outcome = rows.add(key, kv);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome.map(|()| rows)
    }

    /// Adds rows whose revisions are all newer.
    fn followed_by(mut self, newer: Rows) -> Self {
        let offset = self.keys.len() as u64;
        self.keys.extend_from_slice(&newer.keys);
        let moved = newer.all.into_iter();
        self.all.extend(moved.map(|row| Row { key_start: row.key_start + offset, ..row }));
        self.bytes += newer.bytes;
        self.last = self.last.max(newer.last);
        self
    }

    fn add(&mut self, record_key: &[u8], bytes: &[u8]) -> Result<(), Failure> {
        let Some((revision, is_tombstone)) = RecordKey::decode(record_key) else {
            return Err(Failure::new("a key of bucket `key` is no revision"));
        };
        let damaged = |what: &str| {
            Err(Failure::new(format!(
                "the record of revision {}.{} {what}",
                revision.main, revision.sub
            )))
        };
        if revision <= self.last {
            return damaged("is out of order");
        }
        self.last = revision;
        let Some(kv) = KeyValue::decode(bytes) else { return damaged("is no key-value message") };
        // A restore that moves the revision on leaves an empty record at the new one.
        if !is_tombstone && !bytes.is_empty() && kv.mod_revision != revision.main {
            return damaged("names another revision");
        }
        if u32::try_from(revision.sub).is_err() {
            return damaged("has too large a sub revision");
        }
        let Ok(key_len) = u32::try_from(kv.key.len()) else { return damaged("has too long a key") };
        let key_start = self.keys.len() as u64;
        self.keys.extend_from_slice(kv.key);
        self.bytes += bytes.len() as u64;
        self.all.push(Row {
            key_start,
            key_len,
            version: Version::new(revision, is_tombstone, bytes.len()),
            create: kv.create_revision,
            number: kv.version,
            lease: kv.lease,
        });
        Ok(())
    }

    fn key(&self, row: &Row) -> &[u8] {
        let start = usize::try_from(row.key_start).expect("the keys are in memory");
        &self.keys[start..start + row.key_len as usize]
    }

    /// Builds the index, counts, and ties keys to their leases.
    fn into_index(self, lessor: &mut Lessor) -> (Index, Sizes) {
        let mut sizes = Sizes { records: self.all.len() as u64, bytes: self.bytes, live_bytes: 0 };
        let order = self.sorted();
        let mut order = order.into_iter().map(|position| &self.all[position]).peekable();
        // The versions of one key stand together, oldest first, and become one entry.
        let entries = std::iter::from_fn(|| {
            let first = order.next()?;
            let key = self.key(first);
            let mut entry = Entry::new(first.version, first.create, first.number, None);
            entry.set_lease(first.lease);
            while let Some(row) = order.next_if(|row| self.key(row) == key) {
                entry.restore(row.version, row.create, row.number, row.lease);
            }
            sizes.live_bytes += entry.newest.put_bytes();
            if entry.is_live() && entry.lease() != 0 && !lessor.attach(entry.lease(), key) {
                tracing::warn!(lease = entry.lease(), "a key names a lease that does not exist");
            }
            Some((key, entry))
        });
        (Index::from_sorted(entries), sizes)
    }

    /// The positions of all rows by key, and by revision within a key.
    fn sorted(&self) -> Vec<usize> {
        let key = |position: usize| self.key(&self.all[position]);
        let prefix = self.common_prefix();
        let mut order: Vec<(u64, usize)> = (0..self.all.len())
            .map(|position| (head(&key(position)[prefix..]), position))
            .collect();
        let compare = |(a_head, a): &(u64, usize), (b_head, b): &(u64, usize)| {
            a_head.cmp(b_head).then_with(|| key(*a).cmp(key(*b))).then(a.cmp(b))
        };
        if order.len() < FORK_MIN {
            order.sort_unstable_by(compare);
        } else {
            let half = order.len() / 2;
            let (left, right) = order.split_at_mut(half);
            std::thread::scope(|scope| {
                scope.spawn(|| left.sort_unstable_by(compare));
                right.sort_unstable_by(compare);
            });
            // The stable sort finds the two sorted runs and merges them.
            order.sort_by(compare);
        }
        order.into_iter().map(|(_, position)| position).collect()
    }

    /// Bytes that all keys begin with.
    fn common_prefix(&self) -> usize {
        let mut keys = self.all.iter().map(|row| self.key(row));
        let Some(first) = keys.next() else { return 0 };
        keys.fold(first.len(), |len, key| {
            first[..len].iter().zip(key).take_while(|(a, b)| a == b).count()
        })
    }
}

/// Records from which on two threads are worth their start.
const FORK_MIN: usize = 50_000;

/// A revision with about as many revisions before as after it.
fn middle_revision(backend: &dyn Backend) -> Result<Option<i64>, Failure> {
    let at_or_after = |main: i64| -> Result<Option<i64>, Failure> {
        let mut found = None;
        backend.scan(Bucket::Key, &record_key(main), &mut |key, _| {
            found = RecordKey::decode(key).map(|(revision, _)| revision.main);
            ControlFlow::Break(())
        })?;
        Ok(found)
    };
    let Some(first) = at_or_after(0)? else { return Ok(None) };
    // The last revision lies in `first..end`.
    let mut step = 1;
    while at_or_after(first.saturating_add(step))?.is_some() {
        step = step.saturating_mul(2);
        if step == i64::MAX {
            return Ok(None);
        }
    }
    let (mut last, mut end) = (first, first.saturating_add(step));
    while last + 1 < end {
        let between = last + (end - last) / 2;
        match at_or_after(between)? {
            Some(found) => last = found,
            None => end = between,
        }
    }
    Ok(Some(first + (last - first) / 2))
}

/// Where the records of a main revision begin.
fn record_key(main: i64) -> Vec<u8> {
    RecordKey::new(Revision::new(main, 0), false).as_bytes().to_vec()
}

/// The first bytes of a key as a number that compares alike; shorter keys are filled up with zeros.
fn head(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}

fn compact_revision(backend: &dyn Backend, key: &[u8]) -> Result<i64, Failure> {
    let Some(bytes) = backend.get(Bucket::Meta, key)? else { return Ok(-1) };
    match RecordKey::decode(&bytes) {
        Some((revision, _)) => Ok(revision.main),
        None => Err(Failure::new("a compaction revision in bucket `meta` is no revision")),
    }
}

pub(crate) fn number(backend: &dyn Backend, key: &[u8]) -> Result<u64, Failure> {
    let Some(bytes) = backend.get(Bucket::Meta, key)? else { return Ok(0) };
    let bytes =
        bytes.try_into().map_err(|_| Failure::new("a number in bucket `meta` has not 8 bytes"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn stored_leases(backend: &dyn Backend) -> Result<Vec<leasepb::Lease>, Failure> {
    let mut leases = Vec::new();
    each(backend, Bucket::Lease, |_, value| {
        leases.push(
            leasepb::Lease::decode(value)
                .map_err(|error| Failure::because("a stored lease", error))?,
        );
        Ok(())
    })?;
    Ok(leases)
}

fn stored_alarms(backend: &dyn Backend) -> Result<Alarms, Failure> {
    let mut alarms = Alarms::default();
    each(backend, Bucket::Alarm, |key, _| {
        alarms.restore(
            &AlarmMember::decode(key).map_err(|error| Failure::because("a stored alarm", error))?,
        );
        Ok(())
    })?;
    Ok(alarms)
}

fn stored_auth(backend: &dyn Backend) -> Result<Auth, Failure> {
    let mut auth = Auth::default();
    for bucket in [Bucket::Auth, Bucket::AuthUsers, Bucket::AuthRoles] {
        each(backend, bucket, |key, value| auth.restore(bucket, key, value))?;
    }
    auth.restored();
    Ok(auth)
}

fn stored_cluster(backend: &dyn Backend) -> Result<Cluster, Failure> {
    let mut cluster = Cluster::default();
    for bucket in [Bucket::Members, Bucket::MembersRemoved, Bucket::Cluster] {
        each(backend, bucket, |key, value| cluster.restore(bucket, key, value))?;
    }
    Ok(cluster)
}

fn each(
    backend: &dyn Backend,
    bucket: Bucket,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut outcome = Ok(());
    backend.scan(bucket, &[], &mut |key, value| {
        outcome = visit(key, value);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Batch, Change, MemoryBackend};

    #[test]
    fn halves_read_at_the_same_time_are_the_whole() {
        let backend = MemoryBackend::new();
        let count = i64::try_from(FORK_MIN).unwrap() + 11;
        // Revisions with gaps, as a compaction leaves them, and keys in another order.
        let records = (1..=count).map(|number| {
            let main = number + 9 * (number / 1000);
            let kv = retcd_api::mvccpb::KeyValue {
                key: format!("key-{:08}", (number * 7919) % 30_011).into(),
                create_revision: main,
                mod_revision: main,
                version: 1,
                ..Default::default()
            };
            Change { bucket: Bucket::Key, key: record_key(main), value: Some(kv.encode_to_vec()) }
        });
        backend.commit(&Batch { changes: records.collect(), ..Batch::default() }).unwrap();
        let whole = Rows::read_part(&backend, 0, None, 0).unwrap();
        let halves = Rows::read(&backend).unwrap();
        assert_eq!((halves.all.len(), halves.last), (whole.all.len(), whole.last));
        assert_eq!(halves.keys, whole.keys);
        let order = halves.sorted();
        assert!(order.is_sorted_by_key(|&position| (whole.key(&whole.all[position]), position)));
        let middle = middle_revision(&backend).unwrap().unwrap();
        assert!((count / 3..count).contains(&middle), "{middle}");
    }

    #[test]
    fn heads_order_as_keys_do() {
        let keys: [&[u8]; 5] = [b"", b"a", b"ab", b"b", b"bbbbbbbbbbbbbbbbb"];
        assert!(keys.windows(2).all(|pair| head(pair[0]) < head(pair[1])));
        assert_eq!(head(b"a"), head(b"a\0"));
    }
}
