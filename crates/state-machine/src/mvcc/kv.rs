//! The bytes of a `mvccpb.KeyValue`, written and read by hand.
//!
//! A value is encoded once, when it is written, exactly as Go's protobuf encodes it: fields in the order of their
//! numbers, zero fields absent. The same bytes then serve the cache, the disk, watchers and answers, and members of
//! both kinds agree on their hash.

use prost::encoding::{DecodeContext, encoded_len_varint, skip_field};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use crate::backend::Encoded;

/// The fields of a `KeyValue`, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyValue<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// Reads encoded bytes back. `None` when they are no `KeyValue`.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut kv = KeyValue::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            match decode_key(&mut rest).ok()? {
                (1, WireType::LengthDelimited) => kv.key = take_bytes(&mut rest)?,
                (2, WireType::Varint) => kv.create_revision = take_int64(&mut rest)?,
                (3, WireType::Varint) => kv.mod_revision = take_int64(&mut rest)?,
                (4, WireType::Varint) => kv.version = take_int64(&mut rest)?,
                (5, WireType::LengthDelimited) => kv.value = take_bytes(&mut rest)?,
                (6, WireType::Varint) => kv.lease = take_int64(&mut rest)?,
                (tag, wire) => skip_field(wire, tag, &mut rest, DecodeContext::default()).ok()?,
            }
        }
        Some(kv)
    }

    pub fn encoded_len(&self) -> usize {
        bytes_len(self.key)
            + int64_len(self.create_revision)
            + int64_len(self.mod_revision)
            + int64_len(self.version)
            + bytes_len(self.value)
            + int64_len(self.lease)
    }

    /// Appends the encoded message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(1, self.key, out);
        put_int64(2, self.create_revision, out);
        put_int64(3, self.mod_revision, out);
        put_int64(4, self.version, out);
        put_bytes(5, self.value, out);
        put_int64(6, self.lease, out);
    }

    /// The encoded message in shared bytes; `scratch` saves an allocation.
    pub fn to_encoded(&self, scratch: &mut Vec<u8>) -> Encoded {
        scratch.clear();
        self.encode(scratch);
        Encoded::from(scratch.as_slice())
    }

    /// The same without its value.
    #[must_use]
    pub fn without_value(self) -> Self {
        KeyValue { value: &[], ..self }
    }

    /// What a read of keys only shows: neither value nor lease.
    #[must_use]
    pub fn key_only(self) -> Self {
        KeyValue { value: &[], lease: 0, ..self }
    }
}

/// Appends a field of type int64, bool or enum, unless it is zero.
pub(crate) fn put_int64(tag: u32, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value.cast_unsigned(), out);
    }
}

/// Appends a field of bytes or text, unless it is empty.
pub(crate) fn put_bytes(tag: u32, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        put_message(tag, value, out);
    }
}

/// Appends an encoded message as a field; an empty one is present too.
pub(crate) fn put_message(tag: u32, encoded: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(encoded.len() as u64, out);
    out.extend_from_slice(encoded);
}

/// Bytes that [`put_message`] appends, for tags below 16.
pub(crate) fn message_len(encoded_len: usize) -> usize {
    1 + encoded_len_varint(encoded_len as u64) + encoded_len
}

/// Appends the message that `fill` writes as a field, without knowing its length before.
pub(crate) fn put_nested(tag: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    put_message(tag, &inner, out);
}

fn bytes_len(value: &[u8]) -> usize {
    if value.is_empty() { 0 } else { message_len(value.len()) }
}

fn int64_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value.cast_unsigned()) }
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (bytes, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(bytes)
}

fn take_int64(rest: &mut &[u8]) -> Option<i64> {
    Some(decode_varint(rest).ok()?.cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use retcd_api::mvccpb;

    use super::*;

    fn message(kv: &KeyValue<'_>) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: kv.key.to_vec().into(),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: kv.value.to_vec().into(),
            lease: kv.lease,
        }
    }

    proptest! {
        #[test]
        fn encodes_and_decodes_as_protobuf_does(
            key in proptest::collection::vec(any::<u8>(), 0..200),
            value in proptest::collection::vec(any::<u8>(), 0..300),
            numbers in any::<(i64, i64, i64, i64)>(),
        ) {
            let (create_revision, mod_revision, version, lease) = numbers;
            let kv = KeyValue { key: &key, create_revision, mod_revision, version, value: &value, lease };
            let expected = message(&kv).encode_to_vec();
            let mut encoded = Vec::new();
            kv.encode(&mut encoded);
            prop_assert_eq!(&encoded, &expected);
            prop_assert_eq!(kv.encoded_len(), encoded.len());
            prop_assert_eq!(KeyValue::decode(&encoded), Some(kv));
        }
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        assert_eq!(KeyValue::decode(&[0x0a, 0x05, 1]), None);
        assert_eq!(KeyValue::decode(&[0x10]), None);
        assert_eq!(KeyValue::decode(&[]), Some(KeyValue::default()));
    }
}
