//! One subscription: which keys, which events, from which revision on, and how far it has come.

use crate::mvcc::Record;

/// The keys that a watcher wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) start: Box<[u8]>,
    pub(super) end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Only the start key.
    Single,
    /// All keys from the start up to this one, which is not included.
    Before(Box<[u8]>),
    /// All keys from the start on.
    Unbounded,
}

impl KeyRange {
    /// Reads the range of a create request: no key is the smallest key `\0`, no end is a single key, the end `\0` is
    /// no bound. `None` when the range is empty.
    pub(super) fn from_request(key: &[u8], range_end: &[u8]) -> Option<Self> {
        let start = if key.is_empty() { b"\0" } else { key };
        let end = match range_end {
            b"" => End::Single,
            b"\0" => End::Unbounded,
            end if end <= start => return None,
            end => End::Before(end.into()),
        };
        Some(KeyRange { start: start.into(), end })
    }
}

/// What makes the events of two watchers on the same keys differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) prev_kv: bool,
}

impl Options {
    pub(super) fn wants(self, record: &Record) -> bool {
        !if record.is_tombstone { self.no_delete } else { self.no_put }
    }
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) watch_id: i64,
    pub(super) stream: u32,
    /// Where the watcher is a member: the interest, and the place in its list.
    pub(super) interest: u32,
    pub(super) seat: usize,
    /// As asked; 0 for "from now on".
    pub(super) start_revision: i64,
    pub(super) progress_notify: bool,
    pub(super) fragment: bool,
    pub(super) state: State,
}

/// How a watcher gets its next events. `next` is the first revision that it was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// From the hub, as they come. It has everything below the hub's next revision.
    Synced,
    /// From history, when its turn comes in that round.
    Behind { round: u64, next: i64 },
    /// From history, after its stream was read.
    Parked { next: i64 },
    /// None any more: a compaction overtook it, and the client has not cancelled it yet.
    Compacted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_requests() {
        let range = |key: &str, end: &str| KeyRange::from_request(key.as_bytes(), end.as_bytes());
        let of = |start: &str, end| Some(KeyRange { start: start.as_bytes().into(), end });
        assert_eq!(range("a", ""), of("a", End::Single));
        assert_eq!(range("", ""), of("\0", End::Single));
        assert_eq!(range("a", "\0"), of("a", End::Unbounded));
        assert_eq!(range("\0", "\0"), of("\0", End::Unbounded));
        assert_eq!(range("a", "b"), of("a", End::Before((*b"b").into())));
        assert_eq!(range("a", "a"), None);
        assert_eq!(range("b", "a"), None);
    }
}
