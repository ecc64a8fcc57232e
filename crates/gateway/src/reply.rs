//! What goes back: a JSON object, lines of them, or an error with its HTTP status.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use retcd_api::error::{Code, RpcError};
use retcd_api::json::Method;
use tokio::time::Sleep;

use crate::call::Answers;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The body of an answer.
pub enum Body {
    Whole(Bytes),
    Lines(Box<Lines>),
}

/// The answers of a streaming call, a line of JSON each.
pub struct Lines {
    answers: Box<dyn Answers>,
    method: &'static Method,
    deadline: Option<Pin<Box<Sleep>>>,
    /// The line that decided about the status.
    first: Option<Bytes>,
    is_over: bool,
}

impl Lines {
    /// Waits for the first answer: whether there is one decides about the HTTP status.
    pub(crate) async fn open(
        answers: Box<dyn Answers>,
        method: &'static Method,
        deadline: Option<Sleep>,
    ) -> Result<Self, RpcError> {
        let deadline = deadline.map(Box::pin);
        let mut lines = Lines { answers, method, deadline, first: None, is_over: false };
        let first = std::future::poll_fn(|context| lines.poll_answer(context)).await;
        lines.is_over = first.is_none();
        lines.first = first.transpose()?;
        Ok(lines)
    }

    /// The next line with its newline, to be sent at once. `None` ends the body.
    pub fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let answer = ready!(self.poll_answer(context));
        self.is_over = !matches!(answer, Some(Ok(_)));
        Poll::Ready(answer.map(|answer| answer.unwrap_or_else(|error| error_line(&error))))
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(Err(RpcError::ContextDeadlineExceeded)));
        }
        let answer = ready!(self.answers.poll_next(context));
        Poll::Ready(answer.map(|message| result_line(self.method, &message?)))
    }
}

fn result_line(method: &Method, message: &[u8]) -> Result<Bytes, RpcError> {
    let mut line = br#"{"result":"#.to_vec();
    method.response(message, &mut line).map_err(|error| broken_answer(&error))?;
    line.extend_from_slice(b"}\n");
    Ok(line.into())
}

fn error_line(error: &RpcError) -> Bytes {
    let status =
        serde_json::json!({ "error": { "code": error.code() as u8, "message": error.message() } });
    format!("{status}\n").into()
}

/// The answer to a unary call.
pub(crate) fn whole(method: &Method, message: &[u8]) -> Result<Response<Body>, RpcError> {
    let mut json = Vec::with_capacity(message.len() * 2);
    method.response(message, &mut json).map_err(|error| broken_answer(&error))?;
    Ok(respond(StatusCode::OK, Body::Whole(json.into())))
}

/// The server wrote what is not its own response: never the client's fault.
fn broken_answer(error: &retcd_api::json::Error) -> RpcError {
    RpcError::other(Code::Internal, format!("the answer cannot be read: {error}"))
}

pub(crate) fn lines(lines: Lines) -> Response<Body> {
    respond(StatusCode::OK, Body::Lines(Box::new(lines)))
}

fn respond(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    // The one piece of gRPC metadata that every answer of etcd brings.
    response
        .headers_mut()
        .insert("grpc-metadata-content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// The text stands twice: clients of etcd 3.5 and before look at `error`, later ones at `message`.
pub(crate) fn error(error: &RpcError) -> Response<Body> {
    let body = serde_json::json!({
        "error": error.message(),
        "code": error.code() as u8,
        "message": error.message(),
    });
    let mut response = Response::new(Body::Whole(body.to_string().into()));
    *response.status_mut() = status(error.code());
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// HTTP's word for a gRPC code.
fn status(code: Code) -> StatusCode {
    let status = match code {
        Code::Ok => 200,
        // nginx's "client closed request": there is no word of HTTP's own.
        Code::Canceled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    };
    StatusCode::from_u16(status).expect("these are three digits")
}
