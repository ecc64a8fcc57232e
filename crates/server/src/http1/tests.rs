//! A connection over a pipe, byte by byte as a client may send them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::serve;
use super::wire::RequestBody;

/// What a pipe holds before its writer waits.
const PIPE_BYTES: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(60);

/// The calls and streams that exist now.
#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

struct Life(Alive);

impl Alive {
    fn begin(&self) -> Life {
        self.0.fetch_add(1, Relaxed);
        Life(self.clone())
    }

    async fn becomes(&self, count: usize) {
        let reached = async {
            while self.0.load(Relaxed) != count {
                tokio::task::yield_now().await;
            }
        };
        within(reached).await;
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        (self.0).0.fetch_sub(1, Relaxed);
    }
}

async fn within<T>(outcome: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, outcome).await.expect("it comes to its end in time")
}

/// The answers of the service below.
enum Answer {
    Whole(Bytes),
    /// Each piece of the request comes back as a piece; after the end of the request it waits, or ends.
    Echo {
        request: RequestBody<DuplexStream>,
        waits: bool,
        _life: Life,
    },
    /// Pieces without end, counted.
    Flood {
        given: Arc<AtomicUsize>,
        _life: Life,
    },
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Answer::Whole(data) if data.is_empty() => Poll::Ready(None),
            Answer::Whole(data) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Answer::Echo { request, waits, .. } => {
                match std::task::ready!(Pin::new(request).poll_frame(context)) {
                    Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                    Some(Err(_)) => Poll::Ready(Some(Ok(Frame::data("broken".into())))),
                    None if *waits => Poll::Pending,
                    None => Poll::Ready(None),
                }
            }
            Answer::Flood { given, .. } => {
                given.fetch_add(1, Relaxed);
                Poll::Ready(Some(Ok(Frame::data(vec![b'x'; 1024].into()))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(data) => SizeHint::with_exact(data.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

#[derive(Clone, Default)]
struct Service {
    alive: Alive,
    flood: Arc<AtomicUsize>,
}

impl Service {
    async fn call(self, request: Request<RequestBody<DuplexStream>>) -> Response<Answer> {
        let life = self.alive.begin();
        let mut response = Response::new(Answer::Whole("here".into()));
        let (head, body) = request.into_parts();
        match head.uri.path() {
            "/body" => {
                let body = body.collect().await;
                let body =
                    body.map_or(Bytes::from_static(b"broken"), http_body_util::Collected::to_bytes);
                *response.body_mut() = Answer::Whole(body);
            }
            "/echo" | "/watch" => {
                let waits = head.uri.path() == "/watch";
                *response.body_mut() = Answer::Echo { request: body, waits, _life: life };
            }
            "/flood" => {
                *response.body_mut() = Answer::Flood { given: self.flood, _life: life };
            }
            "/never" => {
                drop(body);
                std::future::pending::<()>().await;
            }
            "/upgrade" => *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS,
            _ => {}
        }
        response
    }
}

struct Client {
    read: ReadHalf<DuplexStream>,
    write: Option<WriteHalf<DuplexStream>>,
    service: Service,
    stop: CancellationToken,
    server: JoinHandle<Option<(DuplexStream, Bytes)>>,
}

impl Client {
    fn connect() -> Self {
        let (here, there) = duplex(PIPE_BYTES);
        let (service, stop) = (Service::default(), CancellationToken::new());
        let server = tokio::spawn({
            let (service, stop) = (service.clone(), stop.clone());
            async move {
                let call = move |request| service.clone().call(request);
                serve(there, Bytes::new(), call, &stop).await
            }
        });
        let (read, write) = tokio::io::split(here);
        Client { read, write: Some(write), service, stop, server }
    }

    async fn send(&mut self, text: &str) {
        let write = self.write.as_mut().expect("the client still sends");
        within(write.write_all(text.as_bytes())).await.expect("the server reads");
    }

    /// Reads until what has come ends so.
    async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let byte = within(self.read.read_u8()).await;
            let so_far = String::from_utf8_lossy(&text);
            text.push(byte.unwrap_or_else(|_| panic!("{end:?} does not come: {so_far}")));
        }
        String::from_utf8(text).expect("answers are text")
    }

    /// Everything until the server closes the connection.
    async fn rest(&mut self) -> String {
        let mut text = String::new();
        within(self.read.read_to_string(&mut text)).await.expect("answers are text");
        text
    }

    /// Ends the client's direction. A half of a pipe does so when it is shut down.
    async fn end(&mut self) {
        self.write.as_mut().expect("the client still sends").shutdown().await.expect("a pipe");
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn requests_follow_each_other_however_they_come() {
    let mut client = Client::connect();
    client.send(GET).await;
    let first = client.until("\r\n\r\nhere").await;
    assert!(first.starts_with("HTTP/1.1 200 OK\r\n") && first.contains("Content-Length: 4\r\n"));
    assert!(!first.contains("Connection"), "{first}");
    // Three at once, the last one cut within its body.
    client
        .send(&format!("{GET}POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"))
        .await;
    client.send("POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nd").await;
    client.until("here").await;
    client.until("abc").await;
    client.send("ef").await;
    client.until("def").await;
    // A head byte by byte.
    for byte in GET.split_inclusive("") {
        client.send(byte).await;
    }
    client.until("here").await;
    client.end().await;
    assert_eq!(client.rest().await, "");
    assert!(within(&mut client.server).await.unwrap().is_none());
}

#[tokio::test]
async fn a_body_in_chunks_is_answered_piece_by_piece() {
    let mut client = Client::connect();
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("3\r\none\r\n").await;
    let head = client.until("\r\n3\r\none\r\n").await;
    assert!(head.contains("Transfer-Encoding: chunked\r\n") && !head.contains("Content-Length"));
    for (sent, received) in [("A;x\r\n0123", "4\r\n0123\r\n"), ("456789\r\n", "6\r\n456789\r\n")] {
        client.send(sent).await;
        client.until(received).await;
    }
    client.send("0\r\nTrailer: x\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
    client.send(GET).await;
    client.until("here").await;
}

#[tokio::test]
async fn a_stream_ends_with_its_client() {
    for half in [true, false] {
        let mut client = Client::connect();
        client.send("POST /watch HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi").await;
        client.until("2\r\nhi\r\n").await;
        client.service.alive.becomes(1).await;
        let alive = client.service.alive.clone();
        if half {
            client.end().await;
            alive.becomes(0).await;
            assert_eq!(client.rest().await, "", "a stream that is cut has no end");
        } else {
            drop((client.read, client.write));
            alive.becomes(0).await;
        }
        assert!(within(&mut client.server).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_call_ends_with_its_client() {
    // Its body was not read: what is left of it must not hide that the client goes.
    for body in
        ["", "Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"]
    {
        let mut client = Client::connect();
        let end = if body.is_empty() { "\r\n" } else { "" };
        client.send(&format!("POST /never HTTP/1.1\r\nHost: h\r\n{body}{end}")).await;
        client.service.alive.becomes(1).await;
        client.end().await;
        client.service.alive.becomes(0).await;
        assert_eq!(client.rest().await, "", "{body}");
    }
}

#[tokio::test]
async fn half_a_request_has_no_answer() {
    for text in ["GET / HTT", "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell"] {
        let mut client = Client::connect();
        client.send(text).await;
        client.end().await;
        let answer = client.rest().await;
        // A call that sees its body break off may still say so.
        assert!(answer.is_empty() || answer.ends_with("broken"), "{answer}");
        assert!(within(&mut client.server).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_client_is_told_to_go_on_only_if_its_body_is_wanted() {
    let expect = "Host: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let mut client = Client::connect();
    client.send(&format!("POST /body HTTP/1.1\r\n{expect}")).await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc").await;
    let answer = client.until("abc").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // A body that comes unasked is taken, and then nobody is told anything.
    client.send(&format!("POST /body HTTP/1.1\r\n{expect}def")).await;
    assert!(client.until("def").await.starts_with("HTTP/1.1 200 OK"));
    client.send(&format!("POST / HTTP/1.1\r\n{expect}")).await;
    let answer = client.rest().await;
    assert!(answer.contains("Connection: close\r\n") && answer.ends_with("here"), "{answer}");
}

#[tokio::test]
async fn what_is_left_of_a_body_is_read_if_it_is_little() {
    let mut client = Client::connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc").await;
    client.until("here").await;
    client.send(&format!("def{GET}")).await;
    client.until("here").await;
    // A gibibyte is not read to keep a connection.
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1073741824\r\n\r\n").await;
    client.until("here").await;
    let mut write = client.write.take().expect("the client sends");
    let sending = tokio::spawn(async move {
        let piece = [0; 1024];
        while write.write_all(&piece).await.is_ok() {}
    });
    assert_eq!(client.rest().await, "");
    within(sending).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_written_for() {
    let mut client = Client::connect();
    client.send("GET /flood HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let flood = client.service.flood.clone();
    let settled = async {
        let mut last = 0;
        let mut turns_without_more = 0;
        while turns_without_more < 1000 {
            tokio::task::yield_now().await;
            let given = flood.load(Relaxed);
            turns_without_more =
                if given == last && given > 0 { turns_without_more + 1 } else { 0 };
            last = given;
        }
        last
    };
    let given = within(settled).await;
    assert!(given * 1024 <= 2 * super::connection::WRITTEN_BYTES, "{given} KiB for nobody");
    let mut piece = vec![0; 64 << 10];
    for _ in 0..10 {
        within(client.read.read_exact(&mut piece)).await.unwrap();
    }
    client.service.alive.becomes(1).await;
    drop((client.read, client.write));
    client.service.alive.becomes(0).await;
}

#[tokio::test]
async fn head_and_http_1_0_have_their_own_endings() {
    let mut client = Client::connect();
    client.send(&format!("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n{GET}")).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.contains("Content-Length: 4\r\n"), "{head}");
    assert!(client.until("here").await.starts_with("HTTP/1.1 200 OK"));
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let head = client.until("here").await;
    assert!(head.starts_with("HTTP/1.0 200 OK") && head.contains("Connection: keep-alive\r\n"));
    client
        .send("POST /echo HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let rest = client.rest().await;
    assert!(rest.ends_with("Connection: close\r\n\r\nhi") && !rest.contains("chunked"), "{rest}");
    let mut client = Client::connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(client.rest().await.contains("Connection: close\r\n"));
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_connection_closed() {
    let mut client = Client::connect();
    client.send(&format!("{GET}\x16\x03\x01\r\n\r\n")).await;
    client.until("here").await;
    let refusal = client.rest().await;
    assert!(refusal.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{refusal}");
    assert!(
        refusal.contains("Connection: close\r\n") && refusal.ends_with("\r\n\r\n400 Bad Request")
    );
    let mut client = Client::connect();
    client
        .send("POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
        .await;
    assert!(client.rest().await.ends_with("broken"));
}

#[tokio::test]
async fn stop_lets_a_call_finish_and_no_other_begin() {
    let mut client = Client::connect();
    client.send(GET).await;
    client.until("here").await;
    client.stop.cancel();
    assert_eq!(client.rest().await, "");

    let mut client = Client::connect();
    client.send("POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab").await;
    client.service.alive.becomes(1).await;
    client.stop.cancel();
    client.send(&format!("c{GET}")).await;
    let answer = client.rest().await;
    assert!(answer.contains("Connection: close\r\n") && answer.ends_with("abc"), "{answer}");
}

#[tokio::test]
async fn an_upgrade_gives_the_connection_back_with_what_was_read() {
    let mut client = Client::connect();
    client.send("GET /upgrade HTTP/1.1\r\nHost: h\r\n\r\nother").await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("Content-Length"), "{head}");
    let (mut io, read) = within(&mut client.server).await.unwrap().expect("the connection");
    assert_eq!(&read[..], b"other");
    io.write_all(b"words").await.unwrap();
    client.until("words").await;
}
