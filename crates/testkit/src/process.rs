//! A child process whose output can be waited for.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often a process is asked whether it has ended; there is no portable way to be told by a deadline.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// How long the output of an ended process is awaited. It is there at once, unless a child of the process lives on and
/// holds the pipe open.
const DRAIN: Duration = Duration::from_secs(5);

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    /// Lines up to here have been seen by [`Self::expect`].
    seen: usize,
}

/// What the process has written so far.
#[derive(Debug, Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they were read; lines of the two streams may be out of order with each other.
    lines: Vec<(Stream, Vec<u8>)>,
    /// Streams that have ended.
    ended: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

impl Process {
    /// Starts a program.
    ///
    /// # Panics
    /// The program cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let output = Arc::new(Output::default());
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let readers = vec![
            output.clone().collect(Stream::Stdout, stdout),
            output.clone().collect(Stream::Stderr, stderr),
        ];
        Process { stdin: child.stdin.take(), child, output, readers, seen: 0 }
    }

    /// Waits for a line that contains `text`, on either stream, after the lines that earlier calls returned.
    ///
    /// # Panics
    /// No such line comes in time, or before the process ends.
    pub fn expect(&mut self, text: &str, deadline: Duration) -> String {
        let until = Instant::now() + deadline;
        let mut state = self.output.lock();
        loop {
            while let Some((_, line)) = state.lines.get(self.seen) {
                self.seen += 1;
                let line = String::from_utf8_lossy(line).into_owned();
                if line.contains(text) {
                    return line;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended == 2 {
                let all = describe(&state.lines);
                drop(state);
                panic!("no line with {text:?} within {deadline:?}; the output was:\n{all}");
            }
            state = self.output.wait(state, left);
        }
    }

    /// Writes a line to the process's stdin.
    ///
    /// # Panics
    /// The process does not read any more.
    pub fn send_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is still open");
        let written = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        written.expect("the process reads its stdin");
    }

    /// Writes all of stdin and closes it. A process that does not care is fine.
    pub fn send_all(&mut self, bytes: &[u8]) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(bytes);
        }
    }

    /// Waits until the process has ended and all its output has been read.
    ///
    /// # Panics
    /// It does not end in time.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let until = Instant::now() + deadline;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if Instant::now() >= until {
                let all = describe(&self.output.lock().lines);
                panic!("process did not end within {deadline:?}; the output was:\n{all}");
            }
            std::thread::sleep(EXIT_POLL);
        };
        let drained = Instant::now() + DRAIN;
        let mut state = self.output.lock();
        while state.ended < 2 && Instant::now() < drained {
            state = self.output.wait(state, drained.saturating_duration_since(Instant::now()));
        }
        drop(state);
        status
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// The last lines on both streams, each marked with its stream.
    pub fn last_lines(&self, count: usize) -> String {
        let state = self.output.lock();
        describe(&state.lines[state.lines.len().saturating_sub(count)..])
    }

    /// Everything written to stdout so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.written_to(Stream::Stdout)
    }

    /// Everything written to stderr so far.
    pub fn stderr(&self) -> Vec<u8> {
        self.written_to(Stream::Stderr)
    }

    fn written_to(&self, stream: Stream) -> Vec<u8> {
        let state = self.output.lock();
        let lines = state.lines.iter().filter(|(other, _)| *other == stream);
        lines.flat_map(|(_, line)| line.iter().copied()).collect()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks the process to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends the process as a crash would.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Makes the process hang until [`Self::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("ids of processes are positive");
        // A process that has just ended by itself needs no signal; its id is kept until it is waited for.
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A grandchild may have inherited the pipes; then the readers end with it, not with us.
        self.readers.clear();
    }
}

impl Output {
    fn collect(
        self: Arc<Self>,
        stream: Stream,
        source: impl Read + Send + 'static,
    ) -> JoinHandle<()> {
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            loop {
                let mut line = Vec::new();
                let read = source.read_until(b'\n', &mut line).unwrap_or(0);
                let mut state = self.lock();
                if read == 0 {
                    state.ended += 1;
                    self.changed.notify_all();
                    return;
                }
                state.lines.push((stream, line));
                self.changed.notify_all();
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }
}

fn describe(lines: &[(Stream, Vec<u8>)]) -> String {
    let mut all = String::new();
    for (stream, line) in lines {
        let mark = match stream {
            Stream::Stdout => "out",
            Stream::Stderr => "err",
        };
        writeln!(all, "{mark}| {}", String::from_utf8_lossy(line).trim_end_matches('\n'))
            .expect("a string takes everything");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SOON;

    fn shell(script: &str) -> Process {
        Process::spawn(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn lines_are_expected_in_order() {
        let mut process = shell("echo one; echo two >&2; read line; echo got $line; exit 3");
        process.expect("one", SOON);
        process.send_line("three");
        assert_eq!(process.expect("got", SOON), "got three\n");
        assert_eq!(process.wait(SOON).code(), Some(3));
        assert_eq!(process.stdout(), b"one\ngot three\n");
        assert_eq!(process.stderr(), b"two\n");
    }

    #[test]
    #[should_panic(expected = "no line with \"never\"")]
    fn missing_lines_fail() {
        shell("echo something else").expect("never", SOON);
    }

    #[test]
    fn signals_arrive() {
        let mut process =
            shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
        process.expect("ready", SOON);
        process.terminate();
        process.expect("bye", SOON);
        assert!(process.wait(SOON).success());

        let mut process = shell("echo ready; exec sleep 1000");
        process.expect("ready", SOON);
        process.kill();
        assert_eq!(process.wait(SOON).code(), None, "ended by a signal");
    }

    #[test]
    fn dropped_processes_are_gone() {
        let process = shell("exec sleep 1000");
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).unwrap();
        drop(process);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
