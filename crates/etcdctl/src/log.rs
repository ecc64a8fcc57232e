//! Log lines on stderr, as JSON in the layout of etcd's logger.

use std::time::{SystemTime, UNIX_EPOCH};

use retcd_command_line::go::json;

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
        object.string("ts", &timestamp(now.as_secs(), now.subsec_millis()));
        object.string("msg", message);
        for (name, value) in facts {
            object.string(name, value);
        }
    })
}

/// UTC as `2026-11-22T15:03:41.204Z`.
fn timestamp(seconds: u64, millis: u32) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date `days` after 1970-01-01. Counts in years that start in March, so that the leap day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days / 146_097; // 400 years
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_utc() {
        assert_eq!(timestamp(0, 7), "1970-01-01T00:00:00.007Z");
        assert_eq!(timestamp(951_782_399, 0), "2000-02-28T23:59:59.000Z");
        assert_eq!(timestamp(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(timestamp(1_795_359_850, 340), "2026-11-22T15:04:10.340Z");
    }
}
