//! Lines of stdin: from a pipe as they come, or edited on a terminal.
//!
//! The editor knows the keys that people have in their fingers from shells, and the lines of this session (arrows up and
//! down). History is not kept in a file: lines hold values, and values may be secret.
//!
//! Other threads may print while a line is being edited. They do it through [`print_above`], which takes the line off
//! the screen and puts it back below.

use std::io::{BufRead, Read, StdinLock, Stdout, Write};
use std::sync::{Mutex, PoisonError};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::terminal::{self, Raw};
use retcd_command_line::{Exit, Failure};

/// How to draw the line that is being edited; `None` while there is none. Whoever writes to stdout holds it.
static EDITED: Mutex<Option<String>> = Mutex::new(None);

/// What shells report for programs that Ctrl-C has ended.
const INTERRUPTED: Failure = Failure::silent(Exit::Child(130));
const ERASE_LINE: &str = "\r\x1b[K";

/// Where lines come from.
pub(crate) enum Lines {
    Pipe(StdinLock<'static>),
    Terminal(Editor),
}

impl Lines {
    /// The lines of stdin, edited when that is wanted and somebody is there.
    pub(crate) fn of_stdin(is_edited: bool) -> Self {
        let raw = if is_edited && terminal::is_interactive() { Raw::begin() } else { None };
        match raw {
            Some(raw) => Lines::Terminal(Editor { history: Vec::new(), _raw: raw }),
            None => Lines::Pipe(std::io::stdin().lock()),
        }
    }

    /// The next line without its end; `None` at the end of the input. A last line that nothing ends does not count, as in
    /// etcdctl.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Lines::Terminal(editor) => editor.read_line(),
            Lines::Pipe(input) => {
                let mut line = Vec::new();
                let read = input.read_until(b'\n', &mut line);
                read.map_err(|error| Failure::new(Exit::InvalidInput, error.to_string()))?;
                Ok((line.pop() == Some(b'\n')).then_some(line))
            }
        }
    }
}

/// Writes to stdout; above the line that is being edited, if there is one.
pub(crate) fn print_above(bytes: &[u8]) -> std::io::Result<()> {
    let edited = EDITED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stdout = std::io::stdout().lock();
    match &*edited {
        None => stdout.write_all(bytes)?,
        Some(line) => {
            stdout.write_all(ERASE_LINE.as_bytes())?;
            stdout.write_all(bytes)?;
            stdout.write_all(line.as_bytes())?;
        }
    }
    stdout.flush()
}

/// Reads lines from a terminal.
pub(crate) struct Editor {
    history: Vec<String>,
    /// Between two lines, too, so that nothing typed early is shown or obeyed by the terminal itself.
    _raw: Raw,
}

impl Editor {
    fn read_line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut stdin = std::io::stdin().lock();
        let mut line = Line::new(&self.history);
        draw(Some(&line), "");
        loop {
            let key = Key::read(&mut stdin)
                .map_err(|error| Failure::new(Exit::InvalidInput, error.to_string()))?;
            match line.press(key) {
                Progress::Going => draw(Some(&line), ""),
                Progress::Done => break,
                Progress::Ended => {
                    draw(None, "\n");
                    return Ok(None);
                }
                Progress::Interrupted => {
                    draw(None, "^C\n");
                    return Err(INTERRUPTED);
                }
            }
        }
        draw(None, "\n");
        let text: String = line.text.iter().collect();
        if !text.is_empty() && self.history.last() != Some(&text) {
            self.history.push(text.clone());
        }
        Ok(Some(text.into_bytes()))
    }
}

/// Draws the line, and notes how; or writes what follows it.
fn draw(line: Option<&Line<'_>>, after: &str) {
    let mut edited = EDITED.lock().unwrap_or_else(PoisonError::into_inner);
    *edited = line.map(|line| line.drawn(terminal::size().0));
    let mut stdout: Stdout = std::io::stdout();
    let text = edited.as_deref().unwrap_or(after);
    // A terminal that is gone is noticed when it is read.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// A key, or a chord of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Letter(char),
    Enter,
    Interrupt,
    /// Deletes, or ends the input when the line is empty.
    EndOrDelete,
    Delete,
    Backspace,
    Left,
    Right,
    WordLeft,
    WordRight,
    Start,
    End,
    Up,
    Down,
    CutToEnd,
    CutToStart,
    CutWord,
    Unknown,
}

