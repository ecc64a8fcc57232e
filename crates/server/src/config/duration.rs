//! Durations in Go's notation, such as `1h30m` or `2.5s`.

use std::fmt;
use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration; none when the text is not one, is negative, or exceeds Go's 292 years.
///
/// ```
/// use std::time::Duration;
/// use retcd_server::config::duration;
/// assert_eq!(duration::parse("1m0.5s"), Some(Duration::from_millis(60_500)));
/// ```
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos = 0_u64;
    loop {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        nanos = nanos.checked_add(scaled(number, unit)?)?;
        if after.is_empty() {
            break;
        }
        rest = after;
    }
    i64::try_from(nanos).is_ok().then(|| Duration::from_nanos(nanos))
}

fn scaled(number: &str, unit: &str) -> Option<u64> {
    let (_, unit) = *UNITS.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some(nanos)
}

/// Prints as Go does: `100ms`, `5s`, `2h0m0s`.
pub fn display(duration: Duration) -> impl fmt::Display {
    GoDuration(duration)
}

struct GoDuration(Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}\u{b5}s", Decimal(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", Decimal(nanos, 1_000_000)),
            _ => {
                let minutes = nanos / 60_000_000_000;
                let seconds = Decimal(nanos % 60_000_000_000, 1_000_000_000);
                match (minutes / 60, minutes % 60) {
                    (0, 0) => write!(f, "{seconds}s"),
                    (0, minutes) => write!(f, "{minutes}m{seconds}s"),
                    (hours, minutes) => write!(f, "{hours}h{minutes}m{seconds}s"),
                }
            }
        }
    }
}

/// A number of nanoseconds in a bigger unit, without trailing zeros.
struct Decimal(u128, u128);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(nanos, unit) = *self;
        write!(f, "{}", nanos / unit)?;
        let mut remainder = nanos % unit;
        if remainder > 0 {
            f.write_str(".")?;
        }
        while remainder > 0 {
            remainder *= 10;
            write!(f, "{}", remainder / unit)?;
            remainder %= unit;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_prints_what_it_reads() {
        for text in
            ["0s", "1ns", "1.5\u{b5}s", "100ms", "5s", "1m0s", "2h0m0s", "1h2m3.004s", "72h0m0s"]
        {
            assert_eq!(display(parse(text).unwrap()).to_string(), text);
        }
    }

    #[test]
    fn spellings_of_one_duration() {
        for text in ["1500ms", "1.5s", "+1s500ms", "1.500s", "0.025m"] {
            assert_eq!(parse(text), Some(Duration::from_millis(1500)), "{text}");
        }
        assert_eq!(parse("0"), Some(Duration::ZERO));
        assert_eq!(parse("1us"), parse("1\u{3bc}s"));
    }

    #[test]
    fn what_is_not_a_duration() {
        for text in ["", "5", "s", ".s", "-1s", "1x", "1.2.3s", "1 s", "s1", "9999999h", "1s "] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
