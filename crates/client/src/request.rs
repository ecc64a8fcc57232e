//! Requests about keys, one call per setting.
//!
//! Each turns into the message that etcd's API has for it, and every call that takes one takes the message as well.

use bytes::Bytes;
use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use retcd_api::etcdserverpb::watch_create_request::FilterType;
use retcd_api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, WatchCreateRequest,
};

use crate::{from_key_range, prefix_range};

/// The ways to say which keys are meant; the same for reads, deletions and watches.
macro_rules! selections {
    ($request:ident, $message:ident) => {
        impl $request {
            /// One key.
            pub fn key(key: impl Into<Bytes>) -> Self {
                $request($message { key: key.into(), ..Default::default() })
            }

            /// All keys that begin with `prefix`; all keys, if it is empty.
            pub fn prefix(prefix: impl Into<Bytes>) -> Self {
                let (key, end) = prefix_range(prefix.into().into());
                Self::range(key, end)
            }

            /// The keys from `key` up to, but without, `end`.
            pub fn range(key: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
                let (key, range_end) = (key.into(), end.into());
                $request($message { key, range_end, ..Default::default() })
            }

            /// `key` and all keys after it.
            pub fn from_key(key: impl Into<Bytes>) -> Self {
                let (key, end) = from_key_range(key.into().into());
                Self::range(key, end)
            }

            /// Every key.
            pub fn all() -> Self {
                Self::from_key(Bytes::new())
            }
        }

        impl From<$request> for $message {
            fn from(request: $request) -> Self {
                request.0
            }
        }
    };
}

/// A read.
///
/// ```
/// use retcd_client::Get;
/// use retcd_api::etcdserverpb::RangeRequest;
///
/// let request: RangeRequest = Get::prefix("job/").newest_first().limit(5).into();
/// assert_eq!((&request.key[..], &request.range_end[..]), (&b"job/"[..], &b"job0"[..]));
/// ```
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is sent"]
pub struct Get(RangeRequest);

selections!(Get, RangeRequest);

impl Get {
    /// At most this many keys; 0 for all. The answer's `more` says whether there are others.
    pub fn limit(mut self, keys: i64) -> Self {
        self.0.limit = keys;
        self
    }

    /// The keys as they were at a revision; 0 for now.
    pub fn at(mut self, revision: i64) -> Self {
        self.0.revision = revision;
        self
    }

    /// As the asked member happens to know the keys, without asking the others: quick, but maybe old.
    pub fn serializable(mut self) -> Self {
        self.0.serializable = true;
        self
    }

    /// Leaves the values out.
    pub fn keys_only(mut self) -> Self {
        self.0.keys_only = true;
        self
    }

    /// Only counts.
    pub fn count_only(mut self) -> Self {
        self.0.count_only = true;
        self
    }

    /// In this order, before the limit is applied.
    pub fn sorted_by(mut self, target: SortTarget, order: SortOrder) -> Self {
        self.0.sort_target = target.into();
        self.0.sort_order = order.into();
        self
    }

    /// The key that came into being first comes first.
    pub fn oldest_first(self) -> Self {
        self.sorted_by(SortTarget::Create, SortOrder::Ascend)
    }

    /// The key that came into being last comes first.
    pub fn newest_first(self) -> Self {
        self.sorted_by(SortTarget::Create, SortOrder::Descend)
    }

    /// Only keys that were last written at these revisions, both ends included; 0 for no limit.
    pub fn mod_revisions(mut self, min: i64, max: i64) -> Self {
        self.0.min_mod_revision = min;
        self.0.max_mod_revision = max;
        self
    }

    /// Only keys that came into being at these revisions, both ends included; 0 for no limit.
    pub fn create_revisions(mut self, min: i64, max: i64) -> Self {
        self.0.min_create_revision = min;
        self.0.max_create_revision = max;
        self
    }
}

/// A write.
///
/// ```
/// use retcd_client::Put;
///
/// let put = Put::new("host/7", "10.0.0.7").lease(0x1234).prev_kv();
/// ```
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is sent"]
pub struct Put(PutRequest);

