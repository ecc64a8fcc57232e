//! How far long work is: a bar on a terminal, a line now and then otherwise. On stderr, for stdout holds results.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::print::size;
use crate::terminal;
use retcd_command_line::go::duration;

/// Pause between two drawings of the bar; the eye is not faster.
const REDRAW: Duration = Duration::from_millis(100);
/// Pause between two lines where nobody watches.
const LINE: Duration = Duration::from_secs(10);
/// The columns of the bar itself.
const BAR_WIDTH: usize = 30;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    /// Things with a name.
    Of(&'static str),
}

/// Work that takes a while.
pub(crate) struct Progress {
    title: String,
    unit: Unit,
    done: u64,
    /// 0 while nobody knows.
    total: u64,
    is_terminal: bool,
    start: Instant,
    shown_at: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(title: impl Into<String>, unit: Unit, total: u64) -> Self {
        let mut progress = Progress {
            title: title.into(),
            unit,
            done: 0,
            total,
            is_terminal: std::io::stderr().is_terminal(),
            start: Instant::now(),
            shown_at: None,
        };
        progress.show();
        progress
    }

    pub(crate) fn add(&mut self, count: u64) {
        self.set(self.done + count);
    }

    pub(crate) fn set(&mut self, done: u64) {
        self.done = done;
        self.show();
    }

    pub(crate) fn set_total(&mut self, total: u64) {
        self.total = total;
    }

    /// Takes the bar off the screen, so that lines can be written. The next step brings it back.
    pub(crate) fn hide(&mut self) {
        if self.is_terminal {
            write("\r\x1b[K");
            self.shown_at = None;
        }
    }

    fn show(&mut self) {
        let now = Instant::now();
        let pause = if self.is_terminal { REDRAW } else { LINE };
        // Where nobody watches, the beginning is no news.
        let last = self.shown_at.or_else(|| (!self.is_terminal).then_some(self.start));
        if last.is_some_and(|last| now.duration_since(last) < pause) {
            return;
        }
        self.shown_at = Some(now);
        let text = self.text(now.duration_since(self.start));
        if self.is_terminal {
            let width = terminal::size().0.saturating_sub(1);
            let line: String = format!("{}  {text}", self.bar()).chars().take(width).collect();
            write(&format!("\r\x1b[K{line}"));
        } else {
            write(&format!("{text}\n"));
        }
    }

    fn text(&self, passed: Duration) -> String {
        let amount = |count: u64| match self.unit {
            Unit::Bytes => size(i64::try_from(count).unwrap_or(i64::MAX)),
            Unit::Of(_) => count.to_string(),
        };
        let of_total =
            if self.total > 0 { format!(" of {}", amount(self.total)) } else { String::new() };
        let name = match self.unit {
            Unit::Bytes => String::new(),
            Unit::Of(name) => format!(" {name}"),
        };
        let passed = duration::format(Duration::from_secs(passed.as_secs()));
        format!("{}: {}{of_total}{name} after {passed}", self.title, amount(self.done))
    }

    fn bar(&self) -> String {
        if self.total == 0 {
            return "…".to_owned();
        }
        let done = self.done.min(self.total);
        let share = |of: u64| u128::from(of) * u128::from(done) / u128::from(self.total);
        let full = usize::try_from(share(BAR_WIDTH as u64)).unwrap_or(BAR_WIDTH);
        format!("[{:<BAR_WIDTH$}] {:>3}%", "=".repeat(full), share(100))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.hide();
    }
}

fn write(text: &str) {
    // Progress that nobody sees changes nothing.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(unit: Unit, done: u64, total: u64) -> Progress {
        let (start, is_terminal) = (Instant::now(), false);
        let shown_at = Some(start + Duration::from_secs(3600));
        Progress { title: "save".to_owned(), unit, done, total, is_terminal, start, shown_at }
    }

    #[test]
    fn bars_fill() {
        let bar = |done, total| progress(Unit::Bytes, done, total).bar();
        assert_eq!(bar(0, 10), "[                              ]   0%");
        assert_eq!(bar(5, 10), "[===============               ]  50%");
        assert_eq!(bar(20, 10), "[==============================] 100%");
        assert_eq!(bar(u64::MAX, u64::MAX), "[==============================] 100%");
        assert_eq!(bar(3, 0), "…");
    }

    #[test]
    fn texts_name_what_they_count() {
        let text = |unit, total| progress(unit, 2_000, total).text(Duration::from_millis(3_900));
        assert_eq!(text(Unit::Bytes, 20_000), "save: 2.0 kB of 20 kB after 3s");
        assert_eq!(text(Unit::Of("keys"), 0), "save: 2000 keys after 3s");
    }
}
