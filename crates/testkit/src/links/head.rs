//! The head of the first request on a connection: who sends it?

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Far more than any head between members; a longer one is not HTTP.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What a connection began with.
#[derive(Debug)]
pub(super) struct Head {
    /// The head, and what came with it.
    bytes: Vec<u8>,
    /// The head's length, with its empty line.
    len: usize,
}

impl Head {
    /// Reads up to the end of the head. `None`: the dialler left without a request.
    pub(super) async fn read(socket: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::with_capacity(4096);
        loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                return Ok(Some(Head { bytes, len: at + 4 }));
            }
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no end of the head"));
            }
            if socket.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The names by which the sender introduces itself: its id, then its URLs.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let urls = self.header("x-peerurls").into_iter().flat_map(|urls| urls.split(','));
        self.header("x-server-from").into_iter().chain(urls).map(str::trim)
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        let head = str::from_utf8(&self.bytes[..self.len]).ok()?;
        head.split("\r\n").skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then_some(value.trim())
        })
    }

    /// Everything read so far.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Everything read so far, with the wish that the connection ends with this request.
    pub(super) fn into_last_request(mut self) -> Vec<u8> {
        let end_of_headers = self.len - 2;
        self.bytes.splice(end_of_headers..end_of_headers, *b"Connection: close\r\n");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        let len = text.find("\r\n\r\n").unwrap() + 4;
        Head { bytes: text.as_bytes().to_vec(), len }
    }

    #[test]
    fn senders_are_found_by_id_and_by_url() {
        let request = "GET /raft/stream/message/a1 HTTP/1.1\r\nHost: x\r\nX-Server-From: a1\r\n\
                       x-peerurls: http://a:1, http://b:2\r\n\r\n";
        assert_eq!(head(request).names().collect::<Vec<_>>(), ["a1", "http://a:1", "http://b:2"]);
        assert_eq!(head("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").names().count(), 0);
    }

    #[test]
    fn the_wish_to_close_goes_before_the_body() {
        let request = "POST /leases HTTP/1.1\r\nContent-Length: 2\r\n\r\nxy";
        assert_eq!(
            String::from_utf8(head(request).into_last_request()).unwrap(),
            "POST /leases HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nxy"
        );
    }
}
