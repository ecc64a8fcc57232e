//! One change of one key, as it is stored and as it is watched.

use super::{RecordKey, Revision};
use crate::backend::Encoded;

/// A put or a delete. `kv` is the encoded `mvccpb.KeyValue` of bucket `key`: all fields for a put, only the key for a
/// tombstone. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub revision: Revision,
    pub is_tombstone: bool,
    pub kv: Encoded,
}

impl Record {
    /// The user's key: field 1 of the encoded `KeyValue`, which is always its first.
    pub fn key(&self) -> &[u8] {
        encoded_key(&self.kv)
    }

    pub fn record_key(&self) -> RecordKey {
        RecordKey::new(self.revision, self.is_tombstone)
    }
}

/// The key inside an encoded `KeyValue`. Empty when the bytes do not begin with one.
pub fn encoded_key(kv: &[u8]) -> &[u8] {
    const KEY_TAG: u8 = 1 << 3 | 2;
    let Some((&KEY_TAG, mut rest)) = kv.split_first() else { return &[] };
    let mut len = 0_usize;
    for shift in (0..35).step_by(7) {
        let Some((&byte, tail)) = rest.split_first() else { return &[] };
        rest = tail;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return rest.get(..len).unwrap_or(&[]);
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use retcd_api::mvccpb::KeyValue;

    use super::*;

    #[test]
    fn the_key_is_found_in_the_encoded_value() {
        for key in [vec![1], vec![7; 127], vec![7; 128], vec![7; 20_000]] {
            let kv = KeyValue {
                key: key.clone().into(),
                value: "v".into(),
                version: 1,
                ..Default::default()
            };
            assert_eq!(encoded_key(&kv.encode_to_vec()), key);
        }
        assert_eq!(encoded_key(&[]), b"");
        assert_eq!(encoded_key(&[0x0a, 0x05, 1]), b"");
    }
}
