//! Reading a range of keys at one revision.
//!
//! A read goes in two steps. A [`Scan`] walks the index under the lock, a slice at a time, and notes per key either
//! its encoded bytes or where they are on disk. Then, without a lock, [`answer`] fetches what is missing, sorts, cuts
//! and puts the answer together from those bytes. Writes between two slices do no harm: the scan looks for the
//! versions at its revision. Only a compaction above that revision ends it.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use retcd_api::etcdserverpb::RangeRequest;
use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::index::{Entry, Version};
use super::key_range::{End, KeyRange};
use super::kv::{self, KeyValue};
use super::{RecordKey, Revision};
use crate::backend::{Backend, Encoded, Failure};
use crate::rejection::Rejection;
use crate::store::Store;

/// Why a read stopped.
#[derive(Debug)]
pub(crate) enum Halt {
    Rejected(Rejection),
    Failed(Failure),
    /// A compaction went past the revision that is being read, or the whole state was replaced.
    Overtaken,
    /// The disk does not hold a record that the index names: overtaken, or damaged.
    Missing(Revision),
}

impl From<Rejection> for Halt {
    fn from(rejection: Rejection) -> Self {
        Halt::Rejected(rejection)
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Halt::Failed(failure)
    }
}

/// A state of the store that can be scanned: the store itself, or a pinned revision that is read in slices.
pub(crate) trait View {
    /// Runs a scan a piece further. Returns whether it is done.
    fn scan_slice(&self, scan: &mut Scan<'_>) -> Result<bool, Halt>;

    /// Runs a scan to its end.
    fn scan(&self, scan: &mut Scan<'_>) -> Result<(), Halt> {
        while !self.scan_slice(scan)? {}
        Ok(())
    }

    /// Where the records of this state are that memory does not hold.
    fn backend(&self) -> Result<Arc<dyn Backend>, Halt>;
}

impl View for Store {
    fn scan_slice(&self, scan: &mut Scan<'_>) -> Result<bool, Halt> {
        Ok(scan.step(self, usize::MAX))
    }

    fn backend(&self) -> Result<Arc<dyn Backend>, Halt> {
        Ok(Arc::clone(&self.backend))
    }
}

/// What a scan notes of each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Only how many there are.
    Count,
    /// Revisions and version.
    Meta,
    /// An encoded `KeyValue` with neither value nor lease, made from the index.
    Keys,
    /// The encoded `KeyValue`.
    Records,
}

/// One key that a scan found.
#[derive(Debug)]
pub(crate) struct Item {
    version: Version,
    /// Create revision and version number. `None` when the index does not know them: the version is not the newest.
    numbers: Option<(i64, i64)>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Encoded(Encoded),
    /// A piece of the scan's own buffer.
    Buffer {
        start: usize,
        end: usize,
    },
    /// On disk.
    Stored,
}

/// A walk over a range of the index, which may pause after any key.
#[derive(Debug)]
pub(crate) struct Scan<'r> {
    range: KeyRange<'r>,
    at: i64,
    show: Show,
    /// How many keys to note.
    take: usize,
    /// Whether the keys behind those are to be counted.
    counts_all: bool,
    pub(crate) items: Vec<Item>,
    /// Items noted so far, those taken out included.
    noted: usize,
    pub(crate) count: u64,
    buffer: Vec<u8>,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Start,
    After(Vec<u8>),
    Done,
}

impl<'r> Scan<'r> {
    /// Notes all keys of `range` as they are at main revision `at`.
    pub(crate) fn new(range: KeyRange<'r>, at: i64, show: Show) -> Self {
        Scan {
            range,
            at,
            show,
            take: usize::MAX,
            counts_all: false,
            items: Vec::new(),
            noted: 0,
            count: 0,
            buffer: Vec::new(),
            progress: Progress::Start,
        }
    }

    /// Notes only the first `take` keys.
    #[must_use]
    pub(crate) fn take(self, take: usize) -> Self {
        Scan { take, ..self }
    }

    /// Counts all keys of the range, also those that are not noted.
    #[must_use]
    pub(crate) fn counting(self) -> Self {
        Scan { counts_all: true, ..self }
    }

    pub(crate) fn at(&self) -> i64 {
        self.at
    }

    /// Looks at up to `budget` entries. Returns whether the scan is done.
    pub(crate) fn step(&mut self, store: &Store, budget: usize) -> bool {
        let progress = std::mem::replace(&mut self.progress, Progress::Done);
        let from = match &progress {
            Progress::Done => return true,
            Progress::Start => {
                if self.answer_from_counts(store) {
                    return true;
                }
                Bound::Included(self.range.start)
            }
            Progress::After(key) => Bound::Excluded(key.as_slice()),
        };
        self.progress = self.walk(store, from, budget);
        matches!(self.progress, Progress::Done)
    }

