//! The history of the store: what each revision changed.

use std::collections::BTreeMap;

use retcd_api::mvccpb;
use retcd_api::mvccpb::event::EventType;

use crate::Violation;
use crate::history::Version;

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub revision: i64,
    pub key: String,
    /// `None`: the key was deleted.
    pub now: Option<Version>,
}

impl From<&mvccpb::Event> for Event {
    fn from(event: &mvccpb::Event) -> Self {
        let kv = event.kv.as_ref().expect("every event has a key");
        Event {
            revision: kv.mod_revision,
            key: String::from_utf8_lossy(&kv.key).into_owned(),
            now: match event.r#type() {
                EventType::Put => Some(kv.into()),
                EventType::Delete => None,
            },
        }
    }
}

/// All changes from the first on, without a gap.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    /// The events of revision 2, 3, and so on; an empty store has revision 1.
    revisions: Vec<Vec<Event>>,
    /// What each change of a key left, by revision.
    keys: BTreeMap<String, BTreeMap<i64, Option<Version>>>,
    compacted: i64,
}

/// The revision of a store that was never written.
const EMPTY: i64 = 1;

impl Timeline {
    /// Takes the events of a store from the beginning.
    ///
    /// # Errors
    /// They are not what a store can do: a revision is missing, a version does not follow from the one before, or a
    /// key that was not there is deleted.
    pub fn new(events: impl IntoIterator<Item = Event>) -> Result<Self, Violation> {
        let mut timeline = Timeline::default();
        for event in events {
            timeline.push(event)?;
        }
        Ok(timeline)
    }

    /// Adds what comes next.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn push(&mut self, event: Event) -> Result<(), Violation> {
        let last = self.last();
        if event.revision == last + 1 {
            self.revisions.push(Vec::new());
        } else if event.revision != last || last == EMPTY {
            return Err(Violation::RevisionMissing { expected: last + 1, found: event.revision });
        }
        let before = self.version_at(&event.key, event.revision);
        if !follows(&event, before) {
            let before = before.cloned();
            return Err(Violation::ImpossibleEvent { event: Box::new(event), before });
        }
        let versions = self.keys.entry(event.key.clone()).or_default();
        versions.insert(event.revision, event.now.clone());
        self.revisions.last_mut().expect("pushed above or before").push(event);
        Ok(())
    }

    /// The newest revision.
    pub fn last(&self) -> i64 {
        EMPTY + i64::try_from(self.revisions.len()).expect("revisions are 64 bit numbers")
    }

    /// What a revision changed; nothing for revisions outside of the history.
    pub fn at(&self, revision: i64) -> &[Event] {
        let index = usize::try_from(revision - EMPTY - 1).ok();
        index.and_then(|index| self.revisions.get(index)).map_or(&[], Vec::as_slice)
    }

    /// A key as it was once `revision` was complete.
    pub fn version_at(&self, key: &str, revision: i64) -> Option<&Version> {
        let (_, version) = self.keys.get(key)?.range(..=revision).next_back()?;
        version.as_ref()
    }

    /// All keys as they were once `revision` was complete, in order.
    pub fn state_at(&self, revision: i64) -> impl Iterator<Item = (&str, &Version)> {
        let version = move |key: &str| self.version_at(key, revision);
        self.keys.keys().filter_map(move |key| Some((key.as_str(), version(key)?)))
    }

    /// Notes a compaction: members may have forgotten how keys were before.
    pub fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }

    /// The last compaction, 0 without one.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    pub fn has_keys(&self, lease: i64, revision: i64) -> bool {
        self.state_at(revision).any(|(_, version)| version.lease == lease)
    }

    /// Whether `revision` may be the end of this lease: it deletes all of its keys, in order, and nothing else, and no key
    /// is tied to the lease later.
    pub fn is_end_of(&self, lease: i64, revision: i64) -> bool {
        let before = self.state_at(revision - 1);
        let keys = before.filter(|(_, version)| version.lease == lease).map(|(key, _)| (key, true));
        let events = self.at(revision);
        let is_tied = |version: &Option<Version>| {
            version.as_ref().is_some_and(|version| version.lease == lease)
        };
        let mut later = self.keys.values().flat_map(|versions| versions.range(revision..));
        !events.is_empty()
            && !later.any(|(_, version)| is_tied(version))
            && events.iter().map(|event| (event.key.as_str(), event.now.is_none())).eq(keys)
    }

    /// The lease whose end `revision` may be.
    pub fn lease_that_ends(&self, revision: i64) -> Option<i64> {
        let event = self.at(revision).first()?;
        let lease = self.version_at(&event.key, revision - 1)?.lease;
        (lease != 0 && self.is_end_of(lease, revision)).then_some(lease)
    }

    /// The events of these revisions, in order.
    pub fn between(&self, first: i64, last: i64) -> impl Iterator<Item = &Event> {
        let first = first.max(EMPTY + 1);
        (first..=last.min(self.last())).flat_map(|revision| self.at(revision))
    }

    /// The first revision at which two histories differ.
    pub fn difference(&self, other: &Self) -> Option<i64> {
        (EMPTY + 1..=self.last().max(other.last()))
            .find(|&revision| self.at(revision) != other.at(revision))
    }
}

/// Whether an event can happen to a key that is like this. One revision changes a key at most once.
fn follows(event: &Event, before: Option<&Version>) -> bool {
    if before.is_some_and(|before| before.mod_revision == event.revision) {
        return false;
    }
    let Some(now) = &event.now else { return before.is_some() };
    let (created, count) =
        before.map_or((event.revision, 0), |before| (before.create_revision, before.version));
    now.mod_revision == event.revision && now.create_revision == created && now.version == count + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{delete, put};

    #[test]
    fn a_history_is_asked_for_any_revision() {
        let events = [
            put(2, "a", "1", 2, 1),
            put(3, "a", "2", 2, 2),
            delete(4, "a"),
            put(5, "a", "3", 5, 1),
        ];
        let timeline = Timeline::new(events.clone()).unwrap();
        assert_eq!(timeline.last(), 5);
        let value = |revision| timeline.version_at("a", revision).map(|found| found.value.as_str());
        assert_eq!(
            [1, 2, 3, 4, 5, 9].map(value),
            [None, Some("1"), Some("2"), None, Some("3"), Some("3")]
        );
        assert_eq!(timeline.version_at("b", 5), None);
        assert!(timeline.between(3, 4).eq(&events[1..3]));
        assert_eq!(timeline.difference(&timeline), None);
        assert_eq!(timeline.difference(&Timeline::new(events[..3].to_vec()).unwrap()), Some(5));
    }

    #[test]
    fn impossible_histories_are_refused() {
        let impossible: [&[Event]; 7] = [
            &[put(3, "a", "1", 3, 1)],
            &[put(2, "a", "1", 2, 1), put(4, "a", "2", 2, 2)],
            &[put(2, "a", "1", 2, 1), put(3, "a", "2", 2, 3)],
            &[put(2, "a", "1", 2, 1), put(3, "a", "2", 3, 1)],
            &[put(2, "a", "1", 2, 1), put(2, "a", "2", 2, 2)],
            &[put(2, "a", "1", 2, 1), put(3, "b", "2", 3, 1), put(2, "c", "1", 2, 1)],
            &[delete(2, "a")],
        ];
        for events in impossible {
            assert!(Timeline::new(events.to_vec()).is_err(), "{events:?}");
        }
    }
}
