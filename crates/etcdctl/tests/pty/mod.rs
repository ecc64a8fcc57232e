//! A program at a terminal of its own, and somebody who types.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// How long anything may take. Long, because machines for tests are busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How often a process is asked whether it has ended.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// A program that believes to have a person in front of it. Killed when dropped.
pub(crate) struct Terminal {
    master: std::fs::File,
    child: Child,
    output: Arc<Output>,
    /// What was written up to here has been expected already.
    seen: usize,
}

/// What the program has written, and the terminal echoed.
#[derive(Default)]
struct Output {
    bytes: Mutex<Vec<u8>>,
    changed: Condvar,
}

impl Terminal {
    /// Starts the command at a terminal of 120 columns and 40 rows.
    pub(crate) fn start(command: &Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a new terminal is ours");
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("terminals have a size");
        let name = ptsname(&master, Vec::new()).expect("terminals have names");
        let open = || {
            let path = OsStr::from_bytes(name.as_bytes());
            std::fs::File::options().read(true).write(true).open(path).expect("it is unlocked")
        };
        // A session of its own, so that Ctrl-C finds the program. No safe function does that between fork and exec.
        let mut in_session = Command::new("setsid");
        in_session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => in_session.env(name, value),
                None => in_session.env_remove(name),
            };
        }
        let child = in_session.stdin(open()).stdout(open()).stderr(open()).spawn();
        let child = child.expect("setsid of util-linux can be run");
        let output = Arc::new(Output::default());
        let reader = std::fs::File::from(master.try_clone().expect("descriptors can be copied"));
        let collected = output.clone();
        std::thread::spawn(move || collected.collect(reader));
        Terminal { master: std::fs::File::from(master), child, output, seen: 0 }
    }

    /// Types keys, as the bytes that a terminal makes of them.
    pub(crate) fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// Waits until the screen has had `text`, after what was waited for before; returns everything up to it.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let until = Instant::now() + SOON;
        let mut bytes = self.output.lock();
        loop {
            let found =
                bytes[self.seen..].windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let end = self.seen + at + text.len();
                let up_to = String::from_utf8_lossy(&bytes[self.seen..end]).into_owned();
                self.seen = end;
                return up_to;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all = String::from_utf8_lossy(&bytes).into_owned();
                drop(bytes);
                panic!("no {text:?} on the screen, which has had:\n{all:?}");
            }
            bytes = self
                .output
                .changed
                .wait_timeout(bytes, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Everything the screen has had so far.
    pub(crate) fn screen(&self) -> String {
        String::from_utf8_lossy(&self.output.lock()).into_owned()
    }

    /// Waits until the terminal does, or does not, show what is typed.
    #[track_caller]
    pub(crate) fn until_echo_is(&self, wanted: bool) {
        let until = Instant::now() + SOON;
        while self.echoes() != wanted {
            assert!(Instant::now() < until, "the echo stays {}", !wanted);
            std::thread::sleep(EXIT_POLL);
        }
    }

    /// Whether the terminal shows what is typed.
    pub(crate) fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.master).expect("the terminal is there");
        modes.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < until, "it goes on; the screen has had:\n{:?}", self.screen());
            std::thread::sleep(EXIT_POLL);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both may have ended by themselves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn collect(&self, mut from: impl Read) {
        let mut piece = [0; 4096];
        // Reading fails once nobody has the terminal open any more.
        while let Ok(read @ 1..) = from.read(&mut piece) {
            self.lock().extend_from_slice(&piece[..read]);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
