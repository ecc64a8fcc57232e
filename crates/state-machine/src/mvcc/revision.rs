//! Revisions: the clock of the store.
//!
//! Every write request takes one main revision; the changes inside it are numbered by sub revisions from 0.
//! An empty store is at main revision 1, so the first write gets 2.

/// One change of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub fn new(main: i64, sub: i64) -> Self {
        Revision { main, sub }
    }
}

/// The key of a record in bucket `key`, as etcd lays it out: main revision (8 bytes, big endian), `_`, sub revision
/// (8 bytes, big endian), and a `t` behind it when the record is a tombstone. Bytewise order is revision order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    bytes: [u8; 18],
    len: u8,
}

impl RecordKey {
    pub fn new(revision: Revision, is_tombstone: bool) -> Self {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(&revision.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&revision.sub.to_be_bytes());
        if is_tombstone {
            bytes[17] = b't';
        }
        RecordKey { bytes, len: if is_tombstone { 18 } else { 17 } }
    }

    /// Reads a record key back. `None` when the bytes are not one.
    pub fn decode(bytes: &[u8]) -> Option<(Revision, bool)> {
        let is_tombstone = match bytes.len() {
            17 => false,
            18 if bytes[17] == b't' => true,
            _ => return None,
        };
        if bytes[8] != b'_' {
            return None;
        }
        let main = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(bytes[9..17].try_into().ok()?);
        Some((Revision { main, sub }, is_tombstone))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_key_is_read_back_and_sorts_by_revision() {
        let keys: Vec<_> = [(2, 0, false), (2, 1, true), (3, 0, false), (300, 7, true)]
            .map(|(main, sub, tombstone)| (Revision::new(main, sub), tombstone))
            .to_vec();
        let encoded: Vec<_> = keys
            .iter()
            .map(|(revision, tombstone)| RecordKey::new(*revision, *tombstone))
            .collect();
        for (key, encoded) in keys.iter().zip(&encoded) {
            assert_eq!(RecordKey::decode(encoded.as_bytes()), Some(*key));
        }
        assert!(encoded.windows(2).all(|pair| pair[0].as_bytes() < pair[1].as_bytes()));
        assert_eq!(RecordKey::decode(b"short"), None);
    }
}
