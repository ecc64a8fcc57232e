//! The plain frame: a length and a Raft message.
//!
//! ```text
//! length: u64 big endian | raftpb.Message (length bytes)
//! ```
//!
//! The message stream is a sequence of these, a snapshot's body begins with one. A message without sender and receiver
//! of type heartbeat is the link's own sign of life; Raft never sees it.

use bytes::{Buf, BufMut, BytesMut};
use prost::Message as _;
use retcd_api::raftpb::{Message, MessageType};

/// Longer messages are refused: nobody sends them, and a wrong length must not cost memory.
pub(crate) const MESSAGE_BYTES_MAX: u64 = 512 << 20;
/// The limit for the message in front of a snapshot. The database itself is not in it.
pub(crate) const SNAPSHOT_HEAD_BYTES_MAX: u64 = 64 << 20;

/// What cannot stand on the wire. The stream is of no use after it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("a message of {len} bytes is over the limit of {max}")]
    TooLong { len: u64, max: u64 },
    #[error("unknown frame type {0} on the append stream")]
    UnknownType(u8),
    #[error("a message does not decode: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("the stream ends within a message")]
    Truncated,
}

/// What comes out of a stream.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all items are messages")]
pub(crate) enum Item {
    LinkHeartbeat,
    Message(Message),
}

/// Appends the frame of a message.
pub(crate) fn encode(message: &Message, buffer: &mut BytesMut) {
    let len = message.encoded_len();
    buffer.reserve(LEN_BYTES + len);
    buffer.put_u64(len as u64);
    message.encode(buffer).expect("the buffer grows");
}

/// Appends a link heartbeat.
pub(crate) fn encode_link_heartbeat(buffer: &mut BytesMut) {
    encode(&link_heartbeat(), buffer);
}

fn link_heartbeat() -> Message {
    Message { r#type: MessageType::MsgHeartbeat.into(), ..Message::default() }
}

/// Takes the first frame off `buffer`; `None` while it is incomplete.
///
/// # Errors
/// [`Error::TooLong`] above `max` bytes, [`Error::Malformed`].
pub(crate) fn decode(buffer: &mut BytesMut, max: u64) -> Result<Option<Item>, Error> {
    let Some(message) = take_sized(buffer, 0, max, decode_message)? else { return Ok(None) };
    let is_link_heartbeat =
        message.r#type() == MessageType::MsgHeartbeat && message.from == 0 && message.to == 0;
    Ok(Some(if is_link_heartbeat { Item::LinkHeartbeat } else { Item::Message(message) }))
}

pub(super) fn decode_message(bytes: &[u8]) -> Result<Message, prost::DecodeError> {
    // From a slice the payloads are copied: kept in the log, they must not hold on to the read buffer.
    Message::decode(bytes)
}

/// Bytes of a length.
pub(super) const LEN_BYTES: usize = 8;

/// The number at an offset; `None` while it is not there whole.
pub(super) fn u64_at(buffer: &[u8], offset: usize) -> Option<u64> {
    let bytes = buffer.get(offset..)?.first_chunk()?;
    Some(u64::from_be_bytes(*bytes))
}

/// A checked length in front of which `before` bytes stand; `None` while it is not there whole.
pub(super) fn len_at(buffer: &[u8], before: usize, max: u64) -> Result<Option<usize>, Error> {
    let Some(len) = u64_at(buffer, before) else { return Ok(None) };
    match usize::try_from(len) {
        Ok(size) if len <= max => Ok(Some(size)),
        _ => Err(Error::TooLong { len, max }),
    }
}

/// Takes `before` bytes, a length and that many bytes off the buffer, and decodes the last.
pub(super) fn take_sized<T>(
    buffer: &mut BytesMut,
    before: usize,
    max: u64,
    decode: impl FnOnce(&[u8]) -> Result<T, prost::DecodeError>,
) -> Result<Option<T>, Error> {
    let Some(len) = len_at(buffer, before, max)? else { return Ok(None) };
    let start = before + LEN_BYTES;
    let Some(bytes) = buffer.get(start..start + len) else {
        // The buffer grows with what arrives, not with what a length promises.
        return Ok(None);
    };
    let decoded = decode(bytes)?;
    buffer.advance(start + len);
    Ok(Some(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(message: &Message) -> BytesMut {
        let mut buffer = BytesMut::new();
        encode(message, &mut buffer);
        buffer
    }

    #[test]
    fn a_frame_is_a_length_and_the_message() {
        let message = Message {
            r#type: MessageType::MsgHeartbeatResp.into(),
            to: 1,
            from: 2,
            term: 3,
            ..Message::default()
        };
        let bytes = encoded(&message);
        assert_eq!(bytes[..], *b"\0\0\0\0\0\0\0\x08\x08\x09\x10\x01\x18\x02\x20\x03");
        assert_eq!(
            decode(&mut bytes.clone(), MESSAGE_BYTES_MAX).unwrap(),
            Some(Item::Message(message))
        );
    }

    #[test]
    fn the_link_heartbeat_has_the_bytes_of_etcd() {
        let mut buffer = BytesMut::new();
        encode_link_heartbeat(&mut buffer);
        assert_eq!(buffer[..], *b"\0\0\0\0\0\0\0\x02\x08\x08");
        assert_eq!(decode(&mut buffer, 100).unwrap(), Some(Item::LinkHeartbeat));
        // As etcd before 3.7 wrote it, with every zero, and an empty snapshot.
        let old = b"\x08\x08\x10\0\x18\0\x20\0\x28\0\x30\0\x40\0\x4a\x06\x12\x04\x10\0\x18\0\x50\0\x58\0\x68\0";
        let mut buffer = BytesMut::new();
        buffer.put_u64(old.len() as u64);
        buffer.put_slice(old);
        assert_eq!(decode(&mut buffer, 100).unwrap(), Some(Item::LinkHeartbeat));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_there() {
        let mut buffer = BytesMut::new();
        buffer.put_u64(101);
        assert!(matches!(decode(&mut buffer, 100), Err(Error::TooLong { len: 101, max: 100 })));
        let mut buffer = BytesMut::new();
        buffer.put_u64(u64::MAX);
        assert!(matches!(decode(&mut buffer, MESSAGE_BYTES_MAX), Err(Error::TooLong { .. })));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut buffer = BytesMut::from(&b"\0\0\0\0\0\0\0\x02\xff\xff"[..]);
        assert!(matches!(decode(&mut buffer, 100), Err(Error::Malformed(_))));
    }
}
