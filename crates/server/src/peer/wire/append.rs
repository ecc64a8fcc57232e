//! The append stream ("msgapp v2"): a leader's entries without their envelope.
//!
//! ```text
//! 0                                                                            link heartbeat
//! 1 | count: u64 | count x (length: u64 | raftpb.Entry) | commit index: u64    entries
//! 2 | length: u64 | raftpb.Message                                             whole message
//! ```
//!
//! Both sides keep term and index of the last entry. A message that goes on exactly there, in the same term, goes as
//! entries only; the reader rebuilds the rest. Any other goes whole and sets both sides anew.

use bytes::{Buf, BufMut, BytesMut};
use prost::Message as _;
use retcd_api::raftpb::{Entry, Message, MessageType};

use super::frame::{self, Error, Item, LEN_BYTES, MESSAGE_BYTES_MAX};

const LINK_HEARTBEAT: u8 = 0;
const ENTRIES: u8 = 1;
const MESSAGE: u8 = 2;

/// Term and index of the last entry that went over the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    fn after(message: &Message) -> Self {
        let last = message.entries.last();
        Self { term: message.term, index: last.map_or(message.index, |entry| entry.index) }
    }

    fn goes_on_with(self, message: &Message) -> bool {
        message.index == self.index && message.log_term == self.term && message.term == self.term
    }
}

/// The writer's side of one stream.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    position: Position,
}

impl Encoder {
    /// Appends an append message.
    pub(crate) fn encode(&mut self, message: &Message, buffer: &mut BytesMut) {
        debug_assert_eq!(message.r#type(), MessageType::MsgApp, "only appends go over this stream");
        if self.position.goes_on_with(message) {
            encode_entries(message, buffer);
            self.position.index += message.entries.len() as u64;
        } else {
            buffer.put_u8(MESSAGE);
            frame::encode(message, buffer);
            self.position = Position::after(message);
        }
    }

    pub(crate) fn encode_link_heartbeat(buffer: &mut BytesMut) {
        buffer.put_u8(LINK_HEARTBEAT);
    }
}

fn encode_entries(message: &Message, buffer: &mut BytesMut) {
    let lens = message.entries.iter().map(|entry| LEN_BYTES + entry.encoded_len());
    buffer.reserve(1 + 2 * LEN_BYTES + lens.sum::<usize>());
    buffer.put_u8(ENTRIES);
    buffer.put_u64(message.entries.len() as u64);
    for entry in &message.entries {
        buffer.put_u64(entry.encoded_len() as u64);
        entry.encode(buffer).expect("the buffer grows");
    }
    buffer.put_u64(message.commit);
}

/// The reader's side of one stream.
#[derive(Debug)]
pub(crate) struct Decoder {
    local: u64,
    remote: u64,
    position: Position,
    /// The message whose entries are coming in.
    partial: Option<Partial>,
}

/// A message of which some entries are there.
#[derive(Debug)]
struct Partial {
    message: Message,
    entries_missing: u64,
    bytes: u64,
}

impl Decoder {
    /// For a stream from `remote` to this member, `local`.
    pub(crate) fn new(local: u64, remote: u64) -> Self {
        Self { local, remote, position: Position::default(), partial: None }
    }

    /// Whether the stream may end here.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.partial.is_none()
    }

