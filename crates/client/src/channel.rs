//! The connection to one endpoint: made by the first request, shared by all, replaced by the first one after it closed.
//!
//! ```text
//!   request ──▶ is there an open connection? ──yes──▶ HTTP/2
//!                          │ no                          ▲
//!                          └──▶ the attempt to connect ──┘
//!                               that all requests wait for which come meanwhile
//! ```
//!
//! Nothing stands between a request and the task of its HTTP/2 connection: no queue, no layers. A request that gets no
//! response is told how far it came ([`Failure`]), which is what the retry rule has to know.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{Notify, watch};
use tokio_util::io::InspectReader;
use tower_service::Service;

use crate::dial::Dialer;
use crate::error::Failure;

const OUR_NAME: HeaderValue =
    HeaderValue::from_static(concat!("retcd-client/", env!("CARGO_PKG_VERSION")));

/// What client stubs are made from. Clones share the connection, which closes when the last one is gone and the last
/// request is done.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    scheme: Scheme,
    authority: Authority,
    http2: Builder<TokioExecutor>,
    /// Guards nothing else and is never held across a call.
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Unconnected,
    Connecting(watch::Receiver<Option<Attempt>>),
    /// Possibly closed by now.
    Connected(SendRequest<Body>),
}

/// How an attempt to connect has ended.
type Attempt = Result<SendRequest<Body>, Failure>;

impl Channel {
    /// Prepares to connect. A connection with calls under way is pinged after `ping_interval` without a word from the
    /// server, and given up when there is none for another `ping_timeout`.
    pub(crate) fn new(dialer: Dialer, ping_interval: Duration, ping_timeout: Duration) -> Self {
        let origin = dialer.origin().into_parts();
        let mut http2 = Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(ping_interval)
            .keep_alive_timeout(ping_timeout);
        let shared = Shared {
            dialer,
            scheme: origin.scheme.expect("an origin has a scheme"),
            authority: origin.authority.expect("an origin has an authority"),
            http2,
            state: Mutex::new(State::Unconnected),
        };
        Channel { shared: Arc::new(shared) }
    }

    /// Sends a request, connects before if need be, and waits for the head of the response.
    pub(crate) async fn send(
        &self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.shared.scheme.clone());
        parts.authority = Some(self.shared.authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).expect("an origin goes with every path");
        request.headers_mut().insert(USER_AGENT, OUR_NAME);
        let mut connection = match self.shared.connection() {
            Ok(connection) => connection,
            Err(attempt) => outcome(attempt).await?,
        };
        connection.send_request(request).await.map_err(|error| {
            // The error of requests that were still in line when their connection closed.
            if error.is_canceled() {
                Failure::Unsent(error.to_string())
            } else {
                Failure::lost(&error)
            }
        })
    }
}

impl Shared {
    /// The open connection, or the attempt to make one.
    fn connection(self: &Arc<Self>) -> Result<SendRequest<Body>, watch::Receiver<Option<Attempt>>> {
        let mut state = self.lock();
        match &*state {
            State::Connected(connection) if !connection.is_closed() => Ok(connection.clone()),
            // The attempt is over without an end when its runtime is gone.
            State::Connecting(attempt) if attempt.has_changed().is_ok() => Err(attempt.clone()),
            State::Unconnected | State::Connecting(_) | State::Connected(_) => {
                let attempt = self.connect();
                *state = State::Connecting(attempt.clone());
                Err(attempt)
            }
        }
    }

    /// Begins to connect, in a task, so that the caller's time limit is not that of the others.
    fn connect(self: &Arc<Self>) -> watch::Receiver<Option<Attempt>> {
        let (teller, told) = watch::channel(None);
        let (dialer, http2) = (self.dialer.clone(), self.http2.clone());
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            let attempt = tokio::select! {
                attempt = connect(dialer, http2) => attempt,
                // Nobody waits, and there is no channel any more.
                () = teller.closed() => return,
            };
            if let Some(shared) = Weak::upgrade(&shared) {
                *shared.lock() = match &attempt {
                    Ok(connection) => State::Connected(connection.clone()),
                    Err(_) => State::Unconnected,
                };
            }
            teller.send_replace(Some(attempt));
        });
        told
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(dialer: Dialer, http2: Builder<TokioExecutor>) -> Attempt {
    let io = dialer.dial().await.map_err(|error| Failure::unconnected(&error))?;
    if !dialer.is_encrypted() {
        let connected = http2.handshake(TokioIo::new(io)).await;
        let (sender, connection) = connected.map_err(|error| Failure::unconnected(&error))?;
        // Ends when the connection does. Whoever has a request under way is told why.
        tokio::spawn(async move { drop(connection.await) });
        return Ok(sender);
    }
    // A server may look at our certificate when we have long been done, and hang up. It has let us in when it speaks.
    let heard = Arc::new(Notify::new());
    let mut first = Some(heard.clone());
    let io = InspectReader::new(io, move |bytes| {
        if let Some(heard) = first.take_if(|_| !bytes.is_empty()) {
            heard.notify_one();
        }
    });
    let connected = http2.handshake(TokioIo::new(io)).await;
    let (sender, connection) = connected.map_err(|error| Failure::unconnected(&error))?;
    let mut running = tokio::spawn(connection);
    let spoken = tokio::time::timeout(dialer.timeout(), async {
        tokio::select! {
            biased;
            () = heard.notified() => Ok(()),
            end = &mut running => Err(match end {
                Ok(Err(error)) => Failure::unconnected(&error),
                Ok(Ok(())) | Err(_) => Failure::Unconnected("EOF".to_owned()),
            }),
        }
    });
    spoken.await.unwrap_or_else(|_| Err(Failure::Unconnected("i/o timeout".to_owned())))?;
    Ok(sender)
}

async fn outcome(mut attempt: watch::Receiver<Option<Attempt>>) -> Attempt {
    match attempt.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().expect("it was waited for"),
        Err(error) => Err(Failure::unconnected(&error)),
    }
}

/// What a request consists of.
#[derive(Debug)]
pub(crate) enum Body {
    /// All of it; `None` once it is sent.
    Whole(Option<Bytes>),
    /// Whatever a client stub makes.
    Stream(tonic::body::Body),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Stream(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_none(),
            Body::Stream(body) => body.is_end_stream(),
        }
    }
}

/// Client stubs send their requests this way.
impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move { channel.send(request.map(Body::Stream)).await })
    }
}