impl Put {
    /// Writes `value` to `key`.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Put(PutRequest { key: key.into(), value: value.into(), ..Default::default() })
    }

    /// The key disappears with this lease. 0, for none, also takes a key from its present lease.
    pub fn lease(mut self, id: i64) -> Self {
        self.0.lease = id;
        self
    }

    /// The answer tells what the key was before.
    pub fn prev_kv(mut self) -> Self {
        self.0.prev_kv = true;
        self
    }

    /// Keeps the present value. The key must exist.
    pub fn ignore_value(mut self) -> Self {
        self.0.value = Bytes::new();
        self.0.ignore_value = true;
        self
    }

    /// Keeps the present lease. The key must exist.
    pub fn ignore_lease(mut self) -> Self {
        self.0.ignore_lease = true;
        self
    }
}

impl From<Put> for PutRequest {
    fn from(put: Put) -> Self {
        put.0
    }
}

/// A deletion.
///
/// ```
/// use retcd_client::Delete;
///
/// let delete = Delete::range("a", "b").prev_kv();
/// ```
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is sent"]
pub struct Delete(DeleteRangeRequest);

selections!(Delete, DeleteRangeRequest);

impl Delete {
    /// The answer tells what the keys were before.
    pub fn prev_kv(mut self) -> Self {
        self.0.prev_kv = true;
        self
    }
}

/// A watch.
///
/// ```
/// use retcd_client::Watch;
///
/// let watch = Watch::prefix("job/").from_revision(1000).prev_kv().no_put();
/// ```
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is sent"]
pub struct Watch(WatchCreateRequest);

selections!(Watch, WatchCreateRequest);

impl Watch {
    /// Begins with what happened at this revision; 0 for what happens from now on.
    pub fn from_revision(mut self, revision: i64) -> Self {
        self.0.start_revision = revision;
        self
    }

    /// Events tell what their key was before, as far as that is not compacted.
    pub fn prev_kv(mut self) -> Self {
        self.0.prev_kv = true;
        self
    }

    /// The server tells how far it is when nothing has happened for a while (10 minutes, unless it is set otherwise).
    pub fn progress_notify(mut self) -> Self {
        self.0.progress_notify = true;
        self
    }

    /// The server may cut answers that are larger than its limit; they are put together again here.
    pub fn fragment(mut self) -> Self {
        self.0.fragment = true;
        self
    }

    /// Does not tell of writes.
    pub fn no_put(self) -> Self {
        self.without(FilterType::Noput)
    }

    /// Does not tell of deletions.
    pub fn no_delete(self) -> Self {
        self.without(FilterType::Nodelete)
    }

    fn without(mut self, kind: FilterType) -> Self {
        self.0.filters.push(kind.into());
        self
    }
}

/// The end of a part of history.
///
/// ```
/// use retcd_client::Compact;
///
/// let compact = Compact::at(1000).physical();
/// ```
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is sent"]
pub struct Compact(CompactionRequest);

impl Compact {
    /// What only revisions below this one need is forgotten.
    pub fn at(revision: i64) -> Self {
        Compact(CompactionRequest { revision, ..Default::default() })
    }

    /// The answer comes when the space is free, not as soon as the past cannot be read any more.
    pub fn physical(mut self) -> Self {
        self.0.physical = true;
        self
    }
}

impl From<Compact> for CompactionRequest {
    fn from(compact: Compact) -> Self {
        compact.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_are_those_of_etcdctl() {
        let of = |get: Get| (get.0.key, get.0.range_end);
        assert_eq!(of(Get::key("k")), ("k".into(), "".into()));
        assert_eq!(of(Get::prefix("k")), ("k".into(), "l".into()));
        assert_eq!(of(Get::from_key("k")), ("k".into(), "\0".into()));
        assert_eq!(of(Get::all()), ("\0".into(), "\0".into()));
        assert_eq!(of(Get::prefix("")), of(Get::all()));
        assert_eq!(of(Get::range("a", "c")), ("a".into(), "c".into()));
    }

    #[test]
    fn a_put_that_keeps_the_value_sends_none() {
        let put = PutRequest::from(Put::new("k", "v").ignore_value());
        assert!(put.value.is_empty() && put.ignore_value, "servers refuse both at once");
    }
}
