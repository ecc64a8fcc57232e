//! Answers as HTTP bodies: messages, then the status as trailers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use retcd_api::error::RpcError;

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The answers of a streaming call. Polled only when the peer has room for more.
pub(crate) trait MessageStream: Send {
    /// Framed messages, any number in one piece. `None` ends the call well, an error ends it with that status.
    fn poll_messages(&mut self, context: &mut Context<'_>)
    -> Poll<Option<Result<Bytes, RpcError>>>;
}

/// The body of an answer.
pub(crate) enum Body {
    /// Nothing: the status stands in the headers.
    Empty,
    /// Plain HTTP.
    Plain(Bytes),
    /// One gRPC message in up to two pieces (prefix and header, then the rest), then trailers.
    Message {
        head: Bytes,
        rest: Bytes,
    },
    /// The message has gone, the trailers are left.
    TrailersLeft,
    Stream(Box<dyn MessageStream>),
    /// The JSON gateway's answers to a streaming call.
    Lines(Box<retcd_gateway::Lines>),
}

impl Body {
    /// What streaming calls answer with.
    pub(crate) fn into_stream(self) -> Box<dyn MessageStream> {
        let Body::Stream(stream) = self else {
            unreachable!("streaming calls answer with a stream")
        };
        stream
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = &mut *self;
        let frame = match body {
            Body::Empty => return Poll::Ready(None),
            Body::Plain(data) => {
                let data = std::mem::take(data);
                *body = Body::Empty;
                Frame::data(data)
            }
            Body::Message { head, rest } => {
                let data = std::mem::replace(head, std::mem::take(rest));
                if head.is_empty() {
                    *body = Body::TrailersLeft;
                }
                Frame::data(data)
            }
            Body::TrailersLeft => {
                *body = Body::Empty;
                Frame::trailers(trailers(None))
            }
            Body::Stream(stream) => match stream.poll_messages(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(messages))) => Frame::data(messages),
                Poll::Ready(Some(Err(error))) => {
                    *body = Body::Empty;
                    Frame::trailers(trailers(Some(&error)))
                }
                Poll::Ready(None) => {
                    *body = Body::Empty;
                    Frame::trailers(trailers(None))
                }
            },
            Body::Lines(lines) => match lines.poll_line(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(line)) => Frame::data(line),
                Poll::Ready(None) => {
                    *body = Body::Empty;
                    return Poll::Ready(None);
                }
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Plain(data) => SizeHint::with_exact(data.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

/// The status of a call. `None` is OK.
pub(crate) fn trailers(error: Option<&RpcError>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    add_status(&mut trailers, error);
    trailers
}

pub(crate) fn add_status(headers: &mut HeaderMap, error: Option<&RpcError>) {
    match error {
        None => {
            headers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        }
        Some(error) => {
            headers.insert(GRPC_STATUS, HeaderValue::from(error.code() as u16));
            let text = percent_encode(error.message());
            headers.insert(
                GRPC_MESSAGE,
                HeaderValue::from_maybe_shared(text).expect("encoded text is visible ASCII"),
            );
        }
    }
}

/// `grpc-message` is percent-encoded: everything but visible ASCII and space, and the percent sign itself.
fn percent_encode(text: &str) -> Bytes {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(byte);
        } else {
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    encoded.into()
}

#[cfg(test)]
mod tests {
    use retcd_api::error::Code;

    use super::*;

    fn frames(mut body: Body) -> Vec<Frame<Bytes>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut frames = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) =
            http_body::Body::poll_frame(Pin::new(&mut body), &mut context)
        {
            frames.push(frame);
        }
        frames
    }

    #[test]
    fn a_message_is_followed_by_its_status() {
        let frames = frames(Body::Message { head: "head".into(), rest: "rest".into() });
        assert_eq!(frames[0].data_ref().unwrap(), "head");
        assert_eq!(frames[1].data_ref().unwrap(), "rest");
        assert_eq!(frames[2].trailers_ref().unwrap()[GRPC_STATUS], "0");
        assert_eq!(frames.len(), 3);
    }

    #[test]
    fn a_text_outside_ascii_is_encoded() {
        let trailers = trailers(Some(&RpcError::other(Code::Unknown, "100% naïve\n")));
        assert_eq!(trailers[GRPC_STATUS], "2");
        assert_eq!(trailers[GRPC_MESSAGE], "100%25 na%C3%AFve%0A");
    }
}
