//! The body of a request, out of its chunks.
//!
//! ```text
//!   4\r\n            size in hexadecimal, then perhaps ;extensions, which say nothing here
//!   data\r\n
//!   0\r\n            the last chunk
//!   Trailer: x\r\n   fields, which say nothing here either
//!   \r\n
//! ```

use bytes::{Bytes, BytesMut};

/// The longest line between two chunks: a size with its extensions, or a trailer.
const LINE_BYTES_MAX: usize = 4 << 10;
/// All trailers of a body.
const TRAILER_BYTES_MAX: usize = 64 << 10;

/// Where in a body the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoder {
    /// So many bytes follow.
    Length(u64),
    ChunkSize,
    /// So many bytes of a chunk follow, and the line break behind them.
    Chunk(u64),
    /// So many bytes of trailers have been seen.
    Trailers(usize),
    /// The client broke the rules: nothing that follows means anything.
    Broken,
}

/// What the bytes at hand hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Data(Bytes),
    /// The body is over; what follows is the next request.
    End,
    /// Nothing whole: more bytes are needed.
    Nothing,
}

/// A chunk that is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Decoder {
    pub(super) const NONE: Decoder = Decoder::Length(0);

    pub(super) fn is_over(self) -> bool {
        self == Decoder::NONE
    }

    /// Takes what it can from the front of the buffer.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> Result<Part, Malformed> {
        let part = self.advance(buffer);
        if part.is_err() {
            *self = Decoder::Broken;
        }
        part
    }

    fn advance(&mut self, buffer: &mut BytesMut) -> Result<Part, Malformed> {
        loop {
            match *self {
                Decoder::Length(0) => return Ok(Part::End),
                Decoder::Length(left) => {
                    let data = take_up_to(buffer, left);
                    *self = Decoder::Length(left - data.len() as u64);
                    return Ok(if data.is_empty() { Part::Nothing } else { Part::Data(data) });
                }
                // The parser takes a line without a number for the last chunk.
                Decoder::ChunkSize if buffer.first().is_some_and(|b| !b.is_ascii_hexdigit()) => {
                    return Err(Malformed);
                }
                Decoder::ChunkSize => match httparse::parse_chunk_size(buffer) {
                    Ok(httparse::Status::Complete((line_bytes, size))) => {
                        let _ = buffer.split_to(line_bytes);
                        *self = if size == 0 { Decoder::Trailers(0) } else { Decoder::Chunk(size) };
                    }
                    Ok(httparse::Status::Partial) if buffer.len() < LINE_BYTES_MAX => {
                        return Ok(Part::Nothing);
                    }
                    _ => return Err(Malformed),
                },
                Decoder::Chunk(0) => match buffer.first_chunk() {
                    Some(b"\r\n") => {
                        let _ = buffer.split_to(2);
                        *self = Decoder::ChunkSize;
                    }
                    Some(_) => return Err(Malformed),
                    None => return Ok(Part::Nothing),
                },
                Decoder::Chunk(left) => {
                    let data = take_up_to(buffer, left);
                    *self = Decoder::Chunk(left - data.len() as u64);
                    return Ok(if data.is_empty() { Part::Nothing } else { Part::Data(data) });
                }
                Decoder::Trailers(seen) => {
                    let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
                        let is_short = buffer.len() < LINE_BYTES_MAX;
                        return if is_short { Ok(Part::Nothing) } else { Err(Malformed) };
                    };
                    let line = buffer.split_to(end + 1);
                    *self = match &line[..] {
                        b"\r\n" | b"\n" => Decoder::NONE,
                        _ if seen + line.len() > TRAILER_BYTES_MAX => return Err(Malformed),
                        _ => Decoder::Trailers(seen + line.len()),
                    };
                }
                Decoder::Broken => return Err(Malformed),
            }
        }
    }
}

fn take_up_to(buffer: &mut BytesMut, max: u64) -> Bytes {
    let len = usize::try_from(max).unwrap_or(usize::MAX).min(buffer.len());
    buffer.split_to(len).freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, and what is left behind it, when the bytes come in pieces of this size.
    fn read(
        mut decoder: Decoder,
        wire: &[u8],
        size: usize,
    ) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let (mut buffer, mut body) = (BytesMut::new(), Vec::new());
        let mut pieces = wire.chunks(size);
        loop {
            match decoder.take(&mut buffer)? {
                Part::Data(data) => body.extend_from_slice(&data),
                Part::End => {
                    let rest = [&buffer[..], &pieces.collect::<Vec<_>>().concat()].concat();
                    return Ok((body, rest));
                }
                Part::Nothing => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return Ok((body, b"unfinished".to_vec())),
                },
            }
        }
    }

    #[test]
    fn a_body_comes_whole_however_the_bytes_were_cut() {
        let chunked =
            b"4\r\nwiki\r\n00A ;x=\"y\"\r\npedia in\r\n\r\n0\r\nA: b\r\nC: d\r\n\r\nGET /next";
        for size in 1..=chunked.len() {
            let (body, rest) = read(Decoder::ChunkSize, chunked, size).unwrap();
            assert_eq!((&body[..], &rest[..]), (&b"wikipedia in\r\n"[..], &b"GET /next"[..]));
            let (body, rest) = read(Decoder::Length(4), b"wikiGET /next", size).unwrap();
            assert_eq!((&body[..], &rest[..]), (&b"wiki"[..], &b"GET /next"[..]));
        }
        assert_eq!(read(Decoder::NONE, b"GET", 1).unwrap(), (Vec::new(), b"GET".to_vec()));
    }

    #[test]
    fn what_is_no_chunk_is_told_and_stays_so() {
        let long = "0;".to_owned() + &"x".repeat(LINE_BYTES_MAX);
        let trailers = "0\r\n".to_owned() + &"A: b\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1);
        let trailer = "0\r\n".to_owned() + &"x".repeat(LINE_BYTES_MAX);
        let wrong = ["x\r\n", "\r\n", "-1\r\n", "4\r\nwikiX\r\n", "fffffffffffffffff\r\n"];
        for text in wrong.iter().copied().chain([&*long, &trailers, &trailer]) {
            assert_eq!(read(Decoder::ChunkSize, text.as_bytes(), 7), Err(Malformed), "{text:.20}");
        }
        let mut decoder = Decoder::ChunkSize;
        assert!(decoder.take(&mut BytesMut::from("x\r\n")).is_err());
        assert!(decoder.take(&mut BytesMut::from("0\r\n\r\n")).is_err());
        assert!(!decoder.is_over());
    }

    #[test]
    fn half_a_body_is_not_over() {
        for text in
            ["", "4", "4\r\nwik", "4\r\nwiki", "4\r\nwiki\r", "4\r\nwiki\r\n0\r\n", "0\r\nA:"]
        {
            let (_, rest) = read(Decoder::ChunkSize, text.as_bytes(), 3).unwrap();
            assert_eq!(rest, b"unfinished", "{text:?}");
        }
    }
}