    /// What needs no walk: a single key, nothing, and counts of the newest state.
    fn answer_from_counts(&mut self, store: &Store) -> bool {
        if self.range.is_single() {
            if let Some(entry) = store.index.get(self.range.start) {
                self.note(store, self.range.start, entry);
            }
            return true;
        }
        if self.range.is_empty() {
            return true;
        }
        let is_cut = self.show == Show::Count || self.take != usize::MAX;
        if self.counts_all && is_cut && self.at >= store.newest {
            let (from, to) = bounds(self.range);
            self.count = store.index.count_range(from, to);
            self.counts_all = false;
            return self.show == Show::Count;
        }
        false
    }

    fn walk(&mut self, store: &Store, from: Bound<&[u8]>, mut budget: usize) -> Progress {
        let to = bounds(self.range).1;
        let mut paused = None;
        let _ = store.index.for_each_range(from, to, |key, entry| {
            self.note(store, key, entry);
            budget -= 1;
            if !self.wants_more() {
                return ControlFlow::Break(());
            }
            if budget == 0 {
                paused = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        paused.map_or(Progress::Done, Progress::After)
    }

    fn wants_more(&self) -> bool {
        self.counts_all || (self.show != Show::Count && self.noted < self.take)
    }

    fn note(&mut self, store: &Store, key: &[u8], entry: &Entry) {
        let Some(version) = entry.at(self.at).filter(|version| !version.is_tombstone()) else {
            return;
        };
        if self.counts_all || self.range.is_single() {
            self.count += 1;
        }
        if self.show == Show::Count || self.noted >= self.take {
            return;
        }
        let is_newest = version == entry.newest;
        let source = match self.show {
            Show::Keys if is_newest => self.buffer_key(key, entry),
            Show::Meta | Show::Count if is_newest => Source::Stored,
            _ => store.locate(entry, version).map_or(Source::Stored, Source::Encoded),
        };
        let numbers = match &source {
            _ if is_newest => Some((entry.create, entry.version)),
            Source::Encoded(bytes) => {
                KeyValue::decode(bytes).map(|kv| (kv.create_revision, kv.version))
            }
            Source::Buffer { .. } | Source::Stored => None,
        };
        self.noted += 1;
        self.items.push(Item { version, numbers, source });
    }

    fn buffer_key(&mut self, key: &[u8], entry: &Entry) -> Source {
        let start = self.buffer.len();
        let kv = KeyValue {
            key,
            create_revision: entry.create,
            mod_revision: entry.newest.main,
            version: entry.version,
            ..KeyValue::default()
        };
        kv.encode(&mut self.buffer);
        Source::Buffer { start, end: self.buffer.len() }
    }

    /// Reads from disk what the memory does not hold, of the items that `wanted` chooses.
    pub(crate) fn fetch(
        &mut self,
        view: &impl View,
        wanted: impl Fn(&Item) -> bool,
    ) -> Result<(), Halt> {
        let mut stored: Vec<&mut Item> = self
            .items
            .iter_mut()
            .filter(|item| matches!(item.source, Source::Stored) && wanted(item))
            .collect();
        if stored.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> =
            stored.iter().map(|item| RecordKey::new(item.version.revision(), false)).collect();
        view.backend()?.get_records(&keys, &mut |position, value| {
            if let Some(value) = value {
                stored[position].source = Source::Encoded(value.into());
            }
        })?;
        for item in stored {
            let revision = item.version.revision();
            let Source::Encoded(bytes) = &item.source else { return Err(Halt::Missing(revision)) };
            if item.numbers.is_none() {
                let kv = decode(bytes)?;
                item.numbers = Some((kv.create_revision, kv.version));
            }
        }
        Ok(())
    }

    /// The encoded record of an item that was fetched or made.
    pub(crate) fn bytes<'a>(&'a self, item: &'a Item) -> &'a [u8] {
        match &item.source {
            Source::Encoded(bytes) => bytes,
            Source::Buffer { start, end } => &self.buffer[*start..*end],
            Source::Stored => unreachable!("what an answer shows was fetched"),
        }
    }

    /// Forgets what was noted and is answered, to go on with the scan.
    fn clear(&mut self) {
        self.items.clear();
        self.buffer.clear();
    }

    /// The fetched records, shared.
    pub(crate) fn into_records(self) -> Vec<Encoded> {
        let encoded = |item: Item| match item.source {
            Source::Encoded(bytes) => Some(bytes),
            Source::Buffer { .. } | Source::Stored => None,
        };
        self.items.into_iter().filter_map(encoded).collect()
    }
}

impl Item {
    pub(crate) fn mod_revision(&self) -> i64 {
        self.version.main
    }

    /// Create revision and version number, once fetched or known.
    fn numbers(&self) -> (i64, i64) {
        self.numbers.expect("numbers are known or fetched")
    }

    pub(crate) fn has_numbers(&self) -> bool {
        self.numbers.is_some()
    }

    pub(crate) fn create_revision(&self) -> i64 {
        self.numbers().0
    }

    pub(crate) fn version(&self) -> i64 {
        self.numbers().1
    }
}

/// Reads an encoded `KeyValue` that came from this store.
pub(crate) fn decode(bytes: &[u8]) -> Result<KeyValue<'_>, Failure> {
    KeyValue::decode(bytes).ok_or_else(|| Failure::new("a record is no key-value message"))
}

/// The bounds of a range that is not a single key, for the index.
pub(crate) fn bounds(range: KeyRange<'_>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let to = match range.end {
        End::Single => Bound::Included(range.start),
        End::Open => Bound::Unbounded,
        End::Before(end) => Bound::Excluded(end),
    };
    (Bound::Included(range.start), to)
}

/// A range request, understood.
#[derive(Debug)]
pub(crate) struct Query<'r> {
    range: KeyRange<'r>,
    /// `usize::MAX` for no limit.
    limit: usize,
    order: SortOrder,
    target: SortTarget,
    mod_revisions: Bounds,
    create_revisions: Bounds,
    keys_only: bool,
    count_only: bool,
}

