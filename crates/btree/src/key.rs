//! A key as a node stores it: the part shared with its neighbours, and its own.

use std::cmp::Ordering;

/// A borrowed key in two parts. The key is `prefix` followed by `suffix`; where the cut lies means nothing.
///
/// Walks hand these out so that a caller who only compares, hashes or copies never pays for joining them.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    prefix: &'a [u8],
    suffix: &'a [u8],
}

impl<'a> Key<'a> {
    pub(crate) fn new(prefix: &'a [u8], suffix: &'a [u8]) -> Self {
        Self { prefix, suffix }
    }

    /// The part that this key shares with its neighbours.
    pub fn prefix(&self) -> &'a [u8] {
        self.prefix
    }

    /// What follows the prefix.
    pub fn suffix(&self) -> &'a [u8] {
        self.suffix
    }

    /// Length of the whole key in bytes.
    pub fn len(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// Whether this is the empty key.
    pub fn is_empty(&self) -> bool {
        self.prefix.is_empty() && self.suffix.is_empty()
    }

    /// Appends the whole key to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix);
        out.extend_from_slice(self.suffix);
    }

    /// The whole key in a buffer of exactly its size.
    pub fn to_vec(&self) -> Vec<u8> {
        [self.prefix, self.suffix].concat()
    }

    /// Orders this key against a whole one.
    pub fn cmp_bytes(&self, other: &[u8]) -> Ordering {
        let (head, tail) = other.split_at(self.prefix.len().min(other.len()));
        self.prefix.cmp(head).then_with(|| self.suffix.cmp(tail))
    }
}

impl PartialEq<[u8]> for Key<'_> {
    fn eq(&self, other: &[u8]) -> bool {
        self.len() == other.len() && self.cmp_bytes(other).is_eq()
    }
}

/// How many leading bytes two strings share.
pub(crate) fn common_len(a: &[u8], b: &[u8]) -> usize {
    const CHUNK: usize = 16;
    let whole =
        a.chunks_exact(CHUNK).zip(b.chunks_exact(CHUNK)).take_while(|(x, y)| x == y).count()
            * CHUNK;
    whole + a[whole..].iter().zip(&b[whole..]).take_while(|(x, y)| x == y).count()
}

/// The shortest string above `left` and not above `right`; `left` must be below `right`.
pub(crate) fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    assert!(left < right, "only ascending keys can be told apart");
    right[..=common_len(left, right)].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_separator_is_as_short_as_can_be() {
        assert_eq!(separator(b"pod-19", b"pod-2041"), b"pod-2");
        assert_eq!(separator(b"", b"\0\0"), b"\0");
        assert_eq!(separator(b"pod", b"pod-1"), b"pod-");
    }

    #[test]
    fn common_len_looks_past_whole_chunks() {
        let long = [7; 50];
        for n in 0..50 {
            let mut other = long;
            other[n] = 8;
            assert_eq!(common_len(&long, &other), n);
            assert_eq!(common_len(&long, &long[..n]), n);
        }
        assert_eq!(common_len(&long, &long), 50);
    }

    #[test]
    fn a_key_compares_like_the_joined_string() {
        let words: [&[u8]; 8] = [b"", b"\0", b"a", b"ab", b"abc", b"abd", b"b", b"\xff"];
        for word in words {
            for cut in 0..=word.len() {
                let key = Key::new(&word[..cut], &word[cut..]);
                assert_eq!(key.to_vec(), word);
                for other in words {
                    assert_eq!(
                        key.cmp_bytes(other),
                        word.cmp(other),
                        "{word:?} cut at {cut} against {other:?}"
                    );
                    assert_eq!(key == *other, word == other);
                }
            }
        }
    }
}
