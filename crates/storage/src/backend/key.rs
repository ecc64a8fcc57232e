//! Bucket keys as LMDB keys, which must have 1 to 511 bytes.
//!
//! Bucket `key` holds record keys of 17 or 18 bytes: they stand as they are. All other buckets:
//!
//! ```text
//! up to 478 bytes     'k' key                                          value
//! longer              'k' first 478 bytes, SHA-256 of the whole key    length of the key (4 bytes, LE), key, value
//! ```
//!
//! The `k` is there for the empty key. Order is that of the keys but among long ones with equal first 478 bytes;
//! between two of those no other key can lie, so a scan collects such a group and sorts it.

use retcd_state_machine::schema::Bucket;
use sha2::{Digest, Sha256};

use super::Error;

const MARK: u8 = b'k';
const HASH_BYTES: usize = 32;
/// Longer keys are cut here and hashed.
pub(super) const PLAIN_BYTES_MAX: usize = 511 - 1 - HASH_BYTES;
/// The part of a stored key that is equal within a group of long keys.
const GROUP_BYTES: usize = 1 + PLAIN_BYTES_MAX;

/// What a key of any bucket stands under.
pub(super) fn stored(bucket: Bucket, key: &[u8]) -> Result<Vec<u8>, Error> {
    match (bucket, key.len()) {
        (Bucket::Key, 1..=511) => Ok(key.to_vec()),
        (Bucket::Key, len) => Err(Error::RecordKey { len }),
        _ => Ok(stored_key(key)),
    }
}

/// A key as it is stored.
fn stored_key(key: &[u8]) -> Vec<u8> {
    let mut stored = seek_key(key);
    if is_long(key) {
        stored.extend_from_slice(&Sha256::digest(key));
    }
    stored
}

/// Where a scan from `key` starts: at or before its stored form, and before its group.
pub(super) fn seek_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(GROUP_BYTES + HASH_BYTES);
    stored.push(MARK);
    stored.extend_from_slice(&key[..key.len().min(PLAIN_BYTES_MAX)]);
    stored
}

pub(super) fn is_long(key: &[u8]) -> bool {
    key.len() > PLAIN_BYTES_MAX
}

/// The stored value of a long key: the key comes with it.
pub(super) fn long_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    // Keys come out of log entries, which are far below 4 GiB.
    let len = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut stored = Vec::with_capacity(4 + key.len() + value.len());
    stored.extend_from_slice(&len.to_le_bytes());
    stored.extend_from_slice(key);
    stored.extend_from_slice(value);
    stored
}

/// Key and value of what is stored under a long key.
pub(super) fn split_long_value(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = stored.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
}

/// What a stored key stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored<'a> {
    Plain(&'a [u8]),
    /// The key is in the value. The bytes are those that the group has in common.
    Long(&'a [u8]),
}

pub(super) fn read_stored(stored: &[u8]) -> Stored<'_> {
    match stored.get(..GROUP_BYTES) {
        Some(group) if stored.len() > GROUP_BYTES => Stored::Long(group),
        _ => Stored::Plain(stored.get(1..).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_keys_fit_and_keep_the_order_of_keys_up_to_the_group() {
        let mut keys: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0, 0], b"a".to_vec()];
        for len in [477, 478, 479, 480, 5000] {
            keys.push(vec![b'x'; len]);
        }
        for key in &keys {
            let stored = stored_key(key);
            assert!((1..=511).contains(&stored.len()));
            assert!(seek_key(key) <= stored);
            match read_stored(&stored) {
                Stored::Plain(plain) => assert_eq!(plain, key),
                Stored::Long(group) => {
                    assert!(is_long(key));
                    assert_eq!(group[1..], key[..478]);
                    let value = long_value(key, b"v");
                    assert_eq!(split_long_value(&value), Some((&key[..], &b"v"[..])));
                }
            }
        }
        let stored: Vec<_> = keys[..7].iter().map(|key| stored_key(key)).collect();
        assert!(stored.is_sorted());
        assert_eq!(split_long_value(&[9, 0, 0, 0, 1]), None);
    }
}