/// Inclusive bounds, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    min: i64,
    max: i64,
}

impl Bounds {
    fn contains(self, value: i64) -> bool {
        (self.min == 0 || value >= self.min) && (self.max == 0 || value <= self.max)
    }

    fn is_any(self) -> bool {
        self.min == 0 && self.max == 0
    }
}

impl<'r> Query<'r> {
    pub(crate) fn new(request: &'r RangeRequest) -> Self {
        let limit = match usize::try_from(request.limit) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(limit) => limit,
        };
        Query {
            range: KeyRange::new(&request.key, &request.range_end),
            limit,
            order: request.sort_order(),
            target: request.sort_target(),
            mod_revisions: Bounds { min: request.min_mod_revision, max: request.max_mod_revision },
            create_revisions: Bounds {
                min: request.min_create_revision,
                max: request.max_create_revision,
            },
            keys_only: request.keys_only,
            count_only: request.count_only,
        }
    }

    /// Whether the answer keeps the order of the index, so that a walk may end at the limit. A target without an
    /// order does so too, and is sorted after the cut: a quirk of etcd that clients see.
    fn cuts_in_key_order(&self) -> bool {
        let is_key_order = self.order == SortOrder::None
            || (self.order == SortOrder::Ascend && self.target == SortTarget::Key);
        is_key_order && self.mod_revisions.is_any() && self.create_revisions.is_any()
    }

    /// Sorting by value needs the values; otherwise keys are served from the index alone.
    pub(crate) fn show(&self) -> Show {
        match (self.count_only, self.keys_only && self.target != SortTarget::Value) {
            (true, _) => Show::Count,
            (false, true) => Show::Keys,
            (false, false) => Show::Records,
        }
    }

    fn scan(&self, at: i64) -> Scan<'r> {
        let take = if self.cuts_in_key_order() { self.limit.saturating_add(1) } else { usize::MAX };
        Scan::new(self.range, at, self.show()).take(take).counting()
    }

    /// Reads at main revision `at` and appends the answer to `out`: `RangeResponse` without its header.
    pub(crate) fn answer(&self, view: &impl View, at: i64, out: &mut Vec<u8>) -> Result<(), Halt> {
        let mut scan = self.scan(at);
        let is_more = if self.cuts_in_key_order() && self.target == SortTarget::Key {
            self.answer_in_slices(&mut scan, view, out)?
        } else {
            view.scan(&mut scan)?;
            let is_more = self.arrange(&mut scan, view)?;
            scan.fetch(view, |_| true)?;
            self.encode(&scan, out)?;
            is_more
        };
        kv::put_int64(3, i64::from(is_more), out);
        kv::put_int64(4, scan.count.cast_signed(), out);
        Ok(())
    }

    /// What needs no sorting is copied out slice by slice, while its bytes are still in the processor's cache.
    /// Returns whether the limit cut something off.
    fn answer_in_slices(
        &self,
        scan: &mut Scan<'_>,
        view: &impl View,
        out: &mut Vec<u8>,
    ) -> Result<bool, Halt> {
        let mut left = self.limit;
        let mut is_more = false;
        loop {
            let is_done = view.scan_slice(scan)?;
            is_more |= scan.items.len() > left;
            scan.items.truncate(left);
            left -= scan.items.len();
            scan.fetch(view, |_| true)?;
            self.encode(scan, out)?;
            scan.clear();
            if is_done {
                return Ok(is_more);
            }
        }
    }

    /// Filters, sorts and cuts. Returns whether something was cut off.
    fn arrange(&self, scan: &mut Scan<'_>, view: &impl View) -> Result<bool, Halt> {
        if !(self.mod_revisions.is_any() && self.create_revisions.is_any()) {
            scan.fetch(view, |item| !item.has_numbers())?;
            scan.items.retain(|item| {
                self.mod_revisions.contains(item.mod_revision())
                    && self.create_revisions.contains(item.create_revision())
            });
        }
        self.sort(scan, view)?;
        let is_more = scan.items.len() > self.limit;
        scan.items.truncate(self.limit);
        Ok(is_more)
    }

    /// Equal items keep key order, in both directions.
    pub(crate) fn sort(&self, scan: &mut Scan<'_>, view: &impl View) -> Result<(), Halt> {
        let is_descending = self.order == SortOrder::Descend;
        match self.target {
            SortTarget::Key if is_descending => scan.items.reverse(),
            SortTarget::Key => {}
            SortTarget::Mod => sort_by_number(&mut scan.items, is_descending, Item::mod_revision),
            SortTarget::Create | SortTarget::Version => {
                scan.fetch(view, |item| !item.has_numbers())?;
                let by_create = self.target == SortTarget::Create;
                let number = if by_create { Item::create_revision } else { Item::version };
                sort_by_number(&mut scan.items, is_descending, number);
            }
            SortTarget::Value => {
                scan.fetch(view, |_| true)?;
                sort_by_value(scan, is_descending)?;
            }
        }
        Ok(())
    }

    /// Appends field 2 for every item.
    pub(crate) fn encode(&self, scan: &Scan<'_>, out: &mut Vec<u8>) -> Result<(), Halt> {
        let bytes =
            scan.items.iter().map(|item| kv::message_len(scan.bytes(item).len())).sum::<usize>();
        out.reserve(bytes);
        for item in &scan.items {
            let bytes = scan.bytes(item);
            match &item.source {
                Source::Encoded(_) if self.keys_only => {
                    let kv = decode(bytes)?;
                    let kv = if self.target == SortTarget::Value {
                        kv.without_value()
                    } else {
                        kv.key_only()
                    };
                    kv::put_nested(2, out, |inner| kv.encode(inner));
                }
                _ => kv::put_message(2, bytes, out),
            }
        }
        Ok(())
    }
}

