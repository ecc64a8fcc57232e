//! Log lines on stderr, as JSON in the layout of etcd's logger.

use std::time::{SystemTime, UNIX_EPOCH};

use retcd_command_line::go::{json, time};

pub(crate) fn unknown_environment(variable: &str) {
    line("warn", "unrecognized environment variable", &[("environment-variable", variable)]);
}

pub(crate) fn bad_environment(variable: &str, error: &str) {
    line(
        "warn",
        "ignoring environment variable",
        &[("environment-variable", variable), ("error", error)],
    );
}

pub(crate) fn shadowed_environment(variable: &str) {
    let message = "conflicting environment variable is shadowed by corresponding command-line flag \
                   (either unset environment variable or disable flag))";
    line("fatal", message, &[("environment-variable", variable)]);
}

/// No endpoint could be reached before the time ran out.
pub(crate) fn retry(last_attempt: &str) {
    eprintln!("{}", retry_line(last_attempt));
}

pub(crate) fn retry_line(last_attempt: &str) -> String {
    let error = format!(
        "rpc error: code = DeadlineExceeded desc = latest balancer error: last connection error: {last_attempt}"
    );
    text(
        "warn",
        "retrying of unary invoker failed",
        &[("logger", "etcd-client"), ("error", &error)],
    )
}

/// What a long command is doing.
pub(crate) fn info(message: &str, facts: &[(&str, &str)]) {
    line("info", message, facts);
}

fn line(level: &str, message: &str, facts: &[(&str, &str)]) {
    eprintln!("{}", text(level, message, facts));
}

fn text(level: &str, message: &str, facts: &[(&str, &str)]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    json::object(|object| {
        object.string("level", level);
        let time = time::date_and_time(now.as_secs());
        object.string("ts", &format!("{time}.{:03}Z", now.subsec_millis()));
        object.string("msg", message);
        for (name, value) in facts {
            object.string(name, value);
        }
    })
}
