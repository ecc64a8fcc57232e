//! Log lines on stderr, in the layout of etcd's console logger: time, level, message and fields, separated by tabs.

use std::time::{SystemTime, UNIX_EPOCH};

use retcd_command_line::go::{json, time};

pub(crate) fn info(message: &str, facts: &[(&str, &str)]) {
    line("info", message, facts);
}

pub(crate) fn warn(message: &str, facts: &[(&str, &str)]) {
    line("warn", message, facts);
}

pub(crate) fn error(message: &str, facts: &[(&str, &str)]) {
    line("error", message, facts);
}

fn line(level: &str, message: &str, facts: &[(&str, &str)]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let fields = json::object(|object| {
        for (name, value) in facts {
            object.string(name, value);
        }
    });
    let fields = if facts.is_empty() { String::new() } else { format!("\t{fields}") };
    eprintln!("{}Z\t{level}\t{message}{fields}", time::date_and_time(now.as_secs()));
}
