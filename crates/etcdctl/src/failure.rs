//! How a request fails.

use retcd_client::Error;
use retcd_command_line::{Exit, Failure};

use crate::log;

/// A request that failed.
pub(crate) fn request(error: &Error) -> Failure {
    request_with(Exit::Error, error)
}

pub(crate) fn request_with(exit: Exit, error: &Error) -> Failure {
    Failure::new(exit, error.to_string()).with_log_line(last_attempt(error).map(log::retry_line))
}

/// Why no attempt succeeded, for a call whose time ran out.
pub(crate) fn last_attempt(error: &Error) -> Option<&str> {
    match error {
        Error::DeadlineExceeded { last_attempt } => last_attempt.as_deref(),
        _ => None,
    }
}
