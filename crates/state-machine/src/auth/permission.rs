//! Which keys a user may read and write: the ranges of all their roles, merged.
//!
//! A permission is a range of keys as requests name them. Ranges that overlap or touch become one, so what two roles
//! cover together may be read in one request: `[a,c)` and `[c,e)` permit `[a,e)`. A single key `k` is the range up to
//! `k\0`, the next key there can be.
//!
//! Invariant: the ranges of a set ascend, and between two of them lies a key that belongs to neither.

use retcd_api::authpb::{self, permission::Type};

use crate::mvcc::{End, KeyRange};

/// What one user may do with keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Permissions {
    read: Ranges,
    write: Ranges,
}

/// What is to be done with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Permissions {
    /// Merges all of these. What is neither reading nor writing permits nothing.
    pub(crate) fn merge<'a>(permissions: impl Iterator<Item = &'a authpb::Permission>) -> Self {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions {
            let Some(range) = Range::of(&permission.key, &permission.range_end) else { continue };
            match Type::try_from(permission.perm_type) {
                Ok(Type::Read) => read.push(range),
                Ok(Type::Write) => write.push(range),
                Ok(Type::Readwrite) => {
                    read.push(range.clone());
                    write.push(range);
                }
                Err(_) => {}
            }
        }
        Permissions { read: Ranges::merge(read), write: Ranges::merge(write) }
    }

    /// Whether every key of the range is covered. A range that holds no keys is asked for as its first key.
    pub(crate) fn cover(&self, access: Access, range: KeyRange<'_>) -> bool {
        match access {
            Access::Read => self.read.cover(range),
            Access::Write => self.write.cover(range),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    start: Box<[u8]>,
    /// The first key behind it; `None` when there is none.
    end: Option<Box<[u8]>>,
}

impl Range {
    /// `None` when it holds no keys.
    fn of(key: &[u8], range_end: &[u8]) -> Option<Self> {
        let range = KeyRange::new(key, range_end);
        if range.is_empty() {
            return None;
        }
        let end = match range.end {
            End::Single => Some([key, b"\0"].concat().into()),
            End::Open => None,
            End::Before(end) => Some(end.into()),
        };
        Some(Range { start: key.into(), end })
    }

    fn contains(&self, key: &[u8]) -> bool {
        &*self.start <= key && self.end.as_deref().is_none_or(|end| key < end)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(Vec<Range>);

impl Ranges {
    fn merge(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable_by(|a, b| a.start.cmp(&b.start));
        let mut merged: Vec<Range> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end.as_ref().is_none_or(|end| *end >= range.start) => {
                    if last.end.is_some() && (range.end.is_none() || range.end > last.end) {
                        last.end = range.end;
                    }
                }
                _ => merged.push(range),
            }
        }
        Ranges(merged)
    }

    fn cover(&self, wanted: KeyRange<'_>) -> bool {
        let after = self.0.partition_point(|range| &*range.start <= wanted.start);
        let Some(range) = after.checked_sub(1).map(|before| &self.0[before]) else { return false };
        if !range.contains(wanted.start) {
            return false;
        }
        match (wanted.end, range.end.as_deref()) {
            (_, None) | (End::Single, _) => true,
            (End::Open, Some(_)) => false,
            (End::Before(wanted), Some(end)) => wanted <= end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(ranges: &[(&str, &str)]) -> Permissions {
        let permissions: Vec<_> = ranges
            .iter()
            .map(|(key, range_end)| authpb::Permission {
                perm_type: Type::Read.into(),
                key: key.as_bytes().to_vec().into(),
                range_end: range_end.as_bytes().to_vec().into(),
            })
            .collect();
        Permissions::merge(permissions.iter())
    }

    fn may_read(permissions: &Permissions, key: &str, range_end: &str) -> bool {
        permissions.cover(Access::Read, KeyRange::new(key.as_bytes(), range_end.as_bytes()))
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let permissions = reading(&[("c", "e"), ("a", "c"), ("x", ""), ("x\0", "")]);
        assert!(may_read(&permissions, "a", "e") && may_read(&permissions, "d", ""));
        assert!(may_read(&permissions, "x", "x\0\0"));
        assert!(!may_read(&permissions, "a", "f") && !may_read(&permissions, "e", ""));
        assert!(!may_read(&permissions, "a", "x\0") && !may_read(&permissions, "x", "y"));
        assert_eq!(permissions.read.0.len(), 2);
        assert!(!permissions.cover(Access::Write, KeyRange::new(b"a", b"")));
    }

    #[test]
    fn only_an_open_permission_covers_an_open_range() {
        assert!(!may_read(&reading(&[("a", "z")]), "a", "\0"));
        let open = reading(&[("m", "\0"), ("z", ""), ("a", "n")]);
        assert!(may_read(&open, "a", "\0") && may_read(&open, "zz", "zzz"));
        assert_eq!(open.read.0.len(), 1);
        assert!(may_read(&reading(&[("\0", "\0")]), "\0", "\0"));
    }

    #[test]
    fn a_range_without_keys_is_asked_for_as_its_first_key() {
        let permissions = reading(&[("b", "d"), ("x", "x"), ("y", "a")]);
        assert!(may_read(&permissions, "c", "a") && may_read(&permissions, "c", "c"));
        assert!(!may_read(&permissions, "d", "a") && !may_read(&permissions, "x", ""));
        assert!(!may_read(&permissions, "y", ""));
    }
}