impl Key {
    /// Waits for a key. The end of the input counts as Ctrl-D.
    fn read(input: &mut impl Read) -> std::io::Result<Self> {
        let Some(byte) = next_byte(input)? else {
            return Ok(Key::EndOrDelete);
        };
        Ok(match byte {
            b'\r' | b'\n' => Key::Enter,
            terminal::INTERRUPT => Key::Interrupt,
            terminal::END => Key::EndOrDelete,
            0x08 | 0x7f => Key::Backspace,
            0x01 => Key::Start,
            0x05 => Key::End,
            0x02 => Key::Left,
            0x06 => Key::Right,
            0x0b => Key::CutToEnd,
            0x10 => Key::Up,
            0x0e => Key::Down,
            0x15 => Key::CutToStart,
            0x17 => Key::CutWord,
            b'\t' => Key::Letter('\t'),
            0x1b => Self::read_escape(input)?,
            0..0x20 => Key::Unknown,
            first => Self::read_letter(first, input)?,
        })
    }

    /// The rest of a sequence that begins with escape.
    fn read_escape(input: &mut impl Read) -> std::io::Result<Self> {
        let introducer = next_byte(input)?;
        match introducer {
            Some(b'b') => return Ok(Key::WordLeft),
            Some(b'f') => return Ok(Key::WordRight),
            Some(b'[' | b'O') => {}
            _ => return Ok(Key::Unknown),
        }
        let mut parameters = Vec::new();
        loop {
            match next_byte(input)? {
                Some(byte @ (b'0'..=b'9' | b';')) => parameters.push(byte),
                last => return Ok(Self::of_sequence(&parameters, last)),
            }
        }
    }

    fn of_sequence(parameters: &[u8], last: Option<u8>) -> Self {
        // `1;5` is the Ctrl key, `1;3` Alt.
        let is_chord = parameters.contains(&b';');
        match (last, parameters) {
            (Some(b'A'), _) => Key::Up,
            (Some(b'B'), _) => Key::Down,
            (Some(b'C'), _) => {
                if is_chord {
                    Key::WordRight
                } else {
                    Key::Right
                }
            }
            (Some(b'D'), _) => {
                if is_chord {
                    Key::WordLeft
                } else {
                    Key::Left
                }
            }
            (Some(b'H'), _) | (Some(b'~'), b"1" | b"7") => Key::Start,
            (Some(b'F'), _) | (Some(b'~'), b"4" | b"8") => Key::End,
            (Some(b'~'), b"3") => Key::Delete,
            _ => Key::Unknown,
        }
    }

    /// A letter of one to four bytes.
    fn read_letter(first: u8, input: &mut impl Read) -> std::io::Result<Self> {
        let length = match first {
            0..0x80 => 1,
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0..0xf8 => 4,
            _ => return Ok(Key::Unknown),
        };
        let mut bytes = vec![first];
        while bytes.len() < length {
            bytes.push(next_byte(input)?.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        }
        let letter = std::str::from_utf8(&bytes).ok().and_then(|text| text.chars().next());
        Ok(letter.map_or(Key::Unknown, Key::Letter))
    }
}

fn next_byte(input: &mut impl Read) -> std::io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match input.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a key has led to.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Going,
    Done,
    Ended,
    Interrupted,
}

/// A line that is being edited.
struct Line<'a> {
    text: Vec<char>,
    /// Before which letter the next one goes.
    cursor: usize,
    history: &'a [String],
    /// Which line of the history is shown; its length means the new one.
    recalled: usize,
    /// The new line, while an older one is shown.
    unfinished: Vec<char>,
}

impl<'a> Line<'a> {
    fn new(history: &'a [String]) -> Self {
        let recalled = history.len();
        Line { text: Vec::new(), cursor: 0, history, recalled, unfinished: Vec::new() }
    }

    fn press(&mut self, key: Key) -> Progress {
        match key {
            Key::Enter => return Progress::Done,
            Key::Interrupt => return Progress::Interrupted,
            Key::EndOrDelete if self.text.is_empty() => return Progress::Ended,
            Key::Letter(letter) => {
                self.text.insert(self.cursor, letter);
                self.cursor += 1;
            }
            Key::EndOrDelete | Key::Delete => self.cut(self.cursor, self.cursor + 1),
            Key::Backspace => self.cut(self.cursor.saturating_sub(1), self.cursor),
            Key::CutToEnd => self.text.truncate(self.cursor),
            Key::CutToStart => self.cut(0, self.cursor),
            Key::CutWord => self.cut(self.word_start(), self.cursor),
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(self.text.len()),
            Key::WordLeft => self.cursor = self.word_start(),
            Key::WordRight => self.cursor = self.word_end(),
            Key::Start => self.cursor = 0,
            Key::End => self.cursor = self.text.len(),
            Key::Up => self.recall(self.recalled.saturating_sub(1)),
            Key::Down => self.recall((self.recalled + 1).min(self.history.len())),
            Key::Unknown => {}
        }
        Progress::Going
    }

    fn cut(&mut self, from: usize, to: usize) {
        self.text.drain(from..to.min(self.text.len()));
        self.cursor = from;
    }

