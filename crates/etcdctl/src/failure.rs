//! How a command fails: the text on stderr and the exit code.

use std::process::ExitCode;

use retcd_client::Error;

use crate::log;

/// etcdctl's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A request failed, or the command line could not be read.
    Error,
    BadConnection,
    /// What stdin said makes no sense.
    InvalidInput,
    /// A valid flag with a value that is not supported.
    BadFeature,
    /// The server ended the watch, or a snapshot could not be saved.
    Interrupted,
    BadArgs,
    /// That of a command that was run.
    Child(u8),
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Exit::Error => 1,
            Exit::BadConnection => 2,
            Exit::InvalidInput => 3,
            Exit::BadFeature => 4,
            Exit::Interrupted => 5,
            Exit::BadArgs => 128,
            Exit::Child(code) => code,
        }
    }
}

/// Why the program ends early.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// `None` when everything has been said already.
    message: Option<String>,
    /// The usage of the command whose line could not be read.
    usage: Option<String>,
    /// Why no attempt to reach a server succeeded.
    last_attempt: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, message: Some(message.into()), usage: None, last_attempt: None }
    }

    pub(crate) fn bad_args(message: impl Into<String>) -> Self {
        Failure::new(Exit::BadArgs, message)
    }

    /// A failure that has been reported where it happened.
    pub(crate) const fn silent(exit: Exit) -> Self {
        Failure { exit, message: None, usage: None, last_attempt: None }
    }

    /// A request that failed.
    pub(crate) fn request(error: &Error) -> Self {
        Failure::request_with(Exit::Error, error)
    }

    pub(crate) fn request_with(exit: Exit, error: &Error) -> Self {
        let last_attempt = last_attempt(error).map(ToOwned::to_owned);
        Failure { last_attempt, ..Failure::new(exit, error.to_string()) }
    }

    pub(crate) fn with_exit(self, exit: Exit) -> Self {
        Failure { exit, ..self }
    }

    pub(crate) fn with_usage(self, usage: String) -> Self {
        Failure { usage: Some(usage), ..self }
    }

    /// The same failure with its text put into a sentence.
    pub(crate) fn in_words(self, words: impl FnOnce(&str) -> String) -> Self {
        Failure { message: self.message.as_deref().map(words), ..self }
    }

    pub(crate) fn report(self) -> ExitCode {
        if let Some(text) = &self.last_attempt {
            log::retry(text);
        }
        if let Some(message) = &self.message {
            eprintln!("Error: {message}");
        }
        if let Some(usage) = &self.usage {
            eprintln!("{usage}");
        }
        ExitCode::from(self.exit.code())
    }
}

/// Why no attempt succeeded, for a call whose time ran out.
pub(crate) fn last_attempt(error: &Error) -> Option<&str> {
    match error {
        Error::DeadlineExceeded { last_attempt } => last_attempt.as_deref(),
        _ => None,
    }
}
