//! Sends spans to the collector: OTLP over gRPC, in plain text.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Ended, QUEUE_MAX, Tracer, otlp};
use crate::grpc::frame_prefix;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Spans wait at most this long for company.
const ROUND: Duration = Duration::from_secs(5);
/// A collector that takes longer for a batch, or to be reached, has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a member that stops waits for its last spans to go out.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The task that empties the queue of a [`Tracer`].
pub(crate) struct Exporter {
    tracer: Arc<Tracer>,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// The last batch did not reach the collector. Told once, not every round.
    is_failing: bool,
}

/// Why a batch did not arrive.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the collector does not answer")]
    Silence,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("the collector answered with HTTP status {0}")]
    Status(http::StatusCode),
    #[error("the collector refused the spans: gRPC status {0}")]
    Refused(String),
}

impl Exporter {
    pub(crate) fn new(tracer: Arc<Tracer>) -> Self {
        Self { tracer, connection: None, is_failing: false }
    }

    /// Sends what there is, a batch every few seconds or as soon as it is large, until `stop`; then the rest.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(ROUND) => self.send_all(PATIENCE).await,
                () = self.tracer.is_worth_sending.notified() => self.send_all(PATIENCE).await,
                () = stop.cancelled() => return self.send_all(LAST_PATIENCE).await,
            }
        }
    }

    async fn send_all(&mut self, patience: Duration) {
        let spans = std::mem::take(&mut *self.tracer.queue.lock());
        if spans.is_empty() {
            return;
        }
        let sent = tokio::time::timeout(patience, self.send(&spans)).await;
        match sent.unwrap_or(Err(Error::Silence)) {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(address = self.address(), "the trace collector is back");
                }
            }
            Err(error) => {
                self.connection = None;
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, address = self.address(), "could not export traces");
                }
                self.put_back(spans);
            }
        }
    }

    /// Spans that were not sent get another chance, behind no others; what does not fit any more is lost.
    fn put_back(&self, mut spans: Vec<Ended>) {
        let mut queue = self.tracer.queue.lock();
        spans.append(&mut queue);
        self.tracer.count_dropped(spans.len().saturating_sub(QUEUE_MAX));
        spans.truncate(QUEUE_MAX);
        *queue = spans;
    }

    async fn send(&mut self, spans: &[Ended]) -> Result<(), Error> {
        let message = otlp::export_request(&self.tracer.settings, spans).encode_to_vec();
        let body = [&frame_prefix(message.len())[..], &message].concat();
        let request = Request::post(format!("http://{}{EXPORT}", self.address()))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(body.into()))
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
        let response = self.connection().await?.send_request(request).await?;
        if !response.status().is_success() {
            return Err(Error::Status(response.status()));
        }
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        // The status stands behind the message, or in the head when there is none.
        check_status(body.trailers().unwrap_or(&head.headers))
    }

    async fn connection(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Error> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(self.address()).await?;
            let handshake = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .handshake(TokioIo::new(stream));
            let (sender, connection) = handshake.await?;
            // Ends with its sender. An error reaches the request that it concerns.
            tokio::spawn(connection);
            self.connection = Some(sender);
        }
        Ok(self.connection.as_mut().expect("it was just made, or is open"))
    }

    fn address(&self) -> &str {
        &self.tracer.settings.address
    }
}

fn check_status(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get("grpc-status").map(|status| String::from_utf8_lossy(status.as_bytes())) {
        Some(status) if status != "0" => Err(Error::Refused(status.into_owned())),
        _ => Ok(()),
    }
}