    fn word_start(&self) -> usize {
        let before = &self.text[..self.cursor];
        let end = before.iter().rposition(|c| *c != ' ').map_or(0, |last| last + 1);
        before[..end].iter().rposition(|c| *c == ' ').map_or(0, |space| space + 1)
    }

    fn word_end(&self) -> usize {
        let spaces = self.text[self.cursor..].iter().take_while(|c| **c == ' ').count();
        let start = self.cursor + spaces;
        start + self.text[start..].iter().take_while(|c| **c != ' ').count()
    }

    fn recall(&mut self, which: usize) {
        if which == self.recalled {
            return;
        }
        if self.recalled == self.history.len() {
            self.unfinished = std::mem::take(&mut self.text);
        }
        self.recalled = which;
        self.text = match self.history.get(which) {
            Some(older) => older.chars().collect(),
            None => std::mem::take(&mut self.unfinished),
        };
        self.cursor = self.text.len();
    }

    /// What draws the line into `columns`, as far left as the cursor allows.
    fn drawn(&self, columns: usize) -> String {
        let width =
            |letters: &[char]| letters.iter().map(|c| c.width().unwrap_or(1)).sum::<usize>();
        let room = columns.saturating_sub(1).max(1);
        let mut from = 0;
        while width(&self.text[from..self.cursor]) > room {
            from += 1;
        }
        let mut to = self.text.len();
        while width(&self.text[from..to]) > room {
            to -= 1;
        }
        // A tab moves by a number of columns that depends on the terminal.
        let shown: String =
            self.text[from..to].iter().map(|c| if c.is_control() { ' ' } else { *c }).collect();
        let behind = shown.width() - width(&self.text[from..self.cursor]);
        let back = if behind > 0 { format!("\x1b[{behind}D") } else { String::new() };
        format!("{ERASE_LINE}{shown}{back}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Presses the keys that the bytes mean; returns the line and what came of it.
    fn typed(bytes: &[u8], history: &[&str]) -> (String, Progress) {
        let history: Vec<String> = history.iter().map(ToString::to_string).collect();
        let mut line = Line::new(&history);
        let mut input = bytes;
        loop {
            let progress = line.press(Key::read(&mut input).unwrap());
            if progress != Progress::Going || input.is_empty() {
                return (line.text.iter().collect(), progress);
            }
        }
    }

    fn line(bytes: &[u8]) -> String {
        typed(bytes, &[]).0
    }

    #[test]
    fn letters_go_where_the_cursor_is() {
        assert_eq!(line(b"put \x1b[D\x1b[D\x1b[Dx"), "pxut ");
        assert_eq!(line("bc\x1b[Ha\x1b[Fd\x01<\x05>".as_bytes()), "<abcd>");
        assert_eq!(line("grü\u{7f}u\x1b[3~世\x02\x04".as_bytes()), "gru");
        assert_eq!(line(b"a\x1b[Zb\x1bxc\x1b"), "abc", "unknown keys do nothing");
    }

    #[test]
    fn words_and_halves_are_cut() {
        assert_eq!(line(b"put key  value  \x17"), "put key  ");
        assert_eq!(line(b"put key\x1bb\x0b"), "put ");
        assert_eq!(line(b"put key\x1b[1;5D\x15"), "key");
        assert_eq!(line(b"put key\x01\x1bf!\x1b[1;5C?"), "put! key?");
    }

    #[test]
    fn older_lines_come_back() {
        let history = ["one", "two"];
        let recalled = |keys: &[u8]| typed(keys, &history).0;
        assert_eq!(recalled(b"\x1b[A"), "two");
        assert_eq!(recalled(b"\x1b[A\x1b[A\x10\x1b[A!"), "one!");
        assert_eq!(recalled(b"new\x1b[A\x1b[B\x1b[B"), "new", "the new line is not lost");
        assert_eq!(recalled(b"\x1b[B\x0e"), "");
    }

    #[test]
    fn lines_end_in_three_ways() {
        assert_eq!(typed(b"get\rmore", &[]), ("get".to_owned(), Progress::Done));
        assert_eq!(typed(b"get\x03", &[]), ("get".to_owned(), Progress::Interrupted));
        assert_eq!(typed(b"\x04", &[]), (String::new(), Progress::Ended));
        assert_eq!(typed(b"", &[]), (String::new(), Progress::Ended));
    }

    #[test]
    fn long_lines_are_drawn_around_the_cursor() {
        let history = [];
        let mut line = Line::new(&history);
        line.text = "0123456789".chars().collect();
        line.cursor = 10;
        assert_eq!(line.drawn(6), "\r\x1b[K56789");
        line.cursor = 1;
        assert_eq!(line.drawn(6), "\r\x1b[K01234\x1b[4D");
        line.text = "世界".chars().collect();
        assert_eq!(line.drawn(80), "\r\x1b[K世界\x1b[2D");
    }
}