    /// Takes the first item off `buffer`; `None` while it is incomplete.
    ///
    /// # Errors
    /// What cannot be decoded; the stream is of no use then.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, Error> {
        if self.partial.is_some() {
            return self.decode_entries(buffer);
        }
        match buffer.first().copied() {
            None => Ok(None),
            Some(LINK_HEARTBEAT) => {
                buffer.advance(1);
                Ok(Some(Item::LinkHeartbeat))
            }
            Some(ENTRIES) => {
                let Some(count) = frame::u64_at(buffer, 1) else { return Ok(None) };
                buffer.advance(1 + LEN_BYTES);
                self.partial = Some(Partial {
                    message: self.next_message(),
                    entries_missing: count,
                    bytes: 0,
                });
                self.decode_entries(buffer)
            }
            Some(MESSAGE) => {
                let decode = frame::decode_message;
                let message = frame::take_sized(buffer, 1, MESSAGE_BYTES_MAX, decode)?;
                self.position = message.as_ref().map_or(self.position, Position::after);
                Ok(message.map(Item::Message))
            }
            Some(other) => Err(Error::UnknownType(other)),
        }
    }

    /// The envelope of a message that goes on where the stream is.
    fn next_message(&self) -> Message {
        Message {
            r#type: MessageType::MsgApp.into(),
            from: self.remote,
            to: self.local,
            term: self.position.term,
            log_term: self.position.term,
            index: self.position.index,
            ..Message::default()
        }
    }

    fn decode_entries(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, Error> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        while partial.entries_missing > 0 {
            let bytes_before = buffer.len();
            let decode = |bytes: &[u8]| Entry::decode(bytes);
            let Some(entry) = frame::take_sized(buffer, 0, MESSAGE_BYTES_MAX, decode)? else {
                return Ok(None);
            };
            partial.bytes += (bytes_before - buffer.len()) as u64;
            if partial.bytes > MESSAGE_BYTES_MAX {
                return Err(Error::TooLong { len: partial.bytes, max: MESSAGE_BYTES_MAX });
            }
            partial.message.entries.push(entry);
            partial.entries_missing -= 1;
        }
        let Some(commit) = frame::u64_at(buffer, 0) else { return Ok(None) };
        buffer.advance(LEN_BYTES);
        let Some(Partial { mut message, .. }) = self.partial.take() else { return Ok(None) };
        message.commit = commit;
        self.position.index += message.entries.len() as u64;
        Ok(Some(Item::Message(message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(term: u64, log_term: u64, index: u64, data: &[&'static str]) -> Message {
        let entry = |(at, data): (usize, &&'static str)| Entry {
            term,
            index: index + 1 + at as u64,
            data: (*data).into(),
            ..Entry::default()
        };
        Message {
            r#type: MessageType::MsgApp.into(),
            from: 2,
            to: 1,
            term,
            log_term,
            index,
            commit: index,
            entries: data.iter().enumerate().map(entry).collect(),
            ..Message::default()
        }
    }

    #[test]
    fn the_first_message_goes_whole_and_what_follows_without_envelope() {
        let (mut encoder, mut buffer) = (Encoder::default(), BytesMut::new());
        encoder.encode(&append(1, 0, 0, &["a"]), &mut buffer);
        let whole = b"\x02\0\0\0\0\0\0\0\x11\x08\x03\x10\x01\x18\x02\x20\x01\x3a\x07\x10\x01\x18\x01\x22\x01a";
        assert_eq!(buffer[..], whole[..]);

        buffer.clear();
        encoder.encode(&append(1, 1, 1, &["b"]), &mut buffer);
        let entries =
            b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x07\x10\x01\x18\x02\x22\x01b\0\0\0\0\0\0\0\x01";
        assert_eq!(buffer[..], entries[..]);

        buffer.clear();
        Encoder::encode_link_heartbeat(&mut buffer);
        assert_eq!(buffer[..], *b"\0");
    }

    #[test]
    fn an_entry_in_etcds_full_form_decodes() {
        // Type and data written although they are empty.
        let bytes =
            b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x08\x08\0\x10\0\x18\x01\x22\0\0\0\0\0\0\0\0\x05";
        let mut buffer = BytesMut::from(&bytes[..]);
        let item = Decoder::new(1, 2).decode(&mut buffer).unwrap();
        let entry = Entry { index: 1, ..Entry::default() };
        let message = Message { commit: 5, entries: vec![entry], ..append(0, 0, 0, &[]) };
        assert_eq!(item, Some(Item::Message(message)));
    }

    #[test]
    fn a_new_term_goes_whole() {
        let (mut encoder, mut buffer) = (Encoder::default(), BytesMut::new());
        encoder.encode(&append(1, 0, 0, &["a"]), &mut buffer);
        let whole = buffer.split();
        encoder.encode(&append(2, 1, 1, &["b"]), &mut buffer);
        assert_eq!(buffer[0], MESSAGE);
        let second = buffer.split();
        encoder.encode(&append(2, 2, 2, &["c"]), &mut buffer);
        assert_eq!(buffer[0], ENTRIES);

        let mut decoder = Decoder::new(1, 2);
        let mut all = whole;
        all.extend_from_slice(&second);
        all.extend_from_slice(&buffer);
        for expected in [append(1, 0, 0, &["a"]), append(2, 1, 1, &["b"]), append(2, 2, 2, &["c"])]
        {
            assert_eq!(decoder.decode(&mut all).unwrap(), Some(Item::Message(expected)));
        }
        assert!(all.is_empty() && decoder.is_between_messages());
    }

    #[test]
    fn unknown_types_and_huge_lengths_are_refused() {
        let mut decoder = Decoder::new(1, 2);
        let mut buffer = BytesMut::from(&b"\x03"[..]);
        assert!(matches!(decoder.decode(&mut buffer), Err(Error::UnknownType(3))));
        let mut buffer = BytesMut::from(&b"\x02\xff\xff\xff\xff\xff\xff\xff\xff"[..]);
        assert!(matches!(decoder.decode(&mut buffer), Err(Error::TooLong { .. })));
        // A count of entries costs nothing by itself.
        let mut buffer = BytesMut::from(&b"\x01\xff\xff\xff\xff\xff\xff\xff\xff"[..]);
        assert!(decoder.decode(&mut buffer).unwrap().is_none());
        assert!(!decoder.is_between_messages());
    }
}
