//! WebSocket's frames (RFC 6455 §5), as a server reads and writes them.
//!
//! ```text
//!   0                   1
//!   0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5
//!  ┌─┬─────┬───────┬─┬─────────────┐
//!  │F│0 0 0│ opcode│M│ length      │  length 126: two more bytes hold it, 127: eight
//!  └─┴─────┴───────┴─┴─────────────┘  M: four bytes of mask follow, always from a client, never to one
//! ```
//!
//! F ends a message; its later frames have opcode 0. No extension is ever agreed on, so the three bits stay 0.

use bytes::{Buf, Bytes, BytesMut};

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const MASK_BYTES: usize = 4;
/// Frames that are about the connection are short and never cut.
const CONTROL_BYTES_MAX: usize = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a client has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// A whole message; whether it calls itself text or binary makes no difference.
    Message(Bytes),
    Ping(Bytes),
    Pong,
    Close,
}

/// Why a connection ends, as the number in its last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum CloseCode {
    Normal = 1000,
    ProtocolError = 1002,
    TooBig = 1009,
}

/// Joins frames into messages, however the bytes are cut.
#[derive(Debug)]
pub(crate) struct FrameReader {
    buffer: BytesMut,
    /// The frames so far of a message that goes on.
    message: Option<BytesMut>,
    message_bytes_max: usize,
}

/// The head of a frame.
struct Head {
    bytes: usize,
    is_final: bool,
    opcode: u8,
    payload_bytes: usize,
}

impl FrameReader {
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), message: None, message_bytes_max }
    }

    /// Where the bytes of the connection go.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// What has come whole, or `None` until more bytes come.
    ///
    /// # Errors
    /// The client breaks the protocol, or sends more than this server takes.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, CloseCode> {
        loop {
            let Some(head) = self.head()? else { return Ok(None) };
            if self.buffer.len() < head.bytes + head.payload_bytes {
                return Ok(None);
            }
            let payload = self.payload(&head);
            if let Some(incoming) = self.take(&head, payload)? {
                return Ok(Some(incoming));
            }
        }
    }

    /// The head of the next frame, checked.
    fn head(&self) -> Result<Option<Head>, CloseCode> {
        let Some(&[first, second]) = self.buffer.first_chunk() else { return Ok(None) };
        let (is_final, opcode) = (first & FINAL != 0, first & 0x0f);
        let (is_masked, short) = (second & MASKED != 0, second & 0x7f);
        let is_control = opcode >= CLOSE;
        let breaks_control = is_control && (!is_final || usize::from(short) > CONTROL_BYTES_MAX);
        if first & RESERVED != 0 || !is_masked || breaks_control {
            return Err(CloseCode::ProtocolError);
        }
        let rest = &self.buffer[2..];
        let (length_bytes, length) = match short {
            126 => (2, rest.first_chunk().map(|bytes| u64::from(u16::from_be_bytes(*bytes)))),
            127 => (8, rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))),
            short => (0, Some(u64::from(short))),
        };
        let Some(length) = length else { return Ok(None) };
        let before = self.message.as_ref().map_or(0, BytesMut::len);
        let payload_bytes = usize::try_from(length).map_err(|_| CloseCode::TooBig)?;
        if !is_control && payload_bytes > self.message_bytes_max.saturating_sub(before) {
            return Err(CloseCode::TooBig);
        }
        Ok(Some(Head { bytes: 2 + length_bytes + MASK_BYTES, is_final, opcode, payload_bytes }))
    }

    /// Takes a whole frame out of the buffer and undoes its mask.
    fn payload(&mut self, head: &Head) -> BytesMut {
        let mut frame = self.buffer.split_to(head.bytes + head.payload_bytes);
        frame.advance(head.bytes - MASK_BYTES);
        let mask = frame.split_to(MASK_BYTES);
        for (byte, mask) in frame.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        if self.buffer.is_empty() {
            // A client that listens only costs no memory for what it once sent.
            self.buffer = BytesMut::new();
        }
        frame
    }

    fn take(&mut self, head: &Head, payload: BytesMut) -> Result<Option<Incoming>, CloseCode> {
        match (head.opcode, &mut self.message) {
            (TEXT | BINARY, message @ None) => *message = Some(payload),
            (CONTINUATION, Some(message)) => message.unsplit(payload),
            (PING, _) => return Ok(Some(Incoming::Ping(payload.freeze()))),
            (PONG, _) => return Ok(Some(Incoming::Pong)),
            (CLOSE, _) => return Ok(Some(Incoming::Close)),
            _ => return Err(CloseCode::ProtocolError),
        }
        if !head.is_final {
            return Ok(None);
        }
        let message = self.message.take().expect("a frame of it has just come");
        Ok(Some(Incoming::Message(message.freeze())))
    }
}

