//! Asking for passwords, without showing them.
//!
//! On a terminal the line is read letter by letter while the terminal is raw: so nothing can end the program while the
//! terminal is deaf, and Ctrl-C is just a letter that means "give up".
//! From a pipe a password is a line like any other.

use std::io::{Read, Write};

use crate::terminal::{END, INTERRUPT, Raw};
use retcd_command_line::{Exit, Failure};

const CLEAR: u8 = 0x15; // Ctrl-U
const BACKSPACES: [u8; 2] = [0x08, 0x7f];

/// Shows `prompt` and reads a line. Empty at the end of the input.
pub(crate) fn ask(prompt: &str) -> Result<String, Failure> {
    let mut stdout = std::io::stdout();
    // Whether or not the prompt can be shown, the password is read.
    let _ = stdout.write_all(prompt.as_bytes()).and_then(|()| stdout.flush());
    let raw = Raw::begin();
    let line = read_line(&mut std::io::stdin().lock(), raw.is_some());
    drop(raw);
    let _ = stdout.write_all(b"\n").and_then(|()| stdout.flush());
    line
}

/// Asks twice for the password of a user.
pub(crate) fn ask_for_new(user: &str) -> Result<String, Failure> {
    let refused = |failure: Failure| {
        let words = |error: &str| format!("failed to ask password: {error}");
        failure.in_words(words).with_exit(Exit::BadArgs)
    };
    let password = ask(&format!("Password of {user}: ")).map_err(refused)?;
    if password.is_empty() {
        return Err(Failure::bad_args("empty password"));
    }
    let again = ask(&format!("Type password of {user} again for confirmation: "));
    if again.map_err(refused)? != password {
        return Err(Failure::bad_args("given passwords are different"));
    }
    Ok(password)
}

/// Reads a word from stdin, for scripts.
pub(crate) fn read_word() -> Result<String, Failure> {
    let line = read_line(&mut std::io::stdin().lock(), false)?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

fn read_line(input: &mut impl Read, is_edited: bool) -> Result<String, Failure> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        let read = input.read(&mut byte).map_err(|error| failed(error.to_string()))?;
        match byte[0] {
            _ if read == 0 => break,
            b'\n' => break,
            b'\r' | END if is_edited => break,
            INTERRUPT if is_edited => return Err(failed("interrupted")),
            CLEAR if is_edited => line.clear(),
            letter if is_edited && BACKSPACES.contains(&letter) => remove_letter(&mut line),
            letter => line.push(letter),
        }
    }
    if !is_edited && line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| failed("the password is not UTF-8"))
}

/// Removes the last letter, with all its bytes.
fn remove_letter(line: &mut Vec<u8>) {
    while let Some(byte) = line.pop() {
        let continues = byte & 0xc0 == 0x80;
        if !continues {
            return;
        }
    }
}

fn failed(why: impl Into<String>) -> Failure {
    Failure::new(Exit::Error, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_edited_on_a_terminal_only() {
        let read = |text: &str, is_edited| read_line(&mut text.as_bytes(), is_edited);
        assert_eq!(read("secret\nmore", true), Ok("secret".to_owned()));
        assert_eq!(read("sex\u{7f}cré\u{7f}e\u{8}et\n", true), Ok("secret".to_owned()));
        assert_eq!(read("wrong\u{15}right\r", true), Ok("right".to_owned()));
        assert_eq!(read("half\u{4}", true), Ok("half".to_owned()));
        assert_eq!(read("x\u{3}\n", true), Err(failed("interrupted")));
        assert_eq!(read("a\u{7f}b\r\n", false), Ok("a\u{7f}b".to_owned()));
        assert_eq!(read("", false), Ok(String::new()));
    }
}
