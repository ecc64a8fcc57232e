//! Numbers and truth values as Go's `strconv` reads them, with its error texts.

use crate::go::quote::quote;

/// Reads a 64-bit integer. Radix 0 means: as the prefix says (`0x`, `0o` or `0`, `0b`), with `_` between digits.
pub fn parse_int(text: &str, radix: u32) -> Result<i64, String> {
    let value = parse_digits(text, radix, &|negative, digits, radix| {
        let signed = if negative { format!("-{digits}") } else { digits.to_owned() };
        i64::from_str_radix(&signed, radix).ok()
    });
    value.map_err(|problem| {
        format!("strconv.ParseInt: parsing {}: {problem}", quote(text.as_bytes()))
    })
}

/// Reads an unsigned 64-bit integer, which Go does without any sign.
pub fn parse_uint(text: &str, radix: u32) -> Result<u64, String> {
    let value = if text.starts_with(['+', '-']) {
        Err("invalid syntax")
    } else {
        parse_digits(text, radix, &|_, digits, radix| u64::from_str_radix(digits, radix).ok())
    };
    value.map_err(|problem| {
        format!("strconv.ParseUint: parsing {}: {problem}", quote(text.as_bytes()))
    })
}

fn parse_digits<T>(
    text: &str,
    radix: u32,
    convert: &dyn Fn(bool, &str, u32) -> Option<T>,
) -> Result<T, &'static str> {
    const SYNTAX: &str = "invalid syntax";
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) =
        if radix == 0 { detect_radix(unsigned) } else { (radix, unsigned.to_owned()) };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(SYNTAX);
    }
    convert(negative, &digits, radix).ok_or("value out of range")
}

fn detect_radix(text: &str) -> (u32, String) {
    let lower = text.to_ascii_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)];
    let found = prefixed
        .iter()
        .find_map(|(prefix, radix)| lower.strip_prefix(prefix).map(|rest| (*radix, rest)));
    let (radix, digits) = match found {
        Some(found) => found,
        None if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        None => (10, lower.as_str()),
    };
    (radix, digits.replace('_', ""))
}

/// Reads a truth value.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text.as_bytes()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_gos_limits_and_errors() {
        assert_eq!(parse_int("694d71ddacfda227", 16), Ok(0x694d_71dd_acfd_a227));
        assert_eq!(parse_int("-9223372036854775808", 10), Ok(i64::MIN));
        assert_eq!(parse_int("+7", 10), Ok(7));
        assert_eq!(parse_int("0x10", 0), Ok(16));
        assert_eq!(parse_int("010", 0), Ok(8));
        assert_eq!(parse_int("1_000", 0), Ok(1000));
        let error = |text, radix| parse_int(text, radix).unwrap_err();
        assert_eq!(error("x", 10), r#"strconv.ParseInt: parsing "x": invalid syntax"#);
        assert_eq!(error("", 10), r#"strconv.ParseInt: parsing "": invalid syntax"#);
        assert_eq!(
            error("ffffffffffffffff", 16),
            r#"strconv.ParseInt: parsing "ffffffffffffffff": value out of range"#
        );
    }

    #[test]
    fn truth_has_few_spellings() {
        assert_eq!(parse_bool("T"), Ok(true));
        assert_eq!(parse_bool("0"), Ok(false));
        assert_eq!(
            parse_bool("yes").unwrap_err(),
            r#"strconv.ParseBool: parsing "yes": invalid syntax"#
        );
    }
}