fn sort_by_number(items: &mut [Item], is_descending: bool, number: impl Fn(&Item) -> i64) {
    items.sort_by(|a, b| {
        let (a, b) = if is_descending { (b, a) } else { (a, b) };
        number(a).cmp(&number(b))
    });
}

fn sort_by_value(scan: &mut Scan<'_>, is_descending: bool) -> Result<(), Failure> {
    let mut values = Vec::with_capacity(scan.items.len());
    for (position, item) in scan.items.iter().enumerate() {
        values.push((decode(scan.bytes(item))?.value, position));
    }
    values.sort_by(|(a, _), (b, _)| if is_descending { b.cmp(a) } else { a.cmp(b) });
    let order: Vec<_> = values.into_iter().map(|(_, position)| position).collect();
    let mut items: Vec<_> = std::mem::take(&mut scan.items).into_iter().map(Some).collect();
    scan.items = order.into_iter().filter_map(|position| items[position].take()).collect();
    Ok(())
}

/// The revision that a plain range reads; 0 and below mean the current one.
pub(crate) fn read_revision(
    requested: i64,
    current: i64,
    compacted: i64,
) -> Result<i64, Rejection> {
    if requested > current {
        return Err(Rejection::FutureRevision { requested, current });
    }
    if requested <= 0 {
        return Ok(current);
    }
    if requested < compacted {
        return Err(Rejection::Compacted { requested, compacted });
    }
    Ok(requested)
}
