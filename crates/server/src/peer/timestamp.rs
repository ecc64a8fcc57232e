//! Points in time as Go writes them in JSON: RFC 3339 with as many decimals as are needed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: i64 = 86_400;

/// Writes a time in UTC.
pub(crate) fn format(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let (year, month, day) = date(seconds / SECONDS_PER_DAY);
    let second = seconds % SECONDS_PER_DAY;
    let nanos = format!(".{:09}", since.subsec_nanos());
    let nanos = nanos.trim_end_matches('0').trim_end_matches('.');
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{nanos}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Reads a time, in whatever zone it stands.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.split('-').map(str::parse::<i64>);
    let mut next = || date.next()?.ok();
    let days = days(next()?, next()?, next()?);

    let (clock, offset) = match time.find(['Z', '+', '-']) {
        Some(at) => (&time[..at], offset_seconds(&time[at..])?),
        None => return None,
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.split(':').map(str::parse::<i64>);
    let mut next = || clock.next()?.ok();
    let second = next()? * 3600 + next()? * 60 + next()?;
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds = u64::try_from(days * SECONDS_PER_DAY + second - offset).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// `Z`, `+02:00` or `-07:00`.
fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    Some(if zone.starts_with('-') { -seconds } else { seconds })
}

/// Year, month and day of a day since 1970. Years begin in March here, so that the leap day is the last.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_BEFORE_1970;
    let (era, day) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// The inverse of [`date`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day = (153 * month + 2) / 5 + day - 1;
    era * DAYS_PER_ERA + 365 * year + year / 4 - year / 100 + day - DAYS_BEFORE_1970
}

/// Days of 400 years.
const DAYS_PER_ERA: i64 = 146_097;
/// From the first of March of the year 0 on.
const DAYS_BEFORE_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        let time = UNIX_EPOCH + Duration::new(1_709_210_096, 120_000_000);
        assert_eq!(format(time), "2024-02-29T12:34:56.12Z");
        assert_eq!(parse("2024-02-29T12:34:56.12Z"), Some(time));
        assert_eq!(parse("2024-02-29T14:34:56.12+02:00"), Some(time));
        assert_eq!(parse("2024-02-29T05:04:56.120-07:30"), Some(time));
        assert_eq!(format(UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn days_and_dates_agree() {
        for day in (0..200_000).step_by(7) {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in
            ["", "now", "2024-02-29", "2024-02-29T12:34:56", "2024-02-29T12:34Z", "1-1-1T0:0:0Z"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
