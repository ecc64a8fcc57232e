//! How Go writes and reads values, where etcdctl's users can see it.

pub mod duration;
pub mod json;
pub mod number;
pub mod quote;
pub mod time;

/// The text of the operating system without Rust's number, and in lower case as Go has it.
pub fn in_go_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let mut letters = text.split(" (os error").next().unwrap_or_default().chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}
