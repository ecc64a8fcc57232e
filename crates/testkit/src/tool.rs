//! A command line tool that talks to one endpoint.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Process, SOON};

/// `etcdctl`, or a program with the same command line.
#[derive(Debug, Clone)]
pub struct Tool {
    binary: PathBuf,
    endpoint: String,
    environment: Vec<(String, String)>,
}

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// -1 when a signal ended it.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Tool {
    pub fn new(binary: &Path, endpoint: &str) -> Self {
        Tool { binary: binary.to_owned(), endpoint: endpoint.to_owned(), environment: Vec::new() }
    }

    /// The same tool with a variable in its environment.
    #[must_use]
    pub fn with_env(&self, name: &str, value: &str) -> Self {
        let mut tool = self.clone();
        tool.environment.push((name.to_owned(), value.to_owned()));
        tool
    }

    /// The command with the endpoint and `args`, and nothing of etcdctl's in its environment but what
    /// [`Self::with_env`] put there.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCDCTL_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(["--endpoints", &self.endpoint]).args(args);
        command
    }

    /// Starts the tool, for commands that go on until they are stopped.
    pub fn spawn(&self, args: &[&str]) -> Process {
        Process::spawn(&mut self.command(args))
    }

    /// Runs the tool to its end, with nothing on stdin.
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.run_with_input(args, b"")
    }

    /// Runs the tool to its end.
    ///
    /// # Panics
    /// It does not end in time.
    pub fn run_with_input(&self, args: &[&str], stdin: &[u8]) -> Outcome {
        let mut process = self.spawn(args);
        process.send_all(stdin);
        let status = process.wait(SOON);
        Outcome {
            code: status.code().unwrap_or(-1),
            stdout: process.stdout(),
            stderr: process.stderr(),
        }
    }

    /// Runs the tool, which must succeed, and returns its stdout.
    ///
    /// # Panics
    /// It fails.
    pub fn expect(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", String::from_utf8_lossy(&outcome.stderr));
        String::from_utf8(outcome.stdout).expect("the output is text")
    }
}
