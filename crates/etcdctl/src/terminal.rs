//! The terminal: whether there is one, how large it is, and reading it letter by letter.
//!
//! While [`Raw`] lives, echo, line editing and signals of the terminal are off, so Ctrl-C is just a letter. The settings
//! from before are kept in one place, because the program may end while another thread reads.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{
    LocalModes, OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr,
};

pub(crate) const INTERRUPT: u8 = 0x03; // Ctrl-C
pub(crate) const END: u8 = 0x04; // Ctrl-D

/// The settings to go back to, while they are changed.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether somebody sits at both ends.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// A terminal that shows nothing by itself. As before when dropped.
pub(crate) struct Raw(());

impl Raw {
    /// `None` when stdin is no terminal.
    pub(crate) fn begin() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut modes = before.clone();
        modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(&stdin, OptionalActions::Drain, &modes).ok()?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        Some(Raw(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was. For the end of the program, whoever may be reading then.
pub(crate) fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs no settings.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &before);
    }
}

/// Columns and rows of the terminal behind stdout, or else of the usual one.
pub(crate) fn size() -> (usize, usize) {
    match tcgetwinsize(std::io::stdout()) {
        Ok(Winsize { ws_col, ws_row, .. }) if ws_col > 0 && ws_row > 0 => {
            (usize::from(ws_col), usize::from(ws_row))
        }
        Ok(_) | Err(_) => (80, 24),
    }
}