/// A message to the client, whole in one frame.
pub(crate) fn text(payload: &[u8]) -> Vec<u8> {
    frame(TEXT, payload)
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    frame(PONG, payload)
}

/// The last frame.
pub(crate) fn close(code: CloseCode) -> Vec<u8> {
    frame(CLOSE, &(code as u16).to_be_bytes())
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(10 + payload.len());
    frame.push(FINAL | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame as a client sends it.
    pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut bytes = frame(0, payload);
        let head = bytes.len() - payload.len();
        bytes.truncate(head);
        bytes[0] = first;
        bytes[1] |= MASKED;
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn read(bytes: &[u8], size: usize) -> Result<Vec<Incoming>, CloseCode> {
        let mut reader = FrameReader::new(100_000);
        let mut seen = Vec::new();
        for chunk in bytes.chunks(size) {
            reader.buffer().extend_from_slice(chunk);
            while let Some(incoming) = reader.next()? {
                seen.push(incoming);
            }
        }
        Ok(seen)
    }

    #[test]
    fn the_masked_hello_of_the_standard_is_read() {
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(read(&hello, 11), Ok(vec![Incoming::Message("Hello".into())]));
        assert_eq!(masked(0x81, b"Hello"), hello);
    }

    #[test]
    fn messages_come_whole_however_the_bytes_were_cut() {
        let long = vec![b'x'; 70_000];
        let medium = vec![b'y'; 126];
        let bytes = [
            masked(0x01, b"a"),
            masked(0x89, b"ping between the frames"),
            masked(0x00, b"b"),
            masked(0x80, b"c"),
            masked(0x82, b""),
            masked(0x8a, b""),
            masked(0x82, &long),
            masked(0x81, &medium),
            masked(0x88, b"\x03\xe8"),
        ]
        .concat();
        let expected = vec![
            Incoming::Ping("ping between the frames".into()),
            Incoming::Message("abc".into()),
            Incoming::Message(Bytes::new()),
            Incoming::Pong,
            Incoming::Message(long.into()),
            Incoming::Message(medium.into()),
            Incoming::Close,
        ];
        for size in [1, 2, 3, 7, 1000, bytes.len()] {
            assert_eq!(read(&bytes, size), Ok(expected.clone()), "cut every {size} bytes");
        }
    }

    #[test]
    fn what_breaks_the_protocol_ends_the_connection() {
        let mut unmasked = masked(0x81, b"a");
        unmasked[1] &= !MASKED;
        for (name, bytes) in [
            ("no mask", unmasked),
            ("reserved bits", masked(0xc1, b"a")),
            ("an unknown opcode", masked(0x83, b"a")),
            ("an unknown control opcode", masked(0x8b, b"a")),
            ("a cut ping", masked(0x09, b"a")),
            ("a long ping", masked(0x89, &[0; 126])),
            ("a message in a message", [masked(0x01, b"a"), masked(0x81, b"b")].concat()),
            ("the middle of no message", masked(0x80, b"a")),
        ] {
            assert_eq!(read(&bytes, bytes.len()), Err(CloseCode::ProtocolError), "{name}");
        }
    }

    #[test]
    fn a_message_above_the_limit_is_refused_before_it_came() {
        let too_big = Err(CloseCode::TooBig);
        assert_eq!(read(&masked(0x81, &vec![0; 100_001])[..14], 14), too_big);
        let halves = [masked(0x01, &vec![0; 60_000]), masked(0x80, &vec![0; 40_001])].concat();
        assert_eq!(read(&halves, halves.len()), too_big);
        let huge = [0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(read(&huge, huge.len()), too_big);
    }

    #[test]
    fn frames_to_the_client_have_the_shortest_length() {
        assert_eq!(text(b"Hello"), b"\x81\x05Hello");
        assert_eq!(text(&[0; 125])[..2], [0x81, 125]);
        assert_eq!(text(&[0; 126])[..4], [0x81, 126, 0, 126]);
        assert_eq!(text(&vec![0; 65_536])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(pong(b"p"), b"\x8a\x01p");
        assert_eq!(close(CloseCode::TooBig), b"\x88\x02\x03\xf1");
    }
}
