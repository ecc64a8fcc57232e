//! Heads of messages: a request's is read, an answer's is written.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use http::{Method, Request, StatusCode, Uri, Version, response};

use super::body::Decoder;

/// As much as Go's server takes.
const HEAD_BYTES_MAX: usize = (1 << 20) + (4 << 10);
const FIELDS_MAX: usize = 128;

/// A request up to its body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: Request<()>,
    pub(super) body: Decoder,
    /// Whether the client may go on with another request.
    pub(super) is_persistent: bool,
    /// The client sends the body when it is told to.
    pub(super) awaits_continue: bool,
}

/// Why this is no request: the status of the answer, before the connection is closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) StatusCode);

const MALFORMED: Refusal = Refusal(StatusCode::BAD_REQUEST);

/// Takes a head from the front of what was read; `None` until it is whole.
///
/// `looked_at` is how far earlier calls have looked; 0 when a head begins.
pub(super) fn take(buffer: &mut BytesMut, looked_at: &mut usize) -> Result<Option<Head>, Refusal> {
    if *looked_at == 0 {
        // Some clients send a line break behind a body.
        let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let _ = buffer.split_to(blank);
    }
    let Some(end) = end(buffer, *looked_at) else {
        let is_first_look = std::mem::replace(looked_at, buffer.len()) == 0;
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(Refusal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        // What does not begin as a request, such as TLS, is not waited for.
        if is_first_look {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            httparse::Request::new(&mut fields).parse(buffer).map_err(refusal)?;
        }
        return Ok(None);
    };
    *looked_at = 0;
    parse(&buffer.split_to(end).freeze()).map(Some)
}

/// Where the empty line ends.
fn end(buffer: &[u8], looked_at: usize) -> Option<usize> {
    let from = looked_at.saturating_sub(3);
    let breaks = buffer.iter().enumerate().skip(from).filter(|(_, byte)| **byte == b'\n');
    breaks.map(|(at, _)| at + 1).find_map(|line| match buffer[line..] {
        [b'\n', ..] => Some(line + 1),
        [b'\r', b'\n', ..] => Some(line + 2),
        _ => None,
    })
}

fn refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        httparse::Error::Version => Refusal(StatusCode::HTTP_VERSION_NOT_SUPPORTED),
        _ => MALFORMED,
    }
}

/// Names and values are slices of the head.
fn parse(head: &Bytes) -> Result<Head, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    if parsed.parse(head).map_err(refusal)?.is_partial() {
        return Err(MALFORMED);
    }
    let (Some(method), Some(path), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(MALFORMED);
    };
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| MALFORMED)?;
    let path = head.slice_ref(path.as_bytes());
    *request.uri_mut() = Uri::from_maybe_shared(path).map_err(|_| MALFORMED)?;
    *request.version_mut() = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let headers = request.headers_mut();
    headers.reserve(parsed.headers.len());
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MALFORMED)?;
        let value = if field.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| MALFORMED)?
        };
        headers.append(name, value);
    }
    understand(request)
}

/// What the fields say about the connection and the body.
fn understand(request: Request<()>) -> Result<Head, Refusal> {
    let is_11 = request.version() == Version::HTTP_11;
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || is_11 && hosts == 0 {
        return Err(MALFORMED);
    }
    let says = |word| has_word(headers, &CONNECTION, word);
    let mut is_persistent = if is_11 { !says("close") } else { says("keep-alive") };
    let body = match (coding(headers, is_11)?, length(headers)?) {
        (true, length) => {
            // Two answers to one question: another server on the way may have taken the other one.
            is_persistent &= length.is_none();
            Decoder::ChunkSize
        }
        (false, length) => Decoder::Length(length.unwrap_or(0)),
    };
    let awaits_continue = match headers.get(EXPECT) {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            is_11 && !body.is_over()
        }
        Some(value) if !value.is_empty() => return Err(Refusal(StatusCode::EXPECTATION_FAILED)),
        _ => false,
    };
    Ok(Head { request, body, is_persistent, awaits_continue })
}

