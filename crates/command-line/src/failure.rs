//! How a command fails: the text on stderr and the exit code.

use std::process::ExitCode;

/// The exit codes of etcd's tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
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
pub struct Failure {
    pub exit: Exit,
    /// `None` when everything has been said already.
    message: Option<String>,
    /// The usage of the command whose line could not be read.
    usage: Option<String>,
    /// A line of the log that belongs before the message.
    log_line: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, message: Some(message.into()), usage: None, log_line: None }
    }

    /// Something went wrong that is no fault of the command line.
    pub fn error(error: &impl std::fmt::Display) -> Self {
        Failure::new(Exit::Error, error.to_string())
    }

    pub fn bad_args(message: impl Into<String>) -> Self {
        Failure::new(Exit::BadArgs, message)
    }

    /// A failure that has been reported where it happened.
    pub const fn silent(exit: Exit) -> Self {
        Failure { exit, message: None, usage: None, log_line: None }
    }

    #[must_use]
    pub fn with_exit(self, exit: Exit) -> Self {
        Failure { exit, ..self }
    }

    #[must_use]
    pub fn with_usage(self, usage: String) -> Self {
        Failure { usage: Some(usage), ..self }
    }

    #[must_use]
    pub fn with_log_line(self, line: Option<String>) -> Self {
        Failure { log_line: line, ..self }
    }

    /// The same failure with its text put into a sentence.
    #[must_use]
    pub fn in_words(self, words: impl FnOnce(&str) -> String) -> Self {
        Failure { message: self.message.as_deref().map(words), ..self }
    }

    /// Says it on stderr.
    pub fn report(self) -> ExitCode {
        if let Some(line) = &self.log_line {
            eprintln!("{line}");
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
