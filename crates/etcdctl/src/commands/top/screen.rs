//! The terminal that `top` draws on; or a pipe, which gets the frames as text.

use std::io::{IsTerminal, Read, Write};

use tokio::sync::mpsc;

use crate::print::write_out;
use crate::terminal::{self, END, INTERRUPT, Raw};
use retcd_command_line::Failure;

/// Another page, so that the shell's lines are still there afterwards, and no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const ERASE_TO_END_OF_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";

/// Where frames go.
pub(super) struct Screen {
    is_terminal: bool,
    /// Ctrl-C and other letters come one by one while this lives.
    _raw: Option<Raw>,
    is_first: bool,
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    End,
    Refresh,
}

/// The letters that are typed.
pub(super) struct Keyboard {
    /// Never closed by a pipe, which says nothing.
    letters: Option<mpsc::Receiver<u8>>,
}

impl Screen {
    pub(super) fn open() -> (Self, Keyboard) {
        let is_terminal = std::io::stdout().is_terminal();
        let raw = if is_terminal { Raw::begin() } else { None };
        let letters = raw.is_some().then(letters);
        if is_terminal {
            write(ENTER);
        }
        (Screen { is_terminal, _raw: raw, is_first: true }, Keyboard { letters })
    }

    /// Columns and rows for a frame; `None` where there is no end to either.
    pub(super) fn size(&self) -> Option<(usize, usize)> {
        self.is_terminal.then(terminal::size)
    }

    /// Shows a frame in place of the one before.
    pub(super) fn show(&mut self, lines: &[String]) -> Result<(), Failure> {
        let mut text = String::new();
        if self.is_terminal {
            let ended: Vec<String> =
                lines.iter().map(|line| format!("{line}{ERASE_TO_END_OF_LINE}")).collect();
            text.extend([HOME, &ended.join("\n"), ERASE_BELOW]);
        } else {
            // An empty line between two frames.
            let gap = if self.is_first { "" } else { "\n" };
            text.extend([gap, &lines.join("\n"), "\n"]);
        }
        self.is_first = false;
        write_out(text.as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            write(LEAVE);
        }
    }
}

impl Keyboard {
    /// Waits for a letter that means something.
    pub(super) async fn next(&mut self) -> Input {
        let Some(letters) = &mut self.letters else {
            return std::future::pending().await;
        };
        loop {
            match letters.recv().await {
                // A terminal that is gone is the end, too.
                Some(b'q' | b'Q' | INTERRUPT | END) | None => return Input::End,
                Some(b' ' | b'r') => return Input::Refresh,
                Some(_) => {}
            }
        }
    }
}

fn letters() -> mpsc::Receiver<u8> {
    let (sender, receiver) = mpsc::channel(1);
    // Reading stdin cannot be interrupted. The thread ends with the program.
    std::thread::spawn(move || {
        let mut letter = [0];
        while std::io::stdin().read(&mut letter).is_ok_and(|read| read > 0) {
            if sender.blocking_send(letter[0]).is_err() {
                return;
            }
        }
    });
    receiver
}

fn write(text: &str) {
    let mut stdout = std::io::stdout();
    // A terminal that is gone shows nothing anyway.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
