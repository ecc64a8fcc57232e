//! One request, one answer: most calls are that, so they go without the machinery of streams.
//!
//! A message travels in gRPC's frame, `compressed: u8 = 0 | length: u32 big endian | message`, and the answer is followed
//! by trailers that say how the call went. A request is encoded once, however often it is sent.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri};
use hyper::body::Body as _;
use prost::Message;
use retcd_api::error::{Code, RpcError};
use tonic::Status;

use crate::channel::{Body, Channel};
use crate::error::{Failure, rpc_error};

/// Flag and length.
const FRAME_HEAD: usize = 5;
/// The largest message that a frame can hold.
pub(crate) const SIZE_MAX: usize = u32::MAX as usize;

/// Encodes a message of `size` bytes, at most [`SIZE_MAX`].
pub(crate) fn frame(message: &impl Message, size: usize) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEAD + size);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(size).expect("larger messages were refused before"));
    message.encode(&mut frame).expect("there is room for the message");
    frame.freeze()
}

/// A call of the method at `path`.
pub(crate) fn request(path: &'static str, headers: HeaderMap, frame: Bytes) -> Request<Body> {
    let mut request = Request::new(Body::Whole(Some(frame)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(PathAndQuery::from_static(path));
    *request.headers_mut() = headers;
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
}

/// Sends a request and decodes its answer, which may have `size_max` bytes.
pub(crate) async fn send<T: Message + Default>(
    channel: &Channel,
    request: Request<Body>,
    size_max: usize,
) -> Result<T, Failure> {
    let (head, mut body) = channel.send(request).await?.into_parts();
    if let Some(ended) = outcome(&head.headers) {
        return ended.and(Err(internal("the answer has no message")));
    }
    if head.status != StatusCode::OK {
        return Err(Failure::Answered(not_grpc(head.status)));
    }
    let mut received = Received::default();
    let mut ended = None;
    while let Some(piece) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match piece.map_err(|error| Failure::lost(&error))?.into_data() {
            Ok(data) => received.add(data, size_max)?,
            Err(piece) => ended = piece.trailers_ref().and_then(outcome),
        }
    }
    ended.unwrap_or_else(|| Err(internal("server closed the stream without sending trailers")))?;
    let message = received.message(size_max)?;
    T::decode(message).map_err(|error| internal(&format!("the answer cannot be decoded: {error}")))
}

/// How a call went, if these headers or trailers say so.
fn outcome(headers: &HeaderMap) -> Option<Result<(), Failure>> {
    if headers.get("grpc-status")?.as_bytes() == b"0" {
        return Some(Ok(()));
    }
    let status = Status::from_header_map(headers)?;
    Some(Err(Failure::Answered(rpc_error(&status))))
}

/// What has arrived of an answer. Usually that is one piece, which is not copied.
#[derive(Default)]
struct Received {
    only: Bytes,
    /// All of it, once there is more than one piece.
    joined: BytesMut,
}

impl Received {
    fn add(&mut self, piece: Bytes, size_max: usize) -> Result<(), Failure> {
        if self.only.is_empty() && self.joined.is_empty() {
            self.only = piece;
        } else {
            self.joined.extend_from_slice(&std::mem::take(&mut self.only));
            self.joined.extend_from_slice(&piece);
        }
        let expected = size(self.bytes(), size_max)?.map_or(0, |size| FRAME_HEAD + size);
        if !self.joined.is_empty() {
            self.joined.reserve(expected.saturating_sub(self.joined.len()));
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.only } else { &self.joined }
    }

    /// The one message of the answer.
    fn message(self, size_max: usize) -> Result<Bytes, Failure> {
        let size = size(self.bytes(), size_max)?;
        let received = self.bytes().len();
        if size.is_none_or(|size| received != FRAME_HEAD + size) {
            return Err(internal(&format!("{received} bytes are no message of {size:?} bytes")));
        }
        let mut frame = if self.joined.is_empty() { self.only } else { self.joined.freeze() };
        frame.advance(FRAME_HEAD);
        Ok(frame)
    }
}

/// The size of the message in a frame, once its head is there.
fn size(frame: &[u8], size_max: usize) -> Result<Option<usize>, Failure> {
    let Some((&[is_compressed, size @ ..], _)) = frame.split_first_chunk::<FRAME_HEAD>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes(size) as usize;
    if is_compressed != 0 {
        return Err(internal("the answer is compressed, which nobody has asked for"));
    }
    if size > size_max {
        let text = format!("grpc: received message larger than max ({size} vs. {size_max})");
        return Err(Failure::Answered(RpcError::other(Code::ResourceExhausted, text)));
    }
    Ok(Some(size))
}

/// What the status of an HTTP answer means that is none of gRPC, as gRPC's documents have it.
fn not_grpc(status: StatusCode) -> RpcError {
    let code = match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    RpcError::other(code, format!("unexpected HTTP status code received from server: {status}"))
}

fn internal(text: &str) -> Failure {
    Failure::Answered(RpcError::other(Code::Internal, text.to_owned()))
}

/// A time limit in the words of the header `grpc-timeout`: at most eight digits and a unit, rounded down.
pub(crate) fn timeout(timeout: Duration) -> HeaderValue {
    const DIGITS_MAX: u128 = 99_999_999;
    let (count, unit) = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (u128::from(timeout.as_secs()), 'S'),
        (u128::from(timeout.as_secs() / 60), 'M'),
        (u128::from(timeout.as_secs() / 3600), 'H'),
    ]
    .into_iter()
    .find(|(count, _)| *count <= DIGITS_MAX)
    .unwrap_or((DIGITS_MAX, 'H'));
    HeaderValue::try_from(format!("{count}{unit}")).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;
    use retcd_api::etcdserverpb::PutRequest;

    #[test]
    fn frames_say_how_long_they_are() {
        let put = PutRequest { key: "k".into(), ..Default::default() };
        let frame = frame(&put, put.encoded_len());
        assert_eq!(&frame[..], b"\0\0\0\0\x03\x0a\x01k");
        assert_eq!(size(&frame, 3).unwrap(), Some(3));
        assert_eq!(size(&frame[..4], 3).unwrap(), None, "not yet known");
        let too_large = Failure::Answered(RpcError::other(
            Code::ResourceExhausted,
            "grpc: received message larger than max (3 vs. 2)",
        ));
        assert_eq!(size(&frame, 2).unwrap_err().to_string(), too_large.to_string());
        size(b"\x01\0\0\0\0", 2).unwrap_err();
    }

    #[test]
    fn answers_may_come_in_pieces() {
        let put = PutRequest { key: "k".into(), ..Default::default() };
        let whole = frame(&put, put.encoded_len());
        for cut in 0..=whole.len() {
            let mut received = Received::default();
            received.add(whole.slice(..cut), 3).unwrap();
            assert_eq!(received.bytes(), &whole[..cut]);
            received.add(whole.slice(cut..), 3).unwrap();
            assert_eq!(received.message(3).unwrap(), &whole[FRAME_HEAD..]);
        }
        let mut short = Received::default();
        short.add(whole.slice(..whole.len() - 1), 3).unwrap();
        short.message(3).unwrap_err();
        let mut long = Received::default();
        long.add(whole.clone(), 3).unwrap();
        long.add(whole, 3).unwrap();
        long.message(3).unwrap_err();
        Received::default().message(3).unwrap_err();
    }

    #[test]
    fn outcomes_are_read_from_headers() {
        let headers = |status: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static(status));
            headers.insert("grpc-message", HeaderValue::from_static("etcdserver: no leader"));
            headers
        };
        assert!(outcome(&HeaderMap::new()).is_none());
        assert!(outcome(&headers("0")).unwrap().is_ok());
        let Some(Err(Failure::Answered(error))) = outcome(&headers("14")) else {
            panic!("14 is an error");
        };
        assert_eq!(error, RpcError::NoLeader);
    }

    #[test]
    fn time_limits_have_eight_digits() {
        let text = |limit| timeout(limit).to_str().unwrap().to_owned();
        assert_eq!(text(Duration::from_nanos(1)), "1n");
        assert_eq!(text(Duration::from_millis(100)), "100000u");
        assert_eq!(text(Duration::from_secs(5)), "5000000u");
        assert_eq!(text(Duration::from_secs(200)), "200000m");
        assert_eq!(text(Duration::from_secs(100_000)), "100000S");
        assert_eq!(text(Duration::from_secs(100_000_000)), "1666666M");
        assert_eq!(text(Duration::MAX), "99999999H");
    }
}
