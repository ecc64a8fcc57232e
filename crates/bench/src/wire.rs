//! Looks into answers without decoding them.
//!
//! A range of 10,000 keys would cost the client more to decode than it costs some servers to answer. The check
//! that it holds 10,000 keys needs only the tags of its outermost message.

/// How often `field` stands in the outermost message. `None` if the bytes are not a protobuf message.
pub(crate) fn count_field(mut message: &[u8], field: u64) -> Option<u64> {
    let mut count = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match tag & 7 {
            0 => drop(varint(&mut message)?),
            1 => skip(&mut message, 8)?,
            2 => {
                let len = varint(&mut message)?;
                skip(&mut message, len)?;
            }
            5 => skip(&mut message, 4)?,
            _ => return None,
        }
        count += u64::from(tag >> 3 == field);
    }
    Some(count)
}

fn skip(message: &mut &[u8], len: u64) -> Option<()> {
    *message = message.get(usize::try_from(len).ok()?..)?;
    Some(())
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use retcd_api::etcdserverpb::{RangeResponse, ResponseHeader};
    use retcd_api::mvccpb::KeyValue;

    use super::*;

    fn answer(kvs: usize) -> Vec<u8> {
        let kv = KeyValue { key: "k".into(), value: vec![7; 300].into(), ..KeyValue::default() };
        let header = Some(ResponseHeader { revision: i64::MAX, ..ResponseHeader::default() });
        RangeResponse { header, kvs: vec![kv; kvs], more: true, count: 1 << 40 }.encode_to_vec()
    }

    #[test]
    fn counts_only_the_field_asked_for() {
        for kvs in [0, 1, 200] {
            assert_eq!(count_field(&answer(kvs), 2), Some(kvs as u64));
        }
        assert_eq!(count_field(&answer(5), 1), Some(1));
        assert_eq!(count_field(&answer(5), 9), Some(0));
    }

    #[test]
    fn a_cut_message_is_not_counted() {
        let whole = answer(3);
        assert_eq!(count_field(&whole[..whole.len() - 20], 2), None);
        assert_eq!(count_field(&[0xff; 20], 2), None);
    }
}