/// Whether the body is chunked, the only coding there is here.
fn coding(headers: &HeaderMap, is_11: bool) -> Result<bool, Refusal> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(_), _) if !is_11 => Err(MALFORMED),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Refusal(StatusCode::NOT_IMPLEMENTED)),
    }
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let this: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or(MALFORMED)?;
        if length.is_some_and(|other| other != this) {
            return Err(MALFORMED);
        }
        length = Some(this);
    }
    Ok(length)
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
}

/// How the client sees where an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
    /// There is no body, and no word about one.
    NoBody,
}

/// Writes the head of an answer. `connection`: what that field says, if anything.
pub(super) fn write(
    out: &mut Vec<u8>,
    version: Version,
    answer: &response::Parts,
    ending: Ending,
    connection: Option<&str>,
) {
    let version = if version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let reason = answer.status.canonical_reason().unwrap_or_default();
    let _ = write!(out, "{version} {} {reason}\r\n", answer.status.as_str());
    for (name, value) in &answer.headers {
        write_name(out, name.as_str());
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !answer.headers.contains_key(DATE) {
        out.extend_from_slice(b"Date: ");
        write_date(out);
        out.extend_from_slice(b"\r\n");
    }
    match ending {
        Ending::Length(length) => {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        Ending::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Ending::Close | Ending::NoBody => {}
    }
    if let Some(connection) = connection {
        let _ = write!(out, "Connection: {connection}\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Names are written as Go's server writes them: clients should not care, but scripts do.
fn write_name(out: &mut Vec<u8>, name: &str) {
    let mut begins_word = true;
    for byte in name.bytes() {
        out.push(if begins_word { byte.to_ascii_uppercase() } else { byte });
        begins_word = byte == b'-';
    }
    out.extend_from_slice(b": ");
}

/// The second and its text, which all answers of that second share.
type Date = (Duration, String);

fn write_date(out: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<Date> = const { RefCell::new((Duration::ZERO, String::new())) };
    }
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let second = Duration::from_secs(since.as_secs());
    LAST.with_borrow_mut(|(last, text)| {
        if *last != second || text.is_empty() {
            (*last, *text) = (second, httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + second));
        }
        out.extend_from_slice(text.as_bytes());
    });
}

/// The answer to what is no request.
pub(super) fn write_refusal(out: &mut Vec<u8>, Refusal(status): &Refusal) {
    let _ = write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{status}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Head, Refusal> {
        let mut buffer = BytesMut::from(text);
        Ok(take(&mut buffer, &mut 0)?.expect("the head is whole"))
    }

    fn refused(text: &str) -> u16 {
        read(text).expect_err("this is no request").0.as_u16()
    }

    #[test]
    fn a_head_comes_whole_however_the_bytes_were_cut() {
        let text =
            "\r\nPOST /v3/kv/put?a=b HTTP/1.1\r\nHost: h\r\nX-Two: 1\nx-two:2 \r\nEmpty:\r\n\r\n";
        for size in 1..=text.len() {
            let (mut buffer, mut looked_at) = (BytesMut::new(), 0);
            let mut pieces = text.as_bytes().chunks(size);
            let head = loop {
                if let Some(head) = take(&mut buffer, &mut looked_at).unwrap() {
                    break head;
                }
                buffer.extend_from_slice(pieces.next().expect("it ends with the text"));
            };
            assert!(buffer.is_empty() && pieces.next().is_none());
            assert_eq!(head.request.method(), Method::POST);
            assert_eq!(head.request.uri().path(), "/v3/kv/put");
            let two: Vec<_> = head.request.headers().get_all("x-two").iter().collect();
            assert_eq!(two, ["1", "2"]);
            assert_eq!(head.request.headers()["empty"], "");
            assert!(head.is_persistent && head.body.is_over() && !head.awaits_continue);
        }
    }

    #[test]
    fn what_follows_a_head_stays() {
        let mut buffer = BytesMut::from("GET / HTTP/1.0\n\nGET /next");
        assert!(take(&mut buffer, &mut 0).unwrap().is_some());
        assert_eq!(&buffer[..], b"GET /next");
    }

    #[test]
    fn the_body_is_found() {
        let body = |fields: &str| {
            let head = read(&format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
            head.map(|head| (head.body, head.is_persistent, head.awaits_continue))
        };
        assert_eq!(body("Content-Length: 7\r\n"), Ok((Decoder::Length(7), true, false)));
        let twice = "Content-Length: 7\r\nContent-Length: 7\r\n";
        assert_eq!(body(twice), Ok((Decoder::Length(7), true, false)));
        assert_eq!(body("Transfer-Encoding: Chunked\r\n"), Ok((Decoder::ChunkSize, true, false)));
        let both = "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(body(both), Ok((Decoder::ChunkSize, false, false)));
        let expect = "Expect: 100-Continue\r\n";
        assert_eq!(
            body(&format!("{expect}Content-Length: 7\r\n")),
            Ok((Decoder::Length(7), true, true))
        );
        assert_eq!(body(expect), Ok((Decoder::NONE, true, false)));
        for (fields, status) in [
            ("Content-Length: -7\r\n", 400),
            ("Content-Length: +7\r\n", 400),
            ("Content-Length: \r\n", 400),
            ("Content-Length: 7, 7\r\n", 400),
            ("Content-Length: 7\r\nContent-Length: 8\r\n", 400),
            ("Content-Length: 99999999999999999999\r\n", 400),
            ("Transfer-Encoding: gzip, chunked\r\n", 501),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
            ("Expect: a miracle\r\n", 417),
            ("Host: other\r\n", 400),
            ("Folded: a\r\n b\r\n", 400),
            ("Space : a\r\n", 400),
        ] {
            assert_eq!(
                body(fields),
                Err(Refusal(StatusCode::from_u16(status).unwrap())),
                "{fields}"
            );
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(refused("GET  / HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
        assert_eq!(refused("GET / HTTP/3.0\r\nHost: h\r\n\r\n"), 505);
        assert_eq!(refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
        let many = "A: b\r\n".repeat(FIELDS_MAX);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n")), 431);
        // The beginning is enough to see that it is none.
        assert_eq!(refused("\x16\x03\x01\x02"), 400);
        let mut long = BytesMut::from("GET / HTTP/1.1\r\nA: ");
        let mut looked_at = 0;
        assert!(take(&mut long, &mut looked_at).unwrap().is_none());
        long.extend_from_slice(&vec![b'x'; HEAD_BYTES_MAX]);
        assert_eq!(take(&mut long, &mut looked_at).unwrap_err().0.as_u16(), 431);
    }

    #[test]
    fn the_connection_goes_on_if_both_sides_can() {
        let goes_on = |text: &str| read(text).unwrap().is_persistent;
        assert!(goes_on("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(!goes_on("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n"));
        assert!(!goes_on("GET / HTTP/1.0\r\n\r\n"));
        assert!(goes_on("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn an_answer_has_go_s_names_and_a_date() {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        let value = HeaderValue::from_static("application/grpc");
        parts.headers.insert("grpc-metadata-content-type", value);
        let mut out = Vec::new();
        write(&mut out, Version::HTTP_11, &parts, Ending::Length(5), Some("close"));
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.split("\r\n").collect();
        assert_eq!(lines[..2], ["HTTP/1.1 200 OK", "Grpc-Metadata-Content-Type: application/grpc"]);
        assert!(lines[2].starts_with("Date: ") && lines[2].ends_with(" GMT"), "{text}");
        assert_eq!(lines[3..], ["Content-Length: 5", "Connection: close", "", ""]);
    }
}
