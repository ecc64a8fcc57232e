//! Which keys a request means.

/// Where a range of keys ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End<'a> {
    /// The range is its first key only.
    Single,
    /// Everything from the first key on.
    Open,
    /// Up to this key, which does not belong to it.
    Before(&'a [u8]),
}

/// `key` and `range_end` as requests carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange<'a> {
    pub start: &'a [u8],
    pub end: End<'a>,
}

impl<'a> KeyRange<'a> {
    /// An empty `range_end` means one key, a single zero byte everything from `key` on.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => End::Single,
            [0] => End::Open,
            end => End::Before(end),
        };
        KeyRange { start: key, end }
    }

    /// Every key there is.
    pub const ALL: KeyRange<'static> = KeyRange { start: &[], end: End::Open };

    pub fn is_single(&self) -> bool {
        self.end == End::Single
    }

    /// Whether no key can be inside: the end is not above the start.
    pub fn is_empty(&self) -> bool {
        matches!(self.end, End::Before(end) if end <= self.start)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            End::Single => key == self.start,
            End::Open => key >= self.start,
            End::Before(end) => key >= self.start && key < end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_end_decides_what_is_inside() {
        assert!(KeyRange::new(b"a", b"").contains(b"a"));
        assert!(!KeyRange::new(b"a", b"").contains(b"aa"));
        assert!(KeyRange::new(b"a", b"\0").contains(b"zz"));
        assert!(!KeyRange::new(b"b", b"\0").contains(b"a"));
        assert!(KeyRange::new(b"a", b"c").contains(b"b"));
        assert!(!KeyRange::new(b"a", b"c").contains(b"c"));
        assert!(KeyRange::new(b"b", b"b").is_empty() && KeyRange::new(b"b", b"a").is_empty());
    }
}
