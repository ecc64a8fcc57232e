//! Numbers for people.

/// A size in SI units with two digits: `20 kB`, `2.1 GB`.
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let bytes = u64::try_from(bytes).unwrap_or(0);
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let (mut scale, mut unit) = (1_u64, 0);
    while bytes / scale >= 1000 && unit + 1 < UNITS.len() {
        scale *= 1000;
        unit += 1;
    }
    // In tenths, rounded half up.
    let tenths = (u128::from(bytes) * 10 + u128::from(scale) / 2) / u128::from(scale);
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        // Like a %.0f of the tenths: half to even.
        let whole = tenths / 10;
        let up = tenths % 10 > 5 || (tenths % 10 == 5 && whole % 2 == 1);
        format!("{} {}", whole + u128::from(up), UNITS[unit])
    }
}

/// How much of a file is not in use, in whole percent rounded up.
pub fn percent_not_in_use(size: i64, in_use: i64) -> String {
    let used = in_use.saturating_mul(100).checked_div(size).unwrap_or(100);
    format!("{}%", 100 - used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits() {
        let cases = [
            (0, "0 B"),
            (9, "9 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (16_384, "16 kB"),
            (20_480, "20 kB"),
            (24_576, "25 kB"),
            (2_105_344, "2.1 MB"),
            (2_147_483_648, "2.1 GB"),
            (9_960, "10 kB"),
            (10_500, "10 kB"),
            (11_500, "12 kB"),
            (-1, "0 B"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn percentages_do_not_divide_by_zero() {
        assert_eq!(percent_not_in_use(20_480, 16_384), "20%");
        assert_eq!(percent_not_in_use(3, 1), "67%");
        assert_eq!(percent_not_in_use(0, 0), "0%");
    }
}
