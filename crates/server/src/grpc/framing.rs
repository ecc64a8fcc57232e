//! Messages in a byte stream: one byte of flags (1 = compressed), the length (4 bytes, big endian), the message.

use std::io::Read;

use bytes::{Buf, Bytes, BytesMut};
use retcd_api::error::{Code, RpcError};

pub(crate) const FRAME_PREFIX_BYTES: usize = 5;

/// The prefix of an uncompressed message.
pub(crate) fn frame_prefix(message_bytes: usize) -> [u8; FRAME_PREFIX_BYTES] {
    let len = u32::try_from(message_bytes).expect("answers are cut below 4 GiB");
    let [a, b, c, d] = len.to_be_bytes();
    [0, a, b, c, d]
}

/// Cuts the frames of a request body into messages.
pub(crate) struct MessageReader {
    /// Bytes not consumed yet. A message that lies whole in one frame is sliced out of it without a copy.
    buffer: Bytes,
    /// The start of a message whose end has not come yet.
    partial: BytesMut,
    message_bytes_max: usize,
    is_gzip: bool,
}

impl MessageReader {
    /// `is_gzip`: the peer announced `grpc-encoding: gzip`. Messages above `message_bytes_max` are refused.
    pub(crate) fn new(message_bytes_max: usize, is_gzip: bool) -> Self {
        MessageReader { buffer: Bytes::new(), partial: BytesMut::new(), message_bytes_max, is_gzip }
    }

    /// Adds bytes as they come. The messages before must have been taken.
    pub(crate) fn push(&mut self, data: Bytes) {
        if self.partial.is_empty() && self.buffer.is_empty() {
            self.buffer = data;
        } else {
            self.partial.extend_from_slice(&std::mem::take(&mut self.buffer));
            self.partial.extend_from_slice(&data);
        }
    }

    /// The next message, or `None` until more bytes come.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
        let available: &[u8] = if self.partial.is_empty() { &self.buffer } else { &self.partial };
        let Some(prefix) = available.first_chunk::<FRAME_PREFIX_BYTES>() else { return Ok(None) };
        let is_compressed = match prefix[0] {
            0 => false,
            1 => true,
            flag => {
                return Err(RpcError::other(
                    Code::Internal,
                    format!("grpc: received unexpected payload format {flag}"),
                ));
            }
        };
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if len > self.message_bytes_max {
            return Err(too_large(len, self.message_bytes_max));
        }
        let end = FRAME_PREFIX_BYTES + len;
        if available.len() < end {
            if self.partial.is_empty() {
                self.partial.reserve(end);
                self.partial.extend_from_slice(&std::mem::take(&mut self.buffer));
            }
            return Ok(None);
        }
        let mut message = if self.partial.is_empty() {
            self.buffer.split_to(end)
        } else {
            self.partial.split_to(end).freeze()
        };
        message.advance(FRAME_PREFIX_BYTES);
        if is_compressed { self.decompress(&message).map(Some) } else { Ok(Some(message)) }
    }

    /// The stream has ended: nothing but whole messages may have come.
    pub(crate) fn finish(&self) -> Result<(), RpcError> {
        if self.buffer.is_empty() && self.partial.is_empty() {
            Ok(())
        } else {
            Err(RpcError::other(Code::Internal, "unexpected EOF"))
        }
    }

    fn decompress(&self, message: &[u8]) -> Result<Bytes, RpcError> {
        if !self.is_gzip {
            let text = "grpc: compressed flag set with identity or empty encoding";
            return Err(RpcError::other(Code::Internal, text));
        }
        let mut plain = Vec::new();
        // One byte more than allowed tells a message that is too large without inflating all of it.
        let limit = self.message_bytes_max as u64 + 1;
        flate2::read::GzDecoder::new(message).take(limit).read_to_end(&mut plain).map_err(
            |error| {
                RpcError::other(
                    Code::Internal,
                    format!("grpc: failed to decompress the message: {error}"),
                )
            },
        )?;
        if plain.len() > self.message_bytes_max {
            return Err(too_large(plain.len(), self.message_bytes_max));
        }
        Ok(plain.into())
    }
}

fn too_large(len: usize, max: usize) -> RpcError {
    RpcError::other(
        Code::ResourceExhausted,
        format!("grpc: received message larger than max ({len} vs. {max})"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        messages
            .iter()
            .flat_map(|message| [&frame_prefix(message.len())[..], message].concat())
            .collect()
    }

    #[test]
    fn messages_come_whole_however_the_bytes_were_cut() {
        let messages: &[&[u8]] = &[b"first", b"", b"third message"];
        let bytes = framed(messages);
        for size in 1..=bytes.len() {
            let mut reader = MessageReader::new(100, false);
            let mut seen = Vec::new();
            for chunk in bytes.chunks(size) {
                reader.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = reader.next().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, messages, "cut every {size} bytes");
            reader.finish().unwrap();
        }
    }

    #[test]
    fn a_message_above_the_limit_is_refused_before_it_came() {
        let mut reader = MessageReader::new(3, false);
        reader.push(Bytes::copy_from_slice(&frame_prefix(4)));
        let error = reader.next().unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert_eq!(error.message(), "grpc: received message larger than max (4 vs. 3)");
    }

    #[test]
    fn half_a_message_at_the_end_is_an_error() {
        let mut reader = MessageReader::new(100, false);
        reader.push(Bytes::copy_from_slice(&framed(&[b"whole"])[..7]));
        assert_eq!(reader.next(), Ok(None));
        assert!(reader.finish().is_err());
    }

    #[test]
    fn gzip_is_inflated_up_to_the_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[b'a'; 1000]).unwrap();
        let compressed = encoder.finish().unwrap();
        let mut frame = framed(&[&compressed]);
        frame[0] = 1;
        let read = |limit, is_gzip| {
            let mut reader = MessageReader::new(limit, is_gzip);
            reader.push(Bytes::from(frame.clone()));
            reader.next()
        };
        assert_eq!(read(1000, true).unwrap().unwrap(), vec![b'a'; 1000]);
        assert_eq!(read(999, true).unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(read(1000, false).unwrap_err().code(), Code::Internal);
    }
}
